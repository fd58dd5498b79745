"""How much one host is asked at a time, by all processes of a worker together.

The process that has the model and its loader processes share a table in memory: who has how many
requests in flight at which host, and until when a host wants none.  It is kept by the host that is
really asked, so that a thousand hosts that redirect to one count as that one.
"""

import contextlib
import fcntl
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_HOSTS = 4096  # that can be told apart at a time; who is asked for nothing gives up its place
_KEY, _ASKED, _OURS, _PAUSE, _ROWS = range(5)
_LOOK_SEC = 0.01
_NS = 10**9
_MOST_SEC = 1e9


class PausedError(Exception):
    """A host wants no request before the deadline.

    Attributes:
      has_asked: whether it named the time itself (Retry-After).
    """

    def __init__(self, has_asked: bool):
        super().__init__('the host wants no request before the deadline')
        self.has_asked = has_asked


class Clock(NamedTuple):
    """The time, in nanoseconds that all processes of a machine share, and how it is spent."""

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep


_CLOCK = Clock()


def size_of(processes: int) -> int:
    """How many int64 the table of this many processes has."""
    return (_ROWS + processes) * _HOSTS


class Courtesy:
    """The table; thread-safe.

    Args:
      cells: (`size_of(processes)`,) int64, all 0 at first, shared by these processes.
      row: which of them this one is.
      descriptor: of the file that all of them lock; None if there is but one.
      clock: for tests.
    """

    def __init__(
        self,
        cells: np.ndarray,
        row: int,
        descriptor: int | None = None,
        clock: Clock = _CLOCK,
    ):
        self._cells = cells.reshape(-1, _HOSTS)
        self._row = _ROWS + row
        self._descriptor = descriptor
        self._clock = clock
        self._mutex = threading.Lock()

    @classmethod
    def of_one(cls, clock: Clock = _CLOCK) -> 'Courtesy':
        """The table of a process alone."""
        return cls(np.zeros(size_of(1), np.int64), 0, clock=clock)

    def visit(self, most: int, ends_at: Callable[[], float]) -> 'Visit':
        """For the requests of one fetch; see `Visit`."""
        return Visit(self, most, ends_at)

    def forget(self, row: int) -> None:
        """Ends the requests of a process that has ended; takes no lock, which may be held."""
        self._cells[_ROWS + row] = 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[np.ndarray]:
        """Held for a moment; the kernel lets go for a process that is killed."""
        with self._mutex:
            if self._descriptor is None:
                yield self._cells
                return
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1)
            try:
                yield self._cells
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1)

    def begin(self, host: str, most: int, ends_at: float) -> int:
        """Waits until a host may be asked, and takes one of its places.

        Returns:
          Where it stands in the table, for `end`.

        Raises:
          PausedError: it wants no request until then.
          TimeoutError: others had all places until then.
        """
        key = int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest(), signed=True)
        last_ns = ends_at * _NS
        while True:
            with self.locked() as cells:
                now = self._clock.now_ns()
                at = self._place(cells, key or 1, now)
                free_at = int(max(cells[_ASKED, at], cells[_OURS, at]))
                if free_at <= now and (not most or cells[_ROWS:, at].sum() < most):
                    cells[self._row, at] += 1
                    return at
                has_asked = bool(cells[_ASKED, at] > last_ns)
            if free_at > last_ns:
                raise PausedError(has_asked)
            wait_sec = (free_at - now) / _NS if free_at > now else _LOOK_SEC
            if now + wait_sec * _NS > last_ns:
                raise TimeoutError('others had all places of its host')
            self._clock.sleep(wait_sec)

    def end(self, at: int) -> None:
        """Gives a place back."""
        with self.locked() as cells:
            cells[self._row, at] -= 1

    def pause(self, at: int, seconds: float) -> None:
        """A host has asked for no request for so long."""
        with self.locked() as cells:
            until = self._clock.now_ns() + int(min(seconds, _MOST_SEC) * _NS)
            cells[_ASKED, at] = max(cells[_ASKED, at], until)

    def slow_down(self, at: int, since_ns: int, first_sec: float, most_sec: float) -> None:
        """A host has had too much, and does not say for how long: pauses get longer.

        Args:
          at: the host.
          since_ns: when the request began: an answer to one from before the last pause says
            nothing new.
          first_sec, most_sec: of pauses.
        """
        with self.locked() as cells:
            if since_ns >= cells[_OURS, at]:
                longest = int(most_sec * _NS)
                length = min(2 * int(cells[_PAUSE, at]) or int(first_sec * _NS), longest)
                cells[_PAUSE, at] = length
                cells[_OURS, at] = self._clock.now_ns() + length

    def went_well(self, at: int) -> None:
        """A host has answered: the next pause is short again."""
        if self._cells[_PAUSE, at]:
            with self.locked() as cells:
                cells[_PAUSE, at] = 0

    def now_ns(self) -> int:
        """The time."""
        return self._clock.now_ns()

    @staticmethod
    def _place(cells: np.ndarray, key: int, now: int) -> int:
        found = np.flatnonzero(cells[_KEY] == key)
        if found.size:
            return int(found[0])
        # The one that has been asked for nothing, and of these the one whose pause ends first.
        until = np.maximum(cells[_ASKED], cells[_OURS])
        until[cells[_ROWS:].any(axis=0)] = np.iinfo(np.int64).max
        until[until <= now] = 0
        at = int(until.argmin())
        cells[[_ASKED, _OURS, _PAUSE], at] = 0
        cells[_KEY, at] = key
        return at


class Visit:
    """The requests of one fetch, which has at most one in flight.

    Args:
      courtesy: of this process, or of those it shares it with.
      most: requests that may be in flight at one host; 0 for any number.
      ends_at: by the monotonic clock, in seconds: no longer is waited for a turn.
    """

    def __init__(self, courtesy: Courtesy, most: int, ends_at: Callable[[], float]):
        self._courtesy = courtesy
        self._most = most
        self._ends_at = ends_at
        self._at: int | None = None
        self._since_ns = 0

    def begin(self, host: str) -> None:
        """Waits for a turn at a host, having left the last one; see `Courtesy.begin`."""
        self.leave()
        self._at = self._courtesy.begin(host, self._most, self._ends_at())
        self._since_ns = self._courtesy.now_ns()

    def leave(self) -> None:
        """The answer was read, or there is none."""
        if self._at is not None:
            self._courtesy.end(self._at)
            self._at = None

    def heed(self, asked_sec: float, tries: Any) -> None:
        """A host refuses, and all processes leave it alone for a while.

        Args:
          asked_sec: how long it wants to be left alone; 0 if it does not say.
          tries: the pauses where it does not, a `transforms.storage.http_fetch.Tries`.
        """
        if self._at is None:
            return
        if asked_sec:
            self._courtesy.pause(self._at, asked_sec)
        else:
            self._courtesy.slow_down(
                self._at, self._since_ns, tries.pause_sec, tries.most_pause_sec
            )

    def went_well(self) -> None:
        """A host has given what was asked for."""
        if self._at is not None:
            self._courtesy.went_well(self._at)


class _Current:
    courtesy = Courtesy.of_one()


def current() -> Courtesy:
    """That of this process."""
    return _Current.courtesy


def share(courtesy: Courtesy) -> None:
    """From now on, this process has a table together with others."""
    _Current.courtesy = courtesy
