"""Still pictures of libwebp, without what Pillow has it hold for animations.

Pillow decodes every WebP as an animation: into one of two canvases, copied to the other and into
bytes, 12 bytes a pixel beside the picture.  The same library decodes a still one in a third of it.
"""

import ctypes
from pathlib import Path

import numpy as np
import PIL

_ANIMATED = 0x02


def _library() -> ctypes.CDLL | None:
    """The library that came with Pillow; None where that uses the system's."""
    for path in (Path(PIL.__file__).parents[1] / 'pillow.libs').glob('libwebp-*'):
        try:
            library = ctypes.CDLL(str(path))
            measure, decode = library.WebPGetInfo, library.WebPDecodeRGBAInto
        except (OSError, AttributeError):
            continue
        size, number = ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)
        measure.argtypes = (ctypes.c_char_p, size, number, number)
        decode.argtypes = (ctypes.c_char_p, size, ctypes.c_void_p, size, ctypes.c_int)
        decode.restype = ctypes.c_void_p
        return library
    return None


_LIBWEBP = _library()


def is_decoded_here(data: bytes) -> bool:
    """Whether `still_pixels` can decode a file."""
    is_animated = data[12:16] == b'VP8X' and bool(data[20] & _ANIMATED)
    return _LIBWEBP is not None and not is_animated


def still_pixels(data: bytes, width: int, height: int) -> np.ndarray:
    """The picture of a file for which `is_decoded_here` holds.

    Args:
      data: the whole file.
      width, height: of its canvas.

    Returns:
      (height, width, 4) uint8 RGBA.

    Raises:
      ValueError: it cannot be decoded.
    """
    assert _LIBWEBP is not None
    coded = _picture_of(data)
    found = ctypes.c_int(), ctypes.c_int()
    is_known = _LIBWEBP.WebPGetInfo(coded, len(coded), *map(ctypes.byref, found))
    # Of a smaller one, a part of the canvas would stay as memory was.
    if not is_known or (found[0].value, found[1].value) != (width, height):
        raise ValueError('its picture is not as large as its canvas')
    pixels = np.empty((height, width, 4), np.uint8)
    if not _LIBWEBP.WebPDecodeRGBAInto(
        coded, len(coded), pixels.ctypes.data, pixels.nbytes, 4 * width
    ):
        raise ValueError('libwebp cannot decode it')
    return pixels


def _picture_of(data: bytes) -> bytes:
    """The chunks of the picture alone: where it ends early, libwebp reads on in the next ones."""
    at, start = 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], 'little')
        end = at + 8 + size + size % 2
        if name == b'ALPH':
            start = start or at
        elif name in (b'VP8 ', b'VP8L'):
            return data[start or at : end]
        at = end
    raise ValueError('no picture')
