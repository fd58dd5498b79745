"""A source as a stream, for libraries that read one."""

import io

from transforms.storage.containers.base import Source


class SourceStream(io.RawIOBase):
    """Reads a source; each read is one request for a range."""

    def __init__(self, source: Source):
        super().__init__()
        self._source = source
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._place, self._source.size_bytes)[whence]
        if base + offset < 0:
            raise ValueError('a place before the beginning')
        self._place = base + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._source.size_bytes - self._place)
        data = (
            self._source.range(self._place, left if size < 0 else min(size, left)) if left else b''
        )
        self._place += len(data)
        return data
