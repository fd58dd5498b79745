"""Fetches, decodes and resizes: chunks of refs to whole batches of pixels.

Loading runs ahead of the consumer in threads, so that an accelerator behind it does not wait, and
never further ahead than the look-ahead and the memory budget allow.
"""

import collections
import contextlib
import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.utils.windowed_value import WindowedValue

from transforms import decode
from transforms.decode import PixelLimits
from transforms.errors import DecodeError, ImageError
from transforms.faults import FailFast, FaultPolicy, fetch_policy
from transforms.metrics import counter, distribution
from transforms.model.card import Resize
from transforms.preflight import Preflight, check
from transforms.process import LIVE, ByteBudget, cpu_count, shared
from transforms.rows import (
    Batch,
    Chunk,
    Failure,
    Fetched,
    FetchLimits,
    Image,
    Item,
    NotModified,
    Outcome,
    Reason,
    Stage,
    Unchanged,
)
from transforms.storage import DEFAULT_OPTIONS, StoreOptions, store_for

_WATCH_SEC = 1.0
_DECODE_DEADLINES = 10


class LoadOptions(NamedTuple):
    """How images are loaded.

    Attributes:
      resize: the square a model takes.
      batch_size: slots a batch.
      fetch: limits of one fetch.
      pixels: limits of one picture.
      memory_budget_bytes: encoded and decoded images in flight in a process, half of it for each;
        batches that are loaded ahead have a quarter of it on top.
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
        self._cores = cpu_count()
        self._decoding = threading.BoundedSemaphore(self._cores)
        self._encoded = ByteBudget(options.memory_budget_bytes // 2)
        self._decoded = ByteBudget(options.memory_budget_bytes // 2)
        self._decodes: dict[int, tuple[str, float]] = {}  # what each thread decodes, since when
        self._lock = threading.Lock()
        self._batch_bytes = 0

    def empty_batch(self) -> np.ndarray:
        """Room for the pixels of a batch: (batch_size, S, S, 3) uint8 of zeros."""
        side = self._options.resize.size_px
        pixels = np.zeros((self._options.batch_size, side, side, 3), np.uint8)
        with self._lock:
            self._batch_bytes += pixels.nbytes
        # Whatever becomes of a bundle, its batches are counted as long as they are there.
        weakref.finalize(pixels, self._forget, pixels.nbytes).atexit = False
        return pixels

    def _forget(self, size_bytes: int) -> None:
        with self._lock:
            self._batch_bytes -= size_bytes

    @property
    def may_look_ahead(self) -> bool:
        """Whether all bundles of this process together may hold another batch."""
        return self._batch_bytes < self._options.memory_budget_bytes // 4

    def submit(self, item: Item, pixels: np.ndarray, policy: FaultPolicy) -> 'Future[_Loaded]':
        """Starts to `load` an image."""
        return self._pool.submit(self.load, item, pixels, policy)

    def result(self, future: 'Future[_Loaded]') -> '_Loaded':
        """Waits for what `submit` has started.

        Raises:
          DecodeError: some decoding takes ten times as long as a fetch may.
          StoreError: a fault that is no single image's.
        """
        while True:
            try:
                return future.result(_WATCH_SEC)
            except TimeoutError:
                if future.done():
                    raise
                self._check_decodes()

    def _check_decodes(self) -> None:
        longest_sec = _DECODE_DEADLINES * self._options.fetch.deadline_sec
        for uri, since in list(self._decodes.values()):
            if time.perf_counter() - since > longest_sec:
                raise DecodeError(
                    f'{uri}: decoding takes longer than {longest_sec:g} s (ten times '
                    '--fetch_deadline_sec) and cannot be stopped; take it out of the input, and '
                    'look at where it comes from'
                )

    def load(self, item: Item, pixels: np.ndarray, policy: FaultPolicy) -> '_Loaded':
        """Loads an image into its slot, a (S, S, 3) uint8 array, which stays as it is on failure.

        The policy takes note of how it ended.

        Raises:
          StoreError: a fault that is no single image's.
        """
        started = time.perf_counter()
        stage = Stage.FETCH
        size_bytes = item.size_bytes
        version = item.version
        fetched_at = decode_at = started
        retries = 0
        try:
            with self._encoded.admission() as admit:
                fetched = self._fetch(item, admit)
                data, version, retries = fetched.data, fetched.version, fetched.retries
                size_bytes = len(data)
                fetched_at = time.perf_counter()
                stage = Stage.DECODE
                with self._decoding, self._watched(item.uri):
                    decode_at = time.perf_counter()
                    image = self._decode(data, version, pixels)
        except ImageError as e:
            known_bytes = e.size_bytes if e.size_bytes is not None else size_bytes
            outcome: Outcome = Failure(
                stage,
                e.reason,
                e.detail,
                known_bytes if known_bytes >= 0 else None,
                e.version or version,
            )
        except NotModified:
            outcome = Unchanged(item.known)
        else:
            outcome = image
        ended = time.perf_counter()
        policy.record(item.uri, outcome if isinstance(outcome, Failure) else None)
        if stage is Stage.FETCH:
            return _Loaded(outcome, ended - started, 0.0, retries)
        return _Loaded(outcome, fetched_at - started, ended - decode_at, retries)

    def _fetch(self, item: Item, admit: Callable[[int], None]) -> Fetched:
        """The object that was listed, or what has taken its place since: that comes twice.

        A checksum does not tell whether the bytes are those of another object, together with its
        headers.
        """
        store = store_for(item.uri, self._options.stores)

        def ask() -> Fetched:
            uri = item.access or item.uri
            return store.fetch(uri, self._options.fetch, admit, item.known)

        fetched = ask()
        if _is_listed(fetched, item):
            return fetched
        again = ask()
        is_same = (again.version, again.size_bytes) == (fetched.version, fetched.size_bytes)
        if not _is_listed(again, item):
            if again.version == item.version:
                detail = f'{again.size_bytes} bytes, the listing says {item.size_bytes}'
                raise ImageError(Reason.CHECKSUM, detail, again.size_bytes)
            if not is_same:
                raise ImageError(Reason.CHANGED_WHILE_READING, 'another version at each try')
        return again._replace(retries=fetched.retries + 1 + again.retries)

    @contextlib.contextmanager
    def _watched(self, uri: str) -> Iterator[None]:
        thread = threading.get_ident()
        self._decodes[thread] = (uri, time.perf_counter())
        try:
            yield
        finally:
            del self._decodes[thread]

    def timings(self, images: Sequence['_Loaded'], waited_sec: float = 0.0) -> dict[str, float]:
        """Seconds by activity: of threads, and how long the model waited for which of them.

        The wait is split by how long each would have taken alone, with all its threads or cores.
        """
        fetch_sec = sum(image.fetch_sec for image in images)
        decode_sec = sum(image.decode_sec for image in images)
        fetch_alone_sec = fetch_sec / self._options.threads
        decode_alone_sec = decode_sec / self._cores
        share = fetch_alone_sec / ((fetch_alone_sec + decode_alone_sec) or 1.0)
        return {
            'fetch': fetch_sec,
            'decode': decode_sec,
            'fetch_wait': share * waited_sec,
            'decode_wait': (1 - share) * waited_sec,
        }

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


def _is_listed(fetched: Fetched, item: Item) -> bool:
    """Whether version and size are those of the listing, as far as it knows them."""
    has_size = item.size_bytes < 0 or fetched.size_bytes == item.size_bytes
    return has_size and fetched.version == (item.version or fetched.version)


class _Loaded(NamedTuple):
    outcome: Outcome
    fetch_sec: float
    decode_sec: float
    retries: int


class _Pending(NamedTuple):
    chunk: Chunk
    start: int
    pixels: np.ndarray
    images: Sequence['Future[_Loaded]']


def load_chunk(
    chunk: Chunk, loader: Loader, options: LoadOptions, policy: FaultPolicy
) -> Iterator[Batch]:
    """The batches of one chunk, one image after the other: what the pipeline must equal."""
    for start in range(0, len(chunk.items), options.batch_size):
        pixels = loader.empty_batch()
        items = chunk.items[start : start + options.batch_size]
        images = [loader.load(item, pixels[slot], policy) for slot, item in enumerate(items)]
        outcomes = [image.outcome for image in images]
        yield Batch(chunk, start, outcomes, pixels, loader.timings(images))


class _LoadDoFn(beam.DoFn):
    """Emits the batches of a chunk in order, while the next ones are loading.

    The look-ahead crosses chunks: the last batches of one are still being consumed when the first
    ones of the next are on their way.
    """

    def __init__(self, options: LoadOptions, preflight: Preflight, fail_fast: FailFast):
        self._options = options
        self._preflight = preflight
        self._fail_fast = fail_fast
        self._fetch_msec = distribution('fetch_msec')
        self._fetch_retries = counter('fetch_retries')
        self._decode_msec = distribution('decode_msec')
        self._image_bytes = distribution('image_bytes')
        self._wait_msec = distribution('load_wait_msec')
        self._ready_batches = distribution('look_ahead_ready_batches')

    def setup(self) -> None:
        self._loader = shared(Loader, self._options)
        self._policy = fetch_policy(self._fail_fast)
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
        # Not before there is something to do: it reads an image.
        shared(check, self._preflight)
        for start in range(0, len(chunk.items), self._options.batch_size):
            while self._pending and (
                len(self._pending) >= self._look_ahead or not self._loader.may_look_ahead
            ):
                yield self._next()
            pixels = self._loader.empty_batch()
            items = chunk.items[start : start + self._options.batch_size]
            images = [
                self._loader.submit(item, pixels[i], self._policy) for i, item in enumerate(items)
            ]
            self._pending.append(_Pending(chunk, start, pixels, images))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            yield WindowedValue(self._next(), self._timestamp, [self._window])

    def _next(self) -> Batch:
        ready = sum(all(image.done() for image in each.images) for each in self._pending)
        started = time.perf_counter()
        try:
            images = [self._loader.result(future) for future in self._pending[0].images]
        except BaseException:
            for left in self._pending:
                for future in left.images:
                    future.cancel()
            raise
        waited_sec = time.perf_counter() - started
        pending = self._pending.popleft()
        outcomes = [image.outcome for image in images]
        LIVE.add(failed=sum(isinstance(outcome, Failure) for outcome in outcomes))
        self._ready_batches.update(ready)
        self._wait_msec.update(round(1000 * waited_sec))
        self._fetch_retries.inc(sum(image.retries for image in images))
        for image in images:
            self._fetch_msec.update(round(1000 * image.fetch_sec))
            if image.decode_sec:
                self._decode_msec.update(round(1000 * image.decode_sec))
            if image.outcome.size_bytes is not None:
                self._image_bytes.update(image.outcome.size_bytes)
        timings = self._loader.timings(images, waited_sec)
        return Batch(pending.chunk, pending.start, outcomes, pending.pixels, timings)


class LoadImages(beam.PTransform):
    """PCollection[Chunk] to PCollection[Batch], every image in the slot of its rank.

    Images that cannot be loaded are `Failure`s in the batch.

    Args:
      options: how they are loaded.
      preflight: what each worker tries before.
      fail_fast: when failing images stop the run.
    """

    def __init__(self, options: LoadOptions, preflight: Preflight, fail_fast: FailFast):
        super().__init__()
        self._options = options
        self._preflight = preflight
        self._fail_fast = fail_fast

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Batch]:
        load = _LoadDoFn(self._options, self._preflight, self._fail_fast)
        return chunks | 'Load' >> beam.ParDo(load).with_output_types(Batch)
