"""Reads members of containers through stores; keeps what one of them has cost for the next."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from transforms.core import members, uris
from transforms.core.errors import ImageError, UsageError
from transforms.core.members import MemberUri, MemberVersion
from transforms.core.reasons import Reason
from transforms.storage.base import Fetched, FetchLimits, NotModified, Part, Store
from transforms.storage.containers.base import Format, Member, Reader, Wanted
from transforms.storage.containers.registry import format_of

_KEPT_READERS = 16
_KEPT_NAMES = 1_000_000

_Index = dict[str, str]


class StoreSource:
    """A container in a store; a `Source`.

    Args:
      store: where it lies.
      uri: its own.
      version: the only one that is read.
    """

    def __init__(self, store: Store, uri: str, version: str):
        self._store = store
        self._uri = uri
        self._version = version
        self._size_bytes: int | None = None
        self.shown = uris.printable(uri)
        self.ends_at = time.monotonic()

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        if self._size_bytes is None:
            entry = self._store.stat(self._uri)
            if entry is None:
                raise ImageError(Reason.NOT_FOUND, 'its file is not there')
            self._size_bytes = entry.size_bytes
        return self._size_bytes

    def range(self, offset: int, size: int) -> bytes:
        """See `transforms.storage.containers.base.Source`."""
        size = min(size, self.size_bytes - offset)
        if size <= 0:
            return b''
        left_sec = self.ends_at - time.monotonic()
        if left_sec <= 0:
            raise ImageError(Reason.DEADLINE, 'the file it lies in was not read in time')
        limits = FetchLimits(size, left_sec)
        part = Part(offset, size, self._version)
        return self._store.fetch(self._uri, limits, lambda _: None, part=part).data


class _Open(NamedTuple):
    source: StoreSource
    reader: Reader


class MemberFetcher:
    """Reads members; thread-safe.

    Args:
      wanted: what an index lists; nothing is carried along.
    """

    def __init__(self, wanted: Wanted):
        self._wanted = wanted
        self._lock = threading.Lock()
        self._idle: collections.OrderedDict[tuple[str, str], list[_Open]] = (
            collections.OrderedDict()
        )
        self._streams: dict[tuple[str, str], threading.Lock] = {}
        self._indexes: collections.OrderedDict[tuple[str, str], _Index] = collections.OrderedDict()
        self._indexing = threading.Lock()

    def fetch(
        self,
        store: Store,
        uri: str,
        version: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
    ) -> Fetched:
        """Reads a member.

        Args:
          store: where its container lies.
          uri: of a member.
          version: as listed; '' looks it up by its name.
          limits, admit, unless: as of `Store.fetch`.

        Raises:
          NotModified, ImageError, StoreError: as of `Store.fetch`.
        """
        found = members.split(uri)
        assert found is not None, uri
        ends_at = time.monotonic() + limits.deadline_sec
        format_ = format_of(found.container)
        listed = members.split_version(version) or self._look_up(store, found, format_, ends_at)
        version = members.join_version(*listed)
        if version == unless:
            raise NotModified
        with self._reader(store, found.container, listed.container, format_) as opened:
            opened.source.ends_at = ends_at
            data = opened.reader.read(listed.where, limits.max_bytes, admit)
        return Fetched(data, version, len(data))

    @contextlib.contextmanager
    def _reader(
        self, store: Store, container: str, version: str, format_: Format
    ) -> Iterator[_Open]:
        """A reader that nobody else uses meanwhile; of a stream there is one."""
        key = container, version
        with self._lock:
            stream = self._streams.setdefault(key, threading.Lock())
        with stream if format_.is_streamed else contextlib.nullcontext():
            with self._lock:
                idle = self._idle.get(key)
                opened = idle.pop() if idle else None
            if opened is None:
                source = StoreSource(store, container, version)
                opened = _Open(source, format_.open(source))
            yield opened  # one that has failed is dropped
            with self._lock:
                self._idle.setdefault(key, []).append(opened)
                self._idle.move_to_end(key)
                if sum(map(len, self._idle.values())) > _KEPT_READERS:
                    oldest, others = next(iter(self._idle.items()))
                    others.pop(0)
                    if not others:
                        del self._idle[oldest]
                        self._streams.pop(oldest, None)

    def _look_up(
        self, store: Store, found: MemberUri, format_: Format, ends_at: float
    ) -> MemberVersion:
        """Where a member lies that is known by its name alone.

        Raises:
          ImageError: not_found, or why its container does not list it.
        """
        entry = store.stat(found.container)
        if entry is None:
            raise ImageError(Reason.NOT_FOUND, 'its file is not there')
        key = found.container, entry.version
        with self._indexing:
            if key not in self._indexes:
                source = StoreSource(store, *key)
                source.ends_at = ends_at
                self._keep(key, self._read_index(source, format_))
            index = self._indexes[key]
        if found.name not in index:
            raise ImageError(Reason.NOT_FOUND, 'its file has no picture of this name')
        return MemberVersion(entry.version, index[found.name])

    def _read_index(self, source: StoreSource, format_: Format) -> _Index:
        try:
            found = format_.members(source, self._wanted)
            return {
                each.name: each.where
                for each in found
                if isinstance(each, Member) and each.reason is None
            }
        except UsageError as e:
            raise ImageError(Reason.UNSUPPORTED_FORMAT, str(e)) from e

    def _keep(self, key: tuple[str, str], index: _Index) -> None:
        self._indexes[key] = index
        while len(self._indexes) > 1 and sum(map(len, self._indexes.values())) > _KEPT_NAMES:
            self._indexes.popitem(last=False)
