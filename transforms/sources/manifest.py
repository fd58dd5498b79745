"""Manifests: files that list URIs, and further columns to carry along.

`.txt` one URI a line, `.csv` and `.tsv` with a header, `.jsonl`, `.ndjson` or `.json` one object a
line, each also `.gz`, and `.parquet`.  A line that names no image is one bad line; a file that ends
early or is of another kind stops the run, because what it would have listed is unknown.
"""

import codecs
import csv
import gzip
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import ManifestError, UsageError
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.waiting import each_within
from transforms.storage.containers.arrow_text import (
    check_type,
    is_time,
    least_chars,
    text_of,
    values_of,
)
from transforms.storage.containers.parquet_pages import RowGroup, read_footer, read_pages
from transforms.storage.registry import store_for

_TABLES = {'.csv': ',', '.tsv': '\t'}  # what stands between two values
_OTHER_DELIMITERS = {
    ';': 'semicolons: write commas, or tabs in a .tsv',
    '\t': 'tabs: name it .tsv',
    ',': 'commas: name it .csv',
}
_OBJECTS = ('.jsonl', '.ndjson', '.json')
_TEXT_KINDS = ('.txt', *_TABLES, *_OBJECTS)
KINDS = (*_TEXT_KINDS, '.parquet')
SUFFIXES = (*_TEXT_KINDS, *(f'{kind}.gz' for kind in _TEXT_KINDS), '.parquet')

_MAX_LINE_CHARS = 1_000_000
_MAX_ROW_CHARS = 4 * _MAX_LINE_CHARS  # of a CSV, whose values may hold ends of lines
_MAX_DEPTH = 500  # of lists and objects in each other; Python's own limit is not always the same
_MAX_TYPE_DEPTH = 100
# Of Parquet: what is decoded at once, and a row group's lists, which may all stand in one row.
_STREAM_BYTES = 8 * 2**20
_MAX_PAGE_BYTES = 128 * 2**20
_BATCH_BYTES = 64 * 2**20
_MAX_BATCH_ROWS = 10_000
_MAX_LISTS_BYTES = 192 * 2**20
_LEVELS_BYTES = 4  # that tell where each value of a list belongs
_CONVERTED_CHARS = 2**20
_MOST_NAMES = 20  # of columns, in messages
_SHOWN_CHARS = 100  # of a name or type


class Line(NamedTuple):
    """One entry of a manifest, as written, unchecked.

    `uri` is None if the entry names none.  `problem` says why, or what is wrong with a carried
    value.
    """

    number: int
    uri: str | None
    carried: tuple[str | None, ...]
    problem: str = ''


def is_manifest(uri: str) -> bool:
    """Whether a file is read as a manifest, by its suffix."""
    return uri.lower().endswith(SUFFIXES)


def read_manifest(
    uri: str, uri_column: str, carry: Sequence[str], stores: StoreOptions = DEFAULT_OPTIONS
) -> Iterator[Line]:
    """Yields the entries of a manifest as they are read.

    Args:
      uri: absolute URI of the manifest.
      uri_column: the column of the URIs; ignored for text manifests.
      carry: columns to carry along as text, in this order.
      stores: how the manifest is reached.

    Raises:
      UsageError: it cannot be opened, or lacks a column; JSON lines may leave out what is null, so
        for these that is known only at the last line.
      ManifestError: it is not of the kind its suffix says, or ends early.
    """
    yield from _read(uri, uri_column, carry, stores, {uri_column, *carry})


def check_columns(
    uri: str,
    uri_column: str,
    carry: Sequence[str],
    stores: StoreOptions = DEFAULT_OPTIONS,
    deadline_sec: float = math.inf,
) -> None:
    """Reads a manifest until every column is found: usually one entry.

    Args and errors as for `read_manifest`.  An entry that takes longer than `deadline_sec` is a
    StoreError.
    """
    missing = {uri_column, *carry}
    lines = _read(uri, uri_column, carry, stores, missing)
    for _ in each_within(deadline_sec, uris.printable(uri), lines):
        if not missing:
            return


