"""`lb.open`: the newest rows, and what there is beside them."""

import gc
from pathlib import Path

import lemmabeam as lb
import pyarrow.compute as pc
import pytest

from tests.support.datasets import MODEL, Row, add_run
from transforms.core.elements import DeadLetter


def letter(uri, reason='not_found'):
    return DeadLetter(uri, 'fetch', reason, 'detail', -1, '[]')


@pytest.fixture
def folder(tmp_path):
    """Two runs of a model: /a is labelled anew, /c fails at last and has no row, /d did so once."""
    add_run(tmp_path, 'a', [Row('/a', [(1, 0.9)]), Row('/b', [(2, 0.3)])], failed=[letter('/c')])
    add_run(tmp_path, 'b', [Row('/a', [(3, 0.8)])], failed=[letter('/c', 'forbidden')])
    return tmp_path


def test_the_newest_rows_as_each_library_has_them(folder):
    labels = lb.open(folder)
    rows = labels.to_table(['uri', 'run', 'labels']).to_pylist()
    assert [(row['uri'], row['run'], row['labels'][0]['index']) for row in rows] == [
        ('/a', 'b', 3),
        ('/b', 'a', 2),
    ]
    assert labels.to_table(filter=pc.field('uri') == '/b').num_rows == 1
    assert labels.dataset().count_rows() == 2
    assert list(labels.to_pandas(['uri']).uri) == ['/a', '/b']
    assert labels.to_duckdb().aggregate('max(uri)').fetchall() == [('/b',)]
    assert [report.run_id for report in labels.runs()] == ['a', 'b']
    assert repr(labels) == f'<Labels of {folder}: 2 complete runs of {MODEL}>'


def test_a_failure_counts_as_long_as_there_is_no_row(folder):
    (row,) = lb.open(folder).dead_letters().to_pylist()
    assert (row['uri'], row['reason'], row['run']) == ('/c', 'forbidden', 'b')
    add_run(folder, 'c', [Row('/c', [(1, 0.5)])], failed=[letter('/a')])
    assert lb.open(folder).dead_letters().num_rows == 0


def test_the_classes_are_those_of_one_model(folder):
    found = lb.open(folder).vocabulary()
    assert found.column_names == ['index', 'wnid', 'name', 'definition']
    assert found.slice(281, 1).to_pylist()[0]['name'] == 'tabby'
    add_run(folder, 'c', [Row('/a', [(1, 0.5)])], model_id='other-11111111')
    with pytest.raises(
        lb.errors.UsageError, match=f'runs of {MODEL}, other-11111111: open it with'
    ):
        lb.open(folder).vocabulary()
    labels = lb.open(folder, model_id=MODEL)
    assert labels.vocabulary().num_rows == 1000
    assert labels.to_table().num_rows == 2
    assert lb.open(folder).to_table().num_rows == 3
    with pytest.raises(lb.errors.UsageError, match=r'^model_id x: '):
        lb.open(folder, model_id='x')


def test_it_is_what_there_was_when_it_was_opened_and_leaves_nothing(folder, tmp_path, monkeypatch):
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    labels = lb.open(folder)
    add_run(folder, 'c', [Row('/new', [(1, 0.5)])])
    assert labels.to_table().num_rows == 2
    assert len(list(temporary.iterdir())) == 1
    del labels
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_what_reads_the_rows_by_their_file_keeps_it(folder, tmp_path, monkeypatch):
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    dataset = lb.open(folder).dataset()
    relation = lb.open(folder).to_duckdb()
    gc.collect()
    assert dataset.to_table().num_rows == 2
    assert len(relation.fetchall()) == 2
    del dataset, relation
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_what_is_no_output_or_damaged_is_said(folder, tmp_path):
    with pytest.raises(lb.errors.UsageError, match='no such folder'):
        lb.open(tmp_path / 'nowhere')
    (path,) = folder.glob('dead_letters/*/run=b/*.parquet')
    Path(path).write_bytes(b'PAR1')
    with pytest.raises(lb.errors.StoreError, match='is damaged'):
        lb.open(folder).dead_letters()
