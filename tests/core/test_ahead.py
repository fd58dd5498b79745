"""Several sources at once, as if one came after the other."""

import itertools
import threading

import pytest

from transforms.core.ahead import one_after_the_other
from transforms.core.waiting import alive, each_within


def numbers(start, count):
    return lambda: iter(range(start, start + count))


@pytest.mark.parametrize('at_a_time', [1, 2, 5])
@pytest.mark.parametrize('most_ahead', [1, 10_000])
def test_the_order_is_that_of_the_sources(at_a_time, most_ahead):
    counts = [3, 0, 1700, 1, 0, 600, 1]
    starts = itertools.accumulate(counts, initial=0)
    sources = [numbers(start, count) for start, count in zip(starts, counts, strict=False)]
    found = list(one_after_the_other(sources, at_a_time, most_ahead))
    assert found == list(range(sum(counts)))


def test_so_many_are_read_at_once():
    together = threading.Barrier(4, timeout=10)

    def wait():
        together.wait()  # for three others
        yield 'x'

    assert list(one_after_the_other([wait] * 8, 4)) == ['x'] * 8


def test_an_error_comes_in_its_place():
    def broken():
        yield 1
        raise KeyError('second')

    items = one_after_the_other([numbers(0, 1), broken, numbers(9, 1)], 3)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError):
        next(items)


def test_no_more_than_that_is_taken_ahead_and_threads_end_with_who_took():
    taken = []
    wanted = 1000

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield i

    before = threading.active_count()
    items = one_after_the_other([endless] * 2, 2, most_ahead=2 * wanted)
    assert next(items) == 0
    items.close()
    for thread in threading.enumerate():
        if thread.name == 'ahead':
            thread.join(10)
    assert threading.active_count() <= before
    assert len(taken) <= 2 * (wanted + 1000)


def test_a_source_that_is_read_ahead_is_a_sign_of_life():
    looking = []

    def clock():
        looking.append(threading.current_thread().name)
        return 0.0

    def lively():
        alive()
        yield 'x'

    sources = [numbers(0, 1), lively]
    assert list(each_within(60.0, 'x', one_after_the_other(sources, 2), clock)) == [0, 'x']
    assert 'ahead' in looking
