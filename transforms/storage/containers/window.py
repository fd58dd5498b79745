"""A source of which a part is read in one go."""

from transforms.storage.containers.base import Source


class Window:
    """Reads a part of a source by one request, once something of it is wanted, and keeps it.

    A `Source` itself; what lies elsewhere is read as it is asked for.

    Attributes:
      shown: the name of the source.
    """

    def __init__(self, source: Source):
        self._source = source
        self._start = self._end = 0
        self._data = b''
        self.shown = source.shown

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return self._source.size_bytes

    @property
    def held_bytes(self) -> int:
        """Of what it keeps."""
        return len(self._data)

    def move(self, offset: int, size: int) -> None:
        """Chooses the part, as offset and bytes; what was kept around it stays, all else goes."""
        start, end = max(0, offset), min(offset + size, self.size_bytes)
        if not self._start <= start <= end <= self._end:
            self._start, self._end, self._data = start, end, b''

    def range(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        if not self._start <= offset <= offset + size <= self._end:
            return self._source.range(offset, size)
        if not self._data:
            self._data = self._source.range(self._start, self._end - self._start)
        return self._data[offset - self._start : offset - self._start + size]
