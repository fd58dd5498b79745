"""What every store does alike: the test of a store subclasses one of these and says where it lies.

What is not checked here: faults, and what differs.
"""

import contextlib
import inspect
import io
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest

from tests.support.fault_proxy import HINT, FaultProxy
from transforms.core import uris
from transforms.core.elements import Ref
from transforms.core.errors import ImageError, UsageError
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve
from transforms.storage.base import FetchLimits, NotModified, Part, Store
from transforms.storage.registry import store_for

PLAIN = Columns('uri', (), ())
LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
CREATORS = 8


class Place(Protocol):
    """An empty folder of a store, which the test fills past the store."""

    def uri(self, name: str = '') -> str:
        """The URI of a name in it, the name raw; of the folder itself without one."""

    def put(self, name: str, data: bytes) -> str:
        """Puts an object there; its URI."""


def fetch(store: Store, uri: str, unless: str = '') -> tuple[bytes, str]:
    """Bytes and version of an object."""
    found = store.fetch(uri, LIMITS, lambda _: None, unless)
    assert found.size_bytes == len(found.data)
    return found.data, found.version


class FetchContract:
    """What a store does that reads images: the half that is asked of web servers, too."""

    ODD_NAMES: tuple[str, ...] = (
        'a b.jpg',
        'x#y?.jpg',
        '100%+.jpg',
        '%2F.jpg',
        'q\'".jpg',
        '.h.jpg',
        '[1]*.jpg',
    )

    @pytest.fixture
    def place(self) -> Place:
        """An empty folder, for each test a fresh one."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, place: Place) -> Store:
        """The store under test."""
        return store_for(place.uri())

    def test_it_is_a_store(self, store: Store) -> None:
        """Static checks end at the registry, which imports stores by their names."""
        for name, wanted in inspect.getmembers(Store, inspect.isfunction):
            if not name.startswith('_'):
                assert taken_by(getattr(type(store), name)) == taken_by(wanted), name

    def test_odd_names_are_fetched(self, store: Store, place: Place) -> None:
        for name in self.ODD_NAMES:
            uri = place.put(name, name.encode())
            assert fetch(store, uri)[0] == name.encode()

    def test_an_empty_object_is_fetched(self, store: Store, place: Place) -> None:
        assert fetch(store, place.put('a', b''))[0] == b''

    def test_an_object_that_is_not_there_is_not_found(self, store: Store, place: Place) -> None:
        place.put('a', b'1')
        with pytest.raises(ImageError, match='not_found: '):
            fetch(store, place.uri('absent'))

    def test_too_many_bytes_are_never_asked_for(self, store: Store, place: Place) -> None:
        asked: list[int] = []
        with pytest.raises(ImageError, match='too_many_bytes: 10001 bytes, limit 10000') as caught:
            store.fetch(place.put('a', bytes(10_001)), LIMITS, asked.append)
        assert caught.value.size_bytes == 10_001
        assert asked == []
        found = store.fetch(place.put('b', bytes(10_000)), LIMITS, asked.append)
        assert asked == [10_000]
        assert len(found.data) == 10_000

    def test_a_version_that_is_known_is_not_read_again(self, store: Store, place: Place) -> None:
        uri = place.put('a', b'1')
        data, version = fetch(store, uri)
        assert (data, fetch(store, uri)[1]) == (b'1', version)
        assert version
        with pytest.raises(NotModified):
            fetch(store, uri, version)
        place.put('a', b'two')
        data, changed = fetch(store, uri, version)
        assert (data, changed != version) == (b'two', True)

    def test_a_part_is_of_one_version_and_whole(self, store: Store, place: Place) -> None:
        data = random.Random(1).randbytes(50_000)
        uri = place.put('a', data)
        version = self.version(store, uri)
        asked: list[int] = []

        def part(
            offset: int, size: int, version: str = version, limits: FetchLimits = LIMITS
        ) -> bytes:
            wanted = Part(offset, size, version)
            found = store.fetch(uri, limits, asked.append, part=wanted)
            assert (found.version, found.size_bytes) == (version, size)
            return found.data

        assert part(0, 10) == data[:10]
        assert part(40_123, 9_877) == data[40_123:]
        assert part(300, 10_000) == data[300:10_300]
        assert max(asked) <= 10_000
        asked.clear()
        with pytest.raises(ImageError, match='too_many_bytes: 10001 bytes, limit 10000'):
            part(0, 10_001)
        assert asked == []
        for offset, size in ((49_999, 2), (60_000, 1)):
            with pytest.raises(ImageError, match=r'changed_while_reading|store_error'):
                part(offset, size, limits=LIMITS._replace(deadline_sec=0.5))
        place.put('a', data[::-1] + b'.')
        with pytest.raises(ImageError, match='changed_while_reading: it is no longer version'):
            part(0, 10)
        with pytest.raises(ImageError, match='not_found: '):
            store.fetch(place.uri('absent'), LIMITS, asked.append, part=Part(0, 1, version))

    def version(self, store: Store, uri: str) -> str:
        """The version of what is there."""
        return store.fetch(uri, LIMITS._replace(max_bytes=10**6), lambda _: None).version


def taken_by(method: object) -> list[tuple[object, ...]]:
    """Parameters: names, kinds and defaults."""
    assert callable(method)
    parameters = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


class StoreContract(FetchContract):
    """What a store does in which an output may lie."""

    @pytest.fixture
    def uri(self, place: Place) -> str:
        """An odd name in a folder that is not there yet."""
        return place.uri('folder/größe #1?.json')

    def test_odd_names_are_listed_and_looked_at(self, store: Store, place: Place) -> None:
        for name in self.ODD_NAMES:
            place.put(name, name.encode())
        entries = {entry.uri: entry for entry in store.list(place.uri())}
        assert sorted(entries) == sorted(place.uri(name) for name in self.ODD_NAMES)
        for name in self.ODD_NAMES:
            entry = entries[place.uri(name)]
            assert entry == store.stat(entry.uri)
            assert entry.size_bytes == len(name.encode())
            assert entry.reason == ''
            assert fetch(store, entry.uri) == (name.encode(), entry.version)

    def test_max_depth_1_leaves_out_what_lies_deeper(self, store: Store, place: Place) -> None:
        names = ('a.jpg', 'x/b.jpg', 'x/y/c.jpg', 'x2/d.jpg')
        every = [place.put(name, b'x') for name in names]
        assert sorted(entry.uri for entry in store.list(place.uri())) == every
        assert [entry.uri for entry in store.list(place.uri(), 1)] == every[:1]
        assert [entry.uri for entry in store.list(place.uri('x'), 1)] == every[1:2]
        hinted = {entry.uri for entry in store.list(place.uri(), starts_with='x')}
        assert hinted >= set(every[1:])

    def test_what_is_not_there(self, store: Store, place: Place) -> None:
        absent = place.uri('absent')
        assert store.stat(absent) is None
        assert store.stat(place.uri()) is None
        assert store.read(absent) is None
        assert store.look(absent) is None
        assert store.delete(absent)
        assert store.is_folder(place.uri())
        assert not store.is_folder(absent)
        with pytest.raises(UsageError):
            store.open(absent)

    def test_write_create_read_delete(self, store: Store, uri: str) -> None:
        assert store.create(uri, b'1')
        assert not store.create(uri, b'2')
        assert store.read(uri) == b'1'
        store.write(uri, b'3')
        assert store.read(uri) == b'3'
        store.delete(uri)
        assert store.read(uri) is None
        assert store.create(uri, b'')
        assert store.read(uri) == b''

    def test_only_one_of_many_creates(self, store: Store, uri: str) -> None:
        barrier = threading.Barrier(CREATORS)

        def create(i: int) -> bool:
            barrier.wait(60)
            return store.create(uri, str(i).encode())

        with ThreadPoolExecutor(CREATORS) as pool:
            won = list(pool.map(create, range(CREATORS)))
        assert won.count(True) == 1
        assert store.read(uri) == str(won.index(True)).encode()
        assert [entry.uri for entry in store.list(uris.folder_of(uri))] == [uri]

    def test_replaced_and_deleted_is_only_what_was_seen(self, store: Store, uri: str) -> None:
        store.write(uri, b'1')
        first = store.look(uri)
        assert first
        assert first.data == b'1'
        assert store.replace(uri, b'2', first)
        assert not store.replace(uri, b'3', first)
        assert not store.delete(uri, first)
        assert store.read(uri) == b'2'
        second = store.look(uri)
        assert second
        assert store.delete(uri, second)
        assert store.read(uri) is None
        assert not store.replace(uri, b'4', second)
        assert not store.delete(uri, second)
        assert store.read(uri) is None
        assert store.delete(uri)

    def test_of_many_that_replace_the_same_one_does(self, store: Store, uri: str) -> None:
        store.write(uri, b'seen')
        for turn in range(5):
            seen = store.look(uri)
            new = [b'%d of %d' % (i, turn) for i in range(8)]
            with ThreadPoolExecutor(8) as pool:
                won = list(pool.map(lambda data, seen=seen: store.replace(uri, data, seen), new))
            assert won.count(True) == 1
            assert store.read(uri) == new[won.index(True)]

    def test_placed_is_what_is_there(self, store: Store, uri: str) -> None:
        target = uris.join(uris.folder_of(uri), 'other/größe #1?.json')
        assert not store.place(uri, target)
        assert store.read(target) is None
        for data in (b'1', b'2'):
            store.write(uri, data)
            assert store.place(uri, target)
            assert store.read(target) == data

    def test_open_is_a_seekable_stream(self, store: Store, place: Place) -> None:
        data = random.Random(1).randbytes(100_000)
        with store.open(place.put('a', data)) as stream:
            assert stream.read(10) == data[:10]
            assert stream.tell() == 10
            stream.seek(-10, io.SEEK_END)
            assert stream.read() == data[-10:]
            assert stream.read(1) == b''
            stream.seek(0)
            assert stream.read() == data
        with store.open(place.put('empty', b'')) as stream:
            assert stream.read() == b''


class ObjectStoreContract(StoreContract):
    """What a store does over HTTP whose folders are but the beginnings of names."""

    ODD_NAMES = (
        *StoreContract.ODD_NAMES,
        *('é/日.jpg', 'a//b.jpg', '/lead.jpg', 'x/../y.jpg', 'a&alt=json.jpg'),
    )

    @pytest.fixture
    def address(self) -> str:
        """Where the server of the store is, 'http://127.0.0.1:PORT'."""
        raise NotImplementedError

    def store_at(self, address: str, monkeypatch: pytest.MonkeyPatch) -> Store:
        """A store of this test alone that goes to another address."""
        raise NotImplementedError

    def put_folder(self, place: Place, name: str, data: bytes) -> None:
        """Marks a folder by an object, as programs do that mount a bucket."""
        raise NotImplementedError

    def test_a_listing_goes_by_the_literal_part_of_a_glob(self, store: Store, place: Place) -> None:
        names = ('a.jpg', 'x/b.jpg', 'x/y/c.jpg', 'x2/d.jpg')
        every = [place.put(name, b'x') for name in names]
        hinted = [entry.uri for entry in store.list(place.uri(), starts_with='x')]
        assert sorted(hinted) == every[1:]

    def test_markers_of_folders_are_no_objects(self, store: Store, place: Place) -> None:
        uri = place.put('photos/', b'')
        assert store.stat(uri) is None
        assert list(store.list(place.uri())) == []
        assert store.is_folder(place.uri('photos'))
        with pytest.raises(ImageError, match='not_a_file: a folder'):
            store.fetch(uri, LIMITS, lambda _: None)

    @pytest.mark.parametrize('data', [b'', b'of type directory'])
    def test_an_object_below_whose_name_others_lie_is_a_folder(
        self, store: Store, place: Place, data: bytes
    ) -> None:
        uri = place.uri('photos')
        if data:
            self.put_folder(place, 'photos', data)
        else:
            store.write(uri, data)
        assert size_of(store, uri) == len(data), 'nothing lies below it yet'
        store.write(place.uri('photos-1'), b'x')
        store.write(f'{uri}/a.jpg', b'x')
        assert store.stat(uri) is None
        assert store.is_folder(uri)
        store.write(place.uri('b.jpg'), b'x')
        store.write(place.uri('b.jpg/c.jpg'), b'x')
        assert size_of(store, place.uri('b.jpg')) == 1, 'it has bytes of its own'
        source = resolve(uri, PLAIN)
        (ref,) = list_input(source, PLAIN)
        assert isinstance(ref, Ref)
        assert ref.uri == f'{uri}/a.jpg'
        if not data:
            found = list(list_input(resolve(place.uri('**'), PLAIN), PLAIN))
            assert found.count('skipped_not_image/(folder)') == 1
            assert sorted(ref.uri for ref in found if not isinstance(ref, str)) == [
                *(place.uri('b.jpg'), place.uri('b.jpg/c.jpg')),
                *(place.uri('photos-1'), f'{uri}/a.jpg'),
            ]

    def test_what_is_not_there_is_said_as_the_server_does(self, store: Store, place: Place) -> None:
        with pytest.raises(ImageError, match='not_found: HTTP 404'):
            fetch(store, place.uri('absent'))
        with pytest.raises(UsageError, match='no such object'):
            store.open(place.uri('absent'))

    @pytest.fixture
    def behind(self, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        """A store behind a proxy which hints at what is to come."""
        with contextlib.closing(FaultProxy(address)) as proxy:
            proxy.interim = HINT
            yield self.store_at(proxy.url, monkeypatch)

    def test_interim_answers_are_passed_over_whatever_is_asked(
        self, behind: Store, place: Place
    ) -> None:
        store = behind
        data = {place.uri(f'{i}.jpg'): str(i).encode() * 100 for i in range(20)}
        for uri, each in data.items():
            assert store.create(uri, each)
            assert not store.create(uri, b'other')
        assert [entry.uri for entry in store.list(place.uri())] == sorted(data)
        for uri, each in data.items():
            assert size_of(store, uri) == len(each)
            assert store.fetch(uri, LIMITS, lambda _: None).data == each
            assert store.read(uri) == each
            with store.open(uri) as stream:
                assert stream.read() == each
        store.delete(place.uri('0.jpg'))
        assert store.stat(place.uri('0.jpg')) is None
        assert store.read(place.uri('1.jpg')) == data[place.uri('1.jpg')]


def size_of(store: Store, uri: str) -> int | None:
    """Bytes of an object, None where there is none."""
    found = store.stat(uri)
    return found and found.size_bytes
