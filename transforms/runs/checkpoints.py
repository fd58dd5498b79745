"""Checkpoints: what the next attempt at a run need not do again.

The file of a finished chunk is named by its content, created only if absent, and looked for before
the chunk is processed; whoever comes second uses the winner's, so that its rows are the same for
all.

A chunk that takes long has parts meanwhile: the rows of consecutive whole batches, each named by
the place of its first one.  They are removed when the chunk is finished.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms.core.elements import Chunk
from transforms.core.errors import DamagedError, StoreError
from transforms.output import results
from transforms.output.layout import RunPaths
from transforms.storage.sealed import seal, unseal


def folder(layout: RunPaths) -> str:
    """Where they are, relative to the output."""
    return f'{layout.work_folder}/chunks'


def chunk_uri(layout: RunPaths, chunk: Chunk, place: int = 0) -> str:
    """Where the rows of a finished chunk are; at another place if earlier files are damaged.

    A damaged file stays, and is never overwritten: of two workers that find it, one could otherwise
      remove what the other has just finished.
    """
    name = f'{chunk.id}-{place}' if place else chunk.id
    return layout.uri(f'{folder(layout)}/{name}.arrow')


class Found(NamedTuple):
    """What was found of a chunk.

    Attributes:
      data: its rows, an Arrow stream of `outcomes.SCHEMA`, or None if it is not finished.
      damaged: its files that are not as they were written, which are ignored.
    """

    data: bytes | None
    damaged: int


class Parts(NamedTuple):
    """What was found of a chunk that is not finished.

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


def part_uri(layout: RunPaths, chunk: Chunk, start: int) -> str:
    """Where rows of an unfinished chunk are, those from an image on."""
    return layout.uri(f'{folder(layout)}/{chunk.id}.part-{start}.arrow')


def keep_part(layout: RunPaths, chunk: Chunk, start: int, data: bytes) -> None:
    """Keeps rows of an unfinished chunk, unless another worker has done so."""
    layout.store.create(part_uri(layout, chunk, start), seal(data))


def find_parts(layout: RunPaths, chunk: Chunk, most: int | None = None) -> Parts:
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
        parts.tables.append(results.from_ipc(rows))
    return parts


def finish(
    layout: RunPaths, chunk: Chunk, start: int, table: pa.Table, parts: Sequence[int]
) -> bytes:
    """Keeps the rows of a chunk, and removes its parts.

    Args:
      layout: the output.
      chunk: which.
      start: the images before this one were finished by an earlier attempt.
      table: the rows of the others.
      parts: where the parts start that this attempt has kept.

    Returns:
      The rows that count, which may be another worker's.

    Raises:
      StoreError: the rows of the earlier attempt are no longer there.
    """
    before = find_parts(layout, chunk, start) if start else Parts([], 0)
    if before.done != start:
        raise StoreError(
            f'{part_uri(layout, chunk, before.done)}, part of an unfinished chunk, has become '
            'missing or damaged since it was read: run the same command again to redo it'
        )
    if start:
        table = results.join([*before.tables, table])
    data = keep(layout, chunk, results.to_ipc(table))
    starts = itertools.accumulate(map(len, before.tables[:-1]), initial=0) if start else ()
    for each in (*starts, *parts):
        layout.store.delete(part_uri(layout, chunk, each))
    return data


def find(layout: RunPaths, chunk: Chunk) -> Found:
    """Looks for the rows of a chunk."""
    damaged = 0
    while (data := layout.store.read(chunk_uri(layout, chunk, damaged))) is not None:
        rows = _rows(data, chunk)
        if rows is not None:
            return Found(rows, damaged)
        damaged += 1
    return Found(None, damaged)


def keep(layout: RunPaths, chunk: Chunk, data: bytes) -> bytes:
    """Keeps the rows of a chunk; returns those that count, which may be another worker's."""
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
        found: list[str] = results.from_ipc(rows)['uri'].to_pylist()
    except (DamagedError, pa.ArrowException, OSError, LookupError):
        return None
    items = chunk.items if start is None else chunk.items[start : start + len(found)]
    is_it = found == [item.uri for item in items] and (start is None or len(found) > 0)
    return rows if is_it else None
