"""The last steps of a run: its files become visible, then its report makes it complete."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from transforms import dead_letters, write
from transforms.errors import StoreError
from transforms.layout import Layout, check_dataset, dataset_spec
from transforms.model.vocabulary import Vocabulary
from transforms.rows import WrittenFile
from transforms.storage import store_for

_KINDS = (write.KIND, dead_letters.KIND)


def publish(layout: Layout, files: Collection[WrittenFile], vocabulary: Vocabulary) -> None:
    """Makes the files of a run visible; safe to repeat.

    Local folders are renamed as a whole.  In object stores the files are in place already and
    only what an interrupted attempt has left beside them is removed.

    Raises:
      StoreError: a file is missing or the store fails.
      UsageError: another run has pinned another layout meanwhile.
    """
    for kind in _KINDS:
        if layout.is_local:
            _rename(layout, kind)
        else:
            _remove_others(layout, kind, {file.path for file in files})
    for file in files:
        if store_for(layout.output).stat(layout.uri(file.path)) is None:
            raise StoreError(f'{layout.uri(file.path)} was written, but is not there')
    store = store_for(layout.output)
    store.create(layout.uri(f'vocabularies/{vocabulary.file_name}'), vocabulary.to_parquet())
    store.create(layout.uri('dataset.json'), to_json(dataset_spec(layout)))
    check_dataset(layout)


def clean_up(layout: Layout) -> None:
    """Removes the work of a run."""
    if layout.is_local:
        shutil.rmtree(layout.uri(layout.work_folder), ignore_errors=True)
        return
    store = store_for(layout.output)
    for entry in store.list(layout.uri(layout.work_folder)):
        store.delete(entry.uri)


def to_json(value: object) -> bytes:
    """JSON as all our files have it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()


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


def _remove_others(layout: Layout, kind: str, paths: Collection[str]) -> None:
    store = store_for(layout.output)
    listed = {layout.uri(path) for path in paths}
    for entry in store.list(layout.uri(layout.run_folder(kind))):
        if entry.uri not in listed:
            store.delete(entry.uri)
