"""Finished chunks: what the next attempt of a run need not do again.

A chunk's file is named by its content, created only if it is absent and looked for before the chunk
is worked; whoever comes second uses the winner's, so that the rows of a chunk are the same for all.

Of a chunk that takes long there are parts meanwhile: the rows of whole batches that follow each
other, each named by the place of its first one.  They go when the chunk is finished.
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from transforms import outcomes
from transforms.errors import StoreError
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


class Parts(NamedTuple):
    """What there is of a chunk that is not finished.

    Attributes:
      tables: the rows of its first images, in order.
      damaged: whether the next file is not as it was written; it is removed.
    """

    tables: list[pa.Table]
    damaged: int

    @property
    def done(self) -> int:
        """How many images that is."""
        return sum(map(len, self.tables))


def part_uri(layout: Layout, chunk: Chunk, start: int) -> str:
    """Where rows of an unfinished chunk lie, those from an image on."""
    return layout.uri(f'{folder(layout)}/{chunk.id}.part-{start}.arrow')


def keep_part(layout: Layout, chunk: Chunk, start: int, data: bytes) -> None:
    """Keeps rows of an unfinished chunk, unless another worker has done so."""
    layout.store.create(part_uri(layout, chunk, start), seal(data))


def find_parts(layout: Layout, chunk: Chunk, most: int | None = None) -> Parts:
    """Reads the rows of an unfinished chunk, as far as they follow each other.

    Args:
      layout: the output.
      chunk: which.
      most: no more images than this.
    """
    parts = Parts([], 0)
    while parts.done < (len(chunk.items) if most is None else most):
        uri = part_uri(layout, chunk, parts.done)
        seen = layout.store.look(uri)
        if seen is None:
            break
        rows = _rows(seen.data, chunk, parts.done)
        if rows is None:
            # Unlike a chunk's, it would never be reached again.
            layout.store.delete(uri, seen)
            return parts._replace(damaged=1)
        parts.tables.append(outcomes.from_ipc(rows))
    return parts


def finish(
    layout: Layout, chunk: Chunk, start: int, table: pa.Table, parts: Sequence[int]
) -> bytes:
    """Keeps the rows of a chunk, and removes what there is of its parts.

    Args:
      layout: the output.
      chunk: which.
      start: its images before have been finished by an earlier attempt.
      table: the rows of the others.
      parts: where those begin that this attempt has kept.

    Returns:
      What counts, which may be another worker's.

    Raises:
      StoreError: the rows of the earlier attempt are not there any more.
    """
    before = find_parts(layout, chunk, start) if start else Parts([], 0)
    if before.done != start:
        raise StoreError(
            f'{part_uri(layout, chunk, before.done)}, of an unfinished chunk, is missing or '
            'damaged since it was read: the same command does it again'
        )
    if start:
        table = outcomes.join([*before.tables, table])
    data = keep(layout, chunk, outcomes.to_ipc(table))
    starts = itertools.accumulate(map(len, before.tables[:-1]), initial=0) if start else ()
    for each in (*starts, *parts):
        layout.store.delete(part_uri(layout, chunk, each))
    return data


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


def _rows(data: bytes, chunk: Chunk, start: int | None = None) -> bytes | None:
    """What is in a file, unless it is damaged, or another chunk's; of a part, or of all of it."""
    try:
        rows = unseal(data)
        found: list[str] = outcomes.from_ipc(rows)['uri'].to_pylist()
    except (DamagedError, pa.ArrowException, OSError, LookupError):
        return None
    items = chunk.items if start is None else chunk.items[start : start + len(found)]
    is_it = found == [item.uri for item in items] and (start is None or len(found) > 0)
    return rows if is_it else None


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
            yield beam.pvalue.TaggedOutput('finished', outcomes.with_short_texts(data))
            yield beam.pvalue.TaggedOutput('stats', ('resumed_chunks', 1.0))
            tables = [outcomes.from_ipc(data)]
        if tables:
            labeled = sum(len(outcomes.labeled(table)) for table in tables)
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
