"""Azure Storage: against Azurite, and against a server that misbehaves.

Not checked here: the whole pipeline (tests/system/test_azure.py); identities and TLS of the real
service.
"""

import base64
import contextlib
import datetime
import gzip
import hashlib
import logging
import socket
import time
import urllib.parse

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobType,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)

from tests.conftest import AZURE_ACCOUNT, AZURE_KEY, azure_environment
from tests.contracts.stores import ObjectStoreContract
from tests.storage.test_http import certificate
from tests.support.misbehaving_server import (
    BODY,
    Server,
    good,
    reset,
    reset_within,
    rubbish,
    stall,
    status,
    stored,
    truncated,
)
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.storage.azure import AzureStore
from transforms.storage.base import FetchLimits, Part
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import store_for

LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
SHORT = FetchLimits(max_bytes=10_000, deadline_sec=0.5)
OTHER_KEY = base64.b64encode(b's3cr3t' * 10).decode()


@pytest.fixture
def store(azure):
    return store_for('az://')


def fetch(store, uri, limits=LIMITS):
    return store.fetch(uri, limits, lambda size_bytes: None)


def no_identity():
    return None


# --- against Azurite


class TestLikeEveryStore(ObjectStoreContract):
    # Azure resolves '..'; see below.
    ODD_NAMES = (
        *(name for name in ObjectStoreContract.ODD_NAMES if name != 'x/../y.jpg'),
        *('new\nline.jpg', 'a~b.jpg', 'a%2520b'),
    )

    @pytest.fixture
    def place(self, container):
        return container

    @pytest.fixture
    def address(self, azure):
        return azure

    def store_at(self, address, monkeypatch):
        return AzureStore(azure_environment(address))

    def put_folder(self, place, name, data):
        kind = ContentSettings('application/x-directory; charset=UTF-8')
        place.put(name, data, content_settings=kind)

    def test_open_is_a_seekable_stream(self, address, place):
        store = AzureStore(stream_bytes=30_000)  # several requests
        super().test_open_is_a_seekable_stream(store, place)


def test_a_listing_of_several_pages_is_whole(azure, container):
    store = AzureStore(page_blobs=10)
    names = {f'many/{i:04}+.jpg' for i in range(25)}
    for name in (*names, 'many2/x.jpg'):
        container.put(name, b'x')
    for depth in (None, 1):
        found = [entry.uri for entry in store.list(container.uri('many'), depth)]
        assert len(found) == 25
        assert set(found) == {container.uri(name) for name in names}


def test_the_version_is_the_etag(store, container):
    uri = container.put('a', b'1')
    before = fetch(store, uri).version
    assert before.startswith('0x')
    container.put('a', b'2')
    assert fetch(store, uri).version == store.stat(uri).version != before


def test_what_is_not_there_is_said(store, container):
    absent = f'az://{AZURE_ACCOUNT}/c-absent'
    with pytest.raises(StoreError, match='/c-absent: no such container'):
        fetch(store, f'{absent}/a')
    for call in (
        lambda: list(store.list(absent)),
        lambda: store.stat(f'{absent}/a'),
        lambda: store.is_folder(absent),
        lambda: store.write(f'{absent}/a', b'x'),
        lambda: store.create(f'{absent}/a', b'x'),
        lambda: store.read(f'{absent}/a'),
        lambda: store.delete(f'{absent}/a'),
    ):
        with pytest.raises(UsageError, match=f'no such container c-absent in .* {AZURE_ACCOUNT}'):
            call()


@pytest.mark.parametrize('name', ['x/../y.jpg', './y.jpg'])
def test_a_name_that_azure_would_resolve_is_no_other_blob(store, container, name):
    container.put('y.jpg', b'y')
    with pytest.raises(ImageError, match='bad_uri: a name with'):
        fetch(store, container.uri(name))
    for call in (store.stat, store.read, store.open):
        with pytest.raises(UsageError, match='it would be another blob'):
            call(container.uri(name))


def test_blobs_of_every_kind_are_read(store, container):
    page = container.put('page.jpg', BODY[:512] * 2, blob_type=BlobType.PAGEBLOB)
    append = container.put('append.jpg', BODY, blob_type=BlobType.APPENDBLOB)
    assert fetch(store, page).data == BODY[:512] * 2
    assert fetch(store, append).data == BODY
    assert [(entry.uri, entry.size_bytes) for entry in store.list(container.uri())] == [
        (append, len(BODY)),
        (page, 1024),
    ]
    store.write(append, b'now a block blob')
    assert store.read(append) == b'now a block blob'


