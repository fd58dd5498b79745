"""The newest row of every image, among runs that only ever add files.

Rows are spread over shards by the hash of their URI.  Above `ROWS_AT_ONCE` rows the shards are
spilled to disk, and one is in memory at a time.
"""

import bisect
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError
from transforms.core.hashing import uri_hash
from transforms.dataset import gone
from transforms.dataset.reader import Dataset, StoredFile, files_of
from transforms.dataset.spill import Spool, spooling
from transforms.model.vocabulary import Vocabulary
from transforms.output import predictions, results, run_metadata
from transforms.runs.complete import CompleteRun, restore_or_remove
from transforms.storage.sealed import open_listed

ROWS_AT_ONCE = 1_000_000
FEATURES_AT_ONCE_BYTES = 256 * 2**20
PLACE = 'place'
"""Column with the place of a row's run among the runs that were asked for, from 0; int32."""

STORED = tuple('uri object_version content_sha256 width height format'.split())
_THREADS = 4  # files read at a time; each holds one row group
_SAMPLE_ROWS = 1024
_PARTS = 4
_GONE = pa.field(predictions.GONE_SINCE, gone.TYPE)


class Shard(NamedTuple):
    """Rows that belong together.

    Attributes:
      folder: their partition folders, 'split=train/' or ''.
      part, parts: their part of that partition, by the hash of the URI modulo `parts`.
    """

    folder: str
    part: int
    parts: int


class NewestRows:
    """The newest row of each (uri, carried columns); see `newest_rows`.

    Attributes:
      shards: their shards, partition by partition.
      features: length of the features, 0 if no run has any.
      gone: how many of the rows are gone.
      rows_by_run: rows of each run that are the newest.
      rows_read: rows of all runs, the superseded ones included.
    """

    def __init__(self, dataset: Dataset, features: int, spool: Spool, rows_per_part: int):
        self._spool = spool
        self._schema = _row_schema(len(dataset.carry), features).append(_GONE)
        self._keys = _keys(dataset)
        self._rows_per_part = rows_per_part
        self.features = features
        self.shards: list[Shard] = []
        self.rows_by_run: list[int] = []
        self.rows_read = 0
        self.gone = 0

    def table(self, shard: Shard) -> pa.Table:
        """The rows of a shard, sorted by URI and carried columns, nulls last.

        Returns:
          A table with the columns uri, object_version, content_sha256, width, height, format,
          indices list<int32>, scores list<float32>, features if there are any, 'carry0' and so on
          with the carried columns in order, `PLACE`, and `predictions.GONE_SINCE`.
        """
        table = self._spool.get(shard)
        return self._schema.empty_table() if table is None else table

    def in_order(self) -> Iterator[pa.Table]:
        """All rows, over all shards, sorted by URI and carried columns; a part at a time."""
        tables = [table for shard in self.shards if (table := self.table(shard)).num_rows]
        if len(tables) < 2:
            for table in tables:
                yield from row_groups(table)
            return
        names = [_Names(table) for table in tables]
        starts = [0] * len(tables)
        for bound in _bounds(names, self._rows_per_part):
            ends = [each.end_of(bound) for each in names]
            parts = [
                table.slice(start, end - start)
                for table, start, end in zip(tables, starts, ends, strict=True)
            ]
            starts = ends
            part = pa.concat_tables(parts).combine_chunks()
            order = pc.sort_indices(part, [(key, 'ascending') for key in self._keys])
            yield from row_groups(part.take(order))


