"""SavedModels from where they are to a local folder, fetched once a machine.

A cache entry is a folder `<key>` that appears whole or not at all, with `<key>.descriptor.txt`
beside it.  For URLs, key and layout are those of the tensorflow_hub library: each finds what the
other has fetched.  What comes from outside is not trusted: archives are plain files and folders of
bounded size, and a server that stalls is given up.
"""

import contextlib
import datetime
import fcntl
import functools
import gzip
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tarfile
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol, cast

import requests
import urllib3

from transforms import interim, uris
from transforms.errors import ModelError, StoreError, UsageError
from transforms.hashing import content_hash
from transforms.process import TEMPORARIES
from transforms.storage import store_for

_GRAPH = 'saved_model.pb'
_LOADED_FOLDERS = ('assets', 'variables')
_ARCHIVES = ('.tar.gz', '.tgz', '.tar')
_EXPECTED = (
    f'a folder with {_GRAPH}, an archive of one ({", ".join(_ARCHIVES)}), gs://bucket/folder, '
    'a TF-Hub handle or URL, or a Kaggle handle'
)

_TFHUB = 'https://tfhub.dev/'
_TFHUB_HANDLE = re.compile(r'\w[\w.-]*(/\w[\w.-]*)*/\d+', re.ASCII)
_KAGGLE = 'https://www.kaggle.com'
_KAGGLE_URL = re.compile(r'https?://(?:www\.)?kaggle\.com/models/([^?#]*)[?#]?.*', re.IGNORECASE)
_KAGGLE_HANDLE = re.compile(
    r'(?P<owner>[\w-]+)/(?P<model>[\w-]+)/(?:frameworks/)?tensorflow2/(?:variations/)?'
    r'(?P<variation>[\w.-]+)(?:/(?:versions/)?(?P<version>\d+))?',
    re.ASCII | re.IGNORECASE,
)

_MOST_REDIRECTS = 10
_CONNECT_SEC = 20.0
_SILENCE_SEC = 30.0  # without a byte
_WINDOW_SEC = 60.0  # in which at least so many bytes must come
_WINDOW_BYTES = 64 * 2**10
_PAUSES_SEC = (1.0, 4.0)  # before the second and the third try
_PIECE_BYTES = 256 * 2**10

# What an archive may become: compressed tensors shrink little, and metadata is small.
_UNPACKED_BYTES = 2**30
_UNPACKED_RATIO = 20
_HEADER_BYTES = 2**20
_MOST_FILES = 10_000


class Progress(Protocol):
    """Is told how far a download has come; total_bytes is None where nobody knows."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None: ...


def fetch_model(location: str, cache: str | Path, on_progress: Progress | None = None) -> Path:
    """Brings a SavedModel to this machine, unless it is there.

    Args:
      location: a local folder (used in place), a local or gs:// archive, a gs:// folder, a URL,
        a TF-Hub handle ('google/bit/m-r50x1/1') or a Kaggle handle
        ('google/bit/tensorFlow2/m-r50x1/1').  Something local that exists wins over a handle.
      cache: folder for what is fetched, may be absent; processes may share it.
      on_progress: called from time to time while bytes come.

    Returns:
      A local folder with saved_model.pb at its top.

    Raises:
      UsageError: there is nothing of this kind there, or the cache cannot be used.
      ModelError: it cannot be downloaded or unpacked.
      StoreError: the bucket cannot be read.
    """
    cache = Path(cache).absolute()
    scheme = uris.scheme_of(location)
    if scheme in ('http', 'https'):
        if match := _KAGGLE_URL.fullmatch(location):
            return _from_kaggle(match[1].strip('/'), cache, on_progress)
        return _from_url(location, cache, on_progress)
    if scheme not in ('', 'file', 'gs'):
        raise _unusable(location)
    uri = uris.absolute(location)
    if scheme == 'gs':
        if uri.endswith(_ARCHIVES):
            return _from_archive(uri, cache, on_progress)
        return _from_bucket(uri.rstrip('/'), cache, on_progress)
    if os.path.lexists(uri):  # false, not an error, for names that nothing can have
        if uri.endswith(_ARCHIVES) and not Path(uri).is_dir():
            return _from_archive(uri, cache, on_progress)
        return _in_place(Path(uri))
    if _KAGGLE_HANDLE.fullmatch(location):
        return _from_kaggle(location, cache, on_progress)
    if _TFHUB_HANDLE.fullmatch(location):
        return _from_url(_TFHUB + location, cache, on_progress)
    raise _unusable(location, 'there is no such folder, and it is no handle; ')


def default_cache() -> Path:
    """$TFHUB_CACHE_DIR, else lemmabeam/models in the user's folder for caches."""
    if shared := os.environ.get('TFHUB_CACHE_DIR'):
        return Path(shared)
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    # The XDG specification has relative paths ignored.
    return (base if base.is_absolute() else Path.home() / '.cache') / 'lemmabeam' / 'models'


