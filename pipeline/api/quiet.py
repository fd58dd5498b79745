"""What a function of `lemmabeam` lets be seen: nothing, or how far it is."""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import TextIO

from pipeline.api.keywords import by_keyword, reword
from pipeline.messages import Messages

LOGGER = logging.getLogger('lemmabeam')


class Logged(Messages):
    """Logs what is to be known beside the result, as INFO of the logger `lemmabeam`."""

    def note(self, text: str) -> None:
        """Logs it."""
        LOGGER.info(reword(text))


class Shown(Logged):
    """Shows progress and notes on standard error, as a command does."""

    @property
    def progress(self) -> TextIO | None:
        """Standard error."""
        return sys.stderr

    def note(self, text: str) -> None:
        """Prints it, and logs it."""
        super().note(text)
        print(f'lemmabeam: {reword(text)}', file=sys.stderr)


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or 'apache_beam' not in PurePath(record.pathname).parts


@contextlib.contextmanager
def called(progress: bool) -> Iterator[Messages]:
    """The length of a call: errors name keywords, and nobody has to see what Beam logs.

    Where somebody has set up logging, they see what they have asked for, but for what Beam says to
    the root of all loggers, where nobody can tell it by its name.
    """
    root = logging.getLogger()
    # One of its own: several calls may go on at a time.
    filter_ = functools.partial(_is_wanted)
    root.addFilter(filter_)
    silent = logging.NullHandler()
    is_set_up = any(not isinstance(each, logging.NullHandler) for each in root.handlers)
    if not is_set_up:
        root.addHandler(silent)
    try:
        with by_keyword():
            yield Shown() if progress else Logged()
    finally:
        root.removeHandler(silent)
        root.removeFilter(filter_)


@contextlib.contextmanager
def without_signals(
    advice: Callable[[], str],  # noqa: ARG001 (an exception has its own)
    at_exit: Callable[[], None],  # noqa: ARG001 (who calls leaves by exceptions, and `finally` runs)
) -> Iterator[None]:
    """In place of `stopping_on_signals`: Ctrl-C is the exception that it is in Python."""
    yield
