"""TIFF directories, and what they say of the samples.

libtiff takes whatever a strip or tile holds for all of it, and Pillow takes one coding for another;
so the header decides what is read at all, and whether every strip and tile is there.
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_ORIENTATION_TAG = 0x0112
_FILL_ORDER, _GROUP_3_OPTIONS, _GROUP_4_OPTIONS = 266, 292, 293
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR = 277, 278, 284, 317
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _SUBSAMPLING = 338, 339, 347, 530
_JPEG_START, _JPEG_BYTES = 513, 514
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_SUBDIRECTORY_TAGS = (34665, 34853, 40965)  # EXIF, GPS, interoperability
# Bytes a value, by TIFF type.
_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
_TIFF_BYTE_TYPES = (1, 2, 6, 7)
# A 50-megapixel picture in tiles of 16 x 16 has 195,313; Pillow makes an object of each.
_MAX_TIFF_VALUES = 1 << 18

# Samples that are colours, by photometric interpretation.
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_YCBCR = 6
_UNREAD_PHOTOMETRICS = {
    4: 'a transparency mask',
    8: 'CIELAB samples',
    9: 'ICCLAB samples',
    10: 'ITULAB samples',
    32803: 'raw sensor samples',
    32844: 'LogL samples',
    32845: 'LogLuv samples',
    34892: 'raw sensor samples',
}
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
# Fax, LZW, JPEG, deflate, PackBits, LZMA and Zstandard; others are not in Pillow's libtiff.
_READ_COMPRESSIONS = frozenset((_RAW, 2, 3, 4, 5, _OLD_JPEG, _JPEG, 8, 32773, 32946, 34925, 50000))
_SAMPLE_FORMATS = {2: 'signed', 3: 'floating-point'}
_ALPHAS = (1, 2)
# More of them is no picture, and a sample of more bits no number.
_MAX_SAMPLES, _MAX_BITS = 64, 64
# Codes of runs of white and of black pixels.
_WHITE_RUNS = ('00110101', '000111', '0111', '1000', '1011')
_BLACK_RUNS = ('0000110111', '010', '11', '10')
_HUFFMAN, _GROUP_3, _GROUP_4 = 2, 3, 4
_END_OF_LINE, _ONE_DIMENSIONAL, _HORIZONTAL = '000000000001', '1', '001'
_MOST_BEHIND_BYTES = 96
_REVERSED_BITS = bytes(int(f'{byte:08b}'[::-1], 2) for byte in range(256))


def unread_coding(data: bytes) -> str | None:
    """Names the coding of a TIFF that Pillow would not read or, worse, take for another one.

    Of what is named None here Pillow refuses the rest when it opens the file.
    """
    directory = _read_directory(data, 0)
    if directory is None:
        return None
    if directory.byte_order == '>' and directory.is_big:
        return 'a big-endian BigTIFF'
    compression = directory.value(_COMPRESSION, _RAW)
    if compression not in _READ_COMPRESSIONS:
        return f'a TIFF with compression {compression}'
    photometric = directory.value(_PHOTOMETRIC, 0)
    if photometric not in _COLOURS:
        samples = _UNREAD_PHOTOMETRICS.get(photometric, f'photometric kind {photometric}')
        return f'a TIFF with {samples}'
    for sample_format in directory.values(_SAMPLE_FORMAT):
        if sample_format != 1:
            return f'a TIFF with {_SAMPLE_FORMATS.get(int(sample_format), "unusual")} samples'
    if max(directory.values(_BITS), default=1) > 16:
        return 'a TIFF with samples of more than 16 bits'
    extra = directory.values(_EXTRA_SAMPLES)
    if directory.value(_PLANAR, 1) == 2 and (
        (_COLOURS[photometric] == 1 and directory.value(_SAMPLES, 1) > 1)
        or (len(extra) > 1 and extra[0] in _ALPHAS)
    ):
        return 'a TIFF with planes besides its colours'
    if photometric == _YCBCR and directory.value(_PLANAR, 1) == 2 and compression != _JPEG:
        return 'a TIFF with YCbCr planes'
    start = directory.value(_JPEG_START, 0)
    if compression == _OLD_JPEG and not (
        start and all(offset >= start for offset, _ in directory.segments)
    ):
        return 'a TIFF with an old-style JPEG in pieces'
    is_subsampled = photometric == _YCBCR and _subsampling(directory) != (1, 1)
    if is_subsampled and directory.value(_PREDICTOR, 1) != 1:
        return 'a TIFF with a predictor over subsampled colours'
    return None


def described_coding(data: bytes) -> str | None:
    """Tells the coding of a TIFF that Pillow refuses; None where no sound file would have it."""
    directory = _read_directory(data, 0)
    if directory is None or not directory.is_whole or not _segments(directory):
        return None
    bits = directory.values(_BITS).tolist() or [1]
    samples = directory.value(_SAMPLES, 1)
    is_sound = (
        directory.value(_WIDTH, 0) > 0
        and directory.value(_LENGTH, 0) > 0
        and 1 <= samples <= _MAX_SAMPLES
        and len(bits) in (1, samples)
        and all(1 <= each <= _MAX_BITS for each in bits)
    )
    if not is_sound:
        return None
    photometric = directory.value(_PHOTOMETRIC, 0)
    each = f'{bits[0]}' if len(set(bits)) == 1 else ' + '.join(map(str, bits))
    return f'a TIFF with {samples} samples of {each} bits, photometric kind {photometric},'


def missing_segments(data: bytes) -> str | None:
    """What is missing of the strips or tiles of a TIFF; None where all of them are there.

    Of what is compressed libtiff notices that it ends early, with the exceptions that `jpegs`,
    `faxes` and `colours_as_grey` are for.
    """
    directory = _read_directory(data, 0)
    segments = _segments(directory) if directory else []
    if not directory or not segments:
        return None
    kind = 'tiles' if directory.is_tiled else 'strips'
    places = directory.segments
    if 0 < len(places) < len(segments):
        return f'only {len(places)} of {len(segments)} {kind} are there'
    if places and directory.value(_COMPRESSION, _RAW) == _RAW:
        needed = [_raw_bytes(directory, *segment) for segment in segments]
        if len(segments) == 1 and places[0][0] + needed[0] <= len(data):
            return None  # libtiff mends the size of an only strip
    else:
        needed = [1] * len(segments)
    short = sum(size < least for (_, size), least in zip(places, needed, strict=False))
    return f'{short} of {len(segments)} {kind} end early' if short else None


def jpegs(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each JPEG that a TIFF consists of, and the (width, height) in px that it must have at least.

    libtiff shows what lay in memory before where one is smaller, and grey where its data end.
    """
    directory = _read_directory(data, 0)
    compression = directory.value(_COMPRESSION, _RAW) if directory else _RAW
    if directory and compression == _JPEG:
        tables = directory.bytes_of(_JPEG_TABLES).removesuffix(b'\xff\xd9')
        sizes = _segments(directory)
        for (width, height), (offset, size) in zip(sizes, directory.segments, strict=False):
            jpeg = data[offset : offset + size]
            yield width, height, tables + jpeg[2:] if tables else jpeg
    elif directory and compression == _OLD_JPEG:
        start = directory.value(_JPEG_START, 0)
        end = start + directory.value(_JPEG_BYTES, len(data))
        yield directory.value(_WIDTH, 0), directory.value(_LENGTH, 0), data[start:end]


