"""Odd and hostile image files, all made here, each with the outcome its owner would want.

`corpus()` yields the same cases in the same order every time.  An expectation is what a sensible
person wants of the file, not what the decoder happens to do.  Metadata alone spoils no picture; a
picture that is not whole is not guessed at.
"""

import dataclasses
import functools
import gzip
import io
import itertools
import random
import struct
import types
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from tests.support import jp2s, tiffs

try:
    import pillow_heif
except ImportError:
    _HAS_HEIF = False
else:
    _HAS_HEIF = True
    pillow_heif.register_heif_opener()

LABELED = 'labeled'
UNSUPPORTED = 'unsupported_format'
NOT_AN_IMAGE = 'not_an_image'
TRUNCATED = 'truncated'
TOO_MANY_PIXELS = 'too_many_pixels'
DECODE_ERROR = 'decode_error'
EMPTY = 'empty'

ORIENTATION = 0x0112
END = b'\xff\xd9'


@dataclasses.dataclass(frozen=True)
class Case:
    """One file: its name, its bytes, and 'labeled' or the value of a `Reason`."""

    name: str
    data: bytes
    expected: str


@functools.cache
def cases() -> tuple[Case, ...]:
    """All cases, made once in a process."""
    return tuple(corpus())


def corpus() -> Iterator[Case]:
    """All cases, made anew; about 20 MB and a few seconds to make."""
    yield from itertools.chain(
        _jpegs(),
        _jpeg_headers(),
        _pngs(),
        _png_chunks(),
        _webps(),
        _gifs(),
        _bmps(),
        _tiffs(),
        _tiff_directories(),
        _avifs(),
        _heics(),
        _jpeg2000s(),
        _icons(),
        _netpbms(),
        _targas_and_qois(),
        _shapes(),
        _orientations(),
        _wrong_suffixes(),
        _cut_files(),
        _trailing_bytes(),
        _flipped_bytes(),
        _missing_pixels(),
        _rare_codings(),
        _pixel_bombs(),
        _polyglots(),
        _other_formats(),
        _not_images(),
    )


# Pictures


def picture(width: int = 48, height: int = 40, mode: str = 'RGB') -> Image.Image:
    """A smooth picture without any symmetry, so that a wrong orientation cannot pass."""
    return _picture(width, height, mode).copy()


@functools.cache
def _picture(width: int, height: int, mode: str) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / max(width, 1), y / max(height, 1)
    red = 255 * x
    green = 255 * y
    blue = 127 + 120 * np.sin(5 * x + 9 * y * y)
    image = Image.fromarray(np.stack([red, green, blue], axis=-1).round().astype(np.uint8))
    if mode in ('LA', 'RGBA'):
        alpha = Image.fromarray((255 * (1 - x) * (y > 0.2)).astype(np.uint8))
        image = image.convert('L' if mode == 'LA' else 'RGB')
        image.putalpha(alpha)
        return image
    return image if mode == 'RGB' else image.convert(mode)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def grey16(width: int = 48, height: int = 40) -> np.ndarray:
    """(height, width) uint16 over the whole range."""
    y, x = np.mgrid[0:height, 0:width]
    values: np.ndarray = (x * 1301 + y * 97) * 37 % 65536
    return values.astype(np.uint16)


def exif(orientation: int, byte_order: str = '<') -> bytes:
    """An EXIF block with the orientation alone."""
    mark = b'II*\x00' if byte_order == '<' else b'MM\x00*'
    entry = struct.pack(byte_order + 'HHIHH', ORIENTATION, 3, 1, orientation, 0)
    body = struct.pack(byte_order + 'IH', 8, 1) + entry + struct.pack(byte_order + 'I', 0)
    return b'Exif\x00\x00' + mark + body


def with_exif_segment(jpeg: bytes, block: bytes) -> bytes:
    return jpeg[:2] + segment(0xE1, block) + jpeg[2:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack('>BBH', 0xFF, marker, len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def png(ihdr: tuple[int, int, int, int, int], rows: bytes, *extra: bytes) -> bytes:
    """A PNG of (width, height, depth, colour type, interlace), filtered rows, chunks between."""
    width, height, depth, colour, interlace = ihdr
    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, interlace)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', head)
        + b''.join(extra)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


def with_png_chunk(data: bytes, *chunks: bytes, before: bytes = b'IDAT') -> bytes:
    at = data.index(before) - 4
    return data[:at] + b''.join(chunks) + data[at:]


_Entry = tuple[int, int, int]
"""Type, count and value of a tag."""


def tiff(
    entries: Iterable[tuple[int, int, int, int]], body: bytes = b'', byte_order: str = '<'
) -> bytes:
    """A TIFF of raw (tag, type, count, value) entries; `body` begins at byte 4096."""
    rows = sorted(entries)
    mark = b'II*\x00' if byte_order == '<' else b'MM\x00*'
    out = mark + struct.pack(byte_order + 'IH', 8, len(rows))
    for tag, kind, count, value in rows:
        inline = (
            struct.pack(byte_order + 'HH', value, 0)
            if kind == 3 and count == 1
            else struct.pack(byte_order + 'I', value)
        )
        out += struct.pack(byte_order + 'HHI', tag, kind, count) + inline
    out += struct.pack(byte_order + 'I', 0)
    return out.ljust(4096, b'\x00') + body


def _grey_tiff_entries(width: int, height: int, strip_bytes: int) -> dict[int, _Entry]:
    return {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 4096),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, strip_bytes),
    }


def grey_tiff(
    width: int, height: int, body: bytes, *, byte_order: str = '<', **tags: _Entry
) -> bytes:
    """An 8-bit grey TIFF; keywords `t<tag>` replace or add (type, count, value)."""
    entries = _grey_tiff_entries(width, height, len(body))
    entries |= {int(name[1:]): value for name, value in tags.items()}
    return tiff([(tag, *e) for tag, e in entries.items()], body, byte_order)


# JPEG


def _jpegs() -> Iterator[Case]:
    kinds: dict[str, dict[str, object]] = {
        'baseline': {},
        'progressive': {'progressive': True},
        'optimized': {'optimize': True},
        'restarts': {'restart_marker_rows': 1},
        'worst': {'quality': 1},
        'best': {'quality': 100},
    }
    for mode, (name, options) in itertools.product(('L', 'RGB', 'CMYK'), kinds.items()):
        yield Case(f'jpeg_{mode.lower()}_{name}.jpg', _jpeg(mode=mode, **options), LABELED)
    for subsampling in ('4:4:4', '4:2:2', '4:2:0', '4:1:1'):
        for progressive in (False, True):
            yield Case(
                f'jpeg_{subsampling.replace(":", "")}_{"scans" if progressive else "rows"}.jpg',
                _jpeg(subsampling=subsampling, progressive=progressive),
                LABELED,
            )
    yield Case('jpeg_stored_as_rgb.jpg', _jpeg(keep_rgb=True), LABELED)
    yield Case('jpeg_restart_blocks.jpg', _jpeg(restart_marker_blocks=1), LABELED)
    yield Case('jpeg_ycck.jpg', ycck_jpeg(), LABELED)
    yield Case('jpeg_icc.jpg', _jpeg(icc_profile=_srgb_profile()), LABELED)
    yield Case('jpeg_comment.jpg', _jpeg(comment=b'no picture is worth this comment'), LABELED)
    yield Case('jpeg_dpi.jpg', _jpeg(dpi=(300, 300)), LABELED)
    yield Case('mpo.mpo', mpo(), LABELED)
    yield Case('mpo_named_jpg.jpg', mpo(), LABELED)
    for side in (1, 7, 8, 9, 15, 16, 17, 255, 257):
        yield Case(f'jpeg_{side}px.jpg', encode(picture(side, side + 3), 'JPEG'), LABELED)


