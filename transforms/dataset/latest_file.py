"""The newest row of every image and model, as one Parquet file."""

import contextlib
import fcntl
import functools
import io
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import StoreError, UsageError
from transforms.core.resources import TEMPORARIES
from transforms.core.stores import StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC
from transforms.dataset import gone, newest
from transforms.dataset.newest import NewestRows, newest_rows
from transforms.dataset.reader import Dataset, read_vocabulary, runs_of_model
from transforms.model.vocabulary import Vocabulary
from transforms.output import predictions, run_metadata
from transforms.output.layout import SCHEMA_VERSION
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.storage.bounded import BoundedStore, WrittenWithin
from transforms.storage.registry import output_store

# Whoever opens a file of such a name expects something else.
_OTHER_KINDS = frozenset('.csv .tsv .txt .json .jsonl .ndjson .xlsx .html .gz .zip'.split())


class Counts(NamedTuple):
    """What became of the rows of a model.

    Attributes:
      rows: written ones.
      superseded: rows of earlier runs of the same images, which were not written.
      gone: the newest rows of images that are gone, written or not.
    """

    rows: int
    superseded: int
    gone: int


def write_latest_to(
    given: str,
    dataset: Dataset,
    model_id: str | None,
    stores: StoreOptions,
    drop_gone: bool = False,
) -> tuple[str, dict[str, Counts]]:
    """Writes the newest rows to where somebody wants them; see `write_latest`.

    Args:
      given: the file, as it was given.
      dataset: the folder.
      model_id: the only model whose rows are wanted, None for all.
      stores: how the file is reached.
      drop_gone: leave out rows whose images are gone.

    Returns:
      The absolute URI of the file, and what became of the rows of each model.

    Raises:
      UsageError: the file cannot lie there, or there is no such model.
      StoreError: a file or report is damaged, or a store fails.
    """
    target = _target(given, dataset.output, stores)
    runs = complete_runs(dataset.output, dataset.store)
    if model_id is not None:
        runs = runs_of_model(dataset, runs, model_id)
    return target, write_latest(dataset, runs, target, stores, drop_gone=drop_gone)


def _target(given: str, folder: str, stores: StoreOptions) -> str:
    target = uris.absolute(given)
    shown = uris.printable(given)
    if what := uris.read_only(target):
        raise UsageError(f'--output {shown}: {what} is not written to')
    store = output_store(target, stores)  # a scheme that cannot be written is found first
    is_folder = not uris.scheme_of(target) and store.is_folder(target)
    if given.endswith('/') or not target.rpartition('/')[2] or is_folder:
        raise UsageError(f'--output {shown}: expected the name of a file, such as latest.parquet')
    if uris.suffix_of(target) in _OTHER_KINDS:
        raise UsageError(f'--output {shown}: what is written is Parquet; call it .parquet')
    real = [
        store.within('looking for', x, functools.partial(os.path.realpath, x))
        if uris.scheme_of(x) == ''
        else x
        for x in (target, folder)
    ]
    if f'{real[0]}/'.startswith(uris.join(real[1], '')):
        raise UsageError(
            f'--output {shown} lies inside {folder}, where readers would take it for a part of the '
            'dataset: choose a place beside it'
        )
    return target


def write_latest(
    dataset: Dataset,
    runs: Sequence[CompleteRun],
    target: str,
    stores: StoreOptions,
    rows_at_once: int = newest.ROWS_AT_ONCE,
    drop_gone: bool = False,
    deadline_sec: float = LEAST_DEADLINE_SEC,
) -> dict[str, Counts]:
    """Writes the newest row of each (uri, carried columns) and model into one Parquet file.

    Args:
      dataset: the folder.
      runs: complete runs, the oldest first.
      target: absolute URI of the file, which appears whole or not at all.
      stores: how it is reached.
      rows_at_once: approximate rows in memory at a time.
      drop_gone: leave out those that are gone.
      deadline_sec: longest time without an answer when the file is written.

    Returns:
      What became of the rows of each model.

    Raises:
      StoreError, UsageError: a file or report is damaged or missing, or a store fails.
    """
    by_model: dict[str, list[CompleteRun]] = {}
    for each in runs:
        by_model.setdefault(each.model_id, []).append(each)
    schema = _schema(dataset, runs)
    counts = {}
    with (
        _writing(output_store(target, stores, deadline_sec), target) as file,
        pq.ParquetWriter(file, schema, compression='zstd') as writer,
    ):
        for model_id in sorted(by_model):
            of_model = by_model[model_id]
            vocabulary = read_vocabulary(dataset, of_model[-1])
            with newest_rows(dataset, of_model, None, rows_at_once) as found:
                rows = sum(found.rows_by_run)
                left_out = found.gone if drop_gone else 0
                counts[model_id] = Counts(rows - left_out, found.rows_read - rows, found.gone)
                for table in _tables(found, of_model, dataset, vocabulary, schema):
                    if drop_gone:
                        table = table.filter(table[predictions.GONE_SINCE].is_null())
                    writer.write_table(table, row_group_size=predictions.ROW_GROUP_ROWS)
    return counts


