"""Blocks of containers in stores: who reads them, and when."""

import threading
import time

import pytest

from transforms.core.errors import ImageError, StoreError
from transforms.core.members import READ_BYTES
from transforms.core.reasons import Reason
from transforms.storage.base import Entry, Fetched
from transforms.storage.containers.store_source import Blocks, StoreSource


def soon():
    return time.monotonic() + 0.2


def later():
    return time.monotonic() + 20.0


def test_a_block_that_does_not_come_is_read_by_the_next_one(in_thread):
    blocks = Blocks()
    is_stuck, goes_on = threading.Event(), threading.Event()

    def stuck():
        is_stuck.set()
        assert goes_on.wait(60)
        return b'late'

    in_thread(blocks.get, 'key', stuck, later())
    assert is_stuck.wait(20)
    try:
        with pytest.raises(ImageError) as late:
            blocks.get('key', lambda: b'', soon())
        assert late.value.reason is Reason.DEADLINE
        assert blocks.get('key', lambda: b'anew', later()) == b'anew'
    finally:
        goes_on.set()
    assert blocks.get('key', lambda: b'', later()) == b'anew'


class Held:
    """Something to read that comes when it is let go."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.is_asked = threading.Event()
        self.is_let_go = threading.Event()

    def __call__(self):
        self.is_asked.set()
        assert self.is_let_go.wait(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def never():
    raise AssertionError('it is here')


def test_one_block_at_a_time_is_read_ahead():
    blocks, held = Blocks(), Held(b'1')
    assert blocks.begin(1, held)
    assert held.is_asked.wait(20)
    assert blocks.begin(1, never), 'it comes'
    assert not blocks.begin(2, never)
    held.is_let_go.set()
    assert blocks.get(1, never, later()) == b'1'
    while not blocks.begin(2, lambda: b'2'):
        time.sleep(0.001)
    assert blocks.get(2, never, later()) == b'2'


@pytest.mark.parametrize(
    'error', [StoreError('gone'), ImageError(Reason.DEADLINE, ''), MemoryError()]
)
def test_what_fails_ahead_is_read_by_who_asks_for_it(error, in_thread):
    blocks, held = Blocks(), Held(error)
    got = []
    assert blocks.begin(1, held)
    asking = in_thread(lambda: got.append(blocks.get(1, lambda: b'anew', later())))
    assert held.is_asked.wait(20)
    held.is_let_go.set()
    asking.join(60)
    assert got == [b'anew']
    with pytest.raises(type(error)):
        blocks.get(2, held, later())


class Store:
    """One large object."""

    def __init__(self):
        self.parts = []

    def stat(self, uri):
        return Entry(uri, '1', 5 * READ_BYTES // 2)

    def fetch(self, uri, limits, admit, unless='', part=None):
        self.parts.append((part.offset, part.size_bytes))
        data = bytes([part.offset // READ_BYTES]) * part.size_bytes
        return Fetched(data, part.version, len(data))


@pytest.fixture
def store():
    return Store()


@pytest.mark.parametrize('reads_ahead', [False, True])
def test_what_is_expected_is_read_in_blocks(reads_ahead, store):
    source = StoreSource(store, 'gs://b/a.tar', '1', Blocks())
    source.ends_at, source.reads_ahead = later(), reads_ahead
    source.expect(READ_BYTES // 2, 10 * READ_BYTES)
    assert source.range(READ_BYTES // 2, 10) == bytes(10)
    assert source.range(READ_BYTES - 5, 10) == bytes(10)
    while len(store.parts) < 1 + reads_ahead:
        time.sleep(0.001)
    places = [READ_BYTES // 2, 3 * READ_BYTES // 2]
    assert store.parts == [(place, READ_BYTES) for place in places[: 1 + reads_ahead]]
    assert source.range(3 * READ_BYTES // 2 - 5, 10) == bytes(5) + b'\1' * 5
    assert source.range(2 * READ_BYTES, 2 * READ_BYTES) == b'\1' * (READ_BYTES // 2)
    assert store.parts == [(place, READ_BYTES) for place in places]


def test_what_is_not_expected_is_read_as_it_is_asked_for(store):
    source = StoreSource(store, 'gs://b/a.tar', '1', Blocks())
    source.ends_at = later()
    source.expect(100, 200)
    for offset, size in ((0, 10), (95, 10), (195, 10), (0, 10)):
        assert len(source.range(offset, size)) == size
    assert store.parts == [(0, 10), (95, 10), (195, 10), (0, 10)]


def test_on_a_disk_nothing_is_read_in_blocks(store):
    source = StoreSource(store, '/data/a.tar', '1', Blocks())
    source.ends_at, source.reads_ahead = later(), True
    source.expect(0, 10 * READ_BYTES)
    assert source.range(0, 10) == bytes(10)
    assert source.begin(0, 10, later())
    assert store.parts == [(0, 10)]
