"""Decoding: the corpus, a plain reference and orientation.

Memory is looked at in test_decode_memory, mutated files in test_fuzz. Not looked at: whether
Pillow's codecs themselves are right, and speed (tests/benchmarks).
"""

import functools
import io
import itertools
import statistics
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support import corpus
from tests.support.mutations import check_detail
from transforms.core.errors import ImageError
from transforms.core.limits import DEFAULT_LIMITS, PixelLimits
from transforms.images import decode, headers
from transforms.images.resize import Resize

CROP = Resize(size_px=224, short_side_px=256, filter='bicubic')
SQUASH = Resize(size_px=224, short_side_px=None, filter='bilinear')
RULES = pytest.mark.parametrize('resize', [CROP, SQUASH], ids=['crop', 'squash'])


@pytest.fixture(scope='module')
def cases():
    """The corpus, by name."""
    return {case.name: case for case in corpus.cases()}


def outcome(data: bytes, resize: Resize) -> str:
    """'labeled' or the reason, or what else came; pixels and detail are checked on the way."""
    try:
        pixels = decode.decode(data, resize)
    except ImageError as e:
        check_detail(e, data)
        return e.reason.value
    except Exception as e:  # noqa: BLE001 (told with the name of the file)
        return repr(e)
    assert pixels.shape == (resize.size_px, resize.size_px, 3)
    assert pixels.dtype == np.uint8
    return 'labeled'


def reference(data: bytes, resize: Resize) -> np.ndarray:
    """The same by the longest way: everything at full size, in floating point nowhere needed."""
    image = Image.open(io.BytesIO(data))
    image.load()
    if image.mode.startswith('I'):
        wide = np.asarray(image)
        narrow = (wide >> 8).astype(np.uint8)
        if 'transparency' in image.info:
            narrow[wide == image.info['transparency']] = 255
        image = Image.fromarray(narrow)
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image)
    image = image.convert('RGB')
    resampling = getattr(Image.Resampling, resize.filter.upper())
    side = resize.size_px
    if resize.short_side_px is None:
        return np.asarray(image.resize((side, side), resampling))
    scale = resize.short_side_px / min(image.size)
    scaled = [round(each * scale) for each in image.size]
    left, top = ((each - side) // 2 for each in scaled)
    if max(scaled) < 4000:
        return np.asarray(
            image.resize(scaled, resampling).crop((left, top, left + side, top + side))
        )
    # A line of pixels would become a picture of gigabytes before its crop.
    across, down = (each / full for each, full in zip(image.size, scaled, strict=True))
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return np.asarray(image.resize((side, side), resampling, box=box))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


@RULES
def test_every_file_of_the_corpus_ends_as_it_should_in_silence(resize, cases, capfd):
    found = {name: outcome(case.data, resize) for name, case in cases.items()}
    assert found == {name: case.expected for name, case in cases.items()}
    out, err = capfd.readouterr()
    assert (out, err) == ('', '')


def test_corpus_is_large_and_the_same_every_time():
    again = tuple(corpus.corpus())
    assert again == corpus.cases()
    assert len(again) >= 320
    assert sum(len(case.data) for case in again) < 30_000_000


@RULES
def test_equals_the_reference(resize, cases):
    compared, differing = 0, []
    for case in cases.values():
        # Pillow reads two megabytes of spaces one by one; there is a test of their own.
        if case.expected != 'labeled' or case.name == 'spaces_in_header.ppm':
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                expected = reference(case.data, resize)
        except (OSError, ValueError, SyntaxError, struct.error):
            continue  # spoiled metadata, which is no obstacle to us
        compared += 1
        opened = decode.open_image(case.data, resize, DEFAULT_LIMITS)
        got = decode.render(opened, resize).astype(int)
        if opened.scale == 1:
            is_same = np.abs(got - expected).max() <= 2
        else:
            is_same = psnr(got, expected) >= 40
        if not is_same:
            differing.append(case.name)
    # Pillow does not find the transparent grey of these; there is a test of their own.
    assert set(differing) <= {'png_grey2_trns.png', 'png_grey4_trns.png'}
    assert compared >= 350


@RULES
def test_spaces_before_the_numbers_of_a_header(resize, cases):
    assert (decode.decode(cases['spaces_in_header.ppm'].data, resize) == list(b'abc')).all()


@functools.cache
def photo(width: int, height: int) -> Image.Image:
    """Detail at all scales with the falling spectrum of photographs."""
    rng = np.random.default_rng(width * 10_007 + height)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96, 192):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        wide = np.array(layer, dtype=np.float32)
        wide -= 127.5
        wide /= cells
        total += wide
    return Image.fromarray(np.clip(127.5 + 2.4 * total, 0, 255).astype(np.uint8))


@RULES
def test_reduced_jpegs_look_like_full_ones(resize):
    decibels = []
    # One side more than the least that is reduced, some more, and far from square.
    sizes = ((1023, 769), (770, 1027), (1201, 901), (803, 1601), (1903, 801), (1600, 1200))
    for (width, height), mode in itertools.product(sizes, ('RGB', 'L', 'CMYK')):
        data = corpus.encode(photo(width, height).convert(mode), 'JPEG', quality=90)
        opened = decode.open_image(data, resize, DEFAULT_LIMITS)
        if opened.scale == 1:
            continue
        decibels.append(psnr(decode.render(opened, resize), reference(data, resize)))
    assert len(decibels) >= 12
    assert min(decibels) >= 40
    assert statistics.median(decibels) >= 45


