"""Datasets of the Hugging Face hub, against a server that speaks its protocol.

Not checked here: the hub itself, its limits of requests, and its own storage of large files.
"""

import pytest

from tests.contracts.stores import FetchContract
from tests.support.hub_server import Dataset, body, hash_of, status
from transforms.core import uris
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.storage.base import FetchLimits, NotModified, Part
from transforms.storage.http_fetch import Tries
from transforms.storage.huggingface import HfStore

LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
NAME = 'owner/name'
LARGE = b'large' * 1000
TOKEN = 'hf_s3cr3t'


class Place:
    def __init__(self, server):
        self.dataset = Dataset(server, NAME)

    def uri(self, name=''):
        return f'hf://datasets/{NAME}/{name}'

    def put(self, name, data):
        self.dataset.put(name, data)
        return self.uri(name)


@pytest.fixture
def place(server, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    return Place(server)


def make_store(**options):
    return HfStore(tries=Tries(pause_sec=0.01, most_pause_sec=0.05), **options)


@pytest.fixture
def store(place):
    return make_store()


def fetch(store, uri, unless='', part=None, limits=LIMITS):
    return store.fetch(uri, limits, lambda _: None, unless, part)


class TestLikeEveryStore(FetchContract):
    @pytest.fixture
    def place(self, server, monkeypatch):
        monkeypatch.setenv('HF_ENDPOINT', server.url)
        return Place(server)

    @pytest.fixture
    def store(self, place):
        return make_store(pinned_sec=0.0)  # so that what is put is seen


def asked(server, start='/'):
    """Paths that were asked for, and whether the token came along."""
    return [
        (each.path, f'Bearer {TOKEN}' in each.headers.values())
        for each in server.requests
        if each.path.startswith(start)
    ]


def test_files_are_listed_with_their_hashes(store, place):
    files = {'a.jpg': b'1', 'x/b c#?.jpg': LARGE, 'x/y/ä.jpg': b'3', 'x2/d.txt': b''}
    for name, data in files.items():
        place.put(name, data)
    entries = {entry.uri: entry for entry in store.list(place.uri().rstrip('/'))}
    assert sorted(entries) == sorted(map(place.uri, files))
    for name, data in files.items():
        entry = entries[place.uri(name)]
        assert (entry.version, entry.size_bytes) == (hash_of(data), len(data))
        assert store.stat(entry.uri) == entry
        assert fetch(store, entry.uri)[:2] == (data, entry.version)
    below = [place.uri('x/b c#?.jpg'), place.uri('x/y/ä.jpg')]
    assert sorted(entry.uri for entry in store.list(place.uri('x'))) == below
    assert [entry.uri for entry in store.list(place.uri('x'), 1)] == below[:1]
    hinted = [entry.uri for entry in store.list(place.uri().rstrip('/'), starts_with='x/')]
    assert sorted(hinted) == below
    tree = f'/api/datasets/{NAME}/tree/{place.dataset.commit}/z'
    place.dataset.server.put(tree, refusing('EntryNotFound', 404))
    for folder, there in (('', True), ('x', True), ('x/y', True), ('z', False), ('a.jpg', False)):
        assert store.is_folder(place.uri(folder).rstrip('/')) is there
    for absent in ('z', 'x', 'x/', ''):
        assert store.stat(place.uri(absent)) is None


def test_what_is_read_is_the_commit_that_was_listed(store, place):
    uri = place.put('a.jpg', b'1')
    (entry,) = store.list(place.uri().rstrip('/'))
    place.put('a.jpg', b'two')
    assert fetch(store, uri)[:2] == (b'1', entry.version)
    (newer,) = store.list(place.uri().rstrip('/'))
    assert newer.version != entry.version
    assert fetch(store, uri).data == b'two'
    assert fetch(make_store(), uri).data == b'two', 'a process that has not listed it'
    with pytest.raises(ImageError, match='changed_while_reading'):
        fetch(store, uri, part=Part(0, 1, entry.version))


def test_a_revision_is_read_and_stays_in_the_uri(store, place):
    place.put('data/a.jpg', b'1')
    for revision in (place.dataset.commit, 'refs/convert/parquet'):
        uri = uris.absolute(f'hf://datasets/{NAME}@{revision}/data')
        (entry,) = store.list(uri)
        assert entry.uri == f'{uri}/a.jpg'
        assert fetch(store, entry.uri).data == b'1'
    assert uri == f'hf://datasets/{NAME}@refs%2Fconvert%2Fparquet/data'


def test_the_token_goes_to_the_hub_alone(server, store, place):
    uri = place.put('a.jpg', LARGE)
    assert [entry.uri for entry in store.list(place.uri().rstrip('/'))] == [uri]
    assert fetch(store, uri).data == LARGE
    assert asked(server, '/lfs/') == [(f'/lfs/{hash_of(LARGE)}', False)]
    assert [x for x in asked(server) if not x[1] and not x[0].startswith('/lfs/')] == []


def test_parts_of_a_large_file_ask_for_its_link_once(server, store, place):
    uri = place.put('a.tar', LARGE)
    version = store.stat(uri).version
    for start in range(0, 5000, 500):
        assert fetch(store, uri, part=Part(start, 500, version)).data == LARGE[start : start + 500]
    assert len(asked(server, '/lfs/')) == 10
    assert len(asked(server, f'/datasets/{NAME}/resolve/')) == 1
    with store.open(uri) as stream:
        assert stream.read() == LARGE
    with pytest.raises(NotModified):
        fetch(store, uri, unless=version)


def test_a_link_that_is_over_is_asked_for_again(server, store, place):
    uri = place.put('a.tar', LARGE)
    assert fetch(store, uri).data == LARGE
    path = f'/lfs/{hash_of(LARGE)}'
    good = server._answers[path][0]
    server.put(path, status(403), good)
    assert fetch(store, uri).retries == 1
    assert len(asked(server, f'/datasets/{NAME}/resolve/')) == 2


@pytest.mark.parametrize('data', [b'small', LARGE])
def test_wrong_bytes_are_found_by_the_hash(server, store, place, data):
    uri = place.put('a.jpg', data)
    path = f'/lfs/{hash_of(data)}'
    if data is not LARGE:
        path = f'/datasets/{NAME}/resolve/{place.dataset.commit}/a.jpg'
        etag = f'"{hash_of(data)}"'

        def wrong(handler):
            handler.send_response(200)
            handler.send_header('ETag', etag)
            handler.send_header('Content-Length', str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[::-1])

        server.put(path, wrong)
    else:
        server.put(path, body(data[::-1]))
    with pytest.raises(ImageError, match=r'checksum: the hash is .*, the hub says'):
        fetch(store, uri, limits=LIMITS._replace(deadline_sec=0.2))


def refusing(code, number):
    def answer(handler):
        handler.send_response(number)
        handler.send_header('X-Error-Code', code)
        handler.send_header('X-Error-Message', TOKEN)
        handler.send_header('Content-Length', '0')
        handler.end_headers()

    return answer


@pytest.mark.parametrize(
    ('code', 'number', 'told'),
    [
        ('RepoNotFound', 401, 'no such dataset on the hub, or a private one: set HF_TOKEN'),
        ('GatedRepo', 403, 'a gated dataset: accept its terms'),
        ('RevisionNotFound', 404, 'no such revision'),
    ],
)
def test_what_is_wrong_with_a_dataset_is_said(server, store, place, code, number, told):
    uri = place.put('a.jpg', b'1')
    assert fetch(store, uri).data == b'1'
    answer = refusing(code, number)
    server.put(f'/datasets/{NAME}/resolve/{place.dataset.commit}/a.jpg', answer)
    with pytest.raises(StoreError, match=told) as caught:
        fetch(store, uri)
    assert TOKEN not in str(caught.value)
    server.put(f'/api/datasets/{NAME}/revision/main', answer)
    for call in (lambda: list(store.list(place.uri())), lambda: store.stat(uri)):
        with pytest.raises(UsageError, match=told) as caught:
            call()
        assert TOKEN not in str(caught.value)


def test_faults_that_pass_are_retried(server, store, place):
    uri = place.put('a.jpg', LARGE)
    path = f'/datasets/{NAME}/resolve/{place.dataset.commit}/a.jpg'
    good = server._answers[path][0]
    server.put(path, status(503), status(429), good)
    assert fetch(store, uri).retries == 2
    told = server._answers[f'/api/datasets/{NAME}/revision/main'][0]
    server.put(f'/api/datasets/{NAME}/revision/main', status(500), told)
    assert fetch(make_store(), uri).data == LARGE


def test_a_hub_that_is_not_there_is_said(server, store, place):
    server.close()
    with pytest.raises(StoreError, match='the hub cannot be reached'):
        list(store.list(place.uri()))


def test_nothing_is_written(store, place):
    uri = place.put('a.jpg', b'1')
    for call in (
        lambda: store.write(uri, b'2'),
        lambda: store.create(uri, b'2'),
        lambda: store.delete(uri),
        lambda: store.place(uri, uri),
    ):
        with pytest.raises(UsageError, match='hf:// is read only'):
            call()


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'huggingface_hub', None)
    with pytest.raises(UsageError, match=r"pip install 'lemmabeam\[hf\]'"):
        HfStore()


@pytest.mark.parametrize('uri', ['hf://owner/name', 'hf://datasets/name', 'hf://datasets/o/n@'])
def test_what_is_no_dataset_is_said(uri):
    with pytest.raises(UsageError, match='expected hf://datasets/owner/name'):
        uris.absolute(uri)
