"""A store from which images are read, and nothing else."""

from typing import NoReturn

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.storage.base import Seen


class ReadOnlyStore:
    """Refuses what writes, and files of our own; the rest of `Store` is for who derives from it.

    Args:
      why: what is said behind the URI, and what to do instead.
    """

    def __init__(self, why: str):
        self._why = why

    def refuse(self, uri: str) -> NoReturn:
        """Says so.

        Raises:
          UsageError: always.
        """
        raise UsageError(f'{uris.printable(uri)}: {self._why}')

    def read(self, uri: str) -> bytes | None:
        self.refuse(uri)

    def look(self, uri: str) -> Seen | None:
        self.refuse(uri)

    def write(self, uri: str, data: bytes) -> None:  # noqa: ARG002
        self.refuse(uri)

    def create(self, uri: str, data: bytes) -> bool:  # noqa: ARG002
        self.refuse(uri)

    def place(self, uri: str, target: str) -> bool:  # noqa: ARG002
        self.refuse(target)

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:  # noqa: ARG002
        self.refuse(uri)

    def delete(self, uri: str, seen: Seen | None = None) -> bool:  # noqa: ARG002
        self.refuse(uri)
