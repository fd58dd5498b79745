"""Public buckets without an account: gs://, s3:// and az:// read anonymously.

Not checked here: a real public bucket.
"""

import contextlib
import json
import pickle
import socket
import time
import uuid

import pytest
from azure.core.exceptions import ClientAuthenticationError

from tests.conftest import AWS_ENVIRONMENT, Container, azure_environment
from tests.contracts.stores import LIMITS, FetchContract, fetch
from tests.contracts.stores import ObjectStoreContract as StoreContract
from tests.support import app, samples
from tests.support.misbehaving_server import BODY, Server, good, status
from transforms.core.errors import ImageError, StoreError
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.dataset.verify import verify
from transforms.sources import preflight
from transforms.storage import gcs
from transforms.storage.azure import AzureStore
from transforms.storage.base import Seen
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import settle_anonymity, told_anonymous
from transforms.storage.s3 import S3Store

QUICK = Tries(pause_sec=0.01, most_pause_sec=0.05)
KEYS = ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN')


@pytest.fixture
def no_google_account(monkeypatch, tmp_path):
    """A machine off Google Cloud: what answers there in place of metadata is something else."""
    for name in ('STORAGE_EMULATOR_HOST', 'GOOGLE_APPLICATION_CREDENTIALS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path))
    with contextlib.closing(Server([status(404)])) as server:
        monkeypatch.setenv('GCE_METADATA_IP', server.url.partition('://')[2])
        yield server


@pytest.fixture
def no_aws_account(monkeypatch):
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in KEYS:
        monkeypatch.delenv(name)


@pytest.fixture
def public_gcs(emulator, no_google_account, monkeypatch):
    """The emulator in place of Google's address, so that it does not count as one."""
    monkeypatch.setenv('API_ENDPOINT_OVERRIDE', emulator)


class TestGcsInTheEmulator(StoreContract):
    """It needs no account for writing, either."""

    @pytest.fixture
    def place(self, bucket):
        return bucket

    @pytest.fixture
    def store(self, place):
        return gcs.GcsStore(anonymous=True, tries=QUICK)

    @pytest.fixture
    def address(self, emulator):
        return emulator

    def store_at(self, address, monkeypatch):
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', address)
        return gcs.GcsStore(anonymous=True)

    def put_folder(self, place, name, data):
        blob = gcs.GcsStore()._client.bucket(place.name).blob(name)
        blob.upload_from_string(data, content_type='application/x-directory; charset=UTF-8')


class _Reading(FetchContract):
    """What of the contract can be asked of a store that is only read."""

    def test_names_are_listed_looked_at_and_opened(self, store, place):
        names = [name for name in self.ODD_NAMES if not name.startswith('.')]
        uris = {place.put(f'in/{name}', b'123') for name in names}
        found = list(store.list(place.uri('in')))
        assert {entry.uri for entry in found} == uris
        assert {store.stat(uri) for uri in uris} == set(found)
        assert store.is_folder(place.uri('in'))
        assert not store.is_folder(place.uri('out'))
        with store.open(found[0].uri) as file:
            assert (file.seek(1), file.read()) == (1, b'23')
        assert store.read(found[0].uri) == b'123'

    def test_nothing_is_written(self, store, place):
        uri = place.put('a', b'1')
        seen = Seen(b'1', '1')
        for write in (
            lambda: store.write(uri, b'2'),
            lambda: store.create(place.uri('b'), b'2'),
            lambda: store.place(uri, place.uri('b')),
            lambda: store.replace(uri, b'2', seen),
            lambda: store.delete(uri),
            lambda: store.delete(uri, seen),
        ):
            with pytest.raises(StoreError, match=f'{uri[:5]}.*nothing is written anonymously'):
                write()
        assert fetch(store, uri)[0] == b'1'
        assert len(list(store.list(place.uri()))) == 1


class TestGcsWithoutAnAccount(_Reading):
    ODD_NAMES = (*FetchContract.ODD_NAMES, 'new\nline.jpg')

    @pytest.fixture
    def place(self, bucket, public_gcs):
        return bucket

    @pytest.fixture
    def store(self, place):
        store = gcs.GcsStore(tries=QUICK)
        assert 'gcloud auth' in store.lacks_credentials
        return store


class _PublicBucket:
    """A bucket of moto that anybody may list, with objects that anybody may read."""

    def __init__(self, bucket):
        self._bucket = bucket
        self.uri = bucket.uri

    def put(self, name, data):
        return self._bucket.put(name, data, ACL='public-read')


class TestS3WithoutAnAccount(_Reading):
    @pytest.fixture
    def place(self, s3_bucket):
        return _PublicBucket(s3_bucket)

    @pytest.fixture
    def store(self, s3, place, no_aws_account):
        store = S3Store(s3, tries=QUICK)
        assert 'aws configure' in store.lacks_credentials
        return store

    def test_an_object_that_is_not_public_is_forbidden_and_others_are_read(
        self, store, place, s3_bucket
    ):
        public = place.put('a', b'1')
        private = s3_bucket.put('b', b'2', ACL='private')
        with pytest.raises(ImageError, match=r'forbidden: HTTP 403: .*not public') as caught:
            fetch(store, private)
        assert not caught.value.is_its_own
        assert fetch(store, public)[0] == b'1'


class TestS3Forced(TestS3WithoutAnAccount):
    """Although there is an account."""

    @pytest.fixture
    def store(self, s3, place):
        store = S3Store(s3, anonymous=True, tries=QUICK)
        assert not store.lacks_credentials
        return store


class TestAzureWithoutAnAccount(_Reading):
    @pytest.fixture
    def place(self, azure_client):
        name = f'c-{uuid.uuid4().hex[:16]}'
        return Container(name, azure_client.create_container(name, public_access='container'))

    @pytest.fixture
    def store(self, azure, place):
        store = AzureStore(azure_environment(azure, 'X=1'), lambda: None, tries=QUICK)
        assert 'az login' in store.lacks_credentials
        return store

    def test_a_container_that_is_not_public_is_forbidden(self, store, container):
        uri = container.put('a', b'1')
        with pytest.raises(ImageError, match=r'forbidden: HTTP 40.: not public, .*az login'):
            fetch(store, uri)
        for call in (lambda: list(store.list(container.uri())), lambda: store.stat(uri)):
            with pytest.raises(StoreError, match=r'not public, .* for a container of yours'):
                call()


class TestAzureForced(TestAzureWithoutAnAccount):
    @pytest.fixture
    def store(self, azure, place):
        store = AzureStore(azure_environment(azure), no_question, anonymous=True, tries=QUICK)
        assert not store.lacks_credentials
        return store


def no_question():
    pytest.fail('who forces it looks for none')


@pytest.mark.parametrize('name', ['AZURE_STORAGE_KEY', 'AZURE_CLIENT_ID'])
def test_azure_credentials_that_are_half_are_not_replaced(name):
    store = AzureStore({name: 'x'}, lambda: None)
    assert not store.lacks_credentials
    with pytest.raises(StoreError, match='no usable Azure credentials for the account account'):
        store.fetch('az://account/container/a', LIMITS, lambda _: None)


@pytest.mark.parametrize('is_there', [True, False])
def test_an_identity_of_azure_is_one_if_it_gives_a_token(is_there):
    class Identity:
        def get_token(self, *_):
            if not is_there:
                raise ClientAuthenticationError('none')

    assert ('az login' in AzureStore({}, Identity).lacks_credentials) != is_there


def test_requests_are_not_signed(no_google_account, monkeypatch):
    seen = []

    def note(handler, stopping):
        seen.append((handler.path, {name.lower() for name in handler.headers}))
        good(handler, stopping)

    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(Server([note])) as server:
        monkeypatch.setenv('API_ENDPOINT_OVERRIDE', server.url)
        stores = [gcs.GcsStore(anonymous=True), S3Store(server.url, anonymous=True)]
        for store, uri in zip(stores, ('gs://bucket/a', 's3://bucket/a'), strict=True):
            assert store.fetch(uri, LIMITS, lambda _: None).data == BODY
    assert len(seen) == 2
    for path, headers in seen:
        assert 'authorization' not in headers
        assert 'Signature' not in path
    assert no_google_account.requests == 0, 'who forces it looks for none'


@pytest.mark.parametrize('code', [401, 403])
def test_what_is_not_public_says_what_to_do(no_google_account, no_aws_account, monkeypatch, code):
    with contextlib.closing(Server([status(code)])) as server:
        monkeypatch.setenv('API_ENDPOINT_OVERRIDE', server.url)
        for store, scheme, told in (
            (gcs.GcsStore(), 'gs', 'gcloud auth application-default login'),
            (S3Store(server.url), 's3', 'aws configure'),
        ):
            uri = f'{scheme}://bucket/a'
            with pytest.raises(ImageError, match=f'forbidden: HTTP {code}: .*not public.*{told}'):
                fetch(store, uri)
            for ask in (store.list, store.stat, store.is_folder, store.open):
                with pytest.raises(StoreError, match=f'{scheme}://bucket.*not public.*{told}'):
                    list(ask(uri))


def test_google_credentials_that_cannot_be_used_are_not_replaced(
    no_google_account, monkeypatch, tmp_path
):
    monkeypatch.setenv('GOOGLE_APPLICATION_CREDENTIALS', str(tmp_path / 'absent.json'))
    with pytest.raises(StoreError, match=r'cannot be used: .*absent.json was not found'):
        gcs.GcsStore()
    monkeypatch.delenv('GOOGLE_APPLICATION_CREDENTIALS')
    (tmp_path / 'application_default_credentials.json').write_text('{"type": "unheard of"}')
    with pytest.raises(StoreError, match='cannot be used: '):
        gcs.GcsStore()
    assert not gcs.GcsStore(anonymous=True).lacks_credentials


def test_google_credentials_that_are_refused_are_not_replaced(
    no_google_account, monkeypatch, tmp_path
):
    """Of a user who has logged out elsewhere: the address for tokens says so."""
    refused = status(400, json.dumps({'error': 'invalid_grant'}).encode())
    with contextlib.closing(Server([refused])) as server, contextlib.closing(Server([good])) as at:
        account = {'type': 'authorized_user', 'client_id': 'x', 'client_secret': 'x'}
        account |= {'refresh_token': 'x', 'token_uri': server.url}
        (tmp_path / 'application_default_credentials.json').write_text(json.dumps(account))
        monkeypatch.setenv('API_ENDPOINT_OVERRIDE', at.url)
        store = gcs.GcsStore()
        store._credentials._token_uri = server.url
        with pytest.raises(StoreError, match='credentials were refused: log in again'):
            fetch(store, 'gs://bucket/a')
        assert at.requests == 0


def test_aws_credentials_that_are_half_or_refused_are_not_replaced(no_aws_account, monkeypatch):
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'AKIATESTTESTTESTTEST')
    with pytest.raises(StoreError, match='no usable AWS credentials'):
        S3Store()
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'x')
    expired = b'<Error><Code>ExpiredToken</Code></Error>'
    with contextlib.closing(Server([status(400, expired)])) as server:
        store = S3Store(server.url)
        with pytest.raises(StoreError, match='have expired'):
            fetch(store, 's3://bucket/a')
        assert server.requests == 1