def _read(
    uri: str, uri_column: str, carry: Sequence[str], stores: StoreOptions, missing: set[str]
) -> Iterator[Line]:
    """Yields the entries; `missing` loses the columns that have been found."""
    kind = uris.suffix_of(uri.lower().removesuffix('.gz'))
    with store_for(uri, stores).open(uri) as file:
        if kind not in _OBJECTS:
            missing.clear()  # their first line, or their footer, speaks for all
        if kind == '.parquet':
            yield from _read_parquet(uri, file, uri_column, carry)
            return
        stream: Any = file
        if uri.lower().endswith('.gz'):
            if not file.read(1):
                raise ManifestError(f'{uri}: line 1 is missing: an empty file is not a gzip file')
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file)
        lines = _Lines(uri, stream)
        if kind == '.txt':
            yield from _read_text(uri, lines, carry)
        elif kind in _TABLES:
            yield from _read_csv(uri, lines, _TABLES[kind], uri_column, carry)
        else:
            if kind == '.json':
                _check_lines(uri, lines)
            yield from _read_jsonl(uri, lines, uri_column, carry, missing)


class _Lines:
    """Lines of a UTF-8 stream, with the number of the last one and whether it was ended.

    Bytes that are not UTF-8 become lone surrogates, as in file names.
    """

    def __init__(self, uri: str, stream: BinaryIO):
        self._uri = uri
        self._stream = stream
        self.number = 0
        self.is_ended = True

    def __iter__(self) -> Iterator[str]:
        while raw := self._read():
            self.number += 1
            self.is_ended = raw.endswith(b'\n')
            if self.number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if b'\x00' in raw:
                raise self.error('holds NUL bytes: a binary file, or UTF-16 (save it as UTF-8)')
            if len(raw) > _MAX_LINE_CHARS:
                raise self.error(f'is longer than {_MAX_LINE_CHARS} bytes')
            yield raw.decode('utf-8', 'surrogateescape')

    def start(self) -> bytes:
        """What the first line begins with, before any is read."""
        start = self._read()
        self._stream.seek(0)
        return start

    def _read(self) -> bytes:
        try:
            return self._stream.readline(_MAX_LINE_CHARS + 1)
        except EOFError as e:
            self.number += 1
            raise self.error('is where the gzip file ends early') from e
        except (zlib.error, gzip.BadGzipFile) as e:
            self.number += 1
            raise self.error('is where the gzip file is damaged') from e

    def error(self, what: str, number: int | None = None) -> ManifestError:
        return ManifestError(f'{uris.printable(self._uri)}: line {number or self.number} {what}')


def _read_text(uri: str, lines: _Lines, carry: Sequence[str]) -> Iterator[Line]:
    if carry:
        raise UsageError(
            f'--carry {carry[0]}: {uri} has no columns; use .csv, .tsv, .jsonl or .parquet'
        )
    for line in lines:
        text = line.rstrip('\r\n')
        if text:
            yield Line(lines.number, text, ())


def _check_lines(uri: str, lines: _Lines) -> None:
    """Refuses JSON that is one array, or one object of several lines."""
    start = lines.start().removeprefix(codecs.BOM_UTF8).strip()
    if start.startswith(b'[') or start == b'{':
        raise UsageError(
            f'{uris.printable(uri)}: expected one JSON object per line, but this is a single '
            "array or object; `jq -c '.[]'` turns an array of objects into lines"
        )


