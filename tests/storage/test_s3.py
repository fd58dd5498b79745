"""S3: against moto's server, and against a server that misbehaves.

Not checked here: the whole pipeline (test_gcs); real credentials, TLS, archives and regions of the
real service.
"""

import base64
import contextlib
import gzip
import hashlib
import logging
import time
import urllib.parse
import zlib

import botocore.session
import google_crc32c
import pytest

from tests.conftest import AWS_ENVIRONMENT, AWS_SECRETS
from tests.contracts.stores import ObjectStoreContract
from tests.support import app, samples
from tests.support.misbehaving_server import (
    BODY,
    Server,
    good,
    reset,
    reset_within,
    rubbish,
    stall,
    status,
    truncated,
    wrong_bytes,
)
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.storage.base import Entry, FetchLimits, Seen
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import store_for
from transforms.storage.s3 import S3Store

LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
SHORT = FetchLimits(max_bytes=10_000, deadline_sec=0.5)


@pytest.fixture
def store(s3):
    return store_for('s3://')


def fetch(store, uri, limits=LIMITS):
    return store.fetch(uri, limits, lambda size_bytes: None)


def md5(data):
    return hashlib.md5(data).hexdigest()


# --- against a server


class TestLikeEveryStore(ObjectStoreContract):
    # XML cannot hold the characters of the last two.
    ODD_NAMES = (*ObjectStoreContract.ODD_NAMES, './z', 'control\x01.jpg', 'no-character\ufffe.jpg')

    @pytest.fixture
    def place(self, s3_bucket):
        return s3_bucket

    @pytest.fixture
    def address(self, s3):
        return s3

    def store_at(self, address, monkeypatch):
        return S3Store(address)

    def put_folder(self, place, name, data):
        kind = 'application/x-directory; charset=UTF-8'
        place.client.put_object(Bucket=place.name, Key=name, Body=data, ContentType=kind)

    def test_open_is_a_seekable_stream(self, address, place):
        store = S3Store(address, stream_bytes=30_000)  # several requests
        super().test_open_is_a_seekable_stream(store, place)


def test_a_listing_of_several_pages_is_whole(store, s3_bucket):
    names = {f'many/{i:04}+.jpg' for i in range(25)}
    for name in (*names, 'many2/x.jpg'):
        s3_bucket.put(name, b'x')
    pages = []

    def ask_for_ten(params, **_):
        pages.append(params)
        params['MaxKeys'] = 10

    event = 'provide-client-params.s3.ListObjectsV2'
    store._client.meta.events.register(event, ask_for_ten)
    try:
        found = [entry.uri for entry in store.list(s3_bucket.uri('many'))]
        assert len(pages) == 3
        assert len(list(store.list(s3_bucket.uri('many'), 1))) == 25
        assert len(pages) == 6
    finally:
        store._client.meta.events.unregister(event, ask_for_ten)
    assert len(found) == 25
    assert set(found) == {s3_bucket.uri(name) for name in names}


@pytest.mark.parametrize('is_payer', [False, True])
def test_who_asks_pays_if_they_say_so(s3_bucket, monkeypatch, is_payer):
    uri = s3_bucket.put('a.jpg', BODY)
    store = S3Store(is_payer=is_payer)
    paid = []

    def note(request, **_):
        paid.append(request.headers.get('x-amz-request-payer'))

    store._client.meta.events.register('before-send.s3', note)
    get = store._pool.request

    def note_get(method, url, headers, **options):
        paid.append(headers.get('x-amz-request-payer'))
        assert ('x-amz-request-payer' in url) == is_payer, 'it is signed'
        return get(method, url, headers=headers, **options)

    monkeypatch.setattr(store._pool, 'request', note_get)
    assert fetch(store, uri).data == BODY
    assert [entry.uri for entry in store.list(s3_bucket.uri())] == [uri]
    assert store.stat(uri).size_bytes == len(BODY)
    assert store.read(uri) == BODY
    assert store.create(s3_bucket.uri('b'), b'x')
    assert store.delete(s3_bucket.uri('b'))
    who = 'requester' if is_payer else None
    assert [each.decode() if isinstance(each, bytes) else each for each in paid] == [who] * 6


