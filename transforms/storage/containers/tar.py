"""Tar archives: V7, ustar, GNU and PAX; `.tar.gz` is read from its beginning only.

The headers are read here, and not by `tarfile`: that holds all members in memory, reads headers of
whatever size they say, and takes longer.  What an entry means is as there:
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html and
https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from transforms.core.reasons import Reason
from transforms.storage.containers.archive import (
    MAX_NAME_CHARS,
    BrokenError,
    Part,
    index_of,
    own_error,
)
from transforms.storage.containers.base import Format, Found, Source, Wanted
from transforms.storage.containers.gunzip import Gunzipped

_BLOCK = 512
_NOTHING = bytes(_BLOCK)
_ADLER_BASE = 65521
_MAX_EXTENDED_BYTES = 2**20  # of a header that tells more of the next one
_MOST_NAME_BYTES = 4 * MAX_NAME_CHARS
_MAX_SIZE = 2**63 - 1

_FILES = b'0\x007'
_FOLDERS = b'5D'
_SPECIAL = {
    b'1': 'a hard link',
    b'2': 'a symbolic link',
    b'3': 'a character device',
    b'4': 'a block device',
    b'6': 'a FIFO',
}
_GNU_NAME, _GNU_LINK, _GNU_SPARSE, _GNU_DUMP = b'L', b'K', b'S', b'D'
_PAX, _PAX_SOLARIS, _PAX_GLOBAL = b'x', b'X', b'g'
_WHERE = re.compile(r'([0-9]+)\+([0-9]+)')
_PAX_WANTED = re.compile(rb'path=|size=|GNU')
_PAX_LENGTH = re.compile(rb'([0-9]{1,10}) ')


class _Header(NamedTuple):
    """One block of 512 bytes.

    Attributes:
      name: raw.
      kind: one byte.
      size_bytes: of what follows, where the kind has anything.
      is_extended: whether blocks follow that tell where a sparse file has its data.
    """

    name: bytes
    kind: bytes
    size_bytes: int
    is_extended: bool


class _Told(NamedTuple):
    """What the headers before a header tell of its entry."""

    name: bytes | None = None
    size_bytes: int | None = None
    is_sparse: bool = False
    problem: str = ''


_UNTOLD = _Told()


def _members(source: Source, wanted: Wanted) -> Iterator[Found]:
    def read(part: Part, max_bytes: int) -> bytes:
        return _Reader(source).read(part.where, max_bytes, lambda _: None)

    return index_of(_parts(source, ''), wanted, read)


def _streamed_members(source: Source, wanted: Wanted) -> Iterator[Found]:
    stream = Gunzipped(source)

    def read(part: Part, max_bytes: int) -> bytes:
        return _Reader(stream).read(part.where.removeprefix('~'), max_bytes, lambda _: None)

    return index_of(_parts(stream, '~'), wanted, read)


class _Reader:
    held_bytes = 0

    def __init__(self, source: Source):
        self._source = source

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        found = _WHERE.fullmatch(where)
        if not found:
            raise own_error(Reason.CHANGED_WHILE_READING, 'nothing of a tar archive lies there')
        return _read(self._source, int(found[1]), int(found[2]), max_bytes, admit)


class _StreamedReader:
    held_bytes = Gunzipped.HELD_BYTES

    def __init__(self, source: Source):
        self._reader = _Reader(Gunzipped(source))

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        return self._reader.read(where.removeprefix('~'), max_bytes, admit)


def _read(
    source: Source, offset: int, size: int, max_bytes: int, admit: Callable[[int], None]
) -> bytes:
    if size > max_bytes:
        raise own_error(Reason.TOO_MANY_BYTES, f'{size} bytes, limit {max_bytes}', size)
    if not size:
        raise own_error(Reason.EMPTY, '0 bytes', 0)
    admit(size)
    data = _at(source, offset, size)
    if len(data) < size:
        detail = f'its archive ends behind {len(data)} of its {size} bytes'
        raise own_error(Reason.TRUNCATED, detail, len(data))
    return data


def _parts(source: Source, head: str) -> Iterator[Part]:
    """The files of an archive.

    Args:
      source: the archive, unpacked.
      head: of where they lie.

    Raises:
      BrokenError: it is no archive, or the rest of it is lost.
    """
    place = 0
    told = _UNTOLD
    while True:
        block = _at(source, place, _BLOCK)
        if len(block) < _BLOCK or block == _NOTHING:
            _check_end(source, place, block, told)
            return
        header = _header(block)
        if header is None:
            raise _no_header(place)
        place += _BLOCK
        kind = header.kind
        if kind in (_PAX, _PAX_SOLARIS, _GNU_NAME, _GNU_LINK, _PAX_GLOBAL):
            told = _extended(source, place, header, told)
            place = _behind(place, header.size_bytes)
            continue
        if header.is_extended:
            place = _behind_map(source, place)
        size = header.size_bytes if told.size_bytes is None else told.size_bytes
        raw = header.name if told.name is None else told.name
        name = raw.decode('utf-8', 'surrogateescape')
        is_folder = kind in _FOLDERS or (kind in _FILES and name.endswith('/'))
        if not is_folder:
            yield _part(source, f'{head}{place}+{size}', name, kind, place, size, told)
        told = _UNTOLD
        has_data = kind == _GNU_DUMP or not (is_folder or kind in _SPECIAL)
        if has_data:
            place = _behind(place, size)


def _part(
    source: Source, where: str, name: str, kind: bytes, place: int, size: int, told: _Told
) -> Part:
    reason, detail = None, ''
    if told.problem:
        reason, detail = Reason.BAD_NAME, told.problem
    elif kind in _SPECIAL:
        return Part(name, where, -1, Reason.NOT_A_FILE, _SPECIAL[kind])
    elif kind == _GNU_SPARSE or told.is_sparse:
        reason, detail = Reason.UNSUPPORTED_FORMAT, 'a sparse file'
    elif kind not in _FILES:
        reason, detail = Reason.NOT_A_FILE, f'an entry of type {kind!r}'
    elif place + size > source.size_bytes:
        there = max(0, source.size_bytes - place)
        reason, detail = Reason.TRUNCATED, f'its archive ends behind {there} of its {size} bytes'
    return Part(name, where, size, reason, detail)


def _at(source: Source, place: int, size: int) -> bytes:
    """What lies at a place that may be behind the end."""
    return source.range(place, size) if place <= source.size_bytes else b''


def _behind(place: int, size: int) -> int:
    return place + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _behind_map(source: Source, place: int) -> int:
    """What follows the blocks that tell where a sparse file has its data."""
    while True:
        block = _at(source, place, _BLOCK)
        if len(block) < _BLOCK:
            return place  # where the end is found again
        place += _BLOCK
        if not block[504]:
            return place


def _check_end(source: Source, place: int, block: bytes, told: _Told) -> None:
    """Raises what is wrong with the end of an archive; it should be two blocks of zeros."""
    if isinstance(source, Gunzipped) and source.problem is not None:
        raise BrokenError(*source.problem)
    if not place and not block:
        raise BrokenError(Reason.EMPTY, '0 bytes')
    if block == _NOTHING:
        if told is not _UNTOLD:
            raise BrokenError(Reason.DECODE_ERROR, f'a header at byte {place} is missing')
        return
    if not place:
        raise _no_header(place)
    where = f'it ends at byte {source.size_bytes}'
    raise BrokenError(Reason.TRUNCATED, f'{where}, without the mark that ends a tar archive')


def _no_header(place: int) -> BrokenError:
    if not place:
        return BrokenError(Reason.UNSUPPORTED_FORMAT, 'no tar archive')
    detail = f'a damaged header at byte {place}; what follows it is not read'
    return BrokenError(Reason.DECODE_ERROR, detail)


def _header(block: bytes) -> _Header | None:
    """What a block says; None if it is no header."""
    size = _number(block[124:136])
    kind = block[156:157]
    if size is None or not _has_checksum(block):
        return None
    name = block[:100].partition(b'\0')[0]
    # GNU's own format has times in the place of ustar's prefix.
    if block[345] and block.startswith(b'ustar\0', 257):
        name = block[345:500].partition(b'\0')[0] + b'/' + name
    return _Header(name, kind, size, kind == _GNU_SPARSE and block[482] != 0)


def _has_checksum(block: bytes) -> bool:
    """Whether a block has the sum of its bytes in it, the field of the sum taken as blanks."""
    stored = _number(block[148:156])
    if stored is None:
        return False
    # Half of Adler's sum is that of the bytes, and much faster than adding them up here.
    others = zlib.adler32(block[156:], zlib.adler32(block[:148], 0)) & 0xFFFF
    if (others + 8 * 32 - stored) % _ADLER_BASE == 0:
        return True
    signed = sum(each - 256 if each > 127 else each for each in block[:148] + block[156:])
    return signed + 8 * 32 == stored  # old writers


def _number(field: bytes) -> int | None:
    """A number in octal digits, or in binary where its first bit is set; None if it is none."""
    digits = field.rstrip(b'\0 ')
    if digits.isdigit():
        return _from_octal(digits)
    if field[0] & 0x80:
        # The first bit is a flag, the second a sign.
        value = int.from_bytes(field, 'big') & ((1 << (8 * len(field) - 1)) - 1)
        return value if value <= _MAX_SIZE else None
    digits = field.partition(b'\0')[0].strip()
    if not digits:
        return 0
    return _from_octal(digits) if digits.isdigit() else None


def _from_octal(digits: bytes) -> int | None:
    try:
        return int(digits, 8)
    except ValueError:
        return None


def _extended(source: Source, place: int, header: _Header, told: _Told) -> _Told:
    """Adds what a header says of the next one."""
    if header.kind in (_GNU_LINK, _PAX_GLOBAL):
        return told
    most = _MOST_NAME_BYTES if header.kind == _GNU_NAME else _MAX_EXTENDED_BYTES
    size = header.size_bytes
    if size > most:
        return told._replace(problem=f'a header of {size} bytes for its name, limit {most}')
    data = _at(source, place, size)
    if header.kind == _GNU_NAME:
        return told._replace(name=data.partition(b'\0')[0])
    return _pax(data, told)


def _pax(data: bytes, told: _Told) -> _Told:
    """Adds what the records of a PAX header say: '<length> <key>=<value>', and a line feed."""
    if _PAX_WANTED.search(data) is None:
        return told
    place = 0
    while place < len(data):
        found = _PAX_LENGTH.match(data, place)
        if not found:
            if not data[place:].strip(b'\0'):
                break
            return told._replace(problem='a damaged PAX header')
        end = place + int(found[1])
        key, equals, value = data[found.end() : end - 1].partition(b'=')
        if not equals or data[end - 1 : end] != b'\n':
            return told._replace(problem='a damaged PAX header')
        place = end
        if key.startswith(b'GNU.sparse.'):
            told = told._replace(is_sparse=True)
        if key in (b'path', b'GNU.sparse.name'):
            told = told._replace(name=value)
        elif key == b'size':
            if not value.isdigit() or len(value) > 19 or int(value) > _MAX_SIZE:
                return told._replace(problem='a PAX header with a size that is no number')
            told = told._replace(size_bytes=int(value))
    return told


TAR = Format(members=_members, open=_Reader)
TAR_GZ = Format(
    members=_streamed_members,
    open=_StreamedReader,
    held_bytes=Gunzipped.HELD_BYTES,
    is_streamed=True,
)