@pytest.mark.parametrize('name', ['hdi_isfolder', 'Hdi_isfolder'])
def test_directories_of_a_hierarchical_namespace_are_folders(store, container, name):
    uri = container.put('photos.jpg', b'', metadata={name: 'true'})
    image = container.put('photos.jpg/a.jpg', b'x', metadata={name: 'false'})
    empty = container.put('empty', b'', metadata={name: 'true'})
    for depth, found in ((None, [image]), (1, [])):
        assert [entry.uri for entry in store.list(container.uri(), depth)] == found
    for each in (uri, empty):
        assert store.stat(each) is None
        assert store.is_folder(each)
        with pytest.raises(ImageError, match='not_a_file: a folder'):
            fetch(store, each)


def test_snapshots_are_not_listed(store, container):
    uri = container.put('a.jpg', b'1')
    container.client.get_blob_client('a.jpg').create_snapshot()
    container.put('a.jpg', b'22')
    assert [(entry.uri, entry.size_bytes) for entry in store.list(container.uri())] == [(uri, 2)]


def test_a_stream_never_mixes_two_versions(azure, container):
    store = AzureStore(stream_bytes=10)
    with store.open(container.put('a', bytes(100))) as stream:
        stream.read(10)
        container.put('a', b'x' * 100)
        with pytest.raises(StoreError, match='changed while it was read'):
            stream.read(10)


def test_blobs_stored_as_gzip_are_unpacked(store, container):
    settings = ContentSettings(content_encoding='gzip')
    uri = container.put('a.jpg', gzip.compress(BODY), content_settings=settings)
    assert fetch(store, uri)[:2] == (BODY, store.stat(uri).version)


def test_what_is_written_has_its_checksum(store, container):
    store.write(container.uri('a'), BODY)
    settings = container.client.get_blob_client('a').get_blob_properties().content_settings
    assert settings.content_md5 == hashlib.md5(BODY).digest()
    assert fetch(store, container.uri('a')).data == BODY


# --- what opens an account


def sas(permission='racwdl', hours=1.0, container=''):
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    if container:
        return generate_container_sas(
            AZURE_ACCOUNT, container, AZURE_KEY, permission=permission, expiry=until
        )
    return generate_account_sas(
        AZURE_ACCOUNT,
        AZURE_KEY,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions.from_string(permission),
        until,
    )


def with_sas(azure, token):
    return azure_environment(azure, f'SharedAccessSignature={token}')


@pytest.mark.parametrize('of', ['account', 'container', 'variables'])
def test_a_sas_token_does_it_all(azure, container, of):
    token = sas(container=container.name if of == 'container' else '')
    environment = with_sas(azure, token)
    if of == 'variables':
        environment = {
            **azure_environment(azure, 'X=1'),  # only says where the account is
            'AZURE_STORAGE_ACCOUNT': AZURE_ACCOUNT,
            'AZURE_STORAGE_SAS_TOKEN': f'?{token}',
        }
    store = AzureStore(environment, no_identity)
    uri = container.put('a b.jpg', BODY)
    assert fetch(store, uri).data == BODY
    assert [entry.uri for entry in store.list(container.uri())] == [uri]
    assert store.create(container.uri('b'), b'1')
    assert store.place(container.uri('b'), container.uri('c'))
    assert store.read(container.uri('c')) == b'1'
    assert store.delete(container.uri('c'))


def test_a_key_in_variables_opens_its_account(azure, container):
    environment = {
        **azure_environment(azure, 'X=1'),
        'AZURE_STORAGE_ACCOUNT': AZURE_ACCOUNT,
        'AZURE_STORAGE_KEY': AZURE_KEY,
    }
    store = AzureStore(environment, no_identity)
    assert fetch(store, container.put('a', BODY)).data == BODY
    assert len(list(store.list(container.uri()))) == 1


