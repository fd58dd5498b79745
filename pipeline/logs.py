"""The log of a command: what standard error shows of it, and the file that has all of it."""

import contextlib
import io
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.messages import Messages
from transforms.core import uris
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

TOLD = 'lemmabeam'
"""The logger of what people are told, which standard error has already."""
logging.getLogger(TOLD).addHandler(logging.NullHandler())

_FORMAT = '%(levelname)s %(name)s: %(message)s'
_PROGRESS_SEC = 30.0
_COLUMNS = 100


class _Shown(logging.Filter):
    """What standard error shows of the log, at least, by the first name of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.least = {'': logging.ERROR, 'transforms': logging.WARNING}

    def filter(self, record: logging.LogRecord) -> bool:
        first = record.name.partition('.')[0]
        return first != TOLD and record.levelno >= self.least.get(first, self.least[''])


_SHOWN = _Shown()


def start(is_quiet: bool = False) -> None:
    """Has the log of this process show errors, and warnings of ours unless it is quiet."""
    # Beam logs what it misses while it is being imported.
    logging.basicConfig(level=logging.ERROR, format=_FORMAT)
    logging.getLogger('transforms').setLevel(logging.WARNING)
    _SHOWN.least = {'': logging.ERROR, 'transforms': logging.ERROR if is_quiet else logging.WARNING}
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(_SHOWN)


def show_engine(is_verbose: bool) -> None:
    """Shows what Beam logs, or not even its errors: what matters of those is told by us."""
    if is_verbose:
        logging.getLogger().setLevel(logging.INFO)
        _SHOWN.least |= {'': logging.INFO}
    else:
        _SHOWN.least |= dict.fromkeys(('apache_beam', 'PrismRunner'), logging.CRITICAL)


class _File(logging.FileHandler):
    """Appends to a file; what cannot be written is lost, and the first reason kept."""

    def __init__(self, path: str):
        super().__init__(path, 'a', encoding='utf-8', errors='backslashreplace')
        self.error: Exception | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (as it is)
        self.error = self.error or sys.exc_info()[1]  # type: ignore[assignment]


@contextlib.contextmanager
def logged(messages: Messages, path: str) -> Iterator[Messages]:
    """Has all that is told appended to a file as well, and the log from INFO on, with times in UTC.

    Args:
      messages: takes what is told.
      path: of the file, a local one.

    Raises:
      UsageError: it cannot be written.
    """
    named = f'--log_file {uris.printable(path)}'
    if uris.scheme_of(path):
        raise UsageError(f'{named}: expected a local file')
    try:
        file = _File(path)
    except OSError as e:
        raise UsageError(f'{named}: cannot be written: {e.strerror}') from e
    formatter = logging.Formatter(f'%(asctime)s {_FORMAT}')
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = '%Y-%m-%dT%H:%M:%S', '%s.%03dZ'
    file.setFormatter(formatter)
    loggers = [logging.getLogger(), logging.getLogger('transforms'), logging.getLogger(TOLD)]
    levels = [logger.level for logger in loggers]
    loggers[0].addHandler(file)
    for logger in loggers:
        logger.setLevel(logging.INFO)
    try:
        yield _Logged(messages)
    finally:
        loggers[0].removeHandler(file)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        with contextlib.suppress(OSError):
            file.close()
        if file.error is not None:
            messages.error(f'{named}: some lines could not be written: {file.error}')


class _Logged(Messages):
    """Hands on what is told, and logs it."""

    def __init__(self, messages: Messages):
        self._messages = messages
        self._log = logging.getLogger(TOLD)

    @property
    def progress(self) -> TextIO:
        return _LoggedProgress(self._messages.progress, self._log)

    def say(self, text: str) -> None:
        self._messages.say(text)
        self._log.info(text)

    def note(self, text: str) -> None:
        self._messages.note(text)
        self._log.info(text)

    def error(self, text: str) -> None:
        self._messages.error(text)
        self._log.error(text)

    def trace(self, text: str) -> None:
        self._messages.trace(text)
        self._log.error(text)

    def result(self, document: object) -> None:
        self._messages.result(document)

    def log(self, text: str) -> None:
        self._log.info(text)

    def console(self) -> 'Console':
        from rich.console import Console

        shown, log = self._messages.console(), self._log

        class Logged(Console):
            """Draws on another one, and in the log."""

            def print(self, *objects: Any, **options: Any) -> None:
                shown.print(*objects, **options)
                text = io.StringIO()
                Console(file=text, width=_COLUMNS, emoji=False).print(*objects, **options)
                for line in text.getvalue().splitlines():
                    log.info(line.rstrip())

        return Logged()


class _LoggedProgress(io.TextIOBase, TextIO):
    """Hands progress on, of which the log has a line now and then."""

    def __init__(self, shown: TextIO | None, log: logging.Logger, log_sec: float = _PROGRESS_SEC):
        self._shown = shown
        self._log = log
        self._log_sec = log_sec
        self._logged_at = time.monotonic()

    def isatty(self) -> bool:
        return self._shown is not None and self._shown.isatty()

    def write(self, text: str) -> int:
        if self._shown is not None:
            self._shown.write(text)
        now = time.monotonic()
        line = text.replace('\r\x1b[K', '').strip().removeprefix('lemmabeam: ')
        if line and (not self.isatty() or now - self._logged_at >= self._log_sec):
            self._logged_at = now
            self._log.info(line)
        return len(text)

    def flush(self) -> None:
        if self._shown is not None:
            self._shown.flush()
