"""A file system that folds names, in place of APFS, NTFS, exFAT or SMB, which tests cannot have."""

import unicodedata
from pathlib import Path

from transforms.storage.local import LocalStore


def _folded(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold()


class FoldingStore(LocalStore):
    """Local files, where a name below the root leads to whatever is spelled alike.

    As with the real ones, the first spelling stays.
    """

    def __init__(self, root: Path):
        self._root = root

    def _there(self, uri: str) -> str:
        path = Path(uri)
        if not path.is_relative_to(self._root):
            return uri
        found = self._root
        for name in path.relative_to(self._root).parts:
            alike = [
                each.name
                for each in (found.iterdir() if found.is_dir() else ())
                if _folded(each.name) == _folded(name)
            ]
            found /= (alike or [name])[0]
        return str(found)

    def stat(self, uri):
        return super().stat(self._there(uri))

    def is_folder(self, uri):
        return super().is_folder(self._there(uri))

    def list(self, folder, *args, **options):
        return super().list(self._there(folder), *args, **options)

    def open(self, uri):
        return super().open(self._there(uri))

    def read(self, uri):
        return super().read(self._there(uri))

    def write(self, uri, data):
        super().write(self._there(uri), data)

    def create(self, uri, data):
        return super().create(self._there(uri), data)

    def place(self, uri, target):
        return super().place(self._there(uri), self._there(target))

    def replace(self, uri, data, seen):
        return super().replace(self._there(uri), data, seen)

    def delete(self, uri, seen=None):
        return super().delete(self._there(uri), seen)
