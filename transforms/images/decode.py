"""Encoded bytes to the square of RGB samples a model takes.

`open_image` reads the header and refuses what is not an image, is too large or could run a program;
`render` decodes and resizes.  Between the two the caller reserves `working_bytes`.  Only Pillow's
plugins named here are ever tried, and none of Pillow's process-wide limits is changed.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import io
import logging
import mmap
import random
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PILImage
from PIL.Image import Resampling, Transpose

from transforms.core.errors import ImageError
from transforms.core.limits import DEFAULT_LIMITS, PixelLimits
from transforms.core.reasons import Reason
from transforms.images import isobmff, jpeg2000
from transforms.images.headers import (
    bitmap_coding,
    is_complete,
    jpeg_scans,
    netpbm_size,
    run_lengths,
    webp_canvas,
    without_metadata,
)
from transforms.images.no_images import is_page, name_of
from transforms.images.qoi import qoi_pixels
from transforms.images.resize import Resize
from transforms.images.tiff import (
    Fax,
    colours_as_grey,
    described_coding,
    exif_orientation,
    faxes,
    jpegs,
    missing_segments,
    unread_coding,
)
from transforms.images.webp import is_decoded_here, still_pixels

if TYPE_CHECKING:
    from PIL import _imaging

try:
    import pillow_heif
except ImportError:
    _HEIF: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener()
    pillow_heif.options.DECODE_THREADS = 1
    _HEIF = ('HEIF',)

# Pillow's own way with what is not compressed takes 16-bit planes and reversed bits for others.
TiffImagePlugin.READ_LIBTIFF = True

# One image a thread: the pool above is what uses the cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Pillow warns of damaged metadata, which spoils no picture; with warnings turned into errors it
# would.
warnings.filterwarnings('ignore', module=r'PIL\.')

# What it logs of hostile files ends as the reason of a dead letter.
logging.getLogger('PIL').setLevel(logging.CRITICAL)

# libtiff writes what it dislikes of a file to standard error, and Pillow has no switch for it.
for _library in (Path(PILImage.__file__).parents[1] / 'pillow.libs').glob('libtiff*'):
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(str(_library)).TIFFSetErrorHandler(None)
        ctypes.CDLL(str(_library)).TIFFSetWarningHandler(None)

# TGA has no signature, so it comes last.  MPO files open as JPEG.
_FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    IcoImagePlugin.IcoImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    QoiImagePlugin.QoiImageFile.format,
    *_HEIF,
    TgaImagePlugin.TgaImageFile.format,
)

# What libraries say of memory where they say anything: libavif, libheif and Pillow's codecs.
_MEMORY = re.compile('out of memory|memory allocation|cannot allocate', re.IGNORECASE)
_LIBRARY_BYTES = 1 << 21

# What a plugin raises on hostile bytes.  Anything else, MemoryError above all, is no image's fault.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    PILImage.DecompressionBombError,
)

# (offset, signature, name) of well-known formats that are not read, for a reason that says so.
_UNSUPPORTED_SIGNATURES = (
    (0, b'%PDF', 'PDF'),
    (0, b'%!PS', 'PostScript'),
    (0, b'\xc5\xd0\xd3\xc6', 'EPS'),
    (0, b'8BPS', 'Photoshop'),
    (0, b'\x00\x00\x02\x00', 'Windows cursor'),
    (0, b'\xd7\xcd\xc6\x9a', 'WMF'),
    (40, b' EMF', 'EMF'),
    (0, b'SIMPLE  =', 'FITS'),
    (0, b'DDS ', 'DDS'),
    (0, b'icns', 'ICNS'),
    (0, b'v/1\x01', 'OpenEXR'),
    (0, b'#?RADIANCE', 'Radiance HDR'),
    (0, b'gimp xcf', 'GIMP'),
    (0, b'FORM', 'IFF'),
    (0, b'\xff\x0a', 'JPEG XL'),
    (0, b'\x00\x00\x00\x0cJXL ', 'JPEG XL'),
    (0, b'II\xbc\x01', 'JPEG XR'),
    (0, b'\x1f\x8b', 'gzip'),
    (0, b'PK\x03\x04', 'ZIP'),
    (0, b'\x1aE\xdf\xa3', 'Matroska'),
    (8, b'WAVE', 'WAV'),
    (8, b'AVI ', 'AVI'),
    (4, b'ftypheic', 'HEIC'),
    (4, b'ftypheix', 'HEIC'),
    (4, b'ftypmif1', 'HEIF'),
    (4, b'ftyp', 'ISO media'),
)

_SIGNATURES = (
    (b'\xff\xd8', 'JPEG'),
    (b'\x89PNG', 'PNG'),
    (b'GIF8', 'GIF'),
    (b'BM', 'BMP'),
    (b'II*\x00', 'TIFF'),
    (b'MM\x00*', 'TIFF'),
    (b'RIFF', 'WEBP'),
    (b'\x00\x00\x00\x0cjP  ', 'JPEG2000'),
    (b'\xff\x4f\xff\x51', 'JPEG2000'),
    (b'\x00\x00\x01\x00', 'ICO'),
    (b'qoif', 'QOI'),
)

_FILTERS = {'bilinear': Resampling.BILINEAR, 'bicubic': Resampling.BICUBIC}

_DIB_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)

_ORIENTATION_TAG = 0x0112
_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323
_TRANSPOSITIONS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# How the stored picture lies, seen from the upright one: sides exchanged, columns from right to
# left, rows from the bottom up.
_SEEN_UPRIGHT = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

# What decoders hold beside Pillow's picture.
_DECODER_BYTES_PER_PX = {'WEBP': 4, 'AVIF': 4, 'HEIF': 4, 'TIFF': 4, 'QOI': 4}
# Of an animated WebP.
_CANVASES_BYTES_PER_PX = 8

# (scale, margin): a JPEG is decoded at 1/scale where that leaves its short side at least margin
# times the size needed.  Averages of 4 or 8 pixels alias more than those of 2, and cost little
# less: at these margins a reduced decode stays within about 44 dB of a full one and mostly above
# 48 dB; tests/benchmarks measures both.
_REDUCTIONS = ((8, 2.0), (4, 2.0), (2, 1.5))

# A scan costs a visit to every block however few bytes it has.  Encoders write about ten scans.
_MAX_SCANNED_PX = 5_000_000_000

# Sixty-four bits, as far as libjpeg looks ahead.  Ones, of which no code consists: they end no
# block that lacks more than a few codes.
_LOOK_AHEAD = b'\xff\x00' * 8
# In a TIFF of 50 megapixels, tiles of 64 x 64; each costs a tenth of a millisecond.
_MAX_JPEGS = 1 << 14

# What OpenJPEG notes of a JPEG 2000 beside its samples.  A picture of 50 megapixels in code blocks
# of 64 x 64 takes 20 MB, of 16 x 16 340 MB.
_MAX_RECORD_BYTES = 1 << 29
# A packet takes a byte or more of the file, unless the last ones were left out.  A look for one
# takes a fifth of a microsecond or more, a code block two.
_MIN_PACKETS, _MAX_PACKETS = 1 << 20, 1 << 22
_MAX_BLOCKS = 1 << 22

# Read pixel by pixel in Python, most of a microsecond each.
_MAX_QOI_PX = 10_000_000

_MARKED_ROWS = 2
_NO_MARKER = b'\x11'
_JPEG_END = b'\xff\xd9'

_ARITHMETIC_FRAMES = frozenset((0xC9, 0xCA))
_UNREAD_FRAMES = {0xF7: 'JPEG-LS'} | dict.fromkeys(
    (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), 'hierarchical'
)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image whose header was read and found acceptable.

    Attributes:
      width, height: pixels as stored, before orientation.
      format: Pillow's name of the format.
      scale: 2, 4 or 8 for a JPEG that is decoded at a fraction of its size, otherwise 1.
      working_bytes: memory that opening and `render` take at most, estimated from the header.
    """

    image: PILImage.Image
    data: bytes
    width: int
    height: int
    format: str
    scale: int
    working_bytes: int


