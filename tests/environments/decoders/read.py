"""Decodes a folder of pictures with libraries that Lemmabeam does not use.

Run by the Python of .venvs/decoders, with the folder; beside each file that can be read it writes
the picture as it looks on white, (height, width, 3) float32 RGB in [0, 255], with `.npy` behind its
name.  The last line of standard output is JSON: why the other files could not be read, by name.
"""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ['PYGAME_HIDE_SUPPORT_PROMPT'] = '1'

import cv2
import imagecodecs
import pygame
import tifffile

_GREY_WHITE_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_ASSOCIATED_ALPHA, _ALPHA = 1, 2


def main() -> None:
    unread = {}
    for path in sorted(Path(sys.argv[1]).iterdir()):
        try:
            picture = _READERS[path.suffix](path.read_bytes())
        except Exception as e:  # noqa: BLE001 (told with the name of the file)
            unread[path.name] = repr(e)[:200]
        else:
            np.save(f'{path}.npy', picture.astype(np.float32))
    print(json.dumps(unread))


def on_white(samples: np.ndarray, top: float) -> np.ndarray:
    """Grey, grey and alpha, RGB or RGBA of [0, top]."""
    values = samples.astype(np.float64) / top
    if values.ndim == 2:
        values = values[:, :, None]
    colours = values[..., :3] if values.shape[2] > 2 else np.repeat(values[..., :1], 3, axis=2)
    if values.shape[2] in (2, 4):
        alpha = values[..., -1:]
        colours = colours * alpha + 1 - alpha
    return colours * 255


def _opencv(data: bytes) -> np.ndarray:
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError('OpenCV cannot')
    top = np.iinfo(samples.dtype).max
    if samples.ndim == 3 and samples.shape[2] >= 3:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    return on_white(samples, top)


def _sdl(data: bytes, hint: str) -> np.ndarray:
    surface = pygame.image.load(io.BytesIO(data), hint)
    size = surface.get_size()
    if surface.get_colorkey() is not None:
        white = pygame.Surface(size, 0, 24)
        white.fill('white')
        white.blit(surface, (0, 0))
        surface = white
    has_alpha = surface.get_masks()[3] != 0
    mode, channels = ('RGBA', 4) if has_alpha else ('RGB', 3)
    samples = np.frombuffer(pygame.image.tobytes(surface, mode), np.uint8)
    return on_white(samples.reshape(size[1], size[0], channels), 255)


def _jpeg(data: bytes) -> np.ndarray:
    samples = imagecodecs.jpeg8_decode(data)
    if samples.ndim == 3 and samples.shape[2] == 4:
        # CMYK as Adobe stores it.
        inks = samples.astype(np.float64) / 255
        return inks[..., :3] * inks[..., 3:] * 255
    return on_white(samples, 255)


def _codec(decode: object) -> object:
    def read(data: bytes) -> np.ndarray:
        samples = decode(data)  # type: ignore[operator]
        return on_white(samples, np.iinfo(samples.dtype).max)

    return read


def _jpeg2000(data: bytes) -> np.ndarray:
    if b'\0\0\0\x12' in data[:200] and b'colr' in data[:200]:
        raise ValueError('neither library converts sYCC')
    if b'pclr' in data[:200]:
        raise ValueError('neither library reads palettes')
    try:
        return _opencv(data)
    except ValueError:
        return _codec(imagecodecs.jpeg2k_decode)(data)


def _tiff(data: bytes) -> np.ndarray:
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    if page.sampleformat != 1 or page.bitspersample > 16:
        raise ValueError('no defined range')
    subsampling = page.tags.get('YCbCrSubSampling')
    is_subsampled = subsampling is not None and tuple(subsampling.value) != (1, 1)
    if page.photometric == _YCBCR and is_subsampled and page.compression != 7:
        return _opencv(data)  # this library does not put it together
    samples = page.asarray()
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 2:
        samples = samples[:, :, None]
    top = (1 << page.bitspersample) - 1
    values = samples.astype(np.float64) / top
    if page.photometric == _PALETTE:
        table = np.asarray(page.colormap, np.float64) / 65535
        values = np.concatenate(
            [table[:, samples[..., 0].astype(int)].transpose(1, 2, 0), values[..., 1:]], 2
        )
    elif page.photometric == _GREY_WHITE_ZERO:
        values = np.concatenate([1 - values[..., :1], values[..., 1:]], axis=2)
    elif page.photometric == _CMYK:
        inks = 1 - values[..., :4]
        values = np.concatenate([inks[..., :3] * inks[..., 3:], values[..., 4:]], axis=2)
    elif page.photometric == _YCBCR and page.compression != 7:
        y, cb, cr = np.moveaxis(values[..., :3] - [0, 128 / 255, 128 / 255], 2, 0)
        values = np.stack([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], axis=2)
    extra = tuple(page.extrasamples)
    count = values.shape[2] - len(extra)
    colours = values[..., :count] if count == 3 else np.repeat(values[..., :1], 3, axis=2)
    if extra and extra[0] in (_ASSOCIATED_ALPHA, _ALPHA):
        alpha = values[..., count : count + 1]
        colours = colours if extra[0] == _ASSOCIATED_ALPHA else colours * alpha
        colours = colours + 1 - alpha
    return np.clip(colours, 0, 1) * 255


_READERS = {
    '.tif': _tiff,
    '.jpg': _jpeg,
    '.png': lambda data: _sdl(data, 'x.png'),
    '.gif': _opencv,
    '.bmp': lambda data: _sdl(data, 'x.bmp'),
    '.jp2': _jpeg2000,
    '.j2k': _jpeg2000,
    '.pbm': lambda data: _sdl(data, 'x.pnm'),
    '.pgm': lambda data: _sdl(data, 'x.pnm'),
    '.ppm': lambda data: _sdl(data, 'x.pnm'),
    '.tga': lambda data: _sdl(data, 'x.tga'),
    '.ico': lambda data: _sdl(data, 'x.ico'),
    '.webp': _codec(imagecodecs.webp_decode),
    '.avif': _codec(imagecodecs.avif_decode),
    '.qoi': _codec(imagecodecs.qoi_decode),
}

if __name__ == '__main__':
    main()
