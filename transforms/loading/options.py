"""How images are loaded."""

from collections.abc import Callable
from typing import NamedTuple

from transforms.core.resources import cpu_count
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.images import decode
from transforms.images.decode import OpenedImage
from transforms.images.limits import PixelLimits
from transforms.images.resize import Resize
from transforms.loading.fetches import Patience
from transforms.storage.base import FetchLimits, Store

Open = Callable[[bytes, Resize, PixelLimits], OpenedImage]
OpenStore = Callable[[str, StoreOptions], Store]


class LoadOptions(NamedTuple):
    """How images are loaded.

    Attributes:
      resize: the square a model takes.
      batch_size: slots a batch.
      fetch: limits of one fetch.
      pixels: limits of one picture.
      memory_budget_bytes: encoded and decoded images in flight, half of it for each; batches that
        are loaded ahead have a quarter of it on top.
      threads: images that each loader process fetches at a time, or this one if there is none; it
        decodes one at a time, or as many as there are cores if there is no loader process.
      stores: how stores are reached.
      processes: loader processes; None is one a core of the machine it runs on, 0 loads in threads
        of this process.
      decode_deadline_sec: so long a loader process may decode one picture.
      patience: with fetches and decoders that do not come back.
      open_image: what reads the header of a picture, for tests of decoders that do worse than fail.
      open_store: what gives the store of a URI, for tests of stores that do.
    """

    resize: Resize
    batch_size: int
    fetch: FetchLimits
    pixels: PixelLimits
    memory_budget_bytes: int
    threads: int
    stores: StoreOptions = DEFAULT_OPTIONS
    processes: int | None = None
    decode_deadline_sec: float = 60.0
    patience: Patience = Patience()
    open_image: Open = decode.open_image
    open_store: OpenStore | None = None

    @property
    def process_count(self) -> int:
        """Loader processes on this machine."""
        return cpu_count() if self.processes is None else self.processes
