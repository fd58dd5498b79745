"""Two outputs of `lemmabeam label` are compared; what `verify` finds is in test_tampering."""

import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from tests.support import app, samples
from tests.support.datasets import Row, add_run, edit_rows
from transforms.core.elements import DeadLetter, Stage
from transforms.core.reasons import Reason
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.verify import compare, verify
from transforms.storage.registry import store_for


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    pictures = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(pictures, 12)
    output = tmp_path_factory.mktemp('whole')
    with app.stand_in():
        app.label('--input', pictures, '--output', output, '--run_id', 'a', '--rows_per_file', '8')
    assert verify(str(output)) == []
    return output


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'copy')
    return tmp_path / 'copy'


def part(folder, kind='predictions'):
    return next(
        path
        for path in sorted(folder.glob(f'{kind}/**/*.parquet'))
        if pq.read_metadata(path).num_rows > 1
    )


def test_compare_names_the_first_differences(whole, copy):
    assert compare(str(whole), str(copy)) == ([], '12 predictions; 3 dead letters')

    def change(rows):
        rows[0]['labels'][0]['score'] += 1e-6
        rows[1]['width'] = 7
        return rows

    edit_rows(part(copy), change)
    differences, totals = compare(str(whole), str(copy))
    assert len(differences) == 2
    assert totals == '12 predictions, 2 different; 3 dead letters'
    assert any('width' in line and '7' in line for line in differences)
    assert len(compare(str(whole), str(copy), tolerance=1e-5).differences) == 1
    assert len(compare(str(whole), str(copy), by_name=True).differences) == 2


def test_other_bytes_of_the_same_rows_are_a_difference(whole, copy):
    edit_rows(part(copy), lambda rows: rows)
    assert compare(str(whole), str(copy)).differences == []
    ((difference,), _) = compare(str(whole), str(copy), exact=True)
    assert 'the same rows, but different bytes' in difference


ROWS = [Row('/a', ((1, 0.9),)), Row('/b', ((2, 0.4),)), Row('/c')]


def failed(uri):
    return DeadLetter(uri, Stage.FETCH.value, Reason.NOT_FOUND.value, 'no such file', -1, '[]')


def test_runs_of_other_names_are_compared_by_what_they_computed(tmp_path, capsys):
    one, two = tmp_path / 'one', tmp_path / 'two'
    add_run(one, 'a', ROWS, failed=[failed('/x')])
    # The same in three nights: one failed before, one was another, one is a copy.
    add_run(two, 'b', [ROWS[0], Row('/b')], failed=[failed('/c'), failed('/x')])
    add_run(two, 'c', ROWS[1:])
    add_run(two, 'd', ROWS[:2], command='relabel', relabeled_from='b,c')
    for folder in (one, two):
        write_latest_sql(str(folder), store_for(str(folder)))
    assert main(['verify', str(one), str(two)]) == 0
    assert capsys.readouterr().out == 'the same: 3 predictions; 1 dead letters\n'
    assert main(['verify', str(one), str(two), '--exact']) == 1
    assert 'only in' in capsys.readouterr().out
    add_run(two, 'e', [Row('/c', ((3, 0.5),)), Row('/d')])
    write_latest_sql(str(two), store_for(str(two)))
    assert main(['verify', str(one), str(two)]) == 1
    *_, totals = capsys.readouterr().out.splitlines()
    assert totals == '3 and 4 predictions, 1 different, 1 only in one; 1 dead letters'
