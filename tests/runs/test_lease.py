"""One run at a time into an output folder."""

import dataclasses
import json
import os
import subprocess
import sys
import threading

import pytest

from pipeline.runners.dataflow.status import Job
from transforms.core.errors import StoreError, UsageError
from transforms.output.layout import Layout
from transforms.runs import lease
from transforms.storage.bounded import BoundedStore
from transforms.storage.local import LocalStore
from transforms.storage.registry import store_for


def layout(output, run_id='run-1'):
    return Layout(str(output), run_id, 'model-1', (), (), 10)


def lease_uri(output):
    return layout(output).uri('_work/_lease.json')


def holder_of(output):
    """The run that the lease of an output names."""
    return json.loads(store_for(str(output)).read(lease_uri(output)))['run_id']


@pytest.fixture(params=['local', 'bucket', 's3_bucket', 'container'])
def output(request, tmp_path):
    return tmp_path if request.param == 'local' else request.getfixturevalue(request.param).uri('o')


def test_a_second_run_is_refused_and_told_who_is_there(output):
    lease.acquire(layout(output), False)
    with pytest.raises(UsageError, match=f'run run-1 is writing there .process {os.getpid()} on'):
        lease.acquire(layout(output, 'run-2'), False)
    lease.release(layout(output))
    lease.acquire(layout(output, 'run-2'), False)


def test_a_released_lease_leaves_nothing(output):
    lease.acquire(layout(output), False)
    lease.release(layout(output))
    assert store_for(str(output)).read(lease_uri(output)) is None
    lease.release(layout(output))


def test_a_lease_of_somebody_else_is_not_released(output):
    lease.acquire(layout(output), False)
    lease.release(layout(output, 'run-2'))
    assert holder_of(output) == 'run-1'


def test_a_lease_can_be_broken(output):
    lease.acquire(layout(output), False)
    lease.acquire(layout(output, 'run-2'), True)
    lease.release(layout(output))  # the first run ends, and must not take the second's lease away
    assert holder_of(output) == 'run-2'


def test_other_folders_are_free(output):
    lease.acquire(layout(output), False)
    lease.acquire(layout(f'{output}/other'), False)
    for folder in (output, f'{output}/other'):
        assert holder_of(folder) == 'run-1'


def test_a_lease_of_a_process_that_has_ended_is_taken_over(tmp_path):
    code = (
        'from transforms.runs import lease; from transforms.output.layout import Layout; '
        f"lease.acquire(Layout({str(tmp_path)!r}, 'run-1', 'm', (), (), 10), False)"
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
    assert holder_of(tmp_path) == 'run-1'
    lease.acquire(layout(tmp_path, 'run-2'), False)
    assert holder_of(tmp_path) == 'run-2'


def held_by(output, **changes):
    holder = {'run_id': 'run-0', **lease.identity(os.getpid()), **changes}
    store_for(str(output)).write(lease_uri(output), json.dumps(holder).encode())


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'host': 'elsewhere'},
        {'boot': 'before'},
        {'boot': ''},
        {'namespace': 'pid:[1]'},
        {'pid': None},
        {'pid': '1'},
    ],
)
def test_a_holder_that_may_be_alive_keeps_its_lease(tmp_path, changes):
    gone = {'pid': 2**22 + 1, 'started': '1'} if 'pid' not in changes and changes else {}
    held_by(tmp_path, **gone, **changes)
    with pytest.raises(UsageError, match='--break_lease'):
        lease.acquire(layout(tmp_path), False)


@pytest.mark.parametrize('changes', [{'pid': 2**22 + 1}, {'started': '1'}])
def test_a_holder_that_is_gone_or_whose_number_was_given_away_loses_it(tmp_path, changes):
    held_by(tmp_path, **changes)
    lease.acquire(layout(tmp_path), False)
    assert holder_of(tmp_path) == 'run-1'


@pytest.mark.parametrize('data', [b'', b'{"run_id": "x"', b'[]', b'\xff', b'null'])
def test_a_damaged_lease_is_kept_until_it_is_broken(tmp_path, data):
    store_for(str(tmp_path)).write(lease_uri(tmp_path), data)
    with pytest.raises(UsageError, match=r'run \? is writing there .process \? on \?'):
        lease.acquire(layout(tmp_path), False)
    lease.release(layout(tmp_path))
    lease.acquire(layout(tmp_path), True)


class GivenBackMeanwhile(LocalStore):
    """The holder gives the lease back between two looks of who wants it."""

    def look(self, uri):
        self.delete(uri)
        return super().look(uri)


def test_a_lease_that_is_given_back_meanwhile_is_taken(tmp_path, monkeypatch):
    lease.acquire(layout(tmp_path), False)
    with monkeypatch.context() as patch:
        patch.setattr(Layout, 'store', GivenBackMeanwhile())
        lease.acquire(layout(tmp_path, 'run-2'), False)
    assert holder_of(tmp_path) == 'run-2'


