"""Standard output and error of a command: what cannot be shown is lost, what was done stays done.

A pipe whose reader has gone, a full disk and a stream that was closed before the command began end
no run, and change no exit code.
"""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from transforms.core.resources import open_standard_streams


class _Forgiving(io.FileIO):
    """Writes to an open descriptor as long as that works.

    Attributes:
      error: the first one.
    """

    def __init__(self, descriptor: int):
        super().__init__(descriptor, 'w', closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as e:
            self.error = self.error or e
            return len(data)


def forgive() -> None:
    """Replaces the standard streams of this process, once at its start."""
    open_standard_streams()
    sys.stdout = _forgiving(sys.stdout)
    sys.stderr = _forgiving(sys.stderr)


def _forgiving(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed
        return Path(os.devnull).open('w')
    buffer = getattr(stream, 'buffer', None)
    raw = getattr(buffer, 'raw', buffer)  # there is no buffer under PYTHONUNBUFFERED
    if not isinstance(raw, io.FileIO):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(raw.fileno())),
        encoding=stream.encoding,
        errors='backslashreplace',  # of a name that the terminal's encoding has not
        line_buffering=stream.isatty() or stream is sys.stderr or raw is buffer,
    )


def errors_on(descriptor: int) -> TextIO:
    """What can take the place of `sys.stderr`, on a descriptor that stays open behind it."""
    buffer = io.BufferedWriter(_Forgiving(descriptor))
    return io.TextIOWrapper(buffer, errors='backslashreplace', line_buffering=True)


def flush() -> None:
    """Writes what is left, and says where standard output did not take it.

    Of a pipe whose reader has gone nothing is said: it has read enough.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, 'buffer', None), 'raw', None)
    error = raw.error if isinstance(raw, _Forgiving) else None
    if error is not None and error.errno != errno.EPIPE:
        why = error.strerror or error
        print(f'lemmabeam: standard output cannot be written: {why}', file=sys.stderr)
    sys.stderr.flush()
