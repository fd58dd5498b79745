"""Takes the items of several sources at once, and gives them as if one source came after the other.

For sources that wait for a store: what they compute shares one interpreter.
"""

import collections
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from transforms.core.waiting import shares_signs

T = TypeVar('T')

_TOGETHER = 500
_LOOK_SEC = 0.5


def one_after_the_other(
    sources: Iterable[Callable[[], Iterable[T]]], at_a_time: int, most_ahead: int = 100_000
) -> Iterator[T]:
    """The items of all sources, in their order; what a source raises is raised in its place.

    Args:
      sources: each gives its items, in a thread of its own if there are several at a time.
      at_a_time: so many sources are read.
      most_ahead: items of all sources together that are held, about.
    """
    waiting = iter(sources)
    if at_a_time == 1:
        for source in waiting:
            yield from source()
        return
    lists = max(1, most_ahead // at_a_time // _TOGETHER)
    reading: collections.deque[_Reading[T]] = collections.deque()
    try:
        while True:
            for source in itertools.islice(waiting, at_a_time - len(reading)):
                reading.append(_Reading(source, lists))
            if not reading:
                return
            yield from reading[0].items()
            reading.popleft()
    finally:
        for each in reading:
            each.end()


class _Reading(Generic[T]):
    def __init__(self, source: Callable[[], Iterable[T]], lists: int):
        self._found: queue.Queue[tuple[list[T], bool, BaseException | None]] = queue.Queue(lists)
        self._is_over = False
        run = shares_signs(lambda: self._take(source))
        threading.Thread(target=run, name='ahead', daemon=True).start()

    def items(self) -> Iterator[T]:
        is_last = False
        while not is_last:
            some, is_last, error = self._found.get()
            yield from some
            if error is not None:
                raise error

    def end(self) -> None:
        self._is_over = True

    def _take(self, source: Callable[[], Iterable[T]]) -> None:
        some: list[T] = []
        error = None
        try:
            for item in source():
                some.append(item)
                if len(some) == _TOGETHER:
                    if not self._hand_over(some, False, None):
                        return
                    some = []
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits)
            error = e
        self._hand_over(some, True, error)

    def _hand_over(self, some: list[T], is_last: bool, error: BaseException | None) -> bool:
        """Whether there was anybody left to take it."""
        while not self._is_over:
            try:
                self._found.put((some, is_last, error), timeout=_LOOK_SEC)
            except queue.Full:
                continue
            return True
        return False
