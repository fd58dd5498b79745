"""The step that takes out chunks which are done; see `transforms.runs.checkpoints`."""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms.core.elements import Chunk
from transforms.core.resources import LIVE, shared
from transforms.output import results
from transforms.output.layout import Layout
from transforms.runs.checkpoints import Found, Parts, find, find_parts

_AHEAD = 16


class _Pending(NamedTuple):
    chunk: Chunk
    found: 'Future[tuple[Found, Parts]]'


class _TakeFinishedDoFn(beam.DoFn):
    """Looks for finished chunks; looks ahead as long as it finds them, for a store takes its time.

    A chunk that is to be worked is looked for just before, so that what another worker has finished
    meanwhile is not done twice.
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

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._pending:
            for output in self._next():
                if isinstance(output, beam.pvalue.TaggedOutput):
                    value = WindowedValue(output.value, self._timestamp, [self._window])
                    yield beam.pvalue.TaggedOutput(output.tag, value)
                else:
                    yield WindowedValue(output, self._timestamp, [self._window])

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

    Expands PCollection[Chunk] to (PCollection[Chunk] of those to work, PCollection[bytes] of the
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
