"""Decoding: the corpus, a plain reference, orientation, mutated files and memory.

Not looked at here: whether Pillow's codecs themselves are right, and speed (tests/benchmarks).
"""

import functools
import io
import itertools
import statistics
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests import corpus
from transforms import decode
from transforms.errors import ImageError
from transforms.model.card import Resize

CROP = Resize(size_px=224, short_side_px=256, filter='bicubic')
SQUASH = Resize(size_px=224, short_side_px=None, filter='bilinear')
RULES = pytest.mark.parametrize('resize', [CROP, SQUASH], ids=['crop', 'squash'])

CASES = {case.name: case for case in corpus.corpus()}


def outcome(data: bytes, resize: Resize = CROP) -> str:
    """'labeled' or the reason; the pixels and the detail are checked on the way."""
    try:
        pixels = decode.decode(data, resize)
    except ImageError as e:
        check_detail(e, data)
        return e.reason.value
    assert pixels.shape == (resize.size_px, resize.size_px, 3)
    assert pixels.dtype == np.uint8
    return 'labeled'


def check_detail(error: ImageError, data: bytes) -> None:
    assert '0x' not in error.detail
    assert '\n' not in error.detail
    assert error.size_bytes == len(data)
    cause: BaseException | None = error.__cause__
    while cause is not None:
        assert not str(cause) or str(cause) not in error.detail
        cause = cause.__cause__


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


@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
def test_corpus(case):
    assert outcome(case.data) == case.expected


def test_corpus_is_large_and_the_same_every_time():
    again = list(corpus.corpus())
    assert again == list(CASES.values())
    assert len(again) >= 320
    assert sum(len(case.data) for case in again) < 30_000_000


def test_corpus_under_the_other_rule():
    for case in CASES.values():
        assert outcome(case.data, SQUASH) == case.expected, case.name


@RULES
def test_equals_the_reference(resize):
    compared, differing = 0, []
    for case in CASES.values():
        if case.expected != 'labeled':
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                expected = reference(case.data, resize)
        except (OSError, ValueError, SyntaxError, struct.error):
            continue  # spoiled metadata, which is no obstacle to us
        compared += 1
        got = decode.decode(case.data, resize).astype(int)
        if decode.open_image(case.data, resize, decode.DEFAULT_LIMITS).scale == 1:
            is_same = np.abs(got - expected).max() <= 2
        else:
            is_same = psnr(got, expected) >= 40
        if not is_same:
            differing.append(case.name)
    # Pillow does not find the transparent grey of these; there is a test of their own.
    assert set(differing) <= {'png_grey2_trns.png', 'png_grey4_trns.png'}
    assert compared >= 350


@functools.cache
def photo(width: int, height: int) -> Image.Image:
    """Detail at all scales with the falling spectrum of photographs."""
    rng = np.random.default_rng(width * 10_007 + height)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24, 48, 96, 192):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer, dtype=np.float32) - 127.5) / cells
    return Image.fromarray(np.clip(127.5 + 2.4 * total, 0, 255).astype(np.uint8))


@RULES
def test_reduced_jpegs_look_like_full_ones(resize):
    decibels = []
    sizes = ((1600, 1200), (1200, 1601), (2003, 1501), (1499, 2999), (3001, 1003), (1023, 769))
    for (width, height), mode in itertools.product(sizes, ('RGB', 'L', 'CMYK')):
        data = corpus.encode(photo(width, height).convert(mode), 'JPEG', quality=90)
        opened = decode.open_image(data, resize, decode.DEFAULT_LIMITS)
        if opened.scale == 1:
            continue
        decibels.append(psnr(decode.render(opened, resize), reference(data, resize)))
    assert len(decibels) >= 12
    assert min(decibels) >= 40
    assert statistics.median(decibels) >= 45


@RULES
def test_reduced_jpegs_are_oriented(resize):
    plain = corpus.encode(photo(1203, 1605), 'JPEG', quality=95)
    for orientation in range(1, 9):
        data = corpus.with_exif_segment(plain, corpus.exif(orientation, '>'))
        opened = decode.open_image(data, resize, decode.DEFAULT_LIMITS)
        assert opened.scale > 1
        assert (opened.width, opened.height) == (1203, 1605)
        assert psnr(decode.render(opened, resize), reference(data, resize)) >= 40


@pytest.mark.parametrize('suffix', corpus.ORIENTED)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(suffix, orientation):
    data = corpus.oriented(suffix, orientation, '>')
    opened = decode.open_image(data, SQUASH, decode.DEFAULT_LIMITS)
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
    opened = decode.open_image(data, CROP, decode.DEFAULT_LIMITS)
    size = (32, 32) if suffix == 'ico' else corpus.picture().size
    assert (opened.width, opened.height) == size
    names = {'jpg': 'JPEG', 'tif': 'TIFF', 'jp2': 'JPEG2000', 'j2k': 'JPEG2000'}
    assert opened.format == names.get(suffix, 'PPM' if suffix == 'ppm' else suffix.upper())


def test_transparent_pixels_are_white():
    clear = corpus.encode(Image.new('RGBA', (30, 30), (200, 0, 0, 0)), 'PNG')
    assert (decode.decode(clear, CROP) == 255).all()


