"""Nothing is labelled whose pixels are not all in the file.

The files are cut here by those who know where.  That nothing is shown of what memory held before is
looked at in test_fuzz.
"""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from tests.support import codings, corpus, jp2s, samples, tiffs
from transforms.core import limits
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.images import decode, headers
from transforms.images.resize import Resize

CROP = Resize(size_px=224, short_side_px=256, filter='bicubic')
END = b'\xff\xd9'


def outcome(data: bytes) -> str:
    try:
        decode.decode(data, CROP)
    except ImageError as e:
        return e.reason.value
    return 'labeled'


@functools.cache
def photograph(size: tuple[int, int] = (320, 240), mode: str = 'RGB') -> Image.Image:
    with Image.open(samples.PHOTOGRAPHS[0]) as image:
        return image.resize(size).convert(mode)


# JPEG

JPEGS = {
    'rows': {},
    'scans': {'progressive': True},
    'restarts': {'restart_marker_rows': 1},
    'many restarts': {'restart_marker_blocks': 1},
    'scans with restarts': {'progressive': True, 'restart_marker_rows': 1},
    'scans with many restarts': {'progressive': True, 'restart_marker_blocks': 1},
    'coarse': {'quality': 8},
    'coarse scans': {'quality': 8, 'progressive': True},
    'no subsampling': {'subsampling': '4:4:4'},
}


