"""Arrow files (.arrow, and .feather of version 2) with pictures in a column of bytes.

They are in Arrow's file or its stream format.  A picture that is not compressed is read by ranges
of its own, and those of a batch in one go if they are asked for one after the other; else the
buffers of its batch are unpacked as a whole, and kept for the next one.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.containers import tables
from transforms.storage.containers.archive import BrokenError, own_error
from transforms.storage.containers.arrow_messages import Batch, Buffer, batches, read_schema
from transforms.storage.containers.base import Format, Found, Source, Wanted
from transforms.storage.containers.tables import Group, Leaf

_MAX_BUFFER_BYTES = 256 * 2**20
_MAX_ROWS_OF_BYTE = 100
_PREFIX_BYTES = 8  # of a compressed buffer: what it comes to
_NOT_PACKED = -1
_NEAR_ROWS = 16
_WHERE = re.compile(r'([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19})')
_DAMAGES = (pa.ArrowException, OSError, ValueError, OverflowError, struct.error)


class _Column(NamedTuple):
    """A column that holds values, and where its buffers are among those of a batch.

    Attributes:
      type: of its values.
      first: of its buffers.
      buffers: as many it has.
      above: the first buffers of the structs that it is in, which tell where they are null.
    """

    type: pa.DataType
    first: int
    buffers: int
    above: tuple[int, ...]


def _columns(schema: pa.Schema) -> tuple[list[Leaf], list[_Column]]:
    """The columns of a schema up to one whose buffers are not known."""
    leaves: list[Leaf] = []
    columns: list[_Column] = []
    left: list[tuple[str, pa.DataType, tuple[int, ...]]] = [
        (field.name, field.type, ()) for field in reversed(schema)
    ]
    first = 0
    while left:
        path, kind, above = left.pop()
        if pa.types.is_struct(kind):
            fields = [kind.field(i) for i in range(kind.num_fields)]
            left += [(f'{path}.{each.name}', each.type, (*above, first)) for each in fields[::-1]]
            first += 1
            continue
        count = _buffers_of(kind)
        if count is None:
            break
        is_plain = not pa.types.is_nested(kind) and not pa.types.is_dictionary(kind)
        is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        leaves.append(Leaf(len(leaves), path, is_binary, is_text, is_plain))
        columns.append(_Column(kind, first, count, above))
        first += count
    return leaves, columns


def _buffers_of(kind: pa.DataType) -> int | None:
    """How many buffers a column has in a batch; None where that is not told by its type."""
    types = pa.types
    if types.is_null(kind):
        return 0
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        inner = kind.field(0).type if types.is_map(kind) else kind.value_type
        return _with(2, _inner_buffers(inner))
    if types.is_fixed_size_list(kind):
        return _with(1, _inner_buffers(kind.value_type))
    is_variable = types.is_binary(kind) or types.is_large_binary(kind)
    if is_variable or types.is_string(kind) or types.is_large_string(kind):
        return 3
    if types.is_dictionary(kind) or types.is_primitive(kind) or types.is_decimal(kind):
        return 2
    return 2 if types.is_boolean(kind) or types.is_fixed_size_binary(kind) else None


def _inner_buffers(kind: pa.DataType) -> int | None:
    if not pa.types.is_struct(kind):
        return _buffers_of(kind)
    count: int | None = 1
    for i in range(kind.num_fields):
        count = _with(count, _inner_buffers(kind.field(i).type))
    return count


def _with(count: int | None, more: int | None) -> int | None:
    return None if count is None or more is None else count + more


def _members(source: Source, wanted: Wanted) -> Iterator[Found]:
    try:
        yield from _table(source, wanted)
    except BrokenError as e:
        yield e.problem


def _table(source: Source, wanted: Wanted) -> Iterator[Found]:
    schema, start = read_schema(source)
    try:
        leaves, places = _columns(schema)
    except ValueError as e:  # a name that is no text
        raise BrokenError(Reason.DECODE_ERROR, 'its schema cannot be read') from e
    columns = tables.find_columns(source, leaves, wanted)
    others = [*([columns.path] if columns.path else []), *columns.carried]

    def values(number: int, batch: Batch, several: Sequence[Leaf]) -> Iterator[Sequence[pa.Array]]:
        alive()
        if several:
            buffers = _Buffers(source, batch)
            try:
                arrays = [_array(buffers, places[leaf.number]) for leaf in several]
            except _DAMAGES as e:
                detail = f'batch {number} cannot be decoded'
                raise BrokenError(Reason.DECODE_ERROR, detail) from e
            for first in range(0, batch.rows, tables.MAX_BATCH_ROWS):
                yield [each.slice(first, tables.MAX_BATCH_ROWS) for each in arrays]

    def groups() -> Iterator[Group]:
        for number, batch in enumerate(batches(source, start)):
            if batch.rows > _MAX_ROWS_OF_BYTE * batch.size_bytes:
                detail = f'batch {number} has {batch.rows} pictures in {batch.size_bytes} bytes'
                raise BrokenError(Reason.DECODE_ERROR, detail)
            yield Group(number, batch.rows, values(number, batch, others))

    paths = (
        arrays[0]
        for group in _whole(groups() if columns.path else iter(()))
        for arrays in group.batches
    )
    yield from tables.members_of(columns, groups(), paths)


def _whole(groups: Iterator[Group]) -> Iterator[Group]:
    """Those before the file breaks off, which is told when it is read again."""
    try:
        yield from groups
    except BrokenError:
        return


class _Buffers:
    """The buffers of a batch, those that are compressed unpacked once."""

    def __init__(self, source: Source, batch: Batch):
        self._source = source
        self._batch = batch
        self._unpacked: dict[int, pa.Buffer] = {}

    @property
    def held_bytes(self) -> int:
        """Of those that are unpacked."""
        return sum(each.size for each in self._unpacked.values())

    @property
    def rows(self) -> int:
        """Of the batch."""
        return self._batch.rows

    def around(self, column: _Column) -> tuple[int, int]:
        """Where those of a column, and of the structs that it is in, begin and end in the file."""
        indices = (*column.above, *range(column.first, column.first + column.buffers))
        places = [self._place(index) for index in indices]
        start = min((each.offset for each in places), default=0)
        return start, max((each.offset + each.size_bytes for each in places), default=0)

    def size(self, index: int) -> int:
        """Bytes of a buffer, 0 where it is left out."""
        place = self._place(index)
        if not self._batch.codec or not place.size_bytes:
            return place.size_bytes
        return int(self._all(index).size)

    def part(self, index: int, start: int, size: int) -> bytes:
        """Bytes of a buffer.

        Raises:
          ValueError: it has not so many.
        """
        place = self._place(index)
        if start < 0 or size < 0 or start + size > self.size(index):
            raise ValueError('a buffer that is too short')
        if not self._batch.codec:
            return self._source.range(place.offset + start, size)
        data: bytes = self._all(index).slice(start, size).to_pybytes()
        return data

    def whole(self, index: int) -> pa.Buffer:
        """All of a buffer."""
        if self._batch.codec and self._place(index).size_bytes:
            return self._all(index)
        _check_size(self._place(index).size_bytes)
        return pa.py_buffer(self.part(index, 0, self.size(index)))

    def _place(self, index: int) -> Buffer:
        if index >= len(self._batch.buffers):
            raise ValueError('a buffer that is not there')
        return self._batch.buffers[index]

    def _all(self, index: int) -> pa.Buffer:
        if index not in self._unpacked:
            place = self._place(index)
            _check_size(place.size_bytes)
            data = self._source.range(place.offset, place.size_bytes)
            size = int.from_bytes(data[:_PREFIX_BYTES], 'little', signed=True)
            packed = data[_PREFIX_BYTES:]
            if size in (_NOT_PACKED, 0):
                self._unpacked[index] = pa.py_buffer(packed)
            else:
                _check_size(size)
                codec = self._batch.codec
                unpacked = pa.decompress(packed, decompressed_size=size, codec=codec)
                self._unpacked[index] = unpacked
        return self._unpacked[index]


def _check_size(size: int) -> None:
    if size < 0:
        raise ValueError('a buffer of less than no bytes')
    if size > _MAX_BUFFER_BYTES:
        detail = (
            f'a batch has a buffer of {size} bytes, limit {_MAX_BUFFER_BYTES}: write it with '
            'fewer rows a batch'
        )
        raise BrokenError(Reason.TOO_MANY_BYTES, detail)


def _array(buffers: _Buffers, column: _Column) -> pa.Array:
    """The values of a column, null where a struct that they are in is; text as bytes.

    Raises:
      ValueError: the buffers do not fit each other; pyarrow's errors are such.
    """
    kind = column.type
    if pa.types.is_string(kind):
        kind = pa.binary()
    elif pa.types.is_large_string(kind):
        kind = pa.large_binary()
    first = column.first
    parts = [buffers.whole(first + i) for i in range(column.buffers)]
    if not parts or not parts[0].size:
        parts[:1] = [None]  # no null is told of
    array = pa.Array.from_buffers(kind, buffers.rows, parts)
    array.validate(full=True)
    for index in column.above:
        if buffers.size(index):
            is_there = pa.Array.from_buffers(pa.bool_(), buffers.rows, [None, buffers.whole(index)])
            is_there.validate(full=True)
            array = pc.if_else(is_there, array, pa.scalar(None, kind))
    return array


class _Reader:
    def __init__(self, source: Source):
        self._source = source
        self._columns: list[_Column] = []
        self._left: Iterator[Batch] | None = None
        self._batches: list[Batch] = []
        self._group = -1
        self._row = 0
        self._buffers: _Buffers | None = None

    @property
    def held_bytes(self) -> int:
        return self._buffers.held_bytes if self._buffers is not None else 0

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        found = _WHERE.fullmatch(where)
        if not found:
            raise own_error(Reason.CHANGED_WHILE_READING, 'no row of an Arrow file lies there')
        group, row, leaf = map(int, found.groups())
        try:
            batch = self._batch(group)
            if leaf >= len(self._columns) or row >= batch.rows:
                detail = 'no such row of a column of bytes lies there'
                raise own_error(Reason.CHANGED_WHILE_READING, detail)
            is_next = self._is_next(group, row)
            if self._buffers is None or group != self._group:
                self._buffers = _Buffers(self._source, batch)
            self._group, self._row = group, row
            column = self._columns[leaf]
            self._source.expect(*self._buffers.around(column) if is_next else (0, 0))
            return _value(self._buffers, column, row, max_bytes, admit)
        except BrokenError as e:
            raise own_error(e.problem.reason, e.problem.detail) from e
        except _DAMAGES as e:
            detail = f'batch {group} cannot be decoded at row {row}'
            raise own_error(Reason.DECODE_ERROR, detail) from e

    def _is_next(self, group: int, row: int) -> bool:
        """Whether pictures are asked for one after the other, by several threads perhaps."""
        if group == self._group:
            return abs(row - self._row) <= _NEAR_ROWS
        return group > self._group >= 0 and row <= _NEAR_ROWS

    def _batch(self, group: int) -> Batch:
        if group < len(self._batches):
            return self._batches[group]
        if self._left is None:
            schema, start = read_schema(self._source)
            self._columns = _columns(schema)[1]
            self._left = batches(self._source, start)
            self._batches = []
        while len(self._batches) <= group:
            left, self._left = self._left, None  # what is raised here ends them
            batch = next(left, None)
            if batch is None:
                raise own_error(Reason.CHANGED_WHILE_READING, f'there is no batch {group}')
            self._batches.append(batch)
            self._left = left
        return self._batches[group]


def _value(
    buffers: _Buffers, column: _Column, row: int, max_bytes: int, admit: Callable[[int], None]
) -> bytes:
    if column.buffers != 3:
        raise own_error(Reason.CHANGED_WHILE_READING, 'no column of bytes lies there')
    for index in (*column.above, column.first):
        if buffers.size(index) and not buffers.part(index, row // 8, 1)[0] >> row % 8 & 1:
            raise own_error(Reason.EMPTY, 'null', 0)
    is_large = pa.types.is_large_binary(column.type) or pa.types.is_large_string(column.type)
    width = 8 if is_large else 4
    offsets: Any = buffers.part(column.first + 1, row * width, 2 * width)
    start, end = struct.unpack('<qq' if is_large else '<ll', offsets)
    size = end - start
    if not size:
        raise own_error(Reason.EMPTY, '0 bytes', 0)
    if size > max_bytes:
        raise own_error(Reason.TOO_MANY_BYTES, f'{size} bytes, limit {max_bytes}', size)
    admit(max(0, size))
    return buffers.part(column.first + 2, start, size)


ARROW = Format(members=_members, open=_Reader, held_bytes=2 * _MAX_BUFFER_BYTES)
