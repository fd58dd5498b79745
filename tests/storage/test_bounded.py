"""A store that is asked nothing without a deadline."""

import io
import os
import threading
import time

import pytest

from transforms.core.errors import StoreError
from transforms.core.waiting import alive
from transforms.storage.base import Seen
from transforms.storage.bounded import BoundedStore, WrittenWithin
from transforms.storage.local import LocalStore

SOON_SEC = 0.2
SEEN = Seen(b'old', '')

CALLS = {
    'looking for': lambda store, uri: store.stat(uri),
    'listing': lambda store, uri: list(store.list(uri)),
    'opening': lambda store, uri: store.open(uri),
    'reading': lambda store, uri: store.read(uri),
    'writing': lambda store, uri: store.write(uri, b'new'),
    'moving something to': lambda store, uri: store.place('/staged', uri),
    'deleting': lambda store, uri: store.delete(uri),
}
OTHERS = {
    'looking for': lambda store, uri: store.is_folder(uri),
    'reading': lambda store, uri: store.look(uri),
    'writing': lambda store, uri: store.create(uri, b'new'),
    'writing ': lambda store, uri: store.replace(uri, b'new', SEEN),
}


class Silent:
    """A store of which no call returns before it is told."""

    def __init__(self):
        self.ended = threading.Event()

    def __getattr__(self, name):
        return lambda *_, **__: self.ended.wait()

    def list(self, *_):
        self.ended.wait()
        yield from ()


@pytest.fixture
def silent():
    store = Silent()
    yield store
    store.ended.set()


@pytest.mark.parametrize(('doing', 'call'), [*CALLS.items(), *OTHERS.items()])
def test_a_call_without_an_answer_is_named(doing, call, silent):
    store = BoundedStore(silent, SOON_SEC)
    with pytest.raises(StoreError) as raised:
        call(store, '/labels/a')
    assert str(raised.value) == (
        f'{doing.strip()} /labels/a: no answer within 0.2 s: is the store, the file system or the '
        'network down?'
    )


def test_while_one_hangs_others_are_waited_for_but_shortly(silent):
    store = BoundedStore(silent, 2.0, afterwards_sec=SOON_SEC)
    earlier = set(threading.enumerate())
    with pytest.raises(StoreError, match=r'^writing /a: no answer within 2'):
        store.write('/a', b'')
    for doing in ('reading', 'listing'):
        with pytest.raises(StoreError, match=rf'^{doing} /b: no answer within 0\.2 s'):
            CALLS[doing](store, '/b')
    silent.ended.set()
    for thread in set(threading.enumerate()) - earlier:
        thread.join(60)  # what hung returns now
    assert store.read('/c') is True  # as `Silent` has it
    silent.ended.clear()
    with pytest.raises(StoreError, match=r'^deleting /d: no answer within 2 s'):
        store.delete('/d')


def test_what_is_written_has_time_by_its_length(silent):
    with pytest.raises(StoreError, match=r'^writing /a: no answer within 1\.2 s'):
        BoundedStore(silent, SOON_SEC).write('/a', bytes(100_000))


def test_an_error_of_the_store_is_none_of_time(tmp_path):
    (tmp_path / 'file').touch()
    store = BoundedStore(LocalStore(), 60.0, afterwards_sec=0.0)
    for _ in range(2):
        with pytest.raises(StoreError, match=r'^cannot write '):
            store.write(f'{tmp_path}/file/a', b'')


def test_long_work_that_gives_signs_of_life_is_waited_for():
    def work():
        for _ in range(5):
            threading.Event().wait(SOON_SEC / 2)
            alive()
        return 'done'

    assert BoundedStore(LocalStore(), SOON_SEC).within('deleting', '/a', work) == 'done'


def test_a_stream_that_stops_in_its_middle_is_named(silent):
    class Opens(LocalStore):
        def open(self, uri):
            return silent

    with pytest.raises(StoreError, match=r'^reading /a: no answer within 0\.2 s'):
        BoundedStore(Opens(), SOON_SEC).open('/a').read(10)


def test_a_stream_reads_as_that_of_the_store(tmp_path):
    (tmp_path / 'a').write_bytes(b'0123456789')
    with BoundedStore(LocalStore()).open(f'{tmp_path}/a') as stream:
        assert (stream.read(3), stream.read(0), stream.tell()) == (b'012', b'', 3)
        assert (stream.seek(-2, 2), stream.read(), stream.read(5)) == (8, b'89', b'')
        stream.seek(0)
        buffer = bytearray(4)
        assert (stream.readinto(buffer), bytes(buffer)) == (4, b'0123')


def test_a_write_that_hangs_is_named_once(tmp_path):
    reader, writer = os.pipe()
    file = io.FileIO(writer, 'wb')
    written = WrittenWithin(BoundedStore(LocalStore(), SOON_SEC), '/x', file)
    assert written.write(b'a' * 100) == 100
    with pytest.raises(StoreError, match=r'writing /x: no answer within 0.2 s') as raised:
        written.write(b'b' * 90_000)  # more than a pipe holds that nobody reads
    begun = time.monotonic()
    for act in (lambda: written.write(b'c'), written.end):
        with pytest.raises(StoreError) as again:
            act()
        assert again.value is raised.value
    assert time.monotonic() - begun < SOON_SEC
    os.close(reader)  # the write that hangs ends
    file.close()
