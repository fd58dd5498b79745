"""The steps that make a run resumable: finished chunks are kept, and found again."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.windowed_value import WindowedValue

from transforms.core.elements import Chunk, Failure, Image, LabeledBatch, LateBatch, Stage
from transforms.core.resources import LIVE, shared
from transforms.metrics import distribution
from transforms.output import results
from transforms.output.layout import Layout
from transforms.output.results import outcome_table, to_ipc, with_short_texts
from transforms.runs.checkpoints import Found, Parts, find, find_parts, finish, keep_part

_AHEAD = 16


def _windowed(outputs: Iterable[object], window: object, timestamp: object) -> Iterator[object]:
    """Outputs of a DoFn, including tagged ones, as its `finish_bundle` must emit them.

    Args:
      outputs: as its `process` emits them.
      window, timestamp: those of an element of the bundle.
    """
    for output in outputs:
        if isinstance(output, beam.pvalue.TaggedOutput):
            value = WindowedValue(output.value, timestamp, [window])
            yield beam.pvalue.TaggedOutput(output.tag, value)
        else:
            yield WindowedValue(output, timestamp, [window])


class _Pending(NamedTuple):
    chunk: Chunk
    found: 'Future[tuple[Found, Parts]]'


class _TakeFinishedDoFn(beam.DoFn):
    """Looks for finished chunks; looks ahead as long as it finds them, as stores are slow.

    A chunk is looked for again just before it is processed, so that what another worker has
    finished meanwhile is not done twice.
    """

    def __init__(self, layout: Layout):
        self._layout = layout

    def setup(self) -> None:
        self._pool = shared(_lookup_pool, 'finished')

    def start_bundle(self) -> None:
        self._pending: collections.deque[_Pending] = collections.deque()
        self._ahead = 1

    def process(
        self,
        chunk: Chunk,
        window: object = beam.DoFn.WindowParam,
        timestamp: object = beam.DoFn.TimestampParam,
    ) -> Iterator[Chunk | beam.pvalue.TaggedOutput]:
        self._window, self._timestamp = window, timestamp
        self._pending.append(_Pending(chunk, self._pool.submit(_find_all, self._layout, chunk)))
        while len(self._pending) >= self._ahead:
            yield from self._next()

    def finish_bundle(self) -> Iterator[object]:
        while self._pending:
            yield from _windowed(self._next(), self._window, self._timestamp)

    def _next(self) -> Iterator[Chunk | beam.pvalue.TaggedOutput]:
        chunk, found = self._pending.popleft()
        (data, damaged), parts = found.result()
        self._ahead = 1 if data is None else _AHEAD
        if damaged or parts.damaged:
            yield beam.pvalue.TaggedOutput('stats', ('damaged_chunks', 1.0))
        if data is None:
            yield chunk._replace(done=parts.done)
            tables = parts.tables
        else:
            yield beam.pvalue.TaggedOutput('finished', results.with_short_texts(data))
            yield beam.pvalue.TaggedOutput('stats', ('resumed_chunks', 1.0))
            tables = [results.from_ipc(data)]
        if tables:
            tables = [results.with_twins(table)[0] for table in tables]
            labeled = sum(len(results.labeled(table)) for table in tables)
            LIVE.add(labeled=labeled, failed=sum(map(len, tables)) - labeled)
            yield beam.pvalue.TaggedOutput('stats', ('resumed_labeled', float(labeled)))


def _find_all(layout: Layout, chunk: Chunk) -> tuple[Found, Parts]:
    found = find(layout, chunk)
    return found, find_parts(layout, chunk) if found.data is None else Parts([], 0)


def _lookup_pool(_: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AHEAD, 'finished')


class TakeFinished(beam.PTransform):
    """Takes out the chunks that an earlier attempt, or another worker, has finished.

    Expands PCollection[Chunk] to (PCollection[Chunk] of those to process, PCollection[bytes] of the
    rows of the others, PCollection[tuple[str, float]] of statistics).
    """

    def __init__(self, layout: Layout):
        super().__init__()
        self._layout = layout

    def expand(
        self, chunks: beam.PCollection[Chunk]
    ) -> tuple[
        beam.PCollection[Chunk], beam.PCollection[bytes], beam.PCollection[tuple[str, float]]
    ]:
        taken = chunks | 'TakeFinished' >> beam.ParDo(
            _TakeFinishedDoFn(self._layout)
        ).with_output_types(Chunk, finished=bytes, stats=tuple[str, float]).with_outputs(
            'finished', 'stats', main='chunks'
        )
        return taken.chunks, taken.finished, taken.stats


_KEEPING_THREADS = 16
"""More than bundles a process: each has one chunk on its way to the store at most."""

PART_SEC = 20.0
"""So much time a kill costs, beside that of the batches that the device has."""


def _finish(
    layout: Layout | None,
    batches: Sequence[LabeledBatch],
    parts: Sequence[tuple[int, Future[None]]],
) -> bytes:
    """Makes the rows of a chunk and keeps them where there is an output; see `finish`."""
    if layout is None:
        return to_ipc(outcome_table(batches))
    for _, kept in parts:
        kept.result()
    first = batches[0]
    starts = [start for start, _ in parts]
    return finish(layout, first.chunk, first.start, outcome_table(batches), starts)


def _keep_part(layout: Layout, batches: Sequence[LabeledBatch]) -> None:
    first = batches[0]
    keep_part(layout, first.chunk, first.start, to_ipc(outcome_table(batches)))


def _keeping_threads(_: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_KEEPING_THREADS, 'keep')


class FinishChunksDoFn(beam.DoFn):
    """Gathers the batches of a chunk and emits its rows when they are kept.

    The batches of a chunk follow each other within one bundle, because everything since the chunk
    is fused and one to one.  Results come late, because the device is waited for only at the end of
    a bundle: what it has done is taken when further batches come, and while a chunk is on its way
    to the store, the next one is computed.  Never more than one is on its way, because a process
    that is killed pays for it again.  Of a chunk that takes long, what is done is kept in parts.

    Args:
      layout: the output; None keeps nothing.
      clock: seconds.
    """

    def __init__(self, layout: Layout | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._infer_msec = distribution('infer_msec')
        self._batch_images = distribution('batch_images')
        self._late: collections.deque[LateBatch] = collections.deque()
        self._keeping: Future[bytes] | None = None
        self._parts: list[tuple[int, Future[None]]] = []

    def setup(self) -> None:
        self._threads = shared(_keeping_threads, 'keep')

    def start_bundle(self) -> None:
        self._drop()  # of a bundle that has failed
        self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._batches: list[LabeledBatch] = []
        self._parts = []
        self._in_parts = 0
        self._kept_at = self._clock()

    @no_annotations  # Beam takes none for several outputs, and says so each time
    def process(
        self,
        batch: LateBatch,
        window: object = beam.DoFn.WindowParam,
        timestamp: object = beam.DoFn.TimestampParam,
    ) -> Iterator[bytes | beam.pvalue.TaggedOutput]:
        self._window, self._timestamp = window, timestamp
        self._late.append(batch)
        while self._late and self._late[0].is_done:
            yield from self._next()
        if self._keeping is not None and self._keeping.done():
            yield from self._kept()

    def finish_bundle(self) -> Iterator[object]:
        for output in self._rest():  # without any batch there is no window
            yield from _windowed([output], self._window, self._timestamp)

    def teardown(self) -> None:
        self._drop()

    def _rest(self) -> Iterator[bytes | beam.pvalue.TaggedOutput]:
        while self._late:
            yield from self._next()
        if self._batches:
            raise RuntimeError(f'a bundle ends within the chunk {self._batches[0].chunk.id}')
        yield from self._kept()

    def _next(self) -> Iterator[bytes | beam.pvalue.TaggedOutput]:
        """Takes the next batch from the device."""
        try:
            batch = self._late.popleft().result()
        except BaseException:
            self._drop()
            raise
        self._batches.append(batch)
        for name, seconds in batch.timings.items():
            yield beam.pvalue.TaggedOutput('stats', (f'{name}_sec', seconds))
        filled = sum(
            isinstance(outcome, Image)
            or (isinstance(outcome, Failure) and outcome.stage is Stage.INFER)
            for outcome in batch.outcomes
        )
        self._infer_msec.update(round(1000 * batch.timings['infer']))
        self._batch_images.update(filled)
        for statistic in (*batch.stats, ('batches', 1.0)):
            yield beam.pvalue.TaggedOutput('stats', statistic)
        yield beam.pvalue.TaggedOutput('stats', ('filled_slots', float(filled)))
        if batch.start + len(batch.outcomes) == len(batch.chunk.items):
            yield from self._kept()
            self._keeping = self._threads.submit(_finish, self._layout, self._batches, self._parts)
            self._begin_chunk()
        elif self._layout is not None and self._clock() - self._kept_at >= PART_SEC:
            part = self._batches[self._in_parts :]
            kept = self._threads.submit(_keep_part, self._layout, part)
            self._parts.append((part[0].start, kept))
            self._in_parts = len(self._batches)
            self._kept_at = self._clock()

    def _kept(self) -> Iterator[bytes]:
        """The chunk that is on its way to the store, once it has arrived."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            yield with_short_texts(keeping.result())

    def _drop(self) -> None:
        """Cancels the rest of a bundle that has failed; what the device has done is kept."""
        while self._late:
            self._late.pop().cancel()
        keeping, self._keeping = self._keeping, None
        parts, self._parts = self._parts, []
        wait([kept for _, kept in parts])
        if keeping is not None:
            wait([keeping])
