"""Brings models from where they are to a local path, once per machine.

A model is a folder with a graph (a SavedModel, or an ONNX model), an archive of one, or a file of
weights.
"""

import functools
import hashlib
import itertools
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from transforms.core import uris
from transforms.core.errors import InvalidOption, ModelError, StoreError
from transforms.core.hashing import content_hash
from transforms.model.download import archive, huggingface, kaggle
from transforms.model.download.archive import ARCHIVES, MOST_FILES
from transforms.model.download.cache import FOLDER, Entry, cached, key_of, tfhub_key
from transforms.model.download.http import PIECE_BYTES, Progress, compressed, download, shown
from transforms.model.onnx_file import files_in
from transforms.model.registry import recognize
from transforms.model.tensor_files import GRAPHS, SUFFIXES, Kind, graph_in, kind_of
from transforms.storage.registry import store_for

_LOADED_FOLDERS = ('assets', 'variables')
_ONNX = GRAPHS[Kind.ONNX]
_EXPECTED = (
    f'a folder with {FOLDER}, an archive of one ({", ".join(ARCHIVES)}), weights '
    f'({", ".join(SUFFIXES)}), gs://bucket/folder, a TF-Hub handle or URL, a Kaggle handle, or '
    'hf://owner/name'
)

_TFHUB = 'https://tfhub.dev/'
_TFHUB_HANDLE = re.compile(r'\w[\w.-]*(/\w[\w.-]*)*/\d+', re.ASCII)
# Of these there is no other version, so that people leave it out.
_BIT_HANDLE = re.compile(
    r'(?:https?://tfhub\.dev/)?google/bit/[sm]-r\d+x\d+(?:/\w+_classification)?/?',
    re.ASCII | re.IGNORECASE,
)
_NOT_IN_NAMES = re.compile(r'[^\w.-]', re.ASCII)


def fetch_model(location: str, cache: str | Path, on_progress: Progress | None = None) -> Path:
    """Brings a model to this machine, unless it is already there.

    Args:
      location: a local folder or file of weights (used in place), a local or gs:// archive, a gs://
        folder or file of weights, a URL, a TF-Hub handle ('google/bit/m-r50x1/1'), a Kaggle handle
        ('google/bit/tensorFlow2/m-r50x1/1'), or 'hf://owner/name'.  Something local that exists
        wins over a handle.
      cache: folder for what is fetched, may be absent; processes may share it.
      on_progress: called from time to time while bytes arrive.

    Returns:
      A local folder with a graph at its top, or a local file of weights.

    Raises:
      UsageError: there is no model there, or the cache cannot be used.
      ModelError: it cannot be downloaded or unpacked, or is not a file of weights.
      StoreError: the bucket cannot be read.
    """
    found = _find(location)
    return found if isinstance(found, Path) else cached(Path(cache).absolute(), found, on_progress)