class Fax(NamedTuple):
    """The strips or tiles of a fax, each behind one that is all white or all black.

    Attributes:
      data: a TIFF of one column.
      rows: of it that are of the fax, (first, end) for each strip or tile.
    """

    data: bytes
    rows: list[tuple[int, int]]


def faxes(data: bytes) -> Iterator[Fax]:
    """A fax in two forms; none for what is no fax.

    Those rows are the same in both unless some are missing: libtiff takes what lies behind data
    that end early, and leaves rows that still lack data, or stand behind a mark of the end, as
    memory was before, without a word.  That is the strip before: all are read into one buffer.
    """
    directory = _read_directory(data, 0)
    compression = directory.value(_COMPRESSION, _RAW) if directory else _RAW
    sizes = _segments(directory) if directory else []
    if not directory or compression not in (_HUFFMAN, _GROUP_3, _GROUP_4) or not sizes:
        return
    width, rows = sizes[0]
    places = directory.segments[: len(sizes)]
    for is_black in (False, True):
        filling = _fax_rows(directory, width, rows, is_black)
        file = bytearray(b'II*\0' + bytes(4) + filling)
        offsets, counts, ours = [], [], []
        for number, ((offset, size), (_, height)) in enumerate(zip(places, sizes, strict=False)):
            offsets += [8, len(file)]
            file += data[offset : offset + size] + filling[:_MOST_BEHIND_BYTES]
            counts += [len(filling), len(file) - offsets[-1]]
            first = (2 * number + 1) * rows
            ours.append((first, first + height))
        values = {
            _WIDTH: [width],
            _LENGTH: [ours[-1][1]],
            _BITS: [1],
            _COMPRESSION: [compression],
            _PHOTOMETRIC: [1],
            _FILL_ORDER: [directory.value(_FILL_ORDER, 1)],
            _STRIP_OFFSETS: offsets,
            _SAMPLES: [1],
            _ROWS_PER_STRIP: [rows],
            _STRIP_BYTES: counts,
            _GROUP_3_OPTIONS: [directory.value(_GROUP_3_OPTIONS, 0)],
            _GROUP_4_OPTIONS: [directory.value(_GROUP_4_OPTIONS, 0)],
        }
        yield Fax(_with_directory(file, values), ours)


