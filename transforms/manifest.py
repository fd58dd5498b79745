"""Manifests: files that list URIs, and further columns to carry along.

`.txt` one URI a line, `.csv` with a header, `.jsonl` one object a line, each also `.gz`, and
`.parquet`.  A line that names no image is one bad line; a file that breaks off or is of another
kind stops the run, because what it would have listed is unknown.
"""

import codecs
import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import uris
from transforms.arrow_text import is_time, text_of, values_of
from transforms.errors import ManifestError, UsageError
from transforms.storage import DEFAULT_OPTIONS, StoreOptions, store_for

_TEXT_KINDS = ('.txt', '.csv', '.jsonl')
SUFFIXES = (*_TEXT_KINDS, *(f'{kind}.gz' for kind in _TEXT_KINDS), '.parquet')
_PARQUET_BATCH_ROWS = 10_000
_MAX_LINE_CHARS = 1_000_000
_MOST_NAMES = 20  # of columns, in messages


class Line(NamedTuple):
    """One entry of a manifest: what stands there, unchecked.

    `uri` is None where the entry names none; then `problem` says why.
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
      UsageError: it cannot be opened, or lacks a column; of lines of JSON, which may leave out what
        is null, only the last one tells.
      ManifestError: it is not of the kind its suffix says, or breaks off.
    """
    yield from _read(uri, uri_column, carry, stores, {uri_column, *carry})


def check_columns(
    uri: str, uri_column: str, carry: Sequence[str], stores: StoreOptions = DEFAULT_OPTIONS
) -> None:
    """Reads a manifest as far as it takes to find every column: mostly one entry.

    Args and errors as of `read_manifest`.
    """
    missing = {uri_column, *carry}
    for _ in _read(uri, uri_column, carry, stores, missing):
        if not missing:
            return


def _read(
    uri: str, uri_column: str, carry: Sequence[str], stores: StoreOptions, missing: set[str]
) -> Iterator[Line]:
    """Yields the entries; `missing` loses the columns that have been found."""
    lower = uri.lower()
    with store_for(uri, stores).open(uri) as file:
        if not lower.endswith(('.jsonl', '.jsonl.gz')):
            missing.clear()  # their first line, or their footer, speaks for all
        if lower.endswith('.parquet'):
            yield from _read_parquet(uri, file, uri_column, carry)
            return
        stream: Any = file
        if lower.endswith('.gz'):
            if not file.read(1):
                raise ManifestError(f'{uri}: line 1 is missing: an empty file is no gzip')
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file)
            lower = lower.removesuffix('.gz')
        lines = _Lines(uri, stream)
        if lower.endswith('.txt'):
            yield from _read_text(uri, lines, carry)
        elif lower.endswith('.csv'):
            yield from _read_csv(uri, lines, uri_column, carry)
        else:
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
                raise self.error('holds NUL bytes: a binary file, or UTF-16')
            if len(raw) > _MAX_LINE_CHARS:
                raise self.error(f'is longer than {_MAX_LINE_CHARS} bytes')
            yield raw.decode('utf-8', 'surrogateescape')

    def _read(self) -> bytes:
        try:
            return self._stream.readline(_MAX_LINE_CHARS + 1)
        except EOFError as e:
            self.number += 1
            raise self.error('is where the gzip file breaks off') from e
        except (zlib.error, gzip.BadGzipFile) as e:
            self.number += 1
            raise self.error('is where the gzip file is damaged') from e

    def error(self, what: str, number: int | None = None) -> ManifestError:
        return ManifestError(f'{uris.printable(self._uri)}: line {number or self.number} {what}')


def _read_text(uri: str, lines: _Lines, carry: Sequence[str]) -> Iterator[Line]:
    if carry:
        raise UsageError(f'--carry {carry[0]}: {uri} has no columns; use .csv, .jsonl or .parquet')
    for line in lines:
        text = line.rstrip('\r\n')
        if text:
            yield Line(lines.number, text, ())


def _read_csv(uri: str, lines: _Lines, uri_column: str, carry: Sequence[str]) -> Iterator[Line]:
    rows = csv.reader(lines, strict=True)
    begun = 1
    try:
        header = next(rows, None)
        if header is None:
            raise ManifestError(f'{uri}: line 1 is missing: a CSV manifest starts with a header')
        places = _places(uri, header, (uri_column, *carry))
        begun = lines.number + 1
        for row in rows:
            begun = lines.number + 1
            if not row:
                continue
            if len(row) != len(header):
                if not lines.is_ended:
                    raise lines.error('breaks off: is the manifest half-written?')
                problem = f'{len(row)} columns, expected {len(header)}'
                yield Line(lines.number, None, _absent(carry), problem)
                continue
            name, *values = (row[place] for place in places)
            yield Line(lines.number, name, tuple(values))
    except csv.Error as e:
        what = 'is no CSV: a quote that is not closed, a stray one, or far too long a value'
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
                raise lines.error('breaks off: is the manifest half-written?') from e
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
        values = tuple(text_of(row.get(column)) for column in carry)
        if isinstance(name, str):
            yield Line(lines.number, name, values)
        else:
            yield Line(lines.number, None, values, f'no text in {uri_column!r}')
    if known is not None and missing:
        # What is null may be left out, but a column that no line has is a typing mistake.
        column = next(column for column in (uri_column, *carry) if column in missing)
        raise _no_column(uri, list(known), column, uri_column)


def _read_parquet(
    uri: str, file: BinaryIO, uri_column: str, carry: Sequence[str]
) -> Iterator[Line]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as e:
        raise ManifestError(
            f'{uri}: row 0: not a Parquet file, or half-written (its footer is missing)'
        ) from e
    columns = [uri_column, *carry]
    schema = parquet.schema_arrow
    _places(uri, schema.names, columns)
    # A name is text from the start; a time only becomes some.
    is_name = not is_time(schema.field(uri_column).type)
    number = 0
    batches = parquet.iter_batches(_PARQUET_BATCH_ROWS, columns=list(dict.fromkeys(columns)))
    try:
        for batch in batches:
            names, *carried = (values_of(batch.column(column)) for column in columns)
            for name, *values in zip(names, *carried, strict=True):
                number += 1
                texts = tuple(map(text_of, values))
                if is_name and isinstance(name, str | bytes):
                    yield Line(number, text_of(name), texts)
                else:
                    yield Line(number, None, texts, f'no text in {uri_column!r}')
    except LookupError as e:
        raise ManifestError(f'{uri}: behind row {number}: {e}') from e
    except (pa.ArrowException, OSError, OverflowError, ValueError, RecursionError) as e:
        raise ManifestError(f'{uri}: the Parquet file cannot be read behind row {number}') from e


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
    there = ', '.join(uris.printable(name) for name in header[:_MOST_NAMES])
    return UsageError(f'{flag} {column!r}: {uri} has no such column, but: {there}')


def _absent(carry: Sequence[str]) -> tuple[None, ...]:
    return (None,) * len(carry)
