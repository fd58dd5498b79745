"""What a store is, and how one is reached."""

import math
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol


class Entry(NamedTuple):
    """One object of a listing: its absolute URI, version and size.

    `reason` names what is already wrong with it, '' where nothing is; then `uri` is a printable
    form of its name.  `modified_at` is when this version was written, in seconds since 1970 by the
    clock of the store; NaN where it is not known.
    """

    uri: str
    version: str
    size_bytes: int
    reason: str = ''
    detail: str = ''
    modified_at: float = math.nan


class Fetched(NamedTuple):
    """A whole object, the version that was read, and how many tries failed before.

    `size_bytes` is its size as stored: less than that of `data` where it was stored as gzip.
    """

    data: bytes
    version: str
    size_bytes: int
    retries: int = 0


class Seen(NamedTuple):
    """A small object as it was read: what a later write or delete of it is held against.

    `version` is what the store goes by, '' where that is the bytes themselves.
    """

    data: bytes
    version: str


class NotModified(Exception):  # noqa: N818 (no error: nothing is wrong)
    """The object still has the version that the caller knows; its bytes were not moved."""


class FetchLimits(NamedTuple):
    """What reading one object may take.

    `deadline_sec` is total: it covers every retry and holds against a server that drips.
    """

    max_bytes: int
    deadline_sec: float


class Store(Protocol):
    """Where images are read and results are written."""

    def stat(self, uri: str) -> Entry | None:
        """The object of exactly this name, or None; what only marks a folder is none."""

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder, or any object below this prefix."""

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,
        starts_with: str = '',
    ) -> Iterator[Entry]:
        """Every object below a folder, as it comes.

        Args:
          folder: absolute URI.
          max_depth: 1 leaves out its folders; None goes all the way down.
          by_every_name: go into a folder again by each link to it, not only once.
          starts_with: a hint that only names beginning so are wanted; others may come, too.
        """

    def fetch(
        self, uri: str, limits: FetchLimits, admit: Callable[[int], None], unless: str = ''
    ) -> Fetched:
        """Reads an image.

        Args:
          uri: absolute URI.
          limits: refuse larger objects, give up later.
          admit: called with the bytes that there will be in memory, before there are: once, or
            with more and more; 0 gives all back; may block.
          unless: a version that need not be read again; '' reads whatever is there.

        Raises:
          NotModified: it is the version `unless`.
          ImageError: not_found, forbidden, too_many_bytes, deadline, store_error, checksum,
            changed_while_reading, not_a_file or bad_uri.
          StoreError: the credentials do not work.
        """

    def open(self, uri: str) -> BinaryIO:
        """Opens an object for reading, as a seekable stream.

        Raises:
          UsageError: it is not there or cannot be read.
        """

    def read(self, uri: str) -> bytes | None:
        """The whole of a small object of ours, or None where it is absent."""

    def look(self, uri: str) -> Seen | None:
        """The same, for who may replace or delete what is there."""

    def write(self, uri: str, data: bytes) -> None:
        """Creates or replaces an object: whole, or not at all."""

    def create(self, uri: str, data: bytes) -> bool:
        """Creates an object only if it is absent; False where it is there already."""

    def place(self, uri: str, target: str) -> bool:
        """Puts an object under another name, over whatever is there; False where there is none.

        A local file is renamed, other objects are copied by their store.
        """

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        """Replaces an object only if it still is what was seen; False where it is not."""

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        """Deletes an object; none is fine, too.

        Args:
          uri: absolute URI.
          seen: delete nothing else.

        Returns:
          False where `seen` is not what is there, or the store cannot delete on a condition.
        """
