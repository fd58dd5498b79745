"""What a header understates or overstates is refused before a decoder takes memory or time for it.

Each file is decoded in a process of its own, which may take no more than two gigabytes.
"""

import io
import itertools
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.support import bounded, corpus, jp2s
from transforms.core import limits
from transforms.core.errors import ImageError
from transforms.images import decode, headers, isobmff
from transforms.images.resize import Resize

CROP = Resize(224, 256, 'bicubic')

_MOST_BYTES = 2 << 30
# Beside what the interpreter and the libraries take once.
_SMALL_BYTES = 40_000_000
_NOISE_BYTES = 16_000_000

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is limited by the kernel')


def _sized_ihdr(width, height, size):
    """A JP2 whose boxes say one size and whose codestream says another."""
    data = jp2s.jp2(jp2s.bare(size), jp2s.colour(jp2s.SRGB))
    at = data.index(b'ihdr') + 4
    return data[:at] + struct.pack('>II', height, width) + data[at + 8 :]


def _with_sequence(size, sequence):
    """An AVIF with another sequence header, of as many bytes, than it was encoded with."""
    data = bytearray(corpus.encode(corpus.picture(*size), 'AVIF', speed=10, max_threads=1))
    at = data.index(b'mdat') + 4
    at = data.index(b'\x0a', at)
    assert data[at + 1] >= len(sequence)
    data[at + 2 : at + 2 + len(sequence)] = sequence
    return bytes(data)


def _sequence(width, height):
    """The beginning of an AV1 sequence header for a still picture, sizes in 16 bits."""
    fields = ((0, 3), (1, 1), (1, 1), (31, 5), (15, 4), (15, 4), (width - 1, 16), (height - 1, 16))
    text = ''.join(f'{value:0{bits}b}' for value, bits in fields)
    return int(text.ljust(56, '0'), 2).to_bytes(7)


# Each is made when it is looked at, and not in all processes that list the tests.
REFUSED_OTHERS = {
    'bits': (lambda: b'P1 8000 8000\n' + b'1 ' * (16 << 20), 'too_many_pixels', 'limit 50000000'),
    'a_number': (lambda: b'P2 2 2 255\n' + b'1' * (2 << 20), 'decode_error', ''),
    'qoi': (
        lambda: (
            b'qoif' + struct.pack('>IIBB', 4000, 3000, 3, 0) + b'\xfd' * 200_000 + bytes(7) + b'\1'
        ),
        *('too_many_pixels', 'QOI, limit 10000000'),
    ),
    'webp_canvas': (lambda: corpus.webp_canvas(16383, 16383), 'too_many_pixels', 'limit 50000000'),
    'avif_sequence': (
        lambda: _with_sequence((64, 64), _sequence(16384, 16384)),
        *('too_many_pixels', '16384 x 16384'),
    ),
    'avif_without_data': (
        lambda: corpus.encode(corpus.picture(), 'AVIF').replace(b'av01', b'av02'),
        *('decode_error', ''),
    ),
}

REFUSED = REFUSED_OTHERS | {
    'precincts': (
        lambda: jp2s.bare((1600, 1600), precincts=[0]),
        'unsupported_format',
        'precincts',
    ),
    'precincts_of_bands': (
        lambda: jp2s.bare((1000, 1000), levels=5, precincts=[0x11] * 6),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_of_a_tile': (
        lambda: jp2s.bare((1600, 1600), tile_header=jp2s.cod(precincts=[0])),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_of_a_colour': (
        lambda: jp2s.bare(
            (2600, 2600), tile_header=jp2s.marker(0x53, bytes((1, 1, 0, 4, 4, 0, 1, 0)))
        ),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_in_an_unknown_segment': (
        lambda: jp2s.bare((1600, 1600), tile_header=jp2s.marker(0x31, jp2s.cod(precincts=[0]))),
        *('decode_error', ''),
    ),
    'blocks': (lambda: jp2s.bare((3000, 3000), block=(2, 2)), 'unsupported_format', 'code blocks'),
    'blocks_in_tiles': (
        lambda: jp2s.bare((7000, 7000), tile=(1000, 1000), block=(2, 2)),
        *('decode_error', 'code blocks'),
    ),
    'tiles': (
        lambda: jp2s.bare((250, 250), tile=(1, 1), components=4),
        *('unsupported_format', 'tiles'),
    ),
    'colours': (
        lambda: jp2s.bare((64, 64), components=16384),
        'unsupported_format',
        '16384 colours',
    ),
    'layers': (lambda: jp2s.bare((40, 40), tile=(1, 1), layers=65535), 'decode_error', 'packets'),
    'packets': (
        lambda: jp2s.bare((500, 500), layers=1000, levels=5, precincts=[0x33] * 6),
        *('decode_error', 'packets'),
    ),
    'no_pixel': (
        lambda: jp2s.bare((64, 64))[:16] + struct.pack('>II', 99, 99) + jp2s.bare((64, 64))[24:],
        *('decode_error', ''),
    ),
    'pixels_behind_the_box': (
        lambda: _sized_ihdr(64, 64, (16384, 16384)),
        *('too_many_pixels', 'limit 50000000'),
    ),
    'another_size_than_the_box': (lambda: _sized_ihdr(64, 64, (80, 64)), 'decode_error', '80 x 64'),
}

