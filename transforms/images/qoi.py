"""The pixels of a QOI, which Pillow reads byte by byte into objects."""

import numpy as np

_LOW, _HIGH = 0x7F7F7F7F, 0x80808080
_OPAQUE_BLACK = 0xFF000000


def _differences() -> list[int]:
    """By operation: what is added to red, green and blue, from the lowest byte on."""
    parts = (((each >> 4 & 3) - 2, (each >> 2 & 3) - 2, (each & 3) - 2) for each in range(256))
    return [r & 255 | (g & 255) << 8 | (b & 255) << 16 for r, g, b in parts]


_DIFFERENCES = _differences()


def qoi_pixels(data: bytes, count: int) -> np.ndarray:
    """(count, 4) uint8 RGBA.

    Each pixel depends on those before, so that numpy cannot help.  All four samples are in one
    number, and added at once: without the highest bits, which cannot carry, and with these behind.

    Args:
      data: what lies behind the header.
      count: pixels of the picture.

    Raises:
      IndexError: the data end early.
    """
    out = np.zeros(count, '<u4')
    put = memoryview(out.data)
    seen = [0] * 64
    pixel, at = _OPAQUE_BLACK, 0
    operations = iter(data)
    following = operations.__next__
    try:
        while at < count:
            operation = following()
            if operation < 64:
                pixel = seen[operation]
                if not pixel:
                    seen[0] = 0
                put[at] = pixel
                at += 1
                continue
            if 192 <= operation < 254:
                run = operation - 191
                out[at : at + run] = pixel
                at += run
                continue
            if operation < 128:
                change = _DIFFERENCES[operation]
                pixel = (pixel & _LOW) + (change & _LOW) ^ (pixel ^ change) & _HIGH
            elif operation < 192:
                green, others = operation - 160, following()
                red, blue = green + (others >> 4) - 8, green + (others & 15) - 8
                change = red & 255 | (green & 255) << 8 | (blue & 255) << 16
                pixel = (pixel & _LOW) + (change & _LOW) ^ (pixel ^ change) & _HIGH
            else:
                colours = following() | following() << 8 | following() << 16
                alpha = following() << 24 if operation == 255 else pixel & _OPAQUE_BLACK
                pixel = colours | alpha
            place = (pixel & 255) * 3 + (pixel >> 8 & 255) * 5
            seen[place + (pixel >> 16 & 255) * 7 + (pixel >> 24) * 11 & 63] = pixel
            put[at] = pixel
            at += 1
    except StopIteration:
        raise IndexError('data end early') from None
    return out.view(np.uint8).reshape(count, 4)
