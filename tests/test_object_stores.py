"""What every object store does alike, each against its own server over HTTP.

What is not checked here: faults, and what differs (test_storage_gcs, test_storage_s3).
"""

import pytest

from transforms.errors import ImageError
from transforms.rows import FetchLimits
from transforms.storage import store_for

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


def test_what_is_not_there(store, place):
    assert store.stat(place.uri('absent')) is None
    assert store.stat(place.uri()) is None
    assert store.read(place.uri('absent')) is None
    store.delete(place.uri('absent'))
    assert store.is_folder(place.uri())
    assert not store.is_folder(place.uri('absent'))
    with pytest.raises(ImageError, match='not_found: HTTP 404'):
        store.fetch(place.uri('absent'), LIMITS, lambda _: None)
