"""A file system that folds names, in place of APFS, NTFS, exFAT or SMB, which tests cannot have."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transforms.storage.base import Entry, Seen
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

    def stat(self, uri: str) -> Entry | None:
        return super().stat(self._there(uri))

    def is_folder(self, uri: str) -> bool:
        return super().is_folder(self._there(uri))

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,
        starts_with: str = '',
    ) -> Iterator[Entry]:
        return super().list(self._there(folder), max_depth, by_every_name, starts_with)

    def open(self, uri: str) -> BinaryIO:
        return super().open(self._there(uri))

    def read(self, uri: str) -> bytes | None:
        return super().read(self._there(uri))

    def write(self, uri: str, data: bytes) -> None:
        super().write(self._there(uri), data)

    def create(self, uri: str, data: bytes) -> bool:
        return super().create(self._there(uri), data)

    def place(self, uri: str, target: str) -> bool:
        return super().place(self._there(uri), self._there(target))

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        return super().replace(self._there(uri), data, seen)

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        return super().delete(self._there(uri), seen)
