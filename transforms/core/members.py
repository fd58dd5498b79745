"""Pictures inside files: a member of a container, how it is named, and which version it is.

A container is a file that holds pictures: an archive, a table, a file of records.  A member is one
picture in it, `<uri of the container>!/<name>`, and its version is that of the container and where
the member lies in it, `<version of the container>!<where>`.

`where` is text of the format's own, without '!', and tells in which order members lie:
`<offset>+<bytes>` in the file, whatever follows; `~<offset>+<bytes>` in what the file holds once
it is unpacked, which can only be read from its beginning; `<group>:<row in it>` of a table,
whatever follows.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from transforms.core.uris import scheme_of

_SEPARATOR = '!/'
SUFFIXES = '.tar .tar.gz .tgz .zip .parquet .arrow .feather .tfrecord .tfrecords'.split()
# Behind it may stand a shard's number: 'train.tfrecord-00000-of-00010'.
_CONTAINER = re.compile(
    rf'({"|".join(map(re.escape, SUFFIXES))})(?:-[0-9]{{1,20}}-of-[0-9]{{1,20}})?\Z', re.IGNORECASE
)
_WHERE = re.compile(r'(?P<streamed>~)?(?P<first>[0-9]{1,19})(?P<kind>[+:])(?P<second>[0-9]{1,19})')
_MOST_CHARS = 64  # of a suffix with its number
_BLOCK_BYTES = 64 * 2**20

_HEAD_BYTES = 1024  # before a member of a zip archive lie its header and its name
_MOST_GAP_BYTES = 256 * 2**10

READ_BYTES = 10 * 2**20
"""Of an archive in a store that are read in one request at most."""


class MemberUri(NamedTuple):
    """The URI of a member in its parts; `name` is raw: '..' and a slash at its start are names."""

    container: str
    name: str


class MemberVersion(NamedTuple):
    """The version of a member in its parts."""

    container: str
    where: str


class Place(NamedTuple):
    """Where a member lies among those of its container; places sort as members lie.

    Attributes:
      block: what is read in one go: 64 MiB of a file, a group of rows of a table, all of a stream
        that can only be read from its beginning.
      position: in the file, in the stream or in the group.
    """

    block: int
    position: int


def suffix_of(uri: str) -> str:
    """The suffix in lower case by which a file is taken for a container; '' if it is none."""
    found = _CONTAINER.search(uri, max(0, len(uri) - _MOST_CHARS))
    return found[1].lower() if found else ''


def is_container(uri: str) -> bool:
    """Whether a file is taken for a container, by its suffix."""
    return bool(suffix_of(uri))


def join(container: str, name: str) -> str:
    """The URI of a member."""
    return f'{container}{_SEPARATOR}{name}'


def split(uri: str) -> MemberUri | None:
    """The parts of a member's URI; None for any other.

    The first '!/' behind a container counts: archives in archives are not opened.
    """
    start = 0
    while (end := uri.find(_SEPARATOR, start)) >= 0:
        if is_container(uri[:end]):
            return MemberUri(uri[:end], uri[end + len(_SEPARATOR) :])
        start = end + 1
    return None


def join_version(container: str, where: str) -> str:
    """The version of a member."""
    return f'{container}!{where}'


def split_version(version: str) -> MemberVersion | None:
    """The parts of a member's version; None where it is not known: '' or without a place.

    Ask it of members only: the version of another object may hold anything.
    """
    container, separator, where = version.rpartition('!')
    return MemberVersion(container, where) if separator and _WHERE.match(where) else None


def is_member(uri: str, version: str) -> bool:
    """Whether an image lies in a container, by its name and its version.

    A folder may be called `photos.zip!`; what was listed in it has a version of its own, without a
    place in a container.  A URL is what a server makes of it.
    """
    if scheme_of(uri) in ('http', 'https'):
        return False
    return split(uri) is not None and (not version or split_version(version) is not None)


def place_of(where: str) -> Place:
    """Where a member lies.

    Raises:
      ValueError: no format has written this.
    """
    found = _WHERE.match(where)
    if not found:
        raise ValueError(f'{where!r} is no place in a container')
    first, second = int(found['first']), int(found['second'])
    if found['kind'] == ':':
        return Place(first, second)
    return Place(0 if found['streamed'] else first // _BLOCK_BYTES, first)


class Run(NamedTuple):
    """Members that are best read by one process, as they are read in one go.

    Attributes:
      key: tells it from others.
      start, end: of the bytes of an archive in a store, one request; both 0 where the format reads
        what it needs, of a stream or of a group of rows.
    """

    key: str
    start: int
    end: int


def runs_of(images: Iterable[tuple[str, str]]) -> list[Run | None]:
    """What is read together with each image; None of one that is read alone.

    On a disk each member of an archive is read alone.

    Args:
      images: URIs and versions, members in the order in which they lie.
    """
    runs: list[Run | None] = []
    begun: list[tuple[str, int, int]] = []  # of archives in stores, in a row

    def end() -> None:
        if len(begun) > 1:
            container, start, _ = begun[0]
            run = Run(f'{container}!{start}', start, max(end for _, _, end in begun))
            runs[len(runs) - len(begun) :] = [run] * len(begun)
        begun.clear()

    for uri, version in images:
        found = split(uri)
        listed = split_version(version) if found else None
        where = _WHERE.match(listed.where) if listed else None
        if not found or not where:
            end()
            runs.append(None)
        elif where['streamed'] or where['kind'] == ':':
            end()
            group = '' if where['streamed'] else where['first']
            runs.append(Run(f'{found.container}!{group}', 0, 0))
        elif not scheme_of(uri):
            end()
            runs.append(None)
        else:
            start = int(where['first'])
            stop = start + int(where['second']) + _HEAD_BYTES
            if begun:
                container, first, _ = begun[0]
                is_next = container == found.container and start >= begun[-1][1]
                is_near = start - begun[-1][2] <= _MOST_GAP_BYTES
                if not (is_next and is_near and stop - first <= READ_BYTES):
                    end()
            begun.append((found.container, start, stop))
            runs.append(None)
    end()
    return runs
