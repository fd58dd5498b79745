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
