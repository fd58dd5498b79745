"""Reading our own Parquet files: a part at a time, whatever they contain."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

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


def _rows_at_a_time(metadata: pq.FileMetaData, most: int) -> int:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size_bytes = sum(group.total_byte_size for group in groups)
    each_bytes: int = size_bytes // max(1, metadata.num_rows)
    return max(1, min(most, _READ_BYTES // max(1, each_bytes)))
