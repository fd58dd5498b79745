"""The registry of stores: their schemes, how they are reached, and where their code is.

Only data, at a level so low that parsing URIs can use it, too.  `transforms.storage.registry`
imports a store when its first URI is seen: a process that reads local files loads no cloud client.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class GcsOptions(NamedTuple):
    """How Google Cloud Storage is reached.

    Attributes:
      user_project: the project that pays for requests to requester-pays buckets.
      anonymous: read without credentials, whatever there are.
    """

    user_project: str | None = None
    anonymous: bool = False


class S3Options(NamedTuple):
    """How S3 is reached.

    Attributes:
      endpoint_url: its address, if not Amazon's or that in AWS_ENDPOINT_URL_S3.
      region_name: region of the buckets, if not that of the profile.
      is_payer: whether to pay for requests to requester-pays buckets.
      anonymous: read without credentials, whatever there are.
    """

    endpoint_url: str | None = None
    region_name: str | None = None
    is_payer: bool = False
    anonymous: bool = False


class AzureOptions(NamedTuple):
    """How Azure Storage is reached.

    Attributes:
      anonymous: read without credentials, whatever there are.
    """

    anonymous: bool = False


class HttpOptions(NamedTuple):
    """How web servers are reached.

    Attributes:
      allow_private_hosts: whether URLs may lead to addresses that are not public.
      requests_per_host: in flight at a time, of a process and its loader processes together; 0 is
        any number.
      user_agent: who says to be asking; '' for the name of this tool and its version.
      ignore_robots_tag: whether to use what a site forbids machines to use.
    """

    allow_private_hosts: bool = False
    requests_per_host: int = 8
    user_agent: str = ''
    ignore_robots_tag: bool = False


_ANONYMOUS = {'gs': 'gcs', 's3': 's3', 'az': 'azure'}
"""Schemes of stores that can be read without credentials, with the names of their options."""


class StoreOptions(NamedTuple):
    """How stores are reached, each with its own options; the same for every URI of a run."""

    gcs: GcsOptions = GcsOptions()
    s3: S3Options = S3Options()
    http: HttpOptions = HttpOptions()
    azure: AzureOptions = AzureOptions()

    def anonymously(self, *schemes: str, are: bool = True) -> 'StoreOptions':
        """The same, but that the stores of these schemes are read without credentials, or with."""
        changed = {
            name: own._replace(anonymous=are)
            for scheme, name in _ANONYMOUS.items()
            if scheme in schemes
            for own in (getattr(self, name),)
        }
        return self._replace(**changed)

    def for_output(self) -> 'StoreOptions':
        """The same for what is written, for which there must be credentials."""
        return self.anonymously(*_ANONYMOUS, are=False)


DEFAULT_OPTIONS = StoreOptions()


class Registered(NamedTuple):
    """A store.

    Attributes:
      location: its class, 'module:class'.
      own: its own options: a NamedTuple whose fields are the keywords of the class; None if it has
        none.
      bucket: what bucket names look like, the first parts of its URIs; None if it has no buckets.
      bucket_parts: how many parts of a URI name a bucket.
      is_written: whether it can hold an output.
    """

    location: str
    own: Callable[[StoreOptions], Any] = lambda _: None
    bucket: re.Pattern[str] | None = None
    bucket_parts: int = 1
    is_written: bool = True


# Redirects lead from http to https: both share their connections.
_WEB = Registered(
    'transforms.storage.http:HttpStore', lambda options: options.http, is_written=False
)
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
    'az': Registered(
        'transforms.storage.azure:AzureStore',
        lambda options: options.azure,
        bucket=re.compile(
            r'[a-z0-9]{3,24}/(?=.{3,63}\Z)([a-z0-9]+(-[a-z0-9]+)*|\$root|\$web|\$logs)'
        ),
        bucket_parts=2,  # az://account/container
    ),
    'hf': Registered(
        'transforms.storage.huggingface:HfStore',
        bucket=re.compile(r'datasets(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}){2}(@[^/@]{1,200})?'),
        bucket_parts=3,  # hf://datasets/owner/name@revision
        is_written=False,
    ),
    'http': _WEB,
    'https': _WEB,
}
"""By scheme; local paths have none."""
