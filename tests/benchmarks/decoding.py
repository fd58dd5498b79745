"""Decode and resize against a full decode with plain Pillow: CPU time and fidelity."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from tests.benchmarks.images import jpeg
from tests.benchmarks.measure import Row, stopwatch
from transforms.images.decode import decode
from transforms.images.resize import Resize

_RESIZE = Resize(size_px=224, short_side_px=256, filter='bicubic')

# Most CPU time of ours for one of plain Pillow's, by size in px.
_CPU_TARGETS = {(500, 375): 1.15, (1024, 768): 0.6, (4000, 3000): 0.3}
# Sides that 8 does not divide are where a reduced decode goes wrong.
_PSNR_SIZES = (
    (1024, 768),
    (1023, 767),
    (1031, 773),
    (1921, 1083),
    (4000, 3000),
    (4001, 2999),
    (5601, 4203),
)
_EQUAL_DB = 99.0
_MIN_PSNR_DB = 45.0


def plain_decode(data: bytes) -> np.ndarray:
    """What one would write first: decode all of it, resize, crop; (224, 224, 3) uint8 RGB."""
    image = Image.open(io.BytesIO(data)).convert('RGB')
    scale = _RESIZE.short_side_px / min(image.size)
    size = tuple(round(side * scale) for side in image.size)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = ((side - _RESIZE.size_px) // 2 for side in size)
    return np.asarray(image.crop((left, top, left + _RESIZE.size_px, top + _RESIZE.size_px)))


def psnr_db(ours: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 arrays in dB; `_EQUAL_DB` where they are equal."""
    error = np.mean((ours.astype(np.float64) - reference) ** 2)
    return _EQUAL_DB if error == 0 else 10 * math.log10(255**2 / error)


def cpu_rows(sizes: Iterable[tuple[int, int]], pictures: int, rounds: int) -> list[Row]:
    """CPU time an image at each size, picture by picture in turns."""
    rows = []
    for width, height in sizes:
        encoded = [jpeg(seed, width, height) for seed in range(pictures)]
        ours, plain = [], []
        for data in encoded * rounds:
            with stopwatch() as watch:
                decode(data, _RESIZE)
            ours.append(watch.cpu_sec)
            with stopwatch() as watch:
                plain_decode(data)
            plain.append(watch.cpu_sec)
        name = f'decode and resize, {width} x {height} px'
        ratio = median(a / b for a, b in zip(ours, plain, strict=True))
        rows += [
            Row(f'{name}: ours', 1000 * median(ours), 'ms CPU an image'),
            Row(f'{name}: plain Pillow', 1000 * median(plain), 'ms CPU an image'),
            Row(f'{name}: ours / plain', ratio, at_most=_CPU_TARGETS[width, height]),
        ]
    return rows


def psnr_rows(sizes: Iterable[tuple[int, int]], pictures: int) -> list[Row]:
    """Fidelity at each size against a full decode."""
    rows, everything = [], []
    for width, height in sizes:
        encoded = (jpeg(seed, width, height) for seed in range(pictures))
        found = [psnr_db(decode(data, _RESIZE), plain_decode(data)) for data in encoded]
        rows.append(Row(f'PSNR, {width} x {height} px: median', median(found), 'dB'))
        everything += found
    # A picture that is small enough to be decoded in full says nothing.
    reduced = [value for value in everything if value < _EQUAL_DB] or [_EQUAL_DB]
    return [
        *rows,
        Row('PSNR, where reduced: median', median(reduced), 'dB', at_least=_MIN_PSNR_DB),
        Row('PSNR, where reduced: lowest', min(reduced), 'dB'),
    ]


def run(is_quick: bool, _: Path) -> Sequence[Row]:
    """The benchmark."""
    if is_quick:
        return [*cpu_rows([(500, 375), (1024, 768)], 2, 2), *psnr_rows([(1031, 773)], 2)]
    return [*cpu_rows(_CPU_TARGETS, 10, 5), *psnr_rows(_PSNR_SIZES, 10)]
