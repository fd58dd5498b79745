"""A container in a store as a source: what is expected of it is read in blocks, and ahead."""

import collections
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from transforms.core import uris
from transforms.core.errors import ImageError, StoreError
from transforms.core.members import READ_BYTES
from transforms.core.reasons import Reason
from transforms.storage.base import FetchLimits, Part, Store

LATE = 'the file it lies in was not read in time'
_KEPT_BLOCKS = 4


class _Block(NamedTuple):
    data: 'Future[bytes]'
    is_ahead: bool


class Blocks:
    """Blocks of containers in stores, each read once for all who want something of it; thread-safe.

    Args:
      most: so many are kept.
    """

    def __init__(self, most: int = _KEPT_BLOCKS):
        self._most = most
        self._lock = threading.Lock()
        self._is_ahead = False
        self._blocks: collections.OrderedDict[object, _Block] = collections.OrderedDict()

    def get(self, key: object, read: Callable[[], bytes], ends_at: float) -> bytes:
        """A block, which is read now if it is not here; an error is that of all who wait for it.

        Args:
          key: which one.
          read: reads it.
          ends_at: so long somebody else's reading is waited for, by the monotonic clock.
        """
        with self._lock:
            found = self._blocks.get(key)
            block = found or self._add(key, is_ahead=False)
            self._blocks.move_to_end(key)
        if found is None:
            self._read(key, block, read)
        try:
            return block.data.result(max(0.0, ends_at - time.monotonic()))
        except TimeoutError as e:
            self._drop(key, block)  # who reads it may be stuck: the next one reads it itself
            raise ImageError(Reason.DEADLINE, LATE) from e
        except (ImageError, StoreError, MemoryError):
            if not block.is_ahead:
                raise
        return self.get(key, read, ends_at)

    def begin(self, key: object, read: Callable[[], bytes]) -> bool:
        """Has a block read that will be asked for, one at a time; if that fails, it is read then.

        Returns:
          Whether it is here or comes; False while another one is read so.
        """
        with self._lock:
            if key in self._blocks:
                return True
            if self._is_ahead:
                return False
            self._is_ahead = True
            block = self._add(key, is_ahead=True)
        try:
            threading.Thread(
                target=self._read_ahead, args=(key, block, read), name='ahead', daemon=True
            ).start()
        except RuntimeError as e:  # the system has none left
            self._is_ahead = False
            self._drop(key, block)
            block.data.set_exception(StoreError(str(e)))
            return False
        return True

    def _read_ahead(self, key: object, block: _Block, read: Callable[[], bytes]) -> None:
        try:
            self._read(key, block, read)
        except (ImageError, StoreError, MemoryError):
            pass  # who asks for it will see
        finally:
            self._is_ahead = False

    def _add(self, key: object, is_ahead: bool) -> _Block:
        block = self._blocks[key] = _Block(Future(), is_ahead)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return block

    def _read(self, key: object, block: _Block, read: Callable[[], bytes]) -> None:
        try:
            block.data.set_result(read())
        except BaseException as e:
            self._drop(key, block)
            block.data.set_exception(e)
            raise

    def _drop(self, key: object, block: _Block) -> None:
        with self._lock:
            if self._blocks.get(key) is block:
                del self._blocks[key]


class StoreSource:
    """A container in a store; a `Source`.

    Of a store that is asked by requests, what is expected is read in blocks.

    Args:
      store: where it lies.
      uri: its own.
      version: the only one that is read.
      blocks: those that are kept.

    Attributes:
      shown: its name.
      ends_at: when what is being read is to be there, by the monotonic clock.
      reads_ahead: whether all is asked for that is expected, so that the next block is begun.
      has_read: called when bytes have come.
    """

    def __init__(self, store: Store, uri: str, version: str, blocks: Blocks):
        self._store = store
        self._uri = uri
        self._version = version
        self._blocks = blocks
        self._size_bytes: int | None = None
        self._expected = 0, 0
        self.shown = uris.printable(uri)
        self.ends_at = time.monotonic()
        self.reads_ahead = False
        self.has_read: Callable[[], None] = lambda: None

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        if self._size_bytes is None:
            entry = self._store.stat(self._uri)
            if entry is None:
                raise ImageError(Reason.NOT_FOUND, 'its file is not there')
            self._size_bytes = entry.size_bytes
        return self._size_bytes

    def expect(self, start: int, end: int) -> None:
        """See `transforms.storage.containers.base.Source`."""
        self._expected = start, end

    def range(self, offset: int, size: int) -> bytes:
        """See `transforms.storage.containers.base.Source`."""
        size = min(size, self.size_bytes - offset)
        if size <= 0:
            return b''
        start, end = self._expected
        is_expected = start <= offset and offset + size <= end
        if not is_expected or not uris.scheme_of(self._uri):
            return self._read(offset, size, self.ends_at)
        data = io.BytesIO()
        for place in range(offset - (offset - start) % READ_BYTES, offset + size, READ_BYTES):
            block = self._blocks.get(*self._block(place, end, self.ends_at), self.ends_at)
            if self.reads_ahead:
                self.begin(place + READ_BYTES, end, self.ends_at)
            data.write(memoryview(block)[max(0, offset - place) : offset + size - place])
        return data.getvalue()

    def begin(self, start: int, end: int, ends_at: float) -> bool:
        """Begins to read the first block of what will be expected.

        Args:
          start, end: as of `expect`.
          ends_at: when it is given up, by the monotonic clock.

        Returns:
          Whether it is here or comes; also where there is nothing to read.
        """
        if start >= min(end, self.size_bytes) or not uris.scheme_of(self._uri):
            return True
        return self._blocks.begin(*self._block(start, end, ends_at))

    def _block(self, start: int, end: int, ends_at: float) -> tuple[object, Callable[[], bytes]]:
        size = min(READ_BYTES, end - start, self.size_bytes - start)
        key = self._uri, self._version, start, size
        return key, lambda: self._read(start, size, ends_at)

    def _read(self, offset: int, size: int, ends_at: float) -> bytes:
        left_sec = ends_at - time.monotonic()
        if left_sec <= 0:
            raise ImageError(Reason.DEADLINE, LATE)
        limits = FetchLimits(size, left_sec)
        part = Part(offset, size, self._version)
        data = self._store.fetch(self._uri, limits, lambda _: None, part=part).data
        self.has_read()
        return data
