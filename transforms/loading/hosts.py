"""Which image is loaded next, so that only the images of a slow host wait for it."""

from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

from transforms.core.uris import LOCAL

T = TypeVar('T')


_LATELY = 1000  # images
_FORGETTING = 256


class Hosts:
    """The hosts of recent images; not thread-safe.

    A single host has all places.  With several, each leaves an eighth to the others, and with local
    files, all hosts together leave them an eighth: what is fast needs no more, and what is slow
    takes longer in proportion.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._count = 0

    def see(self, host: str) -> None:
        """Records that there are images of a host."""
        self._count += 1
        self._seen[host] = self._count
        if self._count % _FORGETTING == 0:
            before = self._count - _LATELY
            self._seen = {each: at for each, at in self._seen.items() if at > before}

    def take(
        self,
        waiting: deque[T],
        host_of: Callable[[T], str],
        busy: Counter[str],
        places: int,
        may: Callable[[T], bool] = lambda _: True,
        has_turn: Callable[[T], bool] = lambda _: True,
    ) -> T | None:
        """Takes the first that may start; None if none may.

        Args:
          waiting: in the order in which they are wanted.
          host_of: the host of one of them, as from `transforms.core.uris.host_of`.
          busy: how many of each host are in progress.
          places: how many may be in progress in all.
          may: whether one may be taken, whatever its host.
          has_turn: whether its host may be asked for one more; asked once a host.
        """
        refused: set[str] = set()  # there may be many of one
        for i, each in enumerate(waiting):
            host = host_of(each)
            if host in refused or not may(each):
                continue
            if has_turn(each) and self._may_begin(host, busy, places):
                del waiting[i]
                return each
            refused.add(host)
        return None

    def _may_begin(self, host: str, busy: Counter[str], places: int) -> bool:
        if self._seen.keys() <= {host}:
            return True
        if host != LOCAL and LOCAL in self._seen:
            places = _less_an_eighth(places)
            if busy.total() - busy[LOCAL] >= places:
                return False
        return busy[host] < _less_an_eighth(places)


def _less_an_eighth(places: int) -> int:
    return max(1, places - max(1, places // 8))
