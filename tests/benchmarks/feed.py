"""How busy the steps behind the loader keep an accelerator, and what an image costs its process.

The accelerator is simulated: it takes its time without the interpreter's lock, and gives the same
labels to every batch. Batches come ready-made, so that nothing is fetched or decoded; or the real
loader makes them, for an accelerator that takes a share of what bare decoders reach on all cores.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import apache_beam as beam
import numpy as np

from tests.benchmarks.images import link_jpegs, write_jpegs
from tests.benchmarks.loading import OPTIONS, Bare
from tests.benchmarks.measure import Row
from transforms.core.elements import Batch, Chunk, Image, Item
from transforms.core.fail_fast import FailFast
from transforms.core.resources import shared
from transforms.label import LabelImages
from transforms.load import LoadImages
from transforms.model.predictor import InferenceOptions, Prediction
from transforms.model.resolve import resolve_model
from transforms.output.layout import Layout
from transforms.sources.inputs import Columns
from transforms.sources.preflight import Preflight

_BATCH = 128
_CHUNK = 1024
_LABELS = 5
# Milliseconds a batch, and the least share of the time that the accelerator must be at work.
_TARGETS = {46: 0.97, 12: 0.90}
_MAX_CPU_MSEC = 0.15
# What an accelerator takes of the rate of bare decoders, and its target behind the loader.
_SHARE_OF_BARE = 0.7
_LOADED_TARGET = 0.95


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Makes a simulated accelerator; equal ones share it, see `transforms.core.resources.shared`.

    Attributes:
      batch_msec: what a batch takes.
      run: which run it is for.
    """

    batch_msec: float
    run: str

    def __call__(self, options: InferenceOptions) -> 'Accelerator':
        return Accelerator(options, self.batch_msec / 1000)


class Accelerator:
    """Sleeps instead of computing; measures from its first call to the end of its last one.

    Attributes:
      computed: as of a model.
      calls: how many batches it was given.
      wall_sec: of the clock.
      cpu_sec: of all threads of the process.
    """

    def __init__(self, options: InferenceOptions, batch_sec: float):
        self._batch_sec = batch_sec
        shape = (options.batch_size, options.max_labels)
        ranks = np.arange(options.max_labels)
        self._found = Prediction(
            np.tile(97 * ranks, (shape[0], 1)).astype(np.int32),
            np.tile(1 / (2.0 + ranks), (shape[0], 1)).astype(np.float32),
            np.full(shape[0], options.max_labels, np.int32),
            None,
        )
        names = ('network', 'precision', 'backend', 'device')
        self.computed: dict[str, Any] = dict.fromkeys(names, 'none')
        self.computed |= {'features': None, 'batch_size': options.batch_size}
        self.calls = 0
        self.wall_sec = self.cpu_sec = 0.0
        self._started = (0.0, 0.0)

    def __call__(self, pixels: np.ndarray) -> Prediction:
        if not self.calls:
            self._started = time.perf_counter(), time.process_time()
        self.calls += 1
        time.sleep(self._batch_sec)
        wall, cpu = self._started
        self.wall_sec = time.perf_counter() - wall
        self.cpu_sec = time.process_time() - cpu
        return self._found

    @property
    def busy_share(self) -> float:
        """Share of the time that a device of this speed would have been at work."""
        return self.calls * self._batch_sec / self.wall_sec

    @property
    def cpu_msec_per_image(self) -> float:
        """What an image costs the process, everything counted."""
        return 1000 * self.cpu_sec / (self.calls * _BATCH)


class _GiveBatchesDoFn(beam.DoFn):
    """In place of the loader: the batches of a chunk, all with the same pixels."""

    def __init__(self, side_px: int):
        self._side_px = side_px

    def setup(self) -> None:
        self._pixels = np.zeros((_BATCH, self._side_px, self._side_px, 3), np.uint8)
        self._items = [
            Item(f'gs://bucket/photos/{i:08d}.jpg', '1', 1, ['[]']) for i in range(_CHUNK)
        ]
        self._outcomes = [Image('1', f'{i:064x}', 500, 375, 'JPEG', 40_000) for i in range(_BATCH)]

    def process(self, number: int) -> Iterator[Batch]:
        chunk = Chunk(f'{number:016x}', self._items)
        for start in range(0, _CHUNK, _BATCH):
            timings = dict.fromkeys(('fetch', 'decode', 'fetch_wait', 'decode_wait'), 0.0)
            yield Batch(chunk, start, self._outcomes, self._pixels, timings)


class _GiveBatches(beam.PTransform):
    """PCollection[int] to PCollection[Batch]: ready-made ones, see `_GiveBatchesDoFn`."""

    def expand(self, numbers: beam.PCollection[int]) -> beam.PCollection[Batch]:
        give = _GiveBatchesDoFn(OPTIONS.resize.size_px)
        return numbers | 'Give' >> beam.ParDo(give).with_output_types(Batch)


