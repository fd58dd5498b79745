"""Image files that nobody would make: files of every format, changed in the ways fuzzers do."""

import functools
import random
import struct
from collections.abc import Iterator, Sequence

from tests.support import corpus
from transforms.core.errors import ImageError

# Larger files take longer to decode and find no more; bombs are looked at in test_decode.
_MAX_SEED_BYTES = 60_000
_MAX_BYTES = 200_000
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**32 - 1)
_LENGTHS = ('<H', '>H', '<I', '>I', '<B')
_MARKS = (
    *(b'\xff\xda', b'\xff\xc4', b'\xff\xdb', b'\xff\xd9', b'IDAT', b'PLTE', b'tRNS', b'IEND'),
    *(b'VP8 ', b'VP8X', b'ANMF', b'!\xf9\x04', b',', b'\xff\x4f', b'\xff\x51', b'meta', b'iloc'),
    *(b'II*\x00', b'MM\x00*', b'Exif\x00\x00', b'\x00\x00\x01\x00', b'P6 ', b'qoif', b'BM'),
)


@functools.cache
def seeds() -> list[bytes]:
    """Valid and hostile files of all formats."""
    cases = [case.data for case in corpus.cases() if len(case.data) <= _MAX_SEED_BYTES]
    return [*corpus.samples_of_each_format().values(), *(data for data in cases if data)]


def mutated(count: int, seed: int, files: Sequence[bytes] = ()) -> Iterator[bytes]:
    """So many changed files, the same ones for the same seed; made of `seeds` or of `files`."""
    chance = random.Random(seed)
    pool = files or seeds()
    for _ in range(count):
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            _mutate(data, pool, chance)
        yield bytes(data[:_MAX_BYTES])


def check_detail(error: ImageError, data: bytes) -> None:
    """That a detail is a line of ours, and says nothing that a library said."""
    assert '0x' not in error.detail
    assert '\n' not in error.detail
    assert error.size_bytes == len(data)
    cause: BaseException | None = error.__cause__
    while cause is not None:
        # A number may be the same by chance: the tag that is missing, and the size of the file.
        assert not str(cause).strip('0123456789') or str(cause) not in error.detail
        cause = cause.__cause__


def _mutate(data: bytearray, pool: Sequence[bytes], chance: random.Random) -> None:
    # Headers are short, and most of what can go wrong stands there.
    end = len(data) if chance.random() < 0.3 else min(len(data), 200)
    at = chance.randrange(end + 1)
    size = min(chance.choice((1, 2, 4, 16, 64, 1000)), len(data) - at)
    # Cuts and splices end most files early: rare, or little else would be found.
    match chance.choice((0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 9)):
        case 0:
            _flip(data, at, chance)
        case 1:
            del data[at:]
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 4, 16, 300)))
        case 4:
            other = chance.choice(pool)
            data[at:] = other[chance.randrange(len(other)) :]
        case 5:
            _set_number(data, at, chance)
        case 6:
            data[at:at] = bytes(data[at : at + size]) * chance.choice((1, 2, 100))
        case 7:
            _swap(data, at, size, chance)
        case 8:
            data[at:at] = chance.choice(_MARKS)
        case 9:
            data[at : at + size] = bytes([chance.choice((0, 0xFF, chance.randrange(256)))]) * size


def _flip(data: bytearray, at: int, chance: random.Random) -> None:
    if at < len(data):
        data[at] ^= chance.choice((1 << chance.randrange(8), 0xFF))


def _set_number(data: bytearray, at: int, chance: random.Random) -> None:
    form = chance.choice(_LENGTHS)
    size = struct.calcsize(form)
    if at + size <= len(data):
        value = chance.choice(_INTERESTING) + chance.choice((0, 0, 1, -1))
        struct.pack_into(form, data, at, value % (1 << 8 * size))


def _swap(data: bytearray, at: int, size: int, chance: random.Random) -> None:
    other = chance.randrange(len(data) + 1)
    first, second = sorted((at, other))
    if first + size <= second and second + size <= len(data):
        one = bytes(data[first : first + size])
        data[first : first + size] = data[second : second + size]
        data[second : second + size] = one
