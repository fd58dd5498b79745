"""What a run labels: resolved inputs, and what is read of them."""

import enum
from typing import NamedTuple

from transforms.core import uris
from transforms.core.elements import CONTAINERS, MANIFESTS
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC


class Kind(enum.StrEnum):
    """What an input is; what is done with each is in `transforms.sources.listing.SOURCES`.

    The values are written to report.json and decide whether a run can be resumed.
    """

    FOLDER = 'folder'
    GLOB = 'glob'
    FILE = 'file'
    MANIFEST = 'manifest'
    MANIFESTS = 'manifests'
    INVENTORY = 'inventory'
    CONTAINER = 'container'
    CONTAINERS = 'containers'
    DEAD_LETTERS = 'dead_letters'

    @property
    def shown(self) -> str:
        """With its article."""
        return f'an {self}' if self is Kind.INVENTORY else f'a {self}'

    @property
    def has_columns(self) -> bool:
        """Whether its rows have columns, of which some can be carried along."""
        return self in MANIFESTS

    @property
    def is_of_containers(self) -> bool:
        """Whether the images lie inside files: one, or what a glob matches."""
        return self in CONTAINERS


class Input(NamedTuple):
    """One resolved --input.

    Attributes:
      kind: what it is; dead letters are those of an earlier run.
      uri: absolute; for a glob its folder, up to the first part with a wildcard.
      pattern: the whole glob, of images or manifests; for dead letters the reasons that are wanted;
        otherwise ''.
      stores: how it is reached.
      deadline_sec: longest time until the next entry is listed, or the next line is read.
    """

    kind: Kind
    uri: str
    pattern: str
    stores: StoreOptions = DEFAULT_OPTIONS
    deadline_sec: float = LEAST_DEADLINE_SEC

    @property
    def may_tell_bytes(self) -> bool:
        """Whether its listing may tell which images have the same bytes."""
        is_listed = self.kind in (Kind.FOLDER, Kind.GLOB, Kind.FILE)
        return self.kind is Kind.INVENTORY or (
            is_listed and uris.scheme_of(self.uri) in ('gs', 's3')
        )

    @property
    def shown(self) -> str:
        """For messages."""
        return uris.printable(self.pattern or self.uri)


class Columns(NamedTuple):
    """Which columns of manifests and of containers are read.

    Attributes:
      uri: the column of the URIs of a manifest.
      carry: columns carried along as text.
      partition_by: those of them that become folders of the output.
      image: the column of a table that holds pictures; '' is found.
    """

    uri: str
    carry: tuple[str, ...]
    partition_by: tuple[str, ...]
    image: str = ''


class TooMany(NamedTuple):
    """When a run would label too many images.

    Attributes:
      max_images: the most it may label.
      known: the most that earlier runs have dealt with, which may be unchanged.
    """

    max_images: int
    known: int


class Listing(NamedTuple):
    """What a run labels.

    Attributes:
      inputs: what is listed.
      columns: what is read of manifests.
      sample: label only this many images, or None.
      since: leave out what was written before, in seconds since 1970, or None.
      originals: the manifests of the run that is retried, if this is a retry.
      is_remote: the images are read by other machines, which see no local path.
      most: refuse, while listing, an input of more distinct images than `TooMany` allows.
    """

    inputs: tuple[Input, ...]
    columns: Columns
    sample: int | None = None
    since: float | None = None
    originals: tuple[Input, ...] = ()
    is_remote: bool = False
    most: TooMany | None = None
