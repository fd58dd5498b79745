"""What reading a column chunk of a Parquet file may take, from the headers of its pages.

The footer is read here, too: asked for a column chunk, Arrow ends the process where what the
footer says of it cannot be (a histogram of another length, for one).

A footer may say anything, and a few bytes may hold one value of megabytes that a million rows
repeat.  A page is decompressed as a whole, and no value is longer than the page it stands in.
The headers are written in Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import enum
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

_WINDOW_BYTES = 256
_MAX_HEADER_BYTES = 16 * 2**20  # as Arrow has it
_MAX_DEPTH = 8
# Fields of a page header; those of data pages and dictionaries have their number of values first.
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE, _DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 7, 8
_VALUES = 1
_NONE = {_VALUES: 0}


class _Type(enum.IntEnum):
    """Types of the compact protocol."""

    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    STRUCT = 12


# Fields of a footer, and of the metadata of a column chunk.
_ROW_GROUPS, _COLUMNS, _ROWS, _METADATA = 4, 1, 3, 3
_ENCODINGS, _CHUNK_VALUES, _CHUNK_COMPRESSED_SIZE, _DATA_OFFSET, _DICTIONARY_OFFSET = 2, 5, 7, 9, 11
_DELTA = (5, 6, 7)  # encodings
_FOOTER_END_BYTES = 8  # its length, and 'PAR1'
_MAX_FOOTER_BYTES = 32 * 2**20


class Chunk(NamedTuple):
    """A column of a row group, as the footer tells.

    Attributes:
      start: of its first page, in the file.
      size_bytes: of all its pages, as they are in the file.
      values: in it, each element of a list counted.
      is_delta: whether some are stored by what they differ in.
    """

    start: int
    size_bytes: int
    values: int
    is_delta: bool

    @property
    def end(self) -> int:
        """Behind its last page."""
        return self.start + self.size_bytes


class RowGroup(NamedTuple):
    """A row group, as the footer tells."""

    rows: int
    chunks: Sequence[Chunk]


class Pages(NamedTuple):
    """The pages of a column chunk.

    Attributes:
      largest_bytes: of one page, uncompressed.
      values: in all data pages together, each element of a list counted.
    """

    largest_bytes: int
    values: int


def read_footer(stream: BinaryIO) -> list[RowGroup]:
    """The row groups of a file, as its footer has them.

    Args:
      stream: the file, which can be sought in, and which Arrow has opened.

    Raises:
      ValueError: it is no footer, or too large a one.
    """
    stream.seek(-_FOOTER_END_BYTES, io.SEEK_END)
    size = int.from_bytes(stream.read(4), 'little')
    if size > _MAX_FOOTER_BYTES:
        raise ValueError(f'a footer of {size} bytes, limit {_MAX_FOOTER_BYTES}')
    stream.seek(-_FOOTER_END_BYTES - size, io.SEEK_END)
    try:
        footer = _Reader(stream.read(size)).struct(_MAX_DEPTH)
    except IndexError as e:
        raise ValueError('a footer that does not end') from e
    return [
        RowGroup(_number(group, _ROWS), [_chunk(each) for each in _structs(group, _COLUMNS)])
        for group in _structs(footer, _ROW_GROUPS)
    ]


def _chunk(column: dict[int, Any]) -> Chunk:
    fields = column.get(_METADATA)
    if not isinstance(fields, dict):
        raise ValueError('a column chunk that is not told about')  # as where it is encrypted
    dictionary = fields.get(_DICTIONARY_OFFSET)
    start = _number(fields, _DATA_OFFSET)
    if dictionary:
        start = min(start, _number(fields, _DICTIONARY_OFFSET))
    encodings = fields.get(_ENCODINGS, [])
    is_delta = isinstance(encodings, list) and any(each in _DELTA for each in encodings)
    size = _number(fields, _CHUNK_COMPRESSED_SIZE)
    return Chunk(start, size, _number(fields, _CHUNK_VALUES), is_delta)


def _structs(fields: dict[int, Any], key: int) -> list[dict[int, Any]]:
    """The structs of a list, which may be left out."""
    values = fields.get(key, [])
    if not isinstance(values, list) or not all(isinstance(each, dict) for each in values):
        raise ValueError('something else in the place of a list')
    return values


def read_pages(stream: BinaryIO, chunk: Chunk) -> Pages:
    """Reads the headers of all pages of a column chunk.

    Args:
      stream: the file, which can be sought in.
      chunk: of `read_footer`.

    Raises:
      ValueError: there is something else than a page.
    """
    largest = values = 0
    for page in each_page(stream, chunk):
        largest = max(largest, page.largest_bytes)
        values += page.values
    return Pages(largest, values)


def each_page(stream: BinaryIO, chunk: Chunk) -> Iterator[Pages]:
    """The same of one page after the other, read when it is asked for."""
    place = chunk.start
    values = 0
    while place < chunk.end and values < chunk.values:
        header, length = _read_header(stream, place, chunk.end)
        uncompressed = _number(header, _UNCOMPRESSED_SIZE)
        compressed = _number(header, _COMPRESSED_SIZE)
        # A dictionary is given room for as many values as it says, whatever its size.
        if _number(header.get(_DICTIONARY_PAGE, _NONE), _VALUES) > 8 * uncompressed:
            raise ValueError('a dictionary with more values than bytes')
        kinds = (_DATA_PAGE, _DATA_PAGE_V2)
        here = sum(_number(header.get(kind, _NONE), _VALUES) for kind in kinds)
        yield Pages(uncompressed, here)
        values += here
        place += length + compressed


def _number(fields: Any, key: int) -> int:
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, int) or value < 0:
        raise ValueError('a page without its size')
    return value


def _read_header(stream: BinaryIO, place: int, end: int) -> tuple[dict[int, Any], int]:
    """The header that begins at a place, and its length; its column chunk has an end."""
    window = _WINDOW_BYTES
    while True:
        stream.seek(place)
        data = stream.read(min(window, end - place))
        reader = _Reader(data)
        try:
            return reader.struct(_MAX_DEPTH), reader.place
        except IndexError as e:
            # Minima and maxima may be long; or it is none.
            if len(data) < window or window > _MAX_HEADER_BYTES:
                raise ValueError('a page whose header does not end') from e
        window *= 16


class _Reader:
    """Reads a struct; strings and lists are skipped.  Past the end it raises IndexError."""

    def __init__(self, data: bytes):
        self._data = data
        self.place = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if not depth:
            raise ValueError('a header that is nested too deeply')
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 15
            number = number + delta if delta else self._integer()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case _Type.TRUE | _Type.FALSE:
                return kind
            case _Type.BYTE:
                return self._byte()
            case _Type.I16 | _Type.I32 | _Type.I64:
                return self._integer()
            case _Type.DOUBLE:
                return self._pass(8)
            case _Type.BINARY:
                return self._pass(self._varint())
            case _Type.STRUCT:
                return self.struct(depth - 1)
            case _Type.LIST | _Type.SET:
                return self._list(depth - 1)
        raise ValueError(f'a field of type {kind}')

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if kind in (_Type.TRUE, _Type.FALSE):
            kind = _Type.BYTE  # in lists each stands in a byte of its own
        values = []
        for _ in range(size):
            if self.place >= len(self._data):
                raise IndexError
            values.append(self._value(kind, depth))
        return values

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _pass(self, length: int) -> None:
        self.place += length
        if self.place > len(self._data):
            raise IndexError

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError('a number that does not end')

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
