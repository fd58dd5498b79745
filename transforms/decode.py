"""Encoded bytes to the square of RGB samples a model takes.

`open_image` reads the header and refuses what is not a picture, is too large or could run a
program; `render` decodes and resizes.  Between the two a caller reserves `working_bytes`.  Only
Pillow's plugins named here are ever tried, and none of Pillow's process-wide limits is changed.
"""

import contextlib
import ctypes
import dataclasses
import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    ImageChops,
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

from transforms.containers import exif_orientation, is_complete, jpeg_scans, without_metadata
from transforms.errors import ImageError
from transforms.model.card import Resize
from transforms.rows import Reason

try:
    import pillow_heif
except ImportError:
    _HEIF: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener()
    pillow_heif.options.DECODE_THREADS = 1
    _HEIF = ('HEIF',)

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

IMAGE_SUFFIXES = frozenset(
    '.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs .jp2 .j2k '
    '.jpc .jpf .jpx .ico .ppm .pgm .pbm .pnm .qoi .tga .icb .vda .vst .heic .heif .hif'.split()
)
"""Suffixes (lower case) that a folder listing takes for images."""

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

# Formats whose end `is_complete` knows; of the others Pillow alone can say that data is missing.
_KNOWN_ENDS = frozenset(('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'QOI'))

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

# What decoders hold beside Pillow's picture; WebP for example two canvases and a copy.
_DECODER_BYTES_PER_PX = {'WEBP': 12, 'AVIF': 8, 'HEIF': 8, 'JPEG2000': 24, 'TIFF': 4, 'QOI': 4}

# (scale, margin): a JPEG is decoded at 1/scale where that leaves its short side at least margin
# times the size needed.  Averages of 4 or 8 pixels alias more than those of 2, and cost little
# less: at these margins a reduced decode stays within about 44 dB of a full one and mostly above
# 48 dB; tests/benchmarks measures both.
_REDUCTIONS = ((8, 2.0), (4, 2.0), (2, 1.5))

# A scan costs a visit to every block however few bytes it has.  Encoders write about ten scans.
_MAX_SCANNED_PX = 5_000_000_000

# Entropy-coded filler without a marker: pixels it would change were missing from the file.
_FILLER = bytes(range(0x11, 0xEF, 3)) * 8


@dataclasses.dataclass(frozen=True)
class PixelLimits:
    """The most pixels an image may claim in its header.

    A baseline JPEG is decoded at a reduced size, so that it costs little memory however large.
    """

    max_px: int = 50_000_000
    max_baseline_jpeg_px: int = 200_000_000


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
      resize: what it is opened for; decides how far a JPEG is reduced.
      limits: refuse larger pictures.

    Raises:
      ImageError: empty, not_an_image, unsupported_format, truncated, too_many_pixels or
        decode_error.
    """
    if not data:
        raise ImageError(Reason.EMPTY, '0 bytes', 0)
    if not data.strip(b'\x00'):
        raise ImageError(Reason.NOT_AN_IMAGE, 'nothing but zero bytes', len(data))
    image, file_format = _identify(data, limits)
    try:
        width, height = _stored_size(image)
        tile_px = _tile_px(image)
    except _DECODER_ERRORS as e:
        raise _decode_failure(data, file_format, e) from e

    is_single_pass = _check_size(image, width, height, file_format, data, limits)
    if tile_px > limits.max_px:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f'{tile_px} pixels in a tile of a TIFF, limit {limits.max_px}',
            len(data),
        )
    scale = 1
    kept_bytes = len(data)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        wanted = _reduction(width, height, resize)
        image.draft('RGB', (width // wanted, height // wanted))
        scale = image.decoderconfig[0] if image.decoderconfig else 1
        if not is_single_pass:
            # All coefficients, in 16 bit, until the last scan.
            kept_bytes += width * height * 2 * image.layers
    working_bytes = _working_bytes(image, file_format, tile_px) + kept_bytes
    return OpenedImage(image, data, width, height, file_format, scale, working_bytes)


def render(opened: OpenedImage, resize: Resize) -> np.ndarray:
    """Decodes and resizes an opened image.

    The first frame of an animation, EXIF orientation applied, alpha over white.

    Returns:
      (size_px, size_px, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: truncated, unsupported_format or decode_error.
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
    except _DECODER_ERRORS as e:
        raise _decode_failure(opened.data, opened.format, e) from e


DEFAULT_LIMITS = PixelLimits()


def decode(data: bytes, resize: Resize, limits: PixelLimits = DEFAULT_LIMITS) -> np.ndarray:
    """`open_image` and `render` in one call: (size_px, size_px, 3) uint8 RGB.

    Raises:
      ImageError: as both do.
    """
    return render(open_image(data, resize, limits), resize)


def _identify(data: bytes, limits: PixelLimits) -> tuple[PILImage.Image, str]:
    """Opens the first plugin that takes the bytes; the image and the name of its format.

    Calls the plugins as `PIL.Image.open` does, without its check of the pixel count: that one is
    process-wide and lower than what a reduced JPEG may have.
    """
    prefix = data[:16]
    broken, cause = None, None
    for name in _FORMATS:
        factory, accept = PILImage.OPEN[name]
        if accept is not None and accept(prefix) is not True:
            continue
        try:
            useful = io.BytesIO(without_metadata(data, name))
            if name == JpegImagePlugin.JpegImageFile.format:
                # The registered factory would parse the index of an MPO, which no first picture
                # needs.
                return _Jpeg(useful, ''), name
            if name == IcoImagePlugin.IcoImageFile.format:
                return _open_icon(useful, data, limits), name
            return factory(useful, ''), name
        except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as e:
            raise ImageError(
                Reason.TOO_MANY_PIXELS,
                f'frame of a {name} over the limit of {limits.max_px} pixels',
                len(data),
            ) from e
        except _DECODER_ERRORS as e:
            if accept is not None and broken is None and _is_plausible(data, name):
                broken, cause = name, e
    if broken is None:
        broken = _refused_name(data)
    if broken is not None:
        raise _decode_failure(data, broken, cause) from cause
    raise ImageError(Reason.NOT_AN_IMAGE, 'no known image format', len(data))


def _refused_name(data: bytes) -> str | None:
    """The format of a file that is cut in its signature, None where there is no hint.

    Raises:
      ImageError: unsupported_format, for a format that is known and not read.
    """
    for offset, signature, name in _UNSUPPORTED_SIGNATURES:
        if data.startswith(signature, offset):
            raise ImageError(Reason.UNSUPPORTED_FORMAT, f'{name} is not read', len(data))
    if b'<svg' in data[:1024].lower():
        raise ImageError(Reason.UNSUPPORTED_FORMAT, 'SVG is not read', len(data))
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
    def _read_dpi_from_exif(self) -> None:
        """Does nothing: to learn the dots an inch Pillow reads every EXIF entry."""


def _open_icon(file: io.BytesIO, data: bytes, limits: PixelLimits) -> PILImage.Image:
    """The largest picture of an icon, not yet decoded if it is a PNG.

    The directory says at most 256 pixels; what it points to may say otherwise.  Pillow's own class
    decodes at once.
    """
    icon = IcoImagePlugin.IcoFile(file)
    offset = icon.entry[0].offset
    if data.startswith(b'\x89PNG', offset):
        width, height = struct.unpack_from('>II', data, offset + 16)
    else:
        header_bytes, width, height = struct.unpack_from('<Iii', data, offset)
        if header_bytes not in _DIB_HEADER_BYTES:
            raise ValueError('neither PNG nor BMP')
        height //= 2  # the transparency mask is stored below
    _check_pixels(abs(width), abs(height), limits.max_px, 'picture inside an ICO', data)
    return icon.frame(0)


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
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        _check_pixels(width, height, limits.max_px, file_format, data)
        return False
    scans = jpeg_scans(data)
    if scans.is_single_pass:
        limit_px = max(limits.max_px, limits.max_baseline_jpeg_px)
        _check_pixels(width, height, limit_px, 'baseline JPEG', data)
        return True
    _check_pixels(width, height, limits.max_px, 'JPEG of several scans', data)
    if scans.count * width * height > _MAX_SCANNED_PX:
        raise ImageError(
            Reason.DECODE_ERROR,
            f'{scans.count} scans of {width} x {height} pixels in a JPEG',
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
    per_px = 4 * copies + _DECODER_BYTES_PER_PX.get(file_format, 0)
    return width * height * per_px + 4 * tile_px


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
    """Decodes, also a JPEG that lacks nothing but its end marker."""
    image = opened.image
    try:
        image.load()
        return image
    except OSError:
        if not isinstance(image, _Jpeg) or is_complete(opened.data, opened.format):
            raise
        scans = without_metadata(opened.data, opened.format).removesuffix(b'\xff')
        plain = _reload(scans + b'\xff\xd9', opened)
        filled = _reload(scans + _FILLER + b'\xff\xd9', opened)
        if ImageChops.difference(plain, filled).getbbox() is not None:
            raise
        return plain


def _reload(data: bytes, opened: OpenedImage) -> PILImage.Image:
    image = _Jpeg(io.BytesIO(data), '')
    image.draft('RGB', (opened.width // opened.scale, opened.height // opened.scale))
    image.load()
    return image


def _to_resizable(image: PILImage.Image, opened: OpenedImage) -> PILImage.Image:
    """Converts to L or RGB, the modes that resize well; transparent pictures lie on white.

    Before the resize, because bicubic weights overshoot: resizing colour and alpha apart differs
    along the edges of cut-out pictures, and needs as much memory.
    """
    mode = image.mode
    transparent = image.info.get('transparency')
    if mode.startswith('I'):
        if mode == 'I' and image.format == 'TIFF':
            raise ImageError(
                Reason.UNSUPPORTED_FORMAT,
                '32-bit integer samples have no defined range',
                len(opened.data),
            )
        samples = np.asarray(image)
        high = (np.clip(samples, 0, 65535) >> 8).astype(np.uint8)
        if isinstance(transparent, int):
            high[samples == transparent] = 255
        return PILImage.fromarray(high)
    if mode == 'F':
        raise ImageError(
            Reason.UNSUPPORTED_FORMAT,
            'floating-point samples have no defined range',
            len(opened.data),
        )
    if mode == 'LAB':
        raise ImageError(Reason.UNSUPPORTED_FORMAT, 'CIELAB samples are not read', len(opened.data))
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


def _decode_failure(data: bytes, file_format: str, cause: BaseException | None) -> ImageError:
    is_cut = not is_complete(data, file_format)
    if file_format not in _KNOWN_ENDS:
        # Nothing of the text is passed on.
        is_cut = is_cut or 'truncated' in str(cause).lower()
    if is_cut:
        return ImageError(
            Reason.TRUNCATED, f'{file_format} ends early, at {len(data)} bytes', len(data)
        )
    return ImageError(Reason.DECODE_ERROR, f'{file_format} cannot be decoded', len(data))
