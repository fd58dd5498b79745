"""What a process holds once."""

import os
import random
import threading
import time

import pytest

from transforms.core.resources import LiveCounts, cpu_count, shared
from transforms.loading.budget import ByteBudget, Kept, SharedBudget


def started(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def waiting(budget, count):
    """Waits until so many threads stand in the queue of a budget."""
    ends_at = time.monotonic() + 10
    while budget.waiting != count:
        assert time.monotonic() < ends_at
        time.sleep(0.001)


def joined(threads):
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_the_budget_is_never_exceeded_and_nobody_waits_for_ever():
    budget = ByteBudget(100)
    lock = threading.Lock()
    held, most = 0, 0

    def work(seed):
        nonlocal held, most
        chance = random.Random(seed)
        for _ in range(100):
            size = chance.choice([0, 1, 30, 60, 100])
            with budget.reserve(size):
                with lock:
                    held += size
                    most = max(most, held)
                with lock:
                    held -= size

    assert joined([started(work, seed) for seed in range(12)])
    assert most <= 100
    assert budget.used_bytes == 0
    assert not budget.waiting


def test_first_come_first_served():
    budget = ByteBudget(10)
    order = []
    budget.acquire(6)

    def take(name, size):
        with budget.reserve(size):
            order.append(name)

    threads = []
    # The small ones would fit at once, but would starve the large one before them.
    for name, size in (('large', 10), ('small', 1), ('smaller', 0)):
        threads.append(started(take, name, size))
        waiting(budget, len(threads))
    assert order == []
    budget.release(6)
    assert joined(threads)
    assert order[0] == 'large'
    assert sorted(order) == ['large', 'small', 'smaller']


def test_too_large_a_request_runs_alone():
    budget = ByteBudget(10)
    taken = budget.acquire(1)
    thread = started(lambda: budget.release(budget.acquire(1000)))
    waiting(budget, 1)
    budget.release(taken)
    assert joined([thread])
    assert budget.acquire(1000) == 10
    other = started(lambda: budget.release(budget.acquire(1)))
    waiting(budget, 1)
    budget.release(10)
    assert joined([other])


def test_a_budget_of_nothing_lets_one_in_at_a_time():
    budget = ByteBudget(0)
    taken = budget.acquire(5)
    thread = started(lambda: budget.release(budget.acquire(5)))
    waiting(budget, 1)
    budget.release(taken)
    assert joined([thread])


def test_reserve_gives_back_on_failure():
    budget = ByteBudget(10)
    with pytest.raises(KeyError), budget.reserve(10):
        raise KeyError
    assert budget.acquire(10) == 10


class Rooms:
    """A share of 10, and 20 for all."""

    def __init__(self):
        self.common = ByteBudget(20)
        self.budget = SharedBudget(10, 20, self.common.acquire, self.common.release)

    @property
    def used(self):
        return self.budget.share.used_bytes, self.common.used_bytes


def test_room_is_taken_as_bytes_come_and_given_back():
    rooms = Rooms()
    with rooms.budget.admission() as admit:
        for size in (2, 1, 7, 10):
            admit(size)
            assert rooms.used == (max(2, size), 0)
        admit(11)
        assert rooms.used == (10, 20), 'all that it may need at once, so that it never waits again'
        admit(20)
        assert rooms.used == (10, 20)
        admit(0)
        assert rooms.used == (0, 0)
        admit(3)
        assert rooms.used == (3, 0)
    assert rooms.used == (0, 0)
    with rooms.budget.admission():
        pass
    with rooms.budget.reserve(15):
        assert rooms.used == (0, 15)
    with pytest.raises(KeyError), rooms.budget.reserve(15):
        raise KeyError
    assert rooms.used == (0, 0)


def test_a_large_one_holds_up_nobody_who_has_little():
    rooms = Rooms()
    with rooms.budget.reserve(1), rooms.budget.reserve(10):
        assert rooms.used == (1, 10)
        with rooms.budget.reserve(2):
            assert rooms.used == (3, 10)
        # Who has little waits for its share, as long as that is full of others like it.
        with rooms.budget.reserve(9):
            small = started(lambda: rooms.budget.reserve(2).__enter__())
            waiting(rooms.budget.share, 1)
        assert joined([small])


@pytest.mark.parametrize('sizes', [(2, 9, 1, 20), (2, 3, 20), (1, 12, 15), (9, 20)])
def test_those_that_grow_do_not_lock_each_other_out(sizes):
    rooms = Rooms()
    barrier = threading.Barrier(4)

    def work():
        for _ in range(50):
            with rooms.budget.admission() as admit:
                admit(sizes[0])
                if sizes[0] <= 2:
                    barrier.wait(60)  # all four hold some, and all want more
                for size in sizes[1:]:
                    admit(size)

    assert joined([started(work) for _ in range(4)])
    assert rooms.used == (0, 0)


def test_what_is_kept_leaves_room_for_any_image():
    share = ByteBudget(100)
    kept = Kept(share, 100)
    assert kept.has_taken(50)
    assert kept.has_taken(25)
    assert not kept.has_taken(1)
    shared = SharedBudget(100, 100, lambda _: None, lambda _: None)
    shared.share = share
    with shared.reserve(25):  # the most that waits for the share
        assert share.used_bytes == 100
        kept.release(50)
        assert kept.has_taken(40)
    kept.release(65)
    assert (share.used_bytes, kept.used_bytes) == (0, 0)
    with share.reserve(60):
        assert not kept.has_taken(50), 'images come first'
        assert kept.used_bytes == 0


def test_shared_is_made_once_whoever_asks():
    made = []
    barrier = threading.Barrier(8)
    found = []

    def make(key):
        made.append(key)
        time.sleep(0.01)
        return object()

    def ask():
        barrier.wait(60)
        found.append(shared(make, 'key'))

    assert joined([started(ask) for _ in range(8)])
    assert made == ['key']
    assert len(set(map(id, found))) == 1
    assert shared(make, 'other') is not found[0]


def test_shared_tries_again_what_could_not_be_made():
    tries = []

    def make(key):
        tries.append(key)
        if len(tries) == 1:
            raise OSError
        return key

    with pytest.raises(OSError):  # noqa: PT011
        shared(make, 'key')
    assert shared(make, 'key') == 'key'


def test_shared_things_may_share_others():
    assert shared(_outer, 3) == 4


def _outer(key):
    return shared(_inner, key) + 1


def _inner(key):
    return key


def test_cpu_count_is_what_this_process_may_use():
    assert 1 <= cpu_count() <= os.cpu_count()


def test_live_counts_add_up():
    counts = LiveCounts()
    threads = [
        started(lambda: [counts.add(listed=1, labeled=2, failed=3, total=4) for _ in range(500)])
        for _ in range(4)
    ]
    assert joined(threads)
    seen = (counts.listed, counts.labeled, counts.failed, counts.total)
    assert seen == (2000, 4000, 6000, 8000)
