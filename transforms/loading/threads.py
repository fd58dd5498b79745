"""Loading in threads of this process: where there are no loader processes, and to look for faults.

A decoder that does not come back, that takes all memory or that crashes is this process's, then.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from transforms.errors import DecodeError
from transforms.faults import FaultPolicy
from transforms.loading.batch import LoadingBatch
from transforms.loading.budget import ByteBudget, SharedBudget
from transforms.loading.image import ImageLoader, Loaded
from transforms.loading.options import LoadOptions
from transforms.process import cpu_count
from transforms.rows import Failure, Item

_WATCH_SEC = 1.0
_DECODE_DEADLINES = 10


class ThreadLoader:
    """The threads and budgets of a process.

    Args:
      options: how images are loaded.
    """

    def __init__(self, options: LoadOptions):
        self._options = options
        self.fetching = options.threads
        self.decoding = cpu_count()
        self._pool = ThreadPoolExecutor(options.threads, 'load')
        self._decodes: dict[int, tuple[str, float]] = {}  # what each thread decodes, since when
        half = options.memory_budget_bytes // 2
        self._images = ImageLoader(
            options,
            _encoded_room(half, options.fetch.max_bytes),
            ByteBudget(half),
            threading.BoundedSemaphore(self.decoding),
            self._watched,
        )

    def room(self, size_bytes: int) -> tuple[int, np.ndarray]:
        """Where pixels go: (size_bytes,) uint8, behind a 0 for no place in a shared memory."""
        return 0, np.zeros(size_bytes, np.uint8)

    def start(self, batch: LoadingBatch, policy: FaultPolicy) -> None:
        """Begins to load a batch."""
        for slot in range(len(batch.items)):
            self._pool.submit(self._load, batch, slot, policy)

    def check(self) -> None:
        """Looks at what is decoded at the moment.

        Raises:
          DecodeError: something for ten times as long as a picture may take.
        """
        longest_sec = _DECODE_DEADLINES * self._options.decode_deadline_sec
        for uri, since in list(self._decodes.values()):
            if time.perf_counter() - since > longest_sec:
                raise DecodeError(
                    f'{uri}: decoding takes longer than {longest_sec:g} s (ten times '
                    '--decode_deadline_sec), and without loader processes it cannot be stopped; '
                    'leave --loader_processes 0 out, or take it out of the input'
                )

    def load(self, item: Item, pixels: np.ndarray) -> Loaded:
        """Loads one image at once, in this thread."""
        return self._images.load(item, pixels)

    def _load(self, batch: LoadingBatch, slot: int, policy: FaultPolicy) -> None:
        if batch.is_cancelled:
            return
        try:
            item = batch.items[slot]
            loaded = self._images.load(item, batch.pixels[slot])
            failure = loaded.outcome if isinstance(loaded.outcome, Failure) else None
            policy.record(item.uri, failure, item.failed)
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits for the batch)
            batch.fail(e)
        else:
            batch.put(slot, loaded)

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
