"""What a header understates or overstates is refused before a decoder takes memory or time for it.

Each file is decoded in a process of its own, which may take no more than two gigabytes.
"""

import struct
import sys

import pytest

from tests import bounded, corpus, jp2s
from transforms import decode
from transforms.model.card import Resize

CROP = Resize(224, 256, 'bicubic')

_MOST_BYTES = 2 << 30
# Beside what the interpreter and the libraries take once.
_SMALL_BYTES = 24_000_000
_NOISE_BYTES = 16_000_000

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='memory is limited by the kernel')


def _sized_ihdr(width, height, size):
    """A JP2 whose boxes say one size and whose codestream says another."""
    data = jp2s.jp2(jp2s.bare(size), jp2s.colour(jp2s.SRGB))
    at = data.index(b'ihdr') + 4
    return data[:at] + struct.pack('>II', height, width) + data[at + 8 :]


REFUSED_JPEG2000 = {
    'precincts': (jp2s.bare((1600, 1600), precincts=[0]), 'unsupported_format', 'precincts'),
    'precincts_of_bands': (
        jp2s.bare((1000, 1000), levels=5, precincts=[0x11] * 6),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_of_a_tile': (
        jp2s.bare((1600, 1600), tile_header=jp2s.cod(precincts=[0])),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_of_a_colour': (
        jp2s.bare((2600, 2600), tile_header=jp2s.marker(0x53, bytes((1, 1, 0, 4, 4, 0, 1, 0)))),
        *('unsupported_format', 'precincts'),
    ),
    'precincts_in_an_unknown_segment': (
        jp2s.bare((1600, 1600), tile_header=jp2s.marker(0x31, jp2s.cod(precincts=[0]))),
        *('decode_error', ''),
    ),
    'blocks': (jp2s.bare((3000, 3000), block=(2, 2)), 'unsupported_format', 'code blocks'),
    'blocks_in_tiles': (
        jp2s.bare((7000, 7000), tile=(1000, 1000), block=(2, 2)),
        *('decode_error', 'code blocks'),
    ),
    'tiles': (
        jp2s.bare((250, 250), tile=(1, 1), components=4),
        *('unsupported_format', 'tiles'),
    ),
    'colours': (jp2s.bare((64, 64), components=16384), 'unsupported_format', '16384 colours'),
    'layers': (jp2s.bare((40, 40), tile=(1, 1), layers=65535), 'decode_error', 'packets'),
    'packets': (
        jp2s.bare((500, 500), layers=1000, levels=5, precincts=[0x33] * 6),
        *('decode_error', 'packets'),
    ),
    'pixels_behind_the_box': (
        _sized_ihdr(64, 64, (16384, 16384)),
        *('too_many_pixels', 'limit 50000000'),
    ),
    'another_size_than_the_box': (_sized_ihdr(64, 64, (80, 64)), 'decode_error', '80 x 64'),
}

# Within the limits, in the ways in which a decoder takes most memory beside that for pixels.
JPEG2000 = {
    'plain': jp2s.bare((2000, 2000), levels=5),
    'precincts': jp2s.bare((400, 400), precincts=[0]),
    'precincts_of_bands': jp2s.bare((1500, 1500), levels=5, precincts=[0x33] * 6),
    'blocks': jp2s.bare((1500, 1500), levels=5, block=(2, 2)),
    'tiles': jp2s.bare((160, 100), tile=(1, 1), components=4),
    'tiles_of_many_levels': jp2s.bare((160, 100), tile=(2, 2), levels=32),
    'notes_of_layers': jp2s.bare((500, 500), layers=100, levels=32, precincts=[0xFF] * 32 + [0x44]),
    'colours': jp2s.bare((2000, 2000), levels=5, components=4),
}


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """The outcome of each file, by kind."""
    files = {f'refused_{name}': case[0] for name, case in REFUSED_JPEG2000.items()}
    files |= {f'jpeg2000_{name}': data for name, data in JPEG2000.items()}
    return bounded.outcomes(files, _MOST_BYTES, tmp_path_factory.mktemp('bounds'))


@pytest.mark.parametrize('name', REFUSED_JPEG2000)
def test_refused_before_it_takes_memory_or_time(name, found):
    _, reason, detail = REFUSED_JPEG2000[name]
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
    opened = decode.open_image(data, CROP, decode.DEFAULT_LIMITS)
    assert decode.render(opened, CROP).shape == (224, 224, 3)
    assert opened.working_bytes < 12_000_000
