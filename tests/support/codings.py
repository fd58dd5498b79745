"""Pictures in every mode, bit depth, compression, photometric kind and plane layout of our formats.

All are 48 x 48, so that a square of that size is made without a resize.  `truth` is what the
samples mean by the format's specification, worked out beside any decoder; a picture that loses
something when it is encoded has none.
"""

import dataclasses
import functools
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from tests.support import corpus, jp2s, tiffs
from tests.support.corpus import chunk, encode, picture, png
from tests.support.tiffs import (
    ALPHA,
    BLACK_IS_ZERO,
    CMYK,
    DEFLATE,
    JPEG,
    LZMA,
    LZW,
    NONE,
    OLD_DEFLATE,
    PACKBITS,
    PALETTE,
    PREMULTIPLIED,
    RGB,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    ZSTD,
    Coding,
)

SIDE = 48


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
    """A file, and (48, 48, 3) float RGB over white in [0, 255] where nothing was lost."""

    name: str
    data: bytes
    truth: np.ndarray | None = None


@functools.cache
def all_codings() -> tuple[Coded, ...]:
    """Every picture, made once in a process; about a thousand."""
    makers = (_tiffs, _jpegs, _pngs, _gifs, _bmps, _jpeg2000s, _netpbms, _targas, _others)
    return tuple(itertools.chain.from_iterable(make() for make in makers))


def samples(channels: int, bits: int = 8) -> np.ndarray:
    """(48, 48, channels) uint32 over the whole range, smooth and without any symmetry."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    planes = [x, y, 0.5 + 0.45 * np.sin(5 * x + 9 * y * y), (x + y) / 3]
    values: np.ndarray = np.stack(planes[:channels], axis=-1) * ((1 << bits) - 1)
    return values.round().astype(np.uint32)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Of values in [0, 1]."""
    seen: np.ndarray = colours * alpha + 1 - alpha
    return seen


def _rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey, 3, axis=2)


# TIFF


def tiff_samples(coding: Coding) -> np.ndarray:
    """What `tiff_truth` understands: colours, and alpha of a third to one."""
    colours = samples(tiffs.COLOURS[coding.photometric], coding.bits)
    top = (1 << coding.bits) - 1
    ramp = np.linspace(top, top // 3, SIDE).round().astype(np.uint32)
    alpha = np.broadcast_to(ramp[None, :, None], (SIDE, SIDE, 1))
    if coding.extra[:1] == (PREMULTIPLIED,):
        colours = (colours * (alpha / top)).round().astype(np.uint32)
    return np.concatenate([colours, *[alpha] * len(coding.extra)], axis=2)


def tiff_truth(stored: np.ndarray, coding: Coding) -> np.ndarray:
    """(48, 48, 3) RGB in [0, 255]."""
    values = stored / ((1 << coding.bits) - 1)
    colours = values[..., : tiffs.COLOURS[coding.photometric]]
    match coding.photometric:
        case tiffs.WHITE_IS_ZERO:
            rgb = _rgb(1 - colours)
        case tiffs.BLACK_IS_ZERO:
            rgb = _rgb(colours)
        case tiffs.PALETTE:
            rgb = tiffs.palette(coding.bits)[stored[..., 0]] / 65535
        case tiffs.CMYK:
            rgb = (1 - colours[..., :3]) * (1 - colours[..., 3:])
        case tiffs.YCBCR:
            y, cb, cr = np.moveaxis(colours - [0, 128 / 255, 128 / 255], 2, 0)
            rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 2)
        case _:
            rgb = colours
    if coding.extra[:1] == (PREMULTIPLIED,):
        rgb = rgb + 1 - values[..., colours.shape[2] :][..., :1]
    elif coding.extra[:1] == (ALPHA,):
        rgb = over_white(rgb, values[..., colours.shape[2] :][..., :1])
    truth: np.ndarray = np.clip(rgb, 0, 1) * 255
    return truth