def _jpeg(mode: str = 'RGB', **options: object) -> bytes:
    return encode(picture(mode=mode), 'JPEG', **options)


def _srgb_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    return profile[:24] + bytes(12) + profile[36:]  # its time of making


def ycck_jpeg() -> bytes:
    """A CMYK JPEG whose Adobe segment says YCCK."""
    data = _jpeg(mode='CMYK')
    at = data.index(b'Adobe')
    return data[: at + 11] + b'\x02' + data[at + 12 :]


def mpo() -> bytes:
    frames = [picture(), ImageOps.mirror(picture())]
    return encode(frames[0], 'MPO', save_all=True, append_images=frames[1:])


def tall_jpeg(width: int, strips: int) -> bytes:
    """A baseline JPEG of width x (128 * strips) pixels, made of one strip said again and again.

    Restart markers make the strip's coded rows independent of what stands above them.
    """
    strip = encode(picture(width, 128), 'JPEG', restart_marker_rows=1)
    at = strip.index(b'\xff\xda')
    scan_at = at + 2 + struct.unpack_from('>H', strip, at + 2)[0]
    scan = strip[scan_at:-2]
    body = b'\xff\xd7'.join([scan] * strips)
    return sof_size(strip[:scan_at] + body + b'\xff\xd9', width, 128 * strips)


def _jpeg_headers() -> Iterator[Case]:
    base = _jpeg()
    damaged = {
        'exif_empty': b'Exif\x00\x00',
        'exif_no_directory': b'Exif\x00\x00II*\x00\xff\xff\xff\x7f',
        'exif_cut': exif(6)[:-8],
        'exif_noise': b'Exif\x00\x00' + random.Random(1).randbytes(200),
        'exif_bad_mark': b'Exif\x00\x00XX*\x00\x08\x00\x00\x00',
        'exif_orientation_0': exif(0),
        'exif_orientation_9': exif(9),
        'exif_orientation_65535': exif(65535),
        'exif_orientation_text': exif(6).replace(
            struct.pack('<HHI', ORIENTATION, 3, 1), struct.pack('<HHI', ORIENTATION, 2, 1)
        ),
        'exif_orientation_rational': exif(6).replace(
            struct.pack('<HHI', ORIENTATION, 3, 1), struct.pack('<HHI', ORIENTATION, 5, 1)
        ),
        'exif_orientation_pair': exif(6).replace(
            struct.pack('<HHI', ORIENTATION, 3, 1), struct.pack('<HHI', ORIENTATION, 3, 2)
        ),
        'exif_self_loop': exif(6)[:-4] + struct.pack('<I', 8),
        'exif_thumbnail_far': exif(6)[:-4] + struct.pack('<I', 0x7FFFFFFF),
        'xmp_broken': b'http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta tiff:Orientation="six"',
    }
    for name, block in damaged.items():
        yield Case(f'jpeg_{name}.jpg', with_exif_segment(base, block), LABELED)
    mpf = segment(0xE2, b'MPF\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00')
    yield Case('jpeg_mpf_empty.jpg', base[:2] + mpf + base[2:], LABELED)
    whole = mpo()
    at = whole.index(struct.pack('<HHI', 0xB001, 4, 1))
    yield Case(
        'mpo_wrong_count.mpo', whole[: at + 8] + struct.pack('<I', 7) + whole[at + 12 :], LABELED
    )
    yield Case('mpo_second_lost.mpo', whole[: whole.rindex(b'\xff\xd8') + 20], LABELED)
    yield Case('jpeg_icc_cut.jpg', base[:2] + segment(0xE2, b'ICC_PROFILE\x00') + base[2:], LABELED)
    yield Case('jpeg_adobe_cut.jpg', base[:2] + segment(0xEE, b'Adobe\x00') + base[2:], LABELED)
    padding = b''.join(segment(0xFE, b'') for _ in range(200))
    yield Case('jpeg_200_comments.jpg', base[:2] + padding + base[2:], LABELED)
    yield Case('jpeg_fill_bytes.jpg', base[:2] + b'\xff' * 50 + base[2:], LABELED)
    photoshop = segment(0xED, b'Photoshop 3.0\x008BIM\x03\xed\x00\x00\x00\x00\x00\x01\x00')
    yield Case('jpeg_photoshop_cut.jpg', base[:2] + photoshop + base[2:], LABELED)


# PNG


def _packed(values: np.ndarray, depth: int) -> bytes:
    """Unfiltered PNG rows of one sample a pixel."""
    rows = []
    for row in values:
        bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
        rows.append(b'\x00' + np.packbits(bits.reshape(-1)).tobytes())
    return b''.join(rows)


