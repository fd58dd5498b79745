"""A read that never returns: its image has failed by the deadline, and nobody waits for it.

A store that waits until it is told stands for a file system whose server is gone.
"""

import contextlib
import multiprocessing
import socket
import threading

import numpy as np
import pytest

from tests.support.loadings import ANY_FAILURE, OPTIONS, good, within, write
from transforms.core.elements import Chunk, Failure, Image, Item
from transforms.core.errors import ImageError, StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.reasons import Reason
from transforms.core.resources import LIVE
from transforms.loading.buffers import MappedMemory, SharedMemory
from transforms.loading.child import STATUS, LoaderProcess
from transforms.loading.fetches import Fetches, GivenUpError, Patience
from transforms.loading.loader import Loader
from transforms.loading.threads import ThreadLoader
from transforms.sources import preflight
from transforms.sources.inputs import Columns, Input, Kind
from transforms.storage.base import Fetched, FetchLimits
from transforms.storage.local import LocalStore


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fetches(clock):
    return Fetches(10.0, Patience(most_stuck=2), clock)


def nothing():
    pass


def test_one_that_takes_too_long_is_given_up_at_second_sight(fetches, clock):
    fetch = fetches.one('a', nothing)
    fetch.__enter__()
    clock.now = 10.0
    assert fetches.overdue() == []
    clock.now = 100.0
    assert fetches.overdue() == [], 'the interpreter may have been held up'
    clock.now = 101.0
    assert fetches.overdue() == ['a']
    assert fetches.overdue() == []
    with pytest.raises(GivenUpError):
        fetch.__exit__(None, None, None)
    with fetches.one('b', nothing):
        assert fetches.overdue() == []


def test_whatever_it_raises_is_dropped_then(fetches, clock):
    def fail():
        with fetches.one('a', nothing):
            clock.now += 100.0
            given_up = fetches.overdue()
            clock.now += 1.0
            assert given_up + fetches.overdue() == (['a'] if late else [])
            raise KeyError

    late = True
    with pytest.raises(GivenUpError):
        fail()
    fetches.deadline_sec, late = 1000.0, False
    with pytest.raises(KeyError):
        fail()


def test_waiting_for_room_does_not_count(fetches, clock):
    with fetches.one('a', nothing):
        clock.now = 9.0
        with fetches.paused():
            clock.now = 1000.0
            assert fetches.overdue() == []
            assert fetches.slow(1.0) == 0
        clock.now = 1001.0
        assert fetches.slow(9.0) == 1
        assert fetches.slow(11.0) == 0
        assert fetches.overdue() == []


def test_a_deadline_that_is_renewed_begins_anew(fetches, clock):
    with fetches.one('a', nothing):
        for _ in range(5):
            clock.now += 9.0
            assert fetches.overdue() == []
            fetches.renew()
    fetch = fetches.one('a', nothing)
    fetch.__enter__()
    clock.now += 100.0
    fetches.overdue()
    clock.now += 1.0
    assert fetches.overdue() == ['a']
    with pytest.raises(GivenUpError):
        fetches.renew()
    with pytest.raises(GivenUpError):
        fetch.__exit__(None, None, None)


def test_after_waiting_for_room_it_is_looked_at_twice_again(fetches, clock):
    fetch = fetches.one('a', nothing)
    fetch.__enter__()
    clock.now = 20.0
    assert fetches.overdue() == []
    with fetches.paused():
        clock.now = 50.0
    clock.now = 100.0
    assert fetches.overdue() == []
    clock.now = 101.0
    assert fetches.overdue() == ['a']
    with pytest.raises(GivenUpError):
        fetch.__exit__(None, None, None)


def test_with_many_stuck_there_is_no_thread_for_others(fetches, clock):
    come_back = threading.Event()

    def fetch():
        with contextlib.suppress(GivenUpError), fetches.one('', nothing):
            come_back.wait(20)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    with within(20) as tick:
        while fetches.slow(-1.0) < 2:
            tick()
    for clock.now in (100.0, 101.0):
        fetches.check_stuck('x.jpg')
        fetches.overdue()
    with pytest.raises(StoreError, match=r'x.jpg: not read, because 2 earlier reads .* after 10 s'):
        fetches.check_stuck('x.jpg')
    come_back.set()
    for thread in threads:
        thread.join()
    fetches.check_stuck('x.jpg')


_made: list['Stuck'] = []


def open_stuck(*_):
    """The last one that was made: options for it can be sent on."""
    return _made[-1]


