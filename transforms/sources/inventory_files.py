"""The data files of an inventory: rows of objects, in CSV or Parquet, read in batches."""

import csv
import gzip
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import ManifestError
from transforms.core.waiting import alive
from transforms.storage.base import Store

_BLOCK_BYTES = 4 * 2**20
_BATCH_ROWS = 10_000
_HEADER_BYTES = 64 * 2**10


class DataFile(NamedTuple):
    """One of the files that an inventory names; size and MD5 are -1 and '' if it does not tell."""

    uri: str
    size_bytes: int
    md5: str


class Form(NamedTuple):
    """How data files are written.

    Attributes:
      is_parquet: else they are CSV, by their names also as gzip.
      columns: of CSV, in their order; () if each file has a header.
      delimiter: of CSV.
    """

    is_parquet: bool
    columns: tuple[str, ...] = ()
    delimiter: str = ','


def plain(column: str) -> str:
    """The name of a column by which it is known, however a report spells it: 'lastmodifieddate'."""
    return column.strip().replace('_', '').lower()


def columns_of(store: Store, file: DataFile, form: Form) -> tuple[str, ...]:
    """The columns of a data file, as it spells them.

    Raises:
      ManifestError: it is not what it is said to be.
    """
    if form.columns:
        return form.columns
    with store.open(file.uri) as stream:
        if form.is_parquet:
            try:
                return tuple(pq.read_schema(stream).names)
            except (pa.ArrowException, OSError, ValueError) as e:  # names that are no text
                raise _error(file, 'not a Parquet file, or half-written') from e
        opened: Any = gzip.GzipFile(fileobj=stream) if _is_gzip(file) else stream
        try:
            head = opened.read(_HEADER_BYTES).decode('utf-8-sig', 'replace')
        except (EOFError, OSError, zlib.error) as e:
            raise _error(file, _BROKEN) from e
    return tuple(next(csv.reader(io.StringIO(head), delimiter=form.delimiter), ()))


def read_rows(
    store: Store, file: DataFile, form: Form, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a data file.

    Args:
      store: where it is.
      file: its name, and what it is held against.
      form: how it is written.
      columns: which of its columns are read, as the file spells them; text if it is CSV.

    Raises:
      ManifestError: it is damaged, not the one that the inventory was written with, or no such
        file.
      UsageError: it does not exist.
    """
    with store.open(file.uri) as stream:
        source = _Source(stream)
        try:
            if form.is_parquet:
                yield from _parquet(source, file, columns)
            else:
                yield from _csv(source, file, form, columns)
        except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as e:
            # Where the bytes are other ones, that is what is wrong.
            source.read_on()
            _check(source, file)
            if isinstance(e, pa.ArrowException) and source.error is None:
                raise _error(
                    file, f'not {_name(form)} with the columns {", ".join(columns)}'
                ) from e
            raise _error(file, _BROKEN) from e
        source.read_on()
        _check(source, file)


_BROKEN = 'it ends early or is damaged'


def _parquet(source: '_Source', file: DataFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    # To disk, as it is read here and there, and held against its checksum before it is.
    with tempfile.TemporaryFile() as copy:
        while data := source.read(_BLOCK_BYTES):
            copy.write(data)
            alive()
        _check(source, file)
        parquet = pq.ParquetFile(copy, pre_buffer=False)
        if missing := set(columns).difference(parquet.schema_arrow.names):
            raise pa.ArrowKeyError(missing.pop())
        yield from parquet.iter_batches(_BATCH_ROWS, columns=list(columns))


def _csv(
    source: '_Source', file: DataFile, form: Form, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    stream: Any = gzip.GzipFile(fileobj=cast(Any, source)) if _is_gzip(file) else source
    text = io.BufferedReader(_Caught(stream, source), _BLOCK_BYTES)
    if not text.peek(1):  # which Arrow takes for an error
        if source.error:
            raise source.error
        return
    reader = pa_csv.open_csv(
        text,
        pa_csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, column_names=list(form.columns) or None
        ),
        pa_csv.ParseOptions(delimiter=form.delimiter, newlines_in_values=True),
        pa_csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    )
    for batch in reader:
        for start in range(0, len(batch), _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)
        alive()
    if source.error:
        raise source.error


class _Source:
    """The bytes of a data file, one after the other: hashed as they come.

    Attributes:
      error: what became of reading it in a thread of Arrow's, which would make another error of it.
    """

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.md5.update(data)
        self.size_bytes += len(data)
        return data

    def read_on(self) -> None:
        """Reads what is left."""
        while self.read(_BLOCK_BYTES):
            alive()


class _Caught(io.RawIOBase):
    """What is unpacked; an error is its end, and is kept."""

    def __init__(self, stream: BinaryIO, source: _Source):
        super().__init__()
        self._stream = stream
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except Exception as e:  # noqa: BLE001 (raised again)
            self._source.error = e
            return 0
        buffer[: len(data)] = data
        return len(data)


def _check(source: _Source, file: DataFile) -> None:
    if file.size_bytes not in (-1, source.size_bytes):
        raise _error(file, f'{source.size_bytes:,} bytes, the inventory says {file.size_bytes:,}')
    if file.md5 and source.md5.hexdigest() != file.md5:
        raise _error(file, f'its MD5 is {source.md5.hexdigest()}, the inventory says {file.md5}')


def _error(file: DataFile, what: str) -> ManifestError:
    return ManifestError(f'{uris.printable(file.uri)}: {what}; what it lists is not known')


def _is_gzip(file: DataFile) -> bool:
    return file.uri.lower().endswith('.gz')


def _name(form: Form) -> str:
    return 'Parquet' if form.is_parquet else 'CSV'