def interlaced_png(samples: np.ndarray, colour: int) -> bytes:
    """Adam7 of (height, width, channels) uint8."""
    height, width = samples.shape[:2]
    passes: tuple[tuple[int, ...], ...] = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4))
    passes += ((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b''
    for x, y, dx, dy in passes:
        part = samples[y::dy, x::dx]
        if part.size:
            rows += b''.join(b'\x00' + row.tobytes() for row in part)
    return png((width, height, 8, colour, 1), rows)


def _pngs() -> Iterator[Case]:
    for depth in (1, 2, 4, 8):
        values = np.arange(48 * 40).reshape(40, 48) % (1 << depth)
        rows = _packed(values, depth)
        yield Case(f'png_grey{depth}.png', png((48, 40, depth, 0, 0), rows), LABELED)
        palette = chunk(b'PLTE', bytes(i % 256 for i in range(3 << depth)))
        indexed = png((48, 40, depth, 3, 0), rows, palette)
        yield Case(f'png_palette{depth}.png', indexed, LABELED)
        alpha = chunk(b'tRNS', bytes([0, 128]))
        yield Case(f'png_palette{depth}_trns.png', with_png_chunk(indexed, alpha), LABELED)
        grey = chunk(b'tRNS', struct.pack('>H', 1))
        yield Case(f'png_grey{depth}_trns.png', png((48, 40, depth, 0, 0), rows, grey), LABELED)
    kinds: dict[str, dict[str, object]] = {
        'fast': {'compress_level': 0},
        'small': {'optimize': True},
    }
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        for name, options in kinds.items():
            yield Case(
                f'png_{mode.lower()}_{name}.png',
                encode(picture(mode=mode), 'PNG', **options),
                LABELED,
            )
    yield Case('png_grey16.png', png16(), LABELED)
    yield Case('png_grey16_trns.png', png16(chunk(b'tRNS', b'\x00\x25')), LABELED)
    wide = {2: 3, 4: 2, 6: 4}
    for colour, channels in wide.items():
        stored = np.repeat(grey16()[:, :, None], channels, axis=2).astype('>u2')
        body = b''.join(b'\x00' + row.tobytes() for row in stored)
        yield Case(f'png_16bit_type{colour}.png', png((48, 40, 16, colour, 0), body), LABELED)
    rgb = encode(picture(), 'PNG')
    yield Case(
        'png_rgb_trns.png',
        with_png_chunk(rgb, chunk(b'tRNS', struct.pack('>3H', 0, 0, 127))),
        LABELED,
    )
    for colour, mode in {0: 'L', 2: 'RGB', 4: 'LA', 6: 'RGBA'}.items():
        samples = np.asarray(picture(mode=mode))
        yield Case(f'png_interlaced_type{colour}.png', interlaced_png(samples, colour), LABELED)
    frames = [picture(), ImageOps.mirror(picture())]
    animated = encode(frames[0], 'PNG', save_all=True, append_images=frames[1:])
    yield Case('apng.apng', animated, LABELED)
    yield Case(
        'apng_default_image.png',
        encode(frames[0], 'PNG', save_all=True, append_images=frames[1:], default_image=True),
        LABELED,
    )
    yield Case(
        'png_palette_outside.png',
        png(
            (8, 8, 8, 3, 0),
            b''.join(b'\x00' + b'\xff' * 8 for _ in range(8)),
            chunk(b'PLTE', bytes(6)),
        ),
        LABELED,
    )


def png16(*extra: bytes) -> bytes:
    rows = b''.join(b'\x00' + row.tobytes() for row in grey16().astype('>u2'))
    return png((48, 40, 16, 0, 0), rows, *extra)


def _png_chunks() -> Iterator[Case]:
    """Ancillary chunks spoil nothing, whatever is in them."""
    base = encode(picture(), 'PNG')
    bomb = zlib.compress(bytes(8 << 20), 9)
    spoiled = {
        'ztxt_bomb': chunk(b'zTXt', b'Comment\x00\x00' + bomb),
        'itxt_bomb': chunk(b'iTXt', b'Comment\x00\x01\x00\x00\x00' + bomb),
        'iccp_bomb': chunk(b'iCCP', b'profile\x00\x00' + bomb),
        'iccp_noise': chunk(b'iCCP', b'profile\x00\x00' + bytes(range(99))),
        'ztxt_noise': chunk(b'zTXt', b'Comment\x00\x00' + bytes(range(99))),
        'text_long': chunk(b'tEXt', b'workflow\x00' + b'x' * (2 << 20)),
        'text_unicode': chunk(b'iTXt', b'Title\x00\x00\x00\x00\x00\xff\xfe'),
        'phys_cut': chunk(b'pHYs', b'\x00'),
        'gama_cut': chunk(b'gAMA', b'\x00'),
        'srgb_empty': chunk(b'sRGB', b''),
        'exif_noise': chunk(b'eXIf', b'II*\x00' + bytes(range(60))),
        'exif_empty': chunk(b'eXIf', b''),
        'actl_cut': chunk(b'acTL', b'\x00\x00'),
        'actl_zero': chunk(b'acTL', bytes(8)),
        'unknown': chunk(b'quUx', b'anything'),
        'bad_crc': chunk(b'tEXt', b'Title\x00x')[:-4] + b'\x00\x00\x00\x00',
    }
    for name, extra in spoiled.items():
        yield Case(f'png_{name}.png', with_png_chunk(base, extra), LABELED)
        yield Case(f'png_{name}_behind.png', with_png_chunk(base, extra, before=b'IEND'), LABELED)
    yield Case(
        'png_no_idat.png', base[: base.index(b'IDAT') - 4] + chunk(b'IEND', b''), DECODE_ERROR
    )
    yield Case('png_no_rows.png', png((48, 40, 8, 2, 0), b''), TRUNCATED)
    yield Case('png_depth3.png', png((8, 8, 3, 0, 0), bytes(40)), DECODE_ERROR)
    yield Case('png_colour5.png', png((8, 8, 8, 5, 0), bytes(400)), DECODE_ERROR)
    yield Case('png_0_wide.png', png((0, 8, 8, 0, 0), bytes(40)), DECODE_ERROR)
    yield Case('png_idat_bomb.png', png((4, 4, 8, 0, 0), bytes(32 << 20)), LABELED)


# WebP, GIF, BMP


def _webps() -> Iterator[Case]:
    for mode in ('L', 'RGB', 'RGBA'):
        for lossless in (False, True):
            kind = 'lossless' if lossless else 'lossy'
            data = encode(picture(mode=mode), 'WEBP', lossless=lossless, exact=True)
            yield Case(f'webp_{mode.lower()}_{kind}.webp', data, LABELED)
    yield Case('webp_animated.webp', webp_animation(), LABELED)
    yield Case(
        'webp_exif_noise.webp', encode(picture(), 'WEBP', exif=b'Exif\x00\x00noise'), LABELED
    )
    yield Case('webp_icc.webp', encode(picture(), 'WEBP', icc_profile=_srgb_profile()), LABELED)
    yield Case('webp_best.webp', encode(picture(), 'WEBP', quality=100, method=6), LABELED)
    yield Case('webp_no_frame.webp', b'RIFF\x04\x00\x00\x00WEBP', DECODE_ERROR)


def webp_animation() -> bytes:
    frames = [picture(mode='RGBA'), ImageOps.mirror(picture(mode='RGBA'))]
    return encode(frames[0], 'WEBP', save_all=True, append_images=frames[1:], duration=50)


def gif(
    size: tuple[int, int],
    frame: tuple[int, int, int, int],
    extensions: bytes = b'',
    codes: float = 1.0,
) -> bytes:
    """A GIF89a with one frame (left, top, width, height) of index 1 on a larger screen.

    `codes` is the share of the frame after which its data end.
    """
    colours = bytes([255, 255, 255, 200, 30, 90, 10, 180, 40, 0, 0, 0])
    told = int(frame[2] * frame[3] * codes)
    words = [4] + [code for _ in range(told) for code in (1, 4)] + [5]
    bits = ''.join(f'{code:03b}'[::-1] for code in words)
    packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    blocks = b''.join(
        bytes([len(packed[i : i + 255])]) + packed[i : i + 255] for i in range(0, len(packed), 255)
    )
    return (
        b'GIF89a'
        + struct.pack('<HHBBB', *size, 0x91, 0, 0)
        + colours
        + extensions
        + b','
        + struct.pack('<HHHHB', *frame, 0)
        + b'\x02'
        + blocks
        + b'\x00;'
    )


def _gifs() -> Iterator[Case]:
    for mode in ('1', 'L', 'P', 'RGB', 'RGBA'):
        yield Case(f'gif_{mode.lower()}.gif', encode(picture(mode=mode), 'GIF'), LABELED)
    palette = picture(mode='P')
    yield Case('gif_transparent.gif', encode(palette, 'GIF', transparency=3), LABELED)
    yield Case('gif_interlaced.gif', encode(palette, 'GIF', interlace=1), LABELED)
    frames = [ImageOps.mirror(picture()), ImageOps.flip(picture())]
    animated = encode(picture(), 'GIF', save_all=True, append_images=frames, duration=50)
    yield Case('gif_animated.gif', animated, LABELED)
    yield Case('gif_second_frame_lost.gif', animated[: animated.rindex(b'!\xf9') + 3], LABELED)
    yield Case('gif_partial_frame.gif', gif((20, 20), (5, 5, 6, 6)), LABELED)
    clear = b'!\xf9\x04\x01\x00\x00\x01\x00'
    yield Case('gif_partial_transparent.gif', gif((20, 20), (5, 5, 6, 6), clear), LABELED)
    yield Case('gif_frame_outside.gif', gif((4, 4), (2, 2, 6, 6)), LABELED)
    yield Case('gif_comment.gif', gif((9, 9), (0, 0, 9, 9), b'!\xfe\x05hello\x00'), LABELED)
    block = b'\xff' + b'x' * 255
    yield Case(
        'gif_long_comment.gif',
        gif((9, 9), (0, 0, 9, 9), b'!\xfe' + block * 8000 + b'\x00'),
        LABELED,
    )
    yield Case(
        'gif_application.gif', gif((9, 9), (0, 0, 9, 9), b'!\xff\x0bANYTHING1.0\x00'), LABELED
    )
    yield Case('gif_87a.gif', gif((9, 9), (0, 0, 9, 9)).replace(b'89a', b'87a'), LABELED)
    yield Case('gif_no_frame.gif', gif((9, 9), (0, 0, 9, 9)).split(b',')[0] + b';', DECODE_ERROR)
    yield Case('gif_0_wide.gif', gif((0, 0), (0, 0, 0, 0)), DECODE_ERROR)


def bmp(depth: int, compression: int, body: bytes, colours: int = 0, side: int = 8) -> bytes:
    offset = 54 + 4 * colours
    info = struct.pack(
        '<IiiHHIIiiII', 40, side, side, 1, depth, compression, len(body), 0, 0, colours, 0
    )
    table = b''.join(bytes([i * 16 % 256, i * 40 % 256, 255 - i, 0]) for i in range(colours))
    return struct.pack('<2sIHHI', b'BM', offset + len(body), 0, 0, offset) + info + table + body


def _bmps() -> Iterator[Case]:
    for mode in ('1', 'L', 'P', 'RGB', 'RGBA'):
        yield Case(f'bmp_{mode.lower()}.bmp', encode(picture(mode=mode), 'BMP'), LABELED)
    yield Case('bmp_4bit.bmp', bmp(4, 0, bytes(range(32)), 16), LABELED)
    yield Case('bmp_16bit.bmp', bmp(16, 0, bytes(range(128))), LABELED)
    yield Case('bmp_rle8.bmp', bmp(8, 1, b'\x08\x03\x00\x00' * 8 + b'\x00\x01', 16), LABELED)
    yield Case('bmp_rle4.bmp', bmp(4, 2, b'\x08\x31\x00\x00' * 8 + b'\x00\x01', 16), LABELED)
    rgb = encode(picture(), 'BMP')
    flipped = rgb[:22] + struct.pack('<i', -40) + rgb[26:]
    yield Case('bmp_top_down.bmp', flipped, LABELED)
    yield Case('bmp_depth7.bmp', bmp(7, 0, bytes(64)), DECODE_ERROR)
    yield Case('bmp_compression9.bmp', bmp(8, 9, bytes(64), 16), DECODE_ERROR)


# TIFF


def _tiffs() -> Iterator[Case]:
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr'):
        for compression in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'):
            if mode == 'YCbCr' and compression is None:
                continue  # Pillow writes these without the subsampling they announce
            name = f'tiff_{mode.lower()}_{(compression or "raw").removeprefix("tiff_")}.tif'
            data = encode(picture(mode=mode), 'TIFF', compression=compression)
            yield Case(name, data, LABELED)
    for mode in ('L', 'RGB', 'CMYK'):
        jpeg = encode(picture(mode=mode), 'TIFF', compression='jpeg')
        yield Case(f'tiff_jpeg_{mode.lower()}.tiff', jpeg, LABELED)
    yield Case('tiff_group4.tif', encode(picture(mode='1'), 'TIFF', compression='group4'), LABELED)
    grey = Image.fromarray(grey16())
    for compression in (None, 'tiff_lzw'):
        data = encode(grey, 'TIFF', compression=compression)
        yield Case(f'tiff_grey16_{compression or "raw"}.tif', data, LABELED)
    rows = grey16().astype('>u2').tobytes()
    big = grey_tiff(48, 40, rows, byte_order='>', t258=(3, 1, 16))
    yield Case('tiff_grey16_big_endian.tif', big, LABELED)
    samples = np.asarray(picture(mode='L')).tobytes()
    for name, order in {'little': '<', 'big': '>'}.items():
        yield Case(f'tiff_{name}_endian.tif', grey_tiff(48, 40, samples, byte_order=order), LABELED)
    yield Case('tiff_white_is_zero.tif', grey_tiff(48, 40, samples, t262=(3, 1, 0)), LABELED)
    yield Case('tiff_tiled.tif', tiled_tiff(), LABELED)
    pages = [ImageOps.mirror(picture()), picture(9, 9)]
    paged = encode(picture(), 'TIFF', save_all=True, append_images=pages)
    yield Case('tiff_pages.tif', paged, LABELED)
    yield Case('tiff_big.tif', encode(picture(), 'TIFF', big_tiff=True), LABELED)
    for mode in ('F', 'I'):
        yield Case(f'tiff_{mode.lower()}32.tif', encode(picture(mode=mode), 'TIFF'), UNSUPPORTED)
    lab = Image.merge('LAB', picture().split())
    yield Case('tiff_lab.tif', encode(lab, 'TIFF'), UNSUPPORTED)


def tiled_tiff(**tags: _Entry) -> bytes:
    """16 x 16 grey in one uncompressed tile."""
    samples = np.asarray(picture(16, 16, 'L')).tobytes()
    tiles = {'t322': (3, 1, 16), 't323': (3, 1, 16), 't324': (4, 1, 4096), 't325': (4, 1, 256)}
    entries = _grey_tiff_entries(16, 16, 256)
    for tag in (273, 278, 279):
        del entries[tag]
    entries |= {int(name[1:]): value for name, value in (tiles | tags).items()}
    return tiff([(tag, *e) for tag, e in entries.items()], samples)


def _tiff_directories() -> Iterator[Case]:
    samples = np.asarray(picture(mode='L')).tobytes()
    yield Case('tiff_next_loops.tif', _looping_tiff(samples), LABELED)
    yield Case('tiff_icc_noise.tif', grey_tiff(48, 40, samples, t34675=(7, 100, 4096)), LABELED)
    yield Case('tiff_text_outside.tif', grey_tiff(48, 40, samples, t270=(2, 99, 1 << 30)), LABELED)
    yield Case('tiff_no_strips.tif', tiff([(256, 4, 1, 8), (257, 4, 1, 8)]), DECODE_ERROR)
    yield Case('tiff_0_wide.tif', grey_tiff(0, 8, samples), DECODE_ERROR)
    # Pillow logs this one as an error, too.
    yield Case(
        'tiff_65535_samples.tif', grey_tiff(48, 40, samples, t277=(3, 1, 65535)), DECODE_ERROR
    )
    yield Case(
        'tiff_huge_tile.tif',
        tiled_tiff(t322=(4, 1, 60000), t323=(4, 1, 60000), t259=(3, 1, 8)),
        TOO_MANY_PIXELS,
    )
    yield Case('tiff_overlapping_tags.tif', overlapping_tags(3000), DECODE_ERROR)
    block = b'Exif\x00\x00' + overlapping_tags(2000)
    spoiled = with_png_chunk(encode(picture(), 'PNG'), chunk(b'eXIf', block[6:]))
    yield Case('png_exif_overlapping_tags.png', spoiled, LABELED)
    webp = encode(picture(), 'WEBP', exif=block)
    yield Case('webp_exif_overlapping_tags.webp', webp, LABELED)


def _looping_tiff(samples: bytes) -> bytes:
    data = bytearray(grey_tiff(48, 40, samples))
    struct.pack_into('<I', data, 8 + 2 + 9 * 12, 8)
    return bytes(data)


def overlapping_tags(count: int) -> bytes:
    """A directory whose entries all point to the same bytes: far more than the file holds."""
    entries = [(1000 + i, 1, 60_000, 4096) for i in range(count)]
    rows = b''.join(struct.pack('<HHII', *entry) for entry in entries)
    head = b'II*\x00' + struct.pack('<IH', 8, count) + rows + bytes(4)
    return head.ljust(65_000 + 4096, b'\x00')


# AVIF, HEIC, JPEG 2000


def _avifs() -> Iterator[Case]:
    for mode in ('L', 'RGB', 'RGBA'):
        yield Case(f'avif_{mode.lower()}.avif', _avif(picture(mode=mode)), LABELED)
    yield Case('avif_444.avif', _avif(picture(), subsampling='4:4:4'), LABELED)
    yield Case('avif_400.avif', _avif(picture(), subsampling='4:0:0'), LABELED)
    yield Case('avif_best.avif', _avif(picture(), quality=100), LABELED)
    frames = [ImageOps.mirror(picture())]
    animated = bytearray(_avif(picture(), save_all=True, append_images=frames))
    for box in (b'mvhd', b'tkhd', b'mdhd'):
        at = animated.index(box) + 8
        animated[at : at + 16] = bytes(16)  # the times of creation and change
    yield Case('avif_animated.avif', bytes(animated), LABELED)


def _avif(image: Image.Image, **options: object) -> bytes:
    return encode(image, 'AVIF', speed=10, max_threads=1, **options)


def _heics() -> Iterator[Case]:
    if _HAS_HEIF:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            for mode in ('L', 'RGB', 'RGBA'):
                data = encode(picture(64, 48, mode), 'HEIF')
                yield Case(f'heic_{mode.lower()}.heic', data, LABELED)
            return
    head = struct.pack('>I', 24) + b'ftypheic' + bytes(4) + b'mif1heic'
    yield Case('heic.heic', head + bytes(200), UNSUPPORTED)


def _jpeg2000s() -> Iterator[Case]:
    for mode in ('L', 'LA', 'RGB', 'RGBA'):
        for no_jp2, suffix in ((False, 'jp2'), (True, 'j2k')):
            data = encode(picture(mode=mode), 'JPEG2000', no_jp2=no_jp2)
            yield Case(f'jpeg2000_{mode.lower()}.{suffix}', data, LABELED)
    lossy = encode(
        picture(), 'JPEG2000', quality_mode='rates', quality_layers=[20], irreversible=True
    )
    yield Case('jpeg2000_lossy.jp2', lossy, LABELED)
    yield Case('jpeg2000_tiles.jp2', encode(picture(), 'JPEG2000', tile_size=(16, 16)), LABELED)
    wide = encode(Image.fromarray(grey16()), 'JPEG2000')
    yield Case('jpeg2000_grey16.jp2', wide, LABELED)


# ICO, Netpbm, TGA, QOI


def ico(width: int, height: int, picture_bytes: bytes, depth: int = 32) -> bytes:
    entry = struct.pack(
        '<BBBBHHII', width % 256, height % 256, 0, 0, 1, depth, len(picture_bytes), 22
    )
    return struct.pack('<HHH', 0, 1, 1) + entry + picture_bytes


def _icons() -> Iterator[Case]:
    for kind in ('png', 'bmp'):
        for mode in ('RGB', 'RGBA', 'L'):
            data = encode(
                picture(32, 32, mode), 'ICO', sizes=[(16, 16), (32, 32)], bitmap_format=kind
            )
            yield Case(f'ico_{kind}_{mode.lower()}.ico', data, LABELED)
    inside = encode(picture(20, 30, 'RGBA'), 'PNG')
    yield Case('ico_wrong_size.ico', ico(32, 32, inside), LABELED)
    yield Case('ico_256.ico', ico(0, 0, encode(picture(256, 256), 'PNG')), LABELED)
    yield Case('ico_no_entry.ico', struct.pack('<HHH', 0, 1, 0) + bytes(80), DECODE_ERROR)
    yield Case('ico_noise.ico', ico(16, 16, random.Random(2).randbytes(400)), DECODE_ERROR)


def _netpbms() -> Iterator[Case]:
    for mode, suffix in (('1', 'pbm'), ('L', 'pgm'), ('RGB', 'ppm')):
        yield Case(f'raw.{suffix}', encode(picture(mode=mode), 'PPM'), LABELED)
    yield Case('raw_any.pnm', encode(picture(), 'PPM'), LABELED)
    yield Case('grey16.pgm', b'P5 48 40 65535\n' + grey16().astype('>u2').tobytes(), LABELED)
    yield Case('grey_maxval_100.pgm', b'P5 8 8 100\n' + bytes(range(64)), LABELED)
    numbers = b' '.join(b'%d' % v for v in np.asarray(picture(mode='L')).reshape(-1))
    yield Case('plain.pgm', b'P2\n# comment\n48 40\n255\n' + numbers, LABELED)
    numbers = b' '.join(b'%d' % v for v in np.asarray(picture()).reshape(-1))
    yield Case('plain.ppm', b'P3 48 40 255\n' + numbers, LABELED)
    yield Case('plain.pbm', b'P1 8 8\n' + b'10' * 32, LABELED)
    yield Case('plain16.pgm', b'P2 4 4 65535\n' + b'40000 ' * 16, LABELED)
    yield Case('plain_commented.ppm', b'P3 2 2 255\n' + b'# one\n12 ' * 12, LABELED)
    yield Case('plain_short.ppm', b'P3 8 8 255\n' + b'100 ' * 191, TRUNCATED)
    yield Case('plain_over_maximum.pgm', b'P2 8 8 9\n' + b'10 ' * 64, DECODE_ERROR)
    yield Case('plain_only_comments.ppm', b'P3 2 2 255\n' + b'#\n' * 2_000_000, DECODE_ERROR)
    yield Case('spaces_in_header.ppm', b'P6' + b' ' * 2_000_000 + b'1 1 255 abc', LABELED)
    yield Case('only_a_header.ppm', b'P6' + b' ' * 2_000_000, DECODE_ERROR)
    yield Case('float.pfm', b'Pf\n8 8\n-1.0\n' + bytes(256), UNSUPPORTED)
    yield Case('zero_maxval.pgm', b'P5 8 8 0\n' + bytes(64), DECODE_ERROR)
    yield Case('no_numbers.ppm', b'P6 wide high 255\n' + bytes(64), DECODE_ERROR)
    yield Case('plain_text_inside.ppm', b'P3 2 2 255\n' + b'some words here ' * 4, DECODE_ERROR)


def _targas_and_qois() -> Iterator[Case]:
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
        for compression in (None,) if mode == '1' else (None, 'tga_rle'):
            data = encode(picture(mode=mode), 'TGA', compression=compression)
            kind = 'rle' if compression else 'raw'
            yield Case(f'tga_{mode.lower()}_{kind}.tga', data, LABELED)
    whole = encode(picture(), 'TGA')
    yield Case('tga_no_footer.tga', whole[:-26], LABELED)
    top_down = encode(picture(), 'TGA', orientation=1)
    yield Case('tga_top_down.tga', top_down, LABELED)
    yield Case(
        'tga_identified.tga', encode(picture(), 'TGA', id_section=b'made by a test'), LABELED
    )
    for mode in ('RGB', 'RGBA'):
        yield Case(f'qoi_{mode.lower()}.qoi', encode(picture(mode=mode), 'QOI'), LABELED)


# Every format at once

LOSSLESS: dict[str, tuple[str, dict[str, object]]] = {
    'png': ('PNG', {}),
    'webp': ('WEBP', {'lossless': True}),
    'tif': ('TIFF', {}),
    'bmp': ('BMP', {}),
    'ppm': ('PPM', {}),
    'tga': ('TGA', {}),
    'qoi': ('QOI', {}),
    'jp2': ('JPEG2000', {}),
    'gif': ('GIF', {}),
}


@functools.cache
def samples_of_each_format() -> Mapping[str, bytes]:
    """One ordinary file a suffix."""
    files = {suffix: encode(picture(), kind, **o) for suffix, (kind, o) in LOSSLESS.items()}
    files['jpg'] = _jpeg()
    files['avif'] = _avif(picture())
    files['j2k'] = encode(picture(), 'JPEG2000', no_jp2=True)
    files['ico'] = encode(picture(32, 32), 'ICO', sizes=[(32, 32)], bitmap_format='bmp')
    return types.MappingProxyType(files)


def _shapes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 40), (40, 1), (1, 3000), (3000, 1), (2, 2), (3, 700)):
        for suffix, (kind, options) in LOSSLESS.items():
            data = encode(picture(width, height), kind, **options)
            yield Case(f'{suffix}_{width}x{height}.{suffix}', data, LABELED)
        yield Case(f'jpg_{width}x{height}.jpg', encode(picture(width, height), 'JPEG'), LABELED)
    yield Case('jpg_65500x1.jpg', encode(picture(65500, 1), 'JPEG'), LABELED)
    yield Case('jpg_1x65500.jpg', encode(picture(1, 65500), 'JPEG'), LABELED)


