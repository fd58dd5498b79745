"""Relabelling a million images and finding the newest rows of three runs, beside other ways."""

import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.measure import Process, Row, run_python, stopwatch
from tests.support.datasets import MODEL, VOCABULARY, finish, metadata_of
from transforms.dataset.latest_sql import write_latest_sql
from transforms.output import predictions
from transforms.output.layout import Layout
from transforms.storage.registry import store_for

_LABELS = 10
_LEAST_LABELS_PER_SEC = 1_000_000
_ROUNDS = 3
_GROUP_ROWS = 65_536

# What one writes first.
_ROWS = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
source = pq.ParquetFile(sys.argv[1])
with pq.ParquetWriter(sys.argv[2], source.schema_arrow, compression='zstd') as writer:
    for batch in source.iter_batches(65_536):
        rows = batch.to_pylist()
        for row in rows:
            row['labels'] = [label for label in row['labels'] if label['score'] >= 0.5]
        writer.write_table(pa.Table.from_pylist(rows, source.schema_arrow))
"""
# The same with Arrow's kernels: nothing is looked up, superseded, sorted, hashed or reported.
_KERNELS = """
import sys
import numpy as np, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
source = pq.ParquetFile(sys.argv[1])
place = source.schema_arrow.get_field_index('labels')
field = source.schema_arrow.field('labels')
with pq.ParquetWriter(sys.argv[2], source.schema_arrow, compression='zstd') as writer:
    for batch in source.iter_batches(65_536):
        labels = batch['labels']
        flat = pc.list_flatten(labels)
        is_kept = pc.greater_equal(pc.struct_field(flat, 'score'), 0.5)
        ends = np.cumsum(pc.list_value_length(labels).to_numpy())
        kept = np.concatenate([[0], np.cumsum(is_kept.to_numpy(zero_copy_only=False))])
        offsets = pa.array(np.concatenate([[0], kept[ends]]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, flat.filter(is_kept), type=field.type)
        writer.write_table(pa.table(batch).set_column(place, field, lists))
"""
_DUCKDB = """
import sys
import duckdb
query = open(sys.argv[1]).read()
duckdb.sql(query).write_parquet(sys.argv[2], compression='zstd')
"""
_DUCKDB_COUNT = """
import sys
import duckdb
print(duckdb.sql(open(sys.argv[1]).read()).aggregate('count(*), sum(len(labels))').fetchall())
"""


def write_run(folder: Path, run_id: str, rows: range, labels: int) -> Path:
    """A run of so many images with random labels; returns its only file."""
    layout = Layout(str(folder), run_id, MODEL, (), (), max(1, len(rows)))
    metadata = metadata_of(MODEL, stored_floor='0.0', threshold='0.0', max_labels=str(labels))
    schema = predictions.prediction_schema((), metadata)
    chance = np.random.default_rng(0)

    def tables():
        for start in range(0, len(rows), _GROUP_ROWS):
            part = rows[start : start + _GROUP_ROWS]
            offsets = pa.array(np.arange(0, labels * len(part) + 1, labels), pa.int32())
            shape = (len(part), labels)
            first = chance.integers(0, len(VOCABULARY), (len(part), 1))
            indices = (first + 97 * np.arange(labels)) % len(VOCABULARY)
            scores = -np.sort(-chance.random(shape, np.float32))
            lists = pa.table(
                {
                    'indices': pa.ListArray.from_arrays(offsets, indices.ravel().astype(np.int32)),
                    'scores': pa.ListArray.from_arrays(offsets, scores.ravel()),
                }
            )
            columns = {
                'uri': [f'gs://photos/2026/11/camera/image-{i:09d}.jpg' for i in part],
                'object_version': [f'{1_700_000_000_000_000 + i}' for i in part],
                'content_sha256': [chance.bytes(32).hex() for _ in part],
                'width': chance.integers(100, 5000, len(part), np.int32),
                'height': chance.integers(100, 5000, len(part), np.int32),
                'format': ['JPEG'] * len(part),
                'labels': predictions.labels_of(lists, VOCABULARY, schema),
            }
            yield pa.table(columns, schema)

    path = layout.shard_path(predictions.KIND, '', 0, 1)
    finish(layout, [predictions.write_file(path, layout, schema, tables())], metadata)
    return folder / path


def _relabel(folder: Path, run_id: str) -> Process:
    done = run_python(
        *('-m', 'pipeline', 'relabel', '--output', folder, '--threshold', '0.5'),
        *('--run_id', run_id),
    )
    (written,) = folder.glob(f'predictions/*/run={run_id}/*.parquet')
    written.unlink()
    (folder / 'runs' / run_id / 'report.json').unlink()
    return done


def relabel_rows(folder: Path, rows: int, rounds: int) -> list[Row]:
    """A run whose labels are cut at a higher threshold."""
    source = write_run(folder / 'one', 'a', range(rows), _LABELS)
    ways = {
        'relabel': lambda i: _relabel(folder / 'one', f'r{i}'),
        'kernels of Arrow': lambda _: run_python('-c', _KERNELS, source, folder / 'x'),
        'a row at a time': lambda _: run_python('-c', _ROWS, source, folder / 'x'),
    }
    found: dict[str, list[Process]] = {name: [] for name in ways}
    for i in range(rounds):
        for name, way in ways.items():
            if not (i and name == 'a row at a time'):
                found[name].append(way(i))
    rates = {
        name: _LABELS * rows / statistics.median(process.wall_sec for process in done)
        for name, done in found.items()
    }
    name = f'{rows:,} rows x {_LABELS} labels'
    return [
        Row(f'{name}, relabel: rate', rates['relabel'], 'labels/s', at_least=_LEAST_LABELS_PER_SEC),
        *(
            Row(f'{name}, {way}: rate', rates[way], 'labels/s')
            for way in ('kernels of Arrow', 'a row at a time')
        ),
        Row('rate, relabel / a row at a time', rates['relabel'] / rates['a row at a time']),
        Row('rate, relabel / kernels of Arrow', rates['relabel'] / rates['kernels of Arrow']),
        *(
            Row(f'{way}: peak', statistics.median(x.peak_bytes for x in done) / 1e6, 'MB')
            for way, done in found.items()
        ),
    ]


def latest_rows(folder: Path, rows: int) -> list[Row]:
    """Three runs, each of which supersedes some of the rows of the one before."""
    dataset = folder / 'three'
    for i in range(3):
        write_run(dataset, f'r{i}', range(i * rows // 10, i * rows // 10 + rows), _LABELS)
    with stopwatch() as composing:
        write_latest_sql(str(dataset), store_for(str(dataset)))
    ours = run_python('-m', 'pipeline', 'latest', dataset, '--output', folder / 'ours.parquet')
    query = run_python('-c', _DUCKDB, dataset / 'latest.sql', folder / 'query.parquet')
    count = run_python('-c', _DUCKDB_COUNT, dataset / 'latest.sql')
    expected = rows + 2 * rows // 10
    for path in ('ours.parquet', 'query.parquet'):
        if pq.read_metadata(folder / path).num_rows != expected:
            raise RuntimeError(f'{path} has not the {expected} newest rows')
    shutil.rmtree(dataset)
    name = f'newest of 3 x {rows:,} rows'
    return [
        Row(f'{name}, latest: time', ours.wall_sec, 's'),
        Row(f'{name}, latest: peak', ours.peak_bytes / 1e6, 'MB'),
        Row(f'{name}, latest.sql in DuckDB, to Parquet: time', query.wall_sec, 's'),
        Row(f'{name}, latest.sql in DuckDB, to Parquet: peak', query.peak_bytes / 1e6, 'MB'),
        Row(f'{name}, latest.sql in DuckDB, counted: time', count.wall_sec, 's'),
        Row('time, latest / latest.sql in DuckDB', ours.wall_sec / query.wall_sec),
        Row('latest.sql: time to compose', 1000 * composing.wall_sec, 'ms'),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    rows = 2_000 if is_quick else 1_000_000
    return [
        *relabel_rows(folder, rows, 1 if is_quick else _ROUNDS),
        *latest_rows(folder, rows),
    ]
