"""Untrusted archives: unpacked to plain files and folders of bounded size, or an error."""

import contextlib
import functools
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from transforms.core import uris
from transforms.core.errors import ModelError
from transforms.model.download.cache import FOLDER, model_in
from transforms.model.download.http import PIECE_BYTES, Progress, cannot_write, sync
from transforms.model.zips import open_zip

ARCHIVES = ('.tar.gz', '.tgz', '.tar', '.zip')

MOST_FILES = 10_000
"""A SavedModel has a handful; a bucket or an archive full of photographs is not one."""

_HEADER_BYTES = 2**20

# A tar archive may begin with a file that is called PKG-INFO.
_GZIP, _ZIPS = b'\x1f\x8b', (b'PK\x03\x04', b'PK\x05\x06')
_DAMAGES = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
# Of headers, and of ways to compress that Python does not know.
_MALFORMED = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)
_SET_UP_BY = {0, 3}  # MS-DOS and Unix: whose zip files say in the same way what a member is
_ENCRYPTED = 0x1


class Limits(NamedTuple):
    """How large an unpacked archive may be: tensors compress little, and metadata is small.

    Attributes:
      unpacked_bytes: for any archive.
      unpacked_ratio: for a larger one, this many times its own size.
      files: number of files and folders.
    """

    unpacked_bytes: int = 2**30
    unpacked_ratio: int = 20
    files: int = MOST_FILES


LIMITS = Limits()


def unpack(
    file: BinaryIO,
    folder: Path,
    origin: str,
    on_progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> Path:
    """Unpacks a tar archive, gzipped or not, or a zip archive.

    Args:
      file: seekable.
      folder: target; a new folder is created in it.
      origin: what messages call the archive.
      on_progress: called with the bytes of the archive that are done.
      limits: for what is unpacked.

    Returns:
      The folder of the model.

    Raises:
      ModelError: it is not an archive, is damaged, holds anything but plain files and folders
        inside itself, unpacks to too much, or holds no SavedModel.
    """
    target = folder / 'tree'
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    limit_bytes = max(limits.unpacked_bytes, limits.unpacked_ratio * size_bytes)
    limit = f'{limit_bytes} bytes'
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < limit_bytes:
        limit_bytes, limit = free_bytes, f'the {free_bytes} bytes that are free on the disk'
    budget = _Budget(origin, limit_bytes, limit)
    with _reading(origin):
        start = file.read(4)
        file.seek(0)
    members = _zip_members if start in _ZIPS else _tar_members
    try:
        for count, (name, pieces) in enumerate(members(file, start, budget), 1):
            if count > limits.files:
                raise ModelError(f'{origin}: more than {limits.files} files')
            path = inside(target, name, origin)
            if pieces is None:
                _make_folder(path)
            else:
                for _ in write(path, pieces):
                    pass
            if on_progress:
                on_progress(file.tell(), size_bytes)
    except _MALFORMED as e:
        raise _damaged(origin) from e
    model = model_in(target)
    if model is None:
        raise ModelError(
            f'{origin}: no {FOLDER} in it, neither at its top level nor in its only folder'
        )
    return model


def inside(folder: Path, name: str, origin: str) -> Path:
    """`name` below `folder`; ModelError if it would be elsewhere."""
    if name.startswith('/') or '..' in name.split('/') or '\0' in name:
        raise ModelError(f'{origin}: {uris.printable(name)!r} is outside its folder')
    return folder / name


def write(path: Path, pieces: Iterable[bytes]) -> Iterator[int]:
    """Creates a file and its folders; yields the size of each piece once written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('xb') as file:
            for piece in pieces:
                file.write(piece)
                yield len(piece)
            sync(file)
    except OSError as e:
        raise cannot_write(path, e) from e


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise cannot_write(path, e) from e


_Members = Iterator[tuple[str, Iterable[bytes] | None]]
"""Name and content of each member; a folder has none.  Read before the next is asked for."""


class _Budget:
    """How much may still be unpacked."""

    def __init__(self, origin: str, limit_bytes: int, limit: str):
        self.origin = origin
        self._left_bytes = limit_bytes
        self._limit = limit

    def spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ModelError(f'{self.origin}: unpacks to more than {self._limit}')


@contextlib.contextmanager
def _reading(origin: str) -> Iterator[None]:
    """Distinguishes failures of an archive from those of the disk."""
    try:
        yield
    except _DAMAGES as e:
        raise _damaged(origin) from e
    except OSError as e:  # requests' errors among them
        raise ModelError(f'{origin}: cannot be read') from e


def _no_file(name: str, origin: str) -> ModelError:
    return ModelError(
        f'{origin}: {uris.printable(name)!r} is not a regular file or folder; links and devices '
        'are not unpacked'
    )


# --- tar


class _Unpacked:
    """The bytes of a tar archive, unpacked: bounded, and with one kind of error.

    All of an archive passes through here, including headers and padding.
    """

    def __init__(self, file: BinaryIO, is_packed: bool, budget: _Budget):
        self._source = gzip.GzipFile(fileobj=file, mode='rb') if is_packed else file
        self._budget = budget

    def read(self, size_bytes: int) -> bytes:
        with _reading(self._budget.origin):
            data = self._source.read(size_bytes)
        self._budget.spend(len(data))
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
            raise tarfile.ReadError('a bad or missing header') from e
        # What is no file may be read into memory whole.
        if not member.isreg() and member.size > _HEADER_BYTES:
            raise tarfile.ReadError('a long header')
        return member


def _tar_members(file: BinaryIO, start: bytes, budget: _Budget) -> _Members:
    source = _Unpacked(file, start.startswith(_GZIP), budget)
    with tarfile.open(
        fileobj=cast(BinaryIO, source), mode='r|', tarinfo=_Member, errors='surrogateescape'
    ) as archive:
        for member in archive:
            is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
            if member.isdir():
                yield member.name, None
            elif is_file and (content := archive.extractfile(member)):
                yield member.name, iter(functools.partial(content.read, PIECE_BYTES), b'')
            else:
                inside(Path(), member.name, budget.origin)
                raise _no_file(member.name, budget.origin)
    # To the end: there stands the checksum.
    while source.read(PIECE_BYTES):
        pass


# --- zip


def _zip_members(file: BinaryIO, _: bytes, budget: _Budget) -> _Members:
    with contextlib.ExitStack() as stack:
        with _reading(budget.origin):
            archive = stack.enter_context(open_zip(file))
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            wanted = stat.S_IFDIR if member.is_dir() else stat.S_IFREG
            if member.create_system not in _SET_UP_BY or kind not in (0, wanted):
                raise _no_file(member.filename, budget.origin)
            if member.flag_bits & _ENCRYPTED:
                raise ModelError(f'{budget.origin}: is encrypted')
            pieces = None if member.is_dir() else _zip_pieces(archive, member, budget)
            yield member.filename, pieces


def _zip_pieces(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget
) -> Iterator[bytes]:
    """The content, with its checksum at the end; what the member says of its size is not heeded."""
    with contextlib.ExitStack() as stack:
        with _reading(budget.origin):
            content = stack.enter_context(archive.open(member))
        while True:
            with _reading(budget.origin):
                piece = content.read(PIECE_BYTES)
            if not piece:
                return
            budget.spend(len(piece))
            yield piece


def _damaged(origin: str) -> ModelError:
    expected = 'expected tar, plain or gzipped, or zip'
    return ModelError(f'{origin}: a damaged archive, or not an archive ({expected})')
