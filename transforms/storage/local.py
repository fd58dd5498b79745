"""Local files."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from transforms.core import uris
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, Seen, changed

T = TypeVar('T')

_SYSTEM_FOLDERS = ('/proc/', '/sys/')

# What the system says of one file, in our words.
_REASONS = {
    errno.ENOENT: (Reason.NOT_FOUND, 'no such file'),
    errno.ENOTDIR: (Reason.NOT_FOUND, 'part of the path is not a folder'),
    errno.ELOOP: (Reason.NOT_FOUND, 'a loop of symbolic links'),
    errno.ENAMETOOLONG: (Reason.BAD_NAME, 'the name is too long for the file system'),
    errno.EACCES: (Reason.FORBIDDEN, 'permission denied'),
    errno.EPERM: (Reason.FORBIDDEN, 'permission denied'),
}
_OUR_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL})
_ABSENT = (FileNotFoundError, NotADirectoryError)
_TRIES = 10
_COPY_BYTES = 2**20


class LocalStore:
    """The file system of this machine; see `transforms.storage.base.Store`.

    A file's version is its size and its modification time in ns: '<size>-<mtime>'.  `replace` and
    `delete` compare its bytes, under its lock; on a file system without locks (some network mounts)
    another process may interfere.
    """

    def stat(self, uri: str) -> Entry | None:
        try:
            info = os.stat(uri)  # noqa: PTH116 (a str, as everywhere here)
        except (OSError, ValueError):
            return None
        return None if stat.S_ISDIR(info.st_mode) else _bad_name(uri) or _entry(uri, info)

    def is_folder(self, uri: str) -> bool:
        return Path(uri).is_dir()

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,
        starts_with: str = '',  # noqa: ARG002 (reading a folder costs the same)
    ) -> Iterator[Entry]:
        """As `Store.list`; links to folders are followed, but never in circles.

        Raises:
          StoreError: a folder cannot be listed, so images would be missed.
        """
        seen: set[tuple[int, int]] = set()
        pending = deque([_Folder(folder, 1, frozenset())])
        while pending:
            path, depth, above = pending.pop()
            alive()  # it may be empty, and so the next one
            folders: list[str] = []
            links: list[str] = []
            try:
                info = os.stat(path)  # noqa: PTH116
                identity = (info.st_dev, info.st_ino)
                if identity in (above if by_every_name else seen):
                    continue
                seen.add(identity)
                with os.scandir(path) as scan:
                    for found in scan:
                        if _is_folder(found):
                            (links if found.is_symlink() else folders).append(found.path)
                        else:
                            yield _listed(found)
            except OSError as e:
                raise StoreError(f'cannot list {uris.printable(path)}: {e.strerror}') from e
            if max_depth is None or depth < max_depth:
                above |= {identity}
                # Links come last, and all in a fixed order: it decides which of its names a folder
                # is listed by.
                pending.extendleft(_Folder(name, depth + 1, above) for name in sorted(links))
                pending.extend(
                    _Folder(name, depth + 1, above) for name in sorted(folders, reverse=True)
                )

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        try:
            # Looked at before it is opened: opening can wake a device.
            info = os.stat(uri)  # noqa: PTH116
            _check_regular(uri, info)
            if unless and _version(info) == unless:
                raise NotModified
            # Not blocking, all the same: a FIFO would wait for a writer for ever.
            descriptor = os.open(uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            raise _image_error(e) from e
        except ValueError as e:
            raise ImageError(Reason.BAD_URI, 'not a path') from e
        with os.fdopen(descriptor, 'rb', buffering=0) as file:
            before = os.fstat(descriptor)
            _check_regular(uri, before)
            if part is not None and _version(before) != part.version:
                raise changed(part)
            size = before.st_size if part is None else part.size_bytes
            if size > limits.max_bytes:
                error = ImageError(
                    Reason.TOO_MANY_BYTES, f'{size} bytes, limit {limits.max_bytes}', size
                )
                error.version = _version(before)
                raise error
            admit(size)
            try:
                if part is not None:
                    file.seek(part.offset)
                # One byte more than there is tells that it has grown.
                data = file.read(size + (part is None)) or b''
                while 0 < len(data) < size and (more := file.read(size - len(data))):
                    data += more
                after = os.fstat(descriptor)
            except OSError as e:
                raise _image_error(e) from e
        if part is not None and len(data) != size:
            raise changed(part)
        if len(data) != size or _version(before) != _version(after):
            raise ImageError(
                Reason.CHANGED_WHILE_READING,
                f'{before.st_size} bytes at first, then {after.st_size}, {len(data)} read',
                after.st_size,
            )
        return Fetched(data, _version(before), len(data))

    def open(self, uri: str) -> BinaryIO:
        try:
            _check_regular(uri, os.stat(uri))  # noqa: PTH116
            return Path(uri).open('rb')
        except OSError as e:
            raise UsageError(f'cannot read {uris.printable(uri)}: {e.strerror}') from e
        except ImageError as e:
            raise UsageError(f'cannot read {uris.printable(uri)}: {e.detail}') from e

    def read(self, uri: str) -> bytes | None:
        try:
            # Not blocking: a FIFO would wait for a writer for ever.
            with open(uri, 'rb', opener=_not_blocking) as file:
                _check_regular(uri, os.fstat(file.fileno()))
                return file.read()
        except _ABSENT:
            return None
        except ImageError as e:
            raise StoreError(f'cannot read {uris.printable(uri)}: {e.detail}') from e
        except OSError as e:
            raise StoreError(f'cannot read {uris.printable(uri)}: {e.strerror}') from e

    def look(self, uri: str) -> Seen | None:
        data = self.read(uri)
        return None if data is None else Seen(data, '')

    def write(self, uri: str, data: bytes) -> None:
        _unless_swept(lambda: _write(uri, data))

    def create(self, uri: str, data: bytes) -> bool:
        return _unless_swept(lambda: _create(uri, data))

    def place(self, uri: str, target: str) -> bool:
        try:
            for _ in range(_TRIES):
                # As in `_open_new`.
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    Path(target).parent.mkdir(parents=True, exist_ok=True)
                    Path(uri).replace(target)
                    return True
                if not os.path.lexists(uri):
                    return False
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(uri).replace(target)
        except _ABSENT:
            return False
        except OSError as e:
            if e.errno == errno.EXDEV:
                return _move_to_other_disk(uri, target)
            raise StoreError(f'cannot write {uris.printable(target)}: {e.strerror}') from e
        return True

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        return _unless_swept(lambda: _replace(uri, data, seen))

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        try:
            if seen is None:
                Path(uri).unlink(missing_ok=True)
                return True
            with _locked(uri, seen) as is_seen:
                if is_seen:
                    Path(uri).unlink()
        except NotADirectoryError:
            return seen is None
        except OSError as e:
            raise StoreError(f'cannot delete {uris.printable(uri)}: {e.strerror}') from e
        return is_seen


class _SweptError(StoreError):
    """A temporary file has gone: whoever holds the lease removes those of others, too."""


def _unless_swept(act: Callable[[], T]) -> T:
    for _ in range(_TRIES):
        with contextlib.suppress(_SweptError):
            return act()
    return act()


def _write(uri: str, data: bytes) -> None:
    with _temporary(uri, data) as temporary:
        temporary.replace(uri)


def _create(uri: str, data: bytes) -> bool:
    with _temporary(uri, data) as temporary:
        try:
            os.link(temporary, uri)
        except FileExistsError:
            return False
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            return _create_in_place(uri, data)
    return True


def _replace(uri: str, data: bytes, seen: Seen) -> bool:
    with _temporary(uri, data) as temporary, _locked(uri, seen) as is_seen:
        if is_seen:
            temporary.replace(uri)
    return is_seen


def _not_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _move_to_other_disk(uri: str, target: str) -> bool:
    """Whole or not at all, like a rename; False if there is nothing to move."""
    try:
        with Path(uri).open('rb') as source, _temporary_file(target) as (temporary, file):
            shutil.copyfileobj(source, file, _COPY_BYTES)
            _sync(file)
            temporary.replace(target)
    except FileNotFoundError:
        return False
    Path(uri).unlink(missing_ok=True)
    return True


class _Folder(NamedTuple):
    path: str
    depth: int
    above: frozenset[tuple[int, int]]


@contextlib.contextmanager
def _temporary(uri: str, data: bytes) -> Iterator[Path]:
    """A synced file beside its target, gone afterwards unless it was renamed.

    Raises:
      StoreError: the folder cannot be written or the disk is full.
    """
    with _temporary_file(uri) as (temporary, file):
        file.write(data)
        _sync(file)
        yield temporary


@contextlib.contextmanager
def _temporary_file(uri: str) -> Iterator[tuple[Path, BinaryIO]]:
    """The same, not yet written and synced."""
    target = Path(uri)
    temporary = target.with_name(f'.{target.name[:100]}.{secrets.token_hex(4)}.tmp')
    try:
        with _open_new(temporary) as file:
            yield temporary, file
    except FileNotFoundError as e:
        raise _SweptError(f'cannot write {uri}: {e.strerror}') from e
    except OSError as e:
        raise StoreError(f'cannot write {uri}: {e.strerror}') from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open_new(path: Path) -> BinaryIO:
    """Opens a new file, creating its folder if needed."""
    for _ in range(_TRIES):
        # Somebody else may remove the folder, as it is still empty: also while it is looked at,
        # which says that it exists.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open('xb')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open('xb')


@contextlib.contextmanager
def _locked(uri: str, seen: Seen) -> Iterator[bool]:
    """Whether a file is what was seen, and stays so until the block ends.

    The lock is that of the file itself, so nothing is left of it; whoever waited for it finds that
    the file no longer has this name.
    """
    try:
        descriptor = _open_to_lock(uri)
    except _ABSENT:
        yield False
        return
    with os.fdopen(descriptor, 'rb', buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as e:
            if e.errno not in _NO_LOCKS:
                raise
        yield _is_named(uri, os.fstat(descriptor)) and file.read() == seen.data


def _open_to_lock(uri: str) -> int:
    try:
        return os.open(uri, os.O_RDWR | os.O_CLOEXEC)  # NFS locks only what can be written
    except PermissionError:
        return os.open(uri, os.O_RDONLY | os.O_CLOEXEC)


def _is_named(uri: str, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(uri), info)  # noqa: PTH116
    except _ABSENT:
        return False


def _create_in_place(uri: str, data: bytes) -> bool:
    """For file systems without hard links (exFAT, network mounts): exclusive, but not atomic."""
    try:
        with Path(uri).open('xb') as file:
            try:
                file.write(data)
                _sync(file)
            except OSError:
                Path(uri).unlink()
                raise
    except FileExistsError:
        return False
    return True


def _is_folder(found: 'os.DirEntry[str]') -> bool:
    try:
        return found.is_dir()
    except OSError as e:
        if e.errno != errno.ELOOP:
            raise
        return False  # one bad link must not stop the run: fetching it says what it is


def _listed(found: 'os.DirEntry[str]') -> Entry:
    bad = _bad_name(found.path)
    if bad:
        return bad
    try:
        return _entry(found.path, found.stat())
    except OSError:
        return Entry(found.path, '', -1)  # a dangling link: fetching it says so


def _bad_name(path: str) -> Entry | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        name = uris.printable(path)
        return Entry(name, '', -1, Reason.BAD_NAME.value, 'the name is not valid UTF-8')
    return None


def _entry(uri: str, info: os.stat_result) -> Entry:
    return Entry(uri, _version(info), info.st_size, modified_at=info.st_mtime)


def _version(info: os.stat_result) -> str:
    return f'{info.st_size}-{info.st_mtime_ns}'


def _check_regular(uri: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise ImageError(Reason.NOT_A_FILE, 'a folder')
    if not stat.S_ISREG(info.st_mode):
        raise ImageError(Reason.NOT_A_FILE, 'a device, FIFO or socket')
    if os.path.realpath(uri).startswith(_SYSTEM_FOLDERS):
        raise ImageError(Reason.NOT_A_FILE, 'a system file')


def _image_error(error: OSError) -> ImageError:
    if error.errno in _OUR_FAULTS:
        raise StoreError(f'this machine is out of a resource: {error.strerror}') from error
    known = _REASONS.get(error.errno or 0)
    return ImageError(*known or (Reason.STORE_ERROR, error.strerror or 'I/O error'))
