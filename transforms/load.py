"""Fetches, decodes and resizes: chunks of refs to whole batches of pixels.

Loading runs ahead of the consumer in threads, so that an accelerator behind it does not wait, and
never further ahead than the look-ahead and the memory budget allow.
"""

import collections
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.utils.windowed_value import WindowedValue

from transforms import decode
from transforms.decode import PixelLimits
from transforms.errors import ImageError
from transforms.model.card import Resize
from transforms.process import LIVE, ByteBudget, cpu_count, shared
from transforms.rows import Batch, Chunk, Failure, FetchLimits, Image, Item, Stage
from transforms.storage import DEFAULT_OPTIONS, StoreOptions, store_for


class LoadOptions(NamedTuple):
    """How images are loaded.

    Attributes:
      resize: the square a model takes.
      batch_size: slots a batch.
      fetch: limits of one fetch.
      pixels: limits of one picture.
      memory_budget_bytes: encoded and decoded images in flight in a process, half of it for each.
      threads: images in flight in a process; only as many as there are cores decode at a time.
      stores: how stores are reached.
    """

    resize: Resize
    batch_size: int
    fetch: FetchLimits
    pixels: PixelLimits
    memory_budget_bytes: int
    threads: int
    stores: StoreOptions = DEFAULT_OPTIONS


class Loader:
    """The threads and budgets of a process; make it with `transforms.process.shared`."""

    def __init__(self, options: LoadOptions):
        self._options = options
        self._pool = ThreadPoolExecutor(options.threads, 'load')
        self._decoding = threading.BoundedSemaphore(cpu_count())
        self._encoded = ByteBudget(options.memory_budget_bytes // 2)
        self._decoded = ByteBudget(options.memory_budget_bytes // 2)

    def submit(self, item: Item, pixels: np.ndarray) -> 'Future[_Loaded]':
        """Starts to load an image into its slot."""
        return self._pool.submit(self.load, item, pixels)

    def load(self, item: Item, pixels: np.ndarray) -> '_Loaded':
        """Loads an image into its slot, a (S, S, 3) uint8 array, which stays as it is on failure.

        Raises:
          StoreError: a fault that is no single image's.
        """
        started = time.perf_counter()
        stage = Stage.FETCH
        size_bytes = item.size_bytes
        fetched_at = decode_at = started
        try:
            with self._encoded.admission() as admit:
                store = store_for(item.uri, self._options.stores)
                data, version, _ = store.fetch(item.uri, self._options.fetch, admit)
                size_bytes = len(data)
                fetched_at = time.perf_counter()
                stage = Stage.DECODE
                with self._decoding:
                    decode_at = time.perf_counter()
                    image = self._decode(data, version, pixels)
        except ImageError as e:
            known_bytes = e.size_bytes if e.size_bytes is not None else size_bytes
            outcome: Image | Failure = Failure(
                stage, e.reason, e.detail, known_bytes if known_bytes >= 0 else None
            )
        else:
            outcome = image
        ended = time.perf_counter()
        if stage is Stage.FETCH:
            return _Loaded(outcome, ended - started, 0.0)
        return _Loaded(outcome, fetched_at - started, ended - decode_at)

    def _decode(self, data: bytes, version: str, pixels: np.ndarray) -> Image:
        opened = decode.open_image(data, self._options.resize, self._options.pixels)
        with self._decoded.reserve(opened.working_bytes):
            pixels[:] = decode.render(opened, self._options.resize)
        return Image(
            version,
            hashlib.sha256(data).hexdigest(),
            opened.width,
            opened.height,
            opened.format,
            len(data),
        )


class _Loaded(NamedTuple):
    outcome: Image | Failure
    fetch_sec: float
    decode_sec: float


class _Pending(NamedTuple):
    chunk: Chunk
    start: int
    pixels: np.ndarray
    images: Sequence['Future[_Loaded]']


def load_chunk(chunk: Chunk, loader: Loader, options: LoadOptions) -> Iterator[Batch]:
    """The batches of one chunk, one image after the other: what the pipeline must equal."""
    for start in range(0, len(chunk.items), options.batch_size):
        pixels = _empty_pixels(options)
        items = chunk.items[start : start + options.batch_size]
        images = [loader.load(item, pixels[slot]) for slot, item in enumerate(items)]
        yield _batch(chunk, start, pixels, images)


def _empty_pixels(options: LoadOptions) -> np.ndarray:
    side = options.resize.size_px
    return np.zeros((options.batch_size, side, side, 3), np.uint8)


def _batch(chunk: Chunk, start: int, pixels: np.ndarray, images: Sequence[_Loaded]) -> Batch:
    timings = {
        'fetch': sum(image.fetch_sec for image in images),
        'decode': sum(image.decode_sec for image in images),
    }
    return Batch(chunk, start, [image.outcome for image in images], pixels, timings)


class _LoadDoFn(beam.DoFn):
    """Emits the batches of a chunk in order, while the next ones are loading.

    The look-ahead crosses chunks: the last batches of one are still being consumed when the first
    ones of the next are on their way.
    """

    def __init__(self, options: LoadOptions):
        self._options = options

    def setup(self) -> None:
        self._loader = shared(Loader, self._options)
        # One batch is with the model; two more, or enough to keep every thread busy, are loading.
        self._look_ahead = 1 + max(2, -(-2 * self._options.threads // self._options.batch_size))

    def start_bundle(self) -> None:
        self._pending: collections.deque[_Pending] = collections.deque()

    def process(
        self,
        chunk: Chunk,
        window: object = beam.DoFn.WindowParam,
        timestamp: object = beam.DoFn.TimestampParam,
    ) -> Iterator[Batch]:
        self._window, self._timestamp = window, timestamp
        for start in range(0, len(chunk.items), self._options.batch_size):
            while len(self._pending) >= self._look_ahead:
                yield self._next()
            pixels = _empty_pixels(self._options)
            items = chunk.items[start : start + self._options.batch_size]
            images = [self._loader.submit(item, pixels[i]) for i, item in enumerate(items)]
            self._pending.append(_Pending(chunk, start, pixels, images))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            yield WindowedValue(self._next(), self._timestamp, [self._window])

    def _next(self) -> Batch:
        pending = self._pending[0]
        try:
            images = [future.result() for future in pending.images]
        except BaseException:
            for left in self._pending:
                for future in left.images:
                    future.cancel()
            raise
        self._pending.popleft()
        LIVE.add(failed=sum(isinstance(image.outcome, Failure) for image in images))
        return _batch(pending.chunk, pending.start, pending.pixels, images)


class LoadImages(beam.PTransform):
    """PCollection[Chunk] to PCollection[Batch], every image in the slot of its rank.

    Images that cannot be loaded are `Failure`s in the batch.
    """

    def __init__(self, options: LoadOptions):
        super().__init__()
        self._options = options

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Batch]:
        return chunks | 'Load' >> beam.ParDo(_LoadDoFn(self._options)).with_output_types(Batch)