# Of far more words than there are pixels, and of far more than a word.
TEXTS = {
    'bits.pbm': lambda: b'P1 1 1\n' + b'1 ' * (8 << 20),
    'samples.pgm': lambda: b'P2 1 1 255\n' + b'1 ' * (4 << 20),
    'spaces.pgm': lambda: b'P2 2 1 255\n' + b' ' * (16 << 20) + b'7 9',
    'picture.ppm': lambda: b'P3 1000 1000 255\n' + b'113 ' * 3_000_000,
}

# Within the limits, in the ways in which a decoder takes most memory beside that for pixels.
JPEG2000 = {
    'plain': lambda: jp2s.bare((1200, 1200), levels=5),
    'precincts': lambda: jp2s.bare((200, 200), precincts=[0]),
    'precincts_of_bands': lambda: jp2s.bare((800, 800), levels=5, precincts=[0x33] * 6),
    'blocks': lambda: jp2s.bare((700, 700), levels=5, block=(2, 2)),
    'tiles': lambda: jp2s.bare((160, 100), tile=(1, 1), components=4),
    'tiles_of_many_levels': lambda: jp2s.bare((160, 100), tile=(2, 2), levels=32),
    'notes_of_layers': lambda: jp2s.bare(
        (500, 500), layers=100, levels=32, precincts=[0xFF] * 32 + [0x44]
    ),
    'colours': lambda: jp2s.bare((1200, 1200), levels=5, components=4),
}


