"""Turns at a container whose reader goes on from where it is, and pays for going back."""

import itertools
import threading
from typing import NamedTuple

from transforms.core.members import Place

_FIRST = Place(0, 0)


class _Waiting(NamedTuple):
    place: Place
    number: int
    may_go: threading.Lock


class Turn:
    """A lock for one thread at a time.

    Of those that wait, who wants something of the block that was read last comes first, and then
    who wants what lies first; in the order in which they came where that is the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._is_taken = False
        self._block = 0
        self._waiting: list[_Waiting] = []

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def acquire(self, timeout_sec: float, place: Place = _FIRST) -> bool:
        """Waits for the turn, so many seconds at most; returns whether it has come.

        Args:
          timeout_sec: 0 or less does not wait.
          place: of what is to be read.
        """
        with self._lock:
            if not self._is_taken:
                self._take(place)
                return True
            mine = _Waiting(place, next(self._numbers), threading.Lock())
            mine.may_go.acquire()
            self._waiting.append(mine)
        if mine.may_go.acquire(timeout=max(0.0, timeout_sec)):
            return True
        with self._lock:
            if mine not in self._waiting:  # it came in this moment
                return True
            self._waiting.remove(mine)
            return False

    def release(self) -> None:
        """Gives the turn to the next one."""
        with self._lock:
            if not self._waiting:
                self._is_taken = False
                return
            following = min(self._waiting, key=self._order)
            self._waiting.remove(following)
            self._take(following.place)
            following.may_go.release()

    def _take(self, place: Place) -> None:
        self._is_taken = True
        self._block = place.block

    def _order(self, waiting: _Waiting) -> tuple[bool, Place, int]:
        return waiting.place.block != self._block, waiting.place, waiting.number