@pytest.mark.parametrize('depth', [2, 4, 8])
def test_transparent_grey_of_every_depth(depth):
    data = CASES[f'png_grey{depth}_trns.png'].data
    at = data.index(b'tRNS') - 4
    plain = decode.decode(data[:at] + data[at + 14 :], SQUASH)
    assert decode.decode(data, SQUASH).mean() > plain.mean()


def test_an_mpo_is_a_jpeg():
    opened = decode.open_image(corpus.mpo(), CROP, decode.DEFAULT_LIMITS)
    assert opened.format == 'JPEG'


def test_limits_are_inclusive():
    limits = decode.PixelLimits(max_px=48 * 40, max_baseline_jpeg_px=48 * 40)
    tight = decode.PixelLimits(max_px=48 * 40 - 1, max_baseline_jpeg_px=48 * 40 - 1)
    for data in corpus.samples_of_each_format().values():
        decode.decode(data, CROP, limits)
    for suffix, data in corpus.samples_of_each_format().items():
        if suffix == 'ico':
            continue  # 32 x 32
        with pytest.raises(ImageError, match='too_many_pixels'):
            decode.decode(data, CROP, tight)


def test_only_baseline_jpegs_have_the_higher_limit():
    limits = decode.PixelLimits(max_px=100, max_baseline_jpeg_px=48 * 40)
    image = corpus.picture()
    decode.decode(corpus.encode(image, 'JPEG'), CROP, limits)
    with pytest.raises(ImageError, match='too_many_pixels'):
        decode.decode(corpus.encode(image, 'JPEG', progressive=True), CROP, limits)


BASES = [case.data for case in CASES.values() if 0 < len(case.data) < 4000]


@st.composite
def mutated(draw):
    """A small image with a few bytes overwritten, cut out or put in."""
    data = bytearray(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 6))):
        # Headers are where it hurts.
        limit = draw(st.sampled_from([64, 256, len(data)]))
        at = draw(st.integers(0, max(0, min(limit, len(data)) - 1)))
        piece = draw(st.binary(min_size=1, max_size=4))
        match draw(st.sampled_from(['overwrite', 'insert', 'delete', 'cut'])):
            case 'overwrite':
                data[at : at + len(piece)] = piece
            case 'insert':
                data[at:at] = piece
            case 'delete':
                del data[at : at + len(piece)]
            case 'cut':
                del data[max(at, 1) :]
    return bytes(data) or b'x'


@given(mutated())
@settings(derandomize=True, max_examples=1500, deadline=None, database=None)
def test_mutated_files_raise_nothing_but_image_error(data):
    limits = decode.PixelLimits(max_px=1_000_000, max_baseline_jpeg_px=4_000_000)
    try:
        decode.decode(data, CROP, limits)
    except ImageError as e:
        check_detail(e, data)


PEAK = """
import resource, sys
from pathlib import Path
from transforms import decode
from transforms.model.card import Resize
resize = Resize(224, 256, 'bicubic')
tiny, large = (Path(name).read_bytes() for name in sys.argv[1:])
decode.decode(tiny, resize)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
opened = decode.open_image(large, resize, decode.DEFAULT_LIMITS)
decode.render(opened, resize)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, opened.working_bytes)
"""


def peak_bytes(folder: Path, data: bytes) -> tuple[int, int]:
    """Memory that decoding adds in a fresh process, and what was predicted."""
    (folder / 'tiny').write_bytes(corpus.encode(corpus.picture(), 'JPEG'))
    (folder / 'large').write_bytes(data)
    command = [sys.executable, '-c', PEAK, folder / 'tiny', folder / 'large']
    root = Path(__file__).parents[1]
    out = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    peak, predicted = out.split()
    return int(peak), int(predicted)


def test_a_hundred_megapixels_take_little_memory(tmp_path):
    data = corpus.tall_jpeg(10_048, 78)
    peak, predicted = peak_bytes(tmp_path, data)
    assert peak < 100_000_000
    assert peak < 1.5 * predicted + 10_000_000


LARGE = {
    'png': lambda image: corpus.encode(image, 'PNG', compress_level=1),
    'png_rgba': lambda image: corpus.encode(image.convert('RGBA'), 'PNG', compress_level=1),
    'webp': lambda image: corpus.encode(image, 'WEBP', method=0),
    'avif': lambda image: corpus.encode(image, 'AVIF', speed=10),
    'jp2': lambda image: corpus.encode(image, 'JPEG2000'),
    'progressive': lambda image: corpus.encode(image, 'JPEG', progressive=True),
    'tiff': lambda image: corpus.encode(image, 'TIFF', compression='tiff_lzw'),
}


@pytest.mark.parametrize('kind', LARGE)
def test_working_bytes_is_about_the_peak(tmp_path, kind):
    peak, predicted = peak_bytes(tmp_path, LARGE[kind](corpus.picture(2400, 2000)))
    assert peak < 1.25 * predicted + 10_000_000


def test_nothing_is_printed(capfd):
    for case in CASES.values():
        outcome(case.data)
    out, err = capfd.readouterr()
    assert (out, err) == ('', '')
