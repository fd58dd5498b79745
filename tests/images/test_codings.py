"""Every coding of our formats: the picture that its samples mean, or said not to be read.

The truth is worked out from the samples, beside any decoder; test_decoders holds the same files
against other decoders.
"""

import re

import numpy as np
import pytest

from tests.support import codings, corpus, jp2s, tiffs
from tests.support.mutations import check_detail
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.images import decode
from transforms.images.resize import Resize

WHOLE = Resize(size_px=codings.SIDE, short_side_px=None, filter='bilinear')
# Shares of 255.  Rounding, of alpha and of YCbCr above all.
MOST_APART = 4


def outcome(data: bytes) -> np.ndarray | ImageError:
    try:
        return decode.decode(data, WHOLE).astype(float)
    except ImageError as e:
        check_detail(e, data)
        return e


def is_unread(found: np.ndarray | ImageError) -> bool:
    return isinstance(found, ImageError) and found.reason is Reason.UNSUPPORTED_FORMAT


def test_what_is_read_is_the_picture_and_what_is_not_read_is_said_to_be_sound(capfd):
    wrong, unread, exact = {}, [], 0
    for coded in codings.all_codings():
        found = outcome(coded.data)
        if isinstance(found, ImageError):
            unread.append(coded.name)
            is_named = re.fullmatch(r'an? [\w ,+-]+ is not supported: convert it', found.detail)
            if not is_unread(found) or not is_named:
                wrong[coded.name] = str(found)
        elif coded.truth is not None:
            exact += 1
            apart = np.abs(found - coded.truth).max()
            if apart > MOST_APART:
                wrong[coded.name] = f'{apart:.0f} of 255'
    assert wrong == {}
    assert exact >= 450
    assert len(unread) < len(codings.all_codings()) / 3
    assert capfd.readouterr() == ('', '')


READ = {
    '16-bit planes': tiffs.Coding(tiffs.RGB, 16, is_planar=True),
    '16-bit planes, big-endian': tiffs.Coding(tiffs.RGB, 16, is_planar=True, byte_order='>'),
    '16-bit, white is zero': tiffs.Coding(tiffs.WHITE_IS_ZERO, 16),
    '16-bit, white is zero, compressed': tiffs.Coding(tiffs.WHITE_IS_ZERO, 16, compression=5),
    '12-bit': tiffs.Coding(bits=12),
    '12-bit, compressed': tiffs.Coding(bits=12, compression=tiffs.LZW),
    'YCbCr': tiffs.Coding(tiffs.YCBCR),
    'planes of reversed bits': tiffs.Coding(tiffs.RGB, is_planar=True, fill_order=2),
}


@pytest.mark.parametrize('coding', READ.values(), ids=READ)
def test_tiffs_that_pillow_takes_for_others_are_read(coding):
    stored = codings.tiff_samples(coding)
    found = outcome(tiffs.encode(stored, coding))
    assert np.abs(found - codings.tiff_truth(stored, coding)).max() <= MOST_APART


UNREAD = {
    'big-endian BigTIFF': tiffs.Coding(tiffs.RGB, is_big=True, byte_order='>'),
    'float': tiffs.Coding(tiffs.RGB, 32, tiffs.FLOAT),
    'signed': tiffs.Coding(sample_format=tiffs.SIGNED),
    '32 bit': tiffs.Coding(bits=32),
    '10 bit': tiffs.Coding(bits=10),
    '14 bit': tiffs.Coding(bits=14),
    'grey premultiplied': tiffs.Coding(extra=(tiffs.PREMULTIPLIED,)),
    'four bands': tiffs.Coding(is_planar=True, extra=(0, 0, 0)),
    'grey and alpha in planes': tiffs.Coding(is_planar=True, extra=(2,), compression=tiffs.LZW),
    'compression of its own': tiffs.Coding(compression=65000),
}


@pytest.mark.parametrize('coding', UNREAD.values(), ids=UNREAD)
def test_sound_tiffs_that_are_not_read_are_no_errors(coding):
    found = outcome(tiffs.encode(codings.tiff_samples(coding), coding))
    assert is_unread(found)
    assert found.detail.endswith('is not supported: convert it')


@pytest.mark.parametrize('bits', [10, 12, 16])
def test_jpegs_of_more_bits_are_no_errors(bits):
    jpeg = bytearray(corpus.encode(corpus.picture(), 'JPEG'))
    jpeg[jpeg.index(b'\xff\xc0') + 4] = bits
    assert is_unread(outcome(bytes(jpeg)))


@pytest.mark.parametrize('frame', [b'\xff\xf7', b'\xff\xc5', b'\xff\xcf'])
def test_jpegs_of_other_kinds_are_no_errors(frame):
    jpeg = corpus.encode(corpus.picture(), 'JPEG').replace(b'\xff\xc0', frame)
    assert is_unread(outcome(jpeg))


def test_jpeg_2000_with_subsampled_colours_is_not_read():
    stream = bytearray(jp2s.stream(corpus.picture()))
    stream[46:48] = b'\x02\x02'  # the second component
    assert is_unread(outcome(bytes(stream)))
    assert is_unread(outcome(jp2s.jp2(bytes(stream), jp2s.colour(jp2s.SYCC))))


def test_a_targa_of_runs_over_the_end_of_a_row_is_not_read():
    head = bytearray(corpus.encode(corpus.picture(), 'TGA', compression='tga_rle')[:18])
    runs = b''.join(b'\xff' + bytes((i, 9, 200)) for i in range(15))  # 15 x 128 = 48 x 40
    assert is_unread(outcome(bytes(head) + runs))


def test_the_deepest_picture_of_an_icon_is_taken():
    red, green = ((corpus.Image.new('RGB', (16, 16), name)) for name in ('red', 'green'))
    pictures = [corpus.encode(each, 'PNG') for each in (red, green)]
    for depths in ((4, 32), (32, 4)):
        entries, at = b'', 6 + 2 * 16
        for depth, data in zip(depths, pictures, strict=True):
            entries += corpus.ico(16, 16, data, depth)[6:18] + at.to_bytes(4, 'little')
            at += len(data)
        data = b'\0\0\1\0\2\0' + entries + b''.join(pictures)
        found = outcome(data)
        assert found[0, 0].tolist() == ([0, 128, 0] if depths[1] == 32 else [255, 0, 0])


def test_the_alpha_of_an_icon_counts_where_its_directory_tells_no_depth():
    clear = corpus.Image.new('RGBA', (32, 32), (200, 0, 0, 0))
    data = corpus.encode(clear, 'ICO', sizes=[(32, 32)], bitmap_format='bmp')
    assert (outcome(data[:12] + b'\0\0' + data[14:]) == 255).all()