def test_the_version_is_the_etag(store, s3_bucket):
    uri = s3_bucket.put('a', b'1')
    assert fetch(store, uri).version == store.stat(uri).version == md5(b'1')
    s3_bucket.put('a', b'2')
    assert fetch(store, uri)[:2] == (b'2', md5(b'2'))


def test_what_is_not_there_is_said(store, s3_bucket):
    with pytest.raises(StoreError, match='s3://b-absent: no such bucket'):
        fetch(store, 's3://b-absent/a')
    for call in (
        lambda: list(store.list('s3://b-absent')),
        lambda: store.write('s3://b-absent/a', b'x'),
        lambda: store.read('s3://b-absent/a'),
    ):
        with pytest.raises(UsageError, match='no such bucket b-absent'):
            call()


def test_a_stream_never_mixes_two_versions(s3, s3_bucket):
    store = S3Store(s3, stream_bytes=10)
    with store.open(s3_bucket.put('a', bytes(100))) as stream:
        stream.read(10)
        s3_bucket.put('a', b'x' * 100)
        with pytest.raises(StoreError, match='changed while it was read'):
            stream.read(10)


def test_objects_stored_as_gzip_are_unpacked(store, s3_bucket):
    uri = s3_bucket.put('a.jpg', gzip.compress(BODY), ContentEncoding='gzip')
    assert fetch(store, uri)[:2] == (BODY, store.stat(uri).version)


def test_signed_urls_are_not_logged(store, s3_bucket, caplog):
    caplog.set_level(logging.DEBUG)
    fetch(store, s3_bucket.put('a', b'1'))
    assert 'X-Amz-Signature' not in caplog.text
    assert not any(secret in caplog.text for secret in AWS_SECRETS)


# --- against a server that misbehaves


@pytest.fixture(scope='module')
def loader():
    """What botocore knows about its services, read from its files once."""
    return botocore.session.Session().get_component('data_loader')


@pytest.fixture
def serve(monkeypatch, loader):
    """Starts a server with these answers; returns it and a store in front of it."""

    class Session(botocore.session.Session):
        def __init__(self):
            super().__init__()
            self.register_component('data_loader', loader)

    monkeypatch.setattr(botocore.session, 'Session', Session)
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as stack:

        def start(*answers, **options):
            server = Server(answers)
            stack.callback(server.close)
            tries = Tries(pause_sec=0.01, most_pause_sec=0.05)
            store = S3Store(server.url, tries=tries, **options)
            stack.callback(store.close)
            return server, store

        yield start


def refusal(code, name, more='', **headers):
    body = f'<?xml version="1.0"?><Error><Code>{name}</Code>{more}<Key>0x7f s3cr3t</Key></Error>'
    return status(code, body.encode(), Content_Type='application/xml', **headers)


def answer(data=BODY, etag='"x-2"', code=200, **headers):
    def send(handler, stopping):
        handler.send_response(code)
        handler.send_header('Content-Length', str(len(data)))
        handler.send_header('ETag', etag)
        for name, value in headers.items():
            handler.send_header(name.replace('_', '-'), value)
        handler.end_headers()
        handler.wfile.write(data)

    return send


@pytest.mark.parametrize(
    'fault',
    [
        *(status(code) for code in (408, 429, 500, 503)),
        *(refusal(503, 'SlowDown'), refusal(400, 'RequestTimeout')),
        *(reset, reset_within, truncated, wrong_bytes, rubbish),
    ],
    ids=lambda fault: fault.__qualname__.partition('.')[0],
)
def test_passing_faults_are_retried(serve, fault):
    server, store = serve(fault, fault, good)
    assert fetch(store, 's3://bucket/a.jpg') == (BODY, md5(BODY), len(BODY), 2)
    assert server.requests == 3


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        (refusal(404, 'NoSuchKey'), 'not_found: HTTP 404'),
        (refusal(403, 'AccessDenied'), 'forbidden: HTTP 403'),
        (refusal(403, 'InvalidObjectState'), 'forbidden: archived: restore it first'),
        (refusal(400, 'KeyTooLongError'), 'store_error: HTTP 400'),
        (status(404), 'not_found: HTTP 404'),
    ],
)
def test_lasting_answers_are_not_asked_again(serve, fault, reason):
    server, store = serve(fault)
    with pytest.raises(ImageError) as caught:
        fetch(store, 's3://bucket/a.jpg')
    assert str(caught.value) == reason
    assert caught.value.is_its_own == ('archived' in reason)
    assert server.requests == 1