class Stuck:
    """Files whose name has 'stuck' in it are not read before it is told."""

    def __init__(self):
        self.go = threading.Event()
        self.local = LocalStore()
        _made.append(self)

    def options(self, most_stuck=100, **more):
        """Of a loader that reads from here."""
        return OPTIONS._replace(
            threads=2,
            fetch=FetchLimits(1 << 20, 0.2),
            patience=Patience(0.05, 0.1, most_stuck),
            open_store=open_stuck,
            **more,
        )

    def fetch(self, uri, limits, admit, unless=''):
        if 'stuck' in uri:
            admit(limits.max_bytes)
            self.go.wait(60)
            return Fetched(good(99), '', 10)
        return self.local.fetch(uri, limits, admit, unless)


@pytest.fixture
def stuck():
    made = Stuck()
    yield made
    made.go.set()


def batch_of(tmp_path, stuck, names, policy=ANY_FAILURE, **more):
    paths = write(tmp_path / 'in', [''] * names.count(''))
    items = [str(paths.pop(0)) if not name else f'{tmp_path}/{name}' for name in names]
    options = stuck.options(batch_size=32, processes=0, **more)
    way = ThreadLoader(options)
    made = Loader(options, way)
    chunk = Chunk('c', [Item(uri, '', -1, ['[]']) for uri in items])
    return made, made.begin(chunk, 0, policy), way


def test_each_has_its_deadline_and_the_others_are_read(tmp_path, stuck, monkeypatch):
    names = ['stuck-1', 'stuck-2', '', '', 'stuck-3', '']
    waited = []
    monkeypatch.setattr(LIVE, 'wait_for', waited.append)
    made, batch, way = batch_of(tmp_path, stuck, names)
    outcomes = [loaded.outcome for loaded in made.result(batch)]
    for name, outcome in zip(names, outcomes, strict=True):
        if name:
            assert outcome.reason is Reason.DEADLINE
            assert outcome.detail == 'no answer within 0.2 s'
        else:
            assert isinstance(outcome, Image)
    assert waited[0] == f'{tmp_path}/stuck-1'
    assert waited[-1] == ''
    # What comes late is dropped: the slot may be another's by then.
    stuck.go.set()
    with within(20) as tick:
        while not way.is_idle:
            tick()
    assert not batch.pixels[[0, 1, 4]].any()


def test_what_they_hold_of_the_budget_is_free_for_the_others(tmp_path, stuck):
    """Each has all the room there is, and its thread never comes back."""
    names = ['stuck-1', 'stuck-2', '', 'stuck-3', '', '']
    made, batch, _ = batch_of(tmp_path, stuck, names, memory_budget_bytes=1 << 12)
    outcomes = [loaded.outcome for loaded in made.result(batch)]
    assert [isinstance(outcome, Image) for outcome in outcomes] == [not name for name in names]
    assert not stuck.go.is_set()


def test_where_too_many_are_stuck_the_run_stops(tmp_path, stuck):
    names = [f'stuck-{i}' for i in range(20)]
    made, batch, _ = batch_of(tmp_path, stuck, names, most_stuck=4)
    with pytest.raises(
        StoreError, match=r'stuck-\d+: not read, because [4-6] earlier reads have not'
    ):
        made.result(batch)


def test_a_loader_process_gives_them_up_as_well(tmp_path, stuck, monkeypatch):
    """It runs in a thread here, where it can be given a store."""
    monkeypatch.setattr(LoaderProcess, '_limit_memory', lambda *_: None)
    names = ['stuck-1', 'stuck-2', *map(str, write(tmp_path / 'in', [''] * 3)), 'stuck-3']
    options = stuck.options(most_stuck=3)
    memory = SharedMemory()
    side = options.resize.size_px
    offset, _ = memory.take(options.batch_size * side * side * 3)
    ours, theirs = multiprocessing.Pipe()
    process = LoaderProcess(theirs, MappedMemory(memory.descriptor), np.zeros(STATUS, np.int64), 1)
    threading.Thread(target=process.run, daemon=True).start()
    assert ours.recv() == ('ready',)
    ours.send(('options', 0, options))
    items = [Item(name, '', -1, ['[]']) for name in names]
    tasks = [(10 + i, offset, i, item, None) for i, item in enumerate(items)]
    ours.send(('load', 0, tasks))
    found = {}
    while len(found) < len(names):
        assert ours.poll(20)
        kind, done = ours.recv()
        assert kind == 'done'
        found |= {ticket: loaded.outcome for ticket, loaded in done}
    reasons = [getattr(found[10 + i], 'reason', None) for i in range(len(names))]
    assert reasons == [Reason.DEADLINE] * 2 + [None] * 3 + [Reason.DEADLINE]
    stuck_item = Item('stuck', '', -1, ['[]'])
    ours.send(('load', 0, [(20 + i, offset, i, stuck_item, None) for i in range(4)]))
    given_up, refused = set(), {}
    while len(given_up) + len(refused) < 4:
        assert ours.poll(20)
        kind, *rest = ours.recv()
        if kind == 'failed':
            refused[rest[0]] = str(rest[1])
        else:
            given_up |= {ticket for ticket, _ in rest[0]}
    assert given_up == {20, 21}, 'two threads had begun'
    assert all('because 3 earlier reads have not returned' in error for error in refused.values())
    stuck.go.set()
    with within(20) as tick:
        while not process.is_idle:
            tick()
    assert not ours.poll(0), 'what comes late is dropped'
    ours.close()


