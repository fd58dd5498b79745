"""A store that is asked nothing without a deadline: where results are written and read again.

A call that hangs in the system (a mount whose server is gone) cannot be stopped, but it can be
abandoned, see `transforms.core.waiting`.
"""

import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar, cast

from transforms.core import uris
from transforms.core.errors import StoreError
from transforms.core.waiting import LEAST_DEADLINE_SEC, each_within, within
from transforms.storage.base import Entry, Fetched, FetchLimits, Part, Seen, Store

T = TypeVar('T')

_LEAST_BYTES_A_SEC = 100_000
"""A slow line is none that is down."""

_AFTERWARDS_SEC = 5.0


class _Call:
    is_over = False


class BoundedStore:
    """The same store; see `transforms.storage.base.Store`.

    A call without an answer is a StoreError that names the operation, the URI and the seconds.
    While that call hangs, the next ones, to clean up, are waited for but shortly.

    Args:
      store: what is asked.
      deadline_sec: longest time without an answer, or without the next entry of a listing; for a
        write its bytes count as well, at 100 kB/s.
      afterwards_sec: the same, while an earlier call has not returned.
    """

    def __init__(
        self,
        store: Store,
        deadline_sec: float = LEAST_DEADLINE_SEC,
        afterwards_sec: float = _AFTERWARDS_SEC,
    ):
        self._store = store
        self._deadline_sec = deadline_sec
        self._afterwards_sec = min(afterwards_sec, deadline_sec)
        self._stuck = _Call()
        self._stuck.is_over = True

    def within(self, doing: str, uri: str, ask: Callable[[], T], size_bytes: int = 0) -> T:
        """The result of something else that is done with an object or folder of this store.

        Args:
          doing: what, such as 'reading'.
          uri: of the object or folder.
          ask: does it; `transforms.core.waiting.alive` in it is a sign of life.
          size_bytes: are sent.

        Raises:
          StoreError: it takes too long.
        """
        call = _Call()

        def run() -> T:
            try:
                return ask()
            finally:
                call.is_over = True

        deadline_sec = self._next_deadline_sec() + size_bytes // _LEAST_BYTES_A_SEC
        try:
            return within(deadline_sec, _described(doing, uri), run)
        except StoreError:
            if not call.is_over:
                self._stuck = call
            raise

    def _next_deadline_sec(self) -> float:
        return self._deadline_sec if self._stuck.is_over else self._afterwards_sec

    def stat(self, uri: str) -> Entry | None:
        return self.within('looking for', uri, lambda: self._store.stat(uri))

    def is_folder(self, uri: str) -> bool:
        return self.within('looking for', uri, lambda: self._store.is_folder(uri))

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,
        starts_with: str = '',
    ) -> Iterator[Entry]:
        found = self._store.list(folder, max_depth, by_every_name, starts_with)
        return each_within(self._next_deadline_sec(), _described('listing', folder), found)

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        """As `Store.fetch`, which has a deadline of its own."""
        return self._store.fetch(uri, limits, admit, unless, part)

    def open(self, uri: str) -> BinaryIO:
        stream = self.within('opening', uri, lambda: self._store.open(uri))
        return cast(BinaryIO, _BoundedStream(self, uri, stream))

    def read(self, uri: str) -> bytes | None:
        return self.within('reading', uri, lambda: self._store.read(uri))

    def look(self, uri: str) -> Seen | None:
        return self.within('reading', uri, lambda: self._store.look(uri))

    def write(self, uri: str, data: bytes) -> None:
        self.within('writing', uri, lambda: self._store.write(uri, data), len(data))

    def create(self, uri: str, data: bytes) -> bool:
        return self.within('writing', uri, lambda: self._store.create(uri, data), len(data))

    def place(self, uri: str, target: str) -> bool:
        return self.within('moving something to', target, lambda: self._store.place(uri, target))

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        return self.within('writing', uri, lambda: self._store.replace(uri, data, seen), len(data))

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        return self.within('deleting', uri, lambda: self._store.delete(uri, seen))


class _BoundedStream(io.RawIOBase):
    """A stream for reading, each read of which has a deadline."""

    def __init__(self, store: BoundedStore, uri: str, stream: BinaryIO):
        super().__init__()
        self._store = store
        self._uri = uri
        self._stream = stream

    def read(self, size: int | None = -1) -> bytes:
        most = -1 if size is None else size
        return self._store.within('reading', self._uri, lambda: self._stream.read(most))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()


class WrittenWithin(io.RawIOBase):
    """A local file for writing, each write of which has a deadline.

    Whoever closes what writes to it, behind a failure, gets that failure again at once.

    Args:
      store: knows the deadlines.
      uri: of what is written, for messages.
      file: is written to.
    """

    def __init__(self, store: BoundedStore, uri: str, file: io.FileIO):
        super().__init__()
        self._store = store
        self._uri = uri
        self._file = file
        self._error: Exception | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Writes all of it.

        Raises:
          StoreError: it takes too long.
          OSError: it cannot be written.
        """
        view = memoryview(bytes(data))  # theirs is not ours any more when a write is given up
        self._within(lambda: self._write_all(view), len(view))
        return len(view)

    def end(self) -> None:
        """Closes the file, which is on its disk then.

        Raises:
          StoreError, OSError: as for `write`.
        """
        self._within(self._end)

    def close(self) -> None:
        """Closes the file, unless something about it hangs."""
        if self._error is None:
            self._file.close()
        super().close()

    def _within(self, ask: Callable[[], object], size_bytes: int = 0) -> None:
        if self._error is not None:
            raise self._error
        try:
            self._store.within('writing', self._uri, ask, size_bytes)
        except (StoreError, OSError) as e:
            self._error = e
            raise

    def _write_all(self, view: memoryview) -> None:
        while view:
            view = view[self._file.write(view) :]

    def _end(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def _described(doing: str, uri: str) -> str:
    return f'{doing} {uris.printable(uri)}'