@contextlib.contextmanager
def newest_rows(
    dataset: Dataset,
    runs: Sequence[CompleteRun],
    rows_per_shard: int | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    stored_scores: bool = False,
) -> Iterator[NewestRows]:
    """Finds the newest row of each (uri, carried columns) among some runs of one model.

    Args:
      dataset: the folder.
      runs: a row of a later one supersedes those of earlier ones.
      rows_per_shard: approximate rows of all runs per shard; by default what is handled best.
      rows_at_once: above this many rows in all, or fewer with features, they are spilled to a
        temporary folder.
      stored_scores: return all stored scores of a row, including those below its labels.

    Raises:
      StoreError: a file or report is damaged.
      UsageError: a file is missing.
    """
    features = _features(runs)
    files = [
        file
        for place, run in enumerate(runs)
        for file in files_of(dataset, run, place)
        if file.rows
    ]
    if features:
        rows_at_once = max(1, min(rows_at_once, FEATURES_AT_ONCE_BYTES // (2 * features)))
    total = sum(file.rows for file in files)
    is_large = total > rows_at_once
    # Sorting a shard takes several times its memory.
    rows_per_part = max(1, rows_at_once // _PARTS)
    copies: set[str] = set()
    if rows_per_shard is None:
        rows_per_shard = rows_per_part if is_large else rows_at_once
    else:  # the rows of copies are those of their sources
        copies = copies_among(runs)
    counts = _shards_by_folder(files, rows_per_shard, copies)
    with spooling(is_large) as spool:
        found = NewestRows(dataset, features, spool, rows_per_part)
        found.shards = [
            Shard(folder, index, counts[folder])
            for folder in sorted(counts)
            for index in range(counts[folder])
        ]
        found.rows_read = total
        schema = _row_schema(len(dataset.carry), features)
        in_time = {id(run): i for i, run in enumerate(sorted(runs, key=lambda run: run[:3]))}
        ranks = np.array([in_time[id(run)] for run in runs], np.int64)
        _spread(spool, dataset, runs, ranks, files, counts, schema, stored_scores)
        by_run = np.zeros(len(runs), np.int64)
        for shard in found.shards:
            rows = _newest_of(spool, dataset, ranks, shard)
            if rows is not None:
                by_run += np.bincount(rows[PLACE].to_numpy(), minlength=len(runs))
                since = rows[predictions.GONE_SINCE]
                found.gone += len(since) - since.null_count
                spool.put(shard, rows)
        found.rows_by_run = by_run.tolist()
        yield found


def _shards_by_folder(
    files: Sequence[StoredFile], rows_per_shard: int, left_out: set[str]
) -> dict[str, int]:
    """How many shards each partition has, by the rows of all but some runs."""
    rows: Counter[str] = Counter()
    for file in files:
        rows[file.folder] += 0 if file.run.id in left_out else file.rows
    return {folder: max(1, -(-count // rows_per_shard)) for folder, count in rows.items()}


def _spread(
    spool: Spool,
    dataset: Dataset,
    runs: Sequence[CompleteRun],
    ranks: np.ndarray,
    files: Sequence[StoredFile],
    counts: Mapping[str, int],
    schema: pa.Schema,
    stored_scores: bool,
) -> None:
    """Spools rows by their shard, and the notes beside them by ('notes', shard)."""
    keys = _keys(dataset)

    def load(file: StoredFile) -> None:
        for rows in _read(dataset, file, schema, stored_scores):
            for index, part in _split(rows, counts[file.folder]):
                spool.add(Shard(file.folder, index, counts[file.folder]), part)

    def load_notes(run: CompleteRun, rank: int) -> None:
        for noted in gone.note_files(run):
            for folder, notes in gone.read_notes(dataset, noted, rank, keys):
                if folder in counts:
                    for index, part in _split(notes, counts[folder]):
                        spool.add(('notes', Shard(folder, index, counts[folder])), part)

    with ThreadPoolExecutor(_THREADS) as pool:
        loading = pool.map(load, files)
        for _ in itertools.chain(loading, pool.map(load_notes, runs, ranks.tolist())):
            pass


def _newest_of(spool: Spool, dataset: Dataset, ranks: np.ndarray, shard: Shard) -> pa.Table | None:
    """The newest rows of a shard, and since when they are gone; None where it has none."""
    added = spool.take(shard)
    if added is None:
        return None
    keys = _keys(dataset)
    rows = _newest(added, keys)
    of_rows = ranks[rows[PLACE].to_numpy()]
    since = gone.gone_since(rows, of_rows, spool.take(('notes', shard)), keys)
    return rows.append_column(_GONE, since)


def _keys(dataset: Dataset) -> list[str]:
    return ['uri', *carry_names(len(dataset.carry))]


def by_worth(runs: Sequence[CompleteRun]) -> list[CompleteRun]:
    """The runs that scores are read from, in the order in which their rows supersede others'.

    Relabellings come first, because the scores that they dropped are still in their sources; if all
    of these are there, a relabelling has nothing to add.
    """
    copies = copies_among(runs)
    relabellings = [run for run in runs if run.report.is_relabelling and run.id not in copies]
    return [*relabellings, *(run for run in runs if not run.report.is_relabelling)]


def copies_among(runs: Sequence[CompleteRun]) -> set[str]:
    """The ids of the relabellings whose sources are all there."""
    ids = {run.id for run in runs}
    return {run.id for run in runs if run.report.is_relabelling and ids >= _sources_of(run)}


def _sources_of(run: CompleteRun) -> set[str]:
    return set(run.report.metadata.get('relabeled_from', '').split(','))


def floor_of(metadata: Mapping[str, str]) -> float:
    """From which score on the rows of a run have all that there were, but for `limit_of`."""
    labels = metadata.get('complete_from', metadata['stored_floor'])
    return float(metadata.get(run_metadata.SCORES_FLOOR, labels))


def limit_of(metadata: Mapping[str, str]) -> int:
    """How many scores a row of a run may have."""
    return int(metadata.get(run_metadata.SCORES_MAX, metadata['max_labels']))


def carry_names(count: int) -> list[str]:
    """Names of the carried columns in our tables: theirs might be those of other columns."""
    return [f'carry{i}' for i in range(count)]


def check_indices(rows: pa.Table, vocabulary: Vocabulary) -> None:
    """Refuses labels that cannot have a name.

    Raises:
      StoreError: a label's class is not in the vocabulary.
    """
    lowest, highest = pc.min_max(pc.list_flatten(rows['indices'])).as_py().values()
    if lowest is not None and not 0 <= lowest <= highest < len(vocabulary):
        raise StoreError(
            f'stored labels are of class {lowest} to {highest}, but {vocabulary.file_name} has '
            f'only {len(vocabulary)} classes; run `lemmabeam verify` to find the file'
        )


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """A table in parts of the size of a row group."""
    for start in range(0, table.num_rows, predictions.ROW_GROUP_ROWS):
        yield table.slice(start, predictions.ROW_GROUP_ROWS)


def _row_schema(carried: int, features: int) -> pa.Schema:
    fields = [(name, results.SCHEMA.field(name).type) for name in (*STORED, 'indices', 'scores')]
    if features:
        fields.append((run_metadata.FEATURES, pa.list_(pa.float16(), features)))
    fields += [(name, pa.string()) for name in carry_names(carried)]
    return pa.schema([*fields, (PLACE, pa.int32())])


def _features(runs: Sequence[CompleteRun]) -> int:
    lengths = {run.report.features for run in runs} - {0}
    if len(lengths) > 1:  # a model has one
        raise StoreError(
            f'runs of {runs[0].model_id} have features of different lengths: {sorted(lengths)}'
        )
    return next(iter(lengths), 0)


def _read(
    dataset: Dataset, file: StoredFile, schema: pa.Schema, stored_scores: bool
) -> Iterator[pa.Table]:
    """The rows of a file, a row group at a time, of the schema of `NewestRows.table`."""
    uri = uris.join(dataset.output, file.path)
    advice = restore_or_remove(file.run.id)
    expected = predictions.prediction_schema(dataset.file_columns, file.run.report.metadata)
    # Without the names of labels, which their indices imply: most of the bytes of a row.
    lists = ('labels', predictions.STORED_SCORES)
    scored = lists[stored_scores and predictions.STORED_SCORES in expected.names]
    wanted = [*STORED, f'{scored}.list.element.index', f'{scored}.list.element.score']
    wanted += [name for name in expected.names if name not in (*STORED, *lists)]
    try:
        with open_listed(dataset.store, uri, file.checksum) as stream:
            parquet = pq.ParquetFile(stream)
            if not parquet.schema_arrow.equals(expected):
                raise StoreError(
                    f'{uri} has the columns {parquet.schema_arrow.names}, but its run has '
                    f'{expected.names}; {advice}'
                )
            if parquet.metadata.num_rows != file.rows:
                raise StoreError(
                    f'{uri} has {parquet.metadata.num_rows} rows, but its report lists '
                    f'{file.rows}; {advice}'
                )
            for i in range(parquet.num_row_groups):
                stored = parquet.read_row_group(i, wanted)
                yield _rows(stored, scored, dataset, file, schema)
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: {e}; {advice}') from e
    except (pa.ArrowException, OSError) as e:
        raise StoreError(f'{uri} cannot be read as Parquet; {advice}') from e


def _rows(
    stored: pa.Table, scored: str, dataset: Dataset, file: StoredFile, schema: pa.Schema
) -> pa.Table:
    """Rows of `schema`, of a file whose column `scored` has the scores."""
    count = stored.num_rows
    columns: dict[str, Any] = {name: stored[name] for name in STORED}
    labels = stored[scored].combine_chunks()
    lengths = pc.list_value_length(labels).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    index, score = pc.list_flatten(labels).flatten()
    columns['indices'] = pa.ListArray.from_arrays(offsets, index)
    columns['scores'] = pa.ListArray.from_arrays(offsets, score)
    if run_metadata.FEATURES in schema.names:
        kind = schema.field(run_metadata.FEATURES).type
        has_some = run_metadata.FEATURES in stored.column_names
        columns[run_metadata.FEATURES] = (
            stored[run_metadata.FEATURES] if has_some else pa.nulls(count, kind)
        )
    for name, column, value in zip(
        carry_names(len(dataset.carry)), dataset.carry, file.values, strict=True
    ):
        is_inside = column in dataset.file_columns
        columns[name] = (
            stored[column] if is_inside else pa.repeat(pa.scalar(value, pa.string()), count)
        )
    columns[PLACE] = pa.repeat(pa.scalar(file.place, pa.int32()), count)
    return pa.table(columns, schema)


def _split(rows: pa.Table, count: int) -> Iterator[tuple[int, pa.Table]]:
    if count == 1:
        yield 0, rows
        return
    names = rows['uri'].to_pylist()
    parts = np.fromiter((uri_hash(uri) % count for uri in names), np.int64, len(names))
    for index in np.unique(parts).tolist():
        yield index, rows.take(pa.array(np.flatnonzero(parts == index)))


def _newest(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The row of the last place for each value of the keys, sorted by them."""
    names = rows['uri']
    # A single file is like this, and most datasets are one.
    if pc.all(pc.less(names.slice(0, len(names) - 1), names.slice(1))).as_py() in (True, None):
        return rows
    rows = rows.combine_chunks()
    order = pc.sort_indices(rows, [*((key, 'ascending') for key in keys), (PLACE, 'descending')])
    is_same = np.ones(max(0, len(order) - 1), bool)
    for key in keys:
        codes = _chunk(rows[key].dictionary_encode()).indices.fill_null(-1).to_numpy()
        codes = codes[order.to_numpy()]
        is_same &= codes[1:] == codes[:-1]
    return rows.take(order.filter(pa.array(np.concatenate([[True], ~is_same]))))


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class _Names:
    """The URIs of a sorted table."""

    def __init__(self, table: pa.Table):
        self._uris = _chunk(table['uri'])

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, place: int) -> str:
        name: str = self._uris[place].as_py()
        return name

    def end_of(self, bound: str | None) -> int:
        """How many lie before a bound; all, where it is None."""
        return len(self) if bound is None else bisect.bisect_left(self, bound)


def _bounds(names: Sequence[_Names], rows: int) -> list[str | None]:
    """URIs that cut sorted tables into parts of so many rows of all, about; None at the end."""
    step = max(1, min(_SAMPLE_ROWS, rows // _PARTS))
    samples = sorted(each[i] for each in names for i in range(0, len(each), step))
    stride = max(1, rows // step)
    return [*dict.fromkeys(samples[stride::stride]), None]
