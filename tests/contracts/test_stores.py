"""What every store does alike, object stores each against its own server over HTTP.

What is not checked here: faults, and what differs (test_storage_gcs, test_storage_s3).
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.fault_proxy import HINT, FaultProxy
from transforms.core import uris
from transforms.core.errors import ImageError
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve
from transforms.storage.base import FetchLimits
from transforms.storage.gcs import GcsStore
from transforms.storage.registry import store_for
from transforms.storage.s3 import S3Store

PLAIN = Columns('uri', (), ())
LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)


@pytest.fixture(params=['bucket', 's3_bucket'])
def place(request):
    """A fresh bucket of each kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(place):
    return store_for(place.uri())


def test_markers_of_folders_are_no_objects(store, place):
    uri = place.put('photos/', b'')
    assert store.stat(uri) is None
    assert list(store.list(place.uri())) == []
    assert store.is_folder(place.uri('photos'))
    with pytest.raises(ImageError, match='not_a_file: a folder'):
        store.fetch(uri, LIMITS, lambda _: None)


@pytest.mark.parametrize('data', [b'', b'of type directory'])
def test_an_object_below_whose_name_others_lie_is_a_folder(store, place, data):
    uri = place.uri('photos')
    if data:
        put_folder(place, 'photos', data)
    else:
        store.write(uri, data)
    assert store.stat(uri).size_bytes == len(data), 'nothing lies below it yet'
    store.write(place.uri('photos-1'), b'x')
    store.write(f'{uri}/a.jpg', b'x')
    assert store.stat(uri) is None
    assert store.is_folder(uri)
    store.write(place.uri('b.jpg'), b'x')
    store.write(place.uri('b.jpg/c.jpg'), b'x')
    assert store.stat(place.uri('b.jpg')).size_bytes == 1, 'it has bytes of its own'
    source = resolve(uri, PLAIN)
    assert [ref.uri for ref in list_input(source, PLAIN)] == [f'{uri}/a.jpg']
    if not data:
        found = list(list_input(resolve(place.uri('**'), PLAIN), PLAIN))
        assert found.count('skipped_not_image/(folder)') == 1
        assert sorted(ref.uri for ref in found if not isinstance(ref, str)) == [
            *(place.uri('b.jpg'), place.uri('b.jpg/c.jpg')),
            *(place.uri('photos-1'), f'{uri}/a.jpg'),
        ]


def put_folder(place, name, data):
    """As s3fs and gcsfuse do it."""
    kind = 'application/x-directory; charset=UTF-8'
    if hasattr(place, 'client'):
        place.client.put_object(Bucket=place.name, Key=name, Body=data, ContentType=kind)
        return
    bucket = store_for(place.uri())._client.bucket(place.name)
    bucket.blob(name).upload_from_string(data, content_type=kind)


def test_write_create_read_delete(store, place):
    uri = place.uri('größe #1?.json')
    assert store.create(uri, b'1')
    assert not store.create(uri, b'2')
    assert store.read(uri) == b'1'
    store.write(uri, b'3')
    assert store.read(uri) == b'3'
    store.delete(uri)
    assert store.read(uri) is None
    assert store.create(uri, b'')
    assert store.read(uri) == b''


@pytest.fixture(params=['bucket', 's3_bucket', 'local'])
def uri(request, tmp_path):
    """A name in each kind of store."""
    if request.param == 'local':
        return str(tmp_path / 'folder/größe #1?.json')
    return request.getfixturevalue(request.param).uri('folder/größe #1?.json')


def test_replaced_and_deleted_is_only_what_was_seen(uri):
    store = store_for(uri)
    assert store.look(uri) is None
    store.write(uri, b'1')
    first = store.look(uri)
    assert first.data == b'1'
    assert store.replace(uri, b'2', first)
    assert not store.replace(uri, b'3', first)
    assert not store.delete(uri, first)
    assert store.read(uri) == b'2'
    second = store.look(uri)
    assert store.delete(uri, second)
    assert store.read(uri) is None
    assert not store.replace(uri, b'4', second)
    assert not store.delete(uri, second)
    assert store.read(uri) is None
    assert store.delete(uri)


def test_of_many_that_replace_the_same_one_does(uri):
    store = store_for(uri)
    store.write(uri, b'seen')
    for turn in range(5):
        seen = store.look(uri)
        new = [b'%d of %d' % (i, turn) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda data, seen=seen: store.replace(uri, data, seen), new))
        assert won.count(True) == 1
        assert store.read(uri) == new[won.index(True)]


def test_placed_is_what_is_there(uri):
    store = store_for(uri)
    target = uris.join(uris.folder_of(uri), 'other/größe #1?.json')
    assert not store.place(uri, target)
    assert store.read(target) is None
    for data in (b'1', b'2'):
        store.write(uri, data)
        assert store.place(uri, target)
        assert store.read(target) == data


def test_what_is_not_there(store, place):
    assert store.stat(place.uri('absent')) is None
    assert store.stat(place.uri()) is None
    assert store.read(place.uri('absent')) is None
    store.delete(place.uri('absent'))
    assert store.is_folder(place.uri())
    assert not store.is_folder(place.uri('absent'))
    with pytest.raises(ImageError, match='not_found: HTTP 404'):
        store.fetch(place.uri('absent'), LIMITS, lambda _: None)


@pytest.fixture(params=['gs', 's3'])
def behind(request, monkeypatch):
    """A bucket, and a store that reaches it through a proxy which hints at what is to come."""
    kind = request.param
    address = request.getfixturevalue({'gs': 'emulator', 's3': 's3'}[kind])
    place = request.getfixturevalue({'gs': 'bucket', 's3': 's3_bucket'}[kind])
    with contextlib.closing(FaultProxy(address)) as proxy:
        proxy.interim = HINT
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
        yield place, GcsStore() if kind == 'gs' else S3Store(proxy.url)


def test_interim_answers_are_passed_over_whatever_is_asked(behind):
    place, store = behind
    data = {place.uri(f'{i}.jpg'): str(i).encode() * 100 for i in range(20)}
    for uri, each in data.items():
        assert store.create(uri, each)
        assert not store.create(uri, b'other')
    assert [entry.uri for entry in store.list(place.uri())] == sorted(data)
    for uri, each in data.items():
        assert store.stat(uri).size_bytes == len(each)
        assert store.fetch(uri, LIMITS, lambda _: None).data == each
        assert store.read(uri) == each
        with store.open(uri) as stream:
            assert stream.read() == each
    store.delete(place.uri('0.jpg'))
    assert store.stat(place.uri('0.jpg')) is None
    assert store.read(place.uri('1.jpg')) == data[place.uri('1.jpg')]
