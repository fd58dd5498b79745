"""The store of a URI: one interface for local files and object stores.

A store distinguishes two kinds of failure: `ImageError` concerns one object, `StoreError` all of
them (credentials, a bucket that does not exist, a folder that cannot be listed).

Stores are imported when their first URI is seen, see `transforms.core.stores`.
"""

import importlib
from collections.abc import Iterable
from typing import Any

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.resources import shared
from transforms.core.stores import DEFAULT_OPTIONS, STORES, StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC, within
from transforms.storage.base import Store
from transforms.storage.bounded import BoundedStore


def has_folder(store: Store, folder: str, deadline_sec: float = LEAST_DEADLINE_SEC) -> bool:
    """Whether a folder exists.

    Raises:
      StoreError: no answer within the deadline.
    """
    return within(deadline_sec, uris.printable(folder), lambda: store.is_folder(folder))


def store_for(uri: str, options: StoreOptions = DEFAULT_OPTIONS) -> Store:
    """The store of a URI, one per process.

    Raises:
      UsageError: no store reads this scheme.
    """
    scheme = uris.scheme_of(uri)
    if scheme not in STORES:
        known = ', '.join(f'{name}://' for name in STORES if name)
        raise UsageError(f'{uris.printable(uri)}: expected a local path or one of {known}')
    registered = STORES[scheme]
    return shared(_make_store, (registered.location, registered.own(options)))


def output_store(
    uri: str, options: StoreOptions = DEFAULT_OPTIONS, deadline_sec: float = LEAST_DEADLINE_SEC
) -> BoundedStore:
    """The store of a URI where results are, one per process: see `BoundedStore`.

    Raises:
      UsageError: no store reads this scheme.
    """
    return shared(_make_bounded, (store_for(uri, options), deadline_sec))


def _make_bounded(key: tuple[Store, float]) -> BoundedStore:
    return BoundedStore(*key)


def settle_anonymity(found: Iterable[str], options: StoreOptions) -> tuple[StoreOptions, list[str]]:
    """Decides once, for all processes of a run, what is read without credentials.

    Args:
      found: what will be read: URIs.
      options: how stores are reached.

    Returns:
      The options with that decision, and what is to be told of it: a line for each bucket.

    Raises:
      StoreError: there are credentials, but they cannot be used.
      UsageError: no store reads this scheme.
    """
    places = dict.fromkeys(place_of(uri) for uri in found if has_buckets(uri))
    lacking = [place for place in places if lacks_credentials(store_for(place, options))]
    schemes = {uris.scheme_of(place) for place in lacking}
    return options.anonymously(*schemes), [told_anonymous(place) for place in lacking]


def lacks_credentials(store: Store) -> str:
    """What to do for credentials, if a store has looked for some and found none; else ''."""
    why: str = getattr(store, 'lacks_credentials', '')
    return why


def has_buckets(uri: str) -> bool:
    """Whether it lies in an object store."""
    scheme = uris.scheme_of(uri)
    return scheme in STORES and STORES[scheme].bucket is not None


def place_of(uri: str) -> str:
    """'gs://bucket' of what lies in it."""
    return f'{uris.scheme_of(uri)}://{uris.split_object(uri)[0]}'


def told_anonymous(place: str) -> str:
    """What is told of a bucket for which there are no credentials."""
    return f'no credentials for {uris.printable(place)}: reading it anonymously'


def modules_of(found: Iterable[str]) -> list[str]:
    """The modules of the stores of some URIs; imports nothing."""
    schemes = {uris.scheme_of(uri) for uri in found} & STORES.keys()
    return sorted({STORES[scheme].location.partition(':')[0] for scheme in schemes})


def _make_store(key: tuple[str, Any]) -> Store:
    location, own = key
    module, _, name = location.partition(':')
    keywords = {} if own is None else own._asdict()
    store: Store = getattr(importlib.import_module(module), name)(**keywords)
    return store
