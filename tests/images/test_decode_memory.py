"""Memory that decoding takes, in processes of their own, and what was predicted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import corpus

# Pictures of up to 100 megapixels; that one is refused before it takes memory is in test_bounds.
pytestmark = pytest.mark.slow

# A process for each file, of which none has imported anything or decoded more than a tiny one.
PEAK = """
import os, resource, sys
from pathlib import Path
from transforms.images import decode
from transforms.model.card import Resize
resize = Resize(224, 256, 'bicubic')
tiny, *files = map(Path, sys.argv[1:])
decode.decode(tiny.read_bytes(), resize)
for file in files:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    large = file.read_bytes()
    decode.decode(tiny.read_bytes(), resize)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = decode.open_image(large, resize, decode.DEFAULT_LIMITS)
    decode.render(opened, resize)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(file.name, (after - before) * 1024, opened.working_bytes, flush=True)
    os._exit(0)
"""


LARGE = {
    'png': lambda image: corpus.encode(image, 'PNG', compress_level=1),
    'png_rgba': lambda image: corpus.encode(image.convert('RGBA'), 'PNG', compress_level=1),
    'webp': lambda image: corpus.encode(image, 'WEBP', method=0),
    'avif': lambda image: corpus.encode(image, 'AVIF', speed=10),
    'jp2': lambda image: corpus.encode(image, 'JPEG2000'),
    'progressive': lambda image: corpus.encode(image, 'JPEG', progressive=True),
    'tiff': lambda image: corpus.encode(image, 'TIFF', compression='tiff_lzw'),
}


@pytest.fixture(scope='module')
def peaks(tmp_path_factory):
    """Memory that decoding adds in a fresh process, and what was predicted, by kind of file."""
    folder = tmp_path_factory.mktemp('large')
    (folder / 'tiny').write_bytes(corpus.encode(corpus.picture(), 'JPEG'))
    image = corpus.picture(2400, 2000)
    files = {kind: make(image) for kind, make in LARGE.items()}
    files['hundred_megapixels'] = corpus.tall_jpeg(10_048, 78)
    for kind, data in files.items():
        (folder / kind).write_bytes(data)
    command = [sys.executable, '-c', PEAK, folder / 'tiny', *(folder / kind for kind in files)]
    root = Path(__file__).parents[2]
    out = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    found = {kind: (int(peak), int(told)) for kind, peak, told in map(str.split, out.splitlines())}
    assert set(found) == set(files)
    return found


def test_a_hundred_megapixels_take_little_memory(peaks):
    peak, predicted = peaks['hundred_megapixels']
    assert peak < 100_000_000
    assert peak < 1.5 * predicted + 10_000_000


@pytest.mark.parametrize('kind', LARGE)
def test_working_bytes_is_about_the_peak(kind, peaks):
    peak, predicted = peaks[kind]
    assert peak < 1.25 * predicted + 10_000_000
    assert peak > 0.25 * predicted, 'nothing was measured'
