"""Fetches under way: a thread that is stuck in the system cannot be ended, but is left alone.

A file system whose server is gone, a name server that does not answer: no time-out of ours reaches
into such a call.  What it was to bring has failed by then, and what comes late is dropped.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

MOST_STUCK = 1000
"""Threads that are stuck, beside those that are waited for."""

_GRACE_SEC = 1.0


class GivenUpError(Exception):
    """Nobody waits for what this thread fetches any more."""


class _Fetch:
    def __init__(self, ticket: object, since: float):
        self.ticket = ticket
        self.since = since
        self.overdue_since: float | None = None


class Fetches:
    """Who fetches what, and since when; thread-safe.

    Args:
      deadline_sec: so long one may take, not counting `paused`.
      clock: seconds.
    """

    def __init__(self, deadline_sec: float, clock: Callable[[], float] = time.monotonic):
        self.deadline_sec = deadline_sec
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, _Fetch] = {}  # by thread

    @contextlib.contextmanager
    def one(self, ticket: object) -> Iterator[None]:
        """Held while this thread fetches.

        Args:
          ticket: what `overdue` gives for it.

        Raises:
          GivenUpError: it has taken too long.
        """
        thread = threading.get_ident()
        with self._lock:
            self._running[thread] = _Fetch(ticket, self._clock())
        try:
            yield
        finally:
            with self._lock:
                is_given_up = self._running.pop(thread, None) is None
            if is_given_up:
                raise GivenUpError

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Held while this thread waits for something of ours within a fetch."""
        thread = threading.get_ident()
        with self._lock:
            fetch = self._running.pop(thread, None)
        if fetch is None:
            raise GivenUpError
        paused_at = self._clock()
        try:
            yield
        finally:
            with self._lock:
                fetch.since += self._clock() - paused_at
                self._running[thread] = fetch

    def overdue(self) -> list[object]:
        """Gives up what takes too long; its tickets.

        Not at first sight: a decoder may have held the interpreter's lock meanwhile.
        """
        now = self._clock()
        found = []
        with self._lock:
            for thread, fetch in list(self._running.items()):
                if now - fetch.since <= self.deadline_sec:
                    continue
                if fetch.overdue_since is None:
                    fetch.overdue_since = now
                elif now - fetch.overdue_since >= _GRACE_SEC:
                    del self._running[thread]
                    found.append(fetch.ticket)
        return found

    def slow(self, seconds: float) -> int:
        """How many have taken so long already."""
        before = self._clock() - seconds
        with self._lock:
            return sum(fetch.since < before for fetch in self._running.values())
