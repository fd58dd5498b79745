"""An SDK worker of an engine, as a process of its own, with the counting model of `counted`.

`running_pool` answers engines that want workers (`--environment_type=EXTERNAL`): each worker is
this module, started as Beam's contract for containers has it.  Its process id goes to FILE.pids.
"""

import argparse
import contextlib
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Where `tests.support.engine_plugin` finds what it is to do.
COUNT = 'ENGINE_WORKER_COUNT'
KIND = 'ENGINE_WORKER_KIND'

_ROOT = Path(__file__).parents[2]
_START_SEC = 30.0


@contextlib.contextmanager
def running_pool(folder: Path, count: Path, kind: str, **environment: str) -> Iterator[int]:
    """The port of a pool of workers; they and their log live in `folder`.

    Args:
      folder: for the pool's own files, made if need be.
      count: where inferences are counted.
      kind: '' for the real model, or one of `tests.support.counted`.
      environment: what the workers find there beside our own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / 'worker'
    words = [sys.executable, '-m', 'tests.support.engine_worker', str(count), f'--kind={kind}']
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main']
    command += [f'--service_port={port}', f'--container_executable={program}']
    with (folder / 'pool.log').open('ab') as log:
        pool = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        _wait_for(pool, port)
        yield port
    finally:
        # With the workers, which are of its session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()


def write_pid(count: str) -> None:
    """Tells `workers` of this process."""
    with Path(f'{count}.pids').open('a') as pids:
        pids.write(f'{os.getpid()}\n')


def workers(count: Path) -> list[int]:
    """The process ids of the workers that live."""
    pids = Path(f'{count}.pids')
    found = map(int, pids.read_text().split()) if pids.exists() else []
    return [pid for pid in found if _is_worker(pid)]


def _is_worker(pid: int) -> bool:
    try:
        return b'worker' in Path(f'/proc/{pid}/cmdline').read_bytes()
    except OSError:
        return False


def _wait_for(pool: subprocess.Popen[bytes], port: int) -> None:
    ends_at = time.monotonic() + _START_SEC
    while pool.poll() is None and time.monotonic() < ends_at:
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f'no pool of workers on port {port}: {pool.args!r}')


def main() -> None:
    """Serves an engine until it says goodbye."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('count')
    parser.add_argument('--kind', default='')
    parser.add_argument('--id', required=True)
    parser.add_argument('--control_endpoint', required=True)
    # The engine's logs are not needed: what a worker raises goes with the answer to the bundle.
    args, _ = parser.parse_known_args()
    logging.basicConfig(level=logging.ERROR)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    write_pid(args.count)
    os.dup2(2, 1)  # the pool never reads what its workers print
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    from tests.support import counted

    counted.install(args.count, args.kind)
    SdkHarness(args.control_endpoint, worker_id=args.id).run()


if __name__ == '__main__':
    main()
