"""Rows whose images the inputs no longer list: since when, by what runs noted of them.

A run that lists all of its inputs notes, beside its dead letters, which rows of earlier runs over
the same inputs are gone, and any run that lists one of them again notes that.  So a row is gone if
that is the last thing that runs say of it: no newer row and no such note.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.elements import Note
from transforms.core.errors import StoreError, UsageError
from transforms.dataset.reader import Dataset
from transforms.output import dead_letters, results
from transforms.output.partitions import folder_of_values
from transforms.output.predictions import GONE_SINCE
from transforms.runs.complete import CompleteRun
from transforms.storage.sealed import Checksum, open_listed

TYPE = pa.timestamp('us', 'UTC')


class NoteFile(NamedTuple):
    """A file that may hold notes.

    Attributes:
      path: below the output.
      checksum: of its bytes, by the report.
      started_at: when its run began, in ISO 8601.
    """

    path: str
    checksum: Checksum
    started_at: str


def note_files(run: CompleteRun) -> list[NoteFile]:
    """The files of a run that may hold notes; none if its books do not balance."""
    if not run.report.balanced:
        return []
    files = run.files(dead_letters.VERSIONS)
    return [
        NoteFile(file.path, file.checksum, run.report.started_at) for file in files if file.rows
    ]


def as_notes(rows: pa.Table, carried: Sequence[str]) -> pa.Table:
    """Notes of the rows that are gone, for copies of them: the runs that noted it may be removed.

    Args:
      rows: with the columns uri, `carried` and `GONE_SINCE`, sorted by URI.
      carried: columns of the carried values.
    """
    rows = rows.filter(rows[GONE_SINCE].is_valid())
    values = zip(*(rows[name].to_pylist() for name in carried), strict=True)
    texts = [results.carried_text(row) for row in values] or [results.carried_text(())] * len(rows)
    columns = {
        'uri': rows['uri'],
        'object_version': [since.isoformat() for since in rows[GONE_SINCE].to_pylist()],
        'reason': [Note.GONE.value] * len(rows),
        'carried': texts,
    }
    return pa.table(columns, dead_letters.VERSION_SCHEMA)


def note_schema(keys: Sequence[str]) -> pa.Schema:
    """Of notes in memory.

    `rank` is the place of their run in time; `since` is null in a note that a row is listed again.
    """
    return pa.schema([*((key, pa.string()) for key in keys), ('rank', pa.int32()), ('since', TYPE)])


def read_notes(
    dataset: Dataset, file: NoteFile, rank: int, keys: Sequence[str]
) -> Iterator[tuple[str, pa.Table]]:
    """The notes of a file, by partition folder.

    Args:
      dataset: the folder.
      file: one of `note_files`.
      rank: the place of its run in time.
      keys: names of the columns for the URI and the carried values.

    Raises:
      StoreError: the file is missing or damaged.
    """
    uri = uris.join(dataset.output, file.path)
    try:
        with open_listed(dataset.store, uri, file.checksum) as stream:
            table = pq.ParquetFile(stream).read()
        table = table.filter(pc.is_in(table['reason'], pa.array(_NOTES)))
        texts = table['carried'].to_pylist() if dataset.carry else []
        columns = [*zip(*map(results.carried_values, texts), strict=True)]
        columns = columns or [()] * len(dataset.carry)
        folders = _folders(dataset, columns, len(table))
        version = table['object_version']
        started_at = pc.if_else(pc.equal(version, ''), file.started_at, version)
        is_gone = pc.equal(table['reason'], Note.GONE.value)
        since = pc.if_else(is_gone, started_at, pa.scalar(None, pa.string())).cast(TYPE)
        carried = (pa.array(column, pa.string()) for column in columns)
        ranks = pa.repeat(pa.scalar(rank, pa.int32()), len(table))
        notes = pa.table([table['uri'], *carried, ranks, since], note_schema(keys))
    except (pa.ArrowException, OSError, LookupError, ValueError, UsageError) as e:
        raise StoreError(
            f'{uri}, part of a complete run, is missing or damaged: run `lemmabeam verify` for '
            'details'
        ) from e
    for folder in np.unique(folders).tolist():
        yield folder, notes.filter(pa.array(folders == folder))


def _folders(dataset: Dataset, columns: Sequence[Sequence[str | None]], count: int) -> np.ndarray:
    """The partition folder of each row."""
    if not dataset.partition_by:
        return np.full(count, '', object)
    chosen = [columns[dataset.carry.index(column)] for column in dataset.partition_by]
    folders = [folder_of_values(dataset.partition_by, row) for row in zip(*chosen, strict=True)]
    return np.array(folders, object)


_NOTES = (Note.GONE.value, Note.LISTED.value)


def gone_since(
    rows: pa.Table, ranks: np.ndarray, notes: pa.Table | None, keys: Sequence[str]
) -> pa.Array:
    """Since when each row is gone; null for those that are not.

    Args:
      rows: with the columns `keys`.
      ranks: (N,) int, the place in time of the run of each row.
      notes: of `note_schema`, of any rows; None for none.
      keys: columns for URI and carried values.
    """
    if notes is None:
        return pa.nulls(len(rows), TYPE)
    listed: dict[tuple[str, ...], int] = {}
    left: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    columns = [*(notes[key] for key in keys), notes['rank'], notes['since'].cast(pa.int64())]
    for *values, rank, since in zip(*(column.to_pylist() for column in columns), strict=True):
        key = tuple(values)
        if since is None:
            listed[key] = max(rank, listed.get(key, rank))
        else:
            left[key].append((rank, since))
    found: list[int | None] = [None] * len(rows)
    noted = np.flatnonzero(pc.is_in(rows['uri'], notes['uri'].combine_chunks()).to_numpy())
    some = rows.select(list(keys)).take(pa.array(noted))
    values_of_keys = (some[name].to_pylist() for name in keys)
    for place, rank, *values in zip(
        noted.tolist(), ranks[noted].tolist(), *values_of_keys, strict=True
    ):
        key = tuple(values)
        first = max(rank, listed.get(key, -1) + 1)
        found[place] = min((since for rank, since in left[key] if rank >= first), default=None)
    return pa.array(found, pa.int64()).cast(TYPE)
