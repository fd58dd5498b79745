"""What unfinished runs have left under `_work`: enough to resume or to remove them."""

import contextlib
import functools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.json_object import JsonObject
from transforms.core.waiting import alive
from transforms.output.layout import RUN_ID, RunPaths
from transforms.storage.base import Store
from transforms.storage.sealed import open_json, seal_json

FORMAT = 2
"""Format of everything under `_work`; work of another format is neither read nor written."""

_FOLDER = '_work'
_PUBLISHED_IN = ('predictions', 'dead_letters', 'runs')
_PUBLISHED = re.compile(
    r'(?:predictions|dead_letters)/model=[^/]+/run=([^/]+)/(?:.+/)?part-\d{5,}-of-\d{5,}\.parquet'
    r'|runs/([^/]+)/dead_versions/part-\d{5,}-of-\d{5,}\.parquet'
)
_CHUNKS = 'chunks/'
_CHUNK = re.compile(_CHUNKS + r'[0-9a-f]{16}\.arrow')
_TEMPORARY = re.compile(
    r'\.(dataset\.json|latest\.sql|report\.json|report\.html|_lease\.json|[\w-]+\.parquet)'
    r'\.[0-9a-f]{8}\.tmp'
)
_OURS = re.compile(
    r'(run|commit)\.json|probe-[0-9a-f]{12}(/.+)?|chunks/[0-9a-f]{16}(\.part)?(-\d+)?\.arrow|staged/.+'
    r'|listing/(input-\d{5}\.json|\d{5}-[0-9a-f]{8}-\d{5}\.arrow)'
    # What a killed process leaves of a local file that was not whole yet.
    r'|(.*/)?\.[^/]+\.[0-9a-f]{8}\.tmp'
)


class Begun(NamedTuple):
    """How a run was started; all its attempts share it.

    Attributes:
      started_at: when, UTC, in ISO 8601.
      sequence: its place among the runs of the output.
      earlier: ids of the runs whose results it takes into account.
      options: those that decide its output.
    """

    started_at: str
    sequence: int
    earlier: list[str]
    options: dict[str, Any]


class Unfinished(NamedTuple):
    """The work of a run.

    Attributes:
      run_id: its id.
      paths: every file of it, relative to the output.
      size_bytes: of all of them.
      chunks: how many of its chunks are finished.
      has_begun: whether it has written how it was started.
    """

    run_id: str
    paths: list[str]
    size_bytes: int
    chunks: int
    has_begun: bool

    @property
    def has_results(self) -> bool:
        """Whether anything is finished, if only a part of a chunk."""
        return any(f'/{_CHUNKS}' in path for path in self.paths)

    def __str__(self) -> str:
        chunks = f'{self.chunks:,} completed chunk{"s" if self.chunks != 1 else ""}'
        if self.has_results and not self.chunks:
            chunks = 'parts of a chunk'
        return f'{chunks}, {self.size_bytes / 1e6:,.1f} MB'


def unfinished(output: str, store: Store) -> list[Unfinished]:
    """The work found below an output, by run id; what no run has written is left out."""
    folder = uris.join(output, _FOLDER)
    if not store.is_folder(folder):
        return []
    prefix = len(uris.join(folder, ''))
    found: dict[str, Unfinished] = {}
    for entry in store.list(folder):
        run_id, _, name = entry.uri[prefix:].partition('/')
        if not RUN_ID.fullmatch(run_id) or not _OURS.fullmatch(name):
            continue
        run = found.get(run_id, Unfinished(run_id, [], 0, 0, False))
        run.paths.append(f'{_FOLDER}/{run_id}/{name}')
        found[run_id] = run._replace(
            size_bytes=run.size_bytes + max(0, entry.size_bytes),
            chunks=run.chunks + bool(_CHUNK.fullmatch(name)),
            has_begun=run.has_begun or name == 'run.json',
        )
    return [found[run_id] for run_id in sorted(found)]


def run_of(path: str) -> str | None:
    """The run that has published a file, relative to the output; None if none has."""
    match = _PUBLISHED.fullmatch(path)
    run_id = match and (match[1] or match[2])
    return run_id if run_id and RUN_ID.fullmatch(run_id) else None


