"""Finished chunks: what the next attempt of a run need not do again.

A chunk's file is named by its content, created only if it is absent and looked for before the chunk
is worked; whoever comes second uses the winner's, so that the rows of a chunk are the same for all.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from transforms import outcomes
from transforms.layout import Layout
from transforms.process import LIVE, shared
from transforms.rows import Chunk
from transforms.sealed import DamagedError, seal, unseal

_AHEAD = 16


def folder(layout: Layout) -> str:
    """Where they lie, relative to the output."""
    return f'{layout.work_folder}/chunks'


def chunk_uri(layout: Layout, chunk: Chunk, place: int = 0) -> str:
    """Where the rows of a finished chunk lie; at another place, where the ones before are damaged.

    What is damaged stays, and is never written over: of two workers that find it, one would
    otherwise remove what the other has just finished.
    """
    name = f'{chunk.id}-{place}' if place else chunk.id
    return layout.uri(f'{folder(layout)}/{name}.arrow')


class Found(NamedTuple):
    """What there is of a chunk.

    Attributes:
      data: its rows, an Arrow stream of `outcomes.SCHEMA`, or None if it is not finished.
      damaged: files of it that are not as they were written, and count as none.
    """

    data: bytes | None
    damaged: int


def find(layout: Layout, chunk: Chunk) -> Found:
    """Looks for the rows of a chunk."""
    damaged = 0
    while (data := layout.store.read(chunk_uri(layout, chunk, damaged))) is not None:
        rows = _rows(data, chunk)
        if rows is not None:
            return Found(rows, damaged)
        damaged += 1
    return Found(None, damaged)


def keep(layout: Layout, chunk: Chunk, data: bytes) -> bytes:
    """Keeps the rows of a chunk; returns what counts, which may be another worker's."""
    winner, damaged = None, 0
    while winner is None:
        if layout.store.create(chunk_uri(layout, chunk, damaged), seal(data)):
            return data
        winner, damaged = find(layout, chunk)
    return winner


def _rows(data: bytes, chunk: Chunk) -> bytes | None:
    """What is in a file, unless it is damaged, or another chunk's."""
    try:
        rows = unseal(data)
        found: list[str] = outcomes.from_ipc(rows)['uri'].to_pylist()
    except (DamagedError, pa.ArrowException, OSError, LookupError):
        return None
    return rows if found == [item.uri for item in chunk.items] else None


class _Pending(NamedTuple):
    chunk: Chunk
    found: 'Future[Found]'


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
        self._pending.append(_Pending(chunk, self._pool.submit(find, self._layout, chunk)))
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
        data, damaged = found.result()
        self._ahead = 1 if data is None else _AHEAD
        if damaged:
            yield beam.pvalue.TaggedOutput('stats', ('damaged_chunks', 1.0))
        if data is None:
            yield chunk
            return
        labeled = len(outcomes.labeled(outcomes.from_ipc(data)))
        LIVE.add(labeled=labeled, failed=len(chunk.items) - labeled)
        yield beam.pvalue.TaggedOutput('finished', data)
        yield beam.pvalue.TaggedOutput('stats', ('resumed_chunks', 1.0))
        yield beam.pvalue.TaggedOutput('stats', ('resumed_labeled', float(labeled)))


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
