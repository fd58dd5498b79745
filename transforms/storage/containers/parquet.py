"""Parquet files with pictures in a column of bytes, or of struct<bytes, path>.

A picture is read by decoding its row group as far as it, a few rows at a time, so that no more
than a page and some pictures are in memory; the next one goes on from there.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.containers import tables
from transforms.storage.containers.archive import BrokenError, own_error
from transforms.storage.containers.base import Format, Found, Source, Wanted
from transforms.storage.containers.parquet_pages import (
    Chunk,
    Pages,
    RowGroup,
    each_page,
    read_footer,
    read_pages,
)
from transforms.storage.containers.stream import SourceStream
from transforms.storage.containers.tables import Group, Leaf

_MAGIC, _ENCRYPTED_MAGIC = b'PAR1', b'PARE'
_LEAST_BYTES = 12
_LISTING_BYTES = 8 * 2**20  # of a column, one request
_READING_BYTES = 2 * 2**20
_TAIL_BYTES = 64 * 2**10  # with which Arrow begins
_MAX_PAGE_BYTES = 256 * 2**20
_KEPT_BYTES, _MOST_KEPT_BYTES = 8 * 2**20, 32 * 2**20
_MOST_AT_ONCE = 16
_AT_ONCE_BYTES = 2 * 2**20
_KEPT_ROWS = 16  # of which each of as many threads may want one
_VALUE_BYTES = 200  # that a small one takes
_MAX_ROWS_OF_BYTE = 100
_WHERE = re.compile(r'([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19})')
_DAMAGES = (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError)


def _members(source: Source, wanted: Wanted) -> Iterator[Found]:
    try:
        yield from _table(source, wanted)
    except BrokenError as e:
        yield e.problem


def _table(source: Source, wanted: Wanted) -> Iterator[Found]:
    _check_begin(source)
    file, row_groups = _open(source, _LISTING_BYTES)
    columns = tables.find_columns(source, _leaves(file), wanted)
    others = [*([columns.path] if columns.path else []), *columns.carried]
    _check_groups(source, row_groups, [columns.image, *others])
    groups = (
        Group(number, group.rows, _batches(source, file, number, group, others))
        for number, group in enumerate(row_groups)
    )
    paths = (
        arrays[0]
        for number, group in enumerate(row_groups if columns.path else ())
        for arrays in _batches(source, file, number, group, others[:1])
    )
    yield from tables.members_of(columns, groups, paths)


def _check_begin(source: Source) -> None:
    """Raises BrokenError of what is none by its first bytes, whatever comes behind them."""
    if not source.size_bytes:
        raise BrokenError(Reason.EMPTY, '0 bytes')
    begin = source.range(0, 4)
    if begin == _ENCRYPTED_MAGIC:
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'encrypted')
    if begin != _MAGIC:
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'no Parquet file')


def _open(source: Source, buffer_bytes: int) -> tuple[Any, list[RowGroup]]:
    """The file, and what it has instead of its own metadata, see `parquet_pages`.

    Args:
      source: its bytes.
      buffer_bytes: so many of a column are asked for at a time.

    Raises:
      BrokenError: it is none.
    """
    end = source.range(max(0, source.size_bytes - 4), 4)
    if end == _ENCRYPTED_MAGIC:
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'encrypted')
    if end != _MAGIC or source.size_bytes < _LEAST_BYTES:
        raise BrokenError(Reason.TRUNCATED, 'it ends before its footer')
    try:
        stream: Any = SourceStream(source)
        file = pq.ParquetFile(stream, buffer_size=buffer_bytes, pre_buffer=False)
        file.schema_arrow.names  # noqa: B018 (a schema may be refused only now)
        row_groups = read_footer(stream)
        if any(len(group.chunks) != len(file.schema) for group in row_groups):
            raise ValueError('a row group that has not every column')
    except _DAMAGES as e:
        raise BrokenError(Reason.DECODE_ERROR, 'its footer cannot be read') from e
    return file, row_groups


def _leaves(file: Any) -> list[Leaf]:
    leaves = []
    for i in range(len(file.schema)):
        column = file.schema.column(i)
        is_bytes = column.physical_type == 'BYTE_ARRAY'
        has_meaning = column.logical_type.type != 'NONE' or column.converted_type != 'NONE'
        is_plain = not column.max_repetition_level
        is_binary, is_text = is_bytes and not has_meaning, is_bytes and has_meaning
        leaves.append(Leaf(i, column.path, is_binary, is_text, is_plain))
    return leaves


def _check_groups(source: Source, groups: Sequence[RowGroup], leaves: Sequence[Leaf]) -> None:
    """Refuses a footer that says what cannot be, before any row is listed."""
    for number, group in enumerate(groups):
        for leaf in leaves:
            chunk = group.chunks[leaf.number]
            is_there = chunk.end <= source.size_bytes
            if not is_there or chunk.values != group.rows:
                detail = f'row group {number} is not where its footer says'
                raise BrokenError(Reason.DECODE_ERROR, detail)
        size = group.chunks[leaves[0].number].size_bytes
        if group.rows > _MAX_ROWS_OF_BYTE * size:
            detail = f'row group {number} has {group.rows} pictures in {size} bytes'
            raise BrokenError(Reason.DECODE_ERROR, detail)


def _batches(
    source: Source, file: Any, number: int, group: RowGroup, leaves: Sequence[Leaf]
) -> Iterator[Sequence[pa.Array]]:
    """Values of a row group, so many rows at a time that they fit into memory."""
    if not leaves:
        return
    alive()
    stream: Any = SourceStream(source)
    try:
        pages = [read_pages(stream, group.chunks[leaf.number]) for leaf in leaves]
        largest = max(page.largest_bytes for page in pages)
        if largest > _MAX_PAGE_BYTES:
            raise BrokenError(Reason.TOO_MANY_BYTES, _too_large(number, largest))
        if any(page.values != group.rows for page in pages):
            raise ValueError('as many rows as it says are not there')
        rows = min(max(1, tables.MAX_BATCH_BYTES // max(1, largest)), tables.MAX_BATCH_ROWS)
        arguments = {'row_groups': [number], 'columns': [leaf.path for leaf in leaves]}
        for batch in file.iter_batches(rows, use_threads=False, **arguments):
            yield [tables.column_of(batch, leaf.path) for leaf in leaves]
    except _DAMAGES as e:
        detail = f'row group {number} cannot be decoded'
        raise BrokenError(Reason.DECODE_ERROR, detail) from e


def _too_large(number: int, size: int) -> str:
    return (
        f'row group {number} has a page of {size} bytes, limit {_MAX_PAGE_BYTES}: write it with '
        'smaller pages or row groups'
    )


class _Reader:
    def __init__(self, source: Source):
        self._source = source
        self._file: Any = None
        self._groups: list[RowGroup] = []
        self._leaf = -1
        self._group = -1
        self._rows: _Rows | None = None

    @property
    def held_bytes(self) -> int:
        return self._rows.held_bytes if self._rows is not None else 0

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        group, row, leaf = self._parse(where)
        if self._rows is None or (group, leaf) != (self._group, self._leaf):
            self._rows = None
            chunk = self._groups[group].chunks[leaf]
            self._source.expect(*self._around(chunk))
            self._group, self._leaf = group, leaf
            self._rows = _Rows(self._source, self._file, group, leaf, chunk)
        value = self._rows.value(row)
        if value is None:
            raise own_error(Reason.EMPTY, 'null', 0)
        size = len(value)
        if not size:
            raise own_error(Reason.EMPTY, '0 bytes', 0)
        if size > max_bytes:
            raise own_error(Reason.TOO_MANY_BYTES, f'{size} bytes, limit {max_bytes}', size)
        admit(size)
        data: bytes = value.to_pybytes()
        return data

    def together(self, where: str) -> tuple[int, int]:
        """See `TableReader`."""
        found = _WHERE.fullmatch(where)
        if found:
            group, _, leaf = map(int, found.groups())
            if group < len(self._groups) and leaf < len(self._groups[group].chunks):
                return self._around(self._groups[group].chunks[leaf])
        return 0, 0

    def _tail(self) -> tuple[int, int]:
        size = self._source.size_bytes
        return max(0, size - _TAIL_BYTES), size

    def _around(self, chunk: Chunk) -> tuple[int, int]:
        """What is read with a column chunk; what lies in the tail is there already."""
        start, end = self._tail()
        return (start, end) if chunk.start >= start else (chunk.start, chunk.end)

    def _parse(self, where: str) -> tuple[int, int, int]:
        found = _WHERE.fullmatch(where)
        if not found:
            raise _is_another()
        group, row, leaf = map(int, found.groups())
        try:
            if self._file is None:
                self._source.expect(*self._tail())
                self._file, self._groups = _open(self._source, _READING_BYTES)
            if row < self._groups[group].rows and leaf < len(self._groups[group].chunks):
                return group, row, leaf
        except BrokenError as e:
            raise own_error(e.problem.reason, e.problem.detail) from e
        except IndexError as e:
            raise _is_another() from e
        raise _is_another()


def _is_another() -> ImageError:
    return own_error(Reason.CHANGED_WHILE_READING, 'no such row of a column of bytes lies there')


class _Rows:
    """The pictures of one row group, each decoded once if they are asked for in order.

    A few are decoded at a time; fewer where that might take too much memory, and one by one where
    something is wrong with one of them.  The last ones are kept, for who asks for them a little
    later.
    """

    def __init__(self, source: Source, file: Any, number: int, leaf: int, chunk: Chunk):
        self._source = source
        self._file = file
        self._number = number
        self._path = file.schema.column(leaf).path
        self._chunk = chunk
        self._failed_at: int | None = None
        self._failure: ImageError | None = None
        in_file = chunk.size_bytes // max(1, chunk.values)
        self._begin(max(1, min(_MOST_AT_ONCE, _AT_ONCE_BYTES // max(1, in_file))))

    def _begin(self, at_once: int) -> None:
        stream: Any = SourceStream(self._source)
        self._at_once = at_once
        self._pages: Iterator[Pages] = each_page(stream, self._chunk)
        self._checked_rows = 0
        self._page_bytes = 0
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0
        self._next_row = 0
        self._batches: Iterator[pa.RecordBatch] | None = None

    @property
    def held_bytes(self) -> int:
        """Pictures, and the page in which the next one lies, packed and unpacked."""
        return self._kept_bytes + 2 * self._page_bytes

    def value(self, row: int) -> Any:
        """The bytes of a row as a buffer; None if it is null.

        Raises:
          ImageError: the row group is damaged there, or needs too much memory.
        """
        if row not in self._kept:
            if self._failed_at is not None and row >= self._failed_at and self._failure:
                raise own_error(self._failure.reason, self._failure.detail)
            if row < self._next_row:
                self._begin(self._at_once)
            while self._next_row <= row:
                self._decode()
        return self._kept[row]

    def _decode(self) -> None:
        """Decodes what follows, or begins anew row by row."""
        row = self._next_row
        is_decoded = False
        try:
            self._check(row + self._at_once - 1)
            self._keep(row, self._next_values())
            is_decoded = True
        except _TooLargeError as e:
            if self._at_once == 1:
                self._fail(row, Reason.TOO_MANY_BYTES, _too_large(self._number, e.size_bytes))
            self._at_once = max(1, _MAX_PAGE_BYTES // e.size_bytes)
        except (StopIteration, *_DAMAGES):
            if self._at_once == 1:
                detail = f'row group {self._number} cannot be decoded from row {row} on'
                self._fail(row, Reason.DECODE_ERROR, detail)
            self._at_once = 1  # which of them it is, is seen one by one
        finally:
            if not is_decoded:  # what was raised has ended pages and batches
                self._begin(self._at_once)

    def _next_values(self) -> list[Any]:
        if self._batches is None:
            arguments = {'row_groups': [self._number], 'columns': [self._path]}
            self._batches = self._file.iter_batches(self._at_once, use_threads=False, **arguments)
        array = tables.column_of(next(self._batches), self._path)
        if not _has_bytes(array.type):
            raise _is_another()
        if not len(array):
            raise ValueError('a batch without rows')
        return [each.as_buffer() if each.is_valid else None for each in array]

    def _check(self, row: int) -> None:
        """Looks at the pages that decoding up to a row reads.

        Raises:
          _TooLargeError: that may take too much memory.
        """
        while self._checked_rows <= row:
            page = next(self._pages, None)
            if page is None:
                break
            self._checked_rows += page.values
            self._page_bytes = max(self._page_bytes, page.largest_bytes)
        # A dictionary may hold one value for all of them.
        if self._at_once * self._page_bytes > _MAX_PAGE_BYTES:
            raise _TooLargeError(self._page_bytes)

    def _fail(self, row: int, reason: Reason, detail: str) -> NoReturn:
        self._failed_at = row
        self._failure = own_error(reason, detail)
        raise self._failure

    def _keep(self, first: int, values: Sequence[Any]) -> None:
        for row, value in enumerate(values, first):
            self._kept[row] = value
            self._kept_bytes += _size_in_memory(value)
        self._next_row = first + len(values)
        while (oldest := next(iter(self._kept))) < first and (
            self._kept_bytes > _MOST_KEPT_BYTES
            or (self._kept_bytes > _KEPT_BYTES and len(self._kept) > _KEPT_ROWS)
        ):
            self._kept_bytes -= _size_in_memory(self._kept.pop(oldest))


class _TooLargeError(Exception):
    def __init__(self, size_bytes: int):
        super().__init__()
        self.size_bytes = size_bytes


def _size_in_memory(value: Any) -> int:
    return _VALUE_BYTES + len(value or b'')


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


# Arrow keeps a page as it was packed, too; pages of a few megabytes are what most files have.
PARQUET = Format(
    members=_members,
    open=_Reader,
    held_bytes=2 * _MAX_PAGE_BYTES + _MOST_KEPT_BYTES,
)