def tree_sha256(folder: Path) -> str:
    """Hex SHA-256 over what of a SavedModel is loaded: saved_model.pb, variables/, assets/.

    It covers the relative path and the SHA-256 of each file.  Other files are left out: they hold
    random ids, times and descriptions.

    Raises:
      ModelError: a file has a name that is not valid UTF-8.
      UsageError: a file is missing or cannot be read.
      StoreError: a folder cannot be listed.
    """
    store = store_for('')
    files = {_GRAPH: str(folder / _GRAPH)}
    for name in _LOADED_FOLDERS:
        if not (folder / name).is_dir():
            continue
        for entry in store.list(str(folder / name), by_every_name=True):
            if entry.reason:
                raise ModelError(f'{entry.uri}: {entry.detail}')
            files[PurePosixPath(entry.uri).relative_to(folder).as_posix()] = entry.uri
    texts: list[str] = []
    for name, path in sorted(files.items()):
        with store.open(path) as file:
            texts += [name, hashlib.file_digest(file, 'sha256').hexdigest()]  # type: ignore[arg-type]
    return content_hash(*texts).hex()


def download(
    url: str,
    path: Path,
    on_progress: Progress | None = None,
    *,
    auth: tuple[str, str] | None = None,
    if_refused: str = '',
) -> None:
    """Saves what a URL gives, as it is sent: whole, or not at all.

    Args:
      url: http or https; redirects are followed.
      path: file to create or replace; its folder must be there.
      on_progress: called for each piece; starts anew where a broken download does.
      auth: user and password; not sent to another host that the first one redirects to.
      if_refused: what a person can do about HTTP 401 and 403, for the message.

    Raises:
      ModelError: no answer or not the right one, it stalls or ends early, three times where
        waiting may help, or the file cannot be written.
    """
    name = f'.{path.name[:100]}.{secrets.token_hex(4)}.tmp'
    with TEMPORARIES.hold(path.with_name(name)) as temporary:
        try:
            for tries, pause_sec in enumerate((*_PAUSES_SEC, None), 1):
                try:
                    _download_once(url, temporary, on_progress, auth, if_refused)
                    break
                except _TransientError as e:
                    if pause_sec is None:
                        raise ModelError(f'{_shown(url)}: {e}, {tries} times') from e
                    time.sleep(pause_sec)
            temporary.replace(path)
        except OSError as e:
            raise _cannot_write(path, e) from e


# --- by kind of location


def _in_place(folder: Path) -> Path:
    try:
        if (folder / _GRAPH).is_file():
            return folder
    except OSError as e:
        raise UsageError(f'--model {uris.printable(str(folder))}: {e.strerror}') from e
    if folder.is_dir():
        raise UsageError(
            f'--model {uris.printable(str(folder))}: no {_GRAPH} in this folder; a SavedModel has '
            f'{_GRAPH} at its top and its weights in variables/'
        )
    raise _unusable(str(folder))


