"""The process from which loader processes are forked, seen from the one that starts it.

What it does itself, and the messages to and from it, are in `transforms.loading.server`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

# Of the C library: blocks above 4 MiB go back to the system when they are freed, and 32 MiB of what
# is below stays.  By itself it would keep the largest pictures of each thread; and all going back
# costs a third of a small picture's time, as each page of the next one is asked for anew.
_MALLOC = {
    'MALLOC_ARENA_MAX': '1',
    'MALLOC_MMAP_THRESHOLD_': str(4 << 20),
    'MALLOC_TRIM_THRESHOLD_': str(32 << 20),
    'MALLOC_TOP_PAD_': str(4 << 20),
}
# Their threads would be forked half.
_ONE_THREAD = {'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}


class ForkServer:
    """One that is started.

    Args:
      memory: descriptor of the memory for pixels.
      status: descriptor of the memory for what each process decodes.
      count: how many loader processes will be forked, which they are told.
      errors: descriptor that it writes errors to, or `subprocess.DEVNULL`.

    Attributes:
      process: the server itself.
      connection: readable when it has sent something.

    Raises:
      OSError: the system does not let it start.
    """

    def __init__(self, memory: int, status: int, count: int, errors: int):
        ours, theirs = socket.socketpair()
        files = (theirs.fileno(), memory, status)
        code = (
            f'import sys; sys.path[:] = {sys.path!r}; from transforms.loading.server import main; '
            f'main({", ".join(map(str, files))}, {count})'
        )
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            self.process = subprocess.Popen(
                [sys.executable, '-c', code],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=files,
                env={**os.environ, **_MALLOC, **_ONE_THREAD},
            )
            unless_started.pop_all()
        self.connection = Connection(ours.detach())

    def fork(
        self,
        number: int,
        row: int,
        environment: dict[str, str],
        modules: Sequence[str],
        end: socket.socket,
    ) -> None:
        """Asks for a loader process; a message says if it cannot be started.

        Args:
          number: its own.
          row: its row of the status.
          environment: its variables.
          modules: what it will need imported.
          end: its end of a connection; the caller closes its own copy.
        """
        self._order('fork', number, row, environment, modules)
        with (
            socket.socket(fileno=os.dup(self.connection.fileno())) as through,
            contextlib.suppress(OSError),  # its end will be seen
        ):
            socket.send_fds(through, [b'.'], [end.fileno()])

    def kill(self, number: int) -> None:
        """Has a loader process killed."""
        self._order('kill', number)

    def hear(self) -> tuple[str, int, Any] | None:
        """Reads one message; None at the end."""
        try:
            kind, number, what = self.connection.recv()
        except (EOFError, OSError):
            return None
        return kind, number, what

    def close(self) -> int:
        """Closes the connection, which ends it, and waits for its end.

        Returns:
          Its exit code, negative for a signal.
        """
        self.connection.close()
        return self.process.wait()

    def _order(self, *message: Any) -> None:
        with contextlib.suppress(OSError):  # its end will be seen
            self.connection.send(message)


def how_ended(code: int | None) -> str:
    """How a process ended, for people.

    Args:
      code: its exit code, negative for a signal; None if nobody knows.
    """
    if code is None:
        return 'has ended'
    if code >= 0:
        return f'exited with code {code}'
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f'signal {-code}'
    return f'was killed by {name}' + (', as when memory runs out' if name == 'SIGKILL' else '')
