"""Stores by scheme: one interface for local files and object stores.

A store tells two kinds of failure apart: `ImageError` is one object's, `StoreError` is everybody's
(credentials, a bucket that is not there, a folder that cannot be listed).

Stores are imported when the first URI of theirs is seen: a process that reads local files knows no
client of a cloud.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

from transforms import uris
from transforms.errors import UsageError
from transforms.process import shared
from transforms.rows import Entry, Fetched, FetchLimits, Seen
from transforms.waiting import LEAST_DEADLINE_SEC, within


class StoreOptions(NamedTuple):
    """How stores are reached; the same for every URI of a run.

    Attributes:
      user_project: Google Cloud project that pays for requests to requester-pays buckets.
      s3_endpoint_url: where S3 is, if not at Amazon's or where AWS_ENDPOINT_URL_S3 says.
      s3_region_name: region of the buckets of S3, if not the one that its profile says.
      allow_private_hosts: whether http(s) URLs may lead to addresses that are not public.
      s3_request_payer: whether to pay for requests to requester-pays buckets of S3.
    """

    user_project: str | None = None
    s3_endpoint_url: str | None = None
    s3_region_name: str | None = None
    allow_private_hosts: bool = False
    s3_request_payer: bool = False


DEFAULT_OPTIONS = StoreOptions()


class _Registered(NamedTuple):
    """A store that may not be imported yet: 'module:class', and the options that it is made of."""

    location: str
    needs: tuple[str, ...] = ()


# Redirects lead from http to https: both share their connections.
_WEB = _Registered('transforms.storage_http:HttpStore', ('allow_private_hosts',))
_STORES = {
    '': _Registered('transforms.storage_local:LocalStore'),
    'gs': _Registered('transforms.storage_gcs:GcsStore', ('user_project',)),
    's3': _Registered(
        'transforms.storage_s3:S3Store', ('s3_endpoint_url', 's3_region_name', 's3_request_payer')
    ),
    'http': _WEB,
    'https': _WEB,
}


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


def has_folder(store: Store, folder: str, deadline_sec: float = LEAST_DEADLINE_SEC) -> bool:
    """Whether there is such a folder.

    Raises:
      StoreError: nothing is heard of it within the deadline.
    """
    return within(deadline_sec, uris.printable(folder), lambda: store.is_folder(folder))


def store_for(uri: str, options: StoreOptions = DEFAULT_OPTIONS) -> Store:
    """The store of a URI, one a process.

    Raises:
      UsageError: no store reads this scheme.
    """
    scheme = uris.scheme_of(uri)
    if scheme not in _STORES:
        known = ', '.join(f'{name}://' for name in _STORES if name)
        raise UsageError(f'{uris.printable(uri)}: expected a local path or one of {known}')
    return shared(_make_store, ('https' if scheme == 'http' else scheme, options))


def modules_of(found: Iterable[str]) -> list[str]:
    """The modules that the stores of URIs are in; nothing is imported."""
    schemes = {uris.scheme_of(uri) for uri in found} & _STORES.keys()
    return sorted({_STORES[scheme][0].partition(':')[0] for scheme in schemes})


def _make_store(key: tuple[str, StoreOptions]) -> Store:
    scheme, options = key
    location, needs = _STORES[scheme]
    module, _, name = location.partition(':')
    store: Store = getattr(importlib.import_module(module), name)(
        *(getattr(options, option) for option in needs)
    )
    return store