def open_image(data: bytes, resize: Resize, limits: PixelLimits) -> OpenedImage:
    """Reads the header of an encoded image.

    Args:
      data: the whole encoded file.
      resize: the target; decides how far a JPEG is reduced while decoding.
      limits: larger pictures are refused.

    Raises:
      ImageError: empty, not_an_image, unsupported_format, truncated, too_many_pixels or
        decode_error.
      MemoryError: memory may be all that was missing, see `_blame`.
    """
    if not data:
        raise ImageError(Reason.EMPTY, '0 bytes', 0)
    if not data.strip(b'\x00'):
        raise ImageError(Reason.NOT_AN_IMAGE, 'nothing but zero bytes', len(data))
    try:
        image, file_format, beside_bytes = _identify(data, limits)
    except ImageError as e:
        e.size_bytes = len(data)
        raise
    try:
        width, height = _stored_size(image)
        tile_px = _tile_px(image)
    except _DECODER_ERRORS as e:
        raise _blame(data, file_format, e, _opening_bytes(data, file_format)) from e

    is_single_pass = _check_size(image, width, height, file_format, data, limits)
    if tile_px > limits.max_px:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f'{tile_px} pixels in a tile of a TIFF, limit {limits.max_px}',
            len(data),
        )
    scale = 1
    kept_bytes = len(data)
    if isinstance(image, _Jpeg):
        wanted = _reduction(width, height, resize)
        image.draft('RGB', (width // wanted, height // wanted))
        scale = image.decoderconfig[0] if image.decoderconfig else 1
        if not image.scans.is_ended:
            # Without the zeros and the half of a marker behind it, and what its decoder left.
            kept_bytes += 3 * len(data)
        if not is_single_pass:
            # All coefficients, in 16 bit, until the last scan.
            kept_bytes += width * height * 2 * image.layers
    working_bytes = _working_bytes(image, file_format, tile_px) + beside_bytes + kept_bytes
    return OpenedImage(image, data, width, height, file_format, scale, working_bytes)


def render(opened: OpenedImage, resize: Resize) -> np.ndarray:
    """Decodes and resizes an opened image.

    The first frame of an animation, EXIF orientation applied, alpha over white.

    Returns:
      (size_px, size_px, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: truncated, unsupported_format or decode_error.
      MemoryError: memory may be all that was missing, see `_blame`.
    """
    try:
        image = _load(opened)
        image = _to_resizable(image, opened)
        orientation = _orientation(opened.image)
        # A JPEG reduced by 8 has ceil(width / 8) columns, of which the picture fills width / 8:
        # taking the last column for a whole one would shift every pixel.
        full = image.size if opened.scale == 1 else (opened.width, opened.height)
        left, top, right, bottom = _box(*full, orientation, resize)
        scale = opened.scale
        box = (left / scale, top / scale, right / scale, bottom / scale)
        size = (resize.size_px, resize.size_px)
        image = image.resize(size, _FILTERS[resize.filter], box=box)
        if image.mode != 'RGB':
            image = image.convert('RGB')
        if orientation in _TRANSPOSITIONS:
            image = image.transpose(_TRANSPOSITIONS[orientation])
        return np.asarray(image)
    except ImageError as e:
        e.size_bytes = len(opened.data)
        raise
    except _DECODER_ERRORS as e:
        raise _blame(opened.data, opened.format, e, opened.working_bytes) from e
    except SystemError as e:
        # Where OpenJPEG reads on, Pillow overlooks that there was no memory for it.
        if isinstance(e.__cause__, MemoryError):
            raise MemoryError(f'not enough memory to decode a {opened.format}') from e
        raise


def decode(data: bytes, resize: Resize, limits: PixelLimits = DEFAULT_LIMITS) -> np.ndarray:
    """`open_image` and `render` in one call: (size_px, size_px, 3) uint8 RGB.

    Raises:
      ImageError, MemoryError: as both do.
    """
    return render(open_image(data, resize, limits), resize)


def _identify(data: bytes, limits: PixelLimits) -> tuple[PILImage.Image, str, int]:
    """Opens the first plugin that takes the bytes: the image, the name of its format, and memory
    that its decoder takes beside what follows from the size of the image.

    Calls the plugins as `PIL.Image.open` does, without its check of the pixel count: that one is
    process-wide and lower than what a reduced JPEG may have.
    """
    prefix = data[:16]
    broken, cause = None, None
    for name in _FORMATS:
        _, accept = PILImage.OPEN[name]
        if accept is not None and accept(prefix) is not True:
            continue
        try:
            return _open(data, name, limits)
        except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as e:
            raise ImageError(
                Reason.TOO_MANY_PIXELS,
                f'a frame of a {name} over the limit of {limits.max_px} pixels',
                len(data),
            ) from e
        except _DECODER_ERRORS as e:
            if _lacks_memory(e, _opening_bytes(data, name)):
                raise MemoryError(f'not enough memory to open a {name}') from e
            is_bitmap = name == BmpImagePlugin.BmpImageFile.format and is_complete(data, name)
            if is_bitmap and (coding := bitmap_coding(data)):
                raise _unread(coding) from e
            if accept is not None and broken is None and _is_plausible(data, name):
                broken, cause = name, e
    if broken is None and not is_page(data):
        broken = _refused_name(data)
    if broken is not None:
        raise _decode_failure(data, broken, cause) from cause
    what = name_of(data)
    detail = f'{what}, not an image' if what else 'no known image format'
    raise ImageError(Reason.NOT_AN_IMAGE, detail, len(data))


def _open(data: bytes, name: str, limits: PixelLimits) -> tuple[PILImage.Image, str, int]:
    if name == PpmImagePlugin.PpmImageFile.format and data[1:2] in b'123456':
        _check_pixels(*netpbm_size(data), limits.max_px, name, data)
    useful = without_metadata(data, name)
    match name:
        case 'JPEG':
            # The registered factory would parse the index of an MPO, which no first picture needs.
            return _Jpeg(useful), name, 0
        case 'PNG':
            return _Png(useful), name, 0
        case 'TIFF':
            return _open_tiff(useful), name, 0
        case 'ICO':
            return _open_icon(io.BytesIO(useful), data, limits), name, 0
        case 'JPEG2000':
            return _open_jpeg2000(useful, name, limits)
        case 'PPM':
            return _opened(useful, name), name, len(useful)
        case 'QOI':
            image = _opened(useful, name)
            _check_pixels(*image.size, min(limits.max_px, _MAX_QOI_PX), name, data)
            return image, name, 0
        case 'WEBP':
            width, height = webp_canvas(useful)
            _check_pixels(width, height, limits.max_px, name, data)
            canvases_bytes = _CANVASES_BYTES_PER_PX * width * height
            return _opened(useful, name), name, 0 if is_decoded_here(useful) else canvases_bytes
        case 'AVIF' | 'HEIF':
            coded = isobmff.coded_pictures(useful, name)
            for width, height, _ in coded:
                _check_pixels(width, height, limits.max_px, f'picture inside an {name}', data)
            frame_bytes = max(each.width * each.height * each.bytes_per_px for each in coded)
            return _opened(useful, name), name, frame_bytes
    return _opened(useful, name), name, 0


def _opened(data: bytes, name: str) -> PILImage.Image:
    factory, _ = PILImage.OPEN[name]
    return factory(io.BytesIO(data), '')


def _refused_name(data: bytes) -> str | None:
    """The format of a file that is cut in its signature, None where there is no hint.

    Raises:
      ImageError: unsupported_format, for a format that is known and not read.
    """
    for offset, signature, name in _UNSUPPORTED_SIGNATURES:
        if data.startswith(signature, offset):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f'{name} is not supported', len(data))
    if b'<svg' in data[:1024].lower():
        raise ImageError(Reason.UNSUPPORTED_FORMAT, 'SVG is not supported', len(data))
    names = (name for magic, name in _SIGNATURES if magic.startswith(data[: len(magic)]))
    return next((name for name in names if _is_plausible(data, name)), None)


def _is_plausible(data: bytes, file_format: str) -> bool:
    """Whether a file with the two letters of a format is more than a text that begins with them."""
    match file_format:
        case 'PPM':
            return data[2:3].isspace()
        case 'BMP':
            return len(data) < 18 or int.from_bytes(data[14:18], 'little') in _DIB_HEADER_BYTES
        case _:
            return True


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG that knows whether its last row came from the file.

    Where the data of a scan end too early libjpeg invents what is missing, and tells nobody.  It
    does wait for more if there is no marker behind them, so the marker is kept back until the scan
    was seen to end by itself.
    """

    def __init__(self, data: bytes) -> None:
        self.scans = jpeg_scans(data)
        if self.scans.frame in _UNREAD_FRAMES:
            raise _unread(f'a {_UNREAD_FRAMES[self.scans.frame]} JPEG')
        if self.scans.frame and self.scans.sample_bits != 8:
            raise _unread(f'a JPEG with {self.scans.sample_bits}-bit samples')
        if self.scans.components == 2:
            raise _unread('a JPEG with two colour components')
        self._data = data
        super().__init__(io.BytesIO(data), '')

    def _read_dpi_from_exif(self) -> None:
        """Does nothing: to learn the dots an inch Pillow reads every EXIF entry."""

    def load(self) -> '_imaging.PixelAccess | None':
        if self.tile:
            if self.scans.places and not self.scans.is_whole:
                raise _missing('JPEG with missing scans')
            [tile] = self.tile
            self.load_prepare()
            decoder = PILImage._getdecoder(
                self.mode, tile.codec_name, tile.args, self.decoderconfig
            )
            try:
                decoder.setimage(self.im, tile.extents)
                self._decode(_Feed(decoder))
            finally:
                decoder.cleanup()
            self.tile = []
            self.fp, self._data = None, b''
        return super().load()

    def _decode(self, feed: '_Feed') -> None:
        data, scans = self._data, self.scans
        if not scans.is_ended:
            if data.endswith(bytes(64)):
                # A download that was given up leaves a file of its full length, zero at the end.
                data = data.rstrip(b'\x00')
            data = data.removesuffix(b'\xff')
        if scans.frame in _ARITHMETIC_FRAMES:
            # This decoder cannot wait; zeros at the end of a scan are left out on purpose, too.
            feed.finish(data + _JPEG_END)
            return
        taken = 0
        for start, end in scans.places:
            is_last = feed.offer(memoryview(data)[taken:end]) or feed.offer(_LOOK_AHEAD)
            if is_last:
                return
            # A single pass ends with its last row.
            if scans.is_single_pass or self._is_waiting(feed, data[start:end]):
                if scans.is_ended:
                    raise _missing('JPEG whose data ends before its last rows')
                raise OSError('neither the last rows nor an end marker')
            taken = end
        feed.finish(_JPEG_END)

    def _is_waiting(self, feed: '_Feed', scan: bytes) -> bool:
        """Whether blocks are missing of a scan that was offered with some bytes to look ahead.

        Behind a scan any number of bytes is passed over.  A block that is not whole takes none of
        a few; before a restart marker the decoder passes over them too, but not behind it.
        """
        restarts = sum(scan.count(bytes((0xFF, 0xD0 + i))) for i in range(8))
        restart = bytes((0xFF, 0xD0 + restarts % 8)) + _NO_MARKER
        for more in (*[_NO_MARKER] * 4, restart, *[_NO_MARKER] * 3):
            feed.offer(more)
            if feed.rest:
                return True
        return False


class _Feed:
    """A decoder, and what it has not taken of the bytes that it was offered."""

    def __init__(self, decoder: '_imaging.ImagingDecoder | ImageFile.PyDecoder') -> None:
        self._decoder = decoder
        self.rest = b''

    def offer(self, more: bytes | memoryview) -> bool:
        """Whether the decoder has ended, and takes nothing more."""
        offered = self.rest + more if self.rest else more
        taken, error = self._decoder.decode(offered)
        if error < 0:
            raise OSError(f'decoder error {error}')
        self.rest = bytes(offered[taken:]) if taken >= 0 else b''
        return taken < 0

    def finish(self, more: bytes) -> None:
        if not self.offer(more):
            raise OSError('the decoder expects more data')


class _Png(PngImagePlugin.PngImageFile):
    """A PNG that knows whether its last row came from the file.

    Where the compressed data end by themselves Pillow is content, however few rows they held.  So
    the last rows, those that come last of an interlaced picture too, are filled with noise before.
    """

    def __init__(self, data: bytes, seed: int = 1) -> None:
        self._data = data
        self._seed = seed
        super().__init__(io.BytesIO(data), '')

    def load_prepare(self) -> None:
        super().load_prepare()
        width, height = self.size
        self._box = (0, max(0, height - _MARKED_ROWS), width, height)
        size = (width, height - self._box[1])
        noise_bytes = len(PILImage.new(self.mode, size).tobytes())
        noise = random.Random(self._seed).randbytes(noise_bytes)
        self._mark = PILImage.frombytes(self.mode, size, noise)
        self.im.paste(self._mark.im, self._box)

    def check_rows(self) -> None:
        """Refuses a picture that has not all rows, once it is loaded."""
        found, mark = self.crop(self._box), self._mark
        rows = [(0, y, mark.width, y + 1) for y in range(mark.height)]
        if mark.height == _MARKED_ROWS and not any(
            found.crop(row).tobytes() == mark.crop(row).tobytes() for row in rows
        ):
            return
        # By chance, or because nothing was there: then other noise is another picture.
        again = type(self)(self._data, self._seed + 1)
        again.load()
        if again.crop(self._box).tobytes() != found.tobytes():
            raise _missing('PNG whose data ends before its last rows')


def _open_jpeg2000(data: bytes, name: str, limits: PixelLimits) -> tuple[PILImage.Image, str, int]:
    """Refuses what asks too much of its decoder.

    Ninety bytes may ask for gigabytes, and for minutes in which nothing else is heard.
    """
    if coding := jpeg2000.unread_coding(data):
        raise _unread(coding)
    size = jpeg2000.picture_size(data)
    _check_pixels(*size, limits.max_px, name, data)
    asked = jpeg2000.demand(data)
    if asked.record_bytes > _MAX_RECORD_BYTES:
        raise _unread(
            f'a JPEG 2000 whose tiles, precincts and code blocks take {asked.record_bytes} '
            f'bytes (limit {_MAX_RECORD_BYTES})'
        )
    for most, count, kind in (
        (min(max(len(data), _MIN_PACKETS), _MAX_PACKETS), asked.packets, 'packets'),
        (_MAX_BLOCKS, asked.blocks, 'code blocks'),
    ):
        if count > most:
            raise _undecodable(f'{count} {kind} in a JPEG 2000 of {len(data)} bytes, limit {most}')
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data), '')
    if image.size != size:
        raise _undecodable(
            f'a JPEG 2000 of {image.width} x {image.height} pixels whose codestream has '
            f'{size[0]} x {size[1]}'
        )
    return image, name, asked.sample_bytes + asked.record_bytes


def _open_tiff(data: bytes) -> PILImage.Image:
    if coding := unread_coding(data):
        raise _unread(coding)
    try:
        return TiffImagePlugin.TiffImageFile(io.BytesIO(data), '')
    except _DECODER_ERRORS as e:
        if coding := described_coding(data):
            raise _unread(coding) from e
        raise


def _open_icon(file: io.BytesIO, data: bytes, limits: PixelLimits) -> PILImage.Image:
    """The largest picture of an icon, not yet decoded if it is a PNG.

    The directory says at most 256 pixels; what it points to may say otherwise.  Pillow's own class
    decodes at once.
    """
    icon = IcoImagePlugin.IcoFile(file)
    best = max(range(len(icon.entry)), key=lambda i: (icon.entry[i].square, icon.entry[i].bpp))
    offset = icon.entry[best].offset
    if data.startswith(b'\x89PNG', offset):
        width, height = struct.unpack_from('>II', data, offset + 16)
        _check_pixels(width, height, limits.max_px, 'picture inside an ICO', data)
        return _Png(without_metadata(data[offset:], 'PNG'))
    header_bytes, width, height, _, bits = struct.unpack_from('<IiiHH', data, offset)
    if header_bytes not in _DIB_HEADER_BYTES:
        raise ValueError('neither PNG nor BMP')
    height //= 2  # the transparency mask is stored below
    _check_pixels(abs(width), abs(height), limits.max_px, 'picture inside an ICO', data)
    pixels_at = offset + header_bytes
    mask_at = pixels_at + 4 * abs(width * height)
    mask_bytes = -(-abs(width) // 32) * 4 * abs(height)
    has_mask = mask_at + mask_bytes <= offset + icon.entry[best].size
    if bits == 32 and has_mask and not any(data[pixels_at:mask_at][3::4]):
        bits = 24  # without alpha it is the mask that tells what is transparent
    # Not the depth that the directory claims, which often is 0.
    icon.entry[best] = icon.entry[best]._replace(bpp=bits)
    return icon.frame(best)


def _check_size(
    image: PILImage.Image,
    width: int,
    height: int,
    file_format: str,
    data: bytes,
    limits: PixelLimits,
) -> bool:
    """Refuses too many pixels or scans; whether it is a JPEG that is decoded row by row.

    In Pillow's sense a JPEG with a scan for each component is baseline too, but decoding it takes
    the memory of a progressive one.
    """
    if not isinstance(image, _Jpeg):
        _check_pixels(width, height, limits.max_px, file_format, data)
        return False
    scans = image.scans
    if scans.is_single_pass:
        limit_px = max(limits.max_px, limits.max_baseline_jpeg_px)
        _check_pixels(width, height, limit_px, 'baseline JPEG', data)
        return True
    _check_pixels(width, height, limits.max_px, 'JPEG with several scans', data)
    if len(scans.places) * width * height > _MAX_SCANNED_PX:
        raise ImageError(
            Reason.DECODE_ERROR,
            f'{len(scans.places)} scans of {width} x {height} pixels in a JPEG',
            len(data),
        )
    return False


def _check_pixels(width: int, height: int, limit_px: int, kind: str, data: bytes) -> None:
    if width * height > limit_px:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f'{width} x {height} = {width * height} pixels in a {kind}, limit {limit_px}',
            len(data),
        )


def _stored_size(image: PILImage.Image) -> tuple[int, int]:
    width, height = image.size
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return width, height
    # Pillow already swaps the sides of a TIFF that lies on its side.
    if image.tag_v2.get(_ORIENTATION_TAG) in (5, 6, 7, 8):
        return height, width
    return width, height


def _reduction(width: int, height: int, resize: Resize) -> int:
    """How far a JPEG may be reduced while it is decoded: by 8, 4, 2 or 1."""
    needed = resize.short_side_px or resize.size_px
    return next(
        (scale for scale, margin in _REDUCTIONS if min(width, height) >= scale * margin * needed),
        1,
    )


def _tile_px(image: PILImage.Image) -> int:
    """Pixels in a tile of a TIFF, which may be larger than the picture; otherwise 0."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    return int(image.tag_v2.get(_TILE_WIDTH_TAG, 0)) * int(image.tag_v2.get(_TILE_LENGTH_TAG, 0))


def _working_bytes(image: PILImage.Image, file_format: str, tile_px: int) -> int:
    """Peak of the decoder, the decoded picture and its conversion, from measurements."""
    width, height = image.size
    if image.mode in ('L', 'RGB'):
        copies = 1
    elif image.mode == 'I':
        copies = 4
    else:
        copies = 3 if image.mode.startswith('P') else 2
    decoder_bytes = _DECODER_BYTES_PER_PX.get(file_format, 0)
    stored_bytes = 4
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # All of a strip or tile, as it is stored.
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        samples = int(image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        stored_bytes = max(stored_bytes, max(sum(bits), bits[0] * samples) // 8)
        decoder_bytes = max(decoder_bytes, stored_bytes)
    per_px = 4 * copies + decoder_bytes
    return width * height * per_px + stored_bytes * tile_px


def _box(
    width: int, height: int, orientation: int, resize: Resize
) -> tuple[float, float, float, float]:
    """The part of a stored picture that becomes the square.

    One resize of this part gives the pixels that turning the picture upright, scaling it to whole
    pixels and cropping at a whole pixel would give: what people compare with.
    """
    if resize.short_side_px is None:
        return (0.0, 0.0, width, height)
    is_turned, is_right_to_left, is_bottom_up = _SEEN_UPRIGHT[orientation]
    upright = (height, width) if is_turned else (width, height)
    edges = []
    for side in upright:
        scaled = round(side * resize.short_side_px / min(upright))
        start = (scaled - resize.size_px) // 2
        edges.append((start * side / scaled, min(side, (start + resize.size_px) * side / scaled)))
    (left, right), (top, bottom) = edges[::-1] if is_turned else edges
    if is_right_to_left:
        left, right = width - right, width - left
    if is_bottom_up:
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom)


def _load(opened: OpenedImage) -> PILImage.Image:
    """Decodes; refuses what would be labelled with pixels that the file does not have."""
    image = opened.image
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _load_tiff(image, opened.data)
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and (
        missing := jpeg2000.missing_tiles(opened.data)
    ):
        raise _missing(f'JPEG 2000: {missing}')
    if isinstance(image, BmpImagePlugin.BmpImageFile) and image.tile:
        if image.tile[0].codec_name == 'bmp_rle':
            return _run_length_picture(image, opened.data)
        if image.mode == 'L' and opened.data[28] < 8:
            # A palette of the indices themselves; Pillow takes them for bytes.
            raise _unread(f'a BMP with {opened.data[28]}-bit greys')
    if isinstance(image, QoiImagePlugin.QoiImageFile) and image.tile:
        pixels = qoi_pixels(opened.data[image.tile[0].offset :], image.width * image.height)
        return _of_rgba(pixels, image)
    if isinstance(image, WebPImagePlugin.WebPImageFile) and is_decoded_here(opened.data):
        return _of_rgba(still_pixels(opened.data, *image.size), image)
    frame = image.tile[0].extents if isinstance(image, GifImagePlugin.GifImageFile) else None
    image.load()
    if isinstance(image, _Png):
        image.check_rows()
    if frame and frame != (0, 0, *image.size):
        # Browsers show nothing around a first frame that is smaller than its canvas.
        canvas = PILImage.new('RGB', image.size, 'white')
        canvas.paste(_to_resizable(image.crop(frame), opened), frame)
        return canvas
    return image


def _of_rgba(pixels: np.ndarray, image: PILImage.Image) -> PILImage.Image:
    picture = PILImage.frombuffer('RGBA', image.size, pixels, 'raw', 'RGBA', 0, 1)
    return picture if image.mode == 'RGBA' else picture.convert('RGB')


def _run_length_picture(image: BmpImagePlugin.BmpImageFile, data: bytes) -> PILImage.Image:
    """A run-length coded bitmap; white where the file leaves pixels out."""
    [tile] = image.tile
    assert isinstance(tile.args, tuple)
    _, is_rle4, direction = tile.args
    rows = run_lengths(data[tile.offset :], *image.size, is_rle4)
    if rows is None:
        raise _missing('BMP whose data ends before its last rows')
    indices, is_told = (each[::direction] for each in rows)
    picture = PILImage.fromarray(indices * 255 if image.mode == '1' else indices)
    if image.palette:
        raw_mode, colours = image.palette.getdata()
        picture.putpalette(colours, raw_mode)
    if is_told.all():
        return picture
    canvas = PILImage.new('RGB', image.size, 'white')
    canvas.paste(picture.convert('RGB'), mask=PILImage.fromarray(is_told))
    return canvas


def _load_tiff(image: PILImage.Image, data: bytes) -> None:
    """Decodes a TIFF of which every strip or tile is there as a whole."""
    if missing := missing_segments(data):
        raise _missing(f'TIFF: {missing}')
    for i, (width, height, encoded) in enumerate(jpegs(data)):
        if i == _MAX_JPEGS:
            raise _unread(f'a TIFF with more than {_MAX_JPEGS} JPEGs')
        jpeg = _Jpeg(encoded)
        if jpeg.width < width or jpeg.height < height:
            raise _missing(
                f'TIFF: a JPEG of {jpeg.width} x {jpeg.height} pixels where {width} x {height} '
                'are needed'
            )
        # At an eighth of its size it costs little.
        jpeg.draft('RGB', (max(width // 8, 1), max(height // 8, 1)))
        jpeg.load()
    if grey := colours_as_grey(data):
        TiffImagePlugin.TiffImageFile(io.BytesIO(grey), '').load()
    image.load()
    if len({_fax_digest(fax) for fax in faxes(data)}) > 1:
        raise _missing('TIFF: fax data that ends before the last row')


def _fax_digest(fax: Fax) -> bytes:
    """Of its own rows."""
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(fax.data), '')
    digest = hashlib.sha256()
    for first, end in fax.rows:
        digest.update(image.crop((0, first, image.width, end)).tobytes())
    return digest.digest()


def _to_resizable(image: PILImage.Image, opened: OpenedImage) -> PILImage.Image:
    """Converts to L or RGB, the modes that resize well; transparent pictures lie on white.

    Before the resize, because bicubic weights overshoot: resizing colour and alpha apart differs
    along the edges of cut-out pictures, and needs as much memory.
    """
    mode = image.mode
    transparent = image.info.get('transparency')
    if mode.startswith('I'):
        samples = np.asarray(image)
        bits = 16
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            bits = max(image.tag_v2[TiffImagePlugin.BITSPERSAMPLE])
            if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0:
                samples = 65535 - samples
        high = (np.clip(samples, 0, 65535) >> bits - 8).astype(np.uint8)
        if isinstance(transparent, int):
            high[samples == transparent] = 255
        return PILImage.fromarray(high)
    if mode == 'F':
        raise ImageError(
            Reason.UNSUPPORTED_FORMAT,
            'floating-point samples have no defined range',
            len(opened.data),
        )
    if mode == 'RGB' and transparent and image.format == 'PNG' and opened.data[24] == 16:
        raise _unread('a 16-bit colour PNG with a transparent colour')
    if mode == 'L' and isinstance(transparent, int) and image.format == 'PNG':
        # Pillow spreads samples of 2 and 4 bits over 0 to 255, but not the transparent one.
        image.info['transparency'] = transparent * 255 // ((1 << opened.data[24]) - 1)
    if image.has_transparency_data:
        colours = image if mode in ('LA', 'RGBA') else image.convert('RGBA')
        background = PILImage.new('RGB', image.size, 'white')
        background.paste(colours, mask=colours)
        return background
    if mode == '1':
        return image.convert('L')
    return image if mode in ('L', 'RGB') else image.convert('RGB')


def _orientation(image: PILImage.Image) -> int:
    """Orientation, 1 where it is absent or damaged: metadata alone spoils no picture."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow has turned the pixels of a TIFF itself.
        return 1
    block = image.info.get('exif')
    return exif_orientation(block) if isinstance(block, bytes) else 1


def _unread(coding: str) -> ImageError:
    """For a file that may be sound; whoever knows the size of the file adds it."""
    return ImageError(Reason.UNSUPPORTED_FORMAT, f'{coding} is not supported: convert it')


def _undecodable(what: str) -> ImageError:
    """For what no sound file says; whoever knows the size of the file adds it."""
    return ImageError(Reason.DECODE_ERROR, what)


def _missing(what: str) -> ImageError:
    """For pixels that are not in the file; whoever knows the size of the file adds it."""
    return ImageError(Reason.TRUNCATED, what)


def _blame(
    data: bytes, file_format: str, cause: Exception, needed_bytes: int
) -> ImageError | MemoryError:
    """The picture, unless memory may have been all that was missing.

    Most decoders say of both that they failed, and no more.  So where there is no room for what it
    takes even now, after it has failed, the picture is not to blame: whoever asked may try again
    when nothing else runs.  What other threads gave back meanwhile is not known.

    Args:
      data, file_format: the picture.
      cause: what its decoder raised.
      needed_bytes: what it takes.

    Returns:
      An ImageError or a MemoryError, neither with a word of the cause.
    """
    if _lacks_memory(cause, needed_bytes):
        return MemoryError(
            f'not enough memory: {needed_bytes} bytes are needed to decode a {file_format}'
        )
    return _decode_failure(data, file_format, cause)


def _lacks_memory(cause: Exception, needed_bytes: int) -> bool:
    if _MEMORY.search(str(cause)):
        # It says so of limits of its own, too; but what it takes is known within a third.
        needed_bytes *= 2
    try:
        # Not touched: it costs address space for a moment.
        mmap.mmap(-1, max(needed_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return True
    return False


def _opening_bytes(data: bytes, file_format: str) -> int:
    """Memory that a plugin takes before the size of its picture is known."""
    canvas_px = 0
    if file_format == WebPImagePlugin.WebPImageFile.format:
        with contextlib.suppress(ValueError, struct.error):
            width, height = webp_canvas(data)
            canvas_px = width * height
    per_px = _CANVASES_BYTES_PER_PX + _DECODER_BYTES_PER_PX['WEBP']
    return 2 * len(data) + per_px * canvas_px + _LIBRARY_BYTES


def _decode_failure(data: bytes, file_format: str, cause: BaseException | None) -> ImageError:
    # Nothing of the text is passed on.
    if file_format == TgaImagePlugin.TgaImageFile.format and 'overrun' in str(cause):
        error = _unread('a TGA whose runs cross the end of a row')
        error.size_bytes = len(data)
        return error
    if not is_complete(data, file_format) or 'truncated' in str(cause).lower():
        return ImageError(
            Reason.TRUNCATED, f'{file_format} ends early, at {len(data)} bytes', len(data)
        )
    return ImageError(Reason.DECODE_ERROR, f'{file_format} cannot be decoded', len(data))
