"""What a gzip file holds, as a source; to go back, it is unpacked from its beginning again."""

import sys
import zlib
from collections.abc import Iterator

from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.containers.base import Problem, Source

_PACKED_BYTES = 2**18
_UNPACKED_BYTES = 2**20
_WBITS = 31  # with the header of gzip
_MAGIC = b'\x1f'  # a member begins with it
_MAX_RATIO = 200
_LEAST_BOMB_BYTES = 256 * 2**20


class Gunzipped:
    """A source of what a gzip file holds; its end is known when it has been reached.

    Attributes:
      shown: as of `Source`.
      size_bytes: once the end has been reached; so large that it is never reached before.
      problem: why there is no more behind the end, None where that is the end of the file.
    """

    HELD_BYTES = 2 * _UNPACKED_BYTES

    def __init__(self, source: Source):
        self._source = source
        self.shown = source.shown
        self.size_bytes = sys.maxsize
        self.problem: Problem | None = None
        self._rewind()

    def _rewind(self) -> None:
        self._blocks = self._unpacked()
        self._block, self._start = b'', 0

    def range(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        if offset < self._start:
            self._rewind()
        pieces: list[bytes] = []
        while size > 0:
            first = offset - self._start
            if first >= len(self._block):
                self._start += len(self._block)
                self._block = self._next()
                if not self._block:
                    self.size_bytes = self._start
                    break
                continue
            pieces.append(self._block[first : first + size])
            offset += len(pieces[-1])
            size -= len(pieces[-1])
        return b''.join(pieces)

    def expect(self, start: int, end: int) -> None:
        """See `Source`: there is only one way through it."""

    def _next(self) -> bytes:
        is_read = False
        try:
            block = next(self._blocks, b'')
            is_read = True
        finally:
            if not is_read:  # what the source raised has ended the blocks
                self._rewind()
        return block

    def _unpacked(self) -> Iterator[bytes]:
        """Blocks of what is in it; sets `problem`."""
        unpacker = None
        packed = b''
        read_bytes = unpacked_bytes = 0
        while True:
            alive()
            if not packed:
                packed = self._source.range(read_bytes, _PACKED_BYTES)
                if not packed:
                    if not read_bytes:
                        self.problem = Problem(Reason.EMPTY, '0 bytes')
                    elif unpacker is not None:
                        self.problem = _CUT
                    return
                read_bytes += len(packed)
            if unpacker is None:
                if unpacked_bytes:
                    packed = packed.lstrip(b'\0')
                    if not packed:
                        continue
                    if not packed.startswith(_MAGIC):
                        return  # what is no member ends the file, as with gzip
                elif not packed.startswith(_MAGIC):
                    self.problem = _NO_GZIP
                    return
                unpacker = zlib.decompressobj(_WBITS)
            try:
                block = unpacker.decompress(packed, _UNPACKED_BYTES)
            except zlib.error:
                self.problem = _DAMAGED
                return
            packed = unpacker.unconsumed_tail
            if unpacker.eof:
                packed, unpacker = unpacker.unused_data, None
            unpacked_bytes += len(block)
            if unpacked_bytes > max(_LEAST_BOMB_BYTES, _MAX_RATIO * read_bytes):
                self.problem = _BOMB
                return
            if block:
                yield block


_CUT = Problem(Reason.TRUNCATED, 'the gzip file breaks off')
_DAMAGED = Problem(Reason.DECODE_ERROR, 'the gzip file is damaged; what follows is not read')
_NO_GZIP = Problem(Reason.UNSUPPORTED_FORMAT, 'no gzip file')
_BOMB = Problem(
    Reason.TOO_MANY_BYTES, f'the gzip file unpacks to more than {_MAX_RATIO} times its bytes'
)
