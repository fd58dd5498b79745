"""What is written is read as meant by DuckDB, pyarrow's datasets and pandas."""

import json

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.support import app, samples, without_model
from tests.support.guides import ROOT, code_blocks

VALUES = ['007', 'a b', 'a/b', '..', '', None, 'ä=%', '2026-11-24', "o'x"]


class Predictor(without_model.Predictor):
    """Sees nothing in every other picture."""

    def __call__(self, pixels):
        found = super().__call__(pixels)
        return found._replace(counts=np.arange(len(found.counts), dtype=np.int32) % 2 * 3)


@pytest.fixture(scope='module')
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp('readers')
    paths = samples.write_pictures(folder / 'in', 2 * len(VALUES))
    lines = [
        {'uri': str(path), 'day': VALUES[i % len(VALUES)], 'customer': f'{i:03d}'}
        for i, path in enumerate(paths)
    ]
    manifest = folder / 'list.jsonl'
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    with app.stand_in(Predictor):
        app.label(
            '--input', manifest, '--output', folder / 'out', '--carry', 'customer',
            '--partition_by', 'day', '--threshold', '0.2',
        )  # fmt: skip
    return folder / 'out'


EXPECTED_DAYS = {value or None for value in VALUES}


def test_duckdb(output):
    rows = duckdb.sql(
        f"""select uri, day, customer, labels[1].name as best, len(labels) as labels
        from read_parquet('{output}/predictions/**/*.parquet',
                          hive_partitioning = true, hive_types_autocast = false)"""
    ).fetchall()
    assert len(rows) == 2 * len(VALUES)
    assert {row[1] for row in rows} == EXPECTED_DAYS
    assert {len(row[2]) for row in rows} == {3}
    assert {row[3] is None for row in rows} == {True, False}, 'some have no label, some have'


def test_pyarrow_dataset(output):
    partitioning = ds.partitioning(
        pa.schema([('model', pa.string()), ('run', pa.string()), ('day', pa.string())]),
        flavor='hive',
    )
    table = ds.dataset(output / 'predictions', partitioning=partitioning).to_table()
    assert table.num_rows == 2 * len(VALUES)
    assert set(table['day'].to_pylist()) == EXPECTED_DAYS
    assert table['labels'].null_count == 0
    assert table['uri'].null_count == 0


def test_pandas(output):
    partitioning = ds.partitioning(
        pa.schema([('model', pa.string()), ('run', pa.string()), ('day', pa.string())]),
        flavor='hive',
    )
    frame = pd.read_parquet(output / 'predictions', partitioning=partitioning)
    assert set(frame['day'].dropna()) == EXPECTED_DAYS - {None}
    assert set(frame['customer'].str.len()) == {3}


def test_files_are_as_the_design_says(output):
    for path in output.glob('predictions/**/*.parquet'):
        parquet = pq.ParquetFile(path)
        labels = parquet.schema_arrow.field('labels')
        assert not labels.nullable
        assert parquet.schema.column(6).path.startswith('labels.list.element.')
        assert parquet.metadata.row_group(0).column(0).compression == 'ZSTD'
        uris = parquet.read(['uri'])['uri'].to_pylist()
        assert uris == sorted(uris)
        metadata = {key.decode() for key in parquet.schema_arrow.metadata}
        assert {f'lemmabeam.{key}' for key in ('model_id', 'threshold', 'precision')} <= metadata


def test_the_vocabulary_explains_every_label(output):
    count = duckdb.sql(
        f"""select count(*), count(v.definition), count(v.hypernyms[1])
        from (select unnest(labels) as label
              from read_parquet('{output}/predictions/**/*.parquet')) p
        join '{output}/vocabularies/*.parquet' v
        on v.index = p.label.index and v.wnid = p.label.wnid and v.name = p.label.name"""
    ).fetchall()[0]
    total = duckdb.sql(
        f"select sum(len(labels)) from read_parquet('{output}/predictions/**/*.parquet')"
    ).fetchall()[0][0]
    assert count == (total, total, total)


def test_the_guides_sql_and_python_run(output, monkeypatch, tmp_path):
    blocks = list(code_blocks(ROOT / 'transforms' / 'output' / 'README.md'))
    best, with_ancestor = (block.text for block in blocks if block.language == 'sql')
    python = next(block.text for block in blocks if block.language == 'python')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'labels').symlink_to(output)
    rows = duckdb.sql(best).fetchall()
    assert rows
    assert all(score > 0.5 for _, _, score in rows)
    variables = {}
    exec(python.replace("'split'", "'day'"), variables)
    assert len(variables['frame']) == variables['table'].num_rows == 2 * len(VALUES)
    has_label = [len(labels) > 0 for labels in variables['frame']['labels']]
    everything = duckdb.sql(with_ancestor.replace("'dog'", "'entity'")).fetchall()
    assert 0 < len(everything) == sum(has_label) < len(has_label)
