"""Containers of bytes, listed and read as a run would do it."""

import io
import random
from collections.abc import Iterator

from transforms.core.errors import ImageError
from transforms.core.suffixes import IMAGE_SUFFIXES
from transforms.storage.containers.base import (
    Format,
    Found,
    Member,
    Problem,
    Reader,
    StreamSource,
    Wanted,
)

SHOWN = 'gs://b/shard'
MAX_BYTES = 2**20


class CountedSource(StreamSource):
    """A source of bytes that counts what is asked of it, and refuses what no file has."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), len(data), SHOWN)
        self.requests = 0
        self.read_bytes = 0

    def range(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= self.size_bytes, (offset, self.size_bytes)
        assert size >= 0
        self.requests += 1
        data = super().range(offset, size)
        self.read_bytes += len(data)
        return data


def id_of(value: object) -> str | None:
    """For the name of a test: not the bytes of an archive, which hold the time."""
    return 'data' if isinstance(value, bytes) else None


def wanted(image_column: str = '', carry: tuple[str, ...] = ()) -> Wanted:
    return Wanted(IMAGE_SUFFIXES, image_column, carry)


def listed(kind: Format, data: bytes, what: Wanted | None = None) -> list[Found]:
    return list(kind.members(CountedSource(data), what or wanted()))


def outcomes(kind: Format, data: bytes, what: Wanted | None = None) -> dict[str, bytes | str]:
    """The bytes of each member, or the reason why there are none; '' is the container."""
    found: dict[str, bytes | str] = {}
    reader = kind.open(CountedSource(data))
    for each in kind.members(CountedSource(data), what or wanted()):
        if isinstance(each, Problem):
            found[''] = each.reason.value
        elif isinstance(each, Member):
            found.setdefault(each.name, _outcome(reader, each))
    return found


def _outcome(reader: Reader, member: Member) -> bytes | str:
    if member.reason is not None:
        assert member.where == ''
        assert member.detail
        return str(member.reason.value)
    admitted: list[int] = []
    try:
        data = reader.read(member.where, MAX_BYTES, admitted.append)
    except ImageError as e:
        if not (e.is_its_own and e.detail):
            raise
        return str(e.reason.value)
    assert isinstance(data, bytes)
    assert max(admitted, default=0) >= len(data)
    assert member.size_bytes in (-1, len(data))
    return data


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies with a few bytes flipped, set or lost, and cut anywhere."""
    chance = random.Random(seed)
    for i in range(count):
        copy = bytearray(data)
        for _ in range(chance.choice((1, 1, 3, 20))):
            place = chance.randrange(len(copy))
            copy[place] = chance.choice((0, 255, copy[place] ^ 1 << chance.randrange(8)))
        if i % 3 == 0:
            del copy[chance.randrange(len(copy)) :]
        if i % 7 == 0 and copy:
            del copy[chance.randrange(len(copy))]
        yield bytes(copy)