def _from_archive(uri: str, cache: Path, on_progress: Progress | None) -> Path:
    store = store_for(uri)
    entry = store.stat(uri)
    origin = uris.printable(uri)
    if entry is None:
        raise UsageError(f'--model {origin}: no such file')

    def fill(folder: Path) -> Path:
        with store.open(uri) as file:
            return _unpack(file, folder, origin, on_progress)

    # For a local file, the version is its size and its modification time.
    return _cached(cache, _key(uri, entry.version), origin, fill)


def _from_bucket(folder: str, cache: Path, on_progress: Progress | None) -> Path:
    store = store_for(folder)
    origin = uris.printable(folder)

    def listing() -> dict[str, tuple[str, int]]:
        # Bounded, for it may be a bucket full of photographs.
        found = itertools.islice(store.list(folder), _MOST_FILES + 1)
        return {
            entry.uri.removeprefix(f'{folder}/'): (entry.version, entry.size_bytes)
            for entry in sorted(found)
        }

    objects = listing()
    if not objects:
        raise UsageError(f'--model {origin}: there is nothing')
    if len(objects) > _MOST_FILES:
        raise UsageError(
            f'--model {origin}: more than {_MOST_FILES} objects; expected a SavedModel alone'
        )
    if _GRAPH not in objects:
        raise UsageError(f'--model {origin}: no {_GRAPH} in this folder')
    total_bytes = sum(size_bytes for _, size_bytes in objects.values())

    def fill(temporary: Path) -> Path:
        done_bytes = 0
        target = temporary / 'model'
        for name in objects:
            path = _inside(target, name, origin)
            with store.open(f'{folder}/{name}') as file:
                for size_bytes in _write(path, _pieces(file, origin)):
                    done_bytes += size_bytes
                    if on_progress:
                        on_progress(done_bytes, total_bytes)
        if listing() != objects:
            raise ModelError(f'{origin}: changed while it was copied')
        return target

    parts = (text for name, (version, _) in objects.items() for text in (name, version))
    return _cached(cache, _key(folder, *parts), origin, fill)


def _from_url(url: str, cache: Path, on_progress: Progress | None) -> Path:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as e:
        raise _unusable(url) from e
    asked = url
    if not parts.path.endswith(_ARCHIVES):
        query = f'{parts.query}&' if parts.query else ''
        asked = parts._replace(query=f'{query}tf-hub-format=compressed').geturl()

    def fill(folder: Path) -> Path:
        return _fetch_archive(asked, folder, on_progress)

    return _cached(cache, _tfhub_key(url), _shown(url), fill)


def _from_kaggle(handle: str, cache: Path, on_progress: Progress | None) -> Path:
    match = _KAGGLE_HANDLE.fullmatch(handle)
    form = 'owner/model/tensorFlow2/variation/version'
    if match is None:
        raise UsageError(f'--model {uris.printable(handle)}: of Kaggle, expected {form}')
    if match['version'] is None:
        raise UsageError(f'--model {handle}: the version is missing; expected {form}')
    canonical = '{owner}/{model}/tensorFlow2/{variation}/{version}'.format(**match.groupdict())

    def fill(folder: Path) -> Path:
        endpoint = os.environ.get('KAGGLE_API_ENDPOINT') or _KAGGLE
        return _fetch_archive(
            f'{endpoint.rstrip("/")}/api/v1/models/{canonical}/download',
            folder,
            on_progress,
            auth=_kaggle_credentials(),
            if_refused="; accept the model's terms on its page and set KAGGLE_USERNAME and "
            'KAGGLE_KEY, or download it elsewhere and give its folder',
        )

    return _cached(cache, _tfhub_key(f'{_KAGGLE}/models/{canonical}'), canonical, fill)


def _fetch_archive(
    url: str,
    folder: Path,
    on_progress: Progress | None,
    auth: tuple[str, str] | None = None,
    if_refused: str = '',
) -> Path:
    archive = folder / 'archive'
    download(url, archive, on_progress, auth=auth, if_refused=if_refused)
    with archive.open('rb') as file:
        return _unpack(file, folder, _shown(url))


