"""The device of a process: one batch at a time, and a word about one that does not come back."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

_LOGGER = logging.getLogger(__name__)

PATIENCE_SEC = 300.0
"""So long a batch may take before it is told, or ten times as long as the longest one so far."""

_TIMES_LONGEST = 10
_LOOK_SEC = 5.0


class _Call(NamedTuple):
    describe: Callable[[], str]
    started: float


def _look_regularly(look: Callable[[], None]) -> None:
    def run() -> None:
        while True:
            time.sleep(_LOOK_SEC)
            look()

    # One for all batches: to start a thread costs as much as the interpreter's lock is wanted.
    threading.Thread(target=run, name='device', daemon=True).start()


class Device:
    """Lets one batch after the other have the model; make it with `transforms.process.shared`.

    A second one would only share the device and double its memory.  A call cannot be stopped, but
    whoever waits for it can be told where it is.

    Args:
      model_id: the model, for people.
      clock: seconds.
      watch: has a function called now and then, for ever.
    """

    def __init__(
        self,
        model_id: str,
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[Callable[[], None]], None] = _look_regularly,
    ):
        self._model_id = model_id
        self._clock = clock
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._told: _Call | None = None
        self._longest_sec = 0.0
        watch(self._look)

    @contextlib.contextmanager
    def at_work_on(self, describe: Callable[[], str]) -> Iterator[None]:
        """Holds the device for the length of a with block; tells once if that takes too long.

        Args:
          describe: says which batch it is; called only if that is told.
        """
        with self._lock:
            started = self._clock()
            self._call = _Call(describe, started)
            try:
                yield
            finally:
                self._call = None
            self._longest_sec = max(self._longest_sec, self._clock() - started)

    def _look(self) -> None:
        call = self._call
        if call is None or call is self._told:
            return
        seconds = self._clock() - call.started
        if seconds < max(PATIENCE_SEC, _TIMES_LONGEST * self._longest_sec):
            return
        self._told = call
        _LOGGER.warning(
            'the model %s has not come back for %.0f s from %s. A call cannot be stopped: if it '
            'stays there, end the run, and look at these images and at the model',
            self._model_id,
            seconds,
            call.describe(),
        )