def refused(store, container):
    """What is said by a listing and by a read, which are other code."""
    uri = container.put('a.jpg', BODY)
    with pytest.raises(StoreError) as listed:
        list(store.list(container.uri()))
    with pytest.raises((StoreError, ImageError)) as read:
        fetch(store, uri)
    return str(listed.value), str(read.value)


def test_an_expired_sas_token_is_said(azure, container):
    store = AzureStore(with_sas(azure, sas(hours=-1)), no_identity, attempts=1)
    for told in refused(store, container):
        assert 'the SAS token expired at 20' in told
        assert 'set AZURE_STORAGE_SAS_TOKEN to a new one' in told
        assert 'sig' not in told


def test_what_a_sas_token_does_not_permit_is_said(azure, container):
    store = AzureStore(with_sas(azure, sas('w')), no_identity, attempts=1)
    listed, read = refused(store, container)
    assert 'access denied; reading needs the role Storage Blob Data Reader' in listed
    assert read == 'forbidden: HTTP 403'


def test_another_accounts_key_is_not_used(azure):
    uri = 'az://another/container/a.jpg'
    store = AzureStore(azure_environment(azure), no_identity)
    told = f'AZURE_STORAGE_CONNECTION_STRING is of the account {AZURE_ACCOUNT}'
    for call in (lambda: fetch(store, uri), lambda: store.stat(uri)):
        with pytest.raises(StoreError, match=f'for the account another \\({told}\\): run `az'):
            call()


def test_variables_that_name_no_account_are_said():
    store = AzureStore({'AZURE_STORAGE_KEY': OTHER_KEY}, no_identity)
    told = 'AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN need AZURE_STORAGE_ACCOUNT'
    with pytest.raises(StoreError, match=told) as caught:
        list(store.list('az://account/container'))
    assert OTHER_KEY not in str(caught.value)


@pytest.mark.parametrize(
    'environment',
    [
        {'AZURE_STORAGE_CONNECTION_STRING': 's3cr3t'},
        {'AZURE_STORAGE_CONNECTION_STRING': 'AccountName=account;AccountKey=s3cr3t!'},
        {'AZURE_STORAGE_CONNECTION_STRING': 'BlobEndpoint=s3cr3t;AccountKey=s3cr3t!'},
        {'AZURE_STORAGE_ACCOUNT': 'account', 'AZURE_STORAGE_KEY': 's3cr3t!'},
    ],
)
def test_what_is_no_credential_is_said_without_it(environment):
    with pytest.raises((UsageError, StoreError), match='AZURE_STORAGE_') as caught:
        fetch(AzureStore(environment, no_identity), 'az://account/container/a')
    assert 's3cr3t' not in str(caught.value)


def test_neither_keys_nor_signatures_are_logged(azure, container, caplog):
    caplog.set_level(logging.DEBUG)
    uri = container.put('a', b'1')
    for secret in (f'AccountKey={AZURE_KEY}', f'SharedAccessSignature={sas()}'):
        store = AzureStore(azure_environment(azure, secret), no_identity)
        assert fetch(store, uri).data == b'1'
        assert store.place(uri, container.uri('b'))
        assert len(list(store.list(container.uri()))) == 2
    assert 'sig' not in caplog.text
    assert AZURE_KEY not in caplog.text


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'azure.storage.blob', None)
    with pytest.raises(UsageError, match=r"pip install 'lemmabeam\[azure\]'"):
        AzureStore()


# --- against a server that misbehaves


