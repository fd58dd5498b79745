"""Bounds the bytes in flight."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator


class Budget(ABC):
    """Room for bytes that is taken, and given back."""

    @abstractmethod
    def acquire(self, size_bytes: int) -> int:
        """Waits for room and takes it.

        Returns:
          What was taken, to be given back with `release`.
        """

    @abstractmethod
    def release(self, taken: int) -> None:
        """Gives back what `acquire` returned."""

    @contextlib.contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Holds room for the length of a with block."""
        taken = self.acquire(size_bytes)
        try:
            yield
        finally:
            self.release(taken)

    @contextlib.contextmanager
    def admission(self) -> Iterator[Callable[[int], None]]:
        """For sizes that are known only on the way.

        Yields:
          A function that swaps the room held so far for so many bytes; it holds nothing while it
          waits.  All is given back at the end of the with block.
        """
        held = 0

        def admit(size_bytes: int) -> None:
            nonlocal held
            self.release(held)
            held = 0
            held = self.acquire(size_bytes)

        try:
            yield admit
        finally:
            self.release(held)


class ByteBudget(Budget):
    """Room within this process; first come, first served, so that a large request gets its turn.

    A request above the whole budget is cut down to it: it runs alone.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = max(1, limit_bytes)  # with 0, everything would fit at once
        self._used_bytes = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def acquire(self, size_bytes: int) -> int:
        size_bytes = min(size_bytes, self._limit_bytes)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is ticket
                    and self._used_bytes + size_bytes <= self._limit_bytes
                )
            )
            self._waiting.popleft()
            self._used_bytes += size_bytes
            self._changed.notify_all()
        return size_bytes

    def release(self, taken: int) -> None:
        with self._changed:
            self._used_bytes -= taken
            self._changed.notify_all()


class SharedBudget(Budget):
    """Room of a loader process: a share of its own, and for what is larger the room of all.

    Args:
      share_bytes: what this process may hold without asking.
      ask: waits until the room of all has so many bytes free, and takes them.
      give_back: returns them.
    """

    def __init__(
        self, share_bytes: int, ask: Callable[[int], None], give_back: Callable[[int], None]
    ):
        self._share_bytes = share_bytes
        self._share = ByteBudget(share_bytes)
        self._ask = ask
        self._give_back = give_back

    def acquire(self, size_bytes: int) -> int:
        if size_bytes <= self._share_bytes:
            return self._share.acquire(size_bytes)
        self._ask(size_bytes)
        return size_bytes

    def release(self, taken: int) -> None:
        if taken <= self._share_bytes:
            self._share.release(taken)
        else:
            self._give_back(taken)


class Grants:
    """The room of all loader processes, given out by the process that started them.

    First come, first served; a request above all of it is cut down to it.  Not thread-safe.

    Args:
      limit_bytes: the room.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = max(1, limit_bytes)
        self._used: dict[object, list[int]] = {}
        self._waiting: deque[tuple[object, int, Callable[[], None]]] = deque()

    def ask(self, holder: object, size_bytes: int, granted: Callable[[], None]) -> None:
        """Calls `granted` as soon as there is room."""
        self._waiting.append((holder, size_bytes, granted))
        self._grant()

    def give_back(self, holder: object, size_bytes: int) -> None:
        """What a holder had asked for is free again."""
        held = self._used.get(holder, [])
        if self._cut(size_bytes) in held:
            held.remove(self._cut(size_bytes))
            if not held:
                del self._used[holder]
        self._grant()

    def forget(self, holder: object) -> None:
        """A holder is gone, with all that it had or waited for."""
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
