"""Loader processes: a picture that ends them, hangs or takes all memory costs itself alone."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config
from tests.support import app, crashing, samples
from tests.support.loadings import (
    ANY_FAILURE,
    OPTIONS,
    begin,
    failed,
    is_alive,
    load,
    processes,
    within,
    write,
)
from transforms.core.elements import Chunk, Failure, Image, Item, Stage
from transforms.core.errors import LoaderError, StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.reasons import Reason
from transforms.core.resources import shared
from transforms.loading.child import share_bytes
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions
from transforms.loading.processes import Pool

# How a process ends of each, for people.
CRASHES = {
    'segv': 'the process that decoded it was killed by SIGSEGV',
    'abort': 'the process that decoded it was killed by SIGABRT',
    'exit': 'the process that decoded it exited with code 3',
    'kill': 'the process that decoded it was killed by SIGKILL, as when memory runs out',
}


@pytest.mark.parametrize('act', CRASHES)
def test_a_picture_that_ends_its_process_is_one_dead_letter(act, tmp_path):
    acts = [''] * 5 + [act] + [''] * 8
    found = load(write(tmp_path / 'in', acts))
    assert failed(found) == {f'05-{act}': (Reason.DECODER_CRASHED, CRASHES[act])}
    [failure] = [each for each in found.values() if isinstance(each, Failure)]
    assert failure.stage is Stage.DECODE
    assert failure.reason.retryable


def test_one_that_takes_all_memory_is_refused_it(tmp_path):
    found = load(write(tmp_path / 'in', ['', 'allocate', '', '']))
    assert failed(found) == {
        '01-allocate': (Reason.DECODER_CRASHED, 'there was not enough memory for it')
    }


def test_one_that_does_not_come_back_is_ended_by_the_deadline(tmp_path):
    options = OPTIONS._replace(decode_deadline_sec=0.5)
    found = load(write(tmp_path / 'in', [''] * 3 + ['loop'] + [''] * 9), options)
    assert failed(found) == {'03-loop': (Reason.DECODE_DEADLINE, 'decoding took longer than 0.5 s')}


def test_several_in_one_batch_and_one_in_each(tmp_path):
    acts = ['', 'segv', '', 'exit', '', 'kill', '', ''] + (['', '', 'abort'] + [''] * 5) * 3
    found = load(write(tmp_path / 'in', acts))
    expected = {f'{i:02d}-{act}' for i, act in enumerate(acts) if act}
    assert failed(found).keys() == expected


def test_nothing_but_such_pictures_stops_the_run(tmp_path):
    policy = FaultPolicy(FailFast(10, 'run'), StoreError)
    message = r'the first 10 images of this process all failed with decoder_crashed .*a library'
    with pytest.raises(StoreError, match=message):
        load(write(tmp_path / 'in', ['exit'] * 12), policy=policy)


def test_processes_that_are_killed_again_and_again_cost_nothing(tmp_path):
    paths = write(tmp_path / 'in', ['slow'] * 60)
    options = OPTIONS._replace(processes=2)
    loader, batches = begin(paths, options)
    pool = shared(Pool, 2)
    killed = 0
    with within(60) as tick:
        while killed < 10 and not all(batch.is_ready for batch in batches):
            before = sum(len(batch.loaded_slots) for batch in batches)
            for pid in processes(pool) if pool.server else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed += 1
            while sum(len(batch.loaded_slots) for batch in batches) < min(60, before + 4):
                tick()
    assert killed == 10
    outcomes = [loaded.outcome for batch in batches for loaded in loader.result(batch)]
    assert all(isinstance(outcome, Image) for outcome in outcomes)


def test_the_one_from_which_they_are_forked_is_replaced_as_well(tmp_path):
    paths = write(tmp_path / 'in', ['slow'] * 8)
    pool = shared(Pool, 2)
    load(paths[:1])
    loader, batches = begin(paths)
    pool.server.process.kill()
    assert all(isinstance(each.outcome, Image) for each in loader.result(batches[0]))


def test_processes_that_cannot_start_fail_the_run_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/nowhere/python')
    with pytest.raises(LoaderError, match='cannot start a loader process: No such file'):
        load(write(tmp_path / 'in', ['']), OPTIONS._replace(processes=3))
    monkeypatch.undo()
    monkeypatch.setattr(sys, 'path', [])
    with pytest.raises(
        LoaderError, match=r'that starts loader processes exited with code 1; its own output'
    ):
        load(write(tmp_path / 'in', ['']), OPTIONS._replace(processes=3))
    monkeypatch.undo()
    assert failed(load(write(tmp_path / 'in', ['']), OPTIONS._replace(processes=3))) == {}


def test_an_error_that_is_no_images_ends_the_batch_and_names_itself(tmp_path):
    item = Item('nowhere://x', '', -1, ['[]'])
    loader = Loader(OPTIONS)
    batch = loader.begin(Chunk('c', [item]), 0, ANY_FAILURE)
    with pytest.raises(Exception, match='nowhere://x: expected a local path or one of'):
        loader.result(batch)


def test_pictures_above_the_share_of_a_process_ask_for_room(tmp_path):
    options = OPTIONS._replace(memory_budget_bytes=1 << 16)
    assert share_bytes(options, 2) < 40 * 30 * 3 * 4
    assert failed(load(write(tmp_path / 'in', [''] * 20), options)) == {}
    pool = shared(Pool, 2)
    assert not any(each.is_used for each in pool.job(options).grants.values())


def test_neither_beam_nor_tensorflow_is_in_a_loader_process(tmp_path):
    load(write(tmp_path / 'in', ['']))
    for pid in [shared(Pool, 2).server.process.pid, *processes(shared(Pool, 2))]:
        if not (mapped := Path(f'/proc/{pid}/maps').read_text()):
            continue  # it is about to end, as it has another environment
        assert 'PIL' in mapped
        assert not any(name in mapped for name in ('apache_beam', 'tensorflow', 'pyarrow', 'grpc'))
        resident_kib = int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * 4
        assert resident_kib < 90 * 1024


CODE = """
import sys
from pathlib import Path
from tests.support.loadings import OPTIONS, begin, processes
from transforms.loading.processes import Pool
from transforms.core.resources import shared
loader, batches = begin([Path(path) for path in sys.argv[1:]])
pool = shared(Pool, 2)
while not pool.server or len(processes(pool)) < 2 or (pool._status[:2, 0] < 0).any():
    pass
