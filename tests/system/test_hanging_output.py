"""An output whose file system stops answering in the middle of a command.

What is not checked here: each operation of its own (test_bounded), and what never answers from the
beginning (test_waiting).
"""

import errno
import os
import threading

import pyarrow.parquet as pq
import pytest

from pipeline import config
from tests.support import app, samples
from tests.support.datasets import Row, add_run
from transforms.core.errors import StoreError
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.dataset.latest_file import write_latest
from transforms.dataset.reader import open_dataset
from transforms.runs.complete import complete_runs
from transforms.storage.registry import store_for

DEADLINE_SEC = 2.0


@pytest.fixture
def hang(monkeypatch):
    """Has calls of the system whose last path is like this one hang until they fail."""
    ended, calls = threading.Event(), []

    def begin(name, part):
        real = getattr(os, name)

        def call(*arguments, **options):
            if part in str(arguments[-1]) and not ended.is_set():
                calls.append(arguments)
                ended.wait()
                raise OSError(errno.EIO, 'Input/output error')
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    yield begin, ended, calls
    ended.set()


@pytest.mark.usefixtures('stand_in_model')
@pytest.mark.parametrize(
    ('name', 'part', 'doing'),
    [
        ('link', '/chunks/', 'writing'),
        ('rename', '/predictions/model', 'moving something to'),
        ('link', '/report.json', 'writing'),
    ],
    ids=['a chunk', 'publishing', 'the report'],
)
def test_a_run_ends_with_what_hangs_and_is_resumed(name, part, doing, hang, tmp_path, monkeypatch):
    begin, ended, calls = hang
    arguments = ('label', '--input', samples.SAMPLE, '--output', tmp_path, '--max_failure_rate', 1)
    flags = ('--run_id', 'a', '--quiet')
    begin(name, part)
    with monkeypatch.context() as patch:
        patch.setattr(config, 'LEAST_DEADLINE_SEC', DEADLINE_SEC)
        done = app.invoke(*arguments, *flags, '--fetch_deadline_sec', f'{DEADLINE_SEC:g}')
    assert done.returncode == 1
    said = done.stderr.splitlines()[0]
    assert said.startswith(f'lemmabeam: {doing} {tmp_path}/')
    assert f'no answer within {DEADLINE_SEC:g} s: is the store' in said
    assert calls
    ended.set()
    done = app.invoke(*arguments, *flags)
    assert (done.returncode, done.stderr) == (0, '')
    assert app.invoke('verify', tmp_path).returncode == 0


@pytest.mark.parametrize('name', ['fsync', 'replace'])
def test_the_file_of_the_newest_rows_hangs(name, hang, tmp_path):
    begin, ended, calls = hang
    add_run(tmp_path / 'labels', 'a', [Row('/a', [(1, 0.9)])])
    target = tmp_path / 'latest.parquet'
    dataset = open_dataset(str(tmp_path / 'labels'), store_for(str(tmp_path)))
    runs = complete_runs(dataset.output, dataset.store)
    begin(name, '' if name == 'fsync' else target.name)
    with pytest.raises(StoreError, match=r'latest\.parquet: no answer within 0\.2 s'):
        write_latest(dataset, runs, str(target), DEFAULT_OPTIONS, deadline_sec=0.2)
    assert calls
    ended.set()
    assert [path.name for path in tmp_path.iterdir()] == ['labels']
    write_latest(dataset, runs, str(target), DEFAULT_OPTIONS)
    assert pq.read_table(target)['uri'].to_pylist() == ['/a']


@pytest.mark.parametrize('name', ['dataset.json', 'latest.sql', 'runs/a/report.json'])
def test_a_pipe_in_the_place_of_one_of_our_files_is_said_at_once(name, tmp_path):
    add_run(tmp_path, 'a', [Row('/a', [(1, 0.9)])])
    path = tmp_path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    done = app.invoke('verify', tmp_path)
    assert done.returncode == 1
    assert 'a device, FIFO or socket' in done.stdout + done.stderr
