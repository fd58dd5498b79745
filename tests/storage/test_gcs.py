"""Google Cloud Storage: against an emulator, and against a server that misbehaves.

Not checked here: real credentials, TLS, and what only the real service does.
"""

import contextlib
import gzip
import time
import zlib

import pytest

from tests.contracts.stores import ObjectStoreContract
from tests.support.misbehaving_server import (
    BODY,
    Server,
    chunked,
    drip,
    drip_headers,
    good,
    hang_up,
    odd_length,
    reset,
    reset_within,
    rubbish,
    stall,
    stall_within,
    status,
    stored,
    truncated,
    truncated_chunks,
    until_close,
    wrong_bytes,
)
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.storage import gcs
from transforms.storage.base import FetchLimits
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import store_for

LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
SHORT = FetchLimits(max_bytes=10_000, deadline_sec=0.5)


# --- against the emulator


@pytest.fixture
def store(emulator):
    return store_for('gs://')


def fetch(store, uri, limits=LIMITS):
    return store.fetch(uri, limits, lambda size_bytes: None)


class TestLikeEveryStore(ObjectStoreContract):
    ODD_NAMES = (*ObjectStoreContract.ODD_NAMES, 'new\nline.jpg')

    @pytest.fixture
    def place(self, bucket):
        return bucket

    @pytest.fixture
    def address(self, emulator):
        return emulator

    def store_at(self, address, monkeypatch):
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', address)
        return gcs.GcsStore()

    def put_folder(self, place, name, data):
        blob = store_for('gs://')._client.bucket(place.name).blob(name)
        blob.upload_from_string(data, content_type='application/x-directory; charset=UTF-8')


def test_a_listing_of_several_pages_is_whole(emulator, bucket):
    names = [f'many/{i:04}.jpg' for i in range(95)]
    for name in (*names, 'many2/x.jpg', 'many/x/y.jpg'):
        bucket.put(name, b'x')
    every = [bucket.uri(name) for name in names]
    with contextlib.closing(gcs.GcsStore(page_objects=10)) as store:
        assert [each.uri for each in store.list(bucket.uri('many'), 1)] == every
        found = list(store.list(bucket.uri('many')))
        assert [each.uri for each in found] == [*every, bucket.uri('many/x/y.jpg')]
        assert found[0] == store.stat(found[0].uri)


def test_the_version_is_the_generation(store, bucket):
    uri = bucket.put('a', b'1')
    before = fetch(store, uri).version
    bucket.put('a', b'2')
    after = fetch(store, uri)
    assert before.isdigit()
    assert after.version == store.stat(uri).version != before
    assert after.data == b'2'


def test_what_is_not_there_is_said(store, bucket):
    with pytest.raises(UsageError, match='no such bucket'):
        list(store.list('gs://b-absent'))
    with pytest.raises(UsageError, match='no such bucket'):
        store.write('gs://b-absent/a', b'x')


def test_objects_stored_as_gzip_are_unpacked(store, bucket):
    uri = bucket.put('a.jpg', gzip.compress(BODY), 'gzip')
    assert fetch(store, uri)[:2] == (BODY, store.stat(uri).version)


# --- against a server that misbehaves


@pytest.fixture
def serve(monkeypatch):
    """Starts a server with these answers; returns it and a store in front of it."""
    with contextlib.ExitStack() as stack:

        def start(*answers):
            server = Server(answers)
            stack.callback(server.close)
            monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
            store = gcs.GcsStore(tries=Tries(pause_sec=0.01, most_pause_sec=0.05))
            stack.callback(store.close)
            return server, store

        yield start


def reason_of(store, limits=SHORT):
    with pytest.raises(ImageError) as caught:
        fetch(store, 'gs://bucket/a.jpg', limits)
    return caught.value.reason.value


