"""One version of an object as a seekable stream, read in ranges."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO


def open_ranges(size_bytes: int, read: Callable[[int, int], bytes], buffer_bytes: int) -> BinaryIO:
    """A buffered stream over an object.

    Args:
      size_bytes: of the object.
      read: given two offsets, gives the bytes from the first one to before the second one; called
        with the first below the second, and neither beyond the end.
      buffer_bytes: bytes that are asked for at once.
    """
    return io.BufferedReader(_Ranges(size_bytes, read), buffer_bytes)


class _Ranges(io.RawIOBase):
    def __init__(self, size_bytes: int, read: Callable[[int, int], bytes]):
        self._size_bytes = size_bytes
        self._read = read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._position, self._size_bytes)[whence] + offset
        if start < 0:
            raise ValueError(f'a position below 0: {start}')
        self._position = start
        return start

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size_bytes)
        if end <= self._position:
            return 0
        data = self._read(self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
