"""Tables by key, in memory or in a temporary folder."""

import contextlib
import tempfile
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path

import pyarrow as pa

from transforms.core.errors import StoreError
from transforms.core.resources import TEMPORARIES


class Spool:
    """Tables by key, in memory or in a folder."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._lock = threading.Lock()
        self._added: defaultdict[Hashable, list[pa.Table]] = defaultdict(list)
        self._tables: dict[Hashable, pa.Table] = {}
        self._numbers: dict[Hashable, int] = {}

    def add(self, key: Hashable, table: pa.Table) -> None:
        """Adds rows to a key; may be called from several threads."""
        with self._lock:
            if self._folder is None:
                self._added[key].append(table)
                return
            number = self._numbers.setdefault(key, len(self._numbers))
            # Opened each time: there may be more keys than a process may have open files.
            path = self._folder / f'{number}.added'
            with (
                _writing(self._folder),
                path.open('ab') as file,
                pa.ipc.new_stream(file, table.schema) as writer,
            ):
                writer.write_table(table)

    def take(self, key: Hashable) -> pa.Table | None:
        """What was added to a key; it is dropped afterwards."""
        if self._folder is None:
            added = self._added.pop(key, None)
            return added and pa.concat_tables(added)
        if key not in self._numbers:
            return None
        path = self._folder / f'{self._numbers[key]}.added'
        size_bytes = path.stat().st_size
        tables = []
        with path.open('rb') as file:
            while file.tell() < size_bytes:
                tables.append(pa.ipc.open_stream(file).read_all())
        path.unlink()
        return pa.concat_tables(tables)

    def put(self, key: Hashable, table: pa.Table) -> None:
        """Keeps the rows of a key."""
        if self._folder is None:
            self._tables[key] = table
            return
        path = str(self._folder / f'{self._numbers[key]}.arrow')
        with (
            _writing(self._folder),
            pa.OSFile(path, 'wb') as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)

    def get(self, key: Hashable) -> pa.Table | None:
        """The rows that were kept; if they are in a file, it is mapped into memory."""
        if self._folder is None:
            return self._tables.get(key)
        if key not in self._numbers:
            return None
        with pa.memory_map(str(self._folder / f'{self._numbers[key]}.arrow')) as file:
            return pa.ipc.open_file(file).read_all()


@contextlib.contextmanager
def spooling(is_large: bool) -> Iterator[Spool]:
    """A spool for the length of a with block, in a temporary folder if it is large.

    Raises:
      StoreError: there is no space, or no folder.
    """
    if not is_large:
        yield Spool(None)
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix='lemmabeam-'))
    except OSError as e:
        raise StoreError(
            f'cannot create a temporary folder: {e.strerror}; set TMPDIR to a '
            'folder that can be written to'
        ) from e
    with TEMPORARIES.hold(folder):
        yield Spool(folder)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise StoreError(
            f'cannot write to {folder}: {e.strerror or e}; set TMPDIR to a folder with more space'
        ) from e
