"""How images are loaded."""

from collections.abc import Callable
from typing import NamedTuple

from transforms.core.limits import PixelLimits
from transforms.core.resources import cpu_count
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.uris import scheme_of
from transforms.images import decode
from transforms.images.decode import OpenedImage
from transforms.images.resize import Resize
from transforms.loading.fetches import Patience
from transforms.storage.base import FetchLimits, Store

Open = Callable[[bytes, Resize, PixelLimits], OpenedImage]
OpenStore = Callable[[str, StoreOptions], Store]


class LoadOptions(NamedTuple):
    """How images are loaded.

    Attributes:
      resize: the square a model takes.
      batch_size: slots per batch.
      fetch: limits for one fetch.
      pixels: limits for one picture.
      memory_budget_bytes: encoded and decoded images in flight, half of it each; batches that are
        loaded ahead take a quarter of it on top.
      threads: images that each loader process, or this process if there is none, fetches at a time;
        a loader process decodes one at a time, this process as many as it has cores.
      stores: how stores are reached.
      processes: number of loader processes; None is one per core of the machine it runs on, 0 loads
        in threads of this process.
      decode_deadline_sec: longest time a loader process may decode one picture.
      image_column: of tables that hold pictures; '' is found.
      patience: with fetches and decoders that do not return.
      open_image: reads the header of a picture; for tests of decoders that crash or hang.
      open_store: returns the store of a URI; for tests of stores that do.
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
    image_column: str = ''
    patience: Patience = Patience()
    open_image: Open = decode.open_image
    open_store: OpenStore | None = None

    def may_ask(self, uri: str, busy: int) -> bool:
        """Whether the host of an image may be asked for it, with so many in progress there.

        The store holds it to its bound in any case; who waits there keeps a thread from others.
        """
        most = self.stores.http.requests_per_host
        return not most or busy < most or scheme_of(uri) not in ('http', 'https')

    @property
    def process_count(self) -> int:
        """Loader processes on this machine."""
        return cpu_count() if self.processes is None else self.processes
