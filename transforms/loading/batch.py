"""A batch whose images are being loaded."""

import threading
from collections.abc import Sequence

import numpy as np

from transforms.core.elements import Chunk, Image, Item
from transforms.core.members import Run
from transforms.loading.image import Loaded


class LoadingBatch:
    """Collects the results of one batch; whoever loads its images reports them here.

    Attributes:
      chunk: the chunk it belongs to.
      start: index in the chunk of the image in slot 0.
      items: what the slots will hold.
      pixels: (batch_size, S, S, 3) uint8, filled while images load.
      offset: where the pixels start in the memory shared with loader processes, if they are in it.
      is_cancelled: whether nobody waits for it any longer.
    """

    def __init__(
        self,
        chunk: Chunk,
        start: int,
        pixels: np.ndarray,
        offset: int = 0,
        runs: Sequence[Run | None] = (),
    ):
        self.chunk = chunk
        self.start = start
        self.items: Sequence[Item] = chunk.items[start : start + len(pixels)]
        self.pixels = pixels
        self.offset = offset
        self._runs = runs[start : start + len(pixels)]
        self.is_cancelled = False
        self._loaded: dict[int, Loaded] = {}
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def run(self, slot: int) -> Run | None:
        """What is read together with an image; None if it is read alone."""
        return self._runs[slot] if self._runs else None

    @property
    def is_ready(self) -> bool:
        """Whether `result` would not wait."""
        return self._ended.is_set()

    @property
    def loaded_slots(self) -> list[int]:
        """The slots of images that are loaded or failed, in the order in which they ended."""
        return list(self._loaded)

    @property
    def missing(self) -> Item | None:
        """The first image that is still missing."""
        slots = (slot for slot in range(len(self.items)) if slot not in self._loaded)
        return next((self.items[slot] for slot in slots), None)

    def cancel(self) -> None:
        """Images that were not started are no longer wanted."""
        self.is_cancelled = True

    def put(self, slot: int, loaded: Loaded) -> None:
        """Records that an image is loaded, or failed."""
        self._loaded[slot] = loaded
        if len(self._loaded) == len(self.items):
            self._ended.set()

    def fail(self, error: BaseException) -> None:
        """Records that the batch cannot be loaded, through no fault of an image."""
        self._error = self._error or error
        self._ended.set()

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Waits; returns whether it is complete."""
        return self._ended.wait(timeout_sec)

    def result(self) -> list[Loaded]:
        """Waits for all images, and empties the slots of those that failed.

        Raises:
          LemmabeamError: what `fail` was told.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        loaded = [self._loaded[slot] for slot in range(len(self.items))]
        for slot, each in enumerate(loaded):
            if not isinstance(each.outcome, Image):
                self.pixels[slot] = 0
        self.pixels[len(loaded) :] = 0
        return loaded
