"""Stopping at once when a person or the system says so."""

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipeline import logs

Stopping = Callable[
    [Callable[[], str], Callable[[], None]], contextlib.AbstractContextManager[None]
]
"""What answers signals for the length of a with block, as `stopping_on_signals`."""

_LAST_WORDS_SEC = 3.0
_LISTENING_SEC = 1.0


@contextlib.contextmanager
def stopping_on_signals(advice: Callable[[], str], at_exit: Callable[[], None]) -> Iterator[None]:
    """Stops at once on Ctrl-C and SIGTERM: threads of engine and model cannot be interrupted.

    An exception would not do: raised within somebody's callback, it is ignored.  What is
    published is put in its place as a whole, so that an exit at any moment leaves no partial file
    among the predictions; the next attempt at the same run goes on from there.

    Args:
      advice: gives what to say behind the name of the signal.
      at_exit: called before the end, for a few seconds at most.
    """
    # Standard error may be held back while TensorFlow is imported.
    try:
        errors = os.dup(2)
    except OSError:  # closed
        errors = os.open(os.devnull, os.O_WRONLY)
    words: list[str] = []
    asked, ask = os.pipe()
    answered, answer = os.pipe()

    def say_last_words() -> None:
        if os.read(asked, 1):
            try:
                at_exit()
                # At last: whoever was interrupted may hold a lock of the log.
                logging.getLogger(logs.TOLD).error(words[-1])
            finally:
                os.write(answer, b'.')

    # Started now, and asked without a lock: the handler may interrupt whoever holds one of those
    # that starting a thread takes.  Beside it, because a store may be slow, or its locks held.
    last = threading.Thread(target=say_last_words, daemon=True)
    last.start()

    def stop(number: int, _: FrameType | None) -> NoReturn:
        words.append(f'stopped by {signal.Signals(number).name}{advice()}')
        with contextlib.suppress(OSError):  # nobody listens
            if select.select([], [errors], [], _LISTENING_SEC)[1]:
                os.write(errors, f'\nlemmabeam: {words[-1]}\n'.encode())
        os.write(ask, b'.')
        select.select([answered], [], [], _LAST_WORDS_SEC)
        exit_now(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(ask)  # it reads the end, and is over
        last.join()
        for descriptor in (errors, asked, answered, answer):
            os.close(descriptor)


def exit_now(code: int) -> NoReturn:
    """Ends this process without waiting for its threads, and with it what an engine has started.

    Beam stops Prism and job servers in what Python does at its end, which is left out here.
    """
    for path in Path('/proc/self/task').glob('*/children'):  # Linux only
        with contextlib.suppress(OSError):
            for pid in path.read_text().split():
                os.kill(int(pid), signal.SIGTERM)
    os._exit(code)