class _LoadBatches(beam.PTransform):
    """The same from the real loader: each chunk has all images of a folder."""

    def __init__(self, images: Path, layout: Layout):
        super().__init__()
        self._items = [Item(str(path), '', -1, ['[]']) for path in sorted(images.iterdir())]
        self._layout = layout

    def expand(self, numbers: beam.PCollection[int]) -> beam.PCollection[Batch]:
        options = OPTIONS._replace(batch_size=_BATCH)
        preflight = Preflight((), Columns('uri', (), ()), options.fetch, self._layout)
        items = self._items
        return (
            numbers
            | 'MakeChunks'
            >> beam.Map(lambda number: Chunk(f'{number:016x}', items)).with_output_types(Chunk)
            | LoadImages(options, preflight, FailFast(100, self._layout.run_id))
        )


def feed(
    output: Path, run_id: str, batch_msec: float, chunks: int, images: Path | None = None
) -> Accelerator:
    """Lets a pipeline label so many chunks; the accelerator, which knows how busy it was.

    Args:
      output: where rows go.
      run_id: no other feed has it.
      batch_msec: what the accelerator takes for a batch.
      chunks: of `_CHUNK` images each.
      images: a folder of as many, which are loaded; without it, batches are ready-made.
    """
    source = resolve_model('embedded')
    options = InferenceOptions(source, _BATCH, 0.05, _LABELS, 0, 1)
    make = Simulated(batch_msec, run_id)
    layout = Layout(str(output), run_id, source.id, (), (), 10**6)
    root = beam.Pipeline(runner='FnApiRunner')
    numbers = root | 'Numbers' >> beam.Create(range(chunks), reshuffle=False)
    batches = numbers | 'Batches' >> (
        _LoadBatches(images, layout) if images is not None else _GiveBatches()
    )
    _ = batches | 'LabelImages' >> LabelImages(options, FailFast(100, run_id), layout, make)
    root.run().wait_until_finish()
    accelerator = shared(make, options)
    assert accelerator.calls == chunks * _CHUNK // _BATCH
    return accelerator


def bare_share(batch_msec: float, batches: int) -> float:
    """The same of a loop that does nothing else: what can be reached on this machine just now."""
    started = time.perf_counter()
    for _ in range(batches):
        time.sleep(batch_msec / 1000)
    return batches * batch_msec / 1000 / (time.perf_counter() - started)


def loaded_rows(folder: Path, distinct: int, rounds: int, seconds: float) -> list[Row]:
    """Behind the real loader, with an accelerator for which the cores suffice."""
    paths = write_jpegs(folder / 'distinct', distinct)
    link_jpegs(folder / 'images', _CHUNK, paths)
    bare = Bare(folder / 'images')
    bare()  # files are read
    rates, each = [], []
    for i in range(rounds):
        started = time.perf_counter()
        bare()
        rates.append(_CHUNK / (time.perf_counter() - started))
        batch_msec = 1000 * _BATCH / (_SHARE_OF_BARE * rates[-1])
        chunks = max(1, round(seconds * _SHARE_OF_BARE * rates[-1] / _CHUNK))
        run_id = f'loaded-{i}'
        each.append(feed(folder / 'output', run_id, batch_msec, chunks, folder / 'images'))
    bare.end()
    name = f'500x375 JPEGs, accelerator of {_SHARE_OF_BARE:g} of the bare decoders'
    busy = median(accelerator.busy_share for accelerator in each)
    cpu_msec = median(accelerator.cpu_msec_per_image for accelerator in each)
    return [
        Row('500x375 JPEGs, bare decoders on all cores', median(rates), 'images/s'),
        Row(f'{name}: share of the time at work', busy, at_least=_LOADED_TARGET),
        Row(f'{name}: CPU of its process', cpu_msec, 'ms an image', at_most=_MAX_CPU_MSEC),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    rounds, seconds = (1, 1.0) if is_quick else (5, 10.0)
    found: dict[int, list[Accelerator]] = {msec: [] for msec in _TARGETS}
    bare: dict[int, list[float]] = {msec: [] for msec in _TARGETS}
    for i in range(rounds):
        for msec, each in found.items():
            chunks = max(1, round(1000 * seconds / msec * _BATCH / _CHUNK))
            each.append(feed(folder / 'output', f'round-{i}-{msec}', msec, chunks))
            bare[msec].append(bare_share(msec, each[-1].calls))
    rows = []
    for msec, each in found.items():
        name = f'accelerator of {msec} ms a batch of {_BATCH}'
        busy = median(accelerator.busy_share for accelerator in each)
        # A ratio a round, so that what slows a whole round down cancels out.
        pairs = zip(each, bare[msec], strict=True)
        of_bare = median(accelerator.busy_share / share for accelerator, share in pairs)
        cpu_msec = median(accelerator.cpu_msec_per_image for accelerator in each)
        rows += [
            Row(f'{name}: share of the time at work', busy, at_least=_TARGETS[msec]),
            Row(f'{name}: the same of a loop that only sleeps', median(bare[msec])),
            Row(f'{name}: share, pipeline / loop', of_bare),
            Row(f'{name}: CPU of its process', cpu_msec, 'ms an image', at_most=_MAX_CPU_MSEC),
        ]
    distinct = 16 if is_quick else 800
    return [*rows, *loaded_rows(folder / 'loaded', distinct, rounds, seconds)]