@pytest.mark.parametrize(
    'fault',
    [
        *(status(code) for code in (408, 429, 500, 502, 503, 504, 520)),
        *(reset, hang_up, reset_within, truncated, truncated_chunks, wrong_bytes, rubbish),
    ],
    ids=lambda fault: fault.__qualname__.partition('.')[0],
)
def test_passing_faults_are_retried(serve, fault):
    server, store = serve(fault, fault, good)
    assert fetch(store, 'gs://bucket/a.jpg') == (BODY, '7', len(BODY), 2)
    assert server.requests == 3


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        (status(503), 'store_error'),
        (status(429), 'store_error'),
        (reset, 'store_error'),
        (truncated, 'store_error'),
        (wrong_bytes, 'checksum'),
        (stall, 'deadline'),
        (stall_within, 'deadline'),
        (drip, 'deadline'),
        (drip_headers, 'deadline'),
    ],
)
def test_the_deadline_holds_whatever_the_server_does(serve, fault, reason):
    _, store = serve(fault)
    started = time.monotonic()
    with pytest.raises(ImageError, match=r', until 0\.5 s had passed$') as caught:
        fetch(store, 'gs://bucket/a.jpg', SHORT)
    assert caught.value.reason.value == reason
    assert caught.value.reason.retryable
    assert time.monotonic() - started < 4


def test_a_store_that_is_not_there_is_tried_until_the_deadline(serve):
    server, store = serve(good)
    server.close()
    assert reason_of(store) == 'store_error'


@pytest.mark.parametrize(
    ('code', 'reason'),
    [(403, 'forbidden'), (404, 'not_found'), (400, 'store_error'), (204, 'store_error')],
)
def test_lasting_answers_are_not_asked_again(serve, code, reason):
    server, store = serve(status(code))
    assert reason_of(store) == reason
    assert server.requests == 1


def test_redirects_are_not_followed(serve):
    server, store = serve(status(302, Location='/secret'), good)
    assert reason_of(store) == 'store_error'
    assert server.requests == 1


def test_refused_credentials_are_no_images_fault(serve):
    server, store = serve(status(401))
    with pytest.raises(StoreError, match='credentials were refused'):
        fetch(store, 'gs://bucket/a.jpg')
    assert server.requests == 1


class Tokens:
    """Credentials whose first token has been revoked."""

    token = 'revoked'

    def before_request(self, request, method, url, headers):
        headers['Authorization'] = f'Bearer {self.token}'

    def refresh(self, request):
        self.token = 'fresh'


def test_a_token_that_was_revoked_is_refreshed_once(serve):
    def only_fresh(handler, stopping):
        is_fresh = handler.headers['Authorization'] == 'Bearer fresh'
        (good if is_fresh else status(401))(handler, stopping)

    server, store = serve(only_fresh)
    store._credentials = Tokens()
    for _ in range(2):
        assert fetch(store, 'gs://bucket/a.jpg') == (BODY, '7', len(BODY), 0)
    assert server.requests == 3
    assert server.connections == 1

    server, store = serve(status(401))
    store._credentials = Tokens()
    with pytest.raises(StoreError, match='credentials were refused'):
        fetch(store, 'gs://bucket/a.jpg')
    assert server.requests == 2


def test_details_never_hold_what_a_server_says(serve):
    secret = b'Bearer s3cr3t at 0x7f00'
    text = secret.decode()
    faults = [
        *(status(code, secret, Location=f'/{text}', X=text) for code in (302, 400, 403, 404, 503)),
        *(rubbish, reset, truncated, wrong_bytes, stall),
    ]
    for fault in faults:
        _, store = serve(fault)
        with pytest.raises(ImageError) as caught:
            fetch(store, 'gs://bucket/a.jpg', FetchLimits(10_000, 0.1))
        detail = caught.value.detail
        assert not any(word in detail for word in ('s3cr3t', '0x', '127.0.0.1', 'object at'))
        assert len(detail) < 100


def test_one_connection_serves_many_objects(serve):
    server, store = serve(good)
    for _ in range(20):
        fetch(store, 'gs://bucket/a.jpg')
    assert server.requests == 20
    assert server.connections == 1


@pytest.mark.parametrize('answer', [chunked, until_close, odd_length])
def test_a_body_of_unknown_size_is_taken_for_the_largest(serve, answer):
    _, store = serve(answer)
    asked = []
    assert store.fetch('gs://bucket/a.jpg', LIMITS, asked.append).data == BODY
    assert asked == [10_000]


@pytest.mark.parametrize('answer', [chunked, until_close])
def test_a_body_of_unknown_size_is_cut_off_at_the_limit(serve, answer):
    _, store = serve(answer)
    assert reason_of(store, FetchLimits(4999, 5.0)) == 'too_many_bytes'


def test_every_try_asks_for_room_anew(serve):
    _, store = serve(truncated, wrong_bytes, good)
    asked = []
    store.fetch('gs://bucket/a.jpg', LIMITS, asked.append)
    assert asked == [5000, 0, 5000, 0, 5000]