# --- looking for credentials


@pytest.fixture
def silence():
    """The address of something that takes connections and says nothing."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        yield f'127.0.0.1:{server.getsockname()[1]}'


def test_silence_of_the_metadata_server_is_waited_for_once(no_google_account, monkeypatch, silence):
    monkeypatch.setenv('GCE_METADATA_IP', silence)
    begun = time.monotonic()
    assert gcs.find_credentials(metadata_sec=0.2) == (None, None)
    assert 0.2 <= time.monotonic() - begun < 1


def test_silence_of_amazons_metadata_server_is_waited_for_seconds(
    no_aws_account, monkeypatch, silence
):
    monkeypatch.delenv('AWS_EC2_METADATA_DISABLED')
    monkeypatch.setenv('AWS_EC2_METADATA_SERVICE_ENDPOINT', f'http://{silence}')
    begun = time.monotonic()
    assert S3Store().lacks_credentials
    assert 1 <= time.monotonic() - begun < 5


# --- whole runs


def test_the_decision_is_made_once_and_travels(no_google_account, no_aws_account, monkeypatch):
    asked = ['gs://photos/a', 'gs://photos/b', 'gs://more', '/home/me', 'https://host/a.jpg']
    # As another process has it, which has made no store.
    monkeypatch.setattr('transforms.core.resources._shared', {})
    stores, told = settle_anonymity(asked, DEFAULT_OPTIONS)
    assert told == [told_anonymous('gs://photos'), told_anonymous('gs://more')]
    assert (stores.gcs.anonymous, stores.s3.anonymous) == (True, False)
    assert pickle.loads(pickle.dumps(stores)) == stores
    assert stores.for_output() == DEFAULT_OPTIONS
    before = no_google_account.requests
    assert settle_anonymity(asked, stores) == (stores, [])
    assert no_google_account.requests == before, 'it is not looked for again'


@pytest.mark.slow  # TensorFlow in a process of its own; the parts are tested around it
def test_a_public_bucket_is_labelled_without_an_account(bucket, public_gcs, tmp_path):
    """In a process of its own: a process keeps a store, and this one has that of the emulator."""
    for path in samples.PHOTOGRAPHS[:2]:
        bucket.put(f'in/{path.name}', path.read_bytes())
    output = str(tmp_path / 'out')
    done = app.command('label', '--input', bucket.uri('in'), '--output', output)
    assert done.returncode == 0, done.stderr
    told = f'lemmabeam: no credentials for gs://{bucket.name}: reading it anonymously\n'
    assert told in done.stderr
    assert done.stderr.count('anonymously') == 1
    assert verify(output) == []


def test_buckets_that_a_manifest_names_are_told_once(
    bucket, public_gcs, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr('transforms.core.resources._shared', {})
    manifest = tmp_path / 'list.txt'
    manifest.write_text('\n'.join(bucket.put(name, b'x') for name in ('a.jpg', 'b.jpg')))
    config, _ = app.make_config('--input', manifest, '--output', tmp_path / 'out')
    assert config.load.stores == DEFAULT_OPTIONS
    assert config.notes == ()
    for _ in range(2):
        preflight.check(config.preflight)
    told = [each.getMessage() for each in caplog.records if 'anonymously' in each.getMessage()]
    assert told == [told_anonymous(f'gs://{bucket.name}')]


def test_an_output_needs_an_account(bucket, public_gcs, monkeypatch):
    monkeypatch.setattr('transforms.core.resources._shared', {})
    output = bucket.uri('out')
    for more in ((), ('--anonymous',)):
        with pytest.raises(StoreError, match=f'--output {output}: no Google Cloud credentials'):
            app.make_config('--input', samples.SAMPLE, '--output', output, *more)
