"""Fetches, decodes and resizes: from chunks of refs to whole batches of pixels.

Loading runs ahead of the consumer, so that an accelerator behind it does not wait, and never
further ahead than the look-ahead and the memory budget allow.
"""

import collections
import time
from collections.abc import Callable, Iterator

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms.core.elements import Batch, Chunk, Failure, images_of
from transforms.core.fail_fast import FailFast, fetch_policy
from transforms.core.resources import LIVE, shared
from transforms.loading.batch import LoadingBatch
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions
from transforms.metrics import counter, distribution
from transforms.sources.preflight import Preflight, check


class _LoadDoFn(beam.DoFn):
    """Emits the batches of a chunk in order, while the next ones are loading.

    The look-ahead crosses chunks: the last batches of one are still being consumed when the first
    ones of the next are on their way.
    """

    def __init__(
        self,
        options: LoadOptions,
        preflight: Preflight | None,
        fail_fast: FailFast,
        when_begun: Callable[[], None],
    ):
        self._options = options
        self._preflight = preflight
        self._fail_fast = fail_fast
        self._when_begun = when_begun
        self._fetch_msec = distribution('fetch_msec')
        self._fetch_retries = counter('fetch_retries')
        self._decode_msec = distribution('decode_msec')
        self._image_bytes = distribution('image_bytes')
        self._wait_msec = distribution('load_wait_msec')
        self._ready_batches = distribution('look_ahead_ready_batches')

    def setup(self) -> None:
        self._loader = shared(Loader, self._options)
        self._policy = fetch_policy(self._fail_fast)
        self._has_begun = False

    def start_bundle(self) -> None:
        self._pending: collections.deque[LoadingBatch] = collections.deque()

    def process(
        self,
        chunk: Chunk,
        window: object = beam.DoFn.WindowParam,
        timestamp: object = beam.DoFn.TimestampParam,
    ) -> Iterator[Batch]:
        self._window, self._timestamp = window, timestamp
        if self._preflight is not None:
            # Not before there is something to do: it reads an image.
            shared(check, self._preflight)
        loader = self._loader
        size = self._options.batch_size
        look_ahead = loader.look_ahead_of(chunk)
        done = 0 if chunk.done % size else chunk.done
        for start in range(done, len(chunk.items), size):
            while self._pending and (len(self._pending) >= look_ahead or not loader.may_look_ahead):
                yield self._next()
            self._pending.append(loader.begin(chunk, start, self._policy))
            # What is known may turn out to be unchanged.
            if not self._has_begun and not all(item.known for item in self._pending[-1].items):
                self._has_begun = True
                self._when_begun()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            yield WindowedValue(self._next(), self._timestamp, [self._window])

    def _next(self) -> Batch:
        ready = sum(batch.is_ready for batch in self._pending)
        started = time.perf_counter()
        try:
            images = self._loader.result(self._pending[0])
        except BaseException:
            for left in self._pending:
                left.cancel()
            raise
        waited_sec = time.perf_counter() - started
        batch = self._pending.popleft()
        outcomes = [image.outcome for image in images]
        ended = zip(batch.items, outcomes, strict=True)
        LIVE.add(failed=sum(images_of(item) for item, each in ended if isinstance(each, Failure)))
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
        return Batch(batch.chunk, batch.start, outcomes, batch.pixels, timings)


class LoadImages(beam.PTransform):
    """PCollection[Chunk] to PCollection[Batch], every image in the slot of its rank.

    Images that cannot be loaded are `Failure`s in the batch.

    Args:
      options: how they are loaded.
      preflight: what each worker tries first; None for nothing.
      fail_fast: when failing images stop the run.
      when_begun: called in each worker as soon as it loads images for the model.
    """

    def __init__(
        self,
        options: LoadOptions,
        preflight: Preflight | None,
        fail_fast: FailFast,
        when_begun: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._when_begun = when_begun
        self._options = options
        self._preflight = preflight
        self._fail_fast = fail_fast

    def expand(self, chunks: beam.PCollection[Chunk]) -> beam.PCollection[Batch]:
        load = _LoadDoFn(self._options, self._preflight, self._fail_fast, self._when_begun)
        return chunks | 'Load' >> beam.ParDo(load).with_output_types(Batch)