ORIENTED: dict[str, tuple[str, dict[str, object]]] = {
    'jpg': ('JPEG', {}),
    'png': ('PNG', {}),
    'webp': ('WEBP', {'lossless': True}),
    'tif': ('TIFF', {}),
    'avif': ('AVIF', {'speed': 10, 'max_threads': 1, 'quality': 100, 'subsampling': '4:4:4'}),
}


def oriented(suffix: str, orientation: int, byte_order: str = '<') -> bytes:
    """`picture()` stored with an orientation."""
    kind, options = ORIENTED[suffix]
    if suffix == 'tif':
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory[ORIENTATION] = orientation
        return encode(picture(), kind, tiffinfo=directory)
    if suffix == 'jpg':
        return with_exif_segment(_jpeg(quality=95), exif(orientation, byte_order))
    block = exif(orientation, byte_order)
    return encode(picture(), kind, exif=block, **options)


def _orientations() -> Iterator[Case]:
    for suffix, orientation in itertools.product(ORIENTED, range(1, 9)):
        yield Case(
            f'{suffix}_orientation_{orientation}.{suffix}', oriented(suffix, orientation), LABELED
        )


def _wrong_suffixes() -> Iterator[Case]:
    for suffix, data in samples_of_each_format().items():
        wrong = 'png' if suffix == 'jpg' else 'jpg'
        yield Case(f'really_{suffix}.{wrong}', data, LABELED)
    yield Case('really_jpg.txt', _jpeg(), LABELED)
    yield Case('JPG_IN_CAPITALS.JPG', _jpeg(), LABELED)