def _kaggle_credentials() -> tuple[str, str] | None:
    user, key = os.environ.get('KAGGLE_USERNAME'), os.environ.get('KAGGLE_KEY')
    if user and key:
        return user, key
    folder = os.environ.get('KAGGLE_CONFIG_DIR')
    path = (Path(folder) if folder else Path.home() / '.kaggle') / 'kaggle.json'
    try:
        found = json.loads(path.read_bytes())
        return str(found['username']), str(found['key'])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise UsageError(f'{path}: cannot be read as {{"username": …, "key": …}}') from e


def _unusable(location: str, why: str = '') -> UsageError:
    return UsageError(f'--model {_shown(location)!r}: {why}expected {_EXPECTED}')


def _shown(url: str) -> str:
    """For messages: a query may hold any kind of token, and the path is enough."""
    return uris.printable(url).partition('?')[0]


# --- the cache


def _tfhub_key(handle: str) -> str:
    return hashlib.sha1(handle.encode('utf-8', 'surrogateescape')).hexdigest()


def _key(*texts: str) -> str:
    return content_hash(*texts).hex()[:40]


def _cached(cache: Path, key: str, origin: str, fill: Callable[[Path], Path]) -> Path:
    """The folder of a key, filled by one process while the others wait.

    Args:
      cache: folder of all entries.
      key: hex digits.
      origin: what stands in the descriptor and in messages.
      fill: makes the model somewhere in an empty folder that it is given, and says where.
    """
    folder = cache / key
    try:
        # Without the lock first: a cache that is filled may be read-only.
        if found := _model_in(folder):
            return found
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f'{key}.lock'):
            if found := _model_in(folder):
                return found
            if folder.is_dir() and any(folder.iterdir()):
                raise ModelError(f'{folder}: no {_GRAPH} in it; delete this folder')
            with _temporary(cache, key) as temporary:
                _publish(fill(temporary), temporary, folder, origin)
    except OSError as e:
        # `fill` has names for its own failures; these are of the cache itself.
        raise UsageError(
            f'--model_cache {uris.printable(str(cache))}: cannot be used: {e.strerror}'
        ) from e
    return folder


def _publish(model: Path, temporary: Path, folder: Path, origin: str) -> None:
    # As tensorflow_hub writes it; only people read it.
    descriptor = temporary / 'descriptor.txt'
    descriptor.write_text(
        f'Module: {origin}\nDownload Time: {datetime.datetime.now()}\n'
        f'Downloader Hostname: {socket.gethostname()} (PID:{os.getpid()})'
    )
    try:
        model.rename(folder)
    except OSError:
        # tensorflow_hub does not heed our lock; what it has put there meanwhile is as good.
        if not _model_in(folder):
            raise
    descriptor.replace(folder.with_name(f'{folder.name}.descriptor.txt'))


def _model_in(folder: Path) -> Path | None:
    """The folder itself or the one folder in it, whichever holds saved_model.pb."""
    if (folder / _GRAPH).is_file():
        return folder
    if not folder.is_dir():
        return None
    found = [each for each in folder.iterdir() if (each / _GRAPH).is_file()]
    return found[0] if len(found) == 1 else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock of this machine; a process that dies lets go of it.

    The file goes at the end: tensorflow_hub would wait for as long as there is one.
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


# --- downloads


class _TransientError(Exception):
    """Worth another try."""


def _download_once(
    url: str,
    path: Path,
    on_progress: Progress | None,
    auth: tuple[str, str] | None,
    if_refused: str,
) -> None:
    shown = _shown(url)
    interim.install()
    with requests.Session() as session, _get(session, url, auth) as response:
        _check_answer(response, shown, if_refused)
        _save(cast(urllib3.HTTPResponse, response.raw), path, shown, on_progress)