def _read_csv(
    uri: str, lines: _Lines, delimiter: str, uri_column: str, carry: Sequence[str]
) -> Iterator[Line]:
    # The limit of the module is less than that of a line; it is one for all of a process.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_LINE_CHARS))
    begun = 1
    row_chars = 0

    def bounded() -> Iterator[str]:
        nonlocal row_chars
        for line in lines:
            row_chars += len(line)
            if row_chars > _MAX_ROW_CHARS:
                raise lines.error(f'starts a row of more than {_MAX_ROW_CHARS} characters', begun)
            yield line

    rows = csv.reader(bounded(), delimiter=delimiter, strict=True)
    try:
        header = next(rows, None)
        if header is None:
            raise ManifestError(f'{uri}: line 1 is missing: a CSV manifest starts with a header')
        places = _places(uri, header, (uri_column, *carry))
        begun, row_chars = lines.number + 1, 0
        for row in rows:
            begun, row_chars = lines.number + 1, 0
            if not row:
                continue
            if len(row) != len(header):
                if not lines.is_ended:
                    raise lines.error('ends early: is the manifest half-written?')
                problem = f'{len(row)} columns, expected {len(header)}'
                yield Line(lines.number, None, _absent(carry), problem)
                continue
            name, *values = (row[place] for place in places)
            yield Line(lines.number, name, tuple(values))
    except csv.Error as e:
        what = 'is not CSV: an unclosed or stray quote, or a value that is far too long'
        # An open quote swallows line after line: the row's first one is where to look.
        raise lines.error(what, begun) from e


def _read_jsonl(
    uri: str, lines: _Lines, uri_column: str, carry: Sequence[str], missing: set[str]
) -> Iterator[Line]:
    known: dict[str, None] | None = None  # a few names of columns
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            if not lines.is_ended:
                raise lines.error('ends early: is the manifest half-written?') from e
            yield Line(lines.number, None, _absent(carry), 'not JSON')
            continue
        if not isinstance(row, dict):
            yield Line(lines.number, None, _absent(carry), 'not a JSON object')
            continue
        if missing:
            missing.difference_update(row)
            known = known or {}
            if len(known) < _MOST_NAMES:  # rubbish may have a new one in every line
                known |= dict.fromkeys(itertools.islice(row, _MOST_NAMES))
        name = row.get(uri_column)
        values = [row.get(column) for column in carry]
        if _has_depth(line):
            values = [_TOO_DEEP if _is_deep(value) else value for value in values]
        texts, problem = _texts_of(values, lines.number)
        if isinstance(name, str):
            yield Line(lines.number, name, texts, problem)
        else:
            yield Line(lines.number, None, texts, f'no text in {uri_column!r}')
    if known is not None and missing:
        # What is null may be left out, but a column that no line has is a typing mistake.
        column = next(column for column in (uri_column, *carry) if column in missing)
        raise _no_column(uri, list(known), column, uri_column)


def _read_parquet(
    uri: str, file: BinaryIO, uri_column: str, carry: Sequence[str]
) -> Iterator[Line]:
    columns = [uri_column, *carry]
    parquet = _open_parquet(uri, file, columns)
    # A name is text from the start; a time only becomes some.
    is_name = not is_time(parquet.schema_arrow.field(uri_column).type)
    number = 0
    try:
        for batch, untold in _batches(file, parquet, columns):
            for name, *values in _rows(batch, columns, untold):
                number += 1
                texts, problem = _texts_of(values, number)
                if is_name and isinstance(name, str | bytes):
                    yield Line(number, text_of(name), texts, problem)
                else:
                    is_untold = isinstance(name, _Untold)
                    why = name.why if is_untold else f'no text in {uri_column!r}'
                    yield Line(number, None, texts, why)
    except LookupError as e:
        raise ManifestError(f'{uri}: after row {number}: {e}') from e
    except (pa.ArrowException, OSError, OverflowError, ValueError, RecursionError) as e:
        raise ManifestError(f'{uri}: the Parquet file cannot be read after row {number}') from e


