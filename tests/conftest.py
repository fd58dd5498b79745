"""What tests share.

Table of contents:
  emulator  a storage emulator as a process of its own, one for the whole session
  bucket    a fresh, empty bucket in it for one test, with `put` to fill it
  proxy     a proxy before it that spoils reads for one test, see tests.fault_proxy
  s3        an S3 server as a process of its own, one for the whole session
  s3_bucket a fresh, empty bucket in it for one test
  server    a hub on loopback for one test, see tests.hub_server
  stand_in_model  for one test, the model of tests.without_model: no TensorFlow, and no time
"""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.fault_proxy import FaultProxy
from tests.hub_server import HubServer

_BINARY = Path(sys.executable).with_name('fake-gcs-server')
_START_SEC = 20.0

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
def emulator() -> Iterator[str]:
    """The endpoint of a running emulator, which STORAGE_EMULATOR_HOST names from now on.

    One for the session, because a process keeps one client (`transforms.process.shared`).
    """
    with running_emulator() as endpoint:
        yield endpoint


@contextlib.contextmanager
def running_emulator() -> Iterator[str]:
    """The endpoint of an emulator that STORAGE_EMULATOR_HOST names for the length of the block."""
    if not _BINARY.exists():
        pytest.fail(f'no emulator at {_BINARY}; build it with: make .venv/bin/{_BINARY.name}')
    for _ in range(3):  # another process may take the port that was free
        port = _free_port()
        address = f'127.0.0.1:{port}'
        command = [str(_BINARY), '-scheme', 'http', '-host', '127.0.0.1', '-port', str(port)]
        command += ['-backend', 'memory', '-public-host', address]
        command += ['-external-url', f'http://{address}']
        with (
            _running(command, f'http://{address}/_internal/healthcheck') as is_ready,
            pytest.MonkeyPatch.context() as patch,
        ):
            if not is_ready:
                continue
            patch.setenv('STORAGE_EMULATOR_HOST', f'http://{address}')
            yield f'http://{address}'
            return
    pytest.fail(f'{_BINARY} did not answer within {_START_SEC:g} s, three times')


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
def s3() -> Iterator[str]:
    """The endpoint of a running S3 server, which AWS_ENDPOINT_URL_S3 names from now on.

    One for the session, because a process keeps one client (`transforms.process.shared`).
    """
    for _ in range(3):
        port = _free_port()
        address = f'127.0.0.1:{port}'
        command = [sys.executable, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(port)]
        with (
            _running(command, f'http://{address}/moto-api/data.json') as is_ready,
            pytest.MonkeyPatch.context() as patch,
        ):
            if not is_ready:
                continue
            for name in [name for name in os.environ if name.startswith('AWS_')]:
                patch.delenv(name)
            for name, value in AWS_ENVIRONMENT.items():
                patch.setenv(name, value)
            patch.setenv('AWS_ENDPOINT_URL_S3', f'http://{address}')
            yield f'http://{address}'
            return
    pytest.fail(f'moto.server did not answer within {_START_SEC:g} s, three times')


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
def stand_in_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels without a network, in this process: what it sees in a picture is made of its bytes."""
    from tests import without_model
    from transforms.model import handler

    monkeypatch.setattr(handler, 'Predictor', without_model.Predictor)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _running(command: list[str], health: str) -> Iterator[bool]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if 'proxy' not in key.lower()},
    )
    try:
        yield _answers(process, health)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen, health: str) -> bool:
    ends_at = time.monotonic() + _START_SEC
    with urllib3.PoolManager(retries=False) as pool:
        while process.poll() is None and time.monotonic() < ends_at:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                response = pool.request('GET', health)
                return response.status == 200
            time.sleep(0.05)
    return False
