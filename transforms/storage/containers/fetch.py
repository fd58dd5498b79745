"""Reads members of containers through stores; keeps what one of them has cost for the next."""

import collections
import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from transforms.core import members
from transforms.core.errors import ImageError, UsageError
from transforms.core.members import MemberUri, MemberVersion, Place, Run
from transforms.core.reasons import Reason
from transforms.storage.base import Fetched, FetchLimits, NotModified, Store
from transforms.storage.containers.base import Format, Member, Reader, TableReader, Wanted
from transforms.storage.containers.registry import format_of
from transforms.storage.containers.store_source import LATE, Blocks, StoreSource
from transforms.storage.containers.turn import Turn

_KEPT_READERS = 16
_KEPT_LARGE_READERS = 2  # which keep what they have unpacked
_KEPT_NAMES = 1_000_000
_ENTRY_BYTES = 200  # of an index, beside its texts
_INDEXING = 'an index'
_LEAST_BYTES_SEC = 2**20  # of an index, else it is given up
_LOOK_SEC = 0.5
_KEPT_FAILURES = 1000
_MAY_PASS = (Reason.DEADLINE, Reason.STORE_ERROR)

_Index = dict[str, str]


class _NoIndex(NamedTuple):
    """Why a container could not be listed, and until when, by the monotonic clock, that holds."""

    reason: Reason
    detail: str
    until: float


class Room(Protocol):
    """Where there is room for what is kept for later."""

    def has_taken(self, size_bytes: int) -> bool:
        """Takes bytes if they are free; never waits."""

    def release(self, taken: int) -> None:
        """Gives back what was taken."""


@dataclass(frozen=True, eq=False)
class _Open:
    source: StoreSource
    reader: Reader


_Readers = collections.OrderedDict[tuple[str, str], list[_Open]]


