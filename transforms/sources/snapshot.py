"""The snapshot of a run's listing, taken before anything is done with it.

A resumed run sees the same refs, and so the same chunks.  URLs that carry secrets are never
written: they are read from the manifest again.
"""

import hashlib
import itertools
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from transforms.core.elements import Ref
from transforms.core.errors import DamagedError, StoreError
from transforms.output.layout import RunPaths
from transforms.output.results import from_ipc, to_ipc
from transforms.storage.sealed import open_json, seal_json

# A part is put together in memory, and read as a whole.
_PART_REFS = 100_000
_PART_CHARS = 8 * 2**20
_THREADS = 16
_MOST_WHYS = 100  # suffixes may be as many as there are files
_INDEX = 'input-'
_SCHEMA = pa.schema(
    [
        ('uri', pa.string()),
        ('version', pa.string()),
        ('size_bytes', pa.int64()),
        ('carried', pa.string()),
        ('reason', pa.string()),
        ('detail', pa.string()),
        ('checksum', pa.string()),
    ]
)


class Frozen(NamedTuple):
    """The snapshot of one input's listing.

    Attributes:
      parts: name and SHA-256 of each file.
      left_out: how many of its files were left out, by why, and by suffix.
      is_signed: whether some of its refs are fetched by URLs that were not written.
    """

    parts: list[tuple[str, str]]
    left_out: dict[str, int]
    is_signed: bool


def folder(layout: RunPaths) -> str:
    """Where it is, relative to the output."""
    return f'{layout.work_folder}/listing'


def _index_uri(layout: RunPaths, number: int) -> str:
    return layout.uri(f'{folder(layout)}/{_INDEX}{number:05d}.json')


def is_listed(layout: RunPaths, paths: Iterable[str]) -> bool:
    """Whether the listing of any input is finished, by the paths of a run's work."""
    return any(path.startswith(f'{folder(layout)}/{_INDEX}') for path in paths)


def find(layout: RunPaths, number: int) -> Frozen | None:
    """The snapshot of an input, or None if none was finished.

    Raises:
      StoreError: it is damaged.
    """
    try:
        return _read_index(layout, number)
    except DamagedError as e:
        raise _damaged(str(e)) from e


def freeze(layout: RunPaths, number: int, refs: Iterable[Ref | str]) -> Frozen:
    """Writes the snapshot of an input; if two try, the first one's counts for both.

    Args:
      layout: the output.
      number: place of the input on the command line, from 0.
      refs: what is listed; a string stands for a file that is left out, and says why.
    """
    # Parts of an attempt that lost, or was killed, are named by no index.
    attempt = secrets.token_hex(4)
    left_out: dict[str, int] = {}
    parts = []
    is_signed = False

    def kept() -> Iterator[Ref]:
        for ref in refs:
            if isinstance(ref, str):
                if ref not in left_out and len(left_out) >= _MOST_WHYS:
                    ref = ref.partition('/')[0]
                left_out[ref] = left_out.get(ref, 0) + 1
            else:
                yield ref

    for count, part in enumerate(_parts(kept())):
        is_signed = is_signed or any(ref.access for ref in part)
        name = f'{number:05d}-{attempt}-{count:05d}.arrow'
        data = to_ipc(_table(part))
        layout.store.write(layout.uri(f'{folder(layout)}/{name}'), data)
        parts.append((name, hashlib.sha256(data).hexdigest()))
    frozen = Frozen(parts, left_out, is_signed)
    index = seal_json(frozen._asdict())
    if layout.store.create(_index_uri(layout, number), index):
        return frozen
    return find(layout, number) or frozen


def _parts(refs: Iterable[Ref]) -> Iterator[list[Ref]]:
    part: list[Ref] = []
    chars = 0
    for ref in refs:
        part.append(ref)
        chars += len(ref.uri) + len(ref.carried) + len(ref.detail)
        if len(part) == _PART_REFS or chars >= _PART_CHARS:
            yield part
            part, chars = [], 0
    if part:
        yield part


def read_part(layout: RunPaths, name: str, sha256: str) -> Iterator[Ref]:
    """The refs of a part of a snapshot, without their `access`.

    Raises:
      StoreError: it is missing or damaged.
    """
    try:
        data = _read_part(layout, name, sha256)
    except DamagedError as e:
        raise _damaged(str(e)) from e
    *columns, checksums = (column.to_pylist() for column in from_ipc(data).columns)
    signed = itertools.repeat('')
    yield from itertools.starmap(Ref, zip(*columns, signed, checksums, strict=False))


def check(layout: RunPaths, inputs: int) -> None:
    """Reads the snapshot of a run, as an attempt that resumes it will.

    Args:
      layout: the output, and the run.
      inputs: how many there are; those whose listing was not finished will be listed.

    Raises:
      DamagedError: a file is missing or damaged; names it.
    """
    for number in range(inputs):
        found = _read_index(layout, number)
        if found is not None:
            with ThreadPoolExecutor(_THREADS) as pool:
                for _ in pool.map(lambda part: len(_read_part(layout, *part)), found.parts):
                    pass


def _read_index(layout: RunPaths, number: int) -> Frozen | None:
    uri = _index_uri(layout, number)
    data = layout.store.read(uri)
    if data is None:
        return None
    try:
        index, is_sealed = open_json(data)
        parts = [(str(name), str(sha256)) for name, sha256 in index['parts']]
        found = Frozen(parts, dict(index['left_out']), bool(index['is_signed']))
    except (ValueError, LookupError, TypeError) as e:
        raise DamagedError(uri) from e
    if not is_sealed:
        raise DamagedError(uri)
    return found


def _read_part(layout: RunPaths, name: str, sha256: str) -> bytes:
    uri = layout.uri(f'{folder(layout)}/{name}')
    data = layout.store.read(uri)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(uri)
    return data


def _table(refs: list[Ref]) -> pa.Table:
    columns: dict[str, Any] = dict(zip(Ref._fields, zip(*refs, strict=True), strict=True))
    arrays = [pa.array(columns[field.name], field.type) for field in _SCHEMA]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _damaged(uri: str) -> StoreError:
    return StoreError(
        f'{uri}, part of the snapshot this run started with, is missing or damaged: pass '
        '--relist to list the inputs again'
    )
