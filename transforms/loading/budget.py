"""Bounds the bytes in flight."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

_LARGE = 4  # so many of them, and a share of the room is full


class ByteBudget:
    """A budget of bytes in this process; first come, first served, so a large request gets its
    turn.

    A request above the whole budget is cut down to it: it runs alone.

    Attributes:
      used_bytes: what is taken.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = max(1, limit_bytes)  # with 0, everything would fit at once
        self.used_bytes = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def acquire(self, size_bytes: int) -> int:
        """Waits for free bytes and takes them.

        Returns:
          What was taken, to be given back with `release`.
        """
        size_bytes = min(size_bytes, self._limit_bytes)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is ticket and self.used_bytes + size_bytes <= self._limit_bytes
                )
            )
            self._waiting.popleft()
            self.used_bytes += size_bytes
            self._changed.notify_all()
        return size_bytes

    def has_taken(self, size_bytes: int) -> bool:
        """Takes bytes if they are free and nobody waits for them; give them back with `release`."""
        with self._changed:
            if self._waiting or self.used_bytes + size_bytes > self._limit_bytes:
                return False
            self.used_bytes += size_bytes
            return True

    def release(self, taken: int) -> None:
        """Gives back what was taken."""
        with self._changed:
            self.used_bytes -= taken
            self._changed.notify_all()

    @contextlib.contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Holds room for the length of a with block."""
        taken = self.acquire(size_bytes)
        try:
            yield
        finally:
            self.release(taken)


class Kept:
    """Room in a share for what is kept for later: the rest is enough for any image.

    Args:
      share: of images as well, none of which waits there for more than a `_LARGE`th of it.
      share_bytes: its size.
    """

    def __init__(self, share: ByteBudget, share_bytes: int):
        self._share = share
        self._limit_bytes = share_bytes - share_bytes // _LARGE
        self._lock = threading.Lock()
        self.used_bytes = 0

    def has_taken(self, size_bytes: int) -> bool:
        """As of `ByteBudget`; it never waits."""
        with self._lock:
            if self.used_bytes + size_bytes > self._limit_bytes:
                return False
            if not self._share.has_taken(size_bytes):
                return False
            self.used_bytes += size_bytes
            return True

    def release(self, taken: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self.used_bytes -= taken
            self._share.release(taken)


class SharedBudget:
    """A share of the budget for small requests, and the common budget for larger ones.

    A large one does not wait for its share to be empty, as everybody behind it would wait as well,
    and what the others hold may come slowly.

    Args:
      share_bytes: the share.
      most_bytes: the most that a request of unknown size may need.
      ask: waits until the common budget has this many bytes free, and takes them.
      give_back: returns them.
    """

    def __init__(
        self,
        share_bytes: int,
        most_bytes: int,
        ask: Callable[[int], object],
        give_back: Callable[[int], None],
    ):
        self.share_bytes = share_bytes
        self.most_bytes = most_bytes
        self.share = ByteBudget(share_bytes)
        self.ask = ask
        self.give_back = give_back

    @contextlib.contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Holds room for the length of a with block."""
        with self.admission() as admit:
            admit(size_bytes)
            yield

    @contextlib.contextmanager
    def admission(self) -> Iterator[Callable[[int], None]]:
        """For sizes that become known only while reading.

        Yields:
          A function that waits until this many bytes in total are reserved; 0 gives all back, as
          does the end of the with block.
        """
        room = _Room(self)
        try:
            yield room.hold
        finally:
            room.hold(0)


class _Room:
    """What one image holds.

    Who has a part of the share waits only for the room of all, and there for all that it may need;
    who has that waits for nothing.  So somebody always gets to the end.
    """

    def __init__(self, budget: SharedBudget):
        self._budget = budget
        self._of_share = 0
        self._of_all = 0

    def hold(self, size_bytes: int) -> None:
        """Waits for room for so many bytes in all, and keeps what it has; 0 gives all back."""
        more = size_bytes - self._of_share - self._of_all
        if size_bytes == 0 or (more > 0 and self._of_all):
            self._let_go()
            more = size_bytes
        if more <= 0:
            return
        if self._budget.share.has_taken(more):
            self._of_share += more
        elif self._of_share:
            self._take_of_all(max(more, self._budget.most_bytes))
        elif more > self._budget.share_bytes // _LARGE:
            self._take_of_all(more)
        else:
            self._of_share = self._budget.share.acquire(more)

    def _take_of_all(self, size_bytes: int) -> None:
        self._budget.ask(size_bytes)
        self._of_all = size_bytes

    def _let_go(self) -> None:
        self._budget.share.release(self._of_share)
        if self._of_all:
            self._budget.give_back(self._of_all)
        self._of_share = self._of_all = 0


Budget = ByteBudget | SharedBudget


class Grants:
    """The common budget of all loader processes, given out by the process that started them.

    First come, first served; a request above the limit is cut down to it.  Not thread-safe.

    Args:
      limit_bytes: the budget.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = max(1, limit_bytes)
        self._used: dict[object, list[int]] = {}
        self._waiting: deque[tuple[object, int, Callable[[], None]]] = deque()

    @property
    def is_used(self) -> bool:
        """Whether anybody holds bytes."""
        return bool(self._used)

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody waits for bytes."""
        return bool(self._waiting)

    def ask(self, holder: object, size_bytes: int, granted: Callable[[], None]) -> None:
        """Calls `granted` as soon as the bytes are free."""
        self._waiting.append((holder, size_bytes, granted))
        self._grant()

    def give_back(self, holder: object, size_bytes: int) -> None:
        """Frees what a holder had asked for."""
        held = self._used.get(holder, [])
        if self._cut(size_bytes) in held:
            held.remove(self._cut(size_bytes))
            if not held:
                del self._used[holder]
        self._grant()

    def forget(self, holder: object) -> None:
        """Removes a holder, with all that it had or waited for."""
        self._used.pop(holder, None)
        self._waiting = deque(each for each in self._waiting if each[0] is not holder)
        self._grant()

    def _cut(self, size_bytes: int) -> int:
        return min(size_bytes, self._limit_bytes)

    def _grant(self) -> None:
        while self._waiting:
            holder, size_bytes, granted = self._waiting[0]
            taken = self._cut(size_bytes)
            if sum(map(sum, self._used.values())) + taken > self._limit_bytes:
                return
            self._waiting.popleft()
            self._used.setdefault(holder, []).append(taken)
            granted()
