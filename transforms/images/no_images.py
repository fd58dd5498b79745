"""Names what is found instead of an image after a failed copy or download."""

import json

_HTML = (b'<!doctype html', b'<html', b'<head', b'<body')
_XML = b'<?xml'
_MARKS = (
    (
        b'version https://git-lfs.github.com/spec/',
        'a Git LFS pointer (run git lfs pull)',
    ),
    (b'\x00\x05\x16\x07', 'an AppleDouble file, in which a Mac keeps metadata'),
    (b'\x00\x05\x16\x00', 'an AppleSingle file, in which a Mac packs a file'),
)
_TAR, _TAR_AT = b'ustar', 257
_LOOKED_AT_BYTES = 1024
_JSON_BYTES = 1 << 20


def is_page(data: bytes) -> bool:
    """Whether it is HTML, which may mention pictures."""
    begin = _text(data)
    if begin.startswith(_XML):
        return any(mark in begin for mark in _HTML[:2])
    return begin.startswith(_HTML)


def name_of(data: bytes) -> str:
    """What it is instead, for people; '' if it is nothing known."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if data.startswith(_TAR, _TAR_AT):
        return 'a tar archive (as --input, the images inside it are labelled)'
    begin = _text(data)
    if is_page(data):
        return 'an HTML page'
    if begin.startswith((_XML, b'<error>')):
        return 'an XML error message' if b'<error' in begin else 'XML'
    return 'JSON' if _is_json(data) else ''


def _text(data: bytes) -> bytes:
    """Its beginning without what may stand before it, in lower case."""
    return data[:_LOOKED_AT_BYTES].removeprefix(b'\xef\xbb\xbf').lstrip().lower()


def _is_json(data: bytes) -> bool:
    if not data.strip().startswith((b'{', b'[')) or len(data) > _JSON_BYTES:
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
