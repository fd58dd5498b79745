"""Boxes of ISO files, and how large the pictures are that an AVIF or HEIF holds.

What the boxes say of a size is for display; the decoder allocates what the coded data say.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# Of an honest picture there are tens, thousands where it is a grid.
_MAX_BOXES = 1 << 16
_MAX_UNITS = 1 << 14

_SEQUENCE, _FRAME_HEADER, _FRAME, _COPY_OF_HEADER = 1, 3, 6, 7
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_SELECTED = 2  # each frame says it
# Of decoded samples, by profile: 4:2:0 of ten bits, otherwise up to 4:4:4 of twelve.
_AV1_BYTES_PER_PX = {0: 3, 1: 6, 2: 6}
_HEVC_BYTES_PER_PX = 6
_HEVC_SIZES = 33
# Encoders fill blocks of up to 64 x 64, which are no pixels of the picture.
_PADDING_PX = 63


class Coded(NamedTuple):
    """A picture as its decoder allocates it: sides in px, memory of a frame in bytes a pixel."""

    width: int
    height: int
    bytes_per_px: int


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the contents of each box.

    Raises:
      ValueError: more boxes than any honest file has.
    """
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from('>I4s', data, at)
        start = at + 8
        if size == 1 and start + 8 <= end:
            (size,) = struct.unpack_from('>Q', data, start)
            start += 8
        at = end if size == 0 else min(at + size, end)
        if at < start:
            return
        yield kind, start, at
    raise ValueError('too many boxes')


def coded_pictures(data: bytes, file_format: str) -> list[Coded]:
    """Every size that the coded data of an AVIF or HEIF may make a decoder allocate.

    Of the frames of a sequence, the first.  At most: a frame that brings a size of its own counts
    as the largest that its sequence has bits for.

    Args:
      data: the encoded file.
      file_format: Pillow's name of it, AVIF or HEIF.

    Raises:
      ValueError: coded data that cannot be followed, or none.
      struct.error, IndexError: boxes that end early.
    """
    found: list[Coded] = []
    read, kind = (_av1, b'av01') if file_format == 'AVIF' else (_hevc, b'hvc1')
    for part in (*_items(data, kind), *_first_samples(data)):
        found += read(part)
    for start, end in _inside(data, b'meta', b'iprp', b'ipco', b'hvcC'):
        found += _hevc_parameters(data[start:end])
    if not found:
        raise ValueError('no coded picture')
    return found


