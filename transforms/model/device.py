"""The device of a process: one batch at a time, and a word about one that does not come back."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

_LOGGER = logging.getLogger(__name__)

PATIENCE_SEC = 300.0
"""So long a batch may take before it is told, or ten times the longest one so far."""

_TIMES_LONGEST = 10


class Timer(Protocol):
    """What `threading.Timer` is."""

    daemon: bool

    def start(self) -> None:
        """Begins to wait."""

    def cancel(self) -> None:
        """Nothing is called any more."""


class Device:
    """Lets one batch after the other have the model; make it with `transforms.process.shared`.

    A second one would only share the device and double its memory.  A call cannot be stopped, but
    whoever waits for it can be told where it is.

    Args:
      model_id: the model, for people.
      timer: makes what calls a function after so many seconds.
      clock: seconds.
    """

    def __init__(
        self,
        model_id: str,
        timer: Callable[[float, Callable[[], None]], Timer] = threading.Timer,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._model_id = model_id
        self._timer = timer
        self._clock = clock
        self._lock = threading.Lock()
        self._longest_sec = 0.0

    @contextlib.contextmanager
    def at_work_on(self, describe: Callable[[], str]) -> Iterator[None]:
        """Holds the device for the length of a with block; tells once if that takes too long.

        Args:
          describe: says which batch it is; called only if that is told.
        """
        with self._lock:
            patience_sec = max(PATIENCE_SEC, _TIMES_LONGEST * self._longest_sec)

            def tell() -> None:
                _LOGGER.warning(
                    'the model %s has not come back for %.0f s from %s. A call cannot be stopped: '
                    'if it stays there, end the run, and look at these images and at the model',
                    self._model_id,
                    patience_sec,
                    describe(),
                )

            timer = self._timer(patience_sec, tell)
            timer.daemon = True  # the process may end meanwhile
            started = self._clock()
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
            self._longest_sec = max(self._longest_sec, self._clock() - started)