def published(output: str, store: Store) -> dict[str, set[str]]:
    """The folders of what runs have published, or partly so, by run id; relative to the output."""
    found: dict[str, set[str]] = {}
    prefix = len(uris.join(output, ''))
    for folder in _PUBLISHED_IN:
        if store.is_folder(uris.join(output, folder)):
            for entry in store.list(uris.join(output, folder)):
                path = entry.uri[prefix:]
                run_id = run_of(path)
                if run_id is not None:
                    found.setdefault(run_id, set()).add('/'.join(path.split('/')[:3]))
    return found


def _uri(layout: RunPaths) -> str:
    return layout.uri(f'{layout.work_folder}/run.json')


def begun(layout: RunPaths) -> Begun | None:
    """How a run was started; None if it was not.

    Raises:
      UsageError: it was started by another version of Lemmabeam.
      StoreError: the file is damaged.
    """
    uri = _uri(layout)
    data = layout.store.read(uri)
    if data is None:
        return None
    try:
        content, is_sealed = open_json(data)
        found = JsonObject(content)
        there = found.count('format')
        if there == FORMAT:
            if not is_sealed:
                raise DamagedError('its checksum is missing')
            return Begun(
                found.text('started_at'),
                found.count('sequence'),
                list(found.texts('earlier')),
                found.object('options').values,
            )
    except DamagedError as e:
        raise StoreError(
            f'{uri} is damaged, so run {layout.run_id} cannot be resumed: choose another '
            f'--run_id, or remove its work with `lemmabeam clean {layout.output}`'
        ) from e
    raise UsageError(
        f'{uri}: run {layout.run_id} was started by another version of Lemmabeam (its work has '
        f'format {there}, this version uses {FORMAT}): finish it with that version, choose '
        f'another --run_id, or remove its work with `lemmabeam clean {layout.output}`'
    )


def begin(layout: RunPaths, run: Begun) -> None:
    """Records how a run is started."""
    content = {'format': FORMAT, **run._asdict()}
    layout.store.write(_uri(layout), seal_json(content))


def leave_nothing(layout: RunPaths) -> bool:
    """Removes the work of a run of which no chunk is finished and nothing is committed.

    Only for who holds the lease.

    Returns:
      Whether nothing of it is left.
    """
    folder = layout.uri(layout.work_folder)
    if not layout.store.is_folder(folder):
        return True
    found = [entry.uri for entry in layout.store.list(folder)]
    names = [uri[len(uris.join(folder, '')) :] for uri in found]
    if any(name.startswith(_CHUNKS) or name == 'commit.json' for name in names):
        return False
    # What is left when this is interrupted belongs to no run that has begun.
    for uri in sorted(found, key=lambda uri: uri != _uri(layout)):
        layout.store.delete(uri)
    if layout.is_local:
        layout.store.within('deleting', folder, lambda: _remove_empty(folder))
    return True


def _remove_empty(folder: str) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        alive()
        with contextlib.suppress(OSError):  # most are not, or something is there that is not ours
            Path(path).rmdir()


def is_temporary(path: str) -> bool:
    """Whether a file is a temporary one, to be renamed to one of ours once complete."""
    return _TEMPORARY.fullmatch(path.rpartition('/')[2]) is not None


def remove_temporaries(layout: RunPaths, *, everywhere: bool = False) -> None:
    """Removes local files that a killed process had not renamed yet.

    Only for the holder of the lease: those of others may be in progress.

    Args:
      layout: the output.
      everywhere: also those beside published files, which only `forget` writes one by one: there
        may be many folders.
    """
    if not layout.is_local:
        return
    top = Path(layout.output)
    looked = functools.partial(_remove_temporaries, top, everywhere=everywhere)
    layout.store.within('listing', layout.output, looked)


def _remove_temporaries(top: Path, *, everywhere: bool) -> None:
    folders = [top, top / 'vocabularies', top / _FOLDER, *top.glob('runs'), *top.glob('runs/*')]
    pattern = '**/.*.tmp' if everywhere else '.*.tmp'
    for folder in [top] if everywhere else folders:
        for path in folder.glob(pattern):
            alive()
            if is_temporary(path.name):
                path.unlink(missing_ok=True)


def remove_empty_folders(layout: RunPaths) -> None:
    """Removes empty folders of runs, as a kill may leave them; object stores have none.

    Only for who holds the lease.
    """
    if not layout.is_local:
        return
    for name in (_FOLDER, *_PUBLISHED_IN):
        folder = layout.uri(name)
        layout.store.within('deleting', folder, functools.partial(_remove_empty, folder))
