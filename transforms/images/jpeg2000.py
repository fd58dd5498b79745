"""What a JPEG 2000 file says of its colours and tiles, and what decoding it takes.

Pillow decodes tile by tile, for which OpenJPEG leaves out what the boxes around the codestream say
of the channels, and leaves black what no tile covers.  It makes records of all precincts and code
blocks of a tile before it looks at their data, and of packets that are not there, too.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transforms.images.isobmff import boxes

_CODESTREAM = b'\xff\x4f\xff\x51'
_TILE_PART = b'\xff\x90'
# sRGB, grey, sYCC, CMYK, and the wide ones that are looked at as other profiles are: as sRGB.
_READ_COLOURS = (16, 17, 18, 12, 20, 21)
_COLOUR, _ALPHA = 0, 1
_MIN_BITS, _MAX_BITS = 8, 16
_MAX_COMPONENTS = 4
# A 50-megapixel picture in tiles of 32 x 32 has 48,829.
_MAX_TILE_PARTS = 1 << 18

_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
# Markers that OpenJPEG knows in a header: behind any other it looks for the next one of these.
_KNOWN_MARKERS = frozenset((_COD, _COC, 0xFF50, 0xFF51, *range(0xFF55, 0xFF65), 0xFF74, 0xFF75))
_KNOWN_MARKERS |= {0xFF77, 0xFF78}
_DEFAULT_PRECINCT = 0xFF  # of 32,768 x 32,768
_ENDS_EACH_PASS = 0b101  # of the styles of code blocks: a length for each pass, or many of them
_MAX_TILES, _MAX_LEVELS = 65_535, 32  # by the standard
# Tiles may bring a coding of their own; each is looked at for the whole picture.
_MAX_CODINGS = 64

# Measured with OpenJPEG 2.5.4.  A tile has them all the time, the others while it is decoded.
_TILE_BYTES, _TILE_COMPONENT_BYTES = 8200, 1200
_PRECINCT_BYTES, _BLOCK_BYTES = 170, 430
_CHUNK_BYTES, _PASS_BYTES = 32, 64


def unread_coding(data: bytes) -> str | None:
    """Names what of a JPEG 2000 file Pillow would not read or, worse, take for something else.

    Raises:
      struct.error, IndexError: a header that ends early.
    """
    stream = _stream(data)
    if stream is None:
        return None
    (components,) = struct.unpack_from('>H', data, stream + 40)
    if components > _MAX_COMPONENTS:
        return f'a JPEG 2000 with {components} colours'
    for i in range(components):
        bits, across, down = data[stream + 42 + 3 * i : stream + 45 + 3 * i]
        if (across, down) != (1, 1):
            return 'a JPEG 2000 with subsampled colours'
        if bits & 0x80:
            return 'a JPEG 2000 with signed samples'
        if not _MIN_BITS <= bits + 1 <= _MAX_BITS:
            return f'a JPEG 2000 with {bits + 1}-bit samples'
    for kind, start, end in _header_boxes(data, stream):
        body = data[start:end]
        if kind == b'colr' and body[0] == 1:
            (colours,) = struct.unpack_from('>I', body, 3)
            if colours not in _READ_COLOURS:
                return f'a JPEG 2000 with colour space {colours}'
        elif kind == b'pclr':
            components = body[2]
            if components not in (3, 4) or set(body[3 : 3 + components]) != {7}:
                return 'a JPEG 2000 with an unusual palette'
        elif kind == b'cmap':
            mapped = [(0, 1, i) for i in range(len(body) // 4)]
            if list(struct.iter_unpack('>HBB', body)) != mapped:
                return 'a JPEG 2000 with a mapped palette'
        elif kind == b'cdef':
            entries = sorted(struct.iter_unpack('>HHH', body[2:]))
            plain = [(i, _COLOUR, i + 1) for i in range(components)]
            if entries not in (plain, [*plain[:-1], (components - 1, _ALPHA, 0)]):
                return 'a JPEG 2000 with channels in another order'
    return None


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) in px by the codestream; boxes around it may say otherwise.

    Raises:
      ValueError: there is no codestream, or no pixel.
      struct.error: a header that ends early.
    """
    stream = _stream(data)
    if stream is None:
        raise ValueError('no codestream')
    right, bottom, left, top = struct.unpack_from('>4I', data, stream + 8)
    if right <= left or bottom <= top:
        raise ValueError('no pixel')
    return right - left, bottom - top


