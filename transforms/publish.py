"""The last steps of a run: its files become visible, then its report makes it complete."""

import itertools
import json
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transforms import dead_letters, write
from transforms.errors import StoreError
from transforms.layout import Layout, check_dataset, dataset_spec
from transforms.model.vocabulary import Vocabulary
from transforms.rows import Entry, WrittenFile
from transforms.storage import Store

_DELETE_THREADS = 16
_DELETE_BATCH = 1000

KINDS = (write.KIND, dead_letters.KIND, dead_letters.VERSIONS)
"""What a run publishes."""


def publish(layout: Layout, files: Collection[WrittenFile], vocabulary: Vocabulary) -> None:
    """Makes the files of a run visible; safe to repeat.

    Local folders are renamed as a whole.  In object stores the files are in place already.  What an
    interrupted attempt has left beside them is removed.

    Raises:
      StoreError: a file is missing or the store fails.
      UsageError: another run has pinned another layout meanwhile.
    """
    store = layout.store
    store.create(layout.uri('dataset.json'), to_json(dataset_spec(layout)))
    check_dataset(layout)
    store.create(layout.uri(f'vocabularies/{vocabulary.file_name}'), vocabulary.to_parquet())
    paths = {file.path for file in files}
    # Of two that do the same run at once, under --break_lease, the second leaves what the first has
    # published: the same bytes, while what the second has staged may be removed under its hands.
    is_complete = store.stat(layout.uri(layout.report_path)) is not None
    for kind in KINDS:
        _remove_others(layout, layout.staged_uri(layout.run_folder(kind)), paths)
        if layout.is_local and not is_complete:
            _rename(layout, kind)
    for path in paths:
        if store.stat(layout.uri(path)) is None:
            raise StoreError(f'{layout.uri(path)} was written, but is not there')


def clean_up(layout: Layout) -> None:
    """Removes the work of a run."""
    remove_tree(layout, layout.work_folder)


def discard(layout: Layout) -> None:
    """Removes what an attempt has written of a run without a report, but for its progress."""
    remove_tree(layout, f'{layout.work_folder}/staged')
    if layout.store.stat(layout.uri(layout.report_path)) is None:
        for kind in KINDS:
            remove_tree(layout, layout.run_folder(kind))


def to_json(value: object) -> bytes:
    """JSON as all our files have it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()


def remove_tree(layout: Layout, path: str) -> None:
    """Removes everything below a path of the output; nothing there is fine, too."""
    if layout.is_local:
        shutil.rmtree(layout.uri(path), ignore_errors=True)
        return
    _delete(layout.store, layout.store.list(layout.uri(path)))


def _rename(layout: Layout, kind: str) -> None:
    staged = Path(layout.staged_uri(layout.run_folder(kind)))
    final = Path(layout.uri(layout.run_folder(kind)))
    if not staged.exists():  # an earlier attempt of this step came that far
        return
    try:
        if final.exists():
            shutil.rmtree(final)  # of an attempt without a report
        final.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(final)
    except OSError as e:
        raise StoreError(f'cannot publish {final}: {e.strerror}') from e


def _remove_others(layout: Layout, folder: str, paths: Collection[str]) -> None:
    store = layout.store
    if layout.is_local and not store.is_folder(folder):
        return
    listed = {layout.staged_uri(path) for path in paths}
    _delete(store, (entry for entry in store.list(folder) if entry.uri not in listed))


def _delete(store: Store, entries: Iterable[Entry]) -> None:
    """Deletes objects, several at a time: a run of a billion images has kept a million chunks."""
    with ThreadPoolExecutor(_DELETE_THREADS) as pool:
        found = iter(entries)
        while batch := [entry.uri for entry in itertools.islice(found, _DELETE_BATCH)]:
            list(pool.map(store.delete, batch))
