"""Where the buffers of the batches of an Arrow file lie, in its file or its stream format.

Arrow's own readers hold a whole batch in memory, of all columns, and one batch may be all of a
file; here each buffer is a range.  The messages are FlatBuffers:
https://github.com/apache/arrow/blob/main/format/Message.fbs,
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
and https://flatbuffers.dev/internals/
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from transforms.core.reasons import Reason
from transforms.storage.containers.archive import BrokenError
from transforms.storage.containers.base import Source

FILE_MAGIC = b'ARROW1'
_FIRST_VERSION_MAGIC = b'FEA1'
_FILE_START = 8
_CONTINUATION = b'\xff' * 4
_HEAD_BYTES = 8
_MAX_METADATA_BYTES = 16 * 2**20
_USUAL_BYTES = 16 * 2**10  # of a message without its body
_SCHEMA, _RECORD_BATCH = 1, 3  # kinds of messages
_KIND, _HEADER, _BODY_BYTES = 1, 2, 3  # fields of a message
_ROWS, _BUFFERS, _COMPRESSION = 0, 2, 3  # fields of a record batch
_BIG_ENDIAN = 1
_CODECS = {0: 'lz4', 1: 'zstd'}


class Buffer(NamedTuple):
    """Where a buffer lies in the file."""

    offset: int
    size_bytes: int


class Batch(NamedTuple):
    """A record batch.

    Attributes:
      rows: of it.
      buffers: of all columns, in the order of the schema.
      codec: by which each buffer is compressed, '' if they are not.
      size_bytes: of all that it takes in the file.
    """

    rows: int
    buffers: Sequence[Buffer]
    codec: str
    size_bytes: int


def read_schema(source: Source) -> tuple[pa.Schema, int]:
    """The schema, and where the first message behind it begins.

    Raises:
      BrokenError: it is no Arrow file.
    """
    if not source.size_bytes:
        raise BrokenError(Reason.EMPTY, '0 bytes')
    source.expect(0, _USUAL_BYTES)
    begin = source.range(0, _HEAD_BYTES)
    if begin.startswith(_FIRST_VERSION_MAGIC):
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'Feather of version 1: write version 2')
    place = _FILE_START if begin.startswith(FILE_MAGIC) else 0
    head = source.range(min(place, source.size_bytes), _HEAD_BYTES)
    if not head.startswith(_CONTINUATION):
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'no Arrow file')
    try:
        message, body, end = _message(source, place)
        if message.number(_KIND, 'B') != _SCHEMA:
            raise ValueError('no schema')
        if message.table(_HEADER).number(0, 'h') == _BIG_ENDIAN:
            raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'its numbers are big-endian')
        return pa.ipc.read_schema(pa.py_buffer(source.range(place, body - place))), end
    except (pa.ArrowException, OSError, ValueError, struct.error) as e:
        raise BrokenError(Reason.DECODE_ERROR, 'its schema cannot be read') from e


def batches(source: Source, place: int) -> Iterator[Batch]:
    """The record batches, from a message on.

    Raises:
      BrokenError: what is behind those before is lost.
    """
    number = 0
    is_file = source.range(0, len(FILE_MAGIC)) == FILE_MAGIC
    while True:
        source.expect(place, place + _USUAL_BYTES)
        head = source.range(min(place, source.size_bytes), _HEAD_BYTES)
        if head == _CONTINUATION + bytes(4) or (not head and not is_file):
            break
        try:
            message, body, end = _message(source, place)
            if message.number(_KIND, 'B') == _RECORD_BATCH:
                yield _batch(message.table(_HEADER), body, end - place, end)
                number += 1
        except (ValueError, struct.error) as e:
            if len(head) < _HEAD_BYTES or isinstance(e, _BehindTheEndError):
                detail = f'it ends within or behind batch {number}'
                raise BrokenError(Reason.TRUNCATED, detail) from e
            raise BrokenError(Reason.DECODE_ERROR, f'batch {number} cannot be read') from e
        place = end
    if is_file and source.range(source.size_bytes - len(FILE_MAGIC), 6) != FILE_MAGIC:
        raise BrokenError(Reason.TRUNCATED, 'it ends before its footer does')


class _BehindTheEndError(ValueError):
    """A message says that it goes on where there is no more."""


def _message(source: Source, place: int) -> tuple['_Table', int, int]:
    """The message at a place, where its body begins, and where that ends."""
    head = source.range(min(place, source.size_bytes), _HEAD_BYTES)
    if not head.startswith(_CONTINUATION) or len(head) < _HEAD_BYTES:
        raise ValueError('no message')
    size = int.from_bytes(head[4:], 'little', signed=True)
    body = place + _HEAD_BYTES + size
    if not 0 < size <= _MAX_METADATA_BYTES:
        raise ValueError('no length of a message')
    if body > source.size_bytes:
        raise _BehindTheEndError('a message')
    data = source.range(place + _HEAD_BYTES, size)
    message = _Table(data, _get(data, 'L', 0))
    body_bytes = message.number(_BODY_BYTES, 'q')
    if body_bytes < 0:
        raise ValueError('no length of a body')
    if body + body_bytes > source.size_bytes:
        raise _BehindTheEndError('a body')
    return message, body, body + body_bytes


def _batch(table: '_Table', body: int, size_bytes: int, end: int) -> Batch:
    rows = table.number(_ROWS, 'q')
    codec = ''
    if table.has(_COMPRESSION):
        codec = _CODECS.get(table.table(_COMPRESSION).number(0, 'b'), '')
        if not codec:
            raise ValueError('an unknown compression')
    buffers = [Buffer(body + offset, size) for offset, size in table.pairs(_BUFFERS)]
    if rows < 0 or any(each.offset < body or each.size_bytes < 0 for each in buffers):
        raise ValueError('a number below zero')
    if any(each.offset + each.size_bytes > end for each in buffers):
        raise ValueError('a buffer that is not in its batch')
    return Batch(rows, buffers, codec, size_bytes)


class _Table:
    """A table of FlatBuffers; what lies outside of its bytes raises ValueError or struct.error."""

    def __init__(self, data: bytes, place: int):
        self._data = data
        self._place = place
        self._fields = place - _get(data, 'l', place)
        self._fields_bytes = _get(data, 'H', self._fields)

    def has(self, field: int) -> bool:
        """Whether it has a field."""
        return bool(self._offset(field))

    def number(self, field: int, kind: str) -> int:
        """A number, 0 without."""
        offset = self._offset(field)
        return _get(self._data, kind, self._place + offset) if offset else 0

    def table(self, field: int) -> '_Table':
        """A table in it."""
        return _Table(self._data, self._follow(field))

    def pairs(self, field: int) -> Iterator[Any]:
        """A list of two numbers each."""
        if not self.has(field):
            return iter(())
        start = self._follow(field)
        count = _get(self._data, 'L', start)
        if 16 * count > len(self._data) - start - 4:
            raise ValueError('a list behind the end')
        return struct.iter_unpack('<qq', self._data[start + 4 : start + 4 + 16 * count])

    def _follow(self, field: int) -> int:
        place = self._place + self._offset(field)
        return place + _get(self._data, 'L', place)

    def _offset(self, field: int) -> int:
        place = 4 + 2 * field
        return _get(self._data, 'H', self._fields + place) if place < self._fields_bytes else 0


def _get(data: bytes, kind: str, place: int) -> int:
    if place < 0:
        raise ValueError('a place before the beginning')
    (number,) = struct.unpack_from(f'<{kind}', data, place)
    return int(number)