def _cut_files() -> Iterator[Case]:
    for suffix, data in samples_of_each_format().items():
        header = {'tga': 20, 'gif': 20, 'ppm': 8, 'qoi': 10, 'webp': 24}.get(suffix, 40)
        cuts = {'header': header, 'half': len(data) // 2, 'most': len(data) * 9 // 10}
        if suffix in ('jpg', 'png', 'webp', 'gif', 'bmp', 'tif', 'qoi'):
            cuts['signature'] = 3 if suffix != 'bmp' else 2
        if suffix == 'tga':
            del cuts['header']  # nothing tells it from noise
        for name, end in cuts.items():
            yield Case(f'cut_in_{name}.{suffix}', data[:end], TRUNCATED)
        is_telling = suffix not in ('avif', 'jp2', 'ico', 'tga', 'ppm')
        yield Case(f'one_byte.{suffix}', data[:1], TRUNCATED if is_telling else NOT_AN_IMAGE)
    # Every pixel is there: what is missing is the end marker, or a part of it.
    for name, data in {
        'jpeg': _jpeg(),
        'jpeg_progressive': _jpeg(progressive=True),
        'jpeg_cmyk': _jpeg(mode='CMYK'),
        'jpeg_restarts': _jpeg(restart_marker_rows=1),
        'jpeg_reduced': encode(picture(900, 700), 'JPEG'),
    }.items():
        yield Case(f'{name}_no_end_marker.jpg', data[:-2], LABELED)
        yield Case(f'{name}_half_end_marker.jpg', data[:-1], LABELED)
        yield Case(f'{name}_half_a_scan.jpg', data[: len(data) * 3 // 4], TRUNCATED)
    until_scan = _jpeg().partition(b'\xff\xda')[0]
    yield Case('jpeg_scan_header_empty.jpg', until_scan + b'\xff\xda\x00\x02', TRUNCATED)
    whole = encode(picture(), 'PNG')
    yield Case('png_no_end_chunk.png', whole[:-12], LABELED)
    yield Case('png_last_byte_lost.png', whole[:-1], LABELED)
    yield Case('gif_last_byte_lost.gif', encode(picture(), 'GIF')[:-1], LABELED)
    yield Case('tga_last_byte_lost.tga', encode(picture(), 'TGA')[:-1], LABELED)
    for suffix in ('webp', 'bmp', 'tif', 'ppm'):
        data = samples_of_each_format()[suffix]
        yield Case(f'{suffix}_last_pixel_lost.{suffix}', data[:-4], TRUNCATED)
    for mode, compression in itertools.product(
        ('L', 'RGB'), ('tiff_lzw', 'tiff_adobe_deflate', 'jpeg')
    ):
        data = encode(picture(mode=mode), 'TIFF', compression=compression)
        name = f'tiff_{mode.lower()}_{compression}_half.tif'
        yield Case(name, data[: len(data) // 2], TRUNCATED)


def _trailing_bytes() -> Iterator[Case]:
    noise = random.Random(3).randbytes(5000)
    for suffix, data in samples_of_each_format().items():
        yield Case(f'noise_behind.{suffix}', data + noise, LABELED)
        yield Case(f'zeros_behind.{suffix}', data + bytes(5000), LABELED)


def _flipped_bytes() -> Iterator[Case]:
    png_bytes = encode(picture(), 'PNG')
    for name, at in {'ihdr': 20, 'idat': png_bytes.index(b'IDAT') + 40}.items():
        yield Case(f'flipped_{name}.png', _flip(png_bytes, at), DECODE_ERROR)
    jpeg = _jpeg()
    for name, marker in {'huffman': b'\xff\xc4', 'frame': b'\xff\xc0'}.items():
        at = jpeg.index(marker) + 2
        broken = jpeg[:at] + b'\x00\x00' + jpeg[at + 2 :]
        yield Case(f'flipped_{name}_length.jpg', broken, DECODE_ERROR)
    body = bytearray(jpeg)
    body[-40] ^= 0x10
    yield Case('flipped_scan.jpg', bytes(body), LABELED)
    ppm = encode(picture(), 'PPM')
    yield Case('flipped_pixel.ppm', _flip(ppm, 60), LABELED)
    yield Case('flipped_pixel.bmp', _flip(encode(picture(), 'BMP'), 100), LABELED)
    yield Case('newlines_replaced.png', png_bytes.replace(b'\r\n', b'\n'), DECODE_ERROR)
    webp = encode(picture(), 'WEBP')
    yield Case('flipped_kind.webp', webp[:12] + b'XXXX' + webp[16:], DECODE_ERROR)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _missing_pixels() -> Iterator[Case]:
    """Whole by their ends and their headers, but not in between."""
    kinds: dict[str, dict[str, object]] = {
        'rows': {},
        'scans': {'progressive': True},
        'restarts': {'restart_marker_rows': 1},
    }
    for name, options in kinds.items():
        jpeg = encode(picture(300, 200), 'JPEG', **options)
        for percent in (60, 80, 99):
            cut = jpeg[: len(jpeg) * percent // 100]
            yield Case(f'jpeg_{name}_cut_at_{percent}_end_behind.jpg', cut + END, TRUNCATED)
            yield Case(
                f'jpeg_{name}_cut_at_{percent}_zeros_behind.jpg', cut + bytes(999), TRUNCATED
            )
    stored = np.asarray(picture(48, 48))
    small = tiffs.encode(stored[:16, :16], tiffs.Coding(tiffs.YCBCR, compression=tiffs.JPEG))
    jpeg = small[8 : small.index(END) + 2]
    tiles: tuple[tuple[str, tuple[int, int] | None], ...] = (('strip', None), ('tile', (32, 32)))
    for kind, tile in tiles:
        coding = tiffs.Coding(tiffs.YCBCR, compression=tiffs.JPEG, tile=tile)
        data = tiffs.encode(stored, coding, change=lambda i, part: part if i else jpeg)
        yield Case(f'tiff_short_jpeg_{kind}.tif', data, TRUNCATED)
    for photometric, compression in itertools.product((tiffs.RGB, tiffs.YCBCR), (1, 5, 8)):
        coding = tiffs.Coding(photometric, compression=compression, rows_per_strip=16)
        name = f'{photometric}_{compression}'
        empty = tiffs.encode(stored, coding, change=lambda i, part: part if i != 1 else b'')
        yield Case(f'tiff_empty_strip_{name}.tif', empty, TRUNCATED)
        cut = tiffs.encode(stored, coding, change=lambda i, part: part[: len(part) // (1 + i)])
        expected = TRUNCATED if compression == tiffs.NONE else DECODE_ERROR
        yield Case(f'tiff_cut_strips_{name}.tif', cut, expected)
        lost = tiffs.encode(stored, coding, offsets_told=0.4)
        yield Case(f'tiff_lost_strips_{name}.tif', lost, TRUNCATED)
    fax = encode(picture(48, 48, '1'), 'TIFF', compression='group4')
    at = fax.index(struct.pack('<HHI', 279, 4, 1)) + 8
    (size,) = struct.unpack_from('<I', fax, at)
    less = fax[:at] + struct.pack('<I', size // 2) + fax[at + 4 :]
    yield Case('tiff_cut_fax.tif', less, TRUNCATED)
    rows = b'\0' + bytes(range(48))
    yield Case('png_a_third.png', png((48, 48, 8, 0, 0), rows * 16), TRUNCATED)
    tiled = jp2s.stream(picture(), tile_size=(16, 16))
    yield Case('jpeg2000_three_tiles.j2k', jp2s.without_tiles(tiled, 3), TRUNCATED)
    whole = jp2s.stream(picture())
    yield Case('jpeg2000_end_behind.j2k', whole[: len(whole) // 2] + END, TRUNCATED)


def _rare_codings() -> Iterator[Case]:
    """Sound, but not read; for what is read see tests.support.codings."""
    stored = np.asarray(picture())
    grey = stored[..., :1]
    for name, samples, coding in (
        ('big_endian_bigtiff', stored, tiffs.Coding(tiffs.RGB, is_big=True, byte_order='>')),
        ('float', stored / 255, tiffs.Coding(tiffs.RGB, 32, tiffs.FLOAT)),
        ('signed', grey, tiffs.Coding(sample_format=tiffs.SIGNED)),
        ('10_bit', grey, tiffs.Coding(bits=10)),
        ('grey_premultiplied', stored[..., :2], tiffs.Coding(extra=(tiffs.PREMULTIPLIED,))),
        ('three_bands', stored, tiffs.Coding(is_planar=True, extra=(0, 0))),
    ):
        yield Case(f'tiff_{name}.tif', tiffs.encode(samples, coding), UNSUPPORTED)
    jpeg = _jpeg()
    at = jpeg.index(b'\xff\xc0')
    yield Case('jpeg_12_bit.jpg', jpeg[: at + 4] + b'\x0c' + jpeg[at + 5 :], UNSUPPORTED)
    yield Case('jpeg_ls.jpg', jpeg.replace(b'\xff\xc0', b'\xff\xf7'), UNSUPPORTED)
    masks = struct.pack('<III', 0xF00, 0xF0, 0xF)
    plain = bmp(16, 3, bytes(range(128)))
    yield Case('bmp_4_bits_a_colour.bmp', plain[:54] + masks + plain[54:], UNSUPPORTED)
    head = encode(picture(), 'TGA', compression='tga_rle')[:18]
    runs = b''.join(b'\xff' + bytes((i, 9, 200)) for i in range(15))
    yield Case('tga_runs_over_rows.tga', head + runs, UNSUPPORTED)
    stream = jp2s.stream(picture())
    boxes = jp2s.colour(jp2s.SRGB), jp2s.channels([(0, 0, 3), (1, 0, 2), (2, 0, 1)])
    yield Case('jpeg2000_blue_first.jp2', jp2s.jp2(stream, *boxes), UNSUPPORTED)
    halved = stream[:46] + b'\x02\x02' + stream[48:]
    yield Case('jpeg2000_subsampled.j2k', halved, UNSUPPORTED)


# Bombs


def sof_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG claiming another size."""
    for marker in (b'\xff\xc0', b'\xff\xc2'):
        at = jpeg.find(marker)
        if at >= 0:
            return jpeg[: at + 5] + struct.pack('>HH', height, width) + jpeg[at + 9 :]
    raise ValueError('no frame header')


def multi_scan_jpeg(width: int, height: int) -> bytes:
    """A sequential JPEG that claims a size and holds one scan a component."""
    jpeg = sof_size(_jpeg(subsampling='4:4:4'), width, height)
    at = jpeg.index(b'\xff\xda')
    scan = segment(0xDA, b'\x01\x01\x00\x00\x3f\x00')
    return jpeg[:at] + scan + bytes(64) + b'\xff\xd9'


def _pixel_bombs() -> Iterator[Case]:
    side = 60_000
    for colour in (0, 2, 3, 6):
        palette = (chunk(b'PLTE', bytes(6)),) if colour == 3 else ()
        data = png((side, side, 8, colour, 0), bytes(100_000), *palette)
        yield Case(f'bomb_type{colour}.png', data, TOO_MANY_PIXELS)
    yield Case('bomb_1bit.png', png((side, side, 1, 0, 0), bytes(100_000)), TOO_MANY_PIXELS)
    yield Case('bomb_8000.png', png((8000, 8000, 8, 0, 0), bytes(8001 * 8000)), TOO_MANY_PIXELS)
    yield Case('bomb_max.png', png((2**31 - 1, 2**31 - 1, 8, 0, 0), bytes(99)), TOO_MANY_PIXELS)
    yield Case('bomb_screen.gif', gif((65535, 65535), (0, 0, 4, 4)), TOO_MANY_PIXELS)
    small = bytearray(gif((4, 4), (0, 0, 4, 4)))
    struct.pack_into('<HH', small, small.index(b',') + 5, 65535, 65535)
    yield Case('bomb_frame.gif', bytes(small), TOO_MANY_PIXELS)
    struct.pack_into('<HH', small, small.index(b',') + 5, 10_000, 10_000)
    yield Case('bomb_frame_100_megapixels.gif', bytes(small), TOO_MANY_PIXELS)
    yield Case('bomb.tif', grey_tiff(side, side, bytes(64)), TOO_MANY_PIXELS)
    yield Case('bomb_lzw.tif', grey_tiff(side, side, bytes(64), t259=(3, 1, 5)), TOO_MANY_PIXELS)
    yield Case('bomb.webp', webp_canvas(16383, 16383), TOO_MANY_PIXELS)
    jpeg = _jpeg()
    yield Case('bomb_65500.jpg', sof_size(jpeg, 65500, 65500), TOO_MANY_PIXELS)
    progressive = sof_size(_jpeg(progressive=True), 8000, 8000)
    yield Case('bomb_progressive.jpg', progressive, TOO_MANY_PIXELS)
    yield Case('bomb_scan_a_component.jpg', multi_scan_jpeg(12_000, 12_000), TOO_MANY_PIXELS)
    yield Case('bomb_many_scans.jpg', many_scans_jpeg(), DECODE_ERROR)
    head = bytearray(encode(picture(), 'BMP'))
    struct.pack_into('<ii', head, 18, side, side)
    yield Case('bomb.bmp', bytes(head), TOO_MANY_PIXELS)
    bomb = png((14_000, 8_000, 8, 0, 0), bytes(8001 * 100))
    yield Case('bomb_png_inside.ico', ico(32, 32, bomb), TOO_MANY_PIXELS)
    dib = struct.pack('<IiiHHIIiiII', 40, side, side, 1, 32, 0, 0, 0, 0, 0, 0)
    yield Case('bomb_bmp_inside.ico', ico(32, 32, dib + bytes(64)), TOO_MANY_PIXELS)
    for suffix, no_jp2 in (('jp2', False), ('j2k', True)):
        jpeg2000 = bytearray(encode(picture(), 'JPEG2000', no_jp2=no_jp2))
        at = jpeg2000.index(b'\xff\x4f\xff\x51') + 8
        struct.pack_into('>II', jpeg2000, at, side, side)
        if not no_jp2:
            struct.pack_into('>II', jpeg2000, jpeg2000.index(b'ihdr') + 4, side, side)
        yield Case(f'bomb.{suffix}', bytes(jpeg2000), TOO_MANY_PIXELS)
    yield Case('bomb.ppm', b'P6 60000 60000 255\n' + bytes(64), TOO_MANY_PIXELS)
    yield Case('bomb_plain.pbm', b'P1 60000 60000\n' + b'01' * 50, TOO_MANY_PIXELS)
    yield Case(
        'bomb.qoi', b'qoif' + struct.pack('>IIBB', side, side, 3, 0) + bytes(64), TOO_MANY_PIXELS
    )
    head = bytearray(encode(picture(), 'TGA'))
    struct.pack_into('<HH', head, 12, side, side)
    yield Case('bomb.tga', bytes(head), TOO_MANY_PIXELS)


def webp_canvas(width: int, height: int) -> bytes:
    """A small lossless frame on a canvas of a claimed size, as an animation."""
    still = encode(picture(2, 2), 'WEBP', lossless=True)
    frame = still[12:]
    size = struct.pack('<I', width - 1)[:3] + struct.pack('<I', height - 1)[:3]
    anmf = bytes(6) + b'\x01\x00\x00\x01\x00\x00' + b'\x64\x00\x00\x00' + frame
    body = b'WEBPVP8X' + struct.pack('<I', 10) + b'\x02\x00\x00\x00' + size
    body += b'ANIM' + struct.pack('<I', 6) + bytes(6)
    body += b'ANMF' + struct.pack('<I', len(anmf)) + anmf
    return b'RIFF' + struct.pack('<I', len(body)) + body


def many_scans_jpeg(scans: int = 3000) -> bytes:
    """A progressive JPEG of 36 megapixels and thousands of scans that say nothing."""
    jpeg = sof_size(_jpeg(progressive=True, subsampling='4:4:4'), 6000, 6000)
    first = jpeg.index(b'\xff\xda')
    second = jpeg.index(b'\xff\xda', first + 2)
    scan = jpeg[first:second]
    return jpeg[:first] + scan + segment(0xDA, b'\x01\x01\x00\x01\x05\x02') * scans + b'\xff\xd9'


# Not only images


def _polyglots() -> Iterator[Case]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as z:
        z.writestr(zipfile.ZipInfo('a.txt'), 'hidden')
    for suffix in ('jpg', 'png', 'gif'):
        data = samples_of_each_format()[suffix]
        yield Case(f'zip_behind.{suffix}', data + archive.getvalue(), LABELED)
    yield Case('pdf.jpg', b'%PDF-1.4\n1 0 obj\n' + _jpeg() + b'\n%%EOF', UNSUPPORTED)
    yield Case(
        'script_in_comment.gif', gif((9, 9), (0, 0, 9, 9), b'!\xfe\x08<script>\x00'), LABELED
    )
    yield Case('two_jpegs.jpg', _jpeg() + encode(picture(8, 8), 'JPEG'), LABELED)
    motion = struct.pack('>I', 24) + b'ftypmp42' + bytes(600)
    yield Case('motion_photo.jpg', _jpeg() + motion, LABELED)
    yield Case('html_before.jpg', b'<html>' + _jpeg(), NOT_AN_IMAGE)


def _other_formats() -> Iterator[Case]:
    icon = encode(picture(32, 32, 'RGBA'), 'PNG')
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n'
    files = {
        'a.pdf': b'%PDF-1.7\n%\xe2\xe3\xcf\xd3\n' + bytes(200),
        'a.eps': eps + b'(/etc/passwd) run\n' * 9,
        'a_dos.eps': b'\xc5\xd0\xd3\xc6' + bytes(200),
        'a.svg': b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        'a_bare.svg': b'<svg width="9" height="9"></svg>',
        'a.psd': b'8BPS\x00\x01' + bytes(200),
        'a.dds': encode(picture(), 'DDS'),
        'a.icns': struct.pack('>4sI4sI', b'icns', 16 + len(icon), b'icp5', 8 + len(icon)) + icon,
        'a.exr': b'v/1\x01\x02' + bytes(200),
        'a.fits': b'SIMPLE  =                    T'.ljust(2880),
        'a.hdr': b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 8\n' + bytes(99),
        'a.xcf': b'gimp xcf v011' + bytes(200),
        'a.wmf': b'\xd7\xcd\xc6\x9a' + bytes(200),
        'a.emf': struct.pack('<II', 1, 88) + bytes(32) + b' EMF' + bytes(200),
        'a.jxl': b'\xff\x0a' + bytes(200),
        'a_box.jxl': b'\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a' + bytes(200),
        'a.jxr': b'II\xbc\x01' + bytes(200),
        'a.iff': b'FORM\x00\x00\x00\x20ILBM' + bytes(99),
        'a.cur': b'\x00\x00\x02\x00\x01\x00' + bytes(200),
        'a.zip': b'PK\x03\x04' + bytes(200),
        'a.gz': gzip.compress(_jpeg(), mtime=0),
        'a.svgz': gzip.compress(b'<svg/>', mtime=0),
        'a.mp4': struct.pack('>I', 24) + b'ftypisom' + bytes(200),
        'a.mov': struct.pack('>I', 20) + b'ftypqt  ' + bytes(200),
        'a.wav': b'RIFF\x24\x01\x00\x00WAVEfmt ' + bytes(300),
        'a.avi': b'RIFF\x24\x01\x00\x00AVI LIST' + bytes(300),
        'a.webm': b'\x1aE\xdf\xa3' + bytes(200),
    }
    for name, data in files.items():
        yield Case(name, data, UNSUPPORTED)


def _not_images() -> Iterator[Case]:
    page = '<!DOCTYPE html><html><title>404</title>Größe, ñandú, 画像</html>'
    for encoding in ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32'):
        yield Case(f'page_{encoding}.jpg', page.encode(encoding), NOT_AN_IMAGE)
    texts = {
        'error.json': b'{"error": {"code": 404, "message": "No such object"}}',
        'error.xml': b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        'words.txt': b'A thousand words are worth a picture.\n' * 40,
        'python.txt': b'Python is a language.\n' * 40,
        'p2_priority.txt': b'P2: fix the bucket.\n' * 40,
        'bmw.txt': b'BMW is a car maker and no bitmap.\n' * 40,
        'lfs.jpg': b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
        'program.exe': b'MZ' + bytes(300),
        'program.elf': b'\x7fELF\x02\x01\x01' + bytes(300),
        'pickle.pkl': b'\x80\x04\x95\x1a' + bytes(60),
        'newline.png': b'\n',
    }
    for name, data in texts.items():
        yield Case(name, data, NOT_AN_IMAGE)
    for size in (1, 2, 16, 100, 5000):
        yield Case(f'zeros_{size}.jpg', bytes(size), NOT_AN_IMAGE)
        yield Case(f'ones_{size}.jpg', b'\xff' * size if size > 1 else b'\xfe', NOT_AN_IMAGE)
    noise = random.Random(4)
    for i in range(12):
        yield Case(f'noise_{i}.jpg', b'\x99' + noise.randbytes(40 << i), NOT_AN_IMAGE)
    yield Case('empty.jpg', b'', EMPTY)
