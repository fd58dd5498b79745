"""The registry of stores: by which schemes they go, how they are reached, and where their code is.

Nothing but data, so low down that URIs are read by it, too.  `transforms.storage.registry` imports
a store when the first URI of its is seen: a process that reads local files knows no client of a
cloud.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class GcsOptions(NamedTuple):
    """How Google Cloud Storage is reached.

    Attributes:
      user_project: the project that pays for requests to requester-pays buckets.
    """

    user_project: str | None = None


class S3Options(NamedTuple):
    """How S3 is reached.

    Attributes:
      endpoint_url: where it is, if not at Amazon's or where AWS_ENDPOINT_URL_S3 says.
      region_name: region of the buckets, if not the one that the profile says.
      is_payer: whether to pay for requests to requester-pays buckets.
    """

    endpoint_url: str | None = None
    region_name: str | None = None
    is_payer: bool = False


class HttpOptions(NamedTuple):
    """How web servers are reached.

    Attributes:
      allow_private_hosts: whether URLs may lead to addresses that are not public.
    """

    allow_private_hosts: bool = False


class StoreOptions(NamedTuple):
    """How stores are reached, each by options of its own; the same for every URI of a run."""

    gcs: GcsOptions = GcsOptions()
    s3: S3Options = S3Options()
    http: HttpOptions = HttpOptions()


DEFAULT_OPTIONS = StoreOptions()


class Registered(NamedTuple):
    """A store.

    Attributes:
      location: its class, 'module:class'.
      own: which options are its own: a NamedTuple whose fields are the keywords of the class; None
        without.
      bucket: what names a bucket, the first part of its URIs; None where they have none.
    """

    location: str
    own: Callable[[StoreOptions], Any] = lambda _: None
    bucket: re.Pattern[str] | None = None


# Redirects lead from http to https: both share their connections.
_WEB = Registered('transforms.storage.http:HttpStore', lambda options: options.http)
STORES = {
    '': Registered('transforms.storage.local:LocalStore'),
    'gs': Registered(
        'transforms.storage.gcs:GcsStore',
        lambda options: options.gcs,
        re.compile(r'[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]'),
    ),
    's3': Registered(
        'transforms.storage.s3:S3Store',
        lambda options: options.s3,
        re.compile(r'[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]'),
    ),
    'http': _WEB,
    'https': _WEB,
}
"""By scheme; local paths have none."""
