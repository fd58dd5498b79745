"""Encoded bytes to the square of RGB samples a model takes.

`open_image` reads the header and refuses what is not a picture, is too large or could run a
program; `render` decodes and resizes.  Between the two a caller reserves `working_bytes`.  Only
Pillow's plugins named here are ever tried, and none of Pillow's process-wide limits is changed.
"""

import dataclasses
import io
import math
import struct
import zlib

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
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

from transforms.errors import ImageError
from transforms.model.card import Resize
from transforms.rows import Reason

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()
    pillow_heif.options.DECODE_THREADS = 1

# One image a thread: the pool above is what uses the cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

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
    *(['HEIF'] if pillow_heif else []),
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

_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# (scale, margin): a JPEG is decoded at 1/scale where that leaves its short side at least margin
# times the size needed.  Averages of 4 or 8 pixels alias more than those of 2, and cost little
# less: at these margins a reduced decode stays within about 44 dB of a full one and mostly above
# 48 dB; tests/benchmarks measures both.
_REDUCTIONS = ((8, 2.0), (4, 2.0), (2, 1.5))

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
      working_bytes: memory that `render` takes at most, estimated from the header.
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
    image = _identify(data)
    file_format = image.format or ''
    try:
        if isinstance(image, IcoImagePlugin.IcoImageFile):
            _check_icon(data, limits)
            image = image.ico.getimage(image.size)
        width, height = _stored_size(image)
    except _DECODER_ERRORS as e:
        raise _decode_failure(data, file_format) from e

    is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    is_baseline = is_jpeg and not image.info.get('progressive')
    limit_px = limits.max_px
    if is_baseline:
        limit_px = max(limit_px, limits.max_baseline_jpeg_px)
    if width * height > limit_px:
        kind = 'baseline JPEG' if is_baseline else file_format
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f'{width} x {height} = {width * height} pixels in a {kind}, limit {limit_px}',
            len(data),
        )

    scale = 1
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        wanted = _reduction(width, height, resize)
        image.draft('RGB', (width // wanted, height // wanted))
        scale = image.decoderconfig[0] if image.decoderconfig else 1
    samples = math.ceil(width / scale) * math.ceil(height / scale) * 4
    # Progressive scans keep every coefficient (16 bit, up to 3 components) until the last one.
    coefficients = width * height * 6 if is_jpeg and not is_baseline else 0
    copies = 1 if image.mode in ('L', 'RGB', 'RGBA') else 2
    working_bytes = samples * copies + coefficients
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
        # A JPEG reduced by 8 has ceil(width / 8) columns, of which the picture fills width / 8:
        # taking the last column for a whole one would shift every pixel.
        full = image.size
        if opened.scale > 1:
            full = (opened.width / opened.scale, opened.height / opened.scale)
        box = _box(*full, resize)
        size = (resize.size_px, resize.size_px)
        image = image.resize(size, _FILTERS[resize.filter], box=box)
        if image.mode == 'RGBA':
            background = PILImage.new('RGBA', size, 'white')
            image = PILImage.alpha_composite(background, image)
        if image.mode != 'RGB':
            image = image.convert('RGB')
        transposition = _TRANSPOSITIONS.get(_orientation(opened.image))
        if transposition is not None:
            image = image.transpose(transposition)
        return np.asarray(image)
    except _DECODER_ERRORS as e:
        raise _decode_failure(opened.data, opened.format) from e


DEFAULT_LIMITS = PixelLimits()


def decode(data: bytes, resize: Resize, limits: PixelLimits = DEFAULT_LIMITS) -> np.ndarray:
    """`open_image` and `render` in one call: (size_px, size_px, 3) uint8 RGB.

    Raises:
      ImageError: as both do.
    """
    return render(open_image(data, resize, limits), resize)


def _identify(data: bytes) -> PILImage.Image:
    """Opens the first plugin that takes the bytes.

    Calls the registered factories as `PIL.Image.open` does, without its check of the pixel count:
    that one is process-wide and lower than what a reduced JPEG may have.
    """
    prefix = data[:16]
    broken = None
    for name in _FORMATS:
        factory, accept = PILImage.OPEN[name]
        if accept is not None and accept(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), '')
        except _DECODER_ERRORS:
            if accept is not None:
                broken = broken or name
    if broken is None:
        for offset, signature, name in _UNSUPPORTED_SIGNATURES:
            if data.startswith(signature, offset):
                raise ImageError(Reason.UNSUPPORTED_FORMAT, f'{name} is not read', len(data))
        if b'<svg' in data[:1024].lower():
            raise ImageError(Reason.UNSUPPORTED_FORMAT, 'SVG is not read', len(data))
        # Cut inside the signature itself, or right behind it.
        starts = (n for magic, n in _SIGNATURES if magic.startswith(data[: len(magic)]))
        broken = next(starts, None)
    if broken is not None:
        raise _decode_failure(data, broken)
    raise ImageError(Reason.NOT_AN_IMAGE, 'no known image format', len(data))


def _check_icon(data: bytes, limits: PixelLimits) -> None:
    """An icon's directory says at most 256 pixels; the pictures it holds may say otherwise."""
    (count,) = struct.unpack_from('<H', data, 4)
    for i in range(count):
        (offset,) = struct.unpack_from('<I', data, 6 + 16 * i + 12)
        if data[offset : offset + 4] == b'\x89PNG':
            width, height = struct.unpack_from('>II', data, offset + 16)
        else:
            width, height = struct.unpack_from('<ii', data, offset + 4)
        if abs(width * height) > limits.max_px:
            raise ImageError(
                Reason.TOO_MANY_PIXELS,
                f'{abs(width)} x {abs(height)} pixels inside an ICO, limit {limits.max_px}',
                len(data),
            )


def _stored_size(image: PILImage.Image) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
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


def _box(width: float, height: float, resize: Resize) -> tuple[float, float, float, float]:
    """The part of a picture of width x height pixels that becomes the square."""
    if resize.short_side_px is None:
        return (0.0, 0.0, width, height)
    side = min(width, height) * resize.size_px / resize.short_side_px
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _load(opened: OpenedImage) -> PILImage.Image:
    """Decodes, also a JPEG that lacks nothing but its end marker."""
    image = opened.image
    try:
        image.load()
        return image
    except OSError:
        if not isinstance(image, JpegImagePlugin.JpegImageFile) or _ends(opened.data, 'JPEG'):
            raise
        plain = _reload(opened.data + b'\xff\xd9', opened)
        filled = _reload(opened.data + _FILLER + b'\xff\xd9', opened)
        if plain.tobytes() != filled.tobytes():
            raise
        return plain


def _reload(data: bytes, opened: OpenedImage) -> PILImage.Image:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    image.draft('RGB', (opened.width // opened.scale, opened.height // opened.scale))
    image.load()
    return image


def _to_resizable(image: PILImage.Image, opened: OpenedImage) -> PILImage.Image:
    """Converts to L, RGB or RGBA, the modes that resize well, where it is not one of them.

    Alpha stays until after the resize, which weights colours by it: the same result as laying the
    full picture over white, without a second full-size copy.
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
    if image.has_transparency_data:
        return image if mode == 'RGBA' else image.convert('RGBA')
    if mode == '1':
        return image.convert('L')
    return image if mode in ('L', 'RGB') else image.convert('RGB')


def _orientation(image: PILImage.Image) -> int:
    """EXIF orientation, 1 where it is absent or damaged: metadata alone spoils no picture."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _decode_failure(data: bytes, file_format: str) -> ImageError:
    if not _ends(data, file_format):
        return ImageError(
            Reason.TRUNCATED, f'{file_format} ends early, at {len(data)} bytes', len(data)
        )
    return ImageError(Reason.DECODE_ERROR, f'{file_format} cannot be decoded', len(data))


def _ends(data: bytes, file_format: str) -> bool:
    """Whether the end that a format announces is there; True where it announces none."""
    match file_format:
        case 'JPEG' | 'MPO':
            return b'\xff\xd9' in data[-4096:]
        case 'PNG':
            return b'IEND' in data[-4096:]
        case 'GIF':
            return data[-16:].rstrip(b'\x00').endswith(b';')
        case 'WEBP':
            return len(data) >= 12 and len(data) >= struct.unpack_from('<I', data, 4)[0] + 8
        case 'BMP':
            return len(data) >= 14 and len(data) >= struct.unpack_from('<I', data, 2)[0]
        case 'QOI':
            return data.endswith(b'\x00\x00\x00\x00\x00\x00\x00\x01')
        case _:
            return len(data) >= 64
