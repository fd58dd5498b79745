"""What Beam's worker processes log to standard error, which they share with this one."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from pipeline.job.streams import errors_on

# As Python's logging has it where nobody has set it up; what our own modules say is kept.
_CHATTER = re.compile(rb'(?:DEBUG|INFO|WARNING):(?!transforms\.|pipeline\.)[\w.]+:')
_LAST_LINES_SEC = 2.0
_REDIRECTING = threading.Lock()


@contextlib.contextmanager
def without_chatter(last_lines_sec: float = _LAST_LINES_SEC) -> Iterator[None]:
    """Keeps from standard error what processes that are started in a with block log below errors.

    What this process says itself goes where it went, so that a terminal stays one.

    Args:
      last_lines_sec: how long to wait at the end for processes that have not ended.
    """
    if not _REDIRECTING.acquire(blocking=False):
        yield  # another run of this process has done so
        return
    try:
        with _redirected(last_lines_sec):
            yield
    finally:
        _REDIRECTING.release()


@contextlib.contextmanager
def _redirected(last_lines_sec: float) -> Iterator[None]:
    real, ours = os.dup(2), sys.stderr
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    passing = threading.Thread(target=_pass_on, args=(reader, real), daemon=True)
    passing.start()
    if _descriptor(ours) == 2:
        ours.flush()
        sys.stderr = errors_on(real)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = ours
        os.dup2(real, 2)  # the other end of the pipe is that of processes that may end later
        passing.join(last_lines_sec)
        if not passing.is_alive():
            os.close(real)


def _descriptor(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # it stands for none
        return -1


def _pass_on(reader: int, real: int) -> None:
    with os.fdopen(reader, 'rb') as lines:
        for line in lines:
            if not _CHATTER.match(line):
                with contextlib.suppress(OSError):  # nobody listens
                    os.write(real, line)
