"""What a JPEG 2000 file says of its colours and tiles.

Pillow decodes tile by tile, for which OpenJPEG leaves out what the boxes around the codestream say
of the channels, and leaves black what no tile covers.
"""

import struct
from collections.abc import Iterator

_CODESTREAM = b'\xff\x4f\xff\x51'
_TILE_PART = b'\xff\x90'
# sRGB, grey, sYCC, CMYK, and the wide ones that are looked at as other profiles are: as sRGB.
_READ_COLOURS = (16, 17, 18, 12, 20, 21)
_COLOUR, _ALPHA = 0, 1
_MIN_BITS, _MAX_BITS = 8, 16
# A 50-megapixel picture in tiles of 32 x 32 has 48,829.
_MAX_TILE_PARTS = 1 << 18


def unread_coding(data: bytes) -> str | None:
    """Names what of a JPEG 2000 file Pillow would not read or, worse, take for something else.

    Raises:
      struct.error, IndexError: a header that ends early.
    """
    stream = _stream(data)
    if stream is None:
        return None
    (components,) = struct.unpack_from('>H', data, stream + 40)
    for i in range(components):
        bits, across, down = data[stream + 42 + 3 * i : stream + 45 + 3 * i]
        if (across, down) != (1, 1):
            return 'a JPEG 2000 of subsampled colours'
        if bits & 0x80:
            return 'a JPEG 2000 of signed samples'
        if not _MIN_BITS <= bits + 1 <= _MAX_BITS:
            return f'a JPEG 2000 of {bits + 1}-bit samples'
    for kind, start, end in _header_boxes(data, stream):
        body = data[start:end]
        if kind == b'colr' and body[0] == 1:
            (colours,) = struct.unpack_from('>I', body, 3)
            if colours not in _READ_COLOURS:
                return f'a JPEG 2000 of colour space {colours}'
        elif kind == b'pclr':
            components = body[2]
            if components not in (3, 4) or set(body[3 : 3 + components]) != {7}:
                return 'a JPEG 2000 of an unusual palette'
        elif kind == b'cmap':
            mapped = [(0, 1, i) for i in range(len(body) // 4)]
            if list(struct.iter_unpack('>HBB', body)) != mapped:
                return 'a JPEG 2000 of a mapped palette'
        elif kind == b'cdef':
            entries = sorted(struct.iter_unpack('>HHH', body[2:]))
            plain = [(i, _COLOUR, i + 1) for i in range(components)]
            if entries not in (plain, [*plain[:-1], (components - 1, _ALPHA, 0)]):
                return 'a JPEG 2000 of channels in another order'
    return None


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
    at = data.find(_TILE_PART, stream)
    for _ in range(_MAX_TILE_PARTS):
        if at < 0 or data[at : at + 2] != _TILE_PART or at + 12 > len(data):
            missing = tiles - len(present)
            return f'{missing} of {tiles} tiles are not there' if missing > 0 else None
        tile, size = struct.unpack_from('>HI', data, at + 4)
        if size and at + size > len(data):
            return f'tile {tile} ends early'
        present.add(tile)
        at = at + size if size else len(data)
    raise ValueError('too many parts of tiles')


def _stream(data: bytes) -> int | None:
    """Where the codestream begins."""
    if data.startswith(_CODESTREAM):
        return 0
    return next((start for kind, start, _ in _boxes(data, 0, len(data)) if kind == b'jp2c'), None)


def _header_boxes(data: bytes, end: int) -> Iterator[tuple[bytes, int, int]]:
    for kind, start, stop in _boxes(data, 0, end):
        if kind == b'jp2h':
            yield from _boxes(data, start, stop)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the contents of each box."""
    while at + 8 <= end:
        size, kind = struct.unpack_from('>I4s', data, at)
        start = at + 8
        if size == 1 and start + 8 <= end:
            (size,) = struct.unpack_from('>Q', data, start)
            start += 8
        at = end if size == 0 else min(at + size, end)
        if at < start:
            return
        yield kind, start, at
