"""What reading a column chunk of a Parquet file may take, from the headers of its pages.

A footer may say anything, and a few bytes may hold one value of megabytes that a million rows
repeat.  A page is decompressed as a whole, and no value is longer than the page it stands in.
The headers are written in Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

import enum
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
    STRUCT = 12


class Pages(NamedTuple):
    """The pages of a column chunk.

    Attributes:
      largest_bytes: of one page, uncompressed.
      values: in all data pages together, each element of a list counted.
    """

    largest_bytes: int
    values: int


def read_pages(stream: BinaryIO, chunk: Any) -> Pages:
    """Reads the headers of all pages of a column chunk.

    Args:
      stream: the file, which can be sought in.
      chunk: the `pyarrow.parquet.ColumnChunkMetaData` of the chunk.

    Raises:
      ValueError: there is something else than a page.
    """
    place = chunk.data_page_offset
    if chunk.has_dictionary_page:
        place = min(place, chunk.dictionary_page_offset or place)
    end = place + chunk.total_compressed_size
    largest = values = 0
    while place < end and values < chunk.num_values:
        header, length = _read_header(stream, place)
        uncompressed = _number(header, _UNCOMPRESSED_SIZE)
        compressed = _number(header, _COMPRESSED_SIZE)
        # A dictionary is given room for as many values as it says, whatever its size.
        if _number(header.get(_DICTIONARY_PAGE, _NONE), _VALUES) > 8 * uncompressed:
            raise ValueError('a dictionary with more values than bytes')
        for kind in (_DATA_PAGE, _DATA_PAGE_V2):
            values += _number(header.get(kind, _NONE), _VALUES)
        largest = max(largest, uncompressed)
        place += length + compressed
    return Pages(largest, values)


def _number(fields: Any, key: int) -> int:
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, int) or value < 0:
        raise ValueError('a page without its size')
    return value


def _read_header(stream: BinaryIO, place: int) -> tuple[dict[int, Any], int]:
    """The header that begins at a place, and its length."""
    window = _WINDOW_BYTES
    while True:
        stream.seek(place)
        data = stream.read(window)
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
        raise ValueError(f'a field of type {kind}')  # headers have no lists

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
