"""What stands in the place of an image is named."""

import pytest

from transforms.core.errors import ImageError
from transforms.core.limits import DEFAULT_LIMITS
from transforms.images import decode
from transforms.images.resize import Resize

LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n'
TAR = b'a.jpg'.ljust(257, b'\0') + b'ustar\x0000'
S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'


@pytest.mark.parametrize(
    ('data', 'name'),
    [
        (b'<!DOCTYPE html><title>Log in</title>', 'an HTML page'),
        (b'\xef\xbb\xbf\n <HTML lang="en">', 'an HTML page'),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "x">', 'an HTML page'),
        (b'<html><body><svg></svg></body></html>', 'an HTML page'),
        (S3_ERROR, 'an XML error message'),
        (b'<Error><Code>NoSuchKey</Code></Error>', 'an XML error message'),
        (b'<?xml version="1.0"?><rss></rss>', 'XML'),
        (b'{"error": {"code": 404}}', 'JSON'),
        (b' [1, 2]\n', 'JSON'),
        (LFS, 'a Git LFS pointer (run git lfs pull)'),
        (b'\0\5\x16\7\0\2\0\0Mac OS X', 'an AppleDouble file, in which a Mac keeps metadata'),
        (b'\0\5\x16\0\0\2\0\0', 'an AppleSingle file, in which a Mac packs a file'),
        (TAR, 'a tar archive (as --input, the images inside it are labelled)'),
        (b'{"a": ', ''),
        (b'[' * 100_000, ''),
        (b'a text', ''),
    ],
)
def test_its_name_is_in_the_detail(data, name):
    with pytest.raises(ImageError) as caught:
        decode.open_image(data, Resize(224, 256, 'bicubic'), DEFAULT_LIMITS)
    detail = f'{name}, not an image' if name else 'no known image format'
    assert str(caught.value) == f'not_an_image: {detail}'


@pytest.mark.parametrize('data', [b'<svg>', b'<?xml version="1.0"?><svg></svg>'])
def test_a_drawing_is_still_one(data):
    with pytest.raises(ImageError, match='unsupported_format: SVG is not supported'):
        decode.open_image(data, Resize(224, 256, 'bicubic'), DEFAULT_LIMITS)
