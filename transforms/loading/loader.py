"""The loader of a process: whole batches of pixels, ahead of their consumer."""

import threading
import weakref
from collections.abc import Sequence

import numpy as np

from transforms.core import members
from transforms.core.elements import Chunk
from transforms.core.fail_fast import FaultPolicy
from transforms.core.resources import LIVE
from transforms.core.uris import printable
from transforms.loading.batch import LoadingBatch
from transforms.loading.image import Loaded
from transforms.loading.options import LoadOptions
from transforms.loading.processes import ProcessLoader
from transforms.loading.threads import ThreadLoader


class Loader:
    """Loads batches, in processes or in threads; make it with `transforms.core.resources.shared`.

    Args:
      options: how images are loaded.
      way: what loads them, by default what the options ask for.
    """

    def __init__(self, options: LoadOptions, way: ThreadLoader | ProcessLoader | None = None):
        self._options = options
        self._way = way or (ThreadLoader if not options.process_count else ProcessLoader)(options)
        self._lock = threading.Lock()
        self._batch_bytes = 0
        self._last_runs: tuple[str, list[members.Run | None]] = '', []
        # One batch is with the model; two more, or enough for everybody, are loading.
        in_flight = 2 * max(self._way.fetching, 16)
        self.look_ahead = 1 + max(2, -(-in_flight // options.batch_size))

    def begin(self, chunk: Chunk, start: int, policy: FaultPolicy) -> LoadingBatch:
        """Starts to load the batch of a chunk that begins at one of its images.

        The policy records how each image ended.
        """
        side = self._options.resize.size_px
        shape = (self._options.batch_size, side, side, 3)
        offset, room = self._way.room(int(np.prod(shape)))
        with self._lock:
            self._batch_bytes += room.nbytes
        # Whatever becomes of a bundle, its batches are counted as long as they are there.
        weakref.finalize(room, self._forget, room.nbytes).atexit = False
        batch = LoadingBatch(chunk, start, room.reshape(shape), offset, self._runs(chunk))
        self._way.start(batch, policy)
        return batch

    def _forget(self, size_bytes: int) -> None:
        with self._lock:
            self._batch_bytes -= size_bytes

    def _runs(self, chunk: Chunk) -> Sequence[members.Run | None]:
        """Those of a chunk, which may have many batches; empty where each image is read alone."""
        chunk_id, runs = self._last_runs
        if chunk_id != chunk.id:
            runs = members.runs_of((item.uri, item.version) for item in chunk.items)
            runs = runs if any(runs) else []
            self._last_runs = chunk.id, runs
        return runs

    def look_ahead_of(self, chunk: Chunk) -> int:
        """Batches of a chunk that may be in flight, one of them with the model.

        In an archive in a store, each process reads what lies together, and another what follows.
        """
        runs = self._runs(chunk)
        if not runs:
            return self.look_ahead
        together = len(runs) // len({run.key for run in runs if run})
        wanted = 2 * max(1, self._options.process_count) * together
        return max(self.look_ahead, 1 + -(-wanted // self._options.batch_size))

    @property
    def may_look_ahead(self) -> bool:
        """Whether all bundles of this process together may hold another batch."""
        return self._batch_bytes < self._options.memory_budget_bytes // 4

    def result(self, batch: LoadingBatch) -> list[Loaded]:
        """Waits for the images of a batch.

        Raises:
          DecodeError: a decoder does not return, and there are no loader processes.
          LoaderError: loader processes cannot be started.
          StoreError: a fault that is not a single image's.
        """
        while not batch.wait(self._options.patience.watch_sec):
            missing = batch.missing
            LIVE.wait_for(printable(missing.uri) if missing else '')
            self._way.check()
        LIVE.wait_for('')
        return batch.result()

    def timings(self, images: Sequence[Loaded], waited_sec: float = 0.0) -> dict[str, float]:
        """Seconds by activity: thread time, and how long the model waited for each activity.

        The wait is split by how long each would have taken alone, with all that does it.
        """
        fetch_sec = sum(image.fetch_sec for image in images)
        decode_sec = sum(image.decode_sec for image in images)
        fetch_alone_sec = fetch_sec / self._way.fetching
        decode_alone_sec = decode_sec / self._way.decoding
        share = fetch_alone_sec / ((fetch_alone_sec + decode_alone_sec) or 1.0)
        return {
            'fetch': fetch_sec,
            'decode': decode_sec,
            'fetch_wait': share * waited_sec,
            'decode_wait': (1 - share) * waited_sec,
        }