def colours_as_grey(data: bytes) -> bytes | None:
    """The bytes of a compressed YCbCr picture told to be grey ones; None for any other picture.

    libtiff converts YCbCr itself and overlooks that data end early; with grey ones it does not.
    """
    directory = _read_directory(data, 0)
    if (
        not directory
        or directory.value(_PHOTOMETRIC, 0) != _YCBCR
        or directory.value(_COMPRESSION, _RAW) in (_RAW, _OLD_JPEG, _JPEG)
    ):
        return None
    across, down = _subsampling(directory)
    sizes = [
        (-(-width // across) * (across * down + 2), -(-height // down))
        for width, height in _segments(directory)
    ]
    if not sizes:
        return None
    width, rows = sizes[0]
    # One column, whatever the number of tiles.
    return _with_values(
        directory,
        {
            _WIDTH: [width],
            _LENGTH: [sum(height for _, height in sizes)],
            _BITS: [8],
            _SAMPLES: [1],
            _SAMPLE_FORMAT: [1],
            _PHOTOMETRIC: [1],
            _ROWS_PER_STRIP: [rows],
            _TILE_WIDTH: [width],
            _TILE_LENGTH: [rows],
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Directory:
    """The first directory of a TIFF: a structured array of its entries and where they lie."""

    data: bytes
    base: int
    offset: int
    byte_order: str
    entries: np.ndarray
    is_whole: bool

    @property
    def is_big(self) -> bool:
        return bool(self.entries.dtype['value'].itemsize == 8)

    @property
    def is_tiled(self) -> bool:
        return bool(np.isin(self.entries['tag'], (_TILE_WIDTH, _TILE_OFFSETS)).any())

    @property
    def segments(self) -> list[tuple[int, int]]:
        """(offset, bytes) in the file of each strip or tile; up to the end if no size is told."""
        tags = (_TILE_OFFSETS, _TILE_BYTES) if self.is_tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
        offsets, sizes = (self.values(tag).tolist() for tag in tags)
        if not sizes:
            sizes = [max(len(self.data) - self.base - offset, 0) for offset in offsets]
        return list(zip(offsets, sizes, strict=False))

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each entry's values; float, so that hostile counts do not wrap around."""
        kinds = np.minimum(self.entries['kind'], len(_TYPE_BYTES) - 1)
        known = self.entries['kind'] < len(_TYPE_BYTES)
        sizes: np.ndarray = self.entries['count'].astype(np.float64) * _TYPE_BYTES[kinds] * known
        return sizes

    @property
    def is_external(self) -> np.ndarray:
        return self.sizes > self.entries.dtype['value'].itemsize

    @property
    def ends(self) -> np.ndarray:
        """Where each entry's values end in the file; 0 for those inside the entry itself."""
        return np.where(self.is_external, self.base + self.entries['value'] + self.sizes, 0.0)

    def value(self, tag: int, default: int) -> int:
        """The first integer of a tag."""
        values = self.values(tag)
        return int(values[0]) if len(values) else default

    def bytes_of(self, tag: int) -> bytes:
        """The bytes of a tag that is of no other type; none where it is absent or outside."""
        (found,) = np.nonzero(self.entries['tag'] == tag)
        if not found.size or not self.is_external[found[0]]:
            return b''
        start = self.base + int(self.entries['value'][found[0]])
        return self.data[start : int(self.ends[found[0]])]

    def values(self, tag: int) -> np.ndarray:
        """The integers of a tag; none where it is absent, outside or of another type."""
        (found,) = np.nonzero(self.entries['tag'] == tag)
        nothing = np.zeros(0, np.uint64)
        if not found.size:
            return nothing
        i = int(found[0])
        kind, count = int(self.entries['kind'][i]), int(self.entries['count'][i])
        widths = {1: 1, 3: 2, 4: 4, 16: 8}
        if kind not in widths or self.ends[i] > len(self.data):
            return nothing
        if self.is_external[i]:
            at = self.base + int(self.entries['value'][i])
        else:
            at = self.offset + i * self.entries.dtype.itemsize
            at += self.entries.dtype.fields['value'][1]  # type: ignore[index]
        return np.frombuffer(self.data, f'{self.byte_order}u{widths[kind]}', count, at)


def _fax_rows(directory: _Directory, width: int, rows: int, is_black: bool) -> bytes:
    """So many rows of one colour; for group 4, some more."""
    compression = directory.value(_COMPRESSION, _RAW)
    runs, others = (_BLACK_RUNS, _WHITE_RUNS) if is_black else (_WHITE_RUNS, _BLACK_RUNS)
    longest = len(runs) - 1
    lengths = [longest] * (width // longest) + [width % longest] * (width % longest > 0)
    pairs = ((others[0], runs[n]) if is_black else (runs[n], others[0]) for n in lengths)
    mode = _HORIZONTAL if compression == _GROUP_4 else ''
    row = ''.join(mode + white + black for white, black in pairs)
    if compression == _GROUP_4:
        row, rows = row * 8, -(-rows // 8)
    elif compression == _GROUP_3:
        is_mixed = directory.value(_GROUP_3_OPTIONS, 0) & 1
        row = _END_OF_LINE + (_ONE_DIMENSIONAL if is_mixed else '') + row
        row = '0' * (-len(row) % 8) + row
    else:
        row += '0' * (-len(row) % 8)
    found = int(row, 2).to_bytes(len(row) // 8) * rows
    return found.translate(_REVERSED_BITS) if directory.value(_FILL_ORDER, 1) == 2 else found


def _with_directory(file: bytearray, values: dict[int, list[int]]) -> bytes:
    """A little-endian TIFF of these bytes, which begin with its header."""
    entries = b''
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f'<{len(numbers)}I', *numbers)
        if len(numbers) > 1:
            packed, place = struct.pack('<I', len(file)), packed
            file += place
        entries += struct.pack('<HHI', tag, 4, len(numbers)) + packed
    file[4:8] = struct.pack('<I', len(file))
    return bytes(file) + struct.pack('<H', len(values)) + entries + bytes(4)


def _with_values(directory: _Directory, values: dict[int, list[int]], behind: bytes = b'') -> bytes:
    """The file with other values for those of the tags that it has, and bytes behind its own."""
    changed = bytearray(directory.data + behind)
    kind, form = (16, 'Q') if directory.is_big else (4, 'I')
    entry_bytes = directory.entries.dtype.itemsize
    for tag, numbers in values.items():
        (found,) = np.nonzero(directory.entries['tag'] == tag)
        if not found.size:
            continue
        packed = struct.pack(f'{directory.byte_order}{len(numbers)}{form}', *numbers)
        if len(numbers) > 1:
            place = struct.pack(directory.byte_order + form, len(changed))
            changed += packed
            packed = place
        at = directory.offset + int(found[0]) * entry_bytes
        head = struct.pack(f'{directory.byte_order}HH{form}', tag, kind, len(numbers))
        changed[at : at + entry_bytes] = head + packed
    return bytes(changed)


def _raw_bytes(directory: _Directory, width: int, height: int) -> int:
    """Bytes of a strip or tile that is not compressed."""
    bits = max(directory.values(_BITS).tolist(), default=1)
    across, down = _subsampling(directory)
    if directory.value(_PLANAR, 1) == 2:
        return -(-width * bits // 8) * height
    if (across, down) != (1, 1):
        return -(-width // across) * -(-height // down) * (across * down + 2) * bits // 8
    return -(-width * bits * directory.value(_SAMPLES, 1) // 8) * height


def _segments(directory: _Directory) -> list[tuple[int, int]]:
    """(width, height) in px of each strip or tile, plane by plane; none where the header is odd."""
    width, height = directory.value(_WIDTH, 0), directory.value(_LENGTH, 0)
    if directory.is_tiled:
        across, down = directory.value(_TILE_WIDTH, 0), directory.value(_TILE_LENGTH, 0)
    else:
        across, down = width, min(directory.value(_ROWS_PER_STRIP, height), height)
    if not (width and height and across and down):
        return []
    columns, rows = -(-width // across), -(-height // down)
    planes = directory.value(_SAMPLES, 1) if directory.value(_PLANAR, 1) == 2 else 1
    if columns * rows * planes > _MAX_TIFF_VALUES:
        return []
    last = down if directory.is_tiled else height - (rows - 1) * down
    plane = [(across, down)] * (columns * (rows - 1)) + [(across, last)] * columns
    chroma_across, chroma_down = _subsampling(directory)
    chroma = [(-(-wide // chroma_across), -(-high // chroma_down)) for wide, high in plane]
    return plane + chroma * (planes - 1)


def _subsampling(directory: _Directory) -> tuple[int, int]:
    """Of the colours of YCbCr, across and down; 2 and 2 where nothing is said."""
    if directory.value(_PHOTOMETRIC, 0) != _YCBCR:
        return 1, 1
    values = directory.values(_SUBSAMPLING)
    across, down = (int(values[0]), int(values[1])) if len(values) == 2 else (2, 2)
    return max(across, 1), max(down, 1)


def _read_directory(data: bytes, base: int) -> _Directory | None:
    """The first directory of the TIFF that begins at `base`; None where there is none."""
    mark = data[base : base + 4]
    if mark[:2] not in (b'II', b'MM') or len(data) < base + 16:
        return None
    order = '<' if mark[:2] == b'II' else '>'
    if b'+' in mark[2:]:
        (offset,) = struct.unpack_from(order + 'Q', data, base + 8)
        count_format, wide = 'Q', 'u8'
    else:
        (offset,) = struct.unpack_from(order + 'I', data, base + 4)
        count_format, wide = 'H', 'u4'
    offset += base
    if offset + struct.calcsize(count_format) > len(data):
        return None
    (count,) = struct.unpack_from(order + count_format, data, offset)
    offset += struct.calcsize(count_format)
    row = [('tag', 'u2'), ('kind', 'u2'), ('count', wide), ('value', wide)]
    entry = np.dtype([(name, order + kind) for name, kind in row])
    present = min(count, (len(data) - offset) // entry.itemsize)
    entries = np.frombuffer(data, entry, present, offset) if present else np.zeros(0, entry)
    return _Directory(data, base, offset, order, entries, present == count)


def with_sound_directory(data: bytes, base: int) -> bytes:
    """Leaves one directory, whose values take together no more than the file has.

    Other entries get a type that decoders skip.  Pillow would read the directories of all pages
    and the nested ones too.
    """
    directory = _read_directory(data, base)
    if base == 0 and (directory is None or not directory.is_whole):
        raise ValueError('directory ends early')  # libtiff would say so on stderr
    if directory is None:
        return data
    inside = directory.ends <= len(data)
    claimed = np.cumsum(directory.sizes * directory.is_external * inside)
    is_text = np.isin(directory.entries['kind'], _TIFF_BYTE_TYPES)
    too_many = ~is_text & (directory.entries['count'] > _MAX_TIFF_VALUES)
    unsound = ~inside | (directory.is_external & (claimed > len(data))) | too_many
    unsound |= np.isin(directory.entries['tag'], _SUBDIRECTORY_TAGS)
    row_bytes = directory.entries.dtype.itemsize
    end = directory.offset + len(directory.entries) * row_bytes
    next_bytes = directory.entries.dtype['value'].itemsize
    has_next = directory.is_whole and any(data[end : end + next_bytes])
    if not unsound.any() and not has_next:
        return data
    patched = bytearray(data)
    if has_next:
        patched[end : end + next_bytes] = bytes(len(patched[end : end + next_bytes]))
    for i in np.nonzero(unsound)[0]:
        at = directory.offset + int(i) * row_bytes + 2
        patched[at : at + 2] = b'\x00\x00'
    return bytes(patched)


def is_complete_tiff(data: bytes) -> bool:
    """Whether all that the first directory points to lies inside the file."""
    directory = _read_directory(data, 0)
    if directory is None or not directory.is_whole or (directory.ends > len(data)).any():
        return False
    for offsets_tag, sizes_tag in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        offsets = directory.values(offsets_tag).astype(np.float64)
        sizes = directory.values(sizes_tag).astype(np.float64)
        if len(offsets) == len(sizes) and (offsets + sizes > len(data)).any():
            return False
    return True


def exif_orientation(block: bytes) -> int:
    """Orientation of an EXIF block, 1 where it is absent or damaged."""
    directory = _read_directory(block.removeprefix(b'Exif\x00\x00'), 0)
    if directory is None:
        return 1
    values = directory.values(_ORIENTATION_TAG)
    return int(values[0]) if len(values) and 1 <= values[0] <= 8 else 1