@pytest.mark.parametrize(
    ('code', 'name', 'told'),
    [
        (400, 'ExpiredToken', 'have expired: log in again'),
        (400, 'TokenRefreshRequired', 'have expired: log in again'),
        (400, 'InvalidToken', 'does not know the AWS access key'),
        (403, 'InvalidAccessKeyId', 'does not know the AWS access key'),
        (403, 'SignatureDoesNotMatch', 'does not belong to the access key'),
        (403, 'RequestTimeTooSkewed', 'set its clock'),
        (404, 'NoSuchBucket', 'no such bucket'),
    ],
)
def test_faults_of_all_are_no_images_fault(serve, code, name, told):
    server, store = serve(refusal(code, name))
    with pytest.raises(StoreError, match=told) as caught:
        fetch(store, 's3://bucket/a.jpg')
    assert server.requests == 1
    with pytest.raises((StoreError, UsageError), match=told):
        list(store.list('s3://bucket/x'))
    assert 's3cr3t' not in str(caught.value)


def test_a_signature_out_of_its_time_is_the_clocks_fault(serve):
    _, store = serve(refusal(403, 'AccessDenied', '<ServerTime>2026</ServerTime>'))
    with pytest.raises(StoreError, match='set its clock'):
        fetch(store, 's3://bucket/a.jpg')


def test_the_region_of_a_bucket_is_asked_for_once(serve):
    wrong = refusal(400, 'AuthorizationHeaderMalformed', '<Region>eu-west-1</Region>')
    server, store = serve(wrong, answer(), answer())
    asked = []
    store._client.meta.events.register('before-call.s3.HeadBucket', lambda **_: asked.append(1))
    # The little server answers no HEAD: what matters is that it was asked, and the next try.
    assert fetch(store, 's3://bucket/a.jpg').data == BODY
    server.answers[:] = [refusal(301, 'PermanentRedirect')]
    with pytest.raises(StoreError, match='--s3_region_name'):
        fetch(store, 's3://bucket/a.jpg')
    assert asked == [1]


@pytest.mark.parametrize(
    'code', ['AccessDenied', 'SignatureDoesNotMatch', 'InvalidObjectState', 'InternalError']
)
def test_the_client_explains_itself(serve, code):
    number = 500 if code == 'InternalError' else 403
    _, store = serve(refusal(number, code), attempts=1)
    told = {
        'AccessDenied': 's3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject',
        'SignatureDoesNotMatch': 'secret access key',
        'InvalidObjectState': 'archived: restore it first',
        'InternalError': r'gave an unexpected answer \(HTTP 500\)',
    }[code]
    with pytest.raises(StoreError, match=told):
        store.read('s3://bucket/a')


@pytest.mark.parametrize('fault', [reset_within, truncated, rubbish, reset])
def test_streams_and_small_objects_survive_or_say_so_properly(serve, fault):
    _, store = serve(fault, good, attempts=2)
    if fault is not rubbish:
        assert store.read('s3://bucket/a') == BODY
    _, store = serve(fault, attempts=2)
    with pytest.raises(StoreError):
        store.read('s3://bucket/a')
    with pytest.raises(StoreError), store._stream(Entry('s3://bucket/a', 'x', 5000)) as reader:
        reader.read()


@pytest.mark.parametrize(
    'wrong',
    [
        {'x_amz_checksum_crc32c': base64.b64encode(bytes(4)).decode()},
        {'x_amz_checksum_crc32': base64.b64encode(bytes(4)).decode()},
        {'x_amz_checksum_sha256': base64.b64encode(bytes(32)).decode()},
        {'x_amz_checksum_sha1': base64.b64encode(bytes(20)).decode()},
        {'etag': f'"{"0" * 32}"'},
        {'etag': f'"{"0" * 32}"', 'x_amz_checksum_crc64nvme': 'AAAA'},
    ],
)
def test_wrong_checksums_are_found(serve, wrong):
    _, store = serve(answer(**wrong))
    with pytest.raises(ImageError, match=r'checksum: .* the store says otherwise, until'):
        fetch(store, 's3://bucket/a.jpg', SHORT._replace(deadline_sec=0.1))


