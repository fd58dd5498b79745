"""Pictures to measure with, made from the bundled photographs; the same ones every time."""

import functools
import io
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageOps

import pipeline

_SAMPLE = Path(pipeline.__file__).parent / 'sample'
_DETAIL_PX = 1024
_SHARPENED_PX = 8


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """The bundled photographs that are whole, as RGB."""
    found = []
    for path in sorted(_SAMPLE.glob('*.jpg')):
        try:
            with Image.open(path) as image:
                found.append(image.convert('RGB'))
        except OSError:
            continue  # the bundle holds broken files on purpose
    return tuple(found)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture of any size with the detail of a photograph.

    Up to the size of the photographs, a crop of one of them.  A larger one would be smooth, and
    decode faster than what a camera makes: fine detail of all photographs is laid over it.
    """
    chance = random.Random(seed)
    photos = photographs()
    photo = photos[seed % len(photos)]
    share = chance.uniform(0.7, 1.0)
    crop_width = share * min(photo.width, photo.height * width / height)
    crop_height = crop_width * height / width
    left = chance.uniform(0, photo.width - crop_width)
    top = chance.uniform(0, photo.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    result = photo.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if chance.random() < 0.5:
        result = ImageOps.mirror(result)
    if width <= 640:
        return result
    detail = Image.new('RGB', (width, height))
    for x in range(0, width, _DETAIL_PX):
        for y in range(0, height, _DETAIL_PX):
            detail.paste(_detail(), (x, y))
    return ImageChops.add(result, detail, offset=-128)


@functools.cache
def _detail() -> Image.Image:
    """What a blur takes away of photographs side by side, around grey."""
    mosaic = Image.new('RGB', (_DETAIL_PX, _DETAIL_PX))
    chance = random.Random(0)
    photos = [ImageOps.fit(photo, (256, 256)) for photo in photographs()]
    for x in range(0, _DETAIL_PX, 256):
        for y in range(0, _DETAIL_PX, 256):
            mosaic.paste(chance.choice(photos), (x, y))
    blurred = mosaic.filter(ImageFilter.BoxBlur(_SHARPENED_PX))
    return ImageChops.subtract(mosaic, blurred, offset=128)


def jpeg(seed: int, width: int, height: int) -> bytes:
    """A picture as a baseline JPEG of quality 80 to 94."""
    file = io.BytesIO()
    picture(seed, width, height).save(file, 'JPEG', quality=80 + seed % 15)
    return file.getvalue()


def write_jpegs(folder: Path, count: int, width: int = 500, height: int = 375) -> list[Path]:
    """Fills a new folder with so many JPEGs, no two alike."""
    folder.mkdir(parents=True)
    paths = [folder / f'{seed:06d}.jpg' for seed in range(count)]
    for seed, path in enumerate(paths):
        path.write_bytes(jpeg(seed, width, height))
    return paths


def link_jpegs(folder: Path, count: int, paths: list[Path]) -> None:
    """Fills a new folder with so many names of the given files."""
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f'{i:06d}.jpg').hardlink_to(paths[i % len(paths)])
