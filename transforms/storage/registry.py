"""Stores by scheme: one interface for local files and object stores.

A store tells two kinds of failure apart: `ImageError` is one object's, `StoreError` is everybody's
(credentials, a bucket that is not there, a folder that cannot be listed).

Stores are imported when the first URI of theirs is seen: a process that reads local files knows no
client of a cloud.
"""

import importlib
from collections.abc import Iterable
from typing import NamedTuple

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.resources import shared
from transforms.core.waiting import LEAST_DEADLINE_SEC, within
from transforms.storage.base import DEFAULT_OPTIONS, Store, StoreOptions


class _Registered(NamedTuple):
    """A store that may not be imported yet: 'module:class', and the options that it is made of."""

    location: str
    needs: tuple[str, ...] = ()


# Redirects lead from http to https: both share their connections.
_WEB = _Registered('transforms.storage.http:HttpStore', ('allow_private_hosts',))
_STORES = {
    '': _Registered('transforms.storage.local:LocalStore'),
    'gs': _Registered('transforms.storage.gcs:GcsStore', ('user_project',)),
    's3': _Registered(
        'transforms.storage.s3:S3Store', ('s3_endpoint_url', 's3_region_name', 's3_request_payer')
    ),
    'http': _WEB,
    'https': _WEB,
}


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
