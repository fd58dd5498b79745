"""The process from which loader processes are forked, seen from the one that starts it.

What it does itself, and the messages to and from it, stand in `transforms.loading.server`.
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
      count: how many loader processes are to be forked, for them to know.
      errors: descriptor to which it writes what goes wrong, or `subprocess.DEVNULL`.

    Attributes:
      process: it.
      connection: tells that it has something to say.

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
        """Has a loader process started, or is told that it cannot be.

        Args:
          number: its own.
          row: its row of the status.
          environment: its variables.
          modules: what it will want to have imported.
          end: its end of a connection; whoever calls closes the own copy of it.
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
        """Takes one message; None at its end."""
        try:
            kind, number, what = self.connection.recv()
        except (EOFError, OSError):
            return None
        return kind, number, what

    def close(self) -> int:
        """Hangs up, which ends it, and waits for that.

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
    return f'was ended by {name}' + (', as where memory runs out' if name == 'SIGKILL' else '')