def _get(session: requests.Session, url: str, auth: tuple[str, str] | None) -> requests.Response:
    shown = _shown(url)
    session.max_redirects = _MOST_REDIRECTS
    try:
        return session.get(
            url,
            headers={'Accept-Encoding': 'identity'},
            auth=auth,
            stream=True,
            timeout=(_CONNECT_SEC, _SILENCE_SEC),
        )
    except requests.exceptions.ReadTimeout as e:
        raise ModelError(f'{shown}: stalled: no answer for {_SILENCE_SEC:g} s') from e
    except requests.exceptions.SSLError as e:
        raise ModelError(f'{shown}: no secure connection (TLS)') from e
    except requests.exceptions.ProxyError as e:
        raise _TransientError('no connection through the proxy') from e
    except requests.exceptions.ConnectionError as e:
        raise _TransientError('no connection') from e
    except requests.exceptions.TooManyRedirects as e:
        raise ModelError(f'{shown}: more than {_MOST_REDIRECTS} redirects') from e
    except (requests.exceptions.RequestException, ValueError) as e:  # some slip through as these
        raise ModelError(f'{shown}: cannot be asked for, or leads to what cannot') from e


def _check_answer(response: requests.Response, shown: str, if_refused: str) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        raise _TransientError(f'HTTP {status}')
    if status != 200:
        advice = if_refused if status in (401, 403) else ''
        raise ModelError(f'{shown}: HTTP {status}{advice}')
    if response.headers.get('Content-Type', '').lower().startswith('text/html'):
        raise _web_page(shown)