def _tile(bits, samples):
    """A TIFF of 64 x 64 in one tile of 2000 x 2000, whose samples are not all there."""
    tags = {
        256: (4, 1, 64),
        257: (4, 1, 64),
        258: (3, samples, 3000 if samples > 2 else bits),
        259: (3, 1, 8),
        262: (3, 1, 2 if samples > 2 else 1),
        277: (3, 1, samples),
        322: (4, 1, 2000),
        323: (4, 1, 2000),
        324: (4, 1, 4096),
        325: (4, 1, 99_999),
    }
    body = zlib.compress(bytes(2000 * 2000 * samples * bits // 8))
    data = bytearray(
        corpus.tiff([(tag, *value) for tag, value in tags.items()], body + bytes(99_999))
    )
    data[3000 : 3000 + 2 * samples] = struct.pack('<H', bits) * samples
    return bytes(data)


OTHERS = {
    'jpeg_without_end': lambda: corpus.encode(corpus.picture(), 'JPEG')[:-2] + b'\xff' * (12 << 20),
    'jpeg_with_more_behind': lambda: corpus.encode(corpus.picture(), 'JPEG') + b'\x55' * (24 << 20),
    'tile_of_8_bits': lambda: _tile(8, 1),
    'tile_of_64_bits': lambda: _tile(16, 4),
}


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """The outcome of each file, by kind."""
    files = {f'refused_{name}': make() for name, (make, *_) in REFUSED.items()}
    files |= {f'other_{name}': make() for name, make in OTHERS.items()}
    files |= {f'text_{name}': make() for name, make in TEXTS.items()}
    files |= {f'jpeg2000_{name}': make() for name, make in JPEG2000.items()}
    return bounded.outcomes(files, _MOST_BYTES, tmp_path_factory.mktemp('bounds'))


@pytest.mark.parametrize('name', REFUSED)
def test_refused_before_it_takes_memory_or_time(name, found):
    _, reason, detail = REFUSED[name]
    outcome = found[f'refused_{name}']
    assert (outcome.name, detail in outcome.detail) == (reason, True), outcome
    assert outcome.peak_bytes < _SMALL_BYTES
    assert outcome.cpu_sec < 1


@pytest.mark.parametrize('name', JPEG2000)
def test_memory_of_a_jpeg2000_is_as_told(name, found):
    outcome = found[f'jpeg2000_{name}']
    assert outcome.name == 'labeled', outcome
    assert outcome.peak_bytes < 1.3 * outcome.told_bytes + _NOISE_BYTES
    assert outcome.peak_bytes > 0.3 * outcome.told_bytes - _NOISE_BYTES


@pytest.mark.parametrize('name', OTHERS)
def test_memory_is_as_told(name, found):
    outcome = found[f'other_{name}']
    assert outcome.name in ('labeled', 'unsupported_format'), outcome
    assert outcome.peak_bytes < 1.3 * outcome.told_bytes + _NOISE_BYTES


@pytest.mark.parametrize('name', TEXTS)
def test_memory_of_a_text_is_that_of_its_samples(name, found):
    outcome = found[f'text_{name}']
    assert outcome.name == 'labeled', outcome
    assert outcome.peak_bytes < 3 * len(TEXTS[name]()) + _NOISE_BYTES


@pytest.mark.parametrize('mode', ['1', 'L', 'RGB'])
@pytest.mark.parametrize('most', [1, 9, 255, 1000, 65535])
@pytest.mark.parametrize('piece_bytes', [1, 7, 50, 1 << 22])
def test_a_netpbm_in_pieces_is_the_same(mode, most, piece_bytes, monkeypatch):
    monkeypatch.setattr(headers, '_PLAIN_PIECE_BYTES', piece_bytes)
    kind = {'1': 1, 'L': 2, 'RGB': 3}[mode]
    stored = np.random.default_rng(most).integers(0, 2 if kind == 1 else most + 1, (9, 7, kind))
    stored = stored[..., : 3 if kind == 3 else 1]
    spaces = itertools.cycle((b' ', b'\n', b'  ', b'\r\n', b'\t', b'\n# a 7 b\n', b'\v', b'\f'))
    text = b''.join(b'%d%s' % pair for pair in zip(stored.reshape(-1), spaces, strict=False))
    head = b'P%d # 1 2\n7 9 ' % kind + (b'' if kind == 1 else b'%d ' % most)
    raw = headers.without_metadata(head + text, 'PPM')
    maximum = b'' if kind == 1 else b' %d' % most
    packed = (
        np.packbits(stored[..., 0], axis=1)
        if kind == 1
        else stored.astype('u1' if most < 256 else '>u2')
    )
    assert raw == b'P%d 7 9%s\n' % (kind + 3, maximum) + packed.tobytes()


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_a_qoi_is_decoded_as_by_pillow(mode):
    for picture in (
        corpus.picture(90, 70, mode),
        Image.fromarray(np.random.default_rng(1).integers(0, 4, (40, 50, 3), np.uint8)),
        Image.new(mode, (300, 9), 'red'),
    ):
        data = corpus.encode(picture.convert(mode), 'QOI')
        opened = decode.open_image(data, CROP, limits.DEFAULT_LIMITS)
        assert decode._load(opened).tobytes() == picture.convert(mode).tobytes()


def test_a_qoi_of_any_operations_is_decoded_as_by_pillow():
    rng = random.Random(3)
    for length in [200] * 20 + [40] * 20:
        head = b'qoif' + struct.pack('>IIBB', 20, 10, rng.choice((3, 4)), 0)
        data = head + bytes(rng.choice((rng.randrange(256), 255, 254, 9)) for _ in range(length))
        data += bytes(7) + b'\1'
        try:
            with Image.open(io.BytesIO(data)) as image:
                expected = image.tobytes()
        except (IndexError, ValueError):
            with pytest.raises(ImageError):
                decode.decode(data, CROP)
            continue
        opened = decode.open_image(data, CROP, limits.DEFAULT_LIMITS)
        assert decode._load(opened).tobytes() == expected


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'tile_size': (64, 64)},
        {'tile_size': (256, 256)},
        {'precinct_size': (128, 128), 'codeblock_size': (32, 32)},
        {'precinct_size': (256, 256)},
        {'quality_mode': 'rates', 'quality_layers': [2**i for i in range(10, 0, -1)]},
        {'num_resolutions': 8, 'progression': 'RPCL'},
    ],
)
def test_what_encoders_write_is_labelled(options):
    data = corpus.encode(corpus.picture(700, 500), 'JPEG2000', **options)
    opened = decode.open_image(data, CROP, limits.DEFAULT_LIMITS)
    assert decode.render(opened, CROP).shape == (224, 224, 3)
    assert opened.working_bytes < 12_000_000


