"""A job server as a process of its own, as for Flink and Spark, with an SDK worker that is another.

It is Beam's own in Python, so what is seen here is our side of the portable way: submission,
waiting, the lease of a job that goes on without its launcher.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support import engines

pytestmark = pytest.mark.engine

_START_SEC = 60.0


@pytest.fixture
def job_server(tmp_path) -> Iterator[str]:
    """The address of a running one."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    module = 'apache_beam.runners.portability.local_job_service_main'
    with (tmp_path / 'job_server.log').open('wb') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', module, '-p', str(port)], stdout=log, stderr=log
        )
    try:
        ends_at = time.monotonic() + _START_SEC
        while not _listens(port):
            assert process.poll() is None, (tmp_path / 'job_server.log').read_text()
            assert time.monotonic() < ends_at
            time.sleep(0.1)
        yield f'localhost:{port}'
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 1):
        return True
    return False


def kill_worker(process: subprocess.Popen, workers: list[int]) -> None:
    (pid,) = workers
    os.kill(pid, signal.SIGKILL)


def engine(job_server: str, port: int) -> engines.Engine:
    flags = [
        '--runner=PortableRunner',
        f'--job_endpoint={job_server}',
        '--environment_type=EXTERNAL',
        f'--environment_config=localhost:{port}',
    ]
    return engines.Engine(flags, False, (kill_worker,), at_once=1)


def test_the_same_bytes_and_nothing_to_do_again(job_server, bucket, tmp_path):
    engines.check_undisturbed(lambda port: engine(job_server, port), bucket, tmp_path)


def test_the_same_bytes_when_its_worker_is_killed(job_server, bucket, tmp_path):
    engines.check_disturbed(lambda port: engine(job_server, port), bucket, tmp_path)
