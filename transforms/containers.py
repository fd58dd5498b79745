"""What the bytes of an image file say of themselves, read without a decoder.

Pillow reads metadata before a caller can look at the size, keeps all of it, and lets a broken
comment spoil the picture.  `without_metadata` takes away what no picture needs, so that metadata
costs neither memory nor time nor the image; the rest answers questions that Pillow does not.
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_SOS = 0xDA
# Not stuffing, fill, RST0 to RST7, SOI or EOI: those that a length follows.
_JPEG_MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd9]', re.DOTALL)
# Possessive throughout: nothing is tried twice.
_NETPBM_NUMBER = re.compile(rb'(?:\s++|#[^\r\n]*+[\r\n])++([0-9]{1,9}+)(?![0-9])')
_GIF_BLOCK = re.compile(rb'[!,;]')
_APP0, _APP1, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
# JFIF says which colours the components are; EXIF has the orientation.
_USEFUL_SEGMENTS = {_APP0: b'JFIF\x00', _APP1: b'Exif\x00\x00'}
# Frame headers; C4, C8 and CC in their midst are not.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_ORIENTATION_TAG = 0x0112
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_SUBDIRECTORY_TAGS = (34665, 34853, 40965)  # EXIF, GPS, interoperability
# Bytes a value, by TIFF type.
_TYPE_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
_TIFF_BYTE_TYPES = (1, 2, 6, 7)
# A 50-megapixel picture in tiles of 16 x 16 has 195,313; Pillow makes an object of each.
_MAX_TIFF_VALUES = 1 << 18
# Segments or chunks; handling one takes Pillow a microsecond or more.
_MAX_PARTS = 1 << 18
_MAX_COMMENTS = 10_000
# More TIFF headers than this in an AVIF or HEIF are no accident.
_MAX_EXIF_BLOCKS = 1000


@dataclasses.dataclass(frozen=True)
class JpegScans:
    """The scans of a JPEG.

    Attributes:
      is_single_pass: baseline with all components in its first scan: decoded row by row, whereas
        any other keeps all coefficients in memory.
      count: start-of-scan markers from the first one on; may be too high, never too low.
    """

    is_single_pass: bool
    count: int


def jpeg_scans(data: bytes) -> JpegScans:
    """Looks through the markers of a JPEG; one that cannot be followed is not single-pass.

    Raises:
      ValueError: more segments than any honest file has.
    """
    frame_marker = frame_components = 0
    for marker, start, end in _jpeg_segments(data):
        if marker in _FRAMES and end - start >= 10:
            frame_marker, frame_components = marker, data[start + 9]
        if marker == _SOS and end - start >= 5:
            is_single_pass = frame_marker in (0xC0, 0xC1) and data[start + 4] == frame_components
            return JpegScans(is_single_pass, data.count(b'\xff\xda', start))
    return JpegScans(False, data.count(b'\xff\xda'))


def without_metadata(data: bytes, file_format: str) -> bytes:
    """The file without what its first picture and its orientation do not need.

    Also without TIFF and EXIF entries that reach outside the file or that together claim more
    bytes than it has; Netpbm in its binary form.  What cannot be followed is left for the decoder
    to judge.

    Args:
      data: the encoded file.
      file_format: Pillow's name of the format.

    Raises:
      ValueError: the file consists of more parts than any honest one, is a TIFF without its
        whole directory, or a Netpbm file that is no such thing.
    """
    match file_format:
        case 'JPEG':
            return _jpeg_without_metadata(data)
        case 'PNG':
            return _png_without_metadata(data)
        case 'GIF':
            return _gif_without_metadata(data)
        case 'PPM' if data[1:2] in b'123456':
            return _raw_netpbm(data)
        case 'TIFF':
            return _with_sound_directory(data, 0)
        case 'AVIF' | 'HEIF':
            for i, header in enumerate(re.finditer(rb'II\*\x00|MM\x00\*', data)):
                if i == _MAX_EXIF_BLOCKS:
                    raise ValueError('too many EXIF blocks')
                data = _with_sound_directory(data, header.start())
            return data
        case _:
            return data


def exif_orientation(block: bytes) -> int:
    """Orientation of an EXIF block, 1 where it is absent or damaged."""
    directory = _read_directory(block.removeprefix(b'Exif\x00\x00'), 0)
    if directory is None:
        return 1
    values = directory.values(_ORIENTATION_TAG)
    return int(values[0]) if len(values) and 1 <= values[0] <= 8 else 1


def is_complete(data: bytes, file_format: str) -> bool:
    """Whether the end that a file announces is there; True where it announces none."""
    match file_format:
        case 'JPEG':
            return b'\xff\xd9' in data[-4096:]
        case 'PNG':
            return b'IEND' in data[-4096:]
        case 'GIF':
            return data[-16:].rstrip(b'\x00').endswith(b';')
        case 'WEBP':
            return len(data) >= 12 and len(data) >= struct.unpack_from('<I', data, 4)[0] + 8
        case 'BMP':
            return len(data) >= 18 and len(data) >= struct.unpack_from('<I', data, 2)[0]
        case 'QOI':
            return data.endswith(b'\x00\x00\x00\x00\x00\x00\x00\x01')
        case 'TIFF':
            return _is_complete_tiff(data)
        case 'ICO':
            return _is_complete_icon(data)
        case 'AVIF' | 'HEIF':
            return _has_complete_boxes(data)
        case 'JPEG2000':
            if data.startswith(b'\xff\x4f'):
                return b'\xff\xd9' in data[-4096:]
            return _has_complete_boxes(data)
        case _:
            return len(data) >= 64


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments up to the first scan header, noise skipped over."""
    at, count = 2, 0
    while (found := _JPEG_MARKER.search(data, at)) and found.end() + 2 <= len(data):
        start = found.end() - 2
        marker = data[start + 1]
        end = start + 2 + struct.unpack_from('>H', data, start + 2)[0]
        if end > len(data) or end < start + 4:
            return
        count += 1
        if count > _MAX_PARTS:
            raise ValueError('too many segments')
        yield marker, start, end
        if marker == _SOS:
            return
        at = end


