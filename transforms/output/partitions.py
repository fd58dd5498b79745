"""Folder names of partitions, as Hive writes them."""

import re
import unicodedata
import urllib.parse
from collections.abc import Sequence

from transforms.core.errors import ImageError
from transforms.core.reasons import Reason

DEFAULT_PARTITION = '__HIVE_DEFAULT_PARTITION__'
"""What stands for null and for the empty text."""

_MAX_NAME_BYTES = 255
_ESCAPED = re.compile(r'[\x00-\x1f\x7f"#%\'*/:=?\\{\[\]^]')


def escape(value: str | None) -> str:
    """A value as Hive escapes it in a folder name; unescaped by percent-decoding."""
    if not value:
        return DEFAULT_PARTITION
    return _ESCAPED.sub(lambda match: f'%{ord(match[0]):02X}', value)


def unescape(name: str) -> str | None:
    """The value that `escape` wrote."""
    return None if name == DEFAULT_PARTITION else urllib.parse.unquote(name)


def fold(name: str) -> str:
    """A key that is equal for names that some file system may treat as the same.

    APFS, NTFS, exFAT and SMB ignore case, the first and the last also Unicode normalization, and
    others drop dots and spaces at the end of a name.
    """
    folded = unicodedata.normalize('NFKD', unicodedata.normalize('NFKD', name).casefold())
    return '/'.join(part.rstrip('. ') for part in folded.split('/'))


def values_of_path(path: str) -> dict[str, str | None]:
    """The partition columns in the path of a prediction file, relative to the output."""
    parts = (part.partition('=') for part in path.split('/')[3:-1])
    return {name: unescape(value) for name, _, value in parts}


def folder_of_values(columns: Sequence[str], values: Sequence[str | None]) -> str:
    """'split=train/day=7/' for the partition columns and their values; '' for none.

    Raises:
      ImageError: bad_name, when a folder name would be longer than file systems allow.
    """
    names = [f'{column}={escape(value)}' for column, value in zip(columns, values, strict=True)]
    for name in names:
        size = len(name.encode())
        if size > _MAX_NAME_BYTES:
            raise ImageError(
                Reason.BAD_NAME, f'a partition folder of {size} bytes, limit {_MAX_NAME_BYTES}'
            )
    return ''.join(f'{name}/' for name in names)
