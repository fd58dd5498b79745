"""Loading in threads of this process: without loader processes, and for debugging.

A decoder that hangs, takes all memory or crashes then affects this process.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from transforms.core.elements import Failure, Item
from transforms.core.errors import DecodeError
from transforms.core.fail_fast import FaultPolicy
from transforms.core.resources import cpu_count
from transforms.core.uris import host_of
from transforms.loading.batch import LoadingBatch
from transforms.loading.budget import ByteBudget, SharedBudget
from transforms.loading.fetches import Fetches, GivenUpError
from transforms.loading.hosts import Hosts
from transforms.loading.image import ImageLoader, Loaded, overdue
from transforms.loading.options import LoadOptions

_DECODE_DEADLINES = 10


class _Task(NamedTuple):
    batch: LoadingBatch
    slot: int
    policy: FaultPolicy

    @property
    def item(self) -> Item:
        """What is to be loaded."""
        return self.batch.items[self.slot]

    @property
    def host(self) -> str:
        """Where it is."""
        return host_of(self.item.uri)


class ThreadLoader:
    """The threads and budgets of a process.

    Args:
      options: how images are loaded.
      cores: pictures decoded at a time; by default one per core.
    """

    def __init__(self, options: LoadOptions, cores: int | None = None):
        self._options = options
        self.fetching = options.threads
        self.decoding = cores or cpu_count()
        self._pool = ThreadPoolExecutor(options.threads + options.patience.most_stuck, 'load')
        self._fetches = Fetches(options.fetch.deadline_sec, options.patience)
        self._waiting: collections.deque[_Task] = collections.deque()
        self._hosts = Hosts()
        self._busy: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._decodes: dict[int, tuple[str, float]] = {}  # what each thread decodes, since when
        half = options.memory_budget_bytes // 2
        self._images = ImageLoader(
            options,
            _encoded_room(half, options.fetch.max_bytes),
            ByteBudget(half),
            threading.BoundedSemaphore(self.decoding),
            self._watched,
            self._fetches,
        )

    def close(self) -> None:
        """Starts nothing more, and does not wait for what is running."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_idle(self) -> bool:
        """Whether no thread is stuck, and none holds memory for a file or a picture."""
        return not (self._fetches.stuck or self._images.held_bytes)

    def room(self, size_bytes: int) -> tuple[int, np.ndarray]:
        """Where pixels go: 0, as there is no shared memory, and a (size_bytes,) uint8 array."""
        return 0, np.zeros(size_bytes, np.uint8)

    def start(self, batch: LoadingBatch, policy: FaultPolicy) -> None:
        """Starts to load a batch."""
        tasks = [_Task(batch, slot, policy) for slot in range(len(batch.items))]
        with self._lock:
            self._waiting.extend(tasks)
            for task in tasks:
                self._hosts.see(task.host)
        for _ in tasks[: self._options.threads]:
            self._pool.submit(self._work)

    def check(self) -> None:
        """Checks what is being fetched and decoded.

        Raises:
          DecodeError: a picture takes ten times as long as it may.
          StoreError: too many fetches do not return.
        """
        for task in self._fetches.overdue():
            assert isinstance(task, _Task)
            self._end(task, overdue(task.item, self._fetches.deadline_sec))
            self._give_back(task)
            self._pool.submit(self._work)
        if waiting := next(iter(self._waiting), None):
            self._fetches.check_stuck(waiting.item.uri)
        longest_sec = _DECODE_DEADLINES * self._options.decode_deadline_sec
        for uri, since in list(self._decodes.values()):
            if time.perf_counter() - since > longest_sec:
                raise DecodeError(
                    f'{uri}: decoding takes longer than {longest_sec:g} s (ten times '
                    '--decode_deadline_sec), and without loader processes it cannot be '
                    'stopped; leave out --loader_processes 0, or remove the image from the '
                    'input and resume with --relist'
                )

    def load(self, item: Item, pixels: np.ndarray) -> Loaded:
        """Loads one image at once, in this thread."""
        return self._images.load(item, pixels)

    def _work(self) -> None:
        while (task := self._take()) is not None:
            if not self._has_loaded(task):
                return
            self._give_back(task)

    def _take(self) -> '_Task | None':
        most = self._options.threads
        with self._lock:
            if self._busy.total() >= most:
                return None
            task = self._hosts.take(
                self._waiting, lambda each: each.host, self._busy, most, has_turn=self._has_turn
            )
            if task is not None:
                self._busy[task.host] += 1
            return task

    def _has_turn(self, task: _Task) -> bool:
        return self._options.may_ask(task.item.uri, self._busy[task.host])

    def _give_back(self, task: _Task) -> None:
        with self._lock:
            self._busy[task.host] -= 1
            if not self._busy[task.host]:
                del self._busy[task.host]

    def _has_loaded(self, task: _Task) -> bool:
        """Loads an image and tells what became of it; False if it was given up meanwhile."""
        if task.batch.is_cancelled:
            return True
        try:
            run = task.batch.run(task.slot)
            pixels = task.batch.pixels[task.slot]
            loaded = self._images.load(task.item, pixels, task, run)
        except GivenUpError:
            return False
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits for the batch)
            task.batch.fail(e)
        else:
            self._end(task, loaded)
        return True

    def _end(self, task: _Task, loaded: Loaded) -> None:
        failure = loaded.outcome if isinstance(loaded.outcome, Failure) else None
        try:
            task.policy.record(task.item.uri, failure, task.item.failed)
        except BaseException as e:  # noqa: BLE001 (as above)
            task.batch.fail(e)
        else:
            task.batch.put(task.slot, loaded)

    @contextlib.contextmanager
    def _watched(self, item: Item) -> Iterator[None]:
        thread = threading.get_ident()
        self._decodes[thread] = (item.uri, time.perf_counter())
        try:
            yield
        finally:
            del self._decodes[thread]


def _encoded_room(limit_bytes: int, most_bytes: int) -> SharedBudget:
    quarter = max(1, limit_bytes // 2)
    common = ByteBudget(quarter)
    return SharedBudget(
        quarter,
        most_bytes,
        common.acquire,
        lambda size_bytes: common.release(min(size_bytes, quarter)),
    )