def _jpeg_without_metadata(data: bytes) -> bytes:
    kept = [data[:2]]
    useful = dict(_USEFUL_SEGMENTS)
    for marker, start, end in _jpeg_segments(data):
        if marker == _SOS:
            kept.append(data[start:])
            return b''.join(kept)
        if marker == _APP14:
            keep = data.startswith(b'Adobe', start + 4) and end - start >= 16
        elif marker in useful and data.startswith(useful[marker], start + 4):
            keep = True
            del useful[marker]  # one of each
        else:
            keep = not (_APP0 <= marker <= _APP15 or marker == _COM)
        if keep:
            kept.append(data[start:end])
    return data


def _png_without_metadata(data: bytes) -> bytes:
    kept = [data[:8]]
    at, count = 8, 0
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack_from('>I', data, at)[0]
        kind = data[at + 4 : at + 8]
        is_critical = kind[:1].isupper()
        if end > len(data):
            break
        count += 1
        if count > _MAX_PARTS:
            raise ValueError('too many chunks')
        if is_critical or (kind in (b'tRNS', b'eXIf') and _has_good_crc(data, at, end)):
            kept.append(data[at:end])
        at = end
        if kind == b'IEND':
            return b''.join(kept)
    return b''.join([*kept, data[at:]])


def _has_good_crc(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _gif_without_metadata(data: bytes) -> bytes:
    """Without the extensions before the first frame, except for its graphic control.

    Pillow's time for a comment grows with the square of its length.
    """
    if len(data) < 13:
        return data
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    kept = [data[:at]]
    while (found := _GIF_BLOCK.search(data, at)) and found[0] == b'!':
        start = found.start()
        at = start + 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        if data[start + 1 : start + 2] == b'\xf9':
            kept.append(data[start:at])
        if len(kept) > _MAX_PARTS:
            raise ValueError('too many extensions')
    return b''.join([*kept, data[found.start() :] if found else b''])


def _raw_netpbm(data: bytes) -> bytes:
    """Bitmap, greymap or pixmap in the binary form, with a header of one line.

    Pillow reads headers and the plain form byte by byte: 15 s for 12 megapixels, hours for a file
    full of comments.
    """
    kind = (data[1] - ord('1')) % 3  # bitmap, greymap, pixmap
    is_plain = data[1] <= ord('3')
    numbers, at = [], 2
    for _ in range(2 if kind == 0 else 3):
        found = _NETPBM_NUMBER.match(data, at)
        if found is None:
            raise ValueError('not a Netpbm header')
        numbers.append(int(found[1]))
        at = found.end()
    header = b'P%d %s\n' % (kind + 4, b' '.join(b'%d' % number for number in numbers))
    if not is_plain:
        return header + data[at + 1 :]

    if data.count(b'#', at) > _MAX_COMMENTS:
        raise ValueError('too many comments')
    body = re.sub(rb'#[^\r\n]*', b' ', data[at:]).strip()
    width, height = numbers[:2]
    samples = width * height * (3 if kind == 2 else 1)
    if samples > len(body):
        return header  # refused for its size, or for what is missing
    if kind == 0:
        return header + _packed_bitmap(body, width, height)
    if re.search(rb'[^0-9\s]', body):
        raise ValueError('something else between the samples')
    values = np.fromstring(body, np.float32, sep=' ')[:samples] if body else np.zeros(0)
    if len(values) < samples:
        raise ValueError('samples truncated')
    if values.max(initial=0) > numbers[2]:
        raise ValueError('a sample over the maximum')
    return header + values.astype('u1' if numbers[2] < 256 else '>u2').tobytes()


def _packed_bitmap(body: bytes, width: int, height: int) -> bytes:
    bits = b''.join(body.split())
    if bits.strip(b'01'):
        raise ValueError('something else between the bits')
    rows = np.frombuffer(bits, np.uint8, width * height).reshape(height, width) - ord('0')
    return np.packbits(rows, axis=1).tobytes()


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

    def values(self, tag: int) -> np.ndarray:
        """The integers of a tag; none where it is absent, outside or of another type."""
        (found,) = np.nonzero(self.entries['tag'] == tag)
        nothing = np.zeros(0, np.uint64)
        if not found.size:
            return nothing
        i = int(found[0])
        kind, count = int(self.entries['kind'][i]), int(self.entries['count'][i])
        widths = {3: 2, 4: 4, 16: 8}
        if kind not in widths or self.ends[i] > len(self.data):
            return nothing
        if self.is_external[i]:
            at = self.base + int(self.entries['value'][i])
        else:
            at = self.offset + i * self.entries.dtype.itemsize
            at += self.entries.dtype.fields['value'][1]  # type: ignore[index]
        return np.frombuffer(self.data, f'{self.byte_order}u{widths[kind]}', count, at)


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


def _with_sound_directory(data: bytes, base: int) -> bytes:
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


def _is_complete_tiff(data: bytes) -> bool:
    directory = _read_directory(data, 0)
    if directory is None or not directory.is_whole or (directory.ends > len(data)).any():
        return False
    for offsets_tag, sizes_tag in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        offsets = directory.values(offsets_tag).astype(np.float64)
        sizes = directory.values(sizes_tag).astype(np.float64)
        if len(offsets) == len(sizes) and (offsets + sizes > len(data)).any():
            return False
    return True


def _is_complete_icon(data: bytes) -> bool:
    if len(data) < 6:
        return False
    (count,) = struct.unpack_from('<H', data, 4)
    if len(data) < 6 + 16 * count:
        return False
    entries = (struct.unpack_from('<II', data, 6 + 16 * i + 8) for i in range(count))
    return all(offset + size <= len(data) for size, offset in entries)


def _has_complete_boxes(data: bytes) -> bool:
    """Whether every top-level box of an ISO file lies inside it."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size == 1 and at + 16 <= len(data):
            size = int.from_bytes(data[at + 8 : at + 16])
        if size < 8:
            return size == 0
        at += size
    return at == len(data)
