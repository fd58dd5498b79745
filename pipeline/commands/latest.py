"""`lemmabeam latest`: the newest row of every image and model, in one Parquet file."""

import argparse
import contextlib
import fcntl
import io
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.options import add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.errors import StoreError, UsageError
from transforms.core.resources import TEMPORARIES
from transforms.dataset import gone, newest
from transforms.dataset.newest import NewestRows, newest_rows
from transforms.dataset.reader import (
    Dataset,
    metadata_of,
    open_dataset,
    read_vocabulary,
    runs_of_model,
)
from transforms.model.vocabulary import Vocabulary
from transforms.output import predictions, results
from transforms.output.layout import SCHEMA_VERSION
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.storage.base import StoreOptions
from transforms.storage.registry import store_for

# Whoever opens a file of such a name expects something else.
_OTHER_KINDS = frozenset('.csv .tsv .txt .json .jsonl .ndjson .xlsx .html .gz .zip'.split())


def main(parser: Parser, argv: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam latest`."""
    parser.add_argument('folder', metavar='DIR', help='the --output of `lemmabeam label`')
    parser.add_argument(
        '--output',
        required=True,
        metavar='FILE',
        help='the Parquet file to write or replace, local, gs:// or s3://, outside DIR; sorted by '
        'model and URI. For an object store it is put together in memory',
    )
    parser.add_argument(
        '--model_id',
        metavar='ID',
        help='only the rows of this model, such as efficientnet-lite0-30581518 (default: those of '
        'all models)',
    )
    parser.add_argument(
        '--drop_gone',
        action='store_true',
        help='leave out rows whose image the inputs of their run do not list any more: those with '
        'a gone_since (default: all are kept)',
    )
    add_store_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the file and prints its counts.

    Above a million rows a temporary folder ($TMPDIR) takes about 300 bytes a row.

    Raises:
      UsageError: DIR is no output, FILE cannot lie there, or there is no such model.
      StoreError: a file or report is damaged, or a store fails.
    """
    stores = store_options(args)
    output = uris.absolute(args.folder).rstrip('/') or '/'
    dataset = open_dataset(output, store_for(output, stores), 'DIR ')
    target = _target(args.output, output, stores)
    runs = complete_runs(output, dataset.store)
    if args.model_id is not None:
        runs = runs_of_model(dataset, runs, args.model_id)
    counts = write_latest(dataset, runs, target, stores, drop_gone=args.drop_gone)
    for model_id, (rows, superseded, gone_rows) in counts.items():
        what = 'rows of images that are gone left out' if args.drop_gone else 'of the rows are gone'
        line = f'{model_id}: {rows:,} rows, {superseded:,} superseded ones left out'
        print(f'{line}; {gone_rows:,} {what}' if gone_rows else line)
    print(f'{uris.printable(target)}: {sum(each.rows for each in counts.values()):,} rows')
    return 0


class Counts(NamedTuple):
    """What became of the rows of a model.

    Attributes:
      rows: those that were written.
      superseded: those of earlier runs of the same images, which were not.
      gone: the newest rows of images that are gone, written or not.
    """

    rows: int
    superseded: int
    gone: int


def write_latest(
    dataset: Dataset,
    runs: Sequence[CompleteRun],
    target: str,
    stores: StoreOptions,
    rows_at_once: int = newest.ROWS_AT_ONCE,
    drop_gone: bool = False,
) -> dict[str, Counts]:
    """Writes the newest row of each (uri, carried columns) and model into one Parquet file.

    Args:
      dataset: the folder.
      runs: complete runs, the oldest first.
      target: absolute URI of the file, which is there whole or not at all.
      stores: how it is reached.
      rows_at_once: rows in memory at a time, about.
      drop_gone: leave out those that are gone.

    Returns:
      By model what became of its rows.

    Raises:
      StoreError, UsageError: a file or report is damaged or missing, or a store fails.
    """
    by_model: dict[str, list[CompleteRun]] = {}
    for each in runs:
        by_model.setdefault(each.model_id, []).append(each)
    schema = _schema(dataset, runs)
    counts = {}
    with (
        _writing(target, stores) as file,
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
    lengths = {metadata_of(dataset, run).get(results.FEATURES) for run in runs}
    metadata = {'schema_version': str(SCHEMA_VERSION)}
    if len(lengths) == 1 and (length := lengths.pop()):
        metadata[results.FEATURES] = length
    schema = predictions.prediction_schema((), metadata)
    if len(lengths) > 1:
        # Of several models, or missing: pyarrow reads no list of fixed size that may be null.
        schema = schema.append(pa.field(results.FEATURES, pa.list_(pa.float16())))
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
        if results.FEATURES in schema.names:
            kind = schema.field(results.FEATURES).type
            columns[results.FEATURES] = (
                rows[results.FEATURES].cast(kind) if found.features else pa.nulls(len(rows), kind)
            )
        names = newest.carry_names(len(dataset.carry))
        columns |= {column: rows[name] for column, name in zip(dataset.carry, names, strict=True)}
        columns['model'] = pa.repeat(runs[0].model_id, len(rows))
        columns['run'] = ids.take(rows[newest.PLACE].combine_chunks())
        columns[predictions.GONE_SINCE] = rows[predictions.GONE_SINCE]
        yield pa.table(columns, schema)


def _target(given: str, folder: str, stores: StoreOptions) -> str:
    target = uris.absolute(given)
    shown = uris.printable(given)
    if uris.scheme_of(target) in ('http', 'https'):
        raise UsageError(f'--output {shown}: http(s) is not written to')
    store_for(target, stores)  # a scheme that cannot be written is found first
    if given.endswith('/') or not target.rpartition('/')[2] or _is_folder(target):
        raise UsageError(f'--output {shown}: expected the name of a file, such as latest.parquet')
    if uris.suffix_of(target) in _OTHER_KINDS:
        raise UsageError(f'--output {shown}: what is written is Parquet; call it .parquet')
    real = [os.path.realpath(x) if uris.scheme_of(x) == '' else x for x in (target, folder)]
    if f'{real[0]}/'.startswith(uris.join(real[1], '')):
        raise UsageError(
            f'--output {shown} lies inside {folder}, where readers would take it for a part of the '
            'dataset: choose a place beside it'
        )
    return target


def _is_folder(target: str) -> bool:
    return uris.scheme_of(target) == '' and Path(target).is_dir()


@contextlib.contextmanager
def _writing(target: str, stores: StoreOptions) -> Iterator[BinaryIO]:
    """A file that is put in its place at the end, unless something fails."""
    if uris.scheme_of(target):
        data = io.BytesIO()
        yield data
        store_for(target, stores).write(target, data.getvalue())
        return
    path = Path(target)
    temporary = path.with_name(f'.{path.name[:100]}.{secrets.token_hex(4)}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with TEMPORARIES.hold(temporary):
            with temporary.open('xb') as file:
                _lock(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    except OSError as e:
        raise StoreError(f'cannot write {uris.printable(target)}: {e.strerror or e}') from e


def _remove_abandoned(path: Path) -> None:
    """Removes what killed commands have left beside a file; who still writes has its lock."""
    pattern = re.compile(re.escape(f'.{path.name[:100]}.') + r'[0-9a-f]{8}\.tmp')
    for found in path.parent.glob('.*.tmp'):
        if pattern.fullmatch(found.name):
            with contextlib.suppress(OSError), found.open('rb') as file:
                if _lock(file):
                    found.unlink()


def _lock(file: BinaryIO) -> bool:
    """Takes the lock of a file, which ends with this process at the latest; False if another has it
    or there are none in this file system.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
