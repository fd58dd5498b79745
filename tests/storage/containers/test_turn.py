"""Whose turn it is at a container."""

import threading
import time

import pytest

from transforms.core.members import Place
from transforms.storage.containers.turn import Turn


class Line:
    """Threads that wait for a turn, one after the other."""

    def __init__(self, turn):
        self.turn = turn
        self.came = []
        self.threads = []

    def wait(self, place, timeout_sec=60.0):
        """Has one more wait, and returns once it does."""
        thread = threading.Thread(target=self._wait, args=(place, timeout_sec), daemon=True)
        before = self.turn.waiting
        thread.start()
        self.threads.append(thread)
        while self.turn.waiting == before:
            time.sleep(0.001)

    def _wait(self, place, timeout_sec):
        if self.turn.acquire(timeout_sec, place):
            self.came.append(place)
            self.turn.release()
        else:
            self.came.append('late')

    def end(self):
        for thread in self.threads:
            thread.join(60)
        return self.came


@pytest.fixture
def turn():
    return Turn()


@pytest.fixture
def line(turn):
    return Line(turn)


def test_what_lies_first_comes_first(turn, line):
    assert turn.acquire(0.0, Place(2, 97))
    for place in (Place(4, 0), Place(2, 99), Place(2, 98)):
        line.wait(place)
    turn.release()
    assert line.end() == [Place(2, 98), Place(2, 99), Place(4, 0)]


def test_a_block_that_is_begun_is_gone_through_before_an_earlier_one(turn, line):
    assert turn.acquire(0.0, Place(5, 3))
    for place in (Place(1, 0), Place(5, 9), Place(5, 1), Place(9, 0)):
        line.wait(place)
    turn.release()
    assert line.end() == [Place(5, 1), Place(5, 9), Place(1, 0), Place(9, 0)]


def test_who_has_waited_long_enough_leaves_its_place(turn, line):
    assert turn.acquire(0.0)
    line.wait(Place(0, 0))
    line.wait(Place(0, 0), 0.01)
    line.threads[1].join(60)
    turn.release()
    assert line.end() == ['late', Place(0, 0)]
    assert turn.acquire(0.0)  # nobody has it


def test_it_is_not_waited_for_longer_than_allowed(turn):
    assert turn.acquire(1.0)
    assert not turn.acquire(0.0)
    assert not turn.acquire(-1.0)
    turn.release()
    assert turn.acquire(-1.0)
