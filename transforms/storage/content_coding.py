"""What Content-Encoding says of a body, believed as far as the bytes confirm it.

People and tools put values in it that are not codings, and leave it when they unpack a file.
"""

import zlib
from collections.abc import Callable

from transforms.core.errors import ImageError
from transforms.core.reasons import Reason

GZIP, DEFLATE = 'gzip', 'deflate'
_NAMES = {'gzip': GZIP, 'x-gzip': GZIP, 'deflate': DEFLATE}
# Bytes of these are no picture, and nothing here unpacks them.
_NOT_READ = frozenset({'br', 'zstd', 'compress', 'x-compress', 'dcb', 'dcz'})
_PACKED_BYTES = 4 * 1024
_GZIP_MAGIC = b'\x1f\x8b'
_MEMBER = b'\x1f'  # what another member begins with
_WBITS = {GZIP: 31, DEFLATE: 15}
_RAW_WBITS = -15


def coding_of(header: str) -> str:
    """How a body is packed: `GZIP`, `DEFLATE` or '', by its Content-Encoding.

    What is not a coding (aws-chunked, UTF-8, none, binary, a media type) counts as none.

    Raises:
      ImageError: unsupported_format: a coding that is not unpacked here, or several of them.
    """
    names = [name.strip().lower() for name in header.split(',')]
    codings = [name for name in names if name in _NAMES or name in _NOT_READ]
    if not codings:
        return ''
    if len(codings) > 1 or codings[0] in _NOT_READ:
        said = ', '.join(codings[:3])
        detail = f'stored with Content-Encoding {said}, which is not unpacked: store it without'
        raise ImageError(Reason.UNSUPPORTED_FORMAT, detail)
    return _NAMES[codings[0]]


def unpack(data: bytes, coding: str, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """Unpacks a body, no further than the limit.

    gzip may have several members in a row; anything else ends it, as with the gzip tool.  What does
    not start like a packed body is not unpacked, whatever the header says.

    Args:
      data: the body.
      coding: from `coding_of`.
      max_bytes: limit of the unpacked size.
      hold: called with the total of bytes in memory, before it grows.

    Raises:
      ImageError: decode_error, truncated or too_many_bytes.
    """
    if coding == GZIP and data.startswith(_GZIP_MAGIC):
        return _inflate(data, coding, _WBITS[GZIP], max_bytes, hold)
    wbits = _deflate_wbits(data) if coding == DEFLATE else None
    return data if wbits is None else _inflate(data, coding, wbits, max_bytes, hold)


def _deflate_wbits(data: bytes) -> int | None:
    """With its header, as it should be, or without, as some send it; None if it is neither."""
    for wbits in (_WBITS[DEFLATE], _RAW_WBITS):
        try:
            zlib.decompressobj(wbits).decompress(data[:_PACKED_BYTES], _PACKED_BYTES)
        except zlib.error:
            continue
        return wbits
    return None


def _inflate(
    data: bytes, coding: str, wbits: int, max_bytes: int, hold: Callable[[int], None]
) -> bytes:
    unpacker = zlib.decompressobj(wbits)
    pieces: list[bytes] = []
    size = 0
    # In small pieces, as the rest of one is copied behind each member.
    for start in range(0, len(data), _PACKED_BYTES):
        packed = data[start : start + _PACKED_BYTES]
        while packed:
            if unpacker.eof:
                if coding != GZIP or not packed.startswith(_MEMBER):
                    return b''.join(pieces)
                unpacker = zlib.decompressobj(wbits)
            try:
                pieces.append(unpacker.decompress(packed, max_bytes + 1 - size))
            except zlib.error as e:
                detail = f'stored as {coding}, but it is not'
                raise ImageError(Reason.DECODE_ERROR, detail, len(data)) from e
            size += len(pieces[-1])
            check_size(size, max_bytes)
            hold(len(data) + size)
            packed = unpacker.unused_data
    if not unpacker.eof:
        raise ImageError(Reason.TRUNCATED, f'stored as {coding}, but it ends early', len(data))
    return b''.join(pieces)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Refuses what is above the limit.

    Raises:
      ImageError: too_many_bytes.
    """
    if size_bytes > max_bytes:
        detail = f'{size_bytes} bytes, limit {max_bytes}'
        raise ImageError(Reason.TOO_MANY_BYTES, detail, size_bytes)
