"""Files that options name, wherever they lie."""

import shutil
from pathlib import Path

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.storage.registry import output_store, store_for

_PIECE_BYTES = 2**23


def read(flag: str, name: str, stores: StoreOptions = DEFAULT_OPTIONS) -> bytes:
    """The whole of a small file.

    Args:
      flag: of the option, for messages.
      name: its value.
      stores: how it is reached.

    Raises:
      UsageError: there is no such file, or it lies where none is read whole.
      StoreError: it cannot be read, or its store does not answer.
    """
    uri = uris.absolute(name)
    where = f'{flag} {uris.printable(name)}'
    store = output_store(uri, stores)
    if not uris.scheme_of(uri) and store.is_folder(uri):
        raise UsageError(f'{where}: a folder; expected a file')
    data = store.read(uri)
    if data is None:
        raise UsageError(f'{where}: no such file')
    return data


def copy(uri: str, target: Path) -> None:
    """Copies a large one to a local file that is not there yet.

    Raises:
      UsageError: there is none, or it cannot be read.
      OSError: its store fails, or the target cannot be written.
    """
    with store_for(uri).open(uri) as source, target.open('xb') as file:
        shutil.copyfileobj(source, file, _PIECE_BYTES)