@pytest.fixture(scope='module')
def sound():
    """Pictures of a megapixel, by format; each takes 3 MB or more."""
    image = corpus.picture(1100, 900)
    options = {
        'jpeg': ('JPEG', {'progressive': True}),
        'png': ('PNG', {'compress_level': 1}),
        'webp': ('WEBP', {'method': 0}),
        'webp_lossless': ('WEBP', {'lossless': True, 'method': 0}),
        'gif': ('GIF', {}),
        'bmp': ('BMP', {}),
        'tiff_lzw': ('TIFF', {'compression': 'tiff_lzw'}),
        'tiff_deflate': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
        'tiff_jpeg': ('TIFF', {'compression': 'jpeg'}),
        'avif': ('AVIF', {'speed': 10, 'max_threads': 1}),
        'jpeg2000': ('JPEG2000', {}),
        'tga': ('TGA', {'compression': 'tga_rle'}),
        'ppm': ('PPM', {}),
    }
    files = {name: corpus.encode(image, kind, **more) for name, (kind, more) in options.items()}
    return files | {'plain.pgm': b'P2 1100 900 255\n' + b'113 ' * 990_000}


# Between the smallest and the largest each decoder fails at another place; one of them will do.
@pytest.mark.parametrize(
    'most_bytes', [1 << 19, 3 << 20, pytest.param(6 << 20, marks=pytest.mark.slow), 11 << 20]
)
def test_memory_that_is_missing_is_no_fault_of_a_picture(most_bytes, sound, tmp_path):
    found = {
        name: outcome.name
        for name, outcome in bounded.outcomes(sound, most_bytes, tmp_path).items()
    }
    assert set(found) == set(sound)
    assert set(found.values()) <= {'MemoryError', 'labeled'}, found
    if most_bytes == 1 << 19:
        assert set(found.values()) == {'MemoryError'}, found


def test_a_damaged_picture_is_its_own_fault(sound, tmp_path):
    cut = {name: data[: len(data) // 2] for name, data in sound.items()}
    found = bounded.outcomes(cut, 1 << 30, tmp_path)
    assert {outcome.name for outcome in found.values()} <= {'truncated', 'decode_error'}, found


def _unit(kind, fields):
    """An open bitstream unit of (value, bits)."""
    text = ''.join(f'{value:0{bits}b}' for value, bits in fields)
    body = int(text.ljust(-(-len(text) // 8) * 8 + 64, '0'), 2).to_bytes(-(-len(text) // 8) + 8)
    return bytes((kind << 3 | 2, len(body))) + body


@pytest.mark.parametrize('has_own_size', [False, True])
def test_a_frame_of_its_own_size_counts_as_the_largest_that_it_may_have(has_own_size):
    # One operating point; twelve bits for each side; what a frame says of screens and of itself.
    sequence = [(0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (4, 5)]
    sequence += [
        (11, 4),
        (11, 4),
        (63, 12),
        (47, 12),
        (0, 1),
        (0, 3),
        (0, 4),
        (0, 1),
        (1, 1),
        (1, 1),
    ]
    frame = [(0, 1), (0, 2), (1, 1), (0, 1), (1, 1), (0, 1), (has_own_size, 1)]
    data = _unit(2, []) + _unit(1, sequence) + _unit(6, frame)
    own = [(4096, 4096, 3)] if has_own_size else []
    assert list(isobmff._av1(data)) == [(64, 48, 3), *own]


@pytest.mark.parametrize('suffix', ['avif', 'heic'])
def test_sizes_are_those_of_the_coded_data(suffix):
    files = [case for case in corpus.cases() if case.name.endswith(suffix)]
    files = [case for case in files if case.expected == 'labeled']
    assert files, 'what encodes them is among the locked packages'
    for case in files:
        coded = isobmff.coded_pictures(case.data, 'AVIF' if suffix == 'avif' else 'HEIF')
        opened = decode.open_image(case.data, CROP, limits.DEFAULT_LIMITS)
        sizes = {(width, height) for width, height, _ in coded}
        if suffix == 'avif':
            assert sizes <= {opened.image.size, opened.image.size[::-1]}, case.name
        else:
            # Of 64 x 48, which the encoder pads to whole blocks.
            assert sizes == {(1, 1)}, case.name
    if suffix == 'heic':
        large = corpus.encode(corpus.picture(200, 300), 'HEIF')
        [(width, height, _)] = set(isobmff.coded_pictures(large, 'HEIF'))
        assert 200 - 63 <= width <= 200
        assert 300 - 63 <= height <= 300


def test_a_library_that_speaks_of_memory_is_not_believed_where_there_is_room():
    for text in ('Out of memory', 'Memory allocation error: Security limit exceeded', 'failed'):
        error = decode._blame(corpus.encode(corpus.picture(), 'PNG'), 'PNG', OSError(text), 1 << 20)
        assert isinstance(error, ImageError)
        error = decode._blame(b'', 'PNG', OSError(text), 1 << 60)
        assert isinstance(error, MemoryError)
