"""Lists pictures that lie inside files."""

import functools
from collections.abc import Iterator

from transforms.core import members, uris
from transforms.core.ahead import one_after_the_other
from transforms.core.elements import Ref
from transforms.core.errors import UsageError
from transforms.core.left_out import BEFORE_SINCE
from transforms.core.reasons import Reason
from transforms.core.suffixes import IMAGE_SUFFIXES
from transforms.sources.carried import NO_CARRIED, carried_of
from transforms.sources.inputs import Columns, Input, Kind
from transforms.sources.matching import matching
from transforms.storage.base import Entry, Store
from transforms.storage.containers.base import Found, Member, Problem, StreamSource, Wanted
from transforms.storage.containers.registry import format_of
from transforms.storage.registry import store_for

_MOST_NAME_CHARS = 4096
_AT_A_TIME = 8


def list_members(source: Input, columns: Columns, since: float | None) -> Iterator[Ref | str]:
    """Yields the refs of the pictures inside one file, or inside all that a glob matches.

    A file that is no such container, or not to its end, is a bad ref of its own; a string stands
    for what is left out, as in `transforms.sources.listing.list_input`.

    Args:
      source: the input.
      columns: what is carried along, and which column of tables holds pictures.
      since: leave out files last written before, in seconds since 1970.

    Raises:
      StoreError: a store cannot be listed or read.
      UsageError: a column is not there, or it is not clear which one holds the pictures.
    """
    store = store_for(source.uri, source.stores)

    def list_one(entry: Entry | str) -> Iterator[Ref | str]:
        if isinstance(entry, str):
            yield entry
        elif since is not None and entry.modified_at < since:
            yield BEFORE_SINCE
        elif entry.reason:
            yield _bad(entry, entry.reason, entry.detail)
        else:
            yield from _of_one(entry, store, columns)

    # Indices in a store are waited for; those on a disk are computed.
    at_a_time = _AT_A_TIME if uris.scheme_of(source.uri) else 1
    found = (functools.partial(list_one, entry) for entry in _containers(source, store))
    yield from one_after_the_other(found, at_a_time)


def _containers(source: Input, store: Store) -> Iterator[Entry | str]:
    if source.kind is Kind.CONTAINERS:
        yield from matching(source, store)
    elif found := store.stat(source.uri):
        yield found


def _of_one(entry: Entry, store: Store, columns: Columns) -> Iterator[Ref | str]:
    wanted = Wanted(IMAGE_SUFFIXES, columns.image, columns.carry)
    partitions = [columns.carry.index(column) for column in columns.partition_by]
    try:
        stream = store.open(entry.uri)
    except UsageError:
        yield _bad(entry, Reason.NOT_FOUND.value, 'it was listed, and cannot be opened')
        return
    with stream:
        source = StreamSource(stream, entry.size_bytes, uris.printable(entry.uri))
        for found in format_of(entry.uri).members(source, wanted):
            yield _ref(found, entry, partitions, columns)


def _ref(found: Found, entry: Entry, partitions: list[int], columns: Columns) -> Ref | str:
    if isinstance(found, str):
        return found
    if isinstance(found, Problem):
        return _bad(entry, found.reason.value, found.detail)
    uri = members.join(entry.uri, found.name)
    reason, detail = (found.reason.value, found.detail) if found.reason else ('', '')
    if problem := _problem_of_name(found):
        uri, reason, detail = uris.printable(uri), Reason.BAD_NAME.value, problem
    carried, problem = carried_of(found.carried, partitions, columns)
    if problem and not reason:
        reason, detail = Reason.BAD_NAME.value, problem
    if reason:
        return Ref(uri, '', found.size_bytes, carried, reason, detail)
    version = members.join_version(entry.version, found.where)
    return Ref(uri, version, found.size_bytes, carried, '', '')


def _problem_of_name(found: Member) -> str:
    if len(found.name) > _MOST_NAME_CHARS:
        return f'a name of {len(found.name)} characters, limit {_MOST_NAME_CHARS}'
    try:
        found.name.encode()
    except UnicodeEncodeError:
        return 'the name is not valid UTF-8'
    return ''


def _bad(entry: Entry, reason: str, detail: str) -> Ref:
    return Ref(entry.uri, entry.version, entry.size_bytes, NO_CARRIED, reason, detail)
