"""Processes that begin where Beam is imported already, which takes seconds of each that is not.

One that does nothing else is started when the first is asked for; the others are forked from it,
run as if by `python -c`, and end as any does. What only a start from nothing shows is not to be
seen here, see `tests.support.app.command`.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_MOST_BYTES = 2**16
_MOST_SEC = 120


class Fork:
    """A process with a part of what `subprocess.Popen` offers.

    Args:
      code: what it runs, as `__main__`.
      arguments: its `sys.argv[1:]`.

    Attributes:
      pid: its number.
      stdout, stderr: text that it prints.
      returncode: None as long as it is not known to have ended.
    """

    def __init__(self, code: str, *arguments: object):
        request = {'code': code, 'argv': ['-c', *map(str, arguments)], 'env': dict(os.environ)}
        ends = [os.pipe() for _ in range(3)]
        socket.send_fds(_parent(), [json.dumps(request).encode()], [write for _, write in ends])
        for _, write in ends:
            os.close(write)
        self.stdout, self.stderr, self._told = (os.fdopen(read) for read, _ in ends)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Waits for its end, not forever; what else it has printed, which is to be little."""
        timer = threading.Timer(_MOST_SEC, self.kill)
        timer.start()
        printed = self.stdout.read(), self.stderr.read()
        self.returncode = int(self._told.readline())
        timer.cancel()
        for file in (self.stdout, self.stderr, self._told):
            file.close()
        return printed


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code to its end."""
    process = Fork(code, *arguments)
    stdout, stderr = process.communicate()
    assert process.returncode is not None
    words = [str(argument) for argument in arguments]
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


@functools.cache
def _parent() -> socket.socket:
    """What forks; it ends when this process does, as nobody else holds this end of the socket."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.setblocking(True)  # Beam gives all sockets a time-out once it has asked for credentials
    with its:
        process = subprocess.Popen(
            [sys.executable, '-m', __name__, str(its.fileno())], cwd=_ROOT, pass_fds=[its.fileno()]
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request; returns it in the process that is to do it, and None at the end."""
    while True:
        data, ends, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not data:
            return None
        if not os.fork():
            break
        for end in ends:
            os.close(end)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    requests.close()
    stdout, stderr, told = ends
    # Whoever is asked how it ended has to be its parent.
    child = os.fork()
    if child:
        os.close(stdout)
        os.close(stderr)
        with os.fdopen(told, 'w', 1) as file:
            print(child, file=file)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=file)
        os._exit(0)
    os.close(told)
    for end, number in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
        os.dup2(end, number)
        os.close(end)
    request: dict[str, Any] = json.loads(data)
    return request


def _main(number: int) -> None:
    from tests.support import garbage, quick_beam, without_model  # noqa: F401, I001 (first: it keeps Beam quiet)
    from pipeline.job import graph, labelling, finish  # noqa: F401 (what a command would import)

    quick_beam.install()
    garbage.look_rarely()
    request = _serve(socket.socket(fileno=number))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request['env'])
    sys.argv = request['argv']
    module = types.ModuleType('__main__')
    sys.modules['__main__'] = module
    exec(compile(request['code'], '<string>', 'exec'), module.__dict__)


if __name__ == '__main__':
    _main(int(sys.argv[1]))
