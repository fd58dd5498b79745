"""TIFFs of every coding, made sample by sample; what no other writer would make stands here."""

import dataclasses
import io
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from PIL import Image, ImageChops

NONE, LZW, OLD_JPEG, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 6, 7, 8, 32946, 32773
LZMA, ZSTD, WEBP = 34925, 50000, 50001
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
# Samples that are colours, by photometric kind.
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Coding:
    """How a TIFF holds its samples, in the words of the specification.

    Attributes:
      bits: of each sample.
      extra: kinds of the samples beyond the colours.
      tile: (width, height), none for strips.
      rows_per_strip: all in one if None.
      subsampling: horizontal and vertical, of YCbCr.
    """

    photometric: int = BLACK_IS_ZERO
    bits: int = 8
    sample_format: int = UNSIGNED
    compression: int = NONE
    is_planar: bool = False
    extra: tuple[int, ...] = ()
    predictor: int = 1
    fill_order: int = 1
    byte_order: str = '<'
    is_big: bool = False
    tile: tuple[int, int] | None = None
    rows_per_strip: int | None = None
    subsampling: tuple[int, int] = (1, 1)


def encode(
    samples: np.ndarray,
    coding: Coding,
    *,
    change: Callable[[int, bytes], bytes] = lambda i, segment: segment,
    offsets_told: float = 1.0,
    **tags: tuple[int, ...],
) -> bytes:
    """A TIFF of (height, width, channels) samples.

    Args:
      change: gives what is stored for a strip or tile, by its number.
      offsets_told: the share of strips and tiles that the directory names.
      tags: values that replace or add others, named `t<tag>`.
    """
    height, width, channels = samples.shape
    segments = [change(i, _segment(part, coding)) for i, part in enumerate(_parts(samples, coding))]
    values: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (coding.bits,) * channels,
        259: (coding.compression,),
        262: (coding.photometric,),
        266: (coding.fill_order,),
        277: (channels,),
        284: (2 if coding.is_planar else 1,),
        339: (coding.sample_format,) * channels,
    }
    if coding.extra:
        values[338] = coding.extra
    if coding.predictor != 1:
        values[317] = (coding.predictor,)
    if coding.photometric == YCBCR:
        values[530] = coding.subsampling
    if coding.photometric == PALETTE:
        values[320] = tuple(int(value) for value in palette(coding.bits).T.reshape(-1))
    places = (324, 325) if coding.tile else (273, 279)
    if coding.tile:
        values |= {322: (coding.tile[0],), 323: (coding.tile[1],)}
    else:
        values[278] = (coding.rows_per_strip or height,)
    told = segments[: max(int(len(segments) * offsets_told), 1)]
    values[places[1]] = tuple(len(segment) for segment in told)
    values |= {int(name[1:]): value for name, value in tags.items()}
    return _assemble(values, places[0], told, coding)


def palette(bits: int) -> np.ndarray:
    """(1 << bits, 3) of 0 to 65535, no two alike and none grey."""
    index = np.arange(1 << bits)
    return np.stack([index * 37 % 256, index * 11 % 200 + 40, 255 - index % 256], 1) * 257


def _parts(samples: np.ndarray, coding: Coding) -> Iterable[np.ndarray]:
    """The strips or tiles, tiles filled up at the edges."""
    height, width, channels = samples.shape
    planes = [samples[:, :, i : i + 1] for i in range(channels)] if coding.is_planar else [samples]
    across, down = coding.tile or (width, coding.rows_per_strip or height)
    for plane in planes:
        for y in range(0, height, down):
            for x in range(0, width, across):
                part = plane[y : y + down, x : x + across]
                if coding.tile:
                    missing = (down - part.shape[0], across - part.shape[1])
                    part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), 'edge')
                yield part


def _segment(part: np.ndarray, coding: Coding) -> bytes:
    if coding.compression in (JPEG, WEBP):
        return _coded_picture(part, coding)
    if coding.subsampling != (1, 1):
        part = _subsampled(part, *coding.subsampling)
    if coding.predictor == 2:
        bits = max(coding.bits, 8)
        part = np.diff(part, axis=1, prepend=0) % (1 << bits)
    compressed = _compressed(_packed(part, coding), coding.compression)
    return _reversed(compressed) if coding.fill_order == 2 else compressed


def _compressed(raw: bytes, compression: int) -> bytes:
    match compression:
        case 1:
            return raw
        case 5:
            return _lzw(raw)
        case 8 | 32946:
            return zlib.compress(raw)
        case 32773:
            return _packbits(raw)
        case 34925:
            return lzma.compress(raw)
        case 50000:
            return bytes(pa.compress(raw, 'zstd'))
        case unknown:
            return raw + bytes([unknown % 256])


def _reversed(raw: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(-1, 1), axis=1)
    return np.packbits(bits[:, ::-1], axis=1).tobytes()


def _packed(part: np.ndarray, coding: Coding) -> bytes:
    rows = part.reshape(part.shape[0], -1)
    if coding.sample_format == FLOAT:
        return rows.astype(f'{coding.byte_order}f{coding.bits // 8}').tobytes()
    return packed(part, coding.bits, coding.byte_order)


