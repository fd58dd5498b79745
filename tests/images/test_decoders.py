"""Every coding of our formats against decoders that we do not use: `make test-decoders`.

Slow, as the other decoders need an environment of their own.  What the samples mean, worked out
without any decoder, is looked at in test_codings.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support import codings
from transforms.core.errors import ImageError
from transforms.images import decode
from transforms.images.resize import Resize

pytestmark = pytest.mark.slow

_PYTHON = Path(__file__).parents[2] / '.venvs' / 'decoders' / 'bin' / 'python'
_READ = Path(__file__).parents[1] / 'environments' / 'decoders' / 'read.py'
_WHOLE = Resize(size_px=codings.SIDE, short_side_px=None, filter='bilinear')
_MOST_APART = 8

# Where the other decoder is not the one to go by; test_codings knows what is right.
_OTHERWISE = {
    'OpenCV fills what a frame leaves free with the background': (
        'background_gif_frame_5_7_20_30_False.gif',
        'background_gif_frame_0_0_48_20_False.gif',
        'background_gif_frame_40_40_8_8_False.gif',
    ),
    'SDL shows the first colour where run-length coded rows leave pixels out': tuple(
        f'bmp_rle{bits}_{name}.bmp'
        for bits in (4, 8)
        for name in ('short_rows', 'early_end', 'delta')
    ),
    'SDL takes the fourth byte of a pixel for alpha': ('bmp_RGBA.bmp',),
    'OpenCV does not know CMYK in JPEG 2000': ('jp2_cmyk.jp2',),
}


@pytest.fixture(scope='module')
def others(tmp_path_factory):
    """The pictures as other decoders see them, by name, and why they cannot see the rest."""
    if not _PYTHON.exists():
        pytest.fail(f'no {_PYTHON}; set it up with: make .venvs/decoders/ready')
    folder = tmp_path_factory.mktemp('codings')
    for coded in codings.all_codings():
        (folder / coded.name).write_bytes(coded.data)
    done = subprocess.run([_PYTHON, _READ, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = {path.stem: np.load(path) for path in folder.glob('*.npy')}
    return seen, json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_labelled_further_than_eight_of_255_from_another_decoder(others):
    seen, unseen = others
    skipped = {name for names in _OTHERWISE.values() for name in names}
    wrong, compared, alone = {}, 0, []
    for coded in codings.all_codings():
        try:
            ours = decode.decode(coded.data, _WHOLE).astype(float)
        except ImageError:
            continue
        if coded.name in unseen:
            alone.append(coded.name)
        elif coded.name not in skipped:
            compared += 1
            apart = np.abs(ours - seen[coded.name]).max()
            if apart > _MOST_APART:
                wrong[coded.name] = f'{apart:.0f}'
    assert wrong == {}
    assert compared >= 550
    assert len(alone) <= 30, alone


def test_the_exceptions_are_still_needed(others):
    seen, _ = others
    by_name = {coded.name: coded for coded in codings.all_codings()}
    for why, names in _OTHERWISE.items():
        for name in names:
            apart = np.abs(decode.decode(by_name[name].data, _WHOLE) - seen[name]).max()
            assert apart > _MOST_APART, f'{name}: {why}'
