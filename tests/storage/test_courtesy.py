"""What processes know together of the hosts that they ask."""

import math
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from transforms.loading.buffers import MappedMemory
from transforms.storage.courtesy import Clock, Courtesy, PausedError, Visit, size_of
from transforms.storage.http_fetch import Tries

TRIES = Tries(pause_sec=1.0, most_pause_sec=8.0)


class Time:
    """It goes on by what is waited for."""

    def __init__(self):
        self.now = 10**15
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += int(seconds * 1e9)

    @property
    def clock(self):
        return Clock(lambda: self.now, self.sleep)

    def after(self, seconds):
        return self.now / 1e9 + seconds


@pytest.fixture
def time_():
    return Time()


@pytest.fixture
def known(time_):
    return Courtesy.of_one(time_.clock)


def refuse(known, host, times, asked_sec=0.0):
    """Several requests that are in flight at once are refused."""
    visits = [Visit(known, 0, lambda: math.inf) for _ in range(times)]
    for visit in visits:
        visit.begin(host)
    for visit in visits:
        visit.heed(asked_sec, TRIES)
        visit.leave()


def test_pauses_get_longer_until_the_host_answers(known, time_):
    for _ in range(6):
        refuse(known, 'h', 5)  # which says no more than one of them
    assert time_.slept == [1.0, 2.0, 4.0, 8.0, 8.0]
    visit = Visit(known, 0, lambda: math.inf)
    visit.begin('h')
    visit.went_well()
    visit.leave()
    del time_.slept[:]
    refuse(known, 'h', 1)
    refuse(known, 'h', 1)
    assert time_.slept == [1.0]


def test_the_longest_of_what_was_asked_for_holds_for_that_host_alone(known, time_):
    refuse(known, 'h', 1, 90.0)
    known.end(known.begin('other', 1, time_.after(0.5)))
    with pytest.raises(PausedError) as caught:
        known.begin('h', 1, time_.after(60))
    assert caught.value.has_asked
    known.end(known.begin('h', 1, time_.after(100)))
    assert time_.slept == [90.0]
    refuse(known, 'h', 1)
    with pytest.raises(PausedError) as caught:
        known.begin('h', 1, time_.after(0.5))
    assert not caught.value.has_asked
    refuse(known, 'far', 1, 1e300)
    with pytest.raises(PausedError):
        known.begin('far', 1, time_.after(1e6))


def test_places_are_taken_and_given_back(known, time_):
    taken = [known.begin('h', 2, math.inf) for _ in range(2)]
    with pytest.raises(TimeoutError):
        known.begin('h', 2, time_.after(0.1))
    assert known.begin('h', 0, math.inf) == taken[0]
    for each in [*taken, taken[0]]:
        known.end(each)
    known.begin('h', 1, time_.after(0))


def test_there_may_be_more_hosts_than_it_can_tell_apart(known, time_):
    refuse(known, 'paused', 1, 1000.0)
    at = known.begin('busy', 1, math.inf)
    for i in range(5000):
        known.end(known.begin(f'h{i}', 1, math.inf))
    with pytest.raises(PausedError):
        known.begin('paused', 1, time_.after(1))
    with pytest.raises(TimeoutError):
        known.begin('busy', 1, time_.after(1))
    known.end(at)
    # Were all of them paused, one whose pause ends first would be forgotten.
    for i in range(5000):
        refuse(known, f'p{i}', 1, 2000.0 + i)
    with pytest.raises(PausedError):
        known.begin('p4999', 1, time_.after(1))
    known.begin('p0', 1, time_.after(1))


def _open(path):
    """The table of three processes, and a number behind it; and the descriptor."""
    descriptor = os.open(path, os.O_RDWR)
    cells = MappedMemory(descriptor).room(0, 8 * (size_of(3) + 1)).view(np.int64)
    return cells, descriptor


def _take_turns(path, row, held):
    cells, descriptor = _open(path)
    known = Courtesy(cells[:-1], row, descriptor)
    for _ in range(50):
        at = known.begin('h', 1, math.inf)
        seen = int(cells[-1])
        time.sleep(1e-4)
        cells[-1] = seen + 1  # lost if anybody else is at it
        known.end(at)
    known.begin('held', 2, math.inf)
    held.set()
    signal.pause()


def test_processes_take_turns_and_what_one_held_ends_with_it(tmp_path):
    path = tmp_path / 'table'
    path.write_bytes(bytes(8 * (size_of(3) + 1)))
    cells, descriptor = _open(path)
    known = Courtesy(cells[:-1], 2, descriptor)
    spawn = multiprocessing.get_context('spawn')
    held = [spawn.Event() for _ in range(2)]
    processes = [
        spawn.Process(target=_take_turns, args=(path, row, each)) for row, each in enumerate(held)
    ]
    for each in processes:
        each.start()
    try:
        assert all(each.wait(30) for each in held)
        assert cells[-1] == 100
        with pytest.raises(TimeoutError):
            known.begin('held', 2, time.monotonic() + 0.05)
    finally:
        for each in processes:
            each.kill()
            each.join()
    known.forget(0)
    known.end(known.begin('held', 2, time.monotonic() + 1))
    known.forget(1)
    known.end(known.begin('held', 1, time.monotonic() + 1))
    os.close(descriptor)
