"""What the bytes of an image file say about it, read without a decoder.

Pillow reads metadata before a caller can look at the size, keeps all of it, and lets a broken
comment spoil the picture.  `without_metadata` removes what no picture needs, so that metadata costs
no memory, no time and no image; the rest answers questions that Pillow does not.
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from transforms.images.tiff import is_complete_tiff, with_sound_directory

_SOS, _EOI = 0xDA, 0xD9
# Not stuffing, fill, RST0 to RST7 or SOI: the end marker, and those that a length follows.
_JPEG_MARKER = re.compile(rb'\xff[\x01-\xcf\xd9-\xfe]')
# Possessive throughout: nothing is tried twice.
_NETPBM_NUMBER = re.compile(rb'(?:\s++|#[^\r\n]*+[\r\n])++([0-9]{1,9}+)(?![0-9])')
# One at a time is looked at of a file of text.
_PLAIN_PIECE_BYTES = 1 << 18
_MAX_DIGITS = 9
_WHITE_SPACE = b' \t\n\v\f\r'
_SPACE = re.compile(rb'\s')
_GIF_BLOCK = re.compile(rb'[!,;]')
_APP0, _APP1, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
# JFIF says which colours the components are; EXIF has the orientation.
_USEFUL_SEGMENTS = {_APP0: b'JFIF\x00', _APP1: b'Exif\x00\x00'}
# Frame headers; C4, C8 and CC in their midst are not.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_PROGRESSIVE_FRAMES = frozenset((0xC2, 0xC6, 0xCA, 0xCE))

# Segments or chunks; handling one takes Pillow a microsecond or more.
_MAX_PARTS = 1 << 18
_MAX_COMMENTS = 10_000
_BITMAP_BITS = (0, 1, 2, 4, 8, 16, 24, 32, 64)
_BITMAP_COMPRESSIONS = {
    0: 'not compressed',
    1: 'run-length coded',
    2: 'run-length coded',
    3: 'bit fields',
    4: 'with a JPEG inside',
    5: 'with a PNG inside',
    6: 'bit fields',
}
# More TIFF headers than this in an AVIF or HEIF are no accident.
_MAX_EXIF_BLOCKS = 1000


@dataclasses.dataclass(frozen=True)
class JpegScans:
    """The frame and the scans of a JPEG.

    Attributes:
      frame: the frame's marker, such as 0xC0 for baseline; 0 if there is none.
      sample_bits: bits per sample, by the frame.
      components: colours, by the frame.
      is_single_pass: baseline with all components in its first scan: decoded row by row, whereas
        any other keeps all coefficients in memory.
      places: (start, end) of the coded data of each scan; of the first alone for a single pass.
      is_whole: whether they contain every bit of every coefficient.
      is_ended: whether a marker, and not the end of the file, follows the last of them.
    """

    frame: int
    sample_bits: int
    components: int
    is_single_pass: bool
    places: tuple[tuple[int, int], ...]
    is_whole: bool
    is_ended: bool


def jpeg_scans(data: bytes) -> JpegScans:
    """Follows the markers of a JPEG to its end, as a decoder would.

    Raises:
      ValueError: more segments than any honest file has.
    """
    frame = sample_bits = 0
    components: list[int] = []
    scans: list[tuple[bytes, int, int, int]] = []
    places: list[tuple[int, int]] = []
    is_single_pass, is_ended = False, True
    for marker, start, stop in _jpeg_segments(data):
        if not is_ended:
            places[-1] = (places[-1][0], start)
            is_ended = True
            if is_single_pass:
                break
        if marker in _FRAMES and stop - start >= 10:
            frame, sample_bits = marker, data[start + 4]
            components = list(data[start + 10 : stop : 3])[: data[start + 9]]
        elif marker == _SOS and stop - start >= 6:
            scanned = data[start + 5 : stop - 3 : 2][: data[start + 4]]
            scans.append((scanned, data[stop - 3], data[stop - 2], data[stop - 1] & 15))
            places.append((stop, len(data)))
            is_ended = False
            if len(scans) == 1:
                is_single_pass = frame in (0xC0, 0xC1) and len(scanned) == len(components)
    is_whole = is_single_pass or _has_all_bits(frame in _PROGRESSIVE_FRAMES, components, scans)
    return JpegScans(
        *(frame, sample_bits, len(components), is_single_pass, tuple(places), is_whole, is_ended)
    )


def _has_all_bits(
    is_progressive: bool, components: list[int], scans: list[tuple[bytes, int, int, int]]
) -> bool:
    """Whether scans of (components, first and last coefficient, bits left) leave nothing out."""
    left = {each: np.full(64, 16) for each in components}
    for scanned, first, last, bits in scans:
        if not is_progressive:
            # Some cameras leave these numbers to chance, and decoders pass over them.
            first, last, bits = 0, 63, 0
        for each in scanned:
            if each in left:
                left[each][first : last + 1] = bits
    return bool(scans) and not any(bits.any() for bits in left.values())


def without_metadata(data: bytes, file_format: str) -> bytes:
    """The file without what neither its first picture nor its orientation needs.

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
        case 'TGA' if data[16:17] == b'\x0f':
            # The same words as with 16 bits, of which none is alpha.
            return data[:16] + b'\x10' + data[17:]
        case 'TIFF':
            return with_sound_directory(data, 0)
        case 'AVIF' | 'HEIF':
            for i, header in enumerate(re.finditer(rb'II\*\x00|MM\x00\*', data)):
                if i == _MAX_EXIF_BLOCKS:
                    raise ValueError('too many EXIF blocks')
                data = with_sound_directory(data, header.start())
            return data
        case _:
            return data