def packed(part: np.ndarray, bits: int, byte_order: str = '>') -> bytes:
    """Rows of (height, width, channels) samples, each beginning with a byte of its own."""
    rows = part.reshape(part.shape[0], -1)
    if bits in (8, 16, 32):
        return rows.astype(f'{byte_order}u{bits // 8}').tobytes()
    wide = rows.astype('>u4')[:, :, None].view(np.uint8)
    each = np.unpackbits(wide, axis=2)[:, :, 32 - bits :]
    return np.packbits(each.reshape(len(rows), -1), axis=1).tobytes()


def _subsampled(part: np.ndarray, across: int, down: int) -> np.ndarray:
    """Units of across x down samples of Y, one of Cb and one of Cr; (units down, 1, samples)."""
    height, width, _ = part.shape
    padded = np.pad(part, ((0, -height % down), (0, -width % across), (0, 0)), 'edge')
    rows, columns = padded.shape[0] // down, padded.shape[1] // across
    units = padded.reshape(rows, down, columns, across, 3).transpose(0, 2, 1, 3, 4)
    luma = units[..., 0].reshape(rows, columns, -1)
    chroma = units[..., 1:].mean(axis=(2, 3)).round().astype(part.dtype)
    return np.concatenate([luma, chroma], axis=2).reshape(rows, 1, -1)


def _packbits(raw: bytes) -> bytes:
    """Literals alone."""
    return b''.join(
        bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128] for i in range(0, len(raw), 128)
    )


def _lzw(raw: bytes) -> bytes:
    """Literals alone, in codes of nine bits."""
    codes = []
    for i, byte in enumerate(raw):
        if i % 200 == 0:
            codes.append(256)
        codes.append(byte)
    bits = np.unpackbits(np.array([*codes, 257], '>u2')[:, None].view(np.uint8), axis=1)[:, 7:]
    return np.packbits(bits.reshape(-1)).tobytes()


def _coded_picture(part: np.ndarray, coding: Coding) -> bytes:
    """A whole JPEG or WebP a strip or tile; YCbCr as JPEG knows it."""
    modes = {1: 'L', 3: 'RGB', 4: 'CMYK'}
    mode = modes[part.shape[2]]
    image = Image.fromarray(part.astype(np.uint8).squeeze(), mode)
    out = io.BytesIO()
    if coding.compression == WEBP:
        image.save(out, 'WEBP', lossless=True)
        return out.getvalue()
    if coding.photometric == YCBCR and not coding.is_planar:
        image = Image.merge('YCbCr', image.split())
    subsampling = {(1, 1): 0, (2, 1): 1, (2, 2): 2}[coding.subsampling]
    if mode == 'CMYK':
        image = ImageChops.invert(image)  # Pillow writes what Adobe's JPEGs have
    is_rgb = coding.photometric == RGB and mode == 'RGB'
    image.save(out, 'JPEG', quality=98, subsampling=subsampling, keep_rgb=is_rgb)
    return without_application_segments(out.getvalue())


def without_application_segments(jpeg: bytes) -> bytes:
    """Without JFIF and Adobe segments, as strips of TIFFs are."""
    kept, at = [jpeg[:2]], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + struct.unpack_from('>H', jpeg, at + 2)[0]
        if not 0xE0 <= jpeg[at + 1] <= 0xEF:
            kept.append(jpeg[at:end])
        at = end
    return b''.join([*kept, jpeg[at:]])


def _assemble(
    values: dict[int, tuple[int, ...]], offsets_tag: int, segments: list[bytes], coding: Coding
) -> bytes:
    """Header, segments, long values, directory."""
    order, mark = coding.byte_order, b'II' if coding.byte_order == '<' else b'MM'
    # Type 4 (LONG) or 16 (LONG8) where the values are large or are places.
    wide, word_bytes = ('Q', 8) if coding.is_big else ('I', 4)
    body = bytearray(16 if coding.is_big else 8)
    places = []
    for segment in segments:
        places.append(len(body))
        body += segment + bytes(len(segment) % 2)
    values = values | ({offsets_tag: tuple(places)} if offsets_tag not in values else {})
    rows = b''
    for tag, numbers in sorted(values.items()):
        kind, form = (3, 'H') if max(numbers, default=0) < 65536 else (4, 'I')
        packed = struct.pack(f'{order}{len(numbers)}{form}', *numbers)
        if len(packed) > word_bytes:
            field = struct.pack(order + wide, len(body))
            body += packed + bytes(len(packed) % 2)
        else:
            field = packed.ljust(word_bytes, b'\0')
        rows += struct.pack(f'{order}HH{wide}', tag, kind, len(numbers)) + field
    at = len(body)
    if coding.is_big:
        head = mark + struct.pack(f'{order}HHHQ', 43, 8, 0, at)
        count = struct.pack(order + 'Q', len(values))
    else:
        head = mark + struct.pack(f'{order}HI', 42, at)
        count = struct.pack(order + 'H', len(values))
    body[: len(head)] = head
    return bytes(body + count + rows + bytes(word_bytes))
