"""Pictures for tests, made from the bundled photographs; knows no Beam."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

import pipeline

SAMPLE = Path(pipeline.__file__).parent / 'sample'
PHOTOGRAPHS = sorted(
    path for path in SAMPLE.iterdir() if path.stem not in ('empty', 'half', 'notes')
)


def picture(seed: int, size: tuple[int, int] = (160, 120), file_format: str = 'JPEG') -> bytes:
    """An encoded picture, another one for each seed: a crop of one of the photographs."""
    rng = np.random.default_rng(seed)
    with Image.open(PHOTOGRAPHS[seed % len(PHOTOGRAPHS)]) as photograph:
        width, height = photograph.size
        side = int(min(width, height) * rng.uniform(0.5, 1.0))
        left, top = (int(rng.integers(0, length - side + 1)) for length in (width, height))
        box = (left, top, left + side, top + side)
        image = photograph.convert('RGB').resize(size, Image.Resampling.BICUBIC, box=box)
    data = io.BytesIO()
    image.save(data, file_format)
    return data.getvalue()


BAD = {
    'notes.jpg': b'no photograph',
    'empty.png': b'',
    'half.jpg': picture(3)[:2000],
}


def write_pictures(folder: Path, count: int) -> list[Path]:
    """So many pictures, and three bad files among them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f'{seed:04d}.jpg': picture(seed) for seed in range(count)} | BAD
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]
