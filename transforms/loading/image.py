"""One image, in whatever thread or process: fetched, decoded and resized into its slot."""

import contextlib
import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from transforms.core import members
from transforms.core.elements import Failure, Image, Item, Outcome, Stage, Unchanged
from transforms.core.errors import ImageError
from transforms.core.members import Run
from transforms.core.reasons import Reason
from transforms.core.suffixes import IMAGE_SUFFIXES
from transforms.images import decode
from transforms.loading.budget import Budget, Kept, SharedBudget
from transforms.loading.fetches import Fetches
from transforms.loading.options import LoadOptions
from transforms.storage.base import Fetched, NotModified
from transforms.storage.containers.base import Wanted
from transforms.storage.containers.fetch import MemberFetcher
from transforms.storage.registry import store_for

NO_MEMORY = 'there was not enough memory for it'

Watch = Callable[[Item], contextlib.AbstractContextManager[None]]


class Loaded(NamedTuple):
    """How the loading of an image ended.

    Attributes:
      outcome: what is known of it; its pixels are in its slot.
      fetch_sec, decode_sec: seconds of a thread; `decode_sec` is 0 if it was not fetched.
      retries: how many tries to fetch it failed first.
    """

    outcome: Outcome
    fetch_sec: float
    decode_sec: float
    retries: int


class ImageLoader:
    """Loads images, in any number of threads.

    Args:
      options: how.
      encoded, decoded: budgets for the bytes of files, and for pictures.
      decoding: held while one is decoded.
      watch: returns a context for each call into a decoder, which may not return.
      fetches: told of each fetch.
    """

    def __init__(
        self,
        options: LoadOptions,
        encoded: SharedBudget,
        decoded: Budget,
        decoding: contextlib.AbstractContextManager[object],
        watch: Watch,
        fetches: Fetches,
    ):
        self._options = options
        self._encoded = encoded
        self._decoded = decoded
        self._decoding = decoding
        self._watch = watch
        self._fetches = fetches
        self._kept = Kept(encoded.share, encoded.share_bytes)
        wanted = Wanted(IMAGE_SUFFIXES, options.image_column)
        self._members = MemberFetcher(wanted, self._kept)

    @property
    def held_bytes(self) -> int:
        """Bytes that files and pictures hold here; shares of a common budget are not counted.

        Nor is what is kept of files with images inside.
        """
        budgets = (self._encoded, self._decoded)
        shares = (each.share if isinstance(each, SharedBudget) else each for each in budgets)
        return sum(share.used_bytes for share in shares) - self._kept.used_bytes

    def load(
        self, item: Item, pixels: np.ndarray, ticket: object = None, run: Run | None = None
    ) -> Loaded:
        """Loads an image into its slot, a (S, S, 3) uint8 array, which is undefined on failure.

        Args:
          item: the image.
          pixels: its slot.
          ticket: what `Fetches.overdue` gives for it.
          run: what is read together with it.

        Raises:
          StoreError: a fault that is not a single image's.
          GivenUpError: it was given up meanwhile; the slot was not touched.
        """
        started = time.perf_counter()
        stage = Stage.FETCH
        size_bytes = item.size_bytes
        version = item.version
        fetched_at = decode_at = started
        retries = 0
        try:
            with self._encoded.admission() as admit:
                fetched = self._fetch(item, admit, ticket, run)
                data, version, retries = fetched.data, fetched.version, fetched.retries
                size_bytes = len(data)
                fetched_at = time.perf_counter()
                if item.digest and item.digest == hashlib.sha256(data).hexdigest():
                    same = Unchanged(version, item.digest)
                    return Loaded(same, fetched_at - started, 0.0, retries)
                stage = Stage.DECODE
                with self._decoding:
                    decode_at = time.perf_counter()
                    image = self._decode(item, data, version, pixels)
        except ImageError as e:
            known_bytes = e.size_bytes if e.size_bytes is not None else size_bytes
            outcome: Outcome = Failure(
                stage,
                e.reason,
                e.detail,
                known_bytes if known_bytes >= 0 else None,
                e.version or version,
                e.is_its_own,
            )
        except MemoryError:
            known = size_bytes if size_bytes >= 0 else None
            outcome = Failure(stage, Reason.DECODER_CRASHED, NO_MEMORY, known, version)
        except NotModified:
            outcome = Unchanged(item.known)
        else:
            outcome = image
        ended = time.perf_counter()
        if stage is Stage.FETCH:
            return Loaded(outcome, ended - started, 0.0, retries)
        return Loaded(outcome, fetched_at - started, ended - decode_at, retries)

    def begin(self, item: Item, run: Run) -> bool:
        """Begins to read what will be read together with an image, see `MemberFetcher.begin`."""
        return self._members.begin(item.uri, item.version, run, self._options.fetch.deadline_sec)

    def _fetch(
        self, item: Item, admit: Callable[[int], None], ticket: object, run: Run | None
    ) -> Fetched:
        """The object that was listed, or what has taken its place since: that comes twice.

        A checksum does not tell whether the bytes are those of another object, together with its
        headers.
        """
        store = (self._options.open_store or store_for)(item.uri, self._options.stores)

        def make_room(size_bytes: int) -> None:
            with self._fetches.paused():
                admit(size_bytes)

        def ask() -> Fetched:
            admit(0)
            uri = item.access or item.uri
            limits = self._options.fetch
            with self._fetches.one(ticket, lambda: admit(0)):
                if members.is_member(item.uri, item.version):
                    return self._members.fetch(
                        store,
                        item.uri,
                        item.version,
                        limits,
                        make_room,
                        item.known,
                        run,
                        self._fetches.renew,
                    )
                return store.fetch(uri, limits, make_room, item.known)

        fetched = ask()
        if _is_listed(fetched, item):
            return fetched
        again = ask()
        is_same = (again.version, again.size_bytes) == (fetched.version, fetched.size_bytes)
        if not _is_listed(again, item):
            if again.version == item.version:
                detail = f'{again.size_bytes} bytes, but the listing says {item.size_bytes}'
                raise ImageError(Reason.CHECKSUM, detail, again.size_bytes)
            if not is_same:
                raise ImageError(Reason.CHANGED_WHILE_READING, 'a different version at each try')
        return again._replace(retries=fetched.retries + 1 + again.retries)

    def _decode(self, item: Item, data: bytes, version: str, pixels: np.ndarray) -> Image:
        with self._watch(item):
            opened = self._options.open_image(data, self._options.resize, self._options.pixels)
        with self._decoded.reserve(opened.working_bytes), self._watch(item):
            pixels[:] = decode.render(opened, self._options.resize)
        return Image(
            version,
            hashlib.sha256(data).hexdigest(),
            opened.width,
            opened.height,
            opened.format,
            len(data),
        )


def overdue(item: Item, deadline_sec: float) -> Loaded:
    """The result for an image whose fetch was given up."""
    size_bytes = item.size_bytes if item.size_bytes >= 0 else None
    detail = f'no answer within {deadline_sec:g} s'
    failure = Failure(Stage.FETCH, Reason.DEADLINE, detail, size_bytes, item.version)
    return Loaded(failure, deadline_sec, 0.0, 0)


def _is_listed(fetched: Fetched, item: Item) -> bool:
    """Whether version and size are those of the listing, as far as these are known."""
    has_size = item.size_bytes < 0 or fetched.size_bytes == item.size_bytes
    return has_size and fetched.version == (item.version or fetched.version)