def _open_parquet(uri: str, file: BinaryIO, columns: Sequence[str]) -> Any:
    """The file, if it has these columns, and of types that can be read.

    Raises:
      ManifestError: it is not a Parquet file.
      UsageError: a column is missing, or of another type.
    """
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
    except (pa.ArrowException, OSError, RecursionError) as e:
        raise ManifestError(
            f'{uri}: row 0: not a Parquet file, or half-written (its footer is missing)'
        ) from e
    _places(uri, schema.names, columns)
    kind = schema.field(columns[0]).type
    if pa.types.is_nested(kind):
        shown = uris.printable(str(kind)[:_SHOWN_CHARS])
        raise UsageError(
            f'--uri_column {columns[0]!r}: {uri} has no text there, but {shown}; name a column '
            'of URIs'
        )
    for column in columns[1:]:
        try:
            check_type(schema.field(column).type, _MAX_TYPE_DEPTH)
        except ValueError as e:
            raise UsageError(f'--carry or --partition_by {column!r}: {uri} has {e}') from e
    return parquet


def _batches(
    file: BinaryIO, parquet: Any, columns: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, dict[str, '_Untold']]]:
    """The rows, in batches that fit into memory, whatever the footer says.

    With them comes why columns are not read that are too large in a row group.
    """
    for group, chunks in enumerate(read_footer(file)):
        plan = _plan(file, parquet, group, chunks, columns)
        readable = [name for name in dict.fromkeys(columns) if name not in plan.untold]
        if not readable:
            left = chunks.rows
            while left > 0:
                empty = pa.record_batch({columns[0]: pa.nulls(min(left, _MAX_BATCH_ROWS))})
                yield empty, plan.untold
                left -= len(empty)
            continue
        reader = pq.ParquetFile(
            file,
            metadata=parquet.metadata,
            read_dictionary=plan.compact,
            buffer_size=_STREAM_BYTES,
            pre_buffer=False,
        )
        for batch in reader.iter_batches(plan.rows, row_groups=[group], columns=readable):
            yield batch, plan.untold


class _Plan(NamedTuple):
    """How a row group is read.

    Attributes:
      rows: at a time.
      compact: paths of columns that are read as dictionaries.
      untold: why columns are not read, by their names.
    """

    rows: int
    compact: list[str]
    untold: dict[str, '_Untold']


