"""Deadlines for waiting: for listings, and for what a store is asked first.

A call that is stuck in the system cannot be stopped, but it can be abandoned: in a thread that the
process does not wait for when it exits.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from transforms.core.errors import StoreError
from transforms.core.resources import LIVE

T = TypeVar('T')

LEAST_DEADLINE_SEC = 120.0
"""Of what is asked of a store: its client asks several times before it gives up."""

_MOST_AT_A_TIME = 1000
_AT_A_TIME_SEC = 0.5
_LOOK_SEC = 0.5
_of_thread = threading.local()


class _Signs:
    """When the last sign of life was, and whether anybody still waits for one."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.at = clock()
        self.is_over = False


def alive() -> None:
    """Tells whoever waits for the items of this thread that it is still working."""
    signs = getattr(_of_thread, 'signs', None)
    if signs is not None:
        signs.at = signs.clock()


def shares_signs(work: Callable[[], T]) -> Callable[[], T]:
    """The same for another thread, which is then alive for whoever waits for this one."""
    signs = getattr(_of_thread, 'signs', None)

    def run() -> T:
        _of_thread.signs = signs
        return work()

    return run


def each_within(
    deadline_sec: float,
    what: str,
    items: Iterable[T],
    clock: Callable[[], float] = time.monotonic,
    advice: str = '',
) -> Iterator[T]:
    """Items, taken a few ahead by another thread; what that raises is raised here.

    Args:
      deadline_sec: longest time from one item to the next, or to a sign of life by `alive`.
      what: what is being waited for; for progress and messages.
      items: taken in that thread only.
      clock: seconds.
      advice: behind what is said when it takes longer.

    Raises:
      StoreError: it takes longer.
    """
    signs = _Signs(clock)
    found: queue.Queue[tuple[list[T], bool, BaseException | None]] = queue.Queue(1)
    thread = threading.Thread(target=_take, args=(items, found, signs), name='listing', daemon=True)
    thread.start()
    try:
        is_last = False
        while not is_last:
            some, is_last, error = _next(found, signs, deadline_sec, what, advice)
            alive()  # to who waits for this thread
            yield from some
            if error is not None:
                raise error
    finally:
        signs.is_over = True
        LIVE.wait_for('')


def within(deadline_sec: float, what: str, ask: Callable[[], T], advice: str = '') -> T:
    """The result of a call, made in another thread.

    Args:
      deadline_sec: longest time it may take.
      what: what is being asked; for progress and messages.
      ask: the call.
      advice: behind what is said when it takes longer.

    Raises:
      StoreError: it takes longer.
    """
    return next(each_within(deadline_sec, what, (call() for call in (ask,)), advice=advice))


def _next(
    found: 'queue.Queue[tuple[list[T], bool, BaseException | None]]',
    signs: _Signs,
    deadline_sec: float,
    what: str,
    advice: str,
) -> tuple[list[T], bool, BaseException | None]:
    since = signs.clock()  # while nobody asked, nothing had to come
    while True:
        try:
            some = found.get(timeout=min(_LOOK_SEC, deadline_sec))
        except queue.Empty:
            LIVE.wait_for(what)
            if signs.clock() - max(since, signs.at) < deadline_sec:
                continue
            raise StoreError(
                f'{what}: no answer within {deadline_sec:g} s: is the store, the file system or '
                f'the network down?{advice}'
            ) from None
        LIVE.wait_for('')
        return some


def _take(
    items: Iterable[T],
    found: 'queue.Queue[tuple[list[T], bool, BaseException | None]]',
    signs: _Signs,
) -> None:
    _of_thread.signs = signs
    some: list[T] = []
    most = 1  # who wants only the first waits for no other
    error = None
    begun = signs.clock()
    try:
        for item in items:
            signs.at = signs.clock()
            some.append(item)
            if len(some) >= most or signs.at - begun > _AT_A_TIME_SEC:
                if not _hand_over(found, (some, False, None), signs):
                    break
                some, most, begun = [], min(2 * most, _MOST_AT_A_TIME), signs.clock()
    except BaseException as e:  # noqa: BLE001 (it belongs to who waits)
        error = e
    finally:
        if isinstance(items, Iterator) and hasattr(items, 'close'):
            with contextlib.suppress(Exception):
                items.close()
    _hand_over(found, (some, True, error), signs)


def _hand_over(
    found: 'queue.Queue[tuple[list[T], bool, BaseException | None]]',
    some: tuple[list[T], bool, BaseException | None],
    signs: _Signs,
) -> bool:
    """Whether there was anybody left to take it."""
    while not signs.is_over:
        with contextlib.suppress(queue.Full):
            found.put(some, timeout=_LOOK_SEC)
            return True
    return False