@RULES
def test_reduced_jpegs_are_oriented(resize):
    plain = corpus.encode(photo(803, 1601), 'JPEG', quality=95)
    for orientation in range(1, 9):
        data = corpus.with_exif_segment(plain, corpus.exif(orientation, '>'))
        opened = decode.open_image(data, resize, DEFAULT_LIMITS)
        assert opened.scale > 1
        assert (opened.width, opened.height) == (803, 1601)
        assert psnr(decode.render(opened, resize), reference(data, resize)) >= 40


@pytest.mark.parametrize('suffix', corpus.ORIENTED)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(suffix, orientation):
    data = corpus.oriented(suffix, orientation, '>')
    opened = decode.open_image(data, SQUASH, DEFAULT_LIMITS)
    assert (opened.width, opened.height) == corpus.picture().size

    upright = decode.decode(corpus.oriented(suffix, 1), SQUASH)
    turned = decode.render(opened, SQUASH).astype(int)
    # Square in, square out: orientation only permutes the pixels.
    flips = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright),
    }
    assert np.abs(turned - flips[orientation]).max() <= 2
    for other, pixels in flips.items():
        if other != orientation:
            assert np.abs(turned - pixels).mean() > 5


@pytest.mark.parametrize('suffix', corpus.samples_of_each_format())
def test_width_height_and_format(suffix):
    data = corpus.samples_of_each_format()[suffix]
    opened = decode.open_image(data, CROP, DEFAULT_LIMITS)
    size = (32, 32) if suffix == 'ico' else corpus.picture().size
    assert (opened.width, opened.height) == size
    names = {'jpg': 'JPEG', 'tif': 'TIFF', 'jp2': 'JPEG2000', 'j2k': 'JPEG2000'}
    assert opened.format == names.get(suffix, 'PPM' if suffix == 'ppm' else suffix.upper())


def test_transparent_pixels_are_white():
    clear = corpus.encode(Image.new('RGBA', (30, 30), (200, 0, 0, 0)), 'PNG')
    assert (decode.decode(clear, CROP) == 255).all()


@pytest.mark.parametrize('depth', [2, 4, 8])
def test_transparent_grey_of_every_depth(depth, cases):
    data = cases[f'png_grey{depth}_trns.png'].data
    at = data.index(b'tRNS') - 4
    plain = decode.decode(data[:at] + data[at + 14 :], SQUASH)
    assert decode.decode(data, SQUASH).mean() > plain.mean()


def test_an_mpo_is_a_jpeg():
    opened = decode.open_image(corpus.mpo(), CROP, DEFAULT_LIMITS)
    assert opened.format == 'JPEG'


def test_limits_are_inclusive():
    limits = PixelLimits(max_px=48 * 40, max_baseline_jpeg_px=48 * 40)
    tight = PixelLimits(max_px=48 * 40 - 1, max_baseline_jpeg_px=48 * 40 - 1)
    for data in corpus.samples_of_each_format().values():
        decode.decode(data, CROP, limits)
    for suffix, data in corpus.samples_of_each_format().items():
        if suffix == 'ico':
            continue  # 32 x 32
        with pytest.raises(ImageError, match='too_many_pixels'):
            decode.decode(data, CROP, tight)


def test_only_baseline_jpegs_have_the_higher_limit():
    limits = PixelLimits(max_px=100, max_baseline_jpeg_px=48 * 40)
    image = corpus.picture()
    decode.decode(corpus.encode(image, 'JPEG'), CROP, limits)
    with pytest.raises(ImageError, match='too_many_pixels'):
        decode.decode(corpus.encode(image, 'JPEG', progressive=True), CROP, limits)


def tiff_of(entries, behind=b''):
    """A TIFF of nothing but a directory; an entry is (tag, kind, count, value)."""
    rows = b''.join(struct.pack('<HHII', *entry) for entry in entries)
    return b'II*\0' + struct.pack('<IH', 8, len(entries)) + rows + bytes(4) + behind


@pytest.mark.parametrize(
    ('entries', 'is_whole'),
    [
        ([(273, 4, 1, 38), (279, 4, 1, 10)], True),
        ([(273, 4, 1, 38), (279, 4, 1, 11)], False),
        ([(324, 4, 1, 38), (325, 4, 1, 11)], False),
        # Where a strip lies is not told by a type that is no whole number, nor by one of two.
        ([(273, 11, 1, 38), (279, 4, 1, 11)], True),
        ([(273, 4, 1, 38)], True),
        # The values of an entry lie behind the end.
        ([(273, 4, 2, 38), (279, 4, 2, 41)], False),
    ],
)
def test_a_tiff_is_whole_if_all_it_points_to_is_there(entries, is_whole):
    data = tiff_of(entries)
    data += bytes(48 - len(data))
    assert headers.is_complete(data, 'TIFF') is is_whole
    assert not headers.is_complete(data[:20], 'TIFF')


def test_an_icon_is_whole_if_all_its_pictures_are_there():
    entry = struct.pack('<8xII', 10, 22)
    data = struct.pack('<HHH', 0, 1, 1) + entry + bytes(10)
    assert headers.is_complete(data, 'ICO')
    for end in (5, 21, 31):
        assert not headers.is_complete(data[:end], 'ICO')