def _plan(
    file: BinaryIO, parquet: Any, group: int, chunks: RowGroup, columns: Sequence[str]
) -> _Plan:
    if len(chunks.chunks) != len(parquet.schema):
        raise ValueError('a row group that has not every column')
    size_bytes = 1
    compact: list[str] = []
    untold: dict[str, _Untold] = {}
    for i in range(len(parquet.schema)):
        column, chunk = parquet.schema.column(i), chunks.chunks[i]
        name = next((each for each in columns if f'{column.path}.'.startswith(f'{each}.')), None)
        if name is None:
            continue
        pages = read_pages(file, chunk)
        if name == columns[0] and pages.values != chunks.rows:
            raise ValueError('it has fewer rows than it says')
        if pages.largest_bytes > _MAX_PAGE_BYTES:
            untold[name] = _Untold(
                f'row group {group} has a page of {pages.largest_bytes} bytes in '
                f'{_shown(column.path)}, limit {_MAX_PAGE_BYTES}: write it with smaller pages'
            )
            continue
        each_bytes = _largest_value(column, pages.largest_bytes)
        if not column.max_repetition_level:
            size_bytes = max(size_bytes, each_bytes)
            continue
        if column.physical_type == 'BYTE_ARRAY' and not chunk.is_delta:
            compact.append(column.path)
            each_bytes = 4  # its place in a dictionary
        lists_bytes = pages.values * (each_bytes + _LEVELS_BYTES)
        if lists_bytes > _MAX_LISTS_BYTES:
            untold[name] = _Untold(
                f'row group {group} may hold {lists_bytes} bytes of lists in '
                f'{_shown(column.path)}, limit {_MAX_LISTS_BYTES}: write smaller row groups'
            )
    rows = min(max(1, _BATCH_BYTES // size_bytes), _MAX_BATCH_ROWS)
    return _Plan(rows, compact, untold)


def _shown(name: str) -> str:
    return repr(uris.printable(name[:_SHOWN_CHARS]))


def _largest_value(column: Any, page_bytes: int) -> int:
    """Bytes that a value of a column may take, at most."""
    if column.physical_type == 'BYTE_ARRAY':
        return page_bytes
    return max(8, column.length if column.physical_type == 'FIXED_LEN_BYTE_ARRAY' else 0)


class _Untold(NamedTuple):
    """In place of a value that is not made text."""

    why: str


_TOO_DEEP = _Untold(f'a carried value is nested deeper than {_MAX_DEPTH}')


def _rows(
    batch: pa.RecordBatch, columns: Sequence[str], untold: Mapping[str, _Untold]
) -> Iterator[tuple[Any, ...]]:
    if untold:
        read = [column for column in columns if column not in untold]
        for values in _rows(batch, read, {}) if read else [()] * len(batch):
            told = iter(values)
            yield tuple(untold.get(column) or next(told) for column in columns)
        return
    arrays = [batch.column(column) for column in columns]
    if sum(least_chars(array, _CONVERTED_CHARS) for array in arrays) <= _CONVERTED_CHARS:
        try:
            at_once = [values_of(array) for array in arrays]
        except ValueError:
            pass  # of which row is found out below
        else:
            yield from zip(*at_once, strict=True)
            return
    for i in range(batch.num_rows):
        yield tuple(_value_of(array.slice(i, 1)) for array in arrays)


def _value_of(array: pa.Array) -> Any:
    """The only value of an array, or why there is none."""
    if pa.types.is_nested(array.type) and least_chars(array, _MAX_LINE_CHARS) > _MAX_LINE_CHARS:
        return _Untold(f'a carried value of more than {_MAX_LINE_CHARS} characters')
    try:
        return values_of(array)[0]
    except ValueError:
        return _Untold('a carried time that is not in the calendar')


def _texts_of(values: Sequence[Any], number: int) -> tuple[tuple[str | None, ...], str]:
    """Carried values as text, and what is wrong with one of them: '' if nothing is.

    In place of what is not made text stands the number of its entry, which tells it from others.
    """
    problem = next((value.why for value in values if isinstance(value, _Untold)), '')
    texts = (f'… ({number})' if isinstance(each, _Untold) else text_of(each) for each in values)
    return tuple(texts), problem


def _has_depth(text: str) -> bool:
    return text.count('[') + text.count('{') > _MAX_DEPTH


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than allowed."""
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [
            child for each in inner for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not inner:
            return False
    return True


def _places(uri: str, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    places = []
    for column in columns:
        if column not in header:
            raise _no_column(uri, header, column, columns[0])
        if header.count(column) > 1:
            raise UsageError(f'{uri} has more than one column {column!r}')
        places.append(header.index(column))
    return places


def _no_column(uri: str, header: Sequence[str], column: str, uri_column: str) -> UsageError:
    flag = '--uri_column' if column == uri_column else '--carry or --partition_by'
    there = ', '.join(uris.named(name[:_SHOWN_CHARS]) for name in header[:_MOST_NAMES])
    nor = ''
    if flag == '--uri_column' and uri.lower().endswith('.parquet'):
        nor = ', nor one of bytes, as images inside it would need'
    said = f'{flag} {column!r}: {uri} has no such column{nor}; it has {there}'
    return UsageError(f'{said}{_meant(header, column)}')


def _meant(header: Sequence[str], column: str) -> str:
    """Why a column that is missing may seem to be there."""
    for name in header:
        if name.strip().lower() == column.strip().lower():
            return f'; did you mean {uris.printable(name)!r}?'
    if len(header) == 1:
        for delimiter, said in _OTHER_DELIMITERS.items():
            if delimiter in header[0]:
                return f'; values seem to be separated by {said}'
    if any('/' in name for name in header):
        return '; the first line must name the columns'
    return ''


def _absent(carry: Sequence[str]) -> tuple[None, ...]:
    return (None,) * len(carry)