print(pool.server.process.pid, *processes(pool), flush=True)
loader.result(batches[0])
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_nobody_survives_the_one_that_started_them(number, tmp_path):
    paths = write(tmp_path / 'in', ['loop'] * 4)
    root = samples.SAMPLE.parents[1]
    command = [sys.executable, '-c', CODE, *map(str, paths)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) >= 3
        parent.send_signal(number)
        parent.wait(5)
    with within(5) as tick:
        while any(is_alive(pid) for pid in pids):
            tick()


# More than there are cores is where order could go wrong.
@pytest.mark.parametrize('count', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_run_gives_the_same_bytes_with_any_number_of_processes(count, stand_in_model, tmp_path):
    samples.write_pictures(tmp_path / 'in', 12)
    for name, number in (('threads', 0), ('processes', count)):
        arguments = ('--input', tmp_path / 'in', '--output', tmp_path / name, '--run_id', 'same')
        done = app.invoke('label', *arguments, '--loader_processes', str(number))
        assert done.returncode in (0, 3), done.stderr
    kinds = ('predictions', 'dead_letters', 'vocabularies')
    ours, theirs = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for kind in kinds
            for path in (tmp_path / name / kind).rglob('*.parquet')
        }
        for name in ('threads', 'processes')
    )
    assert ours == theirs
    assert len(ours) >= 3


def test_a_run_of_such_pictures_is_resumed_to_the_same_bytes(stand_in_model, monkeypatch, tmp_path):
    options = functools.partial(LoadOptions, open_image=crashing.open_image)
    monkeypatch.setattr(config, 'LoadOptions', options)
    acts = ['', 'segv', '', '', 'exit', '', 'kill', '', '', '', 'loop', '', 'abort', '', '', '']
    write(tmp_path / 'in', acts)
    arguments = ('--run_id', 'same', '--chunk_size', '4', '--batch_size', '4')
    arguments += ('--loader_processes', '2', '--decode_deadline_sec', '1')

    def run(name):
        output = tmp_path / name
        done = app.invoke('label', '--input', tmp_path / 'in', '--output', output, *arguments)
        files = (path for path in output.rglob('*.parquet') if '_work' not in path.parts)
        return done, {path.relative_to(output): path.read_bytes() for path in files}

    whole, expected = run('whole')
    assert whole.returncode == 3, whole.stderr
    dead = app.rows(tmp_path / 'whole', 'dead_letters')
    assert [Path(row['uri']).stem for row in dead] == [
        f'{i:02d}-{act}' for i, act in enumerate(acts) if act
    ]
    with app.crashing_behind(2):
        done, files = run('resumed')
    assert 'in place of a crash' in done.stderr
    assert files.keys() < expected.keys()
    done, files = run('resumed')
    assert done.returncode == 3, done.stderr
    assert files == expected
