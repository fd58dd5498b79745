"""Examples run: those of docstrings, and the programs and the notebook in templates/python.

With the real model, so that a person reads what they will see. One labelled folder is made for all.
"""

import contextlib
import doctest
import json
import logging
import runpy
import shutil
import sys

import lemmabeam as lb
import pytest

from pipeline.api import reference
from tests.support import app, samples

TEMPLATES = samples.SAMPLE.parents[1] / 'templates' / 'python'
PHOTOS = ('cat.jpg', 'coffee.jpg', 'temple.jpg')


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """A folder with photographs and their labels."""
    folder = tmp_path_factory.mktemp('examples')
    (folder / 'photos').mkdir()
    for name in PHOTOS:
        shutil.copy(samples.SAMPLE / name, folder / 'photos')
    app.start_tensorflow()
    with app.networks_built_once():
        # As in the example of `label`: rows of one folder have one floor.
        lb.label(folder / 'photos', folder / 'labels', threshold=0.2, loader_processes=0)
        yield folder


@pytest.fixture
def place(labelled, tmp_path):
    """A copy of it, which is the current folder."""
    shutil.copytree(labelled, tmp_path, dirs_exist_ok=True)
    lb.clean(tmp_path / 'labels')  # its query names the place
    with contextlib.chdir(tmp_path):
        yield tmp_path


@pytest.mark.parametrize('name', reference.public())
def test_the_example_of_a_docstring(name, place):
    tests = doctest.DocTestFinder(recurse=False).find(
        getattr(lb, name), name, globs={'lb': lb}, module=False
    )
    (found,) = (each for each in tests if each.examples)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(found, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, ''.join(said)


def run(name, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(str(TEMPLATES / name), run_name='__main__')


def test_a_folder_is_labelled_and_looked_at(place, capsys):
    (place / 'photos' / 'broken.jpg').write_bytes(b'no picture')
    run('label_a_folder.py', 'photos', 'new')
    out = capsys.readouterr().out
    assert out.startswith('3 labelled, 0 unchanged, 1 failed\n')
    assert 'cat.jpg: tiger cat 0.' in out
    assert 'broken.jpg: not_an_image: ' in out


def test_a_night(place, caplog):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, 'apache_beam')  # as it does itself, and is undone here
    with pytest.raises(SystemExit) as ended:
        run('nightly.py', 'photos', 'new', 'table.parquet')
    assert ended.value.code == 0
    assert 'table.parquet: 3 rows' in caplog.text
    (place / 'photos' / 'broken.jpg').write_bytes(b'no picture')
    with pytest.raises(SystemExit) as ended:
        run('nightly.py', 'photos', 'new', 'table.parquet')
    assert ended.value.code == 3
    assert '1 of 4 images failed, more than max_failure_rate 0.02 allows' in caplog.text
    assert "'not_an_image': 1" in caplog.text


def test_the_notebook(place):
    """Its cells in order, as a notebook runs them; what it shows is looked at afterwards."""
    shutil.rmtree('labels')
    notebook = json.loads((TEMPLATES / 'labels.ipynb').read_text())
    found = {}
    for cell in notebook['cells']:
        assert not cell.get('outputs')
        if cell['cell_type'] == 'code':
            exec(compile(''.join(cell['source']), cell['id'], 'exec'), found)
    assert found['report'].counts.labeled == 3
    assert sorted(found['images']['best']) == ['espresso', 'palace', 'tiger cat']
    assert list(found['commonest'].columns) == ['name', 'images', 'best_score']
    assert len(found['failed']) == 0
    assert found['relabelled'].counts.labeled == 3
