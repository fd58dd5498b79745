"""File systems that take `Train` for `train`, or one normalization of Unicode for another.

Not checked here: a real one.  What stands in its place is tests.support.folding.
"""

import pytest

from tests.support import app, samples
from tests.support.datasets import Row, add_run
from tests.support.folding import FoldingStore
from tests.support.states import begin, settled
from transforms.core.errors import UsageError
from transforms.output import tell_apart
from transforms.output.layout import Layout
from transforms.storage.bounded import BoundedStore
from transforms.storage.registry import output_store, store_for

ALIKE = [('Train', 'train'), ('Stra\u00dfe', 'STRASSE'), ('caf\u00e9', 'cafe\u0301'), ('a', 'a.')]
TAKEN = '--run_id night-1: the file system of [^ ]* takes it for the id of another run'


def layout(output, *partition_by):
    return Layout(str(output), 'run-1', 'm', partition_by, partition_by, 1)


@pytest.fixture
def folding(tmp_path, monkeypatch):
    """The output folds names."""
    output = tmp_path / 'out'
    store = BoundedStore(FoldingStore(output))
    # Not in `store_for`, which keeps its stores for the tests to come.
    monkeypatch.setattr(Layout, 'store', store)
    return output


@pytest.mark.parametrize('values', ALIKE)
def test_names_that_a_store_tells_apart_are_fine(tmp_path, values):
    tell_apart.check(layout(tmp_path, 'split'), [f'split={value}/' for value in values])
    assert [entry.uri for entry in store_for('/').list(str(tmp_path))] == []


@pytest.mark.parametrize('place', ['bucket', 's3_bucket'])
def test_object_stores_tell_all_apart(request, place):
    output = request.getfixturevalue(place).uri('out')
    for values in ALIKE:
        tell_apart.check(layout(output, 'split'), [f'split={value}/' for value in values])
    assert list(store_for(output).list(output)) == []


@pytest.mark.parametrize('values', ALIKE[:3])
def test_names_that_are_one_folder_are_refused(folding, values):
    folders = [f'split={value}/' for value in (*values, 'test')]
    with pytest.raises(UsageError, match='are the same folder to the file system of') as caught:
        tell_apart.check(layout(folding, 'split'), folders)
    assert all(f'split={value}' in str(caught.value) for value in values)
    assert [entry.uri for entry in FoldingStore(folding).list(str(folding))] == []
    tell_apart.check(layout(folding, 'split'), folders[1:])


def test_a_folder_above_may_be_the_one_that_is_taken_for_another(folding):
    folders = ['split=Train/day=1/', 'split=train/day=2/']
    with pytest.raises(UsageError, match='two of split=Train, split=train are'):
        tell_apart.check(layout(folding, 'split', 'day'), folders)


@pytest.fixture
def manifest(tmp_path):
    lines = ['uri,split']
    for i, split in enumerate(('Train', 'train')):
        path = tmp_path / f'{i}.jpg'
        path.write_bytes(samples.picture(i))
        lines.append(f'{path},{split}')
    path = tmp_path / 'list.csv'
    path.write_text('\n'.join(lines))
    return path


@pytest.mark.usefixtures('stand_in_model')
def test_a_run_loses_no_row_to_a_partition_of_another_name(folding, manifest, capsys):
    arguments = ('label', '--input', manifest, '--partition_by', 'split', '--output', folding)
    done = app.invoke(*arguments)
    assert done.returncode == 2
    assert '--partition_by split: two of split=Train, split=train are the same' in done.stderr
    assert not list(folding.glob('runs/*'))
    elsewhere = str(folding.parent / 'elsewhere')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, 'store', output_store(elsewhere))
        assert app.invoke(*arguments[:-1], elsewhere).returncode == 0
    assert len(app.rows(folding.parent / 'elsewhere', 'predictions')) == 2


def test_the_id_of_a_run_is_not_taken_for_that_of_another(folding, manifest):
    add_run(folding, 'Night-1', [Row('/a')])
    before = (folding / 'runs/Night-1/report.json').read_bytes()
    arguments = ('--input', manifest, '--output', folding)
    with pytest.raises(UsageError, match=TAKEN):
        settled(*arguments, '--run_id', 'night-1')
    assert (folding / 'runs/Night-1/report.json').read_bytes() == before


def test_nor_that_of_an_interrupted_one(folding, manifest):
    begin('--input', manifest, '--output', folding, '--run_id', 'Night-1')
    with pytest.raises(UsageError, match=TAKEN):
        settled('--input', manifest, '--output', folding, '--run_id', 'night-1')