PACKED = gzip.compress(BODY)


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (gzip.compress(bytes(10_001), mtime=0), 'too_many_bytes'),
        (gzip.compress(bytes(10**7), mtime=0), 'too_many_bytes'),
        (PACKED[:-9], 'truncated'),
        (PACKED[:-4] + b'\0\0\0\0', 'decode_error'),
    ],
)
def test_bad_gzip_has_a_reason(serve, data, reason):
    limits = FetchLimits(max(10_000, len(data)) if reason != 'too_many_bytes' else 10_000, 5.0)
    server, store = serve(stored(data, Content_Encoding='gzip'))
    with pytest.raises(ImageError) as caught:
        fetch(store, 'gs://bucket/a.jpg', limits)
    assert caught.value.reason.value == reason
    assert server.requests == 1


def test_room_for_a_packed_object_is_asked_for_unpacked(serve):
    _, store = serve(stored(PACKED, Content_Encoding='gzip'))
    asked = []
    assert store.fetch('gs://bucket/a.jpg', LIMITS, asked.append).data == BODY
    assert asked == [len(PACKED), LIMITS.max_bytes]


@pytest.mark.parametrize(
    ('name', 'data', 'found'),
    [
        *((name, BODY, BODY) for name in ('aws-chunked', 'UTF-8', 'none', 'binary', 'image/jpeg')),
        ('aws-chunked,gzip', PACKED, BODY),
        ('gzip', BODY, BODY),
        ('gzip', zlib.compress(BODY), zlib.compress(BODY)),
        ('gzip', b'', b''),
        ('deflate', zlib.compress(BODY), BODY),
        ('deflate', zlib.compress(BODY, wbits=-15), BODY),
        ('deflate', BODY, BODY),
    ],
)
def test_what_is_said_of_a_coding_is_believed_if_it_is_so(serve, name, data, found):
    _, store = serve(stored(data, Content_Encoding=name))
    fetched = fetch(store, 'gs://bucket/a.jpg', LIMITS)
    assert (fetched.data, fetched.size_bytes) == (found, len(data))


def test_a_coding_that_is_not_read_is_named(serve):
    server, store = serve(stored(PACKED, Content_Encoding='br'))
    with pytest.raises(ImageError, match=r'unsupported_format: .* Content-Encoding br, which'):
        fetch(store, 'gs://bucket/a.jpg', LIMITS)
    assert server.requests == 1


def test_a_bucket_that_vanishes_in_the_middle_stops_the_run(serve):
    gone = status(404, b'The specified bucket does not exist.')
    _, store = serve(gone, good, gone)
    with pytest.raises(ImageError, match='not_found: HTTP 404'):
        fetch(store, 'gs://bucket/a.jpg')  # a misspelt line of a manifest
    fetch(store, 'gs://bucket/b.jpg')
    with pytest.raises(StoreError, match='gs://bucket: this bucket was deleted during the run'):
        fetch(store, 'gs://bucket/c.jpg')


def test_an_object_without_checksum_is_taken(serve):
    def plain(handler, stopping):
        handler.send_response(200)
        handler.send_header('Content-Length', '3')
        handler.end_headers()
        handler.wfile.write(b'abc')

    _, store = serve(plain)
    assert fetch(store, 'gs://bucket/a.jpg') == (b'abc', '', 3, 0)


def test_a_glob_lists_only_what_its_literal_part_allows(bucket):
    for name in ('photos/2026-01/a.jpg', 'photos/2026-02/b.jpg', 'photos/2025-12/c.jpg', 'x.jpg'):
        bucket.put(name, b'x')
    found = store_for(bucket.uri()).list(bucket.uri('photos'), starts_with='2026-')
    assert {entry.uri for entry in found} == {
        bucket.uri('photos/2026-01/a.jpg'),
        bucket.uri('photos/2026-02/b.jpg'),
    }


def test_the_listing_tells_which_objects_have_the_same_bytes(bucket, store):
    packed = gzip.compress(b'x')
    for name, data in {'in/a': b'x', 'in/b': b'x', 'in/c': b'y', 'in/d': packed}.items():
        bucket.put(name, data)
    bucket.put('in/e', packed, 'gzip')  # which is another picture once it is unpacked
    a, b, c, d, e = (entry.checksum for entry in store.list(bucket.uri('in')))
    assert a == b != ''
    assert len({a, c, d, e}) == 4
    assert store.stat(bucket.uri('in/a')).checksum == a
