"""The cache of downloads, one per machine.

A cache entry is a folder `<key>` that appears whole or not at all, with `<key>.descriptor.txt`
beside it.  For URLs of modules, key and layout are those of the tensorflow_hub library: either
finds what the other has fetched.
"""

import contextlib
import datetime
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from transforms.core import uris
from transforms.core.errors import InvalidOption, ModelError
from transforms.core.hashing import content_hash
from transforms.core.resources import TEMPORARIES
from transforms.model.download.http import Progress
from transforms.model.tensor_files import GRAPHS, graph_in

FOLDER = ' or '.join(GRAPHS.values())
"""What a folder must have at its top to be a model, for people; see `Entry.wanted`."""


class Entry(NamedTuple):
    """A model that is elsewhere, and its place in the cache.

    Attributes:
      key: hex digits, the name of its folder there.
      origin: its name in the descriptor and in messages.
      fill: creates the folder inside an empty one that it is given, and returns its path.
      wanted: the file that makes it complete: the single file of weights, or `FOLDER` for the graph
        at the top of a folder, of whatever format.
    """

    key: str
    origin: str
    fill: Callable[[Path, Progress | None], Path]
    wanted: str = FOLDER

    def find(self, cache: Path) -> Path | None:
        """The folder with the graph, or the file of weights, in the cache."""
        folder = cache / self.key
        if self.wanted == FOLDER:
            return model_in(folder)
        path = folder / self.wanted
        return path if path.is_file() else None


def default_cache() -> Path:
    """$TFHUB_CACHE_DIR, else lemmabeam/models in the user's folder for caches."""
    if shared := os.environ.get('TFHUB_CACHE_DIR'):
        return Path(shared)
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else Path.home() / '.cache') / 'lemmabeam' / 'models'


def tfhub_key(handle: str) -> str:
    """The key of a URL, as the tensorflow_hub library makes it."""
    return hashlib.sha1(handle.encode('utf-8', 'surrogateescape')).hexdigest()


def key_of(*texts: str) -> str:
    """The key of anything else."""
    return content_hash(*texts).hex()[:40]


def model_in(folder: Path) -> Path | None:
    """The folder itself or the one folder in it, whichever holds a graph."""
    if graph_in(folder):
        return folder
    if not folder.is_dir():
        return None
    found = [each for each in folder.iterdir() if graph_in(each)]
    return found[0] if len(found) == 1 else None


def cached(cache: Path, entry: Entry, on_progress: Progress | None = None) -> Path:
    """What an entry holds, filled by one process while the others wait.

    Args:
      cache: folder of all entries.
      entry: what is wanted.
      on_progress: told by `entry.fill`.

    Raises:
      UsageError: the cache cannot be used.
      ModelError: raised by `entry.fill`; or the entry holds something else.
    """
    folder = cache / entry.key
    try:
        # Without the lock first: a cache that is filled may be read-only.
        if found := entry.find(cache):
            return found
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f'{entry.key}.lock'):
            if found := entry.find(cache):
                return found
            if folder.is_dir() and any(folder.iterdir()):
                raise ModelError(f'{folder}: no {entry.wanted} in it; delete this folder')
            with _temporary(cache, entry.key) as temporary:
                _publish(entry.fill(temporary, on_progress), temporary, cache, entry)
    except OSError as e:
        # `fill` has names for its own failures; these are of the cache itself.
        shown = uris.printable(str(cache))
        raise InvalidOption('model_cache', shown, f'cannot be used: {e.strerror}') from e
    return folder if entry.wanted == FOLDER else folder / entry.wanted


def _publish(made: Path, temporary: Path, cache: Path, entry: Entry) -> None:
    # As tensorflow_hub writes it; only people read it.
    descriptor = temporary / 'descriptor.txt'
    descriptor.write_text(
        f'Module: {entry.origin}\nDownload Time: {datetime.datetime.now()}\n'
        f'Downloader Hostname: {socket.gethostname()} (PID:{os.getpid()})'
    )
    try:
        made.rename(cache / entry.key)
    except OSError:
        # tensorflow_hub does not heed our lock; what it has put there meanwhile is as good.
        if not entry.find(cache):
            raise
    descriptor.replace(cache / f'{entry.key}.descriptor.txt')


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock of this machine; a process that dies releases it.

    The file is removed at the end: tensorflow_hub would wait as long as there is one.
    """
    while True:
        with path.open('ab') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_open_as(file.fileno(), path):
                continue  # deleted by the one we waited for
            with TEMPORARIES.hold(path):
                yield
            return


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _temporary(cache: Path, key: str) -> Iterator[Path]:
    """An empty folder in the cache, gone afterwards; needs the lock of this key."""
    # What killed processes have left; the names that tensorflow_hub gives are longer.
    for leftover in cache.glob(f'{key}.{"[0-9a-f]" * 8}.tmp'):
        shutil.rmtree(leftover, ignore_errors=True)
    with TEMPORARIES.hold(cache / f'{key}.{secrets.token_hex(4)}.tmp') as folder:
        folder.mkdir()
        yield folder