def _inside(data: bytes, *path: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each box that is found so, from the outermost on."""
    places = [(0, len(data))]
    for kind in path:
        # The contents of this one begin behind a version.
        skipped = 4 if kind == b'meta' else 0
        places = [
            (start + skipped, stop)
            for at, end in places
            for found, start, stop in boxes(data, at, end)
            if found == kind
        ]
    yield from places


def _items(data: bytes, kind: bytes) -> Iterator[bytes]:
    """The bytes of each item of a kind."""
    for at, end in _inside(data, b'meta'):
        parts = {name: data[start:stop] for name, start, stop in boxes(data, at, end)}
        numbers = _items_of(parts.get(b'iinf', b''), kind)
        for number, is_inside, extents in _places(parts[b'iloc']):
            if number in numbers:
                source = parts.get(b'idat', b'') if is_inside else data
                yield b''.join(
                    source[start : start + size if size else None] for start, size in extents
                )


def _items_of(body: bytes, kind: bytes) -> set[int]:
    head = 8 if body[:1] != b'\0' else 6
    numbers = set()
    for name, start, stop in boxes(body, head, len(body)):
        if name == b'infe' and body[start] >= 2:
            form = '>H2x4s' if body[start] == 2 else '>I2x4s'
            if start + 4 + struct.calcsize(form) <= stop:
                number, found = struct.unpack_from(form, body, start + 4)
                if found == kind:
                    numbers.add(number)
    return numbers


def _places(body: bytes) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """(item, whether in the box for data, [(offset, size)]) by the box of locations."""
    version = body[0]
    widths = [body[4] >> 4, body[4] & 15, body[5] >> 4, body[5] & 15 if version else 0]
    wide = 4 if version == 2 else 2
    at = 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(body):
            raise IndexError('locations end early')
        return int.from_bytes(body[at - size : at])

    offset_bytes, length_bytes, base_bytes, index_bytes = widths
    left = _MAX_BOXES
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_bytes)
        extents = []
        for _ in range(number(2)):
            number(index_bytes)
            start = base + number(offset_bytes)
            extents.append((start, number(length_bytes)))
        left -= 1 + len(extents)
        if left < 0:
            raise ValueError('too many extents')
        yield item, method == 1, extents


def _first_samples(data: bytes) -> Iterator[bytes]:
    """Of each track."""
    for at, end in _inside(data, b'moov', b'trak', b'mdia', b'minf', b'stbl'):
        parts = {name: start for name, start, _ in boxes(data, at, end)}
        if b'stsz' not in parts:
            continue
        size, _, first = struct.unpack_from('>3I', data, parts[b'stsz'] + 4)
        if b'co64' in parts:
            (start,) = struct.unpack_from('>Q', data, parts[b'co64'] + 8)
        else:
            (start,) = struct.unpack_from('>I', data, parts[b'stco'] + 8)
        yield data[start : start + (size or first)]


class _Bits:
    """Reads numbers bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError('header ends early')
        return self._value >> self._left & (1 << count) - 1

    def take_coded(self) -> int:
        """An Exp-Golomb number: as many bits as there are zeros before."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError('no number')
        return (1 << zeros) - 1 + self.take(zeros)


class _Sequence(NamedTuple):
    profile: int
    is_still: bool
    width_bits: int
    height_bits: int
    width: int
    height: int
    screen_content: int
    integer_vectors: int
    frame_id_bits: int
    # Of a time in each frame that is shown.
    time_bits: int


_HEADER_BYTES = 256


def _av1(data: bytes) -> Iterator[Coded]:
    """Sizes of the sequences of open bitstream units, and of the frames that have their own."""
    at, sequence = 0, None
    for _ in range(_MAX_UNITS):
        if at >= len(data):
            return
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size = shift = 0
            while True:
                size |= (data[at] & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if data[at - 1] < 0x80:
                    break
        bits = _Bits(data[at : at + min(size, _HEADER_BYTES)])
        kind = head >> 3 & 15
        if kind == _SEQUENCE:
            sequence = _sequence(bits)
            yield _coded(sequence, sequence.width, sequence.height)
        elif kind in (_FRAME_HEADER, _FRAME, _COPY_OF_HEADER):
            if sequence is None:
                raise ValueError('a frame before its sequence')
            if _has_own_size(bits, sequence):
                yield _coded(sequence, 1 << sequence.width_bits, 1 << sequence.height_bits)
        at += size
    raise ValueError('too many units')


def _coded(sequence: _Sequence, width: int, height: int) -> Coded:
    return Coded(width, height, _AV1_BYTES_PER_PX.get(sequence.profile, 6))


def _sequence(bits: _Bits) -> _Sequence:
    take = bits.take
    profile, _, is_still = take(3), take(1), bool(take(1))
    time_bits = 0
    if is_still:
        take(5)
    else:
        time_bits = _operating_points(bits)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    screen_content = integer_vectors = _SELECTED
    frame_id_bits = 0
    if not is_still and take(1):
        frame_id_bits = take(4) + 2
        frame_id_bits += take(3) + 1
    take(3)
    if not is_still:
        take(4)
        if take(1):
            take(2)
        if not take(1):
            screen_content = take(1)
        if screen_content and not take(1):
            integer_vectors = take(1)
    return _Sequence(
        *(profile, is_still, width_bits, height_bits, width, height),
        *(screen_content, integer_vectors, frame_id_bits, time_bits),
    )


def _operating_points(bits: _Bits) -> int:
    """Passes over what is said of time and levels; bits of the time of each frame."""
    take = bits.take
    delay_bits = time_bits = 0
    if take(1):
        take(64)
        is_even = take(1)
        if is_even:
            bits.take_coded()
        if take(1):
            delay_bits = take(5) + 1
            take(37)
            time_bits = (take(5) + 1) * (not is_even)
    has_delay = take(1)
    for _ in range(take(5) + 1):
        take(12)
        if take(5) > 7:
            take(1)
        if delay_bits and take(1):
            take(2 * delay_bits + 1)
        if has_delay and take(1):
            take(4)
    return time_bits


def _has_own_size(bits: _Bits, sequence: _Sequence) -> bool:
    take = bits.take
    if sequence.is_still or take(1):
        return False
    kind, is_shown = take(2), take(1)
    take(sequence.time_bits if is_shown else 1)
    if not (kind == _SWITCH_FRAME or (kind == _KEY_FRAME and is_shown)):
        take(1)
    take(1)
    screen_content = sequence.screen_content
    if screen_content == _SELECTED:
        screen_content = take(1)
    if screen_content and sequence.integer_vectors == _SELECTED:
        take(1)
    take(sequence.frame_id_bits)
    return kind == _SWITCH_FRAME or bool(take(1))


def _hevc(data: bytes) -> Iterator[Coded]:
    """Sizes among units that have lengths of four bytes before them."""
    at = 0
    for _ in range(_MAX_UNITS):
        if at + 6 > len(data):
            return
        size = int.from_bytes(data[at : at + 4])
        if data[at + 4] >> 1 & 63 == _HEVC_SIZES:
            yield _hevc_size(data[at + 4 : at + 4 + size])
        at += 4 + size
    raise ValueError('too many units')


def _hevc_parameters(body: bytes) -> Iterator[Coded]:
    """Sizes in the box that configures the decoder."""
    at = 23
    for _ in range(body[22]):
        (count,) = struct.unpack_from('>H', body, at + 1)
        at += 3
        for _ in range(count):
            (size,) = struct.unpack_from('>H', body, at)
            if body[at + 2] >> 1 & 63 == _HEVC_SIZES:
                yield _hevc_size(body[at + 2 : at + 2 + size])
            at += 2 + size


def _hevc_size(unit: bytes) -> Coded:
    bits = _Bits(unit[2:_HEADER_BYTES].replace(b'\0\0\3', b'\0\0'))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)
    # Pairs: whether a layer has a profile, and a level.
    present = [(bits.take(1), bits.take(1)) for _ in range(8 if layers else 0)][:layers]
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
    bits.take_coded()
    if bits.take_coded() == 3:
        bits.take(1)
    width, height = bits.take_coded(), bits.take_coded()
    return Coded(max(width - _PADDING_PX, 1), max(height - _PADDING_PX, 1), _HEVC_BYTES_PER_PX)
