"""Untrusted zip files: their list of members is read only if it is short."""

import zipfile
from typing import Any, BinaryIO, cast

# Python keeps ten times as much of it; that of 10,000 members with long names has 2 MiB.
_LIST_BYTES = 8 * 2**20


class _ShortReads:
    """A file of which at most the list of members may be read at once, until `is_open` is set.

    zipfile reads the list whole, of whatever length the file says.
    """

    def __init__(self, file: BinaryIO, list_bytes: int):
        self._file = file
        self._list_bytes = list_bytes
        self.is_open = False

    def read(self, size_bytes: int = -1) -> bytes:
        if size_bytes > self._list_bytes and not self.is_open:
            raise zipfile.BadZipFile(f'a list of members of {size_bytes} bytes')
        return self._file.read(size_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def open_zip(file: BinaryIO, list_bytes: int = _LIST_BYTES) -> zipfile.ZipFile:
    """Opens a zip file for reading; closing it does not close `file`.

    Args:
      file: seekable.
      list_bytes: limit for its list of members.

    Raises:
      zipfile.BadZipFile: it is not one, or lists far more members than any model has; and whatever
        else zipfile raises.
    """
    reader = _ShortReads(file, list_bytes)
    archive = zipfile.ZipFile(cast(BinaryIO, reader))
    reader.is_open = True
    return archive