class Identity:
    """A credential that gives tokens, or raises what it is told to."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.given = 0

    def get_token(self, *scopes, **options):
        assert scopes == ('https://storage.azure.com/.default',)
        if self.errors:
            raise self.errors.pop(0)
        self.given += 1
        return AccessToken(f't0k3n-{self.given}', int(time.time()) + 3600)


@pytest.fixture
def serve(tmp_path):
    """Starts a server with these answers; returns it and a store in front of it."""
    with contextlib.ExitStack() as stack:

        def start(*answers, secret=f'AccountKey={OTHER_KEY}', identity=None):
            server = Server(answers)
            stack.callback(server.close)
            environment = azure_environment(server.url, secret)
            if identity is not None:  # its tokens go over TLS only
                context, public = certificate(tmp_path, 'localhost')
                plain = server._server.socket
                server._server.socket = context.wrap_socket(plain, server_side=True)
                environment = azure_environment(f'https://localhost:{server.port}', 'X=1')
                environment['REQUESTS_CA_BUNDLE'] = str(public)
            store = AzureStore(
                environment,
                lambda: identity,
                tries=Tries(pause_sec=0.01, most_pause_sec=0.05),
                attempts=1,
            )
            stack.callback(store.close)
            return server, store

        yield start


URI = f'az://{AZURE_ACCOUNT}/container/a.jpg'
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


def refusal(number, code, text=b's3cr3t'):
    body = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>'
    headers = {'Content_Type': 'application/xml', 'x_ms_error_code': code}
    return status(number, body % (code.encode(), text), **headers)


@pytest.mark.parametrize(
    'fault',
    [
        *(status(code) for code in (408, 429, 500, 503)),
        *(refusal(503, 'ServerBusy'), refusal(500, 'OperationTimedOut')),
        *(reset, reset_within, truncated, rubbish),
        stored(BODY, Content_MD5=base64.b64encode(bytes(16)).decode()),
    ],
    ids=lambda fault: fault.__qualname__.partition('.')[0],
)
def test_passing_faults_are_retried(serve, fault):
    server, store = serve(fault, fault, stored(BODY, Content_MD5=MD5))
    found = fetch(store, URI)
    assert (found.data, found.retries) == (BODY, 2)
    assert server.requests == 3


def test_wrong_bytes_are_found(serve):
    _, store = serve(stored(BODY[::-1], Content_MD5=MD5))
    with pytest.raises(ImageError, match=r'checksum: md5 is .*, the store says .*, until'):
        fetch(store, URI, SHORT._replace(deadline_sec=0.1))


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        (refusal(404, 'BlobNotFound'), 'not_found: HTTP 404'),
        (refusal(403, 'AuthorizationPermissionMismatch'), 'forbidden: HTTP 403'),
        (refusal(409, 'BlobArchived'), 'forbidden: archived: restore it first'),
        (refusal(409, 'BlobBeingRehydrated'), 'forbidden: archived, and being restored: .*'),
        (refusal(409, 'BlobUsesCustomerSpecifiedEncryption'), 'forbidden: encrypted with .*'),
        (refusal(400, 'InvalidUri'), 'store_error: HTTP 400'),
    ],
)
def test_lasting_answers_are_not_asked_again(serve, fault, reason):
    server, store = serve(fault)
    with pytest.raises(ImageError, match=f'^{reason}$') as caught:
        fetch(store, URI)
    assert caught.value.is_its_own == ('archived' in reason)
    assert server.requests == 1


@pytest.mark.parametrize(
    ('number', 'code', 'told'),
    [
        (403, 'AuthenticationFailed', 'the key of the account devstoreaccount1 was refused: check'),
        (401, 'InvalidAuthenticationInfo', 'was refused: check AZURE_STORAGE_KEY'),
        (403, 'AccountIsDisabled', 'the storage account is disabled'),
        (403, 'KeyBasedAuthenticationNotPermitted', 'permits no keys .*: run `az login`'),
        (404, 'ContainerNotFound', 'no such container'),
        (409, 'ContainerBeingDeleted', 'no such container'),
    ],
)
def test_faults_of_all_are_no_images_fault(serve, number, code, told):
    server, store = serve(refusal(number, code))
    with pytest.raises(StoreError, match=told) as caught:
        fetch(store, URI)
    assert server.requests == 1
    with pytest.raises((StoreError, UsageError), match=told) as listed:
        list(store.list(URI))
    assert 's3cr3t' not in f'{caught.value}{listed.value}'
    assert OTHER_KEY not in f'{caught.value}{listed.value}'


@pytest.mark.parametrize(
    ('number', 'code', 'told'),
    [
        (403, 'AuthorizationFailure', 'access denied; reading needs the role'),
        (409, 'BlobArchived', 'archived: restore it first'),
        (412, 'LeaseIdMissing', r'gave an unexpected answer \(HTTP 412, LeaseIdMissing\)'),
        (500, 'InternalError', r'gave an unexpected answer \(HTTP 500, InternalError\)'),
        (400, '<x>', r'gave an unexpected answer \(HTTP 400\)$'),
    ],
)
def test_the_client_explains_itself(serve, number, code, told):
    _, store = serve(refusal(number, code))
    with pytest.raises(StoreError, match=told):
        store.read(URI)


def test_an_identity_gives_a_token_and_another_when_it_is_refused(serve):
    asked = []

    def note(handler, stopping):
        asked.append((handler.path, handler.headers['Authorization']))
        (good if len(asked) != 2 else refusal(401, 'InvalidAuthenticationInfo'))(handler, stopping)

    identity = Identity()
    _, store = serve(note, identity=identity)
    for _ in range(3):
        assert fetch(store, URI).data == BODY
    assert asked == [  # the first one was to see whether there is any
        (f'/{AZURE_ACCOUNT}/container/a.jpg', f'Bearer t0k3n-{i}') for i in (2, 2, 3, 3)
    ]
    _, store = serve(refusal(401, 'InvalidAuthenticationInfo'), identity=identity)
    with pytest.raises(StoreError, match=r'were refused by the account .*: run `az login` again'):
        fetch(store, URI)


def test_an_identity_that_gives_no_token_any_more_is_said(serve):
    identity = Identity()
    _, store = serve(good, identity=identity)
    identity.errors = [ServiceRequestError('s3cr3t')] * 2
    assert fetch(store, URI).retries == 2
    _, store = serve(good, identity=identity)
    identity.errors = [ClientAuthenticationError('DefaultAzureCredential failed: s3cr3t')] * 2
    for call in (lambda: fetch(store, URI), lambda: store.read(URI)):
        with pytest.raises(StoreError, match='no usable Azure credentials') as caught:
            call()
        assert 's3cr3t' not in str(caught.value)


def test_a_token_goes_over_https_only(azure):
    store = AzureStore(azure_environment(azure, 'X=1'), Identity)
    with pytest.raises(UsageError, match='BlobEndpoint of the form https://host'):
        fetch(store, URI)


def test_an_account_that_is_not_there_is_said(serve, monkeypatch):
    """Of a name that nobody has, only the one who is asked for names knows."""
    _, store = serve(good)

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, 's3cr3t')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    for call in (lambda: fetch(store, URI), lambda: store.read(URI)):
        with pytest.raises((StoreError, UsageError), match='no such storage account') as caught:
            call()
        assert 's3cr3t' not in str(caught.value)


def test_a_store_that_does_not_answer_is_said(serve):
    server, store = serve(good)
    server.close()
    with pytest.raises(StoreError, match='cannot be reached') as caught:
        store.stat(URI)
    assert caught.value.__suppress_context__, 'its text has the URL'


def test_names_that_xml_cannot_hold_are_listed(serve):
    name = urllib.parse.quote('no-character\ufffe%.jpg')
    blob = (
        f'<Blob><Name Encoded="true">{name}</Name><Properties>'
        '<Last-Modified>Thu, 26 Nov 2026 10:00:00 GMT</Last-Modified><Etag>0x8</Etag>'
        '<Content-Length>7</Content-Length><BlobType>BlockBlob</BlobType></Properties><Metadata/></Blob>'
    )
    page = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blob}</Blobs></EnumerationResults>'
    _, store = serve(stored(page.encode(), Content_Type='application/xml'))
    (entry,) = store.list(URI.rpartition('/')[0])
    assert entry[:3] == (URI.replace('a.jpg', 'no-character\ufffe%.jpg'), '0x8', 7)


def test_a_part_of_what_is_gone_is_not_found(serve):
    _, store = serve(status(412))
    with pytest.raises(StoreError):  # the little server answers no HEAD
        store.fetch(URI, LIMITS, lambda _: None, part=Part(0, 1, '0x1'))


def test_details_never_hold_what_a_server_says_nor_secrets(serve):
    faults = [refusal(code, 'Other') for code in (302, 400, 403, 404, 503)]
    wrong = stored(BODY, Content_MD5=base64.b64encode(bytes(16)).decode())
    for fault in (*faults, rubbish, reset, truncated, wrong, stall):
        _, store = serve(fault, secret='SharedAccessSignature=sv=1&sig=s3cr3t')
        with pytest.raises((ImageError, StoreError)) as caught:
            fetch(store, URI, SHORT._replace(deadline_sec=0.1))
        told = str(caught.value)
        assert not any(word in told for word in ('s3cr3t', 'sig=', '0x', '127.0.0.1'))
