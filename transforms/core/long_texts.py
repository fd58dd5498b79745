"""Long carried values, kept on disk while the elements they belong to travel.

The local runner holds each element between two steps in memory, several times over.  What a line
carries may be hundreds of times as long as the rest of it.
"""

import contextlib
import hashlib
import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')

LONG_CHARS = 1000
"""From where on a text is long: shorter ones take no more than the element around them."""

MARK = '@'
"""What stands for a long text begins with it, and no JSON does, which carried values are."""


class LongTexts:
    """Replaces long texts by short ones, and back; thread-safe.

    Outside an `on_disk` block long texts stay as they are: the element may be read by another
    process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._is_full = False
        self._places: dict[bytes, str] = {}

    @property
    def are_on_disk(self) -> bool:
        """Whether `shorten` does anything."""
        return self._descriptor is not None

    @contextlib.contextmanager
    def on_disk(self) -> Iterator[None]:
        """Keeps long texts in a temporary file, which is removed afterwards, or with the process.

        Blocks of several threads share it, and the last one removes it.  If none can be created,
        they stay in memory.
        """
        with self._lock:
            self._blocks += 1
            if self._descriptor is None:
                with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
                    self._descriptor = os.dup(file.fileno())
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._size_bytes, self._is_full = None, 0, False
        self._places.clear()

    def shorten(self, text: str) -> str:
        """A short text for a long one; equal texts, and only these, give the same one.

        When the disk is full, texts that are not on it yet are left as they are.
        """
        if len(text) < LONG_CHARS or self._descriptor is None:
            return text
        data = text.encode()
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            place = self._places.get(key)
            if place is None and self._descriptor is not None and not self._is_full:
                try:
                    _write(self._descriptor, data, self._size_bytes)
                except OSError:
                    self._is_full = True
                    return text
                place = f'{MARK}{self._size_bytes}:{len(data)}'
                self._size_bytes += len(data)
                self._places[key] = place
        return place or text

    def lengthen(self, text: str) -> str:
        """The text that `shorten` replaced by this one, or the text itself."""
        if not text.startswith(MARK):
            return text
        assert self._descriptor is not None, 'taken where it was not put'
        start, _, length = text[1:].partition(':')
        return _read(self._descriptor, int(start), int(length)).decode()


def _write(descriptor: int, data: bytes, start: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], start + done)


def _read(descriptor: int, start: int, length: int) -> bytes:
    data = b''
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            raise EOFError(f'{length} bytes at {start} are no longer there')
        data += more
    return data


LONG_TEXTS = LongTexts()
"""Those of this process."""


def in_order(
    rows: Iterable[T], uri_of: Callable[[T], str], carried_of: Callable[[T], str]
) -> list[T]:
    """Rows sorted by URI and carried values, shortened or not."""
    ordered: list[T] = []
    for _, found in itertools.groupby(sorted(rows, key=uri_of), uri_of):
        alike = list(found)
        if len(alike) > 1:
            alike.sort(key=lambda row: LONG_TEXTS.lengthen(carried_of(row)))
        ordered += alike
    return ordered