def tiff_codings() -> Iterator[Coding]:
    """All layouts for what is read, and each other coding in one of them."""
    layouts: tuple[dict[str, Any], ...] = (
        {},
        {'tile': (32, 32), 'byte_order': '>'},
        {'rows_per_strip': 16},
        {'tile': (16, 16)},
        {'byte_order': '>'},
        {'fill_order': 2},
        {'is_big': True},
        {'is_big': True, 'byte_order': '>'},
    )
    kinds = [
        *[(WHITE_IS_ZERO, bits, ()) for bits in (1, 2, 4, 8, 16)],
        *[(BLACK_IS_ZERO, bits, ()) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16)],
        *[(BLACK_IS_ZERO, 8, (extra,)) for extra in (UNSPECIFIED, PREMULTIPLIED, ALPHA)],
        *[(RGB, bits, ()) for bits in (4, 8, 12, 16)],
        *[
            (RGB, bits, extra)
            for bits in (8, 16)
            for extra in ((0,), (1,), (2,), (0, 0), (1, 0), (2, 0))
        ],
        *[(PALETTE, bits, ()) for bits in (1, 2, 4, 8)],
        *[(PALETTE, 8, (extra,)) for extra in (UNSPECIFIED, ALPHA)],
        *[(CMYK, bits, extra) for bits in (8, 16) for extra in ((), (0,), (0, 0))],
        (YCBCR, 8, ()),
    ]
    plain = [(WHITE_IS_ZERO, 4, ()), (BLACK_IS_ZERO, 16, ()), (RGB, 8, ()), (RGB, 16, (2,))]
    for (photometric, bits, extra), layout in itertools.chain(
        itertools.product(kinds, layouts[:2]), itertools.product(plain, layouts[2:])
    ):
        for compression, is_planar in itertools.product((NONE, LZW), (False, True)):
            yield Coding(
                photometric, bits, 1, compression, is_planar, extra, subsampling=(1, 1), **layout
            )
    for photometric, compression in itertools.product(
        (BLACK_IS_ZERO, RGB, CMYK, YCBCR), (DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
    ):
        yield Coding(photometric, compression=compression, rows_per_strip=20)
    for bits, byte_order, is_planar in itertools.product((8, 16), '<>', (False, True)):
        for photometric in (BLACK_IS_ZERO, RGB):
            yield Coding(
                *(photometric, bits, 1, LZW, is_planar), predictor=2, byte_order=byte_order
            )
    for sample_format, bits in ((tiffs.SIGNED, 8), (tiffs.SIGNED, 16), (tiffs.FLOAT, 32)):
        for photometric in (BLACK_IS_ZERO, RGB):
            yield Coding(photometric, bits, sample_format)
    yield Coding(bits=32)
    # What is lost is no more than a sample of colour for several.
    for across, down in ((2, 1), (2, 2), (1, 2), (4, 2)):
        for compression in (NONE, LZW):
            yield Coding(YCBCR, subsampling=(across, down), compression=compression)
        yield Coding(YCBCR, subsampling=(across, down), tile=(32, 16))


def _tiffs() -> Iterator[Coded]:
    for i, coding in enumerate(tiff_codings()):
        stored = tiff_samples(coding)
        is_lossy = coding.subsampling != (1, 1) or coding.sample_format != tiffs.UNSIGNED
        truth = None if is_lossy else tiff_truth(stored, coding)
        name = f'tiff_{i:03d}_{coding.photometric}_{coding.bits}_{coding.compression}.tif'
        yield Coded(name, tiffs.encode(stored, coding), truth)
    for photometric, subsampling in (
        *[(kind, (1, 1)) for kind in (BLACK_IS_ZERO, RGB, CMYK, YCBCR)],
        *[(YCBCR, each) for each in ((2, 1), (2, 2))],
    ):
        for layout in ({}, {'rows_per_strip': 16}, {'tile': (32, 32)}):
            coding = Coding(photometric, compression=JPEG, subsampling=subsampling, **layout)
            data = tiffs.encode(tiff_samples(coding), coding)
            name = f'tiff_jpeg_{photometric}_{subsampling}_{"".join(layout)}.tif'
            yield Coded(name, data)
    for compression in ('tiff_ccitt', 'group3', 'group4'):
        image = picture(SIDE, SIDE, '1')
        for rows in (7, SIDE):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info[278] = rows
            data = encode(image, 'TIFF', compression=compression, tiffinfo=info)
            yield Coded(f'tiff_{compression}_{rows}.tif', data, _seen(image))


def _seen(image: Image.Image) -> np.ndarray:
    """What an image of Pillow's looks like over white."""
    rgba = np.asarray(image.convert('RGBA')) / 255
    return over_white(rgba[..., :3], rgba[..., 3:]) * 255


# JPEG, PNG


def _jpegs() -> Iterator[Coded]:
    kinds: dict[str, dict[str, object]] = {
        'rows': {},
        'scans': {'progressive': True},
        'optimized': {'optimize': True},
        'restarts': {'restart_marker_blocks': 2},
        'restarted_scans': {'progressive': True, 'restart_marker_rows': 1},
        'worst': {'quality': 10},
    }
    for (name, options), mode in itertools.product(kinds.items(), ('L', 'RGB', 'CMYK')):
        data = encode(picture(SIDE, SIDE, mode), 'JPEG', **options)
        yield Coded(f'jpeg_{mode}_{name}.jpg', data)
    for subsampling in ('4:4:4', '4:2:2', '4:2:0', '4:1:1'):
        options = {'subsampling': subsampling, 'quality': 95}
        name = subsampling.replace(':', '')
        yield Coded(f'jpeg_{name}.jpg', encode(picture(SIDE, SIDE), 'JPEG', **options))
    yield Coded('jpeg_rgb.jpg', encode(picture(SIDE, SIDE), 'JPEG', keep_rgb=True))


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _pngs() -> Iterator[Coded]:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for colour, bits in ((kind, bits) for kind, each in depths.items() for bits in each):
        stored = samples(_PNG_CHANNELS[colour], bits)
        top = (1 << bits) - 1
        values = stored / top
        palette = tiffs.palette(bits) // 257 if colour == 3 else None
        if palette is not None:
            rgb = palette[stored[..., 0]] / 255
        else:
            rgb = values[..., :3] if colour & 2 else _rgb(values[..., :1])
        alpha = values[..., -1:] if colour & 4 else np.ones((SIDE, SIDE, 1))
        extra = (chunk(b'PLTE', palette.astype(np.uint8).tobytes()),) if palette is not None else ()
        variants: dict[str, tuple[tuple[bytes, ...], np.ndarray]] = {'': ((), alpha)}
        if palette is not None:
            opacity = np.linspace(0, 255, len(palette)).astype(np.uint8)
            told = opacity[stored[..., :1]] / 255
            variants['_trns'] = ((chunk(b'tRNS', opacity.tobytes()),), told)
        elif not colour & 4:
            clear = stored[20, 30]
            told = (stored != clear).any(axis=2, keepdims=True).astype(float)
            key = chunk(b'tRNS', b''.join(struct.pack('>H', value) for value in clear))
            variants['_trns'] = ((key,), told)
        for interlace, (name, (keys, opacity)) in itertools.product((0, 1), variants.items()):
            data = png(
                (SIDE, SIDE, bits, colour, interlace),
                _png_rows(stored, bits, interlace),
                *(*extra, *keys),
            )
            file_name = f'png_{colour}_{bits}_{interlace}{name}.png'
            yield Coded(file_name, data, over_white(rgb, opacity) * 255)


def _png_rows(stored: np.ndarray, bits: int, interlace: int) -> bytes:
    passes: tuple[tuple[int, ...], ...] = ((0, 0, 1, 1),)
    if interlace:
        passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4))
        passes += ((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    parts = (stored[y::down, x::across] for x, y, across, down in passes)
    return b''.join(b'\0' + tiffs.packed(row[None], bits) for part in parts for row in part)


# GIF, BMP


def _gifs() -> Iterator[Coded]:
    for mode in ('1', 'L', 'P'):
        for interlace in (0, 1):
            image = picture(SIDE, SIDE, mode)
            data = encode(image, 'GIF', interlace=interlace)
            yield Coded(f'gif_{mode}_{interlace}.gif', data, _seen(image))
    colours = np.array([[255, 255, 255], [200, 30, 90], [10, 180, 40], [0, 0, 0]])
    frames = ((0, 0, SIDE, SIDE), (5, 7, 20, 30), (0, 0, SIDE, 20), (40, 40, 8, 8))
    for frame, is_clear in itertools.product(frames, (False, True)):
        left, top, width, height = frame
        truth = np.full((SIDE, SIDE, 3), 255.0)
        if not is_clear:
            truth[top : top + height, left : left + width] = colours[1]
        control = b'!\xf9\x04\x01\x00\x00\x01\x00' if is_clear else b''
        name = f'gif_frame_{"_".join(map(str, frame))}_{is_clear}.gif'
        data = corpus.gif((SIDE, SIDE), frame, control)
        yield Coded(name, data, truth)
        # Index 3 of the palette is told to be the background, which no browser shows.
        yield Coded(f'background_{name}', data[:11] + b'\x03' + data[12:], truth)


def bitmap(
    bits: int,
    compression: int,
    body: bytes,
    colours: np.ndarray | None = None,
    masks: tuple[int, ...] = (),
    *,
    height: int = SIDE,
) -> bytes:
    """A BMP 48 px wide; (n, 3) colours of the palette; masks of bit fields."""
    table = b''
    if colours is not None:
        table = np.pad(colours[:, ::-1], ((0, 0), (0, 1))).astype('u1').tobytes()
    fields = struct.pack(f'<{len(masks)}I', *masks)
    header_bytes = 56 if len(masks) == 4 else 40
    count = 0 if colours is None else len(colours)
    info = struct.pack(
        '<IiiHHIIiiII',
        *(header_bytes, SIDE, height, 1, bits, compression, len(body), 0, 0, count, 0),
    )
    offset = 14 + len(info) + len(fields) + len(table)
    head = struct.pack('<2sIHHI', b'BM', offset + len(body), 0, 0, offset)
    return head + info + fields + table + body


def _bmps() -> Iterator[Coded]:
    for bits in (1, 4, 8):
        stored = samples(1, bits)
        palettes = {
            'colours': tiffs.palette(bits) // 257,
            'greys': np.repeat(np.linspace(0, 255, 1 << bits).astype(int)[:, None], 3, 1),
            'dark': np.repeat(np.arange(1 << bits)[:, None], 3, 1),
        }
        for name, colours in palettes.items():
            truth = colours[stored[..., 0]].astype(float)
            body = b''.join(_padded(tiffs.packed(row[None], bits)) for row in stored[::-1])
            yield Coded(f'bmp_{bits}_{name}.bmp', bitmap(bits, 0, body, colours), truth)
            top_down = b''.join(_padded(tiffs.packed(row[None], bits)) for row in stored)
            data = bitmap(bits, 0, top_down, colours, height=-SIDE)
            yield Coded(f'bmp_{bits}_{name}_top_down.bmp', data, truth)
    for bits, compression in ((8, 1), (4, 2)):
        colours = tiffs.palette(bits) // 257
        stored = samples(1, bits)[..., 0]
        for name, (body, is_told) in run_length_bodies(stored, bits).items():
            truth = np.where(is_told[..., None], colours[stored], 255).astype(float)
            yield Coded(
                f'bmp_rle{bits}_{name}.bmp', bitmap(bits, compression, body, colours), truth
            )
    layouts = {
        (16, ()): (5, 5, 5),
        (16, (0xF800, 0x7E0, 0x1F)): (5, 6, 5),
        (16, (0x7C00, 0x3E0, 0x1F)): (5, 5, 5),
        (16, (0xF00, 0xF0, 0xF)): (4, 4, 4),
        (32, (0xFF0000, 0xFF00, 0xFF)): (8, 8, 8),
        (32, (0xFF, 0xFF00, 0xFF0000)): (8, 8, 8),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)): (10, 10, 10),
    }
    for (bits, masks), widths in layouts.items():
        stored = samples(3)
        fields = masks or (0x7C00, 0x3E0, 0x1F)
        words = np.zeros((SIDE, SIDE), np.uint32)
        truth = np.zeros((SIDE, SIDE, 3))
        for i, (mask, width) in enumerate(zip(fields, widths, strict=True)):
            value = (stored[..., i] / 255 * ((1 << width) - 1)).round().astype(np.uint32)
            words |= value << ((mask & -mask).bit_length() - 1)
            truth[..., i] = value * 255 / ((1 << width) - 1)
        body = words[::-1].astype(f'<u{bits // 8}').tobytes()
        name = f'bmp_{bits}_{"".join(map(str, widths))}_{len(masks)}_{fields[0]:x}.bmp'
        yield Coded(name, bitmap(bits, 3 if masks else 0, body, masks=masks), truth)
    for mode in ('RGB', 'RGBA'):
        image = picture(SIDE, SIDE, mode)
        # What is the fourth byte of a pixel without bit fields is nothing.
        yield Coded(f'bmp_{mode}.bmp', encode(image, 'BMP'), _seen(image.convert('RGB')))