def _save(body: urllib3.HTTPResponse, path: Path, shown: str, on_progress: Progress | None) -> None:
    total_bytes = body.length_remaining
    of_total = '' if total_bytes is None else f' of {total_bytes}'
    done_bytes = 0
    window_bytes, window_began = 0, time.monotonic()
    with path.open('wb') as file:
        while True:
            try:
                # A whole read would wait for as long as something drips.
                piece = body.read1(_PIECE_BYTES, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as e:
                raise ModelError(
                    f'{shown}: stalled after {done_bytes}{of_total} bytes: '
                    f'none for {_SILENCE_SEC:g} s'
                ) from e
            except urllib3.exceptions.HTTPError as e:
                raise _TransientError(f'broke off after {done_bytes}{of_total} bytes') from e
            if not piece:
                break
            if not done_bytes and piece.lstrip().startswith(b'<'):
                raise _web_page(shown)
            file.write(piece)
            done_bytes += len(piece)
            if on_progress:
                on_progress(done_bytes, total_bytes)
            now = time.monotonic()
            if now - window_began >= _WINDOW_SEC:
                if done_bytes - window_bytes < _WINDOW_BYTES:
                    raise ModelError(
                        f'{shown}: stalled after {done_bytes}{of_total} bytes: '
                        f'{done_bytes - window_bytes} in the last {_WINDOW_SEC:g} s'
                    )
                window_bytes, window_began = done_bytes, now
        _sync(file)


def _web_page(shown: str) -> ModelError:
    return ModelError(f'{shown}: a web page, not an archive')


# --- unpacking and writing


@contextlib.contextmanager
def _reading(origin: str) -> Iterator[None]:
    """Tells failures of an archive from those of the disk that is written."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise _damaged(origin) from e
    except OSError as e:  # requests' errors among them
        raise ModelError(f'{origin}: cannot be read') from e


class _Unpacked:
    """The bytes of a tar archive, unpacked: bounded, and with one kind of error.

    All of an archive comes by here, headers and padding included.
    """

    def __init__(self, file: BinaryIO, origin: str, limit_bytes: int, limit: str):
        with _reading(origin):
            is_packed = file.read(2) == b'\x1f\x8b'
            file.seek(0)
        self._source = gzip.GzipFile(fileobj=file, mode='rb') if is_packed else file
        self._origin = origin
        self._left_bytes = limit_bytes
        self._limit = limit

    def read(self, size_bytes: int) -> bytes:
        with _reading(self._origin):
            data = self._source.read(size_bytes)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise ModelError(f'{self._origin}: unpacks to more than {self._limit}')
        return data


class _Member(tarfile.TarInfo):
    """A header, read strictly: tarfile takes a broken one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> '_Member':
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as e:
            if buf == bytes(tarfile.BLOCKSIZE):  # the mark of the end
                raise
            raise tarfile.ReadError('a bad header, or none') from e
        # What is no file may be read into memory whole.
        if not member.isreg() and member.size > _HEADER_BYTES:
            raise tarfile.ReadError('a long header')
        return member


def _unpack(file: BinaryIO, folder: Path, origin: str, on_progress: Progress | None = None) -> Path:
    """Unpacks a tar archive, gzipped or not, that nobody has vouched for.

    Args:
      file: seekable.
      folder: where to; a new folder is made in it.
      origin: what messages call the archive.
      on_progress: is told how many bytes of the archive are done.

    Returns:
      The folder of the SavedModel.

    Raises:
      ModelError: it is no archive, is damaged, holds more than plain files and folders inside
        itself, unpacks to too much, or holds no SavedModel.
    """
    target = folder / 'tree'
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    limit_bytes = max(_UNPACKED_BYTES, _UNPACKED_RATIO * size_bytes)
    limit = f'{limit_bytes} bytes'
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < limit_bytes:
        limit_bytes, limit = free_bytes, f'the {free_bytes} bytes that are free on the disk'
    source = _Unpacked(file, origin, limit_bytes, limit)
    try:
        with tarfile.open(
            fileobj=cast(BinaryIO, source), mode='r|', tarinfo=_Member, errors='surrogateescape'
        ) as archive:
            for count, member in enumerate(archive, 1):
                if count > _MOST_FILES:
                    raise ModelError(f'{origin}: more than {_MOST_FILES} files')
                _extract(archive, member, target, origin)
                if on_progress:
                    on_progress(file.tell(), size_bytes)
        # To the end: there stands the checksum.
        while source.read(_PIECE_BYTES):
            pass
    except (tarfile.TarError, ValueError, OverflowError) as e:
        raise _damaged(origin) from e
    model = _model_in(target)
    if model is None:
        raise ModelError(f'{origin}: no {_GRAPH} in it, neither at its top nor in its one folder')
    return model


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, origin: str) -> None:
    path = _inside(target, member.name, origin)
    is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not is_file and not member.isdir():
        raise ModelError(
            f'{origin}: {uris.printable(member.name)!r} is no plain file or folder; '
            'links and devices are not unpacked'
        )
    if member.isdir():
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise _cannot_write(path, e) from e
    elif source := archive.extractfile(member):
        for _ in _write(path, iter(functools.partial(source.read, _PIECE_BYTES), b'')):
            pass


def _inside(folder: Path, name: str, origin: str) -> Path:
    """`name` below `folder`, or a ModelError where it would lie elsewhere."""
    if name.startswith('/') or '..' in name.split('/') or '\0' in name:
        raise ModelError(f'{origin}: {uris.printable(name)!r} is outside its folder')
    return folder / name


def _pieces(file: BinaryIO, origin: str) -> Iterator[bytes]:
    while True:
        try:
            piece = file.read(_PIECE_BYTES)
        except OSError as e:  # requests' errors among them
            raise StoreError(f'{origin}: the store cannot be reached') from e
        if not piece:
            return
        yield piece


def _write(path: Path, pieces: Iterable[bytes]) -> Iterator[int]:
    """Creates a file and its folders; yields the size of each piece when it is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('xb') as file:
            for piece in pieces:
                file.write(piece)
                yield len(piece)
            _sync(file)
    except OSError as e:
        raise _cannot_write(path, e) from e


def _sync(file: BinaryIO) -> None:
    """Nothing gets its final name before it is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _cannot_write(path: Path, error: OSError) -> ModelError:
    return ModelError(f'cannot write {uris.printable(str(path))}: {error.strerror}')


def _damaged(origin: str) -> ModelError:
    return ModelError(f'{origin}: a damaged archive, or none (expected tar, plain or gzipped)')