class EndedJobs:
    """Knows that any job has ended, and does something before it first says so."""

    def __init__(self, deed):
        self._deeds = [deed]

    def describe(self, job):
        return f'job {job}'

    def has_ended(self, job, may_be_none):
        while self._deeds:
            self._deeds.pop()()
        return True


def test_of_two_that_find_a_dead_holder_the_second_finds_the_first(output):
    held_by(output, pid=2**22 + 1, job='job-0')
    jobs = EndedJobs(lambda: lease.acquire(layout(output, 'run-1'), False, jobs=jobs))
    with pytest.raises(UsageError, match='run run-1 is writing there'):
        lease.acquire(layout(output, 'run-2'), False, jobs=jobs)
    assert holder_of(output) == 'run-1'


def test_a_dead_holder_that_somebody_has_cleared_away_is_no_hindrance(output):
    held_by(output, pid=2**22 + 1, job='job-0')
    jobs = EndedJobs(lambda: store_for(str(output)).delete(lease_uri(output)))
    lease.acquire(layout(output, 'run-2'), False, jobs=jobs)
    assert holder_of(output) == 'run-2'


def broken_by_another(output):
    lease.acquire(layout(output), False)
    held_by(output, run_id='run-2', pid=os.getppid(), started='1')


def test_what_somebody_else_holds_by_now_is_left_to_it(output):
    broken_by_another(output)
    job = Job('p', 'r', 'n', 'job-1')._asdict()
    with pytest.raises(StoreError, match='run run-1 no longer holds the lease'):
        lease.rename(layout(output), 'night-1')
    with pytest.raises(StoreError, match='--break_lease'):
        lease.hand_over(layout(output), job, is_submitted=False)
    lease.hand_over(layout(output), job)  # the job runs already, and is not stopped
    lease.release(layout(output))
    lease.release_handed_over(layout(output))
    assert holder_of(output) == 'run-2'


def test_a_job_that_was_faster_than_its_launcher_has_given_the_lease_back(output):
    lease.acquire(layout(output), False)
    job = Job('p', 'r', 'n')._asdict()
    lease.hand_over(layout(output), job, is_submitted=False)
    lease.release_handed_over(layout(output))
    lease.hand_over(layout(output), job | {'id': 'job-1'})
    assert store_for(str(output)).read(lease_uri(output)) is None


class WithoutConditionalDelete(LocalStore):
    """As some stores of S3's kind are."""

    def delete(self, uri, seen=None):
        return super().delete(uri) if seen is None else False


def test_a_lease_that_cannot_be_deleted_is_given_back_all_the_same(tmp_path, monkeypatch):
    store = BoundedStore(WithoutConditionalDelete())
    monkeypatch.setattr(Layout, 'store', store)
    lease.acquire(layout(tmp_path), False)
    lease.release(layout(tmp_path))
    assert store.read(lease_uri(tmp_path)) is not None
    lease.acquire(layout(tmp_path, 'run-2'), False)
    with pytest.raises(UsageError, match='run run-2 is writing there'):
        lease.acquire(layout(tmp_path), False)


def test_only_one_of_many_runs_gets_it(tmp_path):
    won = []
    barrier = threading.Barrier(8)

    def run(i):
        barrier.wait(60)
        try:
            lease.acquire(dataclasses.replace(layout(tmp_path), run_id=f'run-{i}'), False)
        except UsageError:
            return
        won.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(won) == 1


def test_a_second_run_waits_for_the_first(output):
    lease.acquire(layout(output), False)
    told = []

    def tell(text):
        told.append(text)
        lease.release(layout(output))

    lease.acquire(layout(output, 'run-2'), False, 30.0, tell, poll_sec=0.01)
    assert len(told) == 1
    assert told[0].startswith(f'run run-1 is writing there (process {os.getpid()} on ')
    assert holder_of(output) == 'run-2'


def test_a_wait_has_an_end(output):
    lease.acquire(layout(output), False)
    with pytest.raises(UsageError, match='--wait_for_lease_sec'):
        lease.acquire(layout(output, 'run-2'), False, 0.1, poll_sec=0.02)


def test_a_wait_ends_when_the_holder_is_provably_gone(tmp_path):
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as process:
        held_by(tmp_path, **lease.identity(process.pid))

        def end(_):
            process.communicate(b'\n', timeout=60)

        lease.acquire(layout(tmp_path, 'run-2'), False, 30.0, end, poll_sec=0.01)
    assert holder_of(tmp_path) == 'run-2'


def test_who_holds_it_is_told_by_the_run_it_turns_out_to_be(output):
    lease.acquire(layout(output), False)
    lease.rename(layout(output), 'night-1')
    with pytest.raises(UsageError, match='run night-1 is writing there'):
        lease.acquire(layout(output, 'run-2'), False)
    lease.release(layout(output, 'night-1'))
    assert store_for(str(output)).read(lease_uri(output)) is None