def _padded(row: bytes) -> bytes:
    return row + bytes(-len(row) % 4)


def run_length_bodies(stored: np.ndarray, bits: int) -> dict[str, tuple[bytes, np.ndarray]]:
    """Coded rows of (48, 48) indices, and which pixels they tell: every way of the format."""
    everything = np.ones((SIDE, SIDE), bool)

    def packed(values: np.ndarray) -> bytes:
        return tiffs.packed(values[None, :, None], bits)

    def literal(values: np.ndarray) -> bytes:
        body = packed(values)
        return bytes((0, len(values))) + body + bytes(len(body) % 2)

    def run(value: int, count: int) -> bytes:
        return bytes((count, value * 17 if bits == 4 else value))

    def rows(code: Callable[[np.ndarray], bytes]) -> bytes:
        return b''.join(code(row) + b'\0\0' for row in stored[::-1])

    def pairs(row: np.ndarray) -> bytes:
        """Runs of two, in which 4-bit indices take turns."""
        if bits == 8:
            return b''.join(run(value, 1) for value in row)
        return b''.join(b'\x02' + packed(row[i : i + 2]) for i in range(0, len(row), 2))

    bodies = {
        'runs': (rows(pairs) + b'\0\1', everything),
        'literals': (rows(literal) + b'\0\1', everything),
        'odd_literals': (
            rows(lambda row: literal(row[:5]) + literal(row[5:12]) + literal(row[12:])) + b'\0\1',
            everything,
        ),
        'odd_runs': (rows(lambda row: pairs(row[:2]) + literal(row[2:])) + b'\0\1', everything),
        'no_end': (rows(literal), everything),
    }
    is_told = everything.copy()
    is_told[:, 9:] = False
    bodies['short_rows'] = rows(lambda row: literal(row[:9])) + b'\0\1', is_told
    is_told = everything.copy()
    is_told[:30] = False
    end = b''.join(literal(row) + b'\0\0' for row in stored[:29:-1])
    bodies['early_end'] = end + b'\0\1', is_told
    is_told = everything.copy()
    is_told[SIDE - 3 :, :] = False
    is_told[:, :4] = False
    is_told[: SIDE - 4] = everything[: SIDE - 4]
    first = literal(stored[SIDE - 4, 4:]) + b'\0\0'
    rest = b''.join(literal(row) + b'\0\0' for row in stored[: SIDE - 4][::-1])
    bodies['delta'] = b'\0\2\4\3' + first + rest + b'\0\1', is_told
    return bodies