def _schema(dataset: Dataset, runs: Sequence[CompleteRun]) -> pa.Schema:
    """Columns as in the files of predictions, those of their paths as text, and `GONE_SINCE`."""
    lengths = {run.report.metadata.get(run_metadata.FEATURES) for run in runs}
    metadata = {'schema_version': str(SCHEMA_VERSION)}
    if len(lengths) == 1 and (length := lengths.pop()):
        metadata[run_metadata.FEATURES] = length
    schema = predictions.prediction_schema((), metadata)
    if len(lengths) > 1:
        # Of several models, or missing: pyarrow reads no list of fixed size that may be null.
        schema = schema.append(pa.field(run_metadata.FEATURES, pa.list_(pa.float16())))
    for column in dataset.carry:
        schema = schema.append(pa.field(column, pa.string()))
    for column in ('model', 'run'):
        schema = schema.append(pa.field(column, pa.string(), nullable=False))
    return schema.append(pa.field(predictions.GONE_SINCE, gone.TYPE))


def _tables(
    found: NewestRows,
    runs: Sequence[CompleteRun],
    dataset: Dataset,
    vocabulary: Vocabulary,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    ids = pa.array([run.id for run in runs], pa.string())
    for rows in found.in_order():
        columns: dict[str, Any] = {name: rows[name] for name in newest.STORED}
        newest.check_indices(rows, vocabulary)
        columns['labels'] = predictions.labels_of(rows, vocabulary, schema)
        if run_metadata.FEATURES in schema.names:
            kind = schema.field(run_metadata.FEATURES).type
            columns[run_metadata.FEATURES] = (
                rows[run_metadata.FEATURES].cast(kind)
                if found.features
                else pa.nulls(len(rows), kind)
            )
        names = newest.carry_names(len(dataset.carry))
        columns |= {column: rows[name] for column, name in zip(dataset.carry, names, strict=True)}
        columns['model'] = pa.repeat(runs[0].model_id, len(rows))
        columns['run'] = ids.take(rows[newest.PLACE].combine_chunks())
        columns[predictions.GONE_SINCE] = rows[predictions.GONE_SINCE]
        yield pa.table(columns, schema)


@contextlib.contextmanager
def _writing(store: BoundedStore, target: str) -> Iterator[BinaryIO]:
    """A file that is put in its place at the end, unless something fails."""
    if uris.scheme_of(target):
        data = io.BytesIO()
        yield data
        store.write(target, data.getvalue())
        return
    path = Path(target)
    temporary = path.with_name(f'.{path.name[:100]}.{secrets.token_hex(4)}.tmp')
    try:
        with TEMPORARIES.hold(temporary):
            created = store.within('writing', target, lambda: _create(temporary, beside=path))
            with WrittenWithin(store, target, created) as file:
                yield cast(BinaryIO, file)
                file.end()
            store.within('moving something to', target, lambda: temporary.replace(target))
    except OSError as e:
        raise StoreError(f'cannot write {uris.printable(target)}: {e.strerror or e}') from e


def _create(temporary: Path, beside: Path) -> FileIO:
    beside.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(beside)
    file = FileIO(temporary, 'xb')
    _lock(file)
    return file


def _remove_abandoned(path: Path) -> None:
    """Removes what killed commands have left beside a file; who still writes has its lock."""
    pattern = re.compile(re.escape(f'.{path.name[:100]}.') + r'[0-9a-f]{8}\.tmp')
    for found in path.parent.glob('.*.tmp'):
        if pattern.fullmatch(found.name):
            with contextlib.suppress(OSError), found.open('rb') as file:
                if _lock(file):
                    found.unlink()


def _lock(file: FileIO | BinaryIO) -> bool:
    """Takes the lock of a file, which ends with this process at the latest; False if another has it
    or there are none in this file system.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
