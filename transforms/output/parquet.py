"""Reading our own Parquet files: a part at a time, whatever they contain."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.errors import DamagedError, StoreError
from transforms.storage.base import Store
from transforms.storage.sealed import Checksum, open_listed

MOST_ROWS = 4096
"""Rows that are read at a time, where these are short."""

_READ_BYTES = 16 * 2**20
_STREAM_BYTES = 2**20


def open_parquet(stream: BinaryIO) -> pq.ParquetFile:
    """Opens one of our files for `batches`; only what is being read is in memory.

    Raises:
      pa.ArrowException, OSError: it is not a Parquet file.
    """
    return pq.ParquetFile(stream, buffer_size=_STREAM_BYTES, pre_buffer=False)


def batches(
    parquet: pq.ParquetFile,
    columns: Sequence[str] | None = None,
    most_rows: int = MOST_ROWS,
    use_threads: bool = True,
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, in batches that fit into memory.

    Args:
      parquet: from `open_parquet`.
      columns: those to read, None for all.
      most_rows: most rows per batch, if they are short.
      use_threads: whether to decode columns in parallel, which takes more memory.

    Raises:
      pa.ArrowException, OSError: it is damaged.
    """
    size = _rows_at_a_time(parquet.metadata, most_rows)
    yield from parquet.iter_batches(size, columns=columns, use_threads=use_threads)


def read_rows(
    store: Store, uri: str, checksum: Checksum, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a published file, for who shows a few of them; who needs no more reads no more.

    Args:
      store: of the output.
      uri: of the file.
      checksum: as the report of its run lists it.
      columns: those to read.

    Raises:
      StoreError: it is missing or damaged.
    """
    try:
        with open_listed(store, uri, checksum) as stream:
            for batch in batches(open_parquet(stream), columns):
                yield from batch.to_pylist()
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: {e}') from e


def _rows_at_a_time(metadata: pq.FileMetaData, most: int) -> int:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size_bytes = sum(group.total_byte_size for group in groups)
    each_bytes: int = size_bytes // max(1, metadata.num_rows)
    return max(1, min(most, _READ_BYTES // max(1, each_bytes)))