@pytest.mark.parametrize('options', JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_jpeg_cut_anywhere_is_truncated_whatever_is_put_behind(mode, options):
    data = corpus.encode(photograph(mode=mode), 'JPEG', **options)
    scan = data.index(b'\xff\xda') + 14
    behind = (END, END + b'\xff' * 9, b'', bytes(3000), b'\xff')
    cuts = [scan + (len(data) - scan) * i // 12 for i in range(1, 12)]
    # Where a restart marker is what comes next.
    cuts += [found for i in range(8) if (found := data.find(bytes((0xFF, 0xD0 + i)), scan)) > 0]
    found = {(cut, tail[:4]): outcome(data[:cut] + tail) for cut in cuts for tail in behind}
    assert set(found.values()) == {'truncated'}, found
    # A cut in the midst of a table leads on into the next picture.
    assert 'labeled' not in {outcome(data[:cut] + END + data) for cut in cuts}


@pytest.mark.parametrize('options', JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize('size', [(320, 240), (1200, 900), (17, 9), (1, 1)])
def test_a_whole_jpeg_is_labelled_whatever_is_put_behind(size, options):
    data = corpus.encode(photograph(size), 'JPEG', **options)
    for tail in (b'', END, data, bytes(3000), b'\xff', b'PK\x03\x04' * 99):
        assert outcome(data + tail) == 'labeled'
    for end in (-1, -2):
        assert outcome(data[:end]) == 'labeled', 'nothing is missing but the end marker'


def test_a_jpeg_without_one_of_its_scans_or_a_part_of_one_is_truncated():
    data = corpus.encode(photograph(), 'JPEG', progressive=True)
    places = headers.jpeg_scans(data).places
    assert len(places) == 10
    for start, end in places:
        if end != places[-1][1]:
            assert outcome(data[:end] + END) == 'truncated'
        assert outcome(data[: end - (end - start) // 4] + data[end:]) == 'truncated'


@pytest.mark.parametrize('marker', [b'\xff\xd8', b'\xff\xe1', b'\xff\x01\x00\x09', b'\xff\xfe\xff'])
def test_a_marker_in_the_midst_of_the_data_of_a_jpeg_ends_them(marker):
    for options in JPEGS.values():
        data = corpus.encode(photograph(), 'JPEG', **options)
        middle = len(data) * 3 // 4
        assert outcome(data[:middle] + marker + data[middle:]) != 'labeled'


def test_a_jpeg_without_one_of_its_colours_is_truncated():
    """Baseline, with a scan of its own for each component."""
    head = corpus.encode(photograph(), 'JPEG', subsampling='4:4:4').partition(b'\xff\xda')[0]
    whole = head
    for number, plane in enumerate(photograph().convert('YCbCr').split(), 1):
        grey = corpus.encode(plane, 'JPEG').partition(b'\xff\xda')[2][8:-2]
        whole += corpus.segment(0xDA, bytes((1, number, 0, 0, 63, 0))) + grey
        assert outcome(whole + END) == ('labeled' if number == 3 else 'truncated')
    opened = decode.open_image(whole + END, CROP, limits.DEFAULT_LIMITS)
    opened.image.load()
    assert not opened.image.scans.is_single_pass
    for cut in (1000, 100, 20):
        assert outcome(whole[:-cut] + END) == 'truncated'


def test_photographs_are_decoded_to_the_same_as_by_pillow():
    for path in samples.PHOTOGRAPHS:
        data = path.read_bytes()
        opened = decode.open_image(data, Resize(64, None, 'bilinear'), limits.DEFAULT_LIMITS)
        opened.image.load()
        with Image.open(path) as plain:
            plain.draft('RGB', (opened.width // opened.scale, opened.height // opened.scale))
            assert opened.image.tobytes() == plain.tobytes()


# TIFF

TIFF_LAYOUTS = {
    'a strip': {},
    'strips': {'rows_per_strip': 16},
    'tiles': {'tile': (16, 16)},
}
COMPRESSIONS = (1, 5, 7, 8, 32773, 34925, 50000)


@pytest.mark.parametrize('compression', COMPRESSIONS)
@pytest.mark.parametrize('layout', TIFF_LAYOUTS.values(), ids=TIFF_LAYOUTS)
@pytest.mark.parametrize('photometric', [tiffs.BLACK_IS_ZERO, tiffs.RGB, tiffs.YCBCR])
def test_a_tiff_with_a_strip_cut_emptied_or_lost_is_not_labelled(photometric, layout, compression):
    coding = tiffs.Coding(photometric, compression=compression, **layout)
    stored = codings.tiff_samples(coding)
    assert outcome(tiffs.encode(stored, coding)) == 'labeled'
    cut = tiffs.encode(stored, coding, change=lambda i, part: part[: len(part) // 2 * (i != 0)])
    assert outcome(cut) == 'truncated'
    last = tiffs.encode(stored, coding, change=lambda i, part: part[: len(part) // (1 + (i == 0))])
    assert outcome(last) in ('truncated', 'decode_error')
    if layout:
        assert outcome(tiffs.encode(stored, coding, offsets_told=0.5)) == 'truncated'


def test_an_only_strip_may_tell_a_wrong_size():
    coding = tiffs.Coding()
    stored = codings.tiff_samples(coding)
    assert outcome(tiffs.encode(stored, coding, t279=(7,))) == 'labeled'


@pytest.mark.parametrize('photometric', [tiffs.BLACK_IS_ZERO, tiffs.RGB, tiffs.YCBCR, tiffs.CMYK])
@pytest.mark.parametrize('layout', TIFF_LAYOUTS.values(), ids=TIFF_LAYOUTS)
def test_a_jpeg_in_a_tiff_must_be_as_large_as_its_strip_or_tile(photometric, layout):
    coding = tiffs.Coding(photometric, compression=tiffs.JPEG, **layout)
    stored = codings.tiff_samples(coding)
    small = tiffs.encode(stored[:8, :8], tiffs.Coding(photometric, compression=tiffs.JPEG))
    jpeg = small[8 : small.index(END) + 2]
    data = tiffs.encode(stored, coding, change=lambda i, part: part if i else jpeg)
    assert outcome(data) == 'truncated'
    assert outcome(tiffs.encode(stored, coding)) == 'labeled'


def old_jpeg_tiff(jpeg: bytes, width: int, height: int) -> bytes:
    """A TIFF of compression 6, around a whole JPEG."""
    values = {256: width, 257: height, 259: 6, 262: 6, 277: 3, 278: height, 279: len(jpeg)}
    values |= {273: 4096, 513: 4096, 514: len(jpeg)}
    entries = [(tag, 4, 1, value) for tag, value in values.items()]
    return corpus.tiff([*entries, (258, 3, 1, 8), (530, 3, 2, 0x00020002)], jpeg)


def test_a_jpeg_of_the_old_style_must_be_as_large_as_its_tiff_and_whole():
    jpeg = corpus.encode(corpus.picture(), 'JPEG')
    assert outcome(old_jpeg_tiff(jpeg, 48, 40)) == 'labeled'
    assert outcome(old_jpeg_tiff(jpeg, 300, 300)) == 'truncated'
    assert outcome(old_jpeg_tiff(jpeg[: len(jpeg) * 9 // 10] + END, 48, 40)) == 'truncated'


@pytest.mark.parametrize('compression', ['tiff_ccitt', 'group3', 'group4'])
@pytest.mark.parametrize('rows', [13, 240])
def test_a_fax_cut_in_a_strip_is_not_labelled(compression, rows):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[278] = rows
    image = photograph(mode='1')
    data = corpus.encode(image, 'TIFF', compression=compression, tiffinfo=info)
    assert outcome(data) == 'labeled'
    with Image.open(io.BytesIO(data)) as opened:
        sizes = opened.tag_v2[279]
    told = struct.pack(f'<{len(sizes)}I', *sizes)
    told = told if told in data else struct.pack(f'<{len(sizes)}H', *sizes)
    for share in (4, 2):
        less = [size // share for size in sizes]
        form = 'I' if len(told) == 4 * len(sizes) else 'H'
        changed = data.replace(told, struct.pack(f'<{len(sizes)}{form}', *less))
        assert changed != data
        assert outcome(changed) in ('truncated', 'decode_error')


# White rows are one bit each; the mark of the end says that there is no more.
END_OF_FAX = b'\x00\x10\x01'


@pytest.mark.parametrize('fill_order', [1, 2])
@pytest.mark.parametrize('rows_before', [8, 40])
def test_a_fax_that_ends_before_its_last_row_is_truncated(rows_before, fill_order):
    """With enough data behind the mark: what lay in memory before was shown as its rows."""

    def fax(strip):
        if fill_order == 2:
            strip = bytes(int(f'{byte:08b}'[::-1], 2) for byte in strip)
        entries = [(256, 3, 1, 48), (257, 3, 1, 48), (258, 3, 1, 1), (259, 3, 1, 4), (262, 3, 1, 1)]
        entries += [(266, 3, 1, fill_order), (273, 4, 1, 4096), (277, 3, 1, 1), (278, 3, 1, 48)]
        return corpus.tiff([*entries, (279, 4, 1, len(strip))], strip)

    whole = b'\xff' * 6
    assert outcome(fax(whole + END_OF_FAX)) == 'labeled'
    cut = b'\xff' * (rows_before // 8) + END_OF_FAX + whole
    assert outcome(fax(cut)) == 'truncated'


# The others


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA'])
@pytest.mark.parametrize('share', [0, 1 / 3, 0.9, 0.999])
def test_a_png_whose_data_end_before_its_rows_is_truncated(share, mode):
    data = corpus.encode(photograph(mode=mode), 'PNG')
    assert outcome(png_of(data, 1)) == 'labeled'
    assert outcome(png_of(data, share)) == 'truncated'
    inside = struct.pack('<HHHBBBBHHII', 0, 1, 1, 0, 0, 0, 0, 1, 32, len(data), 22)
    assert outcome(inside + png_of(data, 1)) == 'labeled'
    assert outcome(inside + png_of(data, share)) == 'truncated'


def png_of(data: bytes, share: float) -> bytes:
    """The PNG with a part of its rows, compressed anew and well ended."""
    head, rows = data[: data.index(b'IDAT') - 4], png_rows(data)
    part = zlib.compress(rows[: int(len(rows) * share)])
    return head + corpus.chunk(b'IDAT', part) + corpus.chunk(b'IEND', b'')


def png_rows(data: bytes) -> bytes:
    at, compressed = 8, b''
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == b'IDAT':
            compressed += data[at + 8 : at + 8 + size]
        at += size + 12
    return zlib.decompress(compressed)


@pytest.mark.parametrize('colour', [0, 2, 4, 6])
@pytest.mark.parametrize('height', [1, 2, 39, 40])
def test_an_interlaced_png_whose_data_end_before_its_last_pass_is_truncated(height, colour):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    stored = codings.samples(channels)[:height].astype(np.uint8)
    data = corpus.interlaced_png(stored, colour)
    assert outcome(data) == 'labeled'
    for share in (0.3, 0.6, 0.95):
        assert outcome(png_of(data, share)) == 'truncated'


@pytest.mark.parametrize('mode', ['1', 'L', 'RGB', 'RGBA'])
@pytest.mark.parametrize('colour', [0, 255])
def test_a_png_of_one_colour_is_whole(colour, mode):
    for size in ((1, 1), (1, 3), (3, 1), (200, 100)):
        fill = (colour,) * len(mode) if len(mode) > 1 else colour
        assert outcome(corpus.encode(Image.new(mode, size, fill), 'PNG')) == 'labeled'


@pytest.mark.parametrize('kept', [1, 3, 8])
def test_a_jpeg_2000_without_some_of_its_tiles_is_truncated(kept):
    stream = jp2s.stream(corpus.picture(), tile_size=(16, 16))
    assert outcome(stream) == 'labeled'
    for part in (jp2s.without_tiles(stream, kept), jp2s.without_tiles(stream, kept)[:-2]):
        assert outcome(part) == 'truncated'
        assert outcome(jp2s.jp2(part, jp2s.colour(jp2s.SRGB))) == 'truncated'


@pytest.mark.parametrize('share', [0.3, 0.6, 0.9])
def test_a_jpeg_2000_cut_in_a_tile_is_truncated(share):
    stream = jp2s.stream(corpus.picture())
    assert outcome(stream[: int(len(stream) * share)] + END) == 'truncated'


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
@pytest.mark.parametrize('interlace', [0, 1])
def test_a_gif_whose_codes_end_early_is_truncated(interlace, share):
    data = corpus.gif((20, 20), (0, 0, 20, 20))
    at = data.index(b',')
    data = data[: at + 9] + bytes((interlace * 64,)) + data[at + 10 :]
    assert outcome(data) == 'labeled'
    assert outcome(corpus.gif((20, 20), (0, 0, 20, 20), codes=share)) == 'truncated'


@pytest.mark.parametrize('bits', [4, 8])
def test_run_length_coded_rows_that_end_early_are_truncated(bits):
    stored = codings.samples(1, bits)[..., 0]
    colours = tiffs.palette(bits) // 257
    body, _ = codings.run_length_bodies(stored, bits)['literals']
    for share in (0.1, 0.5, 0.99):
        part = body[: int(len(body) * share)]
        data = codings.bitmap(bits, 1 if bits == 8 else 2, part, colours)
        assert outcome(data) == 'truncated'


@pytest.mark.parametrize(
    ('data', 'is_told'),
    [
        (b'\x02\x05', [True, True]),  # all of it, though nothing says that this is the end
        (b'\x01\x05', None),
        (b'\x01\x05\x00\x01', [True, False]),  # an end on purpose
    ],
)
def test_run_lengths_end_when_they_say_so_or_with_the_last_pixel(data, is_told):
    found = headers.run_lengths(data, 2, 1, is_rle4=False)
    assert (None if found is None else found[1].tolist()) == (is_told and [is_told])


@pytest.mark.parametrize('suffix', ['webp', 'bmp', 'ppm', 'qoi', 'tga'])
def test_a_file_cut_in_its_middle_that_tells_its_new_size_is_not_labelled(suffix):
    kinds = {'webp': 'WEBP', 'bmp': 'BMP', 'ppm': 'PPM', 'qoi': 'QOI', 'tga': 'TGA'}
    data = bytearray(corpus.encode(photograph(), kinds[suffix]))
    del data[len(data) // 2 :]
    if suffix == 'webp':
        struct.pack_into('<I', data, 4, len(data) - 8)
        struct.pack_into('<I', data, 16, len(data) - 20)
    elif suffix == 'bmp':
        struct.pack_into('<I', data, 2, len(data))
    elif suffix == 'qoi':
        data += b'\0' * 7 + b'\1'
    assert outcome(bytes(data)) in ('truncated', 'decode_error')


def test_a_missing_row_is_told_as_such():
    with pytest.raises(ImageError) as e:
        decode.decode(png_of(corpus.encode(photograph(), 'PNG'), 1 / 3), CROP)
    assert e.value.reason is Reason.TRUNCATED
    assert e.value.size_bytes is not None
