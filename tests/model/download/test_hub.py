"""Models from everywhere into the cache: against a hub, a bucket and archives that misbehave.

That any of several services will do is in test_services.

Not checked here: TLS, the real hubs, and file systems without locks.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tests.support import hub_server
from tests.support.hub_server import body, module, redirect, status
from transforms.core.errors import LemmabeamError, ModelError, UsageError
from transforms.model import zips
from transforms.model.download import archive, fetch, http
from transforms.model.download import cache as cache_module
from transforms.model.download.cache import default_cache
from transforms.model.download.fetch import fetch_model, sha256_of
from transforms.model.download.http import Pace, download
from transforms.model.registry import find_model
from transforms.model.resolve import resolve_model

FILES = {
    'saved_model.pb': b'\x08\x01graph',
    'variables/variables.index': b'index',
    'variables/variables.data-00000-of-00001': random.Random(0).randbytes(200_000),
    'assets/labels.txt': 'Säge\n'.encode(),
    'model_card.json': b'{}',
}
HANDLE = '/google/bit/m-r50x1/1'
OTHER = 'google/efficientnet-v2/tensorFlow2/imagenet21k-b0-classification/1'
KAGGLE = 'google/bit/tensorFlow2/m-r50x1/1'
KAGGLE_PATH = f'/api/v1/models/{KAGGLE}/download'
PAGE_PATH = '/models/google/bit/frameworks/TensorFlow2/variations/m-r50x1/versions/1'
NEWER_PATH = '/api/v1/models.ModelApiService/DownloadModelInstanceVersion'


def member(name, kind=tarfile.REGTYPE, link='', pax=()):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.pax_headers = kind, link, dict(pax)
    return made


def make_tar(files=FILES, top='', packed=True, extra=()):
    """An archive of files and of `extra` members, given as TarInfo or (TarInfo, data)."""
    # tensorflow_hub makes no folders of its own accord.
    folders = sorted({name.rpartition('/')[0] for name in files} - {''})
    members = [(member(top + name, tarfile.DIRTYPE), b'') for name in folders]
    members += [(member(top + name), content) for name, content in files.items()]
    members += [each if isinstance(each, tuple) else (each, b'') for each in extra]
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w:gz' if packed else 'w') as archive:
        for made, content in members:
            made.size = len(content)
            archive.addfile(made, io.BytesIO(content))
    return data.getvalue()


MODULE = make_tar()
NO_ARCHIVE = 'a damaged archive, or not an archive (expected tar, plain or gzipped, or zip)'


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A user without proxies, credentials and settings; short waits."""
    for name in list(os.environ):
        if name.lower().endswith('_proxy') or name.startswith(('KAGGLE_', 'TFHUB_', 'XDG_')):
            monkeypatch.delenv(name)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(http, '_PAUSES_SEC', (0.01, 0.01))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