# JPEG 2000


def _jpeg2000s() -> Iterator[Coded]:
    for mode in ('L', 'LA', 'RGB', 'RGBA'):
        image = picture(SIDE, SIDE, mode)
        for suffix in ('jp2', 'j2k'):
            for tile in (None, (16, 16)):
                data = encode(image, 'JPEG2000', no_jp2=suffix == 'j2k', tile_size=tile)
                yield Coded(f'jp2_{mode}_{tile is not None}.{suffix}', data, _seen(image))
    grey = Image.fromarray(samples(1, 16)[..., 0].astype(np.uint16))
    yield Coded('jp2_16.jp2', encode(grey, 'JPEG2000'), _rgb(samples(1, 16) / 257))
    image = picture(SIDE, SIDE)
    truth = _seen(image)
    plain = jp2s.stream(image)
    yield Coded('jp2_profile.jp2', jp2s.jp2(plain, jp2s.profile(corpus._srgb_profile())), truth)
    for number in (1, 3, 14, 16, 18, 20, 21):
        known = truth if number in (16, 20, 21) else None
        yield Coded(f'jp2_space_{number}.jp2', jp2s.jp2(plain, jp2s.colour(number)), known)
    converted = Image.merge('RGB', image.convert('YCbCr').split())
    sycc = jp2s.jp2(jp2s.stream(converted), jp2s.colour(jp2s.SYCC))
    yield Coded('jp2_sycc.jp2', sycc, truth)
    cmyk = Image.merge('RGBA', image.convert('CMYK').split())
    yield Coded('jp2_cmyk.jp2', jp2s.jp2(jp2s.stream(cmyk), jp2s.colour(jp2s.CMYK)), truth)
    blue_first = jp2s.stream(Image.merge('RGB', image.split()[::-1]))
    orders = {
        'plain': (plain, [(0, 0, 1), (1, 0, 2), (2, 0, 3)]),
        'reversed': (blue_first, [(0, 0, 3), (1, 0, 2), (2, 0, 1)]),
    }
    for name, (stream, order) in orders.items():
        data = jp2s.jp2(stream, jp2s.colour(jp2s.SRGB), jp2s.channels(order))
        yield Coded(f'jp2_channels_{name}.jp2', data, truth)
    clear = picture(SIDE, SIDE, 'RGBA')
    shifted = Image.merge('RGBA', (clear.split()[3], *clear.split()[:3]))
    order = [(0, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)]
    boxes = (jp2s.colour(jp2s.SRGB), jp2s.channels(order))
    yield Coded('jp2_alpha_first.jp2', jp2s.jp2(jp2s.stream(shifted), *boxes), _seen(clear))
    colours = (tiffs.palette(8) // 257).astype(np.uint8)
    indices = samples(1)[..., 0].astype(np.uint8)
    stream = jp2s.stream(Image.fromarray(indices))
    for name, columns in {'plain': (0, 1, 2), 'mapped': (2, 1, 0)}.items():
        mapped = (jp2s.colour(jp2s.SRGB), jp2s.palette(colours), jp2s.mapping(columns))
        truth = colours[indices][..., list(columns)].astype(float)
        yield Coded(f'jp2_palette_{name}.jp2', jp2s.jp2(stream, *mapped), truth)


# Netpbm, TGA and the rest


def _netpbms() -> Iterator[Coded]:
    for kind, channels in ((2, 1), (3, 3), (5, 1), (6, 3)):
        for most in (1, 3, 15, 100, 255, 1000, 65535):
            stored = (samples(channels, 16) / 65535 * most).round().astype(int)
            if kind < 5:
                body = b''.join(b'%d ' % value for value in stored.reshape(-1))
            else:
                body = stored.astype('u1' if most < 256 else '>u2').tobytes()
            head = b'P%d %d %d %d\n' % (kind, SIDE, SIDE, most)
            truth = stored / most * 255
            suffix = 'pgm' if channels == 1 else 'ppm'
            truth = _rgb(truth) if channels == 1 else truth
            yield Coded(f'netpbm_{kind}_{most}.{suffix}', head + body, truth)
    bits = samples(1, 1)
    truth = _rgb(255.0 - 255 * bits)
    head = b' %d %d\n' % (SIDE, SIDE)
    yield Coded('netpbm_4.pbm', b'P4' + head + tiffs.packed(bits, 1), truth)
    plain = b''.join(b'%d' % bit for bit in bits.reshape(-1))
    yield Coded('netpbm_1.pbm', b'P1' + head + plain, truth)


def _targas() -> Iterator[Coded]:
    for mode in ('L', 'P', 'RGB', 'RGBA'):
        image = picture(SIDE, SIDE, mode)
        for compression, orientation in itertools.product((None, 'tga_rle'), (-1, 1)):
            data = encode(image, 'TGA', compression=compression, orientation=orientation)
            yield Coded(f'tga_{mode}_{compression}_{orientation}.tga', data, _seen(image))
    stored = samples(3, 5)
    words = stored[..., 0] << 10 | stored[..., 1] << 5 | stored[..., 2]
    for bits in (15, 16):
        head = struct.pack('<BBBHHBHHHHBB', 0, 0, 2, 0, 0, 0, 0, 0, SIDE, SIDE, bits, 0x20)
        data = head + words.astype('<u2').tobytes()
        yield Coded(f'tga_{bits}.tga', data, stored * 255 / 31)


def _others() -> Iterator[Coded]:
    for mode in ('L', 'RGB', 'RGBA'):
        image = picture(SIDE, SIDE, mode)
        truth = _seen(image)
        lossless = encode(image, 'WEBP', lossless=True, exact=True)
        yield Coded(f'webp_{mode}_lossless.webp', lossless, truth)
        yield Coded(f'webp_{mode}.webp', encode(image, 'WEBP', quality=95))
        yield Coded(f'avif_{mode}.avif', corpus._avif(image, quality=95, subsampling='4:4:4'))
        # Pillow writes rows of the mask that no reader expects where they are no multiple of 32.
        for kind in ('png', 'bmp') if mode == 'RGBA' else ('png',):
            data = encode(image, 'ICO', sizes=[(SIDE, SIDE)], bitmap_format=kind)
            yield Coded(f'ico_{mode}_{kind}.ico', data, truth)
    for mode in ('RGB', 'RGBA'):
        image = picture(SIDE, SIDE, mode)
        yield Coded(f'qoi_{mode}.qoi', encode(image, 'QOI'), _seen(image))
