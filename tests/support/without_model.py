"""`lemmabeam` without network, decoder and store of images: many images in little time.

Run as `python -m tests.support.without_model [--labels N] [--objects N] [--real_fetch] label …`:
every image has N labels with scores made of its bytes (default 3), and can be read, or is really
fetched.
With --objects, --input gs://synthetic/photos lists so many.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Beam logs what it misses while it is being imported.
logging.basicConfig(level=logging.ERROR)

from transforms import label as label_step  # noqa: E402
from transforms.core.elements import Image, Item  # noqa: E402
from transforms.loading import image  # noqa: E402
from transforms.model.predictor import InferenceOptions, Prediction  # noqa: E402
from transforms.sources import listing, preflight  # noqa: E402
from transforms.storage import registry  # noqa: E402
from transforms.storage.base import Entry, Fetched, FetchLimits  # noqa: E402

IN_THREADS = ('--loader_processes', '0')
"""Of runs in this process: what is put in the place of something is there for its threads only.

Loader processes are what test_loading looks at, and what every command in a process of its own has.
"""


def in_threads(arguments: list[str]) -> list[str]:
    """A command line whose images are loaded in threads, unless it says otherwise."""
    loads = arguments[:1] in (['label'], ['retry']) and '--help' not in arguments
    if loads and IN_THREADS[0] not in arguments:
        return [*arguments[:1], *IN_THREADS, *arguments[1:]]
    return arguments


class Predictor:
    """Gives every image so many labels, other ones for other bytes; takes no time.

    `labels` is set on the class, as what makes one takes the options of a run only.
    """

    labels = 3

    def __init__(self, options: InferenceOptions):
        self._shape = (options.batch_size, options.max_labels)
        self._classes = len(options.model.vocabulary)
        count = min(self.labels, options.max_labels)
        self._counts = np.full(options.batch_size, count, np.int32)
        names = ('network', 'precision', 'backend', 'device')
        self.computed: dict[str, Any] = dict.fromkeys(names, 'none')
        self.computed |= {'features': None, 'batch_size': options.batch_size}

    def __call__(self, pixels: np.ndarray) -> Prediction:
        digests = np.ascontiguousarray(pixels[:, 0, :4].reshape(len(pixels), 12)[:, :8])
        seeds = digests.view(np.uint64)
        ranks = np.arange(self._shape[1], dtype=np.uint64)
        indices = ((seeds + 97 * ranks) % np.uint64(self._classes)).astype(np.int32)
        random = (seeds * (2 * ranks + 1) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        scores = -np.sort(-(random / 2**24).astype(np.float32))
        return Prediction(indices, scores, self._counts, None)


def decode(
    loader: image.ImageLoader, item: Item, data: bytes, version: str, pixels: np.ndarray
) -> Image:
    """In place of `ImageLoader._decode`: the bytes need be no picture."""
    digest = hashlib.sha256(data)
    pixels[0, :4].reshape(12)[:8] = np.frombuffer(digest.digest()[:8], np.uint8)
    return Image(version, digest.hexdigest(), 500, 375, 'JPEG', len(data))


class Store:
    """Holds so many objects, and any image that is asked for."""

    def __init__(self, objects: int):
        self._objects = objects

    def stat(self, uri: str) -> None:
        return None

    def is_folder(self, uri: str) -> bool:
        return True

    def list(self, folder: str) -> Iterator[Entry]:
        for i in range(self._objects):
            yield Entry(f'{folder}/camera-{i % 97:02d}/image-{i:08d}.jpg', '1-1', 40_000)

    def fetch(
        self, uri: str, limits: FetchLimits, admit: Callable[[int], None], unless: str = ''
    ) -> Fetched:
        return Fetched(uri.encode(), '1-1', len(uri.encode()))


def install(labels: int = 3, objects: int = 0, real_fetch: bool = False) -> None:
    """Puts it in place in this process, before a pipeline is made or a bundle processed."""
    Predictor.labels = labels
    # In place of the names that the step, the loader and the sources look up.
    label_step.Predictor = Predictor  # type: ignore[attr-defined,assignment]
    image.ImageLoader._decode = decode  # type: ignore[method-assign,assignment]
    store = Store(objects)
    if objects:
        for module in (listing, preflight):
            module.store_for = lambda uri, *options: (  # type: ignore[attr-defined]
                store if uri.startswith('gs://synthetic') else registry.store_for(uri, *options)
            )
    if not real_fetch:
        image.store_for = lambda *_: store  # type: ignore[attr-defined,assignment]


def run(
    labels: int = 3, objects: int = 0, real_fetch: bool = False, argv: list[str] | None = None
) -> int:
    """Runs a command line, by default that of this process; its exit code."""
    from pipeline.main import main

    install(labels, objects, real_fetch)
    return main(in_threads(sys.argv[1:] if argv is None else argv))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--labels', type=int, default=3)
    parser.add_argument('--objects', type=int, default=0)
    parser.add_argument('--real_fetch', action='store_true')
    ours, rest = parser.parse_known_args(sys.argv[1:])
    sys.exit(run(ours.labels, ours.objects, ours.real_fetch, rest))