def write_files(folder, files=FILES):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def names_in(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def refusal(location, cache, kind=ModelError):
    """The message of a fetch that fails and leaves nothing."""
    with pytest.raises(kind) as caught:
        fetch_model(location, cache)
    assert names_in(cache) == []
    return str(caught.value)


def sha1(text):
    return hashlib.sha1(text.encode()).hexdigest()


# --- local


def test_a_local_folder_is_used_in_place(tmp_path, cache, monkeypatch):
    folder = write_files(tmp_path / 'model')
    assert fetch_model(str(folder), cache) == folder
    assert fetch_model(f'file://{folder}', cache) == folder
    monkeypatch.chdir(tmp_path)
    assert fetch_model('model', cache) == folder
    assert not cache.exists()


def test_what_exists_wins_over_its_reading_as_a_handle(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for handle in ('google/bit/m-r50x1/1', KAGGLE):
        write_files(tmp_path / handle)
        assert fetch_model(handle, cache) == tmp_path / handle


def test_a_local_path_that_is_no_model(tmp_path, cache):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('x')
    os.mkfifo(tmp_path / 'pipe.tar')
    assert 'empty: no saved_model.pb or model.onnx in this folder' in refusal(
        str(tmp_path / 'empty'), cache, UsageError
    )
    for name in ('notes.txt', 'absent', 'absent/1', 'absent.tar.gz'):
        message = refusal(str(tmp_path / name), cache, UsageError)
        assert str(tmp_path / name) in message
        assert 'expected a folder with saved_model.pb' in message
    assert 'pipe.tar' in refusal(str(tmp_path / 'pipe.tar'), cache, UsageError)


@pytest.mark.parametrize('location', ['', 's3://bucket/model', 'no model', '../x/1', 'gs://'])
def test_what_is_no_location(location, cache):
    refusal(location, cache, UsageError)


@pytest.mark.parametrize('suffix', ['.tar.gz', '.tgz', '.tar'])
@pytest.mark.parametrize('top', ['', './', 'model/'])
def test_a_local_archive_is_unpacked_once(tmp_path, cache, suffix, top):
    archive = tmp_path / f'model{suffix}'
    archive.write_bytes(make_tar(top=top, packed=suffix != '.tar'))
    folder = fetch_model(str(archive), cache)
    assert folder.parent == cache
    assert files_in(folder) == FILES
    assert names_in(cache) == [folder.name, f'{folder.name}.descriptor.txt']
    before = folder.stat()
    assert fetch_model(str(archive), cache) == folder
    assert folder.stat() == before
    os.utime(archive, ns=(1, 1))
    assert fetch_model(str(archive), cache) != folder


def test_files_get_ordinary_permissions(tmp_path, cache):
    odd = member('variables/odd')
    odd.mode, odd.uid = 0o6777, 12345
    archive = tmp_path / 'model.tar'
    archive.write_bytes(make_tar(packed=False, extra=[(odd, b'x')]))
    before = os.umask(0o022)
    try:
        folder = fetch_model(str(archive), cache)
    finally:
        os.umask(before)
    info = (folder / 'variables/odd').stat()
    assert (info.st_mode & 0o7777, info.st_uid) == (0o644, os.getuid())
    assert folder.stat().st_mode & 0o7777 == 0o755


# --- TF-Hub


def test_a_module_is_asked_for_once(server, cache):
    url = server.put(HANDLE, module(MODULE))
    calls = []
    folder = fetch_model(url, cache, lambda done, total: calls.append((done, total)))
    assert folder == cache / sha1(url)
    assert files_in(folder) == FILES
    assert calls[-1] == (len(MODULE), len(MODULE))
    assert sorted(calls) == calls
    assert names_in(cache) == [folder.name, f'{folder.name}.descriptor.txt']
    assert f'Module: {url}\n' in (cache / f'{folder.name}.descriptor.txt').read_text()
    assert server.requests[0].headers['Accept-Encoding'] == 'identity'
    assert fetch_model(url, str(cache)) == folder
    assert len(server.requests) == 1


def test_the_query_of_a_url_is_kept(server, cache):
    url = server.put('/module', module(MODULE)) + '?a=1&b=%2F#part'
    assert fetch_model(url, cache) == cache / sha1(url)
    assert server.requests[0].query == {'a': ['1'], 'b': ['/'], 'tf-hub-format': ['compressed']}


@pytest.mark.parametrize('path', ['/a.tar.gz', '/a.tgz', '/a.tar'])
def test_archives_are_asked_for_as_they_are(server, cache, path):
    url = server.put(path, body(make_tar(top='m/', packed=path != '/a.tar')))
    assert files_in(fetch_model(url, cache)) == FILES
    assert server.requests[0].query == {}


def test_short_handles_are_those_of_tfhub_dev(server, cache, monkeypatch):
    server.put(HANDLE, module(MODULE))
    monkeypatch.setenv('TFHUB_ENDPOINT', f'{server.url}/')
    for handle in (HANDLE[1:], HANDLE[1:-2], f'https://tfhub.dev{HANDLE[:-2]}/'):
        folder = fetch_model(handle, cache)
        assert folder == cache / sha1(f'https://tfhub.dev{HANDLE}')
    assert len(server.requests) == 1
    seeded = write_files(cache / sha1('https://tfhub.dev/google/bit/m-r101x3/1'))
    assert fetch_model('google/bit/m-r101x3/1', cache) == seeded
    assert fetch_model('https://tfhub.dev/google/bit/m-r101x3/1', cache) == seeded


def test_redirects_are_followed_but_not_for_ever(server, cache):
    server.put('/there', module(MODULE))
    url = server.put('/here', redirect(f'{server.other_name}/there?tf-hub-format=compressed'))
    assert files_in(fetch_model(url, cache)) == FILES
    shutil.rmtree(cache)
    loop = server.put('/loop', redirect('/loop'))
    before = len(server.requests)
    assert refusal(loop, cache) == f'{loop}: more than 10 redirects'
    assert len(server.requests) == before + 11


def test_a_body_of_unknown_length_is_taken(server, cache):
    url = server.put('/a.tgz', hub_server.chunked(MODULE))
    calls = []
    fetch_model(url, cache, lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(MODULE), None)


# --- Kaggle


@pytest.mark.parametrize(
    'location',
    [
        KAGGLE,
        KAGGLE.lower(),
        f'https://www.kaggle.com/models/{KAGGLE}',
        f'https://kaggle.com/models/{KAGGLE}/?x=1',
        'https://www.kaggle.com/models/google/bit/frameworks/TensorFlow2/variations/m-r50x1'
        '/versions/1?tfhub-redirect=true',
        'https://www.kaggle.com/models/google/bit/frameworks/tensorFlow2/variations/m-r50x1',
        'https://www.kaggle.com/models/google/bit/tensorFlow2/m-r50x1/1#files',
        'https://www.kaggle.com/models/google/bit/tensorFlow2/m-r50x1',
        f'https://www.kaggle.com/api/v1/models/{KAGGLE}/download',
        KAGGLE[:-2],
    ],
)
def test_a_kaggle_model_has_many_names_and_one_place(server, cache, monkeypatch, location):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    server.put(KAGGLE_PATH, body(MODULE))
    folder = fetch_model(location, cache)
    assert files_in(folder) == FILES
    assert 'Authorization' not in server.requests[0].headers
    assert fetch_model(KAGGLE, cache) == folder
    assert [request.path for request in server.requests] == [KAGGLE_PATH]


def basic(user, key):
    return 'Basic ' + base64.b64encode(f'{user}:{key}'.encode()).decode()


@pytest.mark.parametrize('source', ['environment', 'home', 'folder'])
def test_credentials_go_to_kaggle_alone(server, cache, monkeypatch, tmp_path, source):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', f'{server.url}/')
    folder = tmp_path / ('home/.kaggle' if source == 'home' else 'config')
    if source == 'environment':
        monkeypatch.setenv('KAGGLE_USERNAME', 'ann')
        monkeypatch.setenv('KAGGLE_KEY', 's3cr3t')
    else:
        folder.mkdir(parents=True)
        (folder / 'kaggle.json').write_text(json.dumps({'username': 'ann', 'key': 's3cr3t'}))
    if source == 'folder':
        monkeypatch.setenv('KAGGLE_CONFIG_DIR', str(folder))
    server.put(KAGGLE_PATH, redirect(f'{server.other_name}/storage'))
    server.put('/storage', body(MODULE))
    assert files_in(fetch_model(KAGGLE, cache)) == FILES
    first, second = server.requests
    assert first.headers['Authorization'] == basic('ann', 's3cr3t')
    assert second.headers['Host'].startswith('localhost:')
    assert 'Authorization' not in second.headers


@pytest.mark.parametrize('place', ['value', 'file', 'home'])
def test_a_token_goes_before_user_and_key_and_to_kaggle_alone(
    server, cache, monkeypatch, tmp_path, place
):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    monkeypatch.setenv('KAGGLE_USERNAME', 'ann')
    monkeypatch.setenv('KAGGLE_KEY', 'wrong')
    path = tmp_path / ('home/.kaggle/access_token' if place == 'home' else 'my token')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('KGAT_s3cr3t\n')
    # Neither of what a netrc file has for the host.
    (tmp_path / 'home').mkdir(exist_ok=True)
    (tmp_path / 'home/.netrc').write_text('machine 127.0.0.1 login ann password wrong\n')
    if place != 'home':
        value = 'KGAT_s3cr3t' if place == 'value' else str(path)
        monkeypatch.setenv('KAGGLE_API_TOKEN', value)
    server.put(KAGGLE_PATH, redirect(f'{server.other_name}/storage'))
    server.put('/storage', body(MODULE))
    assert files_in(fetch_model(KAGGLE, cache)) == FILES
    first, second = server.requests
    assert first.headers['Authorization'] == 'Bearer KGAT_s3cr3t'
    assert second.headers['Host'].startswith('localhost:')
    assert 'Authorization' not in second.headers


@pytest.mark.parametrize('value', ['s3cr3t\nX-Other: 1', 's3cr3t s3cr3t', '/nowhere/s3cr3t', 'ü'])
def test_a_token_that_is_none_is_not_told(server, cache, monkeypatch, value):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    monkeypatch.setenv('KAGGLE_API_TOKEN', value)
    message = refusal(KAGGLE, cache)
    assert message.startswith('KAGGLE_API_TOKEN: ')
    assert 's3cr3t' not in message
    assert server.requests == []


@pytest.mark.parametrize('code', [401, 403])
def test_a_refusal_of_kaggle_says_what_to_do(server, cache, monkeypatch, code):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    monkeypatch.setenv('KAGGLE_USERNAME', 'ann')
    monkeypatch.setenv('KAGGLE_KEY', 's3cr3t')
    server.put(KAGGLE_PATH, status(code))
    message = refusal(KAGGLE, cache)
    for part in (
        f'{KAGGLE_PATH}: HTTP {code}',
        f'{PAGE_PATH}: HTTP 404',
        f'{NEWER_PATH}: HTTP 404',
        'accept its terms and set KAGGLE_API_TOKEN',
        'its folder or archive',
    ):
        assert part in message
    assert 's3cr3t' not in message
    assert [request.path for request in server.requests] == [KAGGLE_PATH, PAGE_PATH, NEWER_PATH]
    # The page is for everybody.
    has_key = ['Authorization' in request.headers for request in server.requests]
    assert has_key == [True, False, True]


def test_broken_credentials_of_kaggle_are_named(server, cache, monkeypatch, tmp_path):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    monkeypatch.setenv('KAGGLE_CONFIG_DIR', str(tmp_path))
    for text in ('s3cr3t', '["s3cr3t"]', '{"username": "s3cr3t"}'):
        (tmp_path / 'kaggle.json').write_text(text)
        message = refusal(KAGGLE, cache)
        assert str(tmp_path / 'kaggle.json') in message
        assert 's3cr3t' not in message
    assert server.requests == []


@pytest.mark.parametrize(
    'location',
    [OTHER[:-2], f'https://www.kaggle.com/models/{OTHER[:-2]}'],
)
def test_other_kaggle_handles_need_their_version(cache, location):
    assert 'the version is missing' in refusal(location, cache, UsageError)


@pytest.mark.parametrize('rest', ['', 'google/bit', 'google/bit/keras/m-r50x1/1'])
def test_other_models_of_kaggle_are_refused(cache, rest):
    message = refusal(f'https://www.kaggle.com/models/{rest}', cache, UsageError)
    assert 'owner/model/tensorFlow2/variation/version' in message


def test_what_kaggles_own_library_has_fetched_is_used_if_it_is_whole(
    server, cache, monkeypatch, tmp_path
):
    monkeypatch.setenv('KAGGLE_API_ENDPOINT', server.url)
    server.put(KAGGLE_PATH, body(MODULE))
    theirs = tmp_path / 'home/.cache/kagglehub/models/google/bit/tensorFlow2/m-r50x1/1'
    write_files(theirs, {'saved_model.pb': b'half of it'})
    fetched = fetch_model(KAGGLE, cache)
    assert files_in(fetched) == FILES
    (theirs.parent / '1.complete').touch()
    assert fetch_model(KAGGLE, cache) == theirs
    moved = tmp_path / 'elsewhere'
    (tmp_path / 'home/.cache/kagglehub').rename(moved)
    assert fetch_model(KAGGLE, cache) == fetched
    monkeypatch.setenv('KAGGLEHUB_CACHE', str(moved))
    assert fetch_model(f'https://www.kaggle.com/models/{KAGGLE[:-2]}', cache).is_relative_to(moved)
    assert len(server.requests) == 1


# --- buckets


def test_a_folder_in_a_bucket_is_copied_until_it_changes(bucket, cache):
    for name, data in FILES.items():
        bucket.put(f'models/bit/{name}', data)
    bucket.put('models/bit2/saved_model.pb', b'x')
    calls = []
    folder = fetch_model(
        bucket.uri('models/bit/'), cache, lambda done, total: calls.append((done, total))
    )
    assert files_in(folder) == FILES
    size_bytes = sum(map(len, FILES.values()))
    assert calls[-1] == (size_bytes, size_bytes)
    assert names_in(cache) == [folder.name, f'{folder.name}.descriptor.txt']
    before = folder.stat()
    assert fetch_model(bucket.uri('models/bit'), cache) == folder
    assert folder.stat() == before
    bucket.put('models/bit/assets/labels.txt', b'other')
    changed = fetch_model(bucket.uri('models/bit'), cache)
    assert changed != folder
    assert files_in(changed) == FILES | {'assets/labels.txt': b'other'}


def test_an_onnx_model_in_a_bucket_comes_with_the_files_beside_it(bucket, cache):
    files = {'model.onnx': b'graph', 'model.onnx.data': b'weights', 'model_card.json': b'{}'}
    for name, data in files.items():
        bucket.put(f'models/mine/{name}', data)
    folder = fetch_model(bucket.uri('models/mine'), cache)
    assert files_in(folder) == files
    assert fetch_model(bucket.uri('models/mine/model.onnx'), cache) == folder


def test_an_unchanged_folder_in_a_bucket_costs_one_listing(bucket, cache, monkeypatch):
    uri = bucket.put('saved_model.pb', b'x').rpartition('/')[0]
    folder = fetch_model(uri, cache)
    store = fetch.store_for(uri)
    listings = []

    class OnlyLists:
        def list(self, folder):
            listings.append(folder)
            return store.list(folder)

    monkeypatch.setattr(fetch, 'store_for', lambda uri: OnlyLists())
    assert fetch_model(uri, cache) == folder
    assert listings == [uri]


def test_a_folder_that_changes_while_it_is_copied(bucket, cache):
    uri = bucket.put('m/saved_model.pb', b'x').rpartition('/')[0]
    with pytest.raises(ModelError, match='changed while it was copied'):
        fetch_model(uri, cache, lambda done, total: bucket.put('m/variables/new', b'y'))
    assert names_in(cache) == []


def test_an_archive_in_a_bucket_is_unpacked_until_it_changes(bucket, cache):
    uri = bucket.put('m.tar.gz', MODULE)
    folder = fetch_model(uri, cache)
    assert files_in(folder) == FILES
    assert fetch_model(uri, cache) == folder
    bucket.put('m.tar.gz', make_tar(FILES | {'assets/labels.txt': b'other'}))
    assert files_in(fetch_model(uri, cache))['assets/labels.txt'] == b'other'


def test_nothing_in_a_bucket(bucket, cache, monkeypatch):
    bucket.put('photos/a.jpg', b'x')
    bucket.put('photos/b.jpg', b'x')
    assert 'nothing is there' in refusal(bucket.uri('absent'), cache, UsageError)
    assert 'no such file' in refusal(bucket.uri('absent.tgz'), cache, UsageError)
    assert 'no saved_model.pb' in refusal(bucket.uri('photos'), cache, UsageError)
    assert 'no such bucket' in refusal('gs://b-absent/model', cache, UsageError)
    monkeypatch.setattr(fetch, 'MOST_FILES', 1)
    assert 'more than 1 objects' in refusal(bucket.uri('photos'), cache, UsageError)


def test_an_object_whose_name_leads_outside(bucket, cache):
    bucket.put('m/saved_model.pb', b'x')
    bucket.put('m/../../../../outside', b'x')
    assert "'../../../../outside' is outside" in refusal(bucket.uri('m'), cache)


# --- downloads that break off

WHOLE = random.Random(3).randbytes(300_000)


def asked_ranges(server):
    return [request.headers.get('Range') for request in server.requests]


def test_a_download_is_continued_where_it_broke_off(server, tmp_path):
    url = server.put('/x', hub_server.resumable(WHOLE, size_bytes=70_000))
    calls = []
    download(url, tmp_path / 'x', lambda done, total: calls.append((done, total)))
    # Five parts, though three failures in a row would be too many.
    assert asked_ranges(server) == [None, *(f'bytes={70_000 * i}-' for i in range(1, 5))]
    assert {request.headers.get('If-Range') for request in server.requests[1:]} == {'"1"'}
    assert files_in(tmp_path) == {'x': WHOLE}
    assert sorted(calls) == calls
    assert calls[-1] == (len(WHOLE), len(WHOLE))


def test_a_connection_that_dies_costs_the_rest_alone(server, tmp_path):
    pace = Pace(silence_sec=0.3)
    stalls = hub_server.resumable(WHOLE, size_bytes=70_000, then_sec=20)
    url = server.put('/x', stalls, hub_server.resumable(WHOLE))
    download(url, tmp_path / 'x', pace=pace)
    assert asked_ranges(server) == [None, 'bytes=70000-']
    assert files_in(tmp_path) == {'x': WHOLE}
    url = server.put('/y', stalls)
    pace = pace._replace(window_bytes=10**9)  # what it sends is not enough to go on
    with pytest.raises(ModelError, match=r'stalled after \d+ of 300000 bytes: .* 0.3 s, 3 times'):
        download(url, tmp_path / 'y', pace=pace)


def test_one_that_gets_nowhere_is_given_up(server, tmp_path):
    url = server.put('/x', hub_server.resumable(WHOLE, size_bytes=1000))
    with pytest.raises(
        ModelError, match=f'the connection was lost after 3000 of {len(WHOLE)} bytes, 3 times'
    ):
        download(url, tmp_path / 'x')
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize(
    'second',
    [
        hub_server.resumable(WHOLE, '"2"'),  # another file by now
        body(WHOLE),  # knows no ranges
        hub_server.rest_of(WHOLE, 70_001),
        hub_server.rest_of(WHOLE, 70_000, '"2"'),
        status(416),
    ],
)
def test_what_cannot_be_continued_is_begun_anew(server, tmp_path, second):
    first = hub_server.resumable(bytes(len(WHOLE)), size_bytes=70_000)
    url = server.put('/x', first, second, hub_server.resumable(WHOLE, '"2"'))
    download(url, tmp_path / 'x')
    assert files_in(tmp_path) == {'x': WHOLE}
    assert asked_ranges(server)[:2] == [None, 'bytes=70000-']
    assert set(asked_ranges(server)[2:]) <= {None}


@pytest.mark.parametrize('etag', ['', 'W/"1"', '1'])
def test_without_a_strong_etag_it_is_begun_anew(server, tmp_path, etag):
    first = hub_server.resumable(WHOLE, etag, size_bytes=70_000)
    url = server.put('/x', first, hub_server.resumable(WHOLE, etag))
    download(url, tmp_path / 'x')
    assert files_in(tmp_path) == {'x': WHOLE}
    assert asked_ranges(server) == [None, None]


def test_a_part_that_nobody_asked_for_is_no_file(server, tmp_path):
    url = server.put('/x', hub_server.rest_of(WHOLE, 70_000))
    with pytest.raises(ModelError, match='HTTP 206'):
        download(url, tmp_path / 'x')
    assert files_in(tmp_path) == {}


# --- servers that misbehave


def test_interim_answers_are_passed_over(server, cache):
    url = server.put('/m/1', hub_server.hinted(module(MODULE)))
    assert files_in(fetch_model(url, cache)) == FILES


@pytest.mark.parametrize(
    'fault',
    [
        status(429),
        status(500),
        status(503),
        hub_server.hang_up,
        hub_server.cut(MODULE, 1000),
    ],
)
def test_passing_faults_are_tried_again(server, cache, fault):
    url = server.put('/m/1', fault, fault, module(MODULE))
    assert files_in(fetch_model(url, cache)) == FILES
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ('fault', 'message', 'tries'),
    [
        (status(404), 'HTTP 404', 1),
        (status(403), 'HTTP 403', 1),
        (status(410), 'HTTP 410', 1),
        (status(204), 'HTTP 204', 1),
        (status(503), 'HTTP 503, 3 times', 3),
        (hub_server.hang_up, 'no connection, 3 times', 3),
        (
            hub_server.cut(MODULE, 1000),
            f'the connection was lost after 1000 of {len(MODULE)} bytes, 3 times',
            3,
        ),
        (hub_server.PAGE, 'a web page, not a model', 1),
        (body(b'\n <html>'), 'a web page, not a model', 1),
        (redirect('file:///etc/passwd'), 'not a valid URL, or it redirects to one that is not', 1),
        (body(b''), NO_ARCHIVE, 1),
        (body(b'PK\x03\x04 a zip'), NO_ARCHIVE, 1),
        (body(b'{"message": "no such model"}', 'application/json'), NO_ARCHIVE, 1),
    ],
)
def test_lasting_faults_are_named(server, cache, fault, message, tries):
    url = server.put('/m/1', fault)
    shown = f'{url}: {message}'
    assert refusal(url, cache) == shown
    assert len(server.requests) == tries


def test_a_server_that_is_not_there(server, cache):
    server.close()
    assert refusal(f'{server.url}/m/1', cache).endswith('/m/1: no connection, 3 times')


def stalling(url, folder, pace):
    """The message of a download that keeps no pace, and leaves nothing."""
    with pytest.raises(ModelError) as caught:
        download(url, folder / 'x', pace=pace)
    assert files_in(folder) == {}
    return str(caught.value)


def test_no_byte_for_long_is_a_stall(server, tmp_path):
    url = server.put('/m/1', hub_server.stall(MODULE, 1000))
    expected = f'stalled after 1000 of {len(MODULE)} bytes: none for 0.3 s'
    pace = Pace(silence_sec=0.3)
    assert stalling(url, tmp_path, pace) == f'{url}: {expected}'
    url = server.put('/m/2', hub_server.silence)
    assert stalling(url, tmp_path, pace) == f'{url}: stalled: no answer for 0.3 s'


def test_a_drip_is_a_stall(server, tmp_path):
    url = server.put('/m/1', hub_server.drip(MODULE, 0.02))
    started = time.monotonic()
    message = stalling(url, tmp_path, Pace(window_sec=0.3))
    assert 'stalled after ' in message
    assert f' of {len(MODULE)} bytes' in message
    assert message.endswith(' in the last 0.3 s')
    assert time.monotonic() - started < 3


def test_a_slow_server_that_keeps_the_pace_is_waited_for(server, tmp_path):
    url = server.put('/x', hub_server.drip(b'0123456789', 0.07))
    download(url, tmp_path / 'x', pace=Pace(window_sec=0.3, window_bytes=1))
    assert (tmp_path / 'x').read_bytes() == b'0123456789'


SECRET = 's3cr3t'


@pytest.mark.parametrize(
    'fault',
    [
        status(404, SECRET.encode()),
        status(503, SECRET.encode()),
        hub_server.cut(MODULE, 10),
        hub_server.PAGE,
        hub_server.hang_up,
        body(SECRET.encode()),
        redirect(f'http://127.0.0.1:1/{SECRET}?X-Goog-Signature={SECRET}'),
        redirect(f'gopher://{SECRET}'),
        redirect(f'http://[{SECRET}/'),
    ],
)
def test_messages_hold_no_secrets(server, cache, fault):
    url = server.put('/m/1', fault)
    url = url.replace('://', f'://ann:{SECRET}@') + f'?X-Amz-Signature={SECRET}&token={SECRET}'
    message = refusal(url, cache)
    assert message.startswith(f'{server.url}/m/1: ')
    assert SECRET not in message
    assert '0x' not in message


def test_a_descriptor_holds_no_secrets(server, cache):
    url = server.put('/m.tgz', body(MODULE)) + f'?token={SECRET}'
    fetch_model(url, cache)
    assert SECRET not in ''.join(path.read_text() for path in cache.glob('*.txt'))


# --- archives that nobody should unpack


def local_refusal(tmp_path, cache, data, suffix='.tar.gz'):
    path = tmp_path / f'model{suffix}'
    path.write_bytes(data)
    message = refusal(str(path), cache)
    prefix = f'{path}: '
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


@pytest.mark.parametrize(
    'bad',
    [
        member('link', tarfile.SYMTYPE, '/etc/passwd'),
        member('link', tarfile.SYMTYPE, 'saved_model.pb'),
        member('link', tarfile.LNKTYPE, 'saved_model.pb'),
        member('device', tarfile.CHRTYPE),
        member('device', tarfile.BLKTYPE),
        member('pipe', tarfile.FIFOTYPE),
        member('sparse', tarfile.GNUTYPE_SPARSE),
        member('sparse', pax={'GNU.sparse.map': '0,1', 'GNU.sparse.size': str(2**24)}),
        member('contiguous', tarfile.CONTTYPE),
    ],
    ids=lambda bad: f'{bad.name}-{bad.type.decode()}',
)
def test_only_plain_files_and_folders_are_unpacked(tmp_path, cache, bad):
    message = local_refusal(tmp_path, cache, make_tar(extra=[bad]))
    assert message.startswith(f"'{bad.name}' is not a regular file or folder")


@pytest.mark.parametrize('kind', [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize('name', ['/tmp/outside', '../outside', 'a/../../outside', 'a/..'])
def test_nothing_is_written_outside(tmp_path, cache, name, kind):
    before = sorted(tmp_path.rglob('*'))
    message = local_refusal(tmp_path, cache, make_tar(extra=[member(name, kind)]))
    assert message == f'{name!r} is outside its folder'
    assert sorted(tmp_path.rglob('*')) == sorted([*before, tmp_path / 'model.tar.gz', cache])


def make_zip(files=FILES, top='', extra=(), method=zipfile.ZIP_DEFLATED):
    """An archive of files and of `extra` members, given as (ZipInfo, data)."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', method) as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
        for made, content in extra:
            archive.writestr(made, content)
    return data.getvalue()


def zipped(name, kind=0, system=3):
    made = zipfile.ZipInfo(name)
    made.external_attr, made.create_system = kind << 16, system
    return made


@pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
@pytest.mark.parametrize('top', ['', 'model/'])
def test_zip_archives_are_unpacked_whatever_they_are_called(tmp_path, cache, suffix, top):
    path = tmp_path / f'model{suffix}'
    empty = (zipped(f'{top}assets/empty/', stat.S_IFDIR | 0o755), b'')
    path.write_bytes(make_zip(top=top, extra=[empty]))
    assert files_in(fetch_model(str(path), cache)) == FILES


@pytest.mark.parametrize(
    'bad',
    [
        zipped('link', stat.S_IFLNK | 0o777),
        zipped('device', stat.S_IFCHR),
        zipped('pipe', stat.S_IFIFO),
        zipped('of another system', system=7),
    ],
    ids=lambda bad: bad.filename,
)
def test_only_plain_files_and_folders_are_unpacked_from_zip(tmp_path, cache, bad):
    data = make_zip(extra=[(bad, b'/etc/passwd')])
    message = local_refusal(tmp_path, cache, data, '.zip')
    assert message.startswith(f"'{bad.filename}' is not a regular file or folder")


def test_a_tar_archive_that_begins_like_a_zip(tmp_path, cache):
    files = {'PKG-INFO': b'x', **FILES}
    path = tmp_path / 'model.tar'
    path.write_bytes(make_tar(files, packed=False)[tarfile.BLOCKSIZE * 2 :])  # without the folders
    assert path.read_bytes().startswith(b'PKG-INFO')
    assert files_in(fetch_model(str(path), cache)) == files


@pytest.mark.parametrize('name', ['/tmp/outside', '../outside', 'a/../../outside', '../folder/'])
def test_nothing_is_written_outside_by_zip(tmp_path, cache, name):
    before = sorted(tmp_path.rglob('*'))
    message = local_refusal(tmp_path, cache, make_zip(extra=[(zipped(name), b'')]), '.zip')
    assert message == f'{name!r} is outside its folder'
    assert sorted(tmp_path.rglob('*')) == sorted([*before, tmp_path / 'model.zip', cache])


def over(tmp_path, data, **limits):
    """What is said of an archive that is more than the limits allow."""
    with pytest.raises(ModelError) as caught:
        archive.unpack(io.BytesIO(data), tmp_path, 'model', limits=archive.Limits(**limits))
    shutil.rmtree(tmp_path / 'tree', ignore_errors=True)
    return str(caught.value).removeprefix('model: ')


def test_zip_bombs_are_not_unpacked(tmp_path):
    data = make_zip({'saved_model.pb': b'x', 'variables/a': bytes(10**7)})
    limit = max(100_000, 20 * len(data))
    assert over(tmp_path, data, unpacked_bytes=100_000) == f'unpacks to more than {limit} bytes'
    # One that says that it is small.
    at = data.rindex(b'PK\x01\x02') + 24
    lying = data[:at] + struct.pack('<I', 10) + data[at + 4 :]
    assert over(tmp_path, lying, unpacked_bytes=100_000)
    assert over(tmp_path, make_zip(), files=4) == 'more than 4 files'


def test_a_zip_archive_that_lists_millions_is_not_read():
    files = FILES | {f'variables/{i}': b'x' for i in range(20)}
    with pytest.raises(zipfile.BadZipFile, match='a list of members of'):
        zips.open_zip(io.BytesIO(make_zip(files)), list_bytes=1000)
    with zips.open_zip(io.BytesIO(make_zip()), list_bytes=1000) as few:
        assert set(few.namelist()) >= FILES.keys()


def test_zip_archives_that_are_damaged(tmp_path, cache):
    whole = make_zip({'saved_model.pb': b'x', 'variables/a': bytes(600)})
    for size_bytes in (2, 4, 30, 100, len(whole) // 2, len(whole) - 1):
        assert local_refusal(tmp_path, cache, whole[:size_bytes], '.zip').startswith('a damaged')
    plain = bytearray(make_zip({'saved_model.pb': b'x', 'b': b'yyyy'}, method=zipfile.ZIP_STORED))
    plain[plain.index(b'yyyy')] ^= 0xFF  # its checksum tells
    assert local_refusal(tmp_path, cache, bytes(plain), '.zip').startswith('a damaged')
    locked = bytearray(whole)
    for mark, at in ((b'PK\x01\x02', 8), (b'PK\x03\x04', 6)):
        locked[locked.index(mark) + at] |= 1
    assert local_refusal(tmp_path, cache, bytes(locked), '.zip') == 'is encrypted'
    nothing = make_zip({'a/b/saved_model.pb': b'x'})
    assert local_refusal(tmp_path, cache, nothing, '.zip').startswith(
        'no saved_model.pb or model.onnx in it'
    )
    with pytest.warns(UserWarning, match='Duplicate name'):
        twice = make_zip(extra=[(zipped('saved_model.pb'), b'')])
    (tmp_path / 'twice.zip').write_bytes(twice)
    assert 'cannot write' in refusal(str(tmp_path / 'twice.zip'), cache)


def test_rubbish_in_zip_is_no_traceback(tmp_path, cache):
    rng = random.Random(1)
    whole = make_zip({'saved_model.pb': b'x' * 50, 'variables/a': bytes(600)})
    (tmp_path / 'model.zip').write_bytes(whole)
    unpacked = set()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 10)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        (tmp_path / 'model.zip').write_bytes(bytes(data))
        with contextlib.suppress(ModelError):
            unpacked.add(fetch_model(str(tmp_path / 'model.zip'), cache))
    folders = {path.name for path in cache.iterdir() if path.is_dir()}
    assert {folder.relative_to(cache).parts[0] for folder in unpacked} == folders
    for folder in unpacked:  # what was hit means nothing there
        assert files_in(folder)['saved_model.pb'] == b'x' * 50
    assert {path.name for path in tmp_path.iterdir()} == {'cache', 'model.zip'}


def test_control_characters_of_names_are_not_printed(tmp_path, cache):
    bad = member('\x1b[2J\udcff', tarfile.FIFOTYPE)
    message = local_refusal(tmp_path, cache, make_tar(extra=[bad]))
    assert message.isprintable()


@pytest.mark.parametrize('packed', [True, False])
def test_a_cut_off_archive_is_noticed_wherever_it_ends(tmp_path, cache, packed):
    whole = make_tar({'saved_model.pb': b'x', 'variables/a': bytes(600)}, packed=packed)
    # A plain archive ends with its first block of zeros; what follows is padding.
    end = len(whole) if packed else 512 * 7
    suffix = '.tar.gz' if packed else '.tar'
    for size_bytes in {0, 1, 2, 100, 511, 512, 1024, 1536, 2000, end - 9, end - 1}:
        if size_bytes < end:
            assert local_refusal(tmp_path, cache, whole[:size_bytes], suffix).startswith('a damag')


@pytest.mark.parametrize('packed', [True, False])
def test_a_damaged_archive_is_noticed(tmp_path, cache, packed):
    whole = bytearray(make_tar({'saved_model.pb': b'x', 'b': b'y'}, packed=packed))
    whole[-6 if packed else 1024 + 3] ^= 0xFF  # the checksum; the second header
    suffix = '.tar.gz' if packed else '.tar'
    assert local_refusal(tmp_path, cache, bytes(whole), suffix).startswith('a damaged archive')


def test_rubbish_is_no_archive_and_no_traceback(tmp_path, cache):
    rng = random.Random(1)
    plain = make_tar(packed=False)
    for _ in range(200):
        data = bytearray(plain[:4096])
        for _ in range(rng.randrange(1, 40)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        local_refusal(tmp_path, cache, bytes(data), '.tar')


def test_an_archive_without_a_model(tmp_path, cache):
    files = {'a/b/saved_model.pb': b'x', 'variables/a': b'x'}
    two = {'a/saved_model.pb': b'x', 'b/saved_model.pb': b'x'}
    for data in (make_tar(files), make_tar(two), make_tar({})):
        assert local_refusal(tmp_path, cache, data).startswith(
            'no saved_model.pb or model.onnx in it'
        )


def test_a_file_given_twice_is_refused(tmp_path, cache):
    path = tmp_path / 'model.tar'
    path.write_bytes(make_tar(packed=False, extra=[member('saved_model.pb')]))
    assert 'cannot write' in refusal(str(path), cache)


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(http.os, 'fsync', lambda descriptor: written.append(os.fstat(descriptor)))
    zeros = {'saved_model.pb': b'x', 'variables/a': bytes(10**7)}
    expected = 'unpacks to more than'
    data = make_tar(zeros)
    limit = max(100_000, 20 * len(data))
    assert over(tmp_path, data, unpacked_bytes=100_000) == f'{expected} {limit} bytes'
    assert [info.st_size for info in written] == [1]  # the other file is never done
    # Behind the end of the archive.
    behind = gzip.compress(make_tar({'saved_model.pb': b'x'}, packed=False) + bytes(10**7))
    assert over(tmp_path, behind, unpacked_bytes=100_000).startswith(expected)
    fits = io.BytesIO(make_tar({'saved_model.pb': bytes(50_000)}))
    found = archive.unpack(fits, tmp_path, 'fits', limits=archive.Limits(unpacked_bytes=100_000))
    assert files_in(found) == {'saved_model.pb': bytes(50_000)}


def test_twenty_times_the_archive_may_be_unpacked(tmp_path):
    files = {'saved_model.pb': random.Random(2).randbytes(20_000) + bytes(200_000)}
    data = make_tar(files)
    assert 20 * len(data) > 230_000
    limits = archive.Limits(unpacked_bytes=0)
    assert files_in(archive.unpack(io.BytesIO(data), tmp_path, 'm', limits=limits)) == files


def test_headers_are_not_read_whole_whatever_they_say(tmp_path, cache):
    long = member('long', pax={'comment': 'x' * 2**21})
    assert local_refusal(tmp_path, cache, make_tar(extra=[long])).startswith('a damaged archive')
    long = member('long', pax={'comment': 'x' * 2**19})
    (tmp_path / 'fits.tgz').write_bytes(make_tar(extra=[long]))
    fetch_model(str(tmp_path / 'fits.tgz'), cache)


def test_too_many_files_are_not_unpacked(tmp_path):
    assert over(tmp_path, MODULE, files=4) == 'more than 4 files'


def test_the_disk_is_not_filled(tmp_path, cache, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000)
    monkeypatch.setattr(archive.shutil, 'disk_usage', lambda path: usage)
    message = local_refusal(tmp_path, cache, MODULE)
    assert message == 'unpacks to more than the 50000 bytes that are free on the disk'


@contextlib.contextmanager
def small_files(size_bytes):
    """The system writes no file beyond this size: a disk that is full, for those who write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named(server, bucket, tmp_path, cache):
    (tmp_path / 'm.tgz').write_bytes(MODULE)
    url = server.put('/m/1', module(MODULE))
    bucket.put('m/saved_model.pb', bytes(100_000))
    for location in (str(tmp_path / 'm.tgz'), url, bucket.uri('m')):
        with small_files(50_000):
            message = refusal(location, cache)
        assert message.startswith('cannot write ')
        assert message.endswith('File too large')


# --- once a machine


# Further processes have imported everything already.
CODE = r"""
import os, sys
from transforms.model.download.fetch import fetch_model
children = []
for _ in range(int(sys.argv[3]) - 1):
    child = os.fork()
    if not child:
        children = []
        break
    children.append(child)
os.write(1, f'{fetch_model(*sys.argv[1:3])}\n'.encode())
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def start(location, cache, processes=1):
    return subprocess.Popen(
        [sys.executable, '-c', CODE, location, str(cache), str(processes)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_four_processes_download_once(server, cache):
    url = server.put('/m/1', module(MODULE))
    with start(url, cache, processes=4) as process:
        printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert printed.splitlines() == [f'{cache / sha1(url)}'] * 4
    assert len(server.requests) == 1
    assert names_in(cache) == [sha1(url), f'{sha1(url)}.descriptor.txt']


def test_threads_download_once_and_a_failure_is_each_ones_own(server, cache):
    good = server.put('/good', module(MODULE))
    bad = server.put('/bad', status(404))
    results = []

    def run(url):
        try:
            results.append(fetch_model(url, cache))
        except LemmabeamError as e:
            results.append(str(e))

    threads = [threading.Thread(target=run, args=(url,)) for url in [good] * 6 + [bad] * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results.count(cache / sha1(good)) == 6
    assert results.count(f'{bad}: HTTP 404') == 6
    assert [request.path for request in server.requests].count('/good') == 1
    assert names_in(cache) == [sha1(good), f'{sha1(good)}.descriptor.txt']


def test_a_killed_process_leaves_nothing_in_the_way(server, cache):
    url = server.put('/m/1', hub_server.stall(MODULE, 50_000), module(MODULE))
    with start(url, cache) as process:
        assert server.sent.wait(120)
        waiting = threading.Thread(target=fetch_model, args=(url, cache))
        waiting.start()  # behind the lock
        waiting.join(0.2)
        assert waiting.is_alive()
        assert len(server.requests) == 1
        assert not (cache / sha1(url)).exists()
        process.kill()
        process.wait(60)
    waiting.join(20)
    assert not waiting.is_alive()
    assert len(server.requests) == 2
    assert files_in(fetch_model(url, cache)) == FILES
    assert names_in(cache) == [sha1(url), f'{sha1(url)}.descriptor.txt']


def test_a_lock_is_not_held_on_a_file_that_is_gone(tmp_path):
    path = tmp_path / 'x.lock'
    seen = []

    def wait():
        with cache_module._locked(path):
            seen.append(path.exists())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    with cache_module._locked(path):
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert seen == []
    for thread in threads:
        thread.join(10)
    assert seen == [True] * 3
    assert not path.exists()


def test_only_our_leftovers_are_removed(server, cache):
    url = server.put('/m/1', module(MODULE))
    cache.mkdir()
    key = sha1(url)
    write_files(cache / f'{key}.01234567.tmp')
    (cache / f'{key}.lock').write_text('of tensorflow_hub')
    others = [cache / f'{key}.{"0" * 32}.tmp', cache / f'{"0" * 40}.01234567.tmp']
    for other in others:
        write_files(other)
    (cache / key).mkdir()  # empty: no model, and nobody's
    assert files_in(fetch_model(url, cache)) == FILES
    assert names_in(cache) == sorted(
        [key, f'{key}.descriptor.txt', *(other.name for other in others)]
    )


def test_what_tensorflow_hub_puts_there_meanwhile_is_taken(server, cache):
    url = server.put('/m/1', module(MODULE))
    theirs = FILES | {'assets/labels.txt': b'theirs'}
    folder = fetch_model(url, cache, lambda *_: write_files(cache / sha1(url), theirs))
    assert files_in(folder) == theirs
    assert names_in(cache) == [folder.name, f'{folder.name}.descriptor.txt']


def test_a_folder_of_the_cache_without_a_model_is_named(server, cache):
    url = server.put('/m/1', module(MODULE))
    write_files(cache / sha1(url), {'x': b'x'})
    with pytest.raises(
        ModelError, match=f'{sha1(url)}: no saved_model.pb or model.onnx in it; delete'
    ):
        fetch_model(url, cache)
    assert names_in(cache) == [sha1(url)]
    assert server.requests == []


def test_a_cache_that_cannot_be_used_is_named(server, tmp_path):
    url = server.put('/m/1', module(MODULE))
    (tmp_path / 'file').write_text('x')
    for cache in (tmp_path / 'file', tmp_path / 'file/below', Path('/proc/nowhere')):
        with pytest.raises(UsageError, match=f'--model_cache {cache}: cannot be used: '):
            fetch_model(url, cache)
    assert server.requests == []


def test_the_default_cache(monkeypatch, tmp_path):
    home = tmp_path / 'home'
    assert default_cache() == home / '.cache/lemmabeam/models'
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
    assert default_cache() == home / '.cache/lemmabeam/models'
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    assert default_cache() == Path('/x/lemmabeam/models')
    monkeypatch.setenv('TFHUB_CACHE_DIR', '/hub')
    assert default_cache() == Path('/hub')


# --- plain downloads


def test_a_download_replaces_a_file_whole_or_not_at_all(server, tmp_path):
    path = tmp_path / 'x.npz'
    path.write_bytes(b'before')
    url = server.put('/x', hub_server.cut(b'0123456789', 5))
    with pytest.raises(ModelError, match='the connection was lost after 5 of 10 bytes, 3 times'):
        download(url, path)
    assert files_in(tmp_path) == {'x.npz': b'before'}
    server.put('/x', body(b'after'))
    download(url, path)
    assert files_in(tmp_path) == {'x.npz': b'after'}
    with pytest.raises(ModelError, match=r'cannot write .*absent/x: No such file'):
        download(url, tmp_path / 'absent/x')


# --- the hash


def test_the_hash_depends_on_what_is_loaded_and_on_nothing_else(tmp_path):
    first = write_files(tmp_path / 'a')
    expected = sha256_of(first)
    # Fixed for ever: people pin it.
    assert expected == '1c4d70ab354854f68f6947b157514c2f05afd925297e16a7572961a641f379d3'
    ignored = {'fingerprint.pb': b'1', 'model_card.json': b'2', 'assets.extra/x': b'3'}
    second = write_files(tmp_path / 'b', dict(reversed(FILES.items())) | ignored)
    (second / 'variables/empty').mkdir()
    os.utime(second / 'saved_model.pb', (1, 1))
    assert sha256_of(second) == expected
    different = [
        FILES | {'saved_model.pb': b'other'},
        FILES | {'variables/variables.index': b'other'},
        FILES | {'assets/labels.txt': b''},
        FILES | {'assets/more/labels.txt': b''},
        {name: data for name, data in FILES.items() if not name.startswith('assets')},
        {name.replace('labels', 'names'): data for name, data in FILES.items()},
        FILES
        | {
            'assets/labels.txt': FILES['variables/variables.index'],
            'variables/variables.index': FILES['assets/labels.txt'],
        },
    ]
    hashes = {
        sha256_of(write_files(tmp_path / f'c{i}', files)) for i, files in enumerate(different)
    }
    assert len(hashes | {expected}) == len(different) + 1


def test_the_hash_follows_links_as_loading_does(tmp_path):
    real = write_files(tmp_path / 'real')
    linked = tmp_path / 'linked'
    linked.mkdir()
    for name in ('saved_model.pb', 'variables'):
        (linked / name).symlink_to(real / name)
    (linked / 'assets').mkdir()
    (linked / 'assets/labels.txt').symlink_to(real / 'assets/labels.txt')
    assert sha256_of(linked) == sha256_of(real)
    write_files(real, {'assets/a/x': b'x', 'assets/b/x': b'x'})
    write_files(linked, {'assets/a/x': b'x'})
    (linked / 'assets/b').symlink_to('a')
    assert sha256_of(linked) == sha256_of(real)


def test_what_cannot_be_hashed(tmp_path):
    with pytest.raises(UsageError, match='cannot read'):
        sha256_of(tmp_path)
    folder = write_files(tmp_path / 'a')
    (folder / 'assets/x').symlink_to('/dev/zero')
    with pytest.raises(UsageError, match='a device'):
        sha256_of(folder)
    (folder / 'assets/x').unlink()
    Path(os.fsdecode(os.fsencode(folder) + b'/assets/\xff')).write_bytes(b'x')
    with pytest.raises(ModelError, match='not valid UTF-8'):
        sha256_of(folder)


def test_a_published_module_has_the_card_of_its_handle(server, tmp_path):
    path = '/google/bit/m-r50x1/ilsvrc2012_classification/1'
    files = {name: data for name, data in FILES.items() if name != 'model_card.json'}
    url = server.put(path, module(make_tar(files)))
    source = resolve_model(url, cache=str(tmp_path / 'cache'))
    assert source.card == find_model('bit-m-r50x1-ilsvrc2012').card
    assert source.id.startswith('bit-m-r50x1-ilsvrc2012-')
    assert (source.location, len(source.vocabulary)) == (url, 1000)
    assert resolve_model(url, cache=str(tmp_path / 'cache')) == source
    assert len(server.requests) == 1