def is_fetched(location: str, cache: str | Path) -> bool:
    """Whether `fetch_model` would have nothing to fetch.

    Raises:
      UsageError, StoreError: as there.
    """
    try:
        found = _find(location)
        return isinstance(found, Path) or found.find(Path(cache).absolute()) is not None
    except (ModelError, OSError):
        return False


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file of weights, or of what is loaded of a folder.

    Of a SavedModel these are saved_model.pb, variables/ and assets/, of an ONNX model model.onnx
    and the files that it says its weights are in: the relative path and the SHA-256 of each file.
    Other files are left out: they hold random ids, times and descriptions.

    Raises:
      ModelError: a file has a name that is not valid UTF-8, or model.onnx cannot be read, or names
        a file that is not there or not in the folder.
      UsageError: a file is missing or cannot be read.
      StoreError: a folder cannot be listed.
    """
    if path.is_file():
        return _digest(str(path))
    files = (
        {name: str(file) for name, file in files_in(path).items()}
        if kind_of(path) is Kind.ONNX
        else _of_saved_model(path)
    )
    texts: list[str] = []
    for name, uri in sorted(files.items()):
        texts += [name, _digest(uri)]
    return content_hash(*texts).hex()


def _of_saved_model(path: Path) -> dict[str, str]:
    store, graph = store_for(''), GRAPHS[Kind.SAVED_MODEL]
    files = {graph: str(path / graph)}
    for name in _LOADED_FOLDERS:
        if not (path / name).is_dir():
            continue
        for entry in store.list(str(path / name), by_every_name=True):
            if entry.reason:
                raise ModelError(f'{entry.uri}: {entry.detail}')
            files[PurePosixPath(entry.uri).relative_to(path).as_posix()] = entry.uri
    return files


def _digest(path: str) -> str:
    with store_for('').open(path) as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()  # type: ignore[arg-type]


# --- by kind of location


def _find(location: str) -> Path | Entry:
    """What is already here, or what must be fetched."""
    scheme = uris.scheme_of(location)
    if _BIT_HANDLE.fullmatch(location) and not os.path.lexists(location):
        location = f'{location.rstrip("/")}/1'
    if scheme in ('http', 'https', 'hf'):
        if repository := huggingface.parse(location):
            return huggingface.find(repository)
        if scheme == 'hf':
            why = 'expected hf://owner/name or hf://owner/name@revision'
            raise InvalidOption('model', shown(location), why)
        if model := kaggle.parse(location):
            return kaggle.find(model)
        return _at_url(location)
    if scheme not in ('', 'file', 'gs'):
        raise _unusable(location)
    uri = uris.absolute(location)
    if scheme == 'gs':
        if uri.endswith((*ARCHIVES, *SUFFIXES)):
            return _one_object(uri)
        return _in_bucket(uri.rstrip('/').removesuffix(f'/{_ONNX}'))
    if os.path.lexists(uri):  # false, not an error, for names that nothing can have
        if uri.endswith(ARCHIVES) and not Path(uri).is_dir():
            return _one_object(uri)
        return _in_place(Path(uri))
    if model := kaggle.parse(location):
        return kaggle.find(model)
    if _TFHUB_HANDLE.fullmatch(location):
        return _at_url(_TFHUB + location)
    raise _unusable(location, 'no such folder or file, and not a handle; ')


def _in_place(path: Path) -> Path:
    try:
        if graph_in(path) or (path.suffix in SUFFIXES and path.is_file()):
            return path
        # Of an ONNX model people name the file.
        if path.name == _ONNX and path.is_file():
            return path.parent
        # A repository of the Hugging Face hub that was copied whole.
        if (path / huggingface.FILE).is_file():
            return path / huggingface.FILE
    except OSError as e:
        raise InvalidOption('model', uris.printable(str(path)), str(e.strerror)) from e
    if path.is_dir():
        raise InvalidOption(
            'model',
            uris.printable(str(path)),
            f'no {FOLDER} in this folder; a SavedModel has its graph at its top level and its '
            'weights in variables/',
        )
    raise _unusable(str(path))


def _one_object(uri: str) -> Entry:
    """An archive, or weights in a bucket."""
    store = store_for(uri)
    entry = store.stat(uri)
    origin = uris.printable(uri)
    if entry is None:
        raise InvalidOption('model', origin, 'no such file')

    def unpack(folder: Path, on_progress: Progress | None) -> Path:
        with store.open(uri) as file:
            return archive.unpack(file, folder, origin, on_progress)

    def copy(folder: Path, on_progress: Progress | None) -> Path:
        target = folder / 'model'
        done_bytes = 0
        with store.open(uri) as file:
            for size_bytes in archive.write(target / wanted, _pieces(file, origin)):
                done_bytes += size_bytes
                if on_progress:
                    on_progress(done_bytes, entry.size_bytes)
        recognize(target / wanted, origin)
        return target

    # For a local file, the version is its size and its modification time.
    key = key_of(uri, entry.version)
    if uri.endswith(ARCHIVES):
        return Entry(key, origin, unpack)
    wanted = _file_name(uri)
    return Entry(key, origin, copy, wanted)


def _in_bucket(folder: str) -> Entry:
    store = store_for(folder)
    origin = uris.printable(folder)

    def listing() -> dict[str, tuple[str, int]]:
        # Bounded, for it may be a bucket full of photographs.
        found = itertools.islice(store.list(folder), MOST_FILES + 1)
        return {
            entry.uri.removeprefix(f'{folder}/'): (entry.version, entry.size_bytes)
            for entry in sorted(found)
        }

    objects = listing()
    if not objects:
        raise InvalidOption('model', origin, 'nothing is there')
    if len(objects) > MOST_FILES:
        why = f'more than {MOST_FILES} objects; expected only a model'
        raise InvalidOption('model', origin, why)
    if not objects.keys() & set(GRAPHS.values()):
        raise InvalidOption('model', origin, f'no {FOLDER} in this folder')
    total_bytes = sum(size_bytes for _, size_bytes in objects.values())

    def fill(temporary: Path, on_progress: Progress | None) -> Path:
        done_bytes = 0
        target = temporary / 'model'
        for name in objects:
            path = archive.inside(target, name, origin)
            with store.open(f'{folder}/{name}') as file:
                for size_bytes in archive.write(path, _pieces(file, origin)):
                    done_bytes += size_bytes
                    if on_progress:
                        on_progress(done_bytes, total_bytes)
        if listing() != objects:
            raise ModelError(f'{origin}: changed while it was copied')
        return target

    parts = (text for name, (version, _) in objects.items() for text in (name, version))
    return Entry(key_of(folder, *parts), origin, fill)


def _at_url(url: str) -> Entry:
    try:
        path = urllib.parse.urlsplit(url).path
    except ValueError as e:
        raise _unusable(url) from e
    if path.endswith(SUFFIXES):
        wanted = _file_name(path)
        fill = functools.partial(_save_weights, url, wanted)
        return Entry(tfhub_key(url), shown(url), fill, wanted)
    asked = url if path.endswith(ARCHIVES) else compressed(url)
    return Entry(tfhub_key(url), shown(url), functools.partial(_save_archive, asked))


def _save_weights(url: str, wanted: str, folder: Path, on_progress: Progress | None) -> Path:
    target = folder / 'model'
    target.mkdir()
    download(url, target / wanted, on_progress)
    recognize(target / wanted, shown(url))
    return target


def _save_archive(url: str, folder: Path, on_progress: Progress | None) -> Path:
    packed = folder / 'archive'
    download(url, packed, on_progress)
    with packed.open('rb') as file:
        return archive.unpack(file, folder, shown(url))


def _file_name(path: str) -> str:
    """The end of a path, as a name that any file may have."""
    return _NOT_IN_NAMES.sub('_', path.rpartition('/')[2])[-100:]


def _pieces(file: BinaryIO, origin: str) -> Iterator[bytes]:
    while True:
        try:
            piece = file.read(PIECE_BYTES)
        except OSError as e:  # requests' errors among them
            raise StoreError(f'{origin}: the store cannot be reached') from e
        if not piece:
            return
        yield piece


def _unusable(location: str, why: str = '') -> InvalidOption:
    return InvalidOption('model', repr(shown(location)), f'{why}expected {_EXPECTED}')
