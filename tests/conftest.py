"""What tests share.

Table of contents:
  emulator  a storage emulator, one for all test processes, see tests.support.servers
  bucket    a fresh, empty bucket in it for one test, with `put` to fill it
  proxy     a proxy before it that spoils reads for one test, see tests.support.fault_proxy
  s3        an S3 server, one for all test processes
  s3_bucket a fresh, empty bucket in it for one test
  azure     an Azure Storage server, one for all test processes
  container a fresh, empty container in it for one test
  server    a hub on loopback for one test, see tests.support.hub_server
  stand_in_model  for one test, the model of tests.support.without_model: no TensorFlow, and no time
"""

import contextlib
import dataclasses
import os
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.support import garbage, servers
from tests.support.fault_proxy import FaultProxy
from tests.support.hub_server import HubServer
from tests.support.servers import (  # noqa: F401 (hooks of pytest)
    pytest_configure_node,
    pytest_unconfigure,
)
from tests.support.tiers import (  # noqa: F401 (hooks of pytest)
    pytest_addoption,
    pytest_collection,
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_logreport,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
    pytest_sessionfinish,
    pytest_xdist_make_scheduler,
)

garbage.look_rarely()  # while modules come; again when they are there

# Nothing outside is asked for keys, and none of the machine's own are found.
AWS_ENVIRONMENT = {
    'AWS_ACCESS_KEY_ID': 'AKIATESTTESTTESTTEST',
    'AWS_SECRET_ACCESS_KEY': 's3cr3t-s3cr3t-s3cr3t',
    'AWS_SESSION_TOKEN': 't0k3n-t0k3n-t0k3n',
    'AWS_DEFAULT_REGION': 'us-east-1',
    'AWS_EC2_METADATA_DISABLED': 'true',
    'AWS_CONFIG_FILE': '/nonexistent/config',
    'AWS_SHARED_CREDENTIALS_FILE': '/nonexistent/credentials',
}
# What must be nowhere.
AWS_SECRETS = [
    *(AWS_ENVIRONMENT[f'AWS_{x}'] for x in ('SECRET_ACCESS_KEY', 'SESSION_TOKEN', 'ACCESS_KEY_ID')),
    'X-Amz-',
    'Signature=',
]


def pytest_collection_finish() -> None:
    garbage.look_rarely()


@pytest.fixture(scope='session', autouse=True)
def no_power_is_cut() -> Iterator[None]:
    """Nothing in this process waits for the disk: no test could tell, whatever it kills."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: None)
        yield


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket of the emulator; `pool` is a connection of the tests, not of the code under test."""

    name: str
    endpoint: str
    pool: urllib3.PoolManager

    def uri(self, name: str = '') -> str:
        """'gs://bucket/name', the name raw."""
        return f'gs://{self.name}/{name}'

    def put(self, name: str, data: bytes, content_encoding: str = '') -> str:
        """Uploads an object and returns its URI."""
        query = {'uploadType': 'media', 'name': name}
        if content_encoding:
            query['contentEncoding'] = content_encoding
        response = self.pool.request(
            'POST',
            f'{self.endpoint}/upload/storage/v1/b/{self.name}/o?{urllib.parse.urlencode(query)}',
            body=data,
            headers={'Content-Type': 'application/octet-stream'},
        )
        assert response.status == 200, response.data
        return self.uri(name)


