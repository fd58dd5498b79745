"""Zip archives: stored or deflated members, zip64, data descriptors.

The central directory is read here, and not by `zipfile`, which holds all of it in memory, several
hundred bytes a member: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from transforms.core.reasons import Reason
from transforms.storage.containers.archive import BrokenError, Part, index_of, own_error
from transforms.storage.containers.base import Format, Found, Source, Wanted

_LOCAL = struct.Struct('<4sHHHHHLLLHH')
_LOCAL_MAGIC = b'PK\3\4'
_ENTRY = struct.Struct('<4sBBHHHHHLLLHHHHHLL')
_ENTRY_MAGIC = b'PK\1\2'
_END = struct.Struct('<4sHHHHLLH')
_END_MAGIC = b'PK\5\6'
_LOCATOR = struct.Struct('<4sLQL')
_LOCATOR_MAGIC = b'PK\6\7'
_END64 = struct.Struct('<4sQHHLLQQQQ')
_END64_MAGIC = b'PK\6\6'

_MAX_COMMENT_BYTES = 0xFFFF
_BLOCK_BYTES = 2**20
_IN_ZIP64 = 0xFFFFFFFF
_ZIP64, _UNICODE_PATH = 1, 0x7075  # extra fields
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_HAS_DESCRIPTOR = 0x8
_IS_UTF8 = 0x800
_UNIX = 3
_STORED, _DEFLATED = 0, 8
_METHODS = {
    1: 'Shrink', 6: 'Implode', 9: 'Deflate64', 12: 'bzip2', 14: 'LZMA', 20: 'Zstandard',
    93: 'Zstandard', 95: 'XZ', 96: 'JPEG', 97: 'WavPack', 98: 'PPMd', 99: 'AES',
}  # fmt: skip
_WHERE = re.compile(r'([0-9]+)\+([0-9]+)(z[0-9]+)?c([0-9a-f]{8})')
_RAW_WBITS = -15


class _Directory(NamedTuple):
    """Where the central directory is.

    Attributes:
      start: of it, in the file.
      size_bytes: of it.
      entries: as many it should have; modulo 65,536 without zip64.
      is_zip64: whether that is their number.
      shift: bytes before the archive, which offsets do not count.
    """

    start: int
    size_bytes: int
    entries: int
    is_zip64: bool
    shift: int


class _Entry(NamedTuple):
    """What the central directory says of a file; sizes and offset from where they stand."""

    system: int
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    disk: int
    attributes: int
    offset: int
    name: str


def _members(source: Source, wanted: Wanted) -> Iterator[Found]:
    reader = _Reader(source)

    def read(part: Part, max_bytes: int) -> bytes:
        return reader.read(part.where, max_bytes, lambda _: None)

    return index_of(_parts(source), wanted, read)


def _parts(source: Source) -> Iterator[Part]:
    directory = _find_directory(source)
    count = 0
    data_bytes = 0
    for entry in _entries(source, directory):
        count += 1
        if entry.name.endswith('/'):
            continue
        data_bytes += _LOCAL.size + entry.packed_bytes
        part = _part(entry, directory)
        # Each byte belongs to one of them only; a small file could unpack to petabytes else.
        if part.reason is None and data_bytes > directory.start:
            detail = 'members of this archive overlap'
            part = part._replace(reason=Reason.DECODE_ERROR, detail=detail)
        yield part
    said = directory.entries
    if count != said if directory.is_zip64 else count % 2**16 != said:
        detail = f'its central directory has {count} entries, and says it has {said}'
        raise BrokenError(Reason.DECODE_ERROR, detail)


def _part(entry: _Entry, directory: _Directory) -> Part:
    mode = entry.attributes >> 16 if entry.system == _UNIX else 0
    offset = entry.offset + directory.shift
    size = entry.size_bytes
    reason, detail = None, ''
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        reason, detail = Reason.NOT_A_FILE, f'a file of type {stat.filemode(mode)[0]}'
    elif entry.flags & _ENCRYPTED:
        reason, detail = Reason.UNSUPPORTED_FORMAT, 'encrypted'
    elif entry.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.method, f'method {entry.method}')
        reason, detail = Reason.UNSUPPORTED_FORMAT, f'packed with {method}: store or deflate it'
    elif entry.disk:
        reason, detail = Reason.UNSUPPORTED_FORMAT, f'in part {entry.disk} of the archive'
    elif offset + _LOCAL.size + entry.packed_bytes > directory.start:
        reason, detail = Reason.DECODE_ERROR, 'its place is not in the archive'
    elif entry.method == _STORED and size != entry.packed_bytes:
        detail = f'{size} bytes, and {entry.packed_bytes} in the archive, though it is not packed'
        reason = Reason.DECODE_ERROR
    packing = f'z{size}' if entry.method == _DEFLATED else ''
    where = f'{offset}+{entry.packed_bytes}{packing}c{entry.crc:08x}'
    return Part(entry.name, where, size, reason, detail)


def _find_directory(source: Source) -> _Directory:
    """Reads the end of an archive.

    Raises:
      BrokenError: it is none.
    """
    if not source.size_bytes:
        raise BrokenError(Reason.EMPTY, '0 bytes')
    most = _MAX_COMMENT_BYTES + _END.size + _LOCATOR.size + _END64.size
    base = max(0, source.size_bytes - most)
    tail = source.range(base, most)
    place = tail.rfind(_END_MAGIC)
    while place >= 0:
        if place + _END.size <= len(tail):
            end = _END.unpack_from(tail, place)
            if place + _END.size + end[-1] <= len(tail):
                break
        place = tail.rfind(_END_MAGIC, 0, place)
    if place < 0:
        if source.range(0, 4) == _LOCAL_MAGIC:
            raise BrokenError(Reason.TRUNCATED, 'it ends before its central directory')
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'no zip archive')
    _, disk, first_disk, _, entries, size, offset, _ = end
    stop = base + place
    is_zip64 = place >= _LOCATOR.size and tail.startswith(_LOCATOR_MAGIC, place - _LOCATOR.size)
    if is_zip64:
        where = _LOCATOR.unpack_from(tail, place - _LOCATOR.size)[2]
        stop, (disk, first_disk, entries, size, offset) = _read_end64(source, where, stop)
    if disk or first_disk:
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'one part of an archive of several')
    shift = stop - size - offset
    if shift < 0:
        raise BrokenError(Reason.DECODE_ERROR, 'its central directory is not where it says')
    return _Directory(stop - size, size, entries, is_zip64, shift)


def _read_end64(
    source: Source, where: int, stop: int
) -> tuple[int, tuple[int, int, int, int, int]]:
    """The end that zip64 has, which lies right before its locator, and where that begins."""
    nearest = stop - _LOCATOR.size - _END64.size
    # Where something lies before the archive, the offset is not that in the file.
    for place in (where, nearest):
        if 0 <= place <= nearest:
            data = source.range(place, _END64.size)
            if data.startswith(_END64_MAGIC) and len(data) == _END64.size:
                _, _, _, _, disk, first_disk, _, entries, size, offset = _END64.unpack(data)
                return place, (disk, first_disk, entries, size, offset)
    raise BrokenError(Reason.DECODE_ERROR, 'its end of zip64 is not where it says')


def _entries(source: Source, directory: _Directory) -> Iterator[_Entry]:
    place, end = directory.start, directory.start + directory.size_bytes
    data, at = b'', 0
    while True:
        if len(data) - at < _ENTRY.size + 3 * _MAX_COMMENT_BYTES and place < end:
            more = source.range(place, min(_BLOCK_BYTES, end - place))
            data, at = data[at:] + more, 0
            place = place + len(more) if more else end
        if at == len(data):
            return
        where = place - len(data) + at
        if len(data) - at < _ENTRY.size or not data.startswith(_ENTRY_MAGIC, at):
            raise _damaged(where)
        fields = _ENTRY.unpack_from(data, at)
        name_end = at + _ENTRY.size + fields[11]
        extra_end = name_end + fields[12]
        if extra_end + fields[13] > len(data):
            raise _damaged(where)
        yield _entry(fields, data[at + _ENTRY.size : name_end], data[name_end:extra_end])
        at = extra_end + fields[13]


def _damaged(place: int) -> BrokenError:
    detail = f'its central directory is damaged at byte {place}; what follows is not read'
    return BrokenError(Reason.DECODE_ERROR, detail)


def _entry(fields: tuple[int, ...], raw: bytes, extra: bytes) -> _Entry:
    _, _, system, _, flags, method, _, _, crc, packed, size = fields[:11]
    disk, _, attributes, offset = fields[14:]
    if extra:
        extras = dict(_extras(extra))
        if _IN_ZIP64 in (packed, size, offset):
            large = extras.get(_ZIP64, b'')
            size, large = _large(size, large)
            packed, large = _large(packed, large)
            offset, large = _large(offset, large)
        other = extras.get(_UNICODE_PATH, b'')
        if len(other) > 5 and int.from_bytes(other[1:5], 'little') == zlib.crc32(raw):
            raw, flags = other[5:], flags | _IS_UTF8
    return _Entry(
        *(system, flags, method, crc, packed, size, disk, attributes, offset),
        _name(raw, flags),
    )


def _large(value: int, large: bytes) -> tuple[int, bytes]:
    """A number that may stand in the extra field, and what follows it there."""
    if value != _IN_ZIP64 or len(large) < 8:
        return value, large
    return int.from_bytes(large[:8], 'little'), large[8:]


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        key, size = struct.unpack_from('<HH', extra, at)
        yield key, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _name(raw: bytes, flags: int) -> str:
    """The name; what does not say that it is UTF-8 may be it nonetheless, as a Mac writes it."""
    if flags & _IS_UTF8:
        return raw.decode('utf-8', 'surrogateescape')
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode('cp437')


class _Reader:
    held_bytes = 0

    def __init__(self, source: Source):
        self._source = source

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        found = _WHERE.fullmatch(where)
        if not found:
            raise own_error(Reason.CHANGED_WHILE_READING, 'nothing of a zip archive lies there')
        offset, packed_bytes, crc = int(found[1]), int(found[2]), int(found[4], 16)
        size = int(found[3][1:]) if found[3] else packed_bytes
        if max(size, packed_bytes) > max_bytes:
            detail = f'{max(size, packed_bytes)} bytes, limit {max_bytes}'
            raise own_error(Reason.TOO_MANY_BYTES, detail, size)
        if not size:
            raise own_error(Reason.EMPTY, '0 bytes', 0)
        begin = self._data_of(offset, _DEFLATED if found[3] else _STORED, packed_bytes, crc)
        admit(packed_bytes + (size if found[3] else 0))
        end = min(begin, self._source.size_bytes)
        data = self._source.range(end, packed_bytes)
        if len(data) < packed_bytes:
            detail = f'its archive ends behind {len(data)} of its {packed_bytes} bytes'
            raise own_error(Reason.TRUNCATED, detail, len(data))
        if found[3]:
            data = _inflate(data, size)
        if zlib.crc32(data) != crc:
            raise own_error(Reason.CHECKSUM, 'not the CRC-32 that the archive has', size)
        return data

    def _data_of(self, offset: int, method: int, packed_bytes: int, crc: int) -> int:
        """Where the data of a member begin, behind its own header."""
        header = self._source.range(min(offset, self._source.size_bytes), _LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MAGIC):
            raise own_error(Reason.DECODE_ERROR, 'no header of a member where the archive says')
        fields = _LOCAL.unpack(header)
        flags = fields[2]
        is_same = fields[3] == method and not flags & _ENCRYPTED
        if not flags & _HAS_DESCRIPTOR:
            is_same &= fields[6] == crc and fields[7] in (packed_bytes, _IN_ZIP64)
        if not is_same:
            raise own_error(Reason.DECODE_ERROR, 'its own header differs from the directory')
        return offset + _LOCAL.size + int(fields[9]) + int(fields[10])


def _inflate(packed: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(_RAW_WBITS)
    try:
        data = unpacker.decompress(packed, size + 1)
    except zlib.error as e:
        raise own_error(Reason.DECODE_ERROR, 'stored as deflate, but is not', len(packed)) from e
    if len(data) != size or not unpacker.eof:
        least = 'more than ' if len(data) > size else ''
        detail = f'unpacks to {least}{min(len(data), size)} bytes, and says {size}'
        raise own_error(Reason.DECODE_ERROR, detail, size)
    return data


ZIP = Format(members=_members, open=_Reader)
