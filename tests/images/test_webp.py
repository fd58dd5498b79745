"""Still WebP files, decoded past Pillow: the same pixels in less memory."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support import samples
from transforms.core.errors import ImageError
from transforms.core.limits import DEFAULT_LIMITS
from transforms.images.decode import decode, open_image
from transforms.images.resize import Resize
from transforms.images.webp import is_decoded_here, still_pixels

RESIZE = Resize(size_px=64, short_side_px=None, filter='bilinear')
WAYS = {
    'lossy': ('RGB', {'quality': 70}),
    'lossless': ('RGB', {'lossless': True}),
    'with alpha': ('RGBA', {'quality': 70}),
    'lossless with alpha': ('RGBA', {'lossless': True}),
    'with metadata': (
        'RGB',
        {'quality': 70, 'exif': b'Exif\0\0MM\0*\0\0\0\x08\0\0', 'xmp': b'<x/>'},
    ),
}


def picture(mode):
    image = Image.open(io.BytesIO(samples.picture(5, (161, 119)))).convert('RGB')
    if mode == 'RGBA':
        alpha = np.linspace(0, 255, 161 * 119).reshape(119, 161).astype(np.uint8)
        image.putalpha(Image.fromarray(alpha))
    return image


def webp(way, **more):
    mode, how = WAYS[way]
    data = io.BytesIO()
    picture(mode).save(data, 'WEBP', **how, **more)
    return data.getvalue()


@pytest.mark.parametrize('way', WAYS)
def test_pixels_are_those_of_pillow(way):
    data = webp(way)
    assert is_decoded_here(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image)
    found = still_pixels(data, 161, 119)[..., : expected.shape[2]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('way', ['lossy', 'lossless'])
@pytest.mark.parametrize('canvas', [(322, 238), (160, 119), (161, 118)])
def test_a_canvas_of_another_size_is_never_filled_with_what_was_in_memory(way, canvas):
    with pytest.raises(ValueError, match='not as large as its canvas'):
        still_pixels(webp(way), *canvas)


def test_an_animation_is_left_to_pillow():
    data = webp('lossy', save_all=True, append_images=[picture('RGB').rotate(90)])
    assert not is_decoded_here(data)
    with Image.open(io.BytesIO(data)) as image:
        first = io.BytesIO()
        image.convert('RGB').save(first, 'PNG')
    np.testing.assert_array_equal(decode(data, RESIZE), decode(first.getvalue(), RESIZE))


def pixels_or_none(call):
    try:
        return call()
    except (OSError, EOFError, ValueError):
        return None


@pytest.mark.parametrize('way', WAYS)
def test_what_pillow_makes_of_a_damaged_one(way):
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(40):
        data = bytearray(webp(way))
        at = int(rng.integers(30, len(data) - 20))
        data[at : at + 20] = rng.bytes(20)
        try:
            image = Image.open(io.BytesIO(data))
        except (OSError, SyntaxError):
            continue  # nobody asks further
        if not is_decoded_here(bytes(data)):
            continue
        expected = pixels_or_none(lambda image=image: np.asarray(image))
        found = pixels_or_none(lambda data=data, size=image.size: still_pixels(bytes(data), *size))
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(found[..., : expected.shape[2]], expected)
        failed += expected is None
    assert failed > 0 or 'lossless' not in way


def test_a_damaged_one_is_said_to_be_damaged():
    data = bytearray(webp('lossless'))
    data[30:90] = b'\xff' * 60
    with pytest.raises(ImageError) as raised:
        decode(bytes(data), RESIZE)
    assert raised.value.reason.value == 'decode_error'


def test_a_still_one_counts_as_what_it_takes_and_an_animation_as_its_canvases():
    animated = webp('lossy', save_all=True, append_images=[picture('RGB').rotate(90)])
    still_bytes, animated_bytes = (
        open_image(data, RESIZE, DEFAULT_LIMITS).working_bytes - len(data)
        for data in (webp('lossy'), animated)
    )
    assert still_bytes == 8 * 161 * 119
    assert animated_bytes == 16 * 161 * 119