class Demand(NamedTuple):
    """What a codestream asks of its decoder.

    Attributes:
      sample_bytes: memory for the samples of the largest tile.
      record_bytes: memory for records of tiles, precincts and code blocks.
      packets: that the decoder looks for, one by one, whether they are there or not.
      blocks: code blocks of which it makes records, in all tiles.
    """

    sample_bytes: int
    record_bytes: int
    packets: int
    blocks: int


def demand(data: bytes) -> Demand:
    """Reads the headers of picture and tiles.

    Raises:
      ValueError: no codestream, headers that cannot be followed, or more codings than any honest
        file has.
      struct.error, IndexError: a header that ends early.
    """
    stream = _stream(data)
    if stream is None:
        raise ValueError('no codestream')
    right, bottom, left, top, *tile = struct.unpack_from('>8I', data, stream + 8)
    (components,) = struct.unpack_from('>H', data, stream + 40)
    across = _spans(left, right, tile[2], tile[0])
    down = _spans(top, bottom, tile[3], tile[1])
    tiles = across.shape[1] * down.shape[1]
    if tiles > _MAX_TILES:
        raise ValueError('too many tiles')
    found = [_tile_records(across, down, each, len(data)) for each in _codings(data, stream)]
    records, packets, blocks = (max(each) for each in zip(*found, strict=True))
    # As 32-bit numbers, and packed; three colours as four.
    stored = [(bits & 0x7F) // 8 + 1 for bits in data[stream + 42 :: 3][:components]]
    per_px = 4 * components + max(sum(stored), 4 if components == 3 else 0)
    tile_px = int(np.diff(across, axis=0).max()) * int(np.diff(down, axis=0).max())
    record_bytes = tiles * (_TILE_BYTES + components * _TILE_COMPONENT_BYTES) + records
    return Demand(tile_px * per_px, record_bytes, packets, tiles * blocks)


class _Coding(NamedTuple):
    """Of a component: layers, size of its code blocks and, from the smallest on, of precincts."""

    layers: int
    block: tuple[int, int]  # binary logarithms, as all sizes here
    is_ended_often: bool
    precincts: tuple[tuple[int, int], ...]


def _spans(start: int, end: int, origin: int, step: int) -> np.ndarray:
    """(2, tiles) int64: where the tiles of a row or column of them begin and end."""
    if not (step and start < end and origin <= start < origin + step):
        raise ValueError('a picture outside its tiles')
    count = -(-(end - origin) // step)
    if count > _MAX_TILES:
        raise ValueError('too many tiles')
    edges = origin + step * np.arange(count + 1, dtype=np.int64)
    return np.stack([np.maximum(edges[:-1], start), np.minimum(edges[1:], end)])


def _tile_records(
    across: np.ndarray, down: np.ndarray, coding: tuple[_Coding, ...], data_bytes: int
) -> tuple[int, int, int]:
    """At most: (bytes for a tile, packets in all tiles, code blocks in a tile)."""
    record_bytes = packets = blocks = most_precincts = 0
    for layers, block, is_ended_often, precincts in coding:
        for i, precinct in enumerate(precincts):
            level = len(precincts) - 1 - i
            # Precincts are of a resolution, code blocks of its bands: one, or three of half a side.
            wide, high = (
                _cells(edges, level, 0, size)
                for edges, size in zip((across, down), precinct, strict=True)
            )
            packets += layers * int(wide.sum()) * int(high.sum())
            most = int(wide.max()) * int(high.max())
            most_precincts = max(most_precincts, most)
            is_band = i > 0
            record_bytes += most * (3 if is_band else 1) * _PRECINCT_BYTES
            sides = [
                [
                    int(_cells(edges, level + is_band, high_pass, min(most, size - is_band)).max())
                    for high_pass in (0, 1)
                ]
                for edges, most, size in zip((across, down), block, precinct, strict=True)
            ]
            (low_x, high_x), (low_y, high_y) = sides
            in_bands = high_x * low_y + low_x * high_y + high_x * high_y
            blocks += in_bands if is_band else low_x * low_y
        if is_ended_often:
            record_bytes += _PASS_BYTES * data_bytes
    layers, resolutions = coding[0].layers, max(len(each.precincts) for each in coding)
    record_bytes += blocks * _BLOCK_BYTES + _CHUNK_BYTES * min(blocks * layers, data_bytes)
    # A note for each packet that there might be, were all resolutions as fine as the finest.
    record_bytes += 2 * layers * resolutions * len(coding) * most_precincts
    return record_bytes, packets, blocks


def _cells(edges: np.ndarray, level: int, high_pass: int, size: int) -> np.ndarray:
    """(tiles,) cells of 2**size pixels that a tile touches, on this level of its transform."""
    if size < 0:
        raise ValueError('precincts without a size')
    shift = high_pass << level - 1 if level else 0
    start, end = -((shift - edges) >> level)
    return np.where(end > start, (end + (1 << size) - 1 >> size) - (start >> size), 0)


def _codings(data: bytes, stream: int) -> set[tuple[_Coding, ...]]:
    """Of the picture, and those of its tiles."""
    (components,) = struct.unpack_from('>H', data, stream + 40)
    at, picture = _header_coding(data, stream + 2, [None] * components)
    found = {_whole(picture)}
    for _, start, _ in _tile_parts(data, at):
        _, coding = _header_coding(data, start + 12, picture)
        found.add(_whole(coding))
        if len(found) > _MAX_CODINGS:
            raise ValueError('too many tile codings')
    return found


def _whole(coding: list[_Coding | None]) -> tuple[_Coding, ...]:
    whole = tuple(each for each in coding if each)
    if len(whole) < len(coding) or not whole:
        raise ValueError('no coding')
    return whole


def _header_coding(
    data: bytes, at: int, coding: list[_Coding | None]
) -> tuple[int, list[_Coding | None]]:
    """Where a header ends, and what it says of each component; else what was said before.

    As OpenJPEG does it takes what is said last, though one component should go before all.
    """
    coding = list(coding)
    while True:
        marker, size = struct.unpack_from('>HH', data, at)
        if marker in (_SOT, _SOD):
            return at, coding
        body = data[at + 4 : at + 2 + size]
        if marker < 0xFF00 or size < 2 or at + 2 + size > len(data):
            raise ValueError('no marker')
        if marker == _COD:
            (layers,) = struct.unpack_from('>H', body, 2)
            coding = [_coding(layers, body[0], body[5:])] * len(coding)
        elif marker == _COC and body[0] < len(coding):
            last = coding[body[0]]
            coding[body[0]] = _coding(last.layers if last else 1, body[1], body[2:])
        elif marker not in _KNOWN_MARKERS and (b'\xff\x52' in body or b'\xff\x53' in body):
            raise ValueError('a coding in an unknown segment')
        at += 2 + size


def _coding(layers: int, style: int, body: bytes) -> _Coding:
    levels, wide, high, block_style = body[:4]
    if levels > _MAX_LEVELS:
        raise ValueError('too many resolutions')
    sizes = body[5 : 6 + levels] if style & 1 else bytes((_DEFAULT_PRECINCT,)) * (levels + 1)
    if len(sizes) <= levels:
        raise IndexError('precinct sizes end early')
    precincts = tuple((size & 15, size >> 4) for size in sizes)
    # Two more than is written.
    block = ((wide & 15) + 2, (high & 15) + 2)
    return _Coding(layers, block, bool(block_style & _ENDS_EACH_PASS), precincts)


def missing_tiles(data: bytes) -> str | None:
    """What is missing of the tiles; None where all of them are there.

    Raises:
      ValueError: more parts of tiles than any honest file has.
      struct.error: a header that ends early.
    """
    stream = _stream(data)
    if stream is None:
        return None
    right, bottom, _, _, width, height, left, top = struct.unpack_from('>8I', data, stream + 8)
    if not (width and height and right > left and bottom > top):
        return None
    tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    present: set[int] = set()
    for tile, _, end in _tile_parts(data, data.find(_TILE_PART, stream)):
        if end > len(data):
            return f'tile {tile} ends early'
        present.add(tile)
    missing = tiles - len(present)
    return f'{missing} of {tiles} tiles are missing' if missing > 0 else None


def _tile_parts(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(tile, start, end) of each part of a tile; the end of the file where none is told."""
    for _ in range(_MAX_TILE_PARTS):
        if at < 0 or data[at : at + 2] != _TILE_PART or at + 12 > len(data):
            return
        tile, size = struct.unpack_from('>HI', data, at + 4)
        end = at + size if size else len(data)
        yield tile, at, end
        at = end
    raise ValueError('too many tile parts')


def _stream(data: bytes) -> int | None:
    """Where the codestream begins."""
    if data.startswith(_CODESTREAM):
        return 0
    return next((start for kind, start, _ in boxes(data, 0, len(data)) if kind == b'jp2c'), None)


def _header_boxes(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    for kind, start, stop in boxes(data, 0, end):
        if kind == b'jp2h':
            yield from boxes(data, start, stop)
