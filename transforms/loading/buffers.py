"""Batches of pixels in memory that this process and its loader processes share."""

import mmap
import os
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np


class SharedMemory:
    """A growing file in memory; another process needs only its descriptor.

    It is not a file in /dev/shm, which is limited to 64 MB in some containers.
    """

    def __init__(self) -> None:
        try:
            self.descriptor = os.memfd_create('lemmabeam')
            self._folder = ''
        except (AttributeError, OSError):  # not on this system, or not allowed
            self.descriptor, path = tempfile.mkstemp(prefix='lemmabeam-')
            Path(path).unlink()
            self._folder = tempfile.gettempdir()
        self._lock = threading.Lock()
        self._end = 0
        self._free: dict[int, list[int]] = {}
        self._mapped: dict[int, mmap.mmap] = {}

    def take(self, size_bytes: int) -> tuple[int, np.ndarray]:
        """Takes memory for this many bytes, until nothing refers to the array any longer.

        Returns:
          Its offset in the file, and an uninitialized (size_bytes,) uint8 array.

        Raises:
          OSError: there is none.
        """
        length = -(-size_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        with self._lock:
            free = self._free.setdefault(length, [])
            if free:
                start = free.pop()
            else:
                start = self._end
                self._grow(start, length)
                self._mapped[start] = mmap.mmap(self.descriptor, length, offset=start)
                self._end += length
        room = np.frombuffer(self._mapped[start], np.uint8, size_bytes)
        # Atomic, for it may interrupt whoever holds the lock.
        weakref.finalize(room, free.append, start).atexit = False
        return start, room

    def _grow(self, start: int, length: int) -> None:
        if not (self._folder and hasattr(os, 'posix_fallocate')):
            os.ftruncate(self.descriptor, start + length)
            return
        try:
            # A file with holes on a disk that is full later ends whoever writes into it.
            os.posix_fallocate(self.descriptor, start, length)
        except OSError as e:
            raise OSError(e.errno, f'{e.strerror} in {self._folder} (TMPDIR)') from e

    def close(self) -> None:
        """Closes the descriptor; what is mapped stays as long as anything refers to it."""
        os.close(self.descriptor)


class MappedMemory:
    """The same memory, seen from a loader process.

    Args:
      descriptor: of the file.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._mapped: dict[int, np.ndarray] = {}

    def room(self, start: int, size_bytes: int) -> np.ndarray:
        """A (size_bytes,) uint8 array at this offset, shared with the other process.

        Raises:
          MemoryError: it does not fit into the address space of this process.
        """
        found = self._mapped.get(start)
        if found is None or len(found) != size_bytes:
            try:
                mapped = mmap.mmap(self._descriptor, size_bytes, offset=start)
            except OSError as e:
                raise MemoryError from e
            found = self._mapped[start] = np.frombuffer(mapped, np.uint8)
        return found
