"""The devices of a process: each computes one batch after the other, in a thread of its own.

So the host is free while they compute: it finishes earlier batches and prepares the next.
"""

import contextlib
import functools
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


_Task = tuple[Future[Any], Callable[['Device'], Any]]


class Devices:
    """The devices of a process, each of which computes with a model of its own.

    Work goes to the one that is free, in the order in which it was submitted.

    Args:
      model_id: the model, for people.
      count: of devices.
      clock: seconds.
      watch: calls a function from time to time, for ever.

    Attributes:
      each: the devices.
    """

    def __init__(
        self,
        model_id: str,
        count: int = 1,
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[Callable[[], None]], None] = _look_regularly,
    ):
        # One batch is computed by each and one waits behind it: more would not make them any
        # busier, and each holds its pixels.
        self._tasks: queue.Queue[_Task] = queue.Queue(maxsize=count)
        self.each = tuple(Device(model_id, number, clock) for number in range(count))
        self._starting = threading.Lock()
        self._is_started = False
        watch(self._look)

    def submit(self, work: Callable[['Device'], T]) -> Future[T]:
        """Submits work, which is given its device; waits while so much other work is waiting."""
        future: Future[T] = Future()
        self._start()
        self._tasks.put((future, work))
        return future

    def submit_if_free(self, work: Callable[['Device'], T]) -> Future[T] | None:
        """Submits work if that is possible at once; None if other work is waiting."""
        future: Future[T] = Future()
        self._start()
        try:
            self._tasks.put_nowait((future, work))
        except queue.Full:
            return None
        return future

    def _start(self) -> None:
        with self._starting:
            if self._is_started:
                return
            self._is_started = True
            for device in self.each:
                # The end of the process does not wait for a call that does not come back.
                threading.Thread(
                    target=device.do, args=(self._tasks,), name='device', daemon=True
                ).start()

    def _look(self) -> None:
        for device in self.each:
            device.look()


class Device:
    """One of the devices of a process: it does one piece of work after the other, in a thread.

    A call cannot be stopped, but a warning says where it hangs.

    Args:
      model_id: the model, for people.
      number: its place among the devices of its kind, from 0.
      clock: seconds.

    Attributes:
      number: the same.
      idle_sec: how long it was idle before its current work, which may ask for it.
    """

    def __init__(self, model_id: str, number: int = 0, clock: Callable[[], float] = time.monotonic):
        self._model_id = model_id
        self.number = number
        self._clock = clock
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._told: _Call | None = None
        self._longest_sec = 0.0
        self.idle_sec = 0.0
        self._free_since = clock()

    def do(self, tasks: 'queue.Queue[_Task]') -> None:
        """Does the next piece of work, for ever."""
        while True:
            future, work = tasks.get()
            self.idle_sec = self._clock() - self._free_since
            _run(future, functools.partial(work, self))
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

    def look(self) -> None:
        """Warns of a call that has not come back for long, once."""
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