def test_a_name_server_that_does_not_answer_holds_nobody_longer(monkeypatch):
    asked, go = threading.Event(), threading.Event()

    def look_up(*_, **__):
        asked.set()
        go.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, '')

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    patience = Patience(watch_sec=0.05)
    made = Loader(OPTIONS._replace(processes=0, fetch=FetchLimits(1 << 20, 0.2), patience=patience))
    batch = made.begin(Chunk('c', [Item('http://h.example/a.jpg', '', -1, ['[]'])]), 0, ANY_FAILURE)
    [loaded] = made.result(batch)
    assert asked.is_set()
    assert not go.is_set()
    assert loaded.outcome.reason is Reason.DEADLINE
    go.set()


def test_nothing_but_those_stops_the_run_with_the_name(tmp_path, stuck):
    policy = FaultPolicy(FailFast(3, 'run'), StoreError)
    made, batch, _ = batch_of(tmp_path, stuck, [f'stuck-{i}' for i in range(6)], policy)
    with pytest.raises(StoreError, match=r'failed with deadline .*stuck-\d: the store stalls'):
        made.result(batch)


def test_the_preflight_is_not_stuck_either(tmp_path, monkeypatch):
    write(tmp_path / 'in', [''])
    go = threading.Event()
    monkeypatch.setattr(LocalStore, 'fetch', lambda *_: go.wait(60))
    monkeypatch.setattr(preflight, '_GRACE_SEC', 0.0)
    source = Input(Kind.FOLDER, str(tmp_path / 'in'), '')
    try:
        with pytest.raises(ImageError, match=r'deadline: no answer within 0\.1 s$'):
            preflight._read('x', source, FetchLimits(10, 0.1))
        checked = preflight.Preflight((source,), Columns('uri', (), ()), FetchLimits(10, 0.1), None)
        with pytest.raises(StoreError, match=r'00-good\.jpg cannot be read: deadline: no answer'):
            preflight.check(checked)
    finally:
        go.set()


def test_a_store_that_gives_nothing_for_a_minute_stops_the_run(clock):
    def fail(uri, reason):
        policy.record(uri, Failure(None, reason, 'for a test', None))

    policy = FaultPolicy(FailFast(20, 'run'), StoreError, clock)
    for uri in ('gs://a/1', 'gs://b/1', 'https://h/1') * 600:
        policy.record(uri, None)
    clock.now = 59.0
    for _ in range(30):
        fail('gs://a/2', Reason.DEADLINE)
        policy.record('gs://b/2', None)
    clock.now = 60.0
    for _ in range(30):
        fail('https://h/2', Reason.DEADLINE)  # one of many hosts
        fail('gs://b/2', Reason.STORE_ERROR)
    message = (
        r'nothing could be read from gs://a for 60 s: the last 31 images failed with deadline '
        r'\(for a test\), most recently gs://a/3: the store stalls'
    )
    with pytest.raises(StoreError, match=message):
        fail('gs://a/3', Reason.DEADLINE)


def test_one_that_answers_in_between_stops_none(clock):
    policy = FaultPolicy(FailFast(20, 'run'), StoreError, clock)
    for i in range(600):
        clock.now += 10.0
        failure = Failure(None, Reason.DEADLINE, '', None) if i % 5 else None
        policy.record('/a', failure)
    for _ in range(15):
        policy.record('/a', Failure(None, Reason.DEADLINE, '', None))
    clock.now += 20.0
    # It counts from the last answer on.
    with pytest.raises(StoreError, match='for 60 s: the last 20 images failed with deadline'):
        policy.record('/a', Failure(None, Reason.DEADLINE, '', None))
