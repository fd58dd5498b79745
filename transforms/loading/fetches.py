"""Fetches in progress: a thread that is stuck in the system cannot be stopped, so it is abandoned.

A file system whose server is gone, a name server that does not answer: no timeout of ours reaches
into such a call.  Its image has failed by then, and what comes late is dropped.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from transforms.core.errors import StoreError
from transforms.core.uris import printable


class Patience(NamedTuple):
    """When a call that does not return is given up.

    Attributes:
      watch_sec: interval at which slow calls are checked.
      grace_sec: how long after it was first seen to be overdue a fetch is given up.
      most_stuck: threads of a process that may be stuck, beside those that are waited for; each
        has 8 MB of stack.
    """

    watch_sec: float = 1.0
    grace_sec: float = 1.0
    most_stuck: int = 100


class GivenUpError(Exception):
    """Nobody waits any longer for what this thread fetches."""


class _Fetch:
    def __init__(self, ticket: object, give_back: Callable[[], None], since: float):
        self.ticket = ticket
        self.give_back = give_back
        self.since = since
        self.overdue_since: float | None = None


class Fetches:
    """Who fetches what, and since when; thread-safe.

    Args:
      deadline_sec: longest time one may take, not counting `paused`.
      patience: with calls that do not return.
      clock: seconds.
    """

    def __init__(
        self,
        deadline_sec: float,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.deadline_sec = deadline_sec
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, _Fetch] = {}  # by thread
        self._stuck: set[int] = set()  # threads

    @contextlib.contextmanager
    def one(self, ticket: object, give_back: Callable[[], None]) -> Iterator[None]:
        """Held while this thread fetches.

        Args:
          ticket: what `overdue` returns for it.
          give_back: called as soon as it is given up, not only when the thread returns.

        Raises:
          GivenUpError: it has taken too long.
        """
        thread = threading.get_ident()
        with self._lock:
            self._running[thread] = _Fetch(ticket, give_back, self._clock())
        try:
            yield
        finally:
            with self._lock:
                is_given_up = self._running.pop(thread, None) is None
                self._stuck.discard(thread)
            if is_given_up:
                raise GivenUpError

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Held while this thread waits for something of our own during a fetch."""
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
                fetch.overdue_since = None
                self._running[thread] = fetch

    def renew(self) -> None:
        """Has the deadline of this thread's fetch run anew: what several need is on its way.

        Raises:
          GivenUpError: it has taken too long already.
        """
        with self._lock:
            fetch = self._running.get(threading.get_ident())
            if fetch is None:
                raise GivenUpError
            fetch.since = self._clock()
            fetch.overdue_since = None

    def overdue(self) -> list[object]:
        """Gives up what takes too long; returns its tickets.

        Not the first time it is seen: a decoder may have held the interpreter's lock meanwhile.
        """
        now = self._clock()
        found = []
        with self._lock:
            for thread, fetch in list(self._running.items()):
                if now - fetch.since <= self.deadline_sec:
                    continue
                if fetch.overdue_since is None:
                    fetch.overdue_since = now
                elif now - fetch.overdue_since >= self._patience.grace_sec:
                    del self._running[thread]
                    self._stuck.add(thread)
                    fetch.give_back()
                    found.append(fetch.ticket)
        return found

    def check_stuck(self, uri: str) -> None:
        """Checks that there is a thread left for an image.

        Raises:
          StoreError: too many are stuck.
        """
        if len(self._stuck) >= self._patience.most_stuck:
            raise StoreError(
                f'{printable(uri)}: not read, because {len(self._stuck)} earlier reads have not '
                f'returned, each given up after {self.deadline_sec:g} s (--fetch_deadline_sec). '
                'Is a file system or a name server down? See the dead letters, and resume the '
                'run when it is back'
            )

    @property
    def stuck(self) -> int:
        """How many threads are stuck."""
        return len(self._stuck)

    def slow(self, seconds: float) -> int:
        """How many have taken so long already."""
        before = self._clock() - seconds
        with self._lock:
            return sum(fetch.since < before for fetch in self._running.values())