CRC32C = base64.b64encode(google_crc32c.value(BODY).to_bytes(4, 'big')).decode()


@pytest.mark.parametrize(
    'right',
    [
        {'x_amz_checksum_crc32c': CRC32C, 'etag': f'"{"0" * 32}"'},
        {'x_amz_checksum_crc32': base64.b64encode(zlib.crc32(BODY).to_bytes(4, 'big')).decode()},
        {'x_amz_checksum_sha256': base64.b64encode(hashlib.sha256(BODY).digest()).decode()},
        {'x_amz_checksum_sha1': base64.b64encode(hashlib.sha1(BODY).digest()).decode()},
        {'x_amz_checksum_crc32c': 'AAAAAA==-2'},
        {'x_amz_checksum_crc32c': 'AAAAAA==', 'x_amz_checksum_type': 'COMPOSITE'},
        {'etag': f'"{"0" * 32}"', 'x_amz_server_side_encryption': 'aws:kms'},
        {
            'etag': f'"{"0" * 32}"',
            'x_amz_server_side_encryption_customer_algorithm': 'AES256',
        },
        {'etag': f'"{md5(BODY)}"', 'x_amz_server_side_encryption': 'AES256'},
    ],
)
def test_checksums_are_held_against_what_they_are_of(serve, right):
    server, store = serve(answer(**right))
    assert fetch(store, 's3://bucket/a.jpg').data == BODY
    assert server.requests == 1


def test_the_deadline_holds(serve):
    _, store = serve(stall)
    started = time.monotonic()
    with pytest.raises(ImageError, match=r'deadline: no answer, until 0\.5 s had passed$'):
        fetch(store, 's3://bucket/a.jpg', SHORT)
    assert time.monotonic() - started < 4


def test_details_never_hold_what_a_server_says_nor_secrets(serve):
    faults = [refusal(code, 'Other', Location='/s3cr3t') for code in (302, 400, 403, 404, 503)]
    for fault in (*faults, rubbish, reset, truncated, wrong_bytes, stall):
        _, store = serve(fault)
        with pytest.raises((ImageError, StoreError)) as caught:
            fetch(store, 's3://bucket/a.jpg', SHORT._replace(deadline_sec=0.1))
        told = str(caught.value)
        assert not any(word in told for word in (*AWS_SECRETS, 's3cr3t', '0x', '127.0.0.1'))


# --- creating, when others do so as well


class _Racing:
    """A client whose PutObject fails with these codes first."""

    def __init__(self, *codes):
        self._codes = list(codes)
        self.puts = 0

    def close(self):
        pass

    def put_object(self, **options):
        from botocore.exceptions import ClientError

        assert options['IfNoneMatch'] == '*'
        self.puts += 1
        if self._codes:
            code, number = self._codes.pop(0)
            meta = {'HTTPStatusCode': number}
            raise ClientError({'Error': {'Code': code}, 'ResponseMetadata': meta}, 'PutObject')


def test_a_conflict_of_two_creates_is_tried_again(serve, monkeypatch):
    _, store = serve(good, conflict_sec=(0.0, 0.0))
    conflict = ('ConditionalRequestConflict', 409)
    for codes, outcome in (
        ([conflict], True),
        ([conflict, conflict], True),
        ([conflict, ('PreconditionFailed', 412)], False),
    ):
        monkeypatch.setattr(store, '_client', _Racing(*codes))
        assert store.create('s3://bucket/a', b'x') is outcome
    for codes in ([conflict] * 3, [('NotImplemented', 501)]):
        monkeypatch.setattr(store, '_client', _Racing(*codes))
        with pytest.raises(StoreError):
            store.create('s3://bucket/a', b'x')