def is_complete(data: bytes, file_format: str) -> bool:
    """Whether the end that a file announces is there; True if it announces none."""
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
            return is_complete_tiff(data)
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


def bitmap_coding(data: bytes) -> str | None:
    """Tells the coding of a BMP that Pillow refuses; None where no sound file would have it."""
    if len(data) < 34 or int.from_bytes(data[14:18], 'little') < 40:
        return None
    bits, compression = struct.unpack_from('<HI', data, 28)
    if bits not in _BITMAP_BITS or compression not in _BITMAP_COMPRESSIONS:
        return None
    return f'a BMP with {bits} bits per pixel, {_BITMAP_COMPRESSIONS[compression]},'


def webp_canvas(data: bytes) -> tuple[int, int]:
    """(width, height) in px of the canvas, of which libwebp takes two before it looks further.

    Raises:
      ValueError: no picture comes first.
      struct.error: a header that ends early.
    """
    kind = data[12:16]
    if kind == b'VP8X':
        width, height = (int.from_bytes(data[at : at + 3], 'little') for at in (24, 27))
        return width + 1, height + 1
    if kind == b'VP8L':
        (sides,) = struct.unpack_from('<I', data, 21)
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    if kind == b'VP8 ':
        width, height = struct.unpack_from('<HH', data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError('no picture')


def run_lengths(
    data: bytes, width: int, height: int, is_rle4: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The run-length coded rows of a bitmap, in the order of the file; None where they end early.

    Returns:
      (height, width) uint8 indices into the palette, and (height, width) bool: whether anything is
      said of a pixel, as rows and the picture may end early on purpose.
    """
    indices, is_told = bytearray(height * width), bytearray(height * width)
    at = row = column = 0
    is_ended = False
    while at + 2 <= len(data) and not is_ended:
        count, code = data[at], data[at + 1]
        at += 2
        run = b''
        if count:
            pair = bytes((code >> 4, code & 15)) if is_rle4 else bytes((code, code))
            run = (pair * 128)[:count]
        elif code == 0:
            row, column = row + 1, 0
        elif code == 1:
            is_ended = True
        elif code == 2:
            column, row = column + data[at], row + data[at + 1]
            at += 2
        else:
            packed = data[at : at + (-(-code // 2) if is_rle4 else code)]
            at += len(packed) + len(packed) % 2
            run = bytes(x for byte in packed for x in (byte >> 4, byte & 15)) if is_rle4 else packed
            run = run[:code]
        run = run[: max(width - column, 0)] if row < height else b''
        start = row * width + column
        indices[start : start + len(run)] = run
        is_told[start : start + len(run)] = b'\x01' * len(run)
        column += len(run)
    if not is_ended and 0 in is_told:
        return None
    shape = (height, width)
    return (
        np.frombuffer(indices, np.uint8).reshape(shape),
        np.frombuffer(is_told, np.bool_).reshape(shape),
    )


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments up to the end marker, what lies between skipped over."""
    at, count = 2, 0
    while found := _JPEG_MARKER.search(data, at):
        start = found.end() - 2
        marker = data[start + 1]
        if marker == _EOI:
            yield marker, start, start + 2
            return
        at = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if at > len(data) or at < start + 4:
            yield marker, start, start  # no segment, but no coded data either
            return
        count += 1
        if count > _MAX_PARTS:
            raise ValueError('too many segments')
        yield marker, start, at


def _jpeg_without_metadata(data: bytes) -> bytes:
    # Without a copy of the picture beside the one that is made of it.
    view = memoryview(data)
    kept = [view[:2]]
    useful = dict(_USEFUL_SEGMENTS)
    for marker, start, end in _jpeg_segments(data):
        if marker == _SOS:
            kept.append(view[start:])
            return b''.join(kept)
        if marker == _APP14:
            keep = data.startswith(b'Adobe', start + 4) and end - start >= 16
        elif marker in useful and data.startswith(useful[marker], start + 4):
            keep = True
            del useful[marker]  # one of each
        else:
            keep = not (_APP0 <= marker <= _APP15 or marker == _COM)
        if keep:
            kept.append(view[start:end])
    return data


def _png_without_metadata(data: bytes) -> bytes:
    view = memoryview(data)
    kept = [view[:8]]
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
            kept.append(view[at:end])
        at = end
        if kind == b'IEND':
            return b''.join(kept)
    return b''.join([*kept, view[at:]])


def _has_good_crc(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _gif_without_metadata(data: bytes) -> bytes:
    """Without the extensions before the first frame, except for its graphic control.

    Pillow's time for a comment grows with the square of its length.
    """
    if len(data) < 13:
        return data
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    view = memoryview(data)
    kept = [view[:at]]
    while (found := _GIF_BLOCK.search(data, at)) and found[0] == b'!':
        start = found.start()
        at = start + 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        if data[start + 1 : start + 2] == b'\xf9':
            kept.append(view[start:at])
        if len(kept) > _MAX_PARTS:
            raise ValueError('too many extensions')
    return b''.join([*kept, view[found.start() if found else len(data) :]])


def netpbm_size(data: bytes) -> tuple[int, int]:
    """(width, height) in px of a bitmap, greymap or pixmap.

    Raises:
      ValueError: no Netpbm file.
    """
    (width, height, *_), _ = _netpbm_header(data)
    return width, height


def _netpbm_header(data: bytes) -> tuple[list[int], int]:
    """Width, height and, unless it is a bitmap, the maximum; and where they end."""
    numbers, at = [], 2
    for _ in range(2 if data[1:2] in b'14' else 3):
        found = _NETPBM_NUMBER.match(data, at)
        if found is None:
            raise ValueError('not a Netpbm header')
        numbers.append(int(found[1]))
        at = found.end()
    return numbers, at


def _raw_netpbm(data: bytes) -> bytes:
    """Bitmap, greymap or pixmap in the binary form, with a header of one line.

    Pillow reads headers and the plain form byte by byte: 15 s for 12 megapixels, hours for a file
    full of comments.  Here it takes the memory of the samples, whatever else the file holds.
    """
    kind = (data[1] - ord('1')) % 3  # bitmap, greymap, pixmap
    numbers, at = _netpbm_header(data)
    header = b'P%d %s\n' % (kind + 4, b' '.join(b'%d' % number for number in numbers))
    if data[1] > ord('3'):
        return header + data[at + 1 :]

    if data.count(b'#', at) > _MAX_COMMENTS:
        raise ValueError('too many comments')
    width, height = numbers[:2]
    samples = width * height * (3 if kind == 2 else 1)
    if samples > len(data) - at:
        return header  # refused for what is missing
    if b'#' in data[at:]:
        data, at = re.sub(rb'#[^\r\n]*', b' ', data[at:]), 0
    pieces = _plain_pieces(data, at)
    if kind == 0:
        return header + _packed_bitmap(pieces, width, height)
    return header + _packed_samples(pieces, samples, numbers[2])


def _plain_pieces(data: bytes, at: int) -> Iterator[bytes]:
    """What is not longer than it needs to be, cut at white space."""
    while at < len(data):
        end = at + _PLAIN_PIECE_BYTES
        space = _SPACE.search(data, end) if end < len(data) else None
        end = space.end() if space else len(data)
        yield data[at:end]
        at = end


def _packed_bitmap(pieces: Iterable[bytes], width: int, height: int) -> bytes:
    bits = bytearray()
    for piece in pieces:
        found = piece.translate(None, _WHITE_SPACE)
        if found.strip(b'01'):
            raise ValueError('unexpected bytes between the bits')
        bits += found[: width * height - len(bits)]
    rows = np.frombuffer(bits, np.uint8, width * height).reshape(height, width) - ord('0')
    return np.packbits(rows, axis=1).tobytes()


def _packed_samples(pieces: Iterable[bytes], count: int, maximum: int) -> bytes:
    kind = 'u1' if maximum < 256 else '>u2'
    packed = bytearray()
    left = count
    for piece in pieces:
        if re.search(rb'[^0-9\s]', piece):
            raise ValueError('unexpected bytes between the samples')
        values = _numbers(piece)[:left]
        if values.max(initial=0) > maximum:
            raise ValueError('a sample above the maximum')
        packed += values.astype(kind).tobytes()
        left -= len(values)
    if left:
        raise ValueError('samples truncated')
    return bytes(packed)


def _numbers(text: bytes) -> np.ndarray:
    """The numbers of a text of digits and white space, as uint32."""
    raw = np.frombuffer(b' ' + text + b' ', np.uint8)
    edges = np.flatnonzero(np.diff(raw >= ord('0')))
    ends, lengths = edges[1::2], np.diff(edges)[::2]
    if lengths.max(initial=0) > _MAX_DIGITS:
        raise ValueError('a number with too many digits')
    values = np.zeros(len(ends), np.uint32)
    for i in range(lengths.max(initial=0)):
        (found,) = np.nonzero(lengths > i)
        values[found] += (raw[ends[found] - i] - ord('0')).astype(np.uint32) * 10**i
    return values


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
