"""Holds back what libraries of C++ print while they are loaded."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

# A machine without an NVIDIA driver is no error.  A progress line may stand before each.
_CHATTER = re.compile(rb'(?:I\d{4} |WARNING: All log messages before absl|E\d{4} .*cuInit).*\n')

_REDIRECTING = threading.Lock()

_WITNESS = """
import os, re, sys
if not sys.stdin.buffer.read(1):
    held = int(sys.argv[1])
    said = os.pread(held, os.fstat(held).st_size, 0)
    sys.stdout.buffer.write(re.sub(sys.argv[2].encode(), b'', said))
"""


@contextlib.contextmanager
def without_startup_messages() -> Iterator[None]:
    """Holds back what TensorFlow's libraries print before their log level counts.

    Everything else that any thread writes to standard error meanwhile is passed on afterwards; if
    this process is killed meanwhile, another one does that.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    # One thread at a time, or another one would put back what is held here.
    with _REDIRECTING, tempfile.TemporaryFile() as held:
        saved = os.dup(descriptor)
        with _witness(held.fileno(), saved):
            sys.stderr.flush()
            os.dup2(held.fileno(), descriptor)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(saved, descriptor)
                os.close(saved)
                held.seek(0)
                os.write(descriptor, _CHATTER.sub(b'', held.read()))


@contextlib.contextmanager
def _witness(held: int, errors: int) -> Iterator[None]:
    """Where a library ends this process, another one passes on why.

    Args:
      held: descriptor of the file that has what was written.
      errors: of standard error.
    """
    command = [sys.executable, '-IS', '-c', _WITNESS, str(held), _CHATTER.pattern.decode()]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=subprocess.DEVNULL,
            pass_fds=[held],
            start_new_session=True,  # a signal from the terminal is none of its business
        )
    except OSError:  # no process can be had
        yield
        return
    try:
        yield
    finally:
        process.communicate(b'.')