@pytest.fixture(scope='session')
def emulator(request: pytest.FixtureRequest) -> Iterator[str]:
    """The endpoint of a running emulator, which STORAGE_EMULATOR_HOST names from now on.

    One for the session, because a process keeps one client (`transforms.core.resources.shared`).
    """
    with (
        servers.address_of(servers.GCS, request.config) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv('STORAGE_EMULATOR_HOST', address)
        yield address


@pytest.fixture
def bucket(emulator: str) -> Iterator[Bucket]:
    """A fresh bucket."""
    with fresh_bucket(emulator) as made:
        yield made


@contextlib.contextmanager
def fresh_bucket(emulator: str) -> Iterator[Bucket]:
    """A new bucket, for fixtures that keep one longer than a test."""
    name = f'b-{uuid.uuid4().hex[:16]}'
    with urllib3.PoolManager() as pool:
        made = pool.request('POST', f'{emulator}/storage/v1/b?project=test', json={'name': name})
        assert made.status == 200, made.data
        yield Bucket(name, emulator, pool)


@dataclasses.dataclass(frozen=True)
class S3Bucket:
    """A bucket of the S3 server; `client` is the tests' own."""

    name: str
    client: Any

    def uri(self, name: str = '') -> str:
        """'s3://bucket/name', the name raw."""
        return f's3://{self.name}/{name}'

    def put(self, name: str, data: bytes, **options: str) -> str:
        """Uploads an object and returns its URI."""
        self.client.put_object(Bucket=self.name, Key=name, Body=data, **options)
        return self.uri(name)


@pytest.fixture(scope='session')
def s3(request: pytest.FixtureRequest) -> Iterator[str]:
    """The endpoint of a running S3 server, which AWS_ENDPOINT_URL_S3 names from now on.

    One for the session, because a process keeps one client (`transforms.core.resources.shared`).
    """
    with (
        servers.address_of(servers.S3, request.config) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith('AWS_')]:
            patch.delenv(name)
        for name, value in AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv('AWS_ENDPOINT_URL_S3', address)
        yield address


@pytest.fixture(scope='session')
def s3_client(s3: str) -> Iterator[Any]:
    """The tests' own client of the S3 server."""
    import botocore.session

    with contextlib.closing(botocore.session.Session().create_client('s3')) as client:
        yield client


@pytest.fixture
def s3_bucket(s3_client: Any) -> S3Bucket:
    """A fresh bucket."""
    bucket = S3Bucket(f'b-{uuid.uuid4().hex[:16]}', s3_client)
    s3_client.create_bucket(Bucket=bucket.name)
    return bucket


# Azurite's own account, whose key everybody knows.
AZURE_ACCOUNT = 'devstoreaccount1'
AZURE_KEY = (
    'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='
)


def azure_environment(address: str, secret: str = f'AccountKey={AZURE_KEY}') -> dict[str, str]:
    """The variables by which Azurite, or what stands before it, is found."""
    endpoint = f'BlobEndpoint={address}/{AZURE_ACCOUNT}'
    text = f'AccountName={AZURE_ACCOUNT};{endpoint};{secret}'
    return {'AZURE_STORAGE_CONNECTION_STRING': text}


@dataclasses.dataclass(frozen=True)
class Container:
    """A container of the Azure server; `client` is the tests' own."""

    name: str
    client: Any

    def uri(self, name: str = '') -> str:
        """'az://account/container/name', the name raw."""
        return f'az://{AZURE_ACCOUNT}/{self.name}/{name}'

    def put(self, name: str, data: bytes, **options: Any) -> str:
        """Uploads a blob and returns its URI."""
        self.client.upload_blob(name, data, overwrite=True, **options)
        return self.uri(name)


@pytest.fixture(scope='session')
def azure(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a running server, which AZURE_STORAGE_CONNECTION_STRING names from now on.

    One for the session, because a process keeps one client (`transforms.core.resources.shared`).
    """
    if not servers.has_azurite():
        pytest.skip('Azurite could not be had here; `make .venvs/azurite/ready` says why')
    with (
        servers.address_of(servers.AZURE, request.config) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith('AZURE_')]:
            patch.delenv(name)
        for name, value in azure_environment(address).items():
            patch.setenv(name, value)
        yield address


@pytest.fixture(scope='session')
def azure_client(azure: str) -> Iterator[Any]:
    """The tests' own client of the Azure server."""
    from azure.storage.blob import BlobServiceClient

    (text,) = azure_environment(azure).values()
    with BlobServiceClient.from_connection_string(text) as client:
        yield client


@pytest.fixture
def container(azure_client: Any) -> Container:
    """A fresh container."""
    from azure.core.exceptions import ResourceExistsError

    name = f'c-{uuid.uuid4().hex[:16]}'
    with contextlib.suppress(ResourceExistsError):  # asked for twice, as the first answer was late
        azure_client.create_container(name)
    return Container(name, azure_client.get_container_client(name))


@pytest.fixture
def proxy(emulator: str) -> Iterator[FaultProxy]:
    """A proxy that does no harm yet."""
    with contextlib.closing(FaultProxy(emulator)) as made:
        yield made


@pytest.fixture
def server() -> Iterator[HubServer]:
    """A hub that knows no model yet."""
    with contextlib.closing(HubServer()) as made:
        yield made


@pytest.fixture
def stand_in_model() -> Iterator[None]:
    """Labels without a network, in this process: what it sees in a picture is made of its bytes."""
    from tests.support import app

    with app.stand_in():
        yield