class MemberFetcher:
    """Reads members; thread-safe.

    Args:
      wanted: what an index lists; nothing is carried along.
      room: for indexes and readers; the last one of either is kept also where there is none.
    """

    def __init__(self, wanted: Wanted, room: Room):
        self._wanted = wanted
        self._room = room
        self._taken: dict[object, int] = {}
        self._blocks = Blocks()
        self._lock = threading.Lock()
        self._idle: dict[bool, _Readers] = {
            is_large: collections.OrderedDict() for is_large in (False, True)
        }
        self._turns: dict[object, Turn] = {}
        # Of each container the reader that was used last, while it is kept or in use.
        self._last: weakref.WeakValueDictionary[tuple[str, str], _Open] = (
            weakref.WeakValueDictionary()
        )
        self._indexes: collections.OrderedDict[tuple[str, str], _Index] = collections.OrderedDict()
        self._without: collections.OrderedDict[tuple[str, str], _NoIndex] = (
            collections.OrderedDict()
        )
        self._index_came_at = 0.0

    def fetch(
        self,
        store: Store,
        uri: str,
        version: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        run: Run | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> Fetched:
        """Reads a member.

        Args:
          store: where its container lies.
          uri: of a member.
          version: as listed; '' looks it up by its name.
          limits, admit, unless: as of `Store.fetch`.
          run: what is read together with it.
          renew: called as long as the index of its container is coming, which is read for all its
            members and may take longer than one of them: only then the deadline begins.

        Raises:
          NotModified, ImageError, StoreError: as of `Store.fetch`.
        """
        found = members.split(uri)
        assert found is not None, uri
        format_ = format_of(found.container)
        listed = members.split_version(version) or self._look_up(
            store, found, format_, limits.deadline_sec, renew
        )
        ends_at = time.monotonic() + limits.deadline_sec
        version = members.join_version(*listed)
        if version == unless:
            raise NotModified
        with self._reader(store, found.container, listed, format_, ends_at) as opened:
            opened.source.ends_at = ends_at
            opened.source.reads_ahead = run is not None
            if format_.is_streamed:
                opened.source.expect(0, opened.source.size_bytes)
            elif not format_.held_bytes:  # other readers say themselves what they expect
                opened.source.expect(*((run.start, run.end) if run else (0, 0)))
            data = opened.reader.read(listed.where, limits.max_bytes, admit)
        return Fetched(data, version, len(data))

    def begin(self, uri: str, version: str, run: Run, deadline_sec: float) -> bool:
        """Begins to read what will be read together with a member.

        Args:
          uri, version: of the member, as listed.
          run: what is read together with it.
          deadline_sec: when that is given up.

        Returns:
          Whether it comes, or cannot; False to ask again, as where nothing was read yet of the
          container, or something else is just being read so.
        """
        found, listed = members.split(uri), members.split_version(version)
        last = self._last.get((found.container, listed.container)) if found and listed else None
        if last is None or listed is None:
            return False
        start, end = run.start, run.end
        if isinstance(last.reader, TableReader):
            start, end = last.reader.together(listed.where)
        return last.source.begin(start, end, time.monotonic() + deadline_sec)

    @contextlib.contextmanager
    def _in_turn(self, key: object, place: Place, ends_at: float) -> Iterator[None]:
        """One thread at a time; one that is stuck is not waited for by who comes later.

        Raises:
          ImageError: deadline: it is somebody else's turn until then.
        """
        with self._lock:
            turn = self._turns.setdefault(key, Turn())
        if not turn.acquire(ends_at - time.monotonic(), place):
            with self._lock:
                if self._turns.get(key) is turn:
                    del self._turns[key]
            raise ImageError(Reason.DEADLINE, LATE)
        try:
            yield
        finally:
            turn.release()

    @contextlib.contextmanager
    def _reader(
        self, store: Store, container: str, listed: MemberVersion, format_: Format, ends_at: float
    ) -> Iterator[_Open]:
        """A reader that nobody else uses meanwhile; there is only one if it keeps much."""
        key = container, listed.container
        place = members.place_of(listed.where)
        is_large = bool(format_.held_bytes)
        pool = self._idle[is_large]
        with self._in_turn(key, place, ends_at) if is_large else contextlib.nullcontext():
            with self._lock:
                idle = pool.get(key)
                opened = idle.pop() if idle else None
                if opened is not None:
                    self._give_back(id(opened.reader))
                elif is_large:
                    self._drop_those_without_room(pool)
            if opened is None:
                source = StoreSource(store, *key, self._blocks)
                opened = _Open(source, format_.open(source))
            try:
                yield opened
            except ImageError as e:
                if e.is_its_own:  # the next picture may be fine; after another error it is dropped
                    self._put_back(is_large, key, opened)
                raise
            self._put_back(is_large, key, opened)

    def _put_back(self, is_large: bool, key: tuple[str, str], opened: _Open) -> None:
        pool = self._idle[is_large]
        most = _KEPT_LARGE_READERS if is_large else _KEPT_READERS
        with self._lock:
            self._last[key] = opened
            pool.setdefault(key, []).append(opened)
            pool.move_to_end(key)
            while sum(map(len, pool.values())) > most:
                self._drop_oldest(pool)
            held = opened.reader.held_bytes
            while not self._room.has_taken(held):
                if next(iter(pool)) == key:
                    return
                self._drop_oldest(pool)
            self._taken[id(opened.reader)] = held

    def _drop_oldest(self, pool: _Readers) -> None:
        oldest, readers = next(iter(pool.items()))
        if readers:
            self._give_back(id(readers.pop(0).reader))
        if not readers:
            del pool[oldest]
            self._turns.pop(oldest, None)

    def _drop_those_without_room(self, pool: _Readers) -> None:
        """Before another one takes memory: what is kept although it did not fit."""
        for key, readers in list(pool.items()):
            readers[:] = [each for each in readers if id(each.reader) in self._taken]
            if not readers:
                del pool[key]
                self._turns.pop(key, None)

    def _give_back(self, holder: object) -> None:
        self._room.release(self._taken.pop(holder, 0))

    def _look_up(
        self,
        store: Store,
        found: MemberUri,
        format_: Format,
        silence_sec: float,
        renew: Callable[[], None],
    ) -> MemberVersion:
        """Where a member lies that is known by its name alone.

        Raises:
          ImageError: not_found, or why its container does not list it.
        """
        entry = store.stat(found.container)
        if entry is None:
            raise ImageError(Reason.NOT_FOUND, 'its file is not there')
        key = found.container, entry.version
        with self._turn_to_index(silence_sec, renew):
            if key not in self._indexes:
                self._check_failed(key)
                self._keep(key, self._index(store, key, format_, silence_sec, renew))
            self._indexes.move_to_end(key)
            index = self._indexes[key]
        if found.name not in index:
            raise ImageError(Reason.NOT_FOUND, 'its file has no picture of this name')
        return MemberVersion(entry.version, index[found.name])

    @contextlib.contextmanager
    def _turn_to_index(self, silence_sec: float, renew: Callable[[], None]) -> Iterator[None]:
        """One index at a time; whoever waits for it does so as long as it comes.

        Raises:
          ImageError: deadline: nothing of it came for so long.
        """
        with self._lock:
            turn = self._turns.setdefault(_INDEXING, Turn())
        while not turn.acquire(min(_LOOK_SEC, silence_sec)):
            renew()
            if time.monotonic() - self._index_came_at > silence_sec:
                with self._lock:
                    if self._turns.get(_INDEXING) is turn:
                        del self._turns[_INDEXING]
                raise ImageError(Reason.DEADLINE, LATE)
        self._index_came_at = time.monotonic()
        try:
            yield
        finally:
            turn.release()

    def _index(
        self,
        store: Store,
        key: tuple[str, str],
        format_: Format,
        silence_sec: float,
        renew: Callable[[], None],
    ) -> _Index:
        """Reads an index: so long as bytes come, and some speed is kept."""
        source = StoreSource(store, *key, self._blocks)
        source.ends_at = begun = time.monotonic()
        source.ends_at += silence_sec
        last = source.ends_at + source.size_bytes / _LEAST_BYTES_SEC

        def go_on() -> None:
            self._index_came_at = now = time.monotonic()
            source.ends_at = min(now + silence_sec, last)
            renew()

        source.expect(0, source.size_bytes)
        source.has_read = go_on
        try:
            return self._read_index(source, format_)
        except ImageError as e:
            lasts_sec = time.monotonic() - begun if e.reason in _MAY_PASS else math.inf
            self._without[key] = _NoIndex(e.reason, e.detail, time.monotonic() + lasts_sec)
            while len(self._without) > _KEPT_FAILURES:
                self._without.popitem(last=False)
            raise

    def _check_failed(self, key: tuple[str, str]) -> None:
        """Raises what has gone wrong with an index, which is not read again for each member."""
        failed = self._without.get(key)
        if failed is not None:
            if time.monotonic() < failed.until:
                raise ImageError(failed.reason, failed.detail)
            del self._without[key]

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
            self._give_back(self._indexes.popitem(last=False)[0])
        held = sum(_ENTRY_BYTES + len(name) + len(where) for name, where in index.items())
        while not self._room.has_taken(held):
            if len(self._indexes) == 1:
                return
            self._give_back(self._indexes.popitem(last=False)[0])
        self._taken[key] = held
