"""JPEG 2000 files put together box by box, for what Pillow does not write."""

import io
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

SRGB, GREY, SYCC, CMYK = 16, 17, 18, 12


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I4s', len(body) + 8, kind) + body


def colour(number: int) -> bytes:
    """An enumerated colour space."""
    return box(b'colr', struct.pack('>BBBI', 1, 0, 0, number))


def profile(icc: bytes) -> bytes:
    return box(b'colr', b'\x02\x00\x00' + icc)


def channels(entries: Iterable[tuple[int, int, int]]) -> bytes:
    """Definitions: (channel, kind, colour that it is for)."""
    rows = [struct.pack('>HHH', *entry) for entry in entries]
    return box(b'cdef', struct.pack('>H', len(rows)) + b''.join(rows))


def palette(colours: np.ndarray) -> bytes:
    """(entries, channels) uint8."""
    entries, columns = colours.shape
    return box(
        b'pclr', struct.pack('>HB', entries, columns) + b'\x07' * columns + colours.tobytes()
    )


def mapping(columns: Iterable[int]) -> bytes:
    """Each channel from a column of the palette."""
    return box(b'cmap', b''.join(struct.pack('>HBB', 0, 1, column) for column in columns))


def jp2(stream: bytes, *boxes: bytes) -> bytes:
    """A codestream in boxes, its header's box made from it."""
    width, height, left, top = struct.unpack_from('>IIII', stream, 8)
    (components,) = struct.unpack_from('>H', stream, 40)
    bits = stream[42]
    ihdr = struct.pack('>IIHBBBB', height - top, width - left, components, bits, 7, 0, 0)
    return (
        box(b'jP  ', b'\r\n\x87\n')
        + box(b'ftyp', b'jp2 \0\0\0\0jp2 ')
        + box(b'jp2h', box(b'ihdr', ihdr) + b''.join(boxes))
        + box(b'jp2c', stream)
    )


def stream(image: Image.Image, **options: object) -> bytes:
    """A bare codestream, as Pillow writes it."""
    out = io.BytesIO()
    image.save(out, 'JPEG2000', no_jp2=True, **options)
    return out.getvalue()


def bare(
    size: tuple[int, int],
    *,
    tile: tuple[int, int] | None = None,
    components: int = 3,
    tile_header: bytes = b'',
    levels: int = 0,
    **coding: Any,
) -> bytes:
    """A codestream of tiles without data, and the coding that it is said to have."""
    tile = tile or size
    siz = struct.pack('>H8IH', 0, *size, 0, 0, *tile, 0, 0, components) + b'\7\1\1' * components
    quantization = b'\x40' * (2 + 3 * levels)
    part = tile_header + b'\xff\x93\0\0'
    tiles = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    return (
        b'\xff\x4f'
        + marker(0x51, siz)
        + cod(levels=levels, **coding)
        + marker(0x5C, quantization)
        + b''.join(
            marker(0x90, struct.pack('>HIBB', i, 12 + len(part), 0, 1)) + part for i in range(tiles)
        )
        + b'\xff\xd9'
    )


def cod(
    *,
    layers: int = 1,
    levels: int = 0,
    block: tuple[int, int] = (6, 6),
    style: int = 0,
    precincts: Iterable[int] = (),
) -> bytes:
    """Sides of blocks and precincts as logarithms; those of a precinct in the halves of a byte."""
    sizes = bytes(precincts)
    head = (bool(sizes), 0, layers, 0, levels, block[0] - 2, block[1] - 2, style, 1)
    return marker(0x52, struct.pack('>BBHBBBBBB', *head) + sizes)


def marker(number: int, body: bytes) -> bytes:
    return struct.pack('>BBH', 0xFF, number, len(body) + 2) + body


def without_tiles(stream: bytes, keep: int) -> bytes:
    """The first tiles of a codestream, and its end marker."""
    at = stream.index(b'\xff\x90')
    for _ in range(keep):
        at += struct.unpack_from('>I', stream, at + 6)[0]
    return stream[:at] + b'\xff\xd9'
