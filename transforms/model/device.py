"""The device of a process: one batch after the other in a thread of its own.

So the host is free while the device computes: it finishes the previous batch and prepares the next.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

T = TypeVar('T')

_LOGGER = logging.getLogger(__name__)

PATIENCE_SEC = 300.0
"""How long a batch may take before a warning, or ten times as long as the longest one so far."""

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
    threading.Thread(target=run, name='device-watch', daemon=True).start()


def _run(future: Future[T], work: Callable[[], T]) -> None:
    """Does something, unless nobody wants it any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as e:  # noqa: BLE001 (raised again by who waits for it)
        future.set_exception(e)
    else:
        future.set_result(result)


class Device:
    """Gives the model to one batch after the other; one per process, by `core.resources.shared`.

    A second one would only share the device and double its memory.  One thread does the work in the
    order in which it was submitted, and starts with the first.  A call cannot be stopped, but a
    warning says where it hangs.

    Args:
      model_id: the model, for people.
      clock: seconds.
      watch: calls a function from time to time, for ever.

    Attributes:
      idle_sec: how long the device was idle before its current work, which may ask for it.
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
        self.idle_sec = 0.0
        self._free_since = clock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # One is computed and one waits behind it: more would not make the device any busier, and
        # each holds the pixels of a batch.
        self._tasks: queue.Queue[tuple[Future[Any], Callable[[], Any]]] = queue.Queue(maxsize=1)
        watch(self._look)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Submits work; waits while other work is waiting."""
        future: Future[T] = Future()
        self._start()
        self._tasks.put((future, work))
        return future

    def submit_if_free(self, work: Callable[[], T]) -> Future[T] | None:
        """Submits work if that is possible at once; None if other work is waiting."""
        future: Future[T] = Future()
        self._start()
        try:
            self._tasks.put_nowait((future, work))
        except queue.Full:
            return None
        return future

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    # The end of the process does not wait for a call that does not come back.
                    self._thread = threading.Thread(
                        target=self._do_tasks, name='device', daemon=True
                    )
                    self._thread.start()

    def _do_tasks(self) -> None:
        while True:
            future, work = self._tasks.get()
            self.idle_sec = self._clock() - self._free_since
            _run(future, work)
            # Nothing is held while it waits for more, the pixels of a batch least of all.
            del future, work
            self._free_since = self._clock()

    @contextlib.contextmanager
    def at_work_on(self, describe: Callable[[], str]) -> Iterator[None]:
        """Holds the device for the length of a with block; warns once if that takes too long.

        Args:
          describe: says which batch it is; called only for a warning.
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
            'the model %s has not returned for %.0f s on %s. A call cannot be stopped: if it '
            'hangs, end the run, and check these images and the model',
            self._model_id,
            seconds,
            call.describe(),
        )
