"""What a store is, and how one is reached."""

import math
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

from transforms.core.errors import ImageError
from transforms.core.reasons import Reason


class Entry(NamedTuple):
    """One object of a listing: its absolute URI, version and size.

    `reason` says what is already known to be wrong with it, '' if nothing is; if set, `uri` is a
    printable form of its name.  `modified_at` is when this version was written, in seconds since
    1970 by the clock of the store; NaN if that is not known.  `checksum` is the same for two
    objects of the same size only if their bytes are; '' if the listing does not tell.
    """

    uri: str
    version: str
    size_bytes: int
    reason: str = ''
    detail: str = ''
    modified_at: float = math.nan
    checksum: str = ''


class Fetched(NamedTuple):
    """A whole object, the version that was read, and how many tries failed first.

    `size_bytes` is its size as stored: less than that of `data` if it was stored as gzip.
    """

    data: bytes
    version: str
    size_bytes: int
    retries: int = 0


class Part(NamedTuple):
    """Some bytes of one version of an object."""

    offset: int
    size_bytes: int
    version: str


class Seen(NamedTuple):
    """A small object as it was read, to compare with before it is later replaced or deleted.

    `version` is what the store compares, '' if it compares the bytes themselves.
    """

    data: bytes
    version: str


class NotModified(Exception):  # noqa: N818 (no error: nothing is wrong)
    """The object still has the version that the caller knows; its bytes were not transferred."""


class FetchLimits(NamedTuple):
    """Limits for reading one object.

    `deadline_sec` is total: it covers all retries, and a server that sends byte by byte.
    """

    max_bytes: int
    deadline_sec: float


def changed(part: Part) -> ImageError:
    """What is said of an object that is not the version of which a part was asked for."""
    return ImageError(
        Reason.CHANGED_WHILE_READING, f'it is no longer version {part.version}, as it was listed'
    )


class Store(Protocol):
    """Where images are read and results are written."""

    def stat(self, uri: str) -> Entry | None:
        """The object of exactly this name, or None; a mere folder marker does not count."""

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder, or any object below this prefix."""

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,
        starts_with: str = '',
    ) -> Iterator[Entry]:
        """Yields every object below a folder, as it is listed.

        Args:
          folder: absolute URI.
          max_depth: 1 leaves out its folders; None goes all the way down.
          by_every_name: enter a folder again by each link to it, not only once.
          starts_with: a hint that only names with this prefix are wanted; others may come, too.
        """

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        """Reads an image, or a part of an object that holds several.

        Args:
          uri: absolute URI.
          limits: refuse larger objects, give up later.
          admit: called with the bytes that will be in memory, before they are: once, or with ever
            more; 0 gives all back; may block.
          unless: a version that need not be read again; '' reads any.
          part: read these bytes alone, all of them, of this version alone; the limit applies to
            them, and there is no checksum.

        Raises:
          NotModified: it is the version `unless`.
          ImageError: not_found, forbidden, too_many_bytes, deadline, store_error, checksum,
            changed_while_reading (also where it is not the version of `part`), not_a_file or
            bad_uri.
          StoreError: the credentials do not work.
        """

    def open(self, uri: str) -> BinaryIO:
        """Opens an object for reading, as a seekable stream.

        Raises:
          UsageError: it does not exist or cannot be read.
        """

    def read(self, uri: str) -> bytes | None:
        """The whole of a small object that we wrote, or None if it is absent."""

    def look(self, uri: str) -> Seen | None:
        """The same, for callers that may replace or delete it."""

    def write(self, uri: str, data: bytes) -> None:
        """Creates or replaces an object: whole, or not at all."""

    def create(self, uri: str, data: bytes) -> bool:
        """Creates an object only if it is absent; False if it already exists."""

    def place(self, uri: str, target: str) -> bool:
        """Puts an object under another name, over whatever is there; False if there is none.

        A local file is renamed, other objects are copied by their store.
        """

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        """Replaces an object only if it is still what was seen; False if it is not."""

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        """Deletes an object, if it exists.

        Args:
          uri: absolute URI.
          seen: delete it only if it is still this.

        Returns:
          False if it is not `seen`, or the store cannot delete conditionally.
        """