def test_a_store_without_conditional_deletes_deletes_nothing(serve):
    _, store = serve(status(501))
    assert not store.delete('s3://bucket/a', Seen(b'x', 'etag'))
    with pytest.raises(StoreError, match='does not support conditional writes'):
        store.delete('s3://bucket/a')


# --- addresses and credentials


@pytest.mark.parametrize(
    ('bucket', 'region', 'head'),
    [
        ('bucket', 'eu-west-1', 'https://bucket.s3.eu-west-1.amazonaws.com/a%20b?'),
        ('dotted.bucket', 'eu-west-1', 'https://s3.eu-west-1.amazonaws.com/dotted.bucket/a%20b?'),
        ('bucket', None, 'https://bucket.s3.amazonaws.com/a%20b?'),
    ],
)
def test_urls_name_the_regions_own_host(serve, monkeypatch, bucket, region, head):
    asked = []
    monkeypatch.delenv('AWS_ENDPOINT_URL_S3', raising=False)
    serve(good)
    store = S3Store(region_name=region)
    monkeypatch.setattr(store._pool, 'request', lambda method, url, **_: asked.append(url))
    store._get(bucket, 'a b')
    assert asked[0].startswith(head)
    query = dict(urllib.parse.parse_qsl(asked[0].partition('?')[2]))
    assert query['X-Amz-Credential'].split('/')[2] == (region or 'us-east-1')


def test_wrong_settings_are_named(serve, monkeypatch):
    serve(good)
    with pytest.raises(UsageError, match='--s3_region_name'):
        S3Store(region_name='no region!')
    with pytest.raises(UsageError, match='--s3_endpoint_url'):
        S3Store('host:9000')
    monkeypatch.setenv('AWS_PROFILE', 'absent')
    with pytest.raises(UsageError, match='AWS_PROFILE'):
        S3Store()


def test_a_store_that_is_not_there_is_said(serve):
    server, store = serve(good, attempts=1)
    server.close()
    with pytest.raises(StoreError, match='cannot be reached'):
        store.stat('s3://bucket/a')


def test_without_boto3_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'botocore.session', None)
    with pytest.raises(UsageError, match=r"pip install 'lemmabeam\[aws\]'"):
        S3Store()


@pytest.mark.parametrize(
    ('flag', 'told'),
    [
        ('--s3_secret_access_key=s3cr3t', '--s3_secret_access_key is not read'),
        ('--s3_access_key_id=s3cr3t', 'AWS_PROFILE'),
        ('--s3_session_token=s3cr3t', 'environment'),
        ('--s3_disable_ssl', '--s3_disable_ssl is not read'),
        ('--s3_endpoint_url=https://me:s3cr3t@host', '--s3_endpoint_url'),
        ('--s3_endpoint_url=host:9000', 'expected http'),
    ],
)
def test_options_that_are_not_read_are_refused(flag, told):
    with pytest.raises(UsageError, match=told) as caught:
        app.make_config('--input', samples.SAMPLE, '--output', 'out', flag)
    assert 's3cr3t' not in str(caught.value)


def test_buckets_that_are_not_there_are_found_out_first(s3, tmp_path):
    for source, output in (
        (samples.SAMPLE, 's3://no-such-bucket/o'),
        ('s3://no-such-bucket', 'o'),
    ):
        with pytest.raises(UsageError, match='no such bucket no-such-bucket'):
            app.label('--input', source, '--output', output)


def test_the_listing_tells_which_objects_of_one_part_have_the_same_bytes(s3_bucket, store):
    for name, data in {'in/a': b'x', 'in/b': b'x', 'in/c': b'y'}.items():
        s3_bucket.put(name, data)
    client, where = s3_bucket.client, {'Bucket': s3_bucket.name, 'Key': 'in/parts'}
    upload = client.create_multipart_upload(**where)['UploadId']
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b'x')
    client.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={'Parts': [{'ETag': part['ETag'], 'PartNumber': 1}]},
    )
    a, b, c, parts = (entry.checksum for entry in store.list(s3_bucket.uri('in')))
    assert a == b != ''
    assert c not in ('', a)
    assert parts == ''
    assert store.stat(s3_bucket.uri('in/a')).checksum == a
