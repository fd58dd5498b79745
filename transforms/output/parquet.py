"""Parquet files of ours, as they are read."""

from typing import Any

_READ_BYTES = 16 * 2**20


def rows_at_a_time(metadata: Any, most: int) -> int:
    """So many rows of a file of ours are read at a time that they fit into memory.

    Args:
      metadata: the `pyarrow.parquet.FileMetaData` of the file.
      most: of short rows.
    """
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size_bytes = sum(group.total_byte_size for group in groups)
    each_bytes: int = size_bytes // max(1, metadata.num_rows)
    return max(1, min(most, _READ_BYTES // max(1, each_bytes)))
