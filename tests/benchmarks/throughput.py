"""The whole job beside the tightest loop around the same model, and the bare model.

With the embedded model, and with BiT R50x1, whose weights are random: it takes as long.
"""

import collections
import contextlib
import datetime
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from unittest import mock

import apache_beam as beam
import numpy as np

from pipeline import options
from pipeline.commands import label
from pipeline.config import RunConfig, make_config
from pipeline.job.graph import build
from tests.benchmarks.images import write_jpegs
from tests.benchmarks.measure import Row, run_python
from tests.data.bit_reference import synthetic_weights
from transforms.core.resources import shared
from transforms.images.decode import decode
from transforms.model.predictor import Prediction, Predictor

_MIN_SHARE = 0.95
# Of the time of one image in a fresh process, with loader processes to without.
_MOST_TIMES = 1.1
_LOOP_THREADS = (2, 4, 16)
# As many batches as the pipeline loads ahead of the model.
_LOOK_AHEAD = 3


class _Span:
    """From the first batch that enters a model to the last one that leaves it.

    Attributes:
      wall_sec: of the clock.
      cpu_sec: of every thread of the process; other processes disturb it less.
    """

    def __init__(self) -> None:
        self.wall_sec = 0.0
        self.cpu_sec = 0.0
        self._started: tuple[float, float] | None = None

    def enter(self) -> None:
        if self._started is None:
            self._started = time.perf_counter(), time.process_time()

    def leave(self) -> None:
        wall, cpu = self._started
        self.wall_sec = time.perf_counter() - wall
        self.cpu_sec = time.process_time() - cpu


@contextlib.contextmanager
def _watched() -> Iterator[_Span]:
    span = _Span()
    call = Predictor.__call__

    def watched_call(predictor: Predictor, pixels: np.ndarray) -> Prediction:
        span.enter()
        result = call(predictor, pixels)
        span.leave()
        return result

    with mock.patch.object(Predictor, '__call__', watched_call):
        yield span


def run_pipeline(images: Path, output: Path, run_id: str, flags: Sequence[str]) -> RunConfig:
    """The whole job in this process: lists, loads, labels, writes and reports."""
    parser = ArgumentParser()
    options.add_label_arguments(parser)
    argv = ['--input', str(images), '--output', str(output), '--run_id', run_id, *flags]
    args, beam_options = label.parse_label_arguments(parser, argv)
    config = make_config(args, datetime.datetime.now(datetime.UTC))
    root = beam.Pipeline(options=beam_options)
    build(root, config)
    root.run().wait_until_finish()
    return config


def run_loop(paths: Sequence[Path], config: RunConfig, threads: int) -> None:
    """Decodes in threads and calls the model, as tightly as that can be written."""
    predictor = shared(Predictor, config.inference)
    resize, size = config.load.resize, config.load.batch_size

    def load(path: Path, pixels: np.ndarray) -> None:
        pixels[:] = decode(path.read_bytes(), resize)

    with ThreadPoolExecutor(threads) as pool:
        loading = collections.deque()
        for start in range(0, len(paths), size):
            pixels = np.zeros((size, resize.size_px, resize.size_px, 3), np.uint8)
            loading.append((pixels, pool.map(load, paths[start : start + size], pixels)))
            if len(loading) == _LOOK_AHEAD:
                _predict_next(predictor, loading)
        while loading:
            _predict_next(predictor, loading)


def _predict_next(predictor: Predictor, loading: collections.deque) -> None:
    pixels, loaded = loading.popleft()
    collections.deque(loaded, maxlen=0)
    predictor(pixels)


def run_model(batches: Sequence[np.ndarray], config: RunConfig) -> None:
    """Nothing but the model."""
    predictor = shared(Predictor, config.inference)
    for pixels in batches:
        predictor(pixels)


def compare(
    title: str,
    folder: Path,
    images: int,
    rounds: int,
    loop_threads: Sequence[int],
    flags: Sequence[str] = (),
    model_share: float | None = None,
) -> list[Row]:
    """Measures all of them in turns; `model_share` is the least of the bare model's rate."""
    paths = write_jpegs(folder / 'images', images)
    config = run_pipeline(folder / 'images', folder / 'warm', 'warm', flags)
    size = config.load.batch_size
    decoded = np.stack([decode(path.read_bytes(), config.load.resize) for path in paths[:size]])
    batches = [decoded] * -(-images // size)
    output = folder / 'output'
    tasks: dict[str, Callable[[int], object]] = {
        'pipeline': lambda i: run_pipeline(folder / 'images', output, f'round-{i}', flags),
        **{f'loop, {n} threads': lambda _, n=n: run_loop(paths, config, n) for n in loop_threads},
        'model': lambda _: run_model(batches, config),
    }
    spans: dict[str, list[_Span]] = {name: [] for name in tasks}
    for i in range(rounds):
        # There and back, so that none of them always follows the same one.
        for name in list(tasks)[:: -1 if i % 2 else 1]:
            with _watched() as span:
                tasks[name](i)
            spans[name].append(span)
    return _rows(title, spans, images, model_share)


def _rows(
    title: str, spans: dict[str, list[_Span]], images: int, model_share: float | None
) -> list[Row]:
    wall_sec = {name: median(span.wall_sec for span in each) for name, each in spans.items()}
    cpu_sec = {name: median(span.cpu_sec for span in each) for name, each in spans.items()}
    best = min((name for name in spans if name.startswith('loop')), key=wall_sec.__getitem__)

    def times_as_fast(other: str) -> float:
        # A ratio a round, so that what slows a whole round down cancels out.
        pairs = zip(spans['pipeline'], spans[other], strict=True)
        return median(b.wall_sec / a.wall_sec for a, b in pairs)

    # Of the rounds that were disturbed least.
    fastest_sec = {name: min(span.wall_sec for span in each) for name, each in spans.items()}
    at_best = fastest_sec[best] / fastest_sec['pipeline']
    return [
        *(Row(f'{title}, {name}: rate', images / wall_sec[name], 'images/s') for name in spans),
        *(
            Row(f'{title}, {name}: CPU', 1000 * cpu_sec[name] / images, 'ms an image')
            for name in spans
        ),
        Row(
            f'{title}: rate, pipeline / best loop ({best})',
            times_as_fast(best),
            at_least=_MIN_SHARE,
        ),
        Row(f'{title}: fastest rounds, pipeline / best loop ({best})', at_best),
        Row(f'{title}: rate, pipeline / model', times_as_fast('model'), at_least=model_share),
        Row(f'{title}: CPU, pipeline / best loop ({best})', cpu_sec['pipeline'] / cpu_sec[best]),
    ]


def fresh_process(folder: Path, images: int) -> list[Row]:
    """`lemmabeam label` from its start to its end, imports and loading the model included."""
    arguments = ('--input', folder / 'images', '--output', folder / 'fresh')
    process = run_python('-m', 'pipeline', 'label', *arguments)
    name = f'fresh process, {images} images'
    return [
        Row(f'{name}: from start to end', process.wall_sec, 's'),
        Row(f'{name}: rate, start and end included', images / process.wall_sec, 'images/s'),
    ]


def one_image(folder: Path, rounds: int) -> list[Row]:
    """One image in a fresh process, with loader processes and without in turns."""
    write_jpegs(folder / 'images', 1)
    ways = {'loader processes': (), 'no loader process': ('--loader_processes', '0')}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            output = folder / f'output {name} {i}'
            arguments = ('--input', folder / 'images', '--output', output, *ways[name])
            seconds[name].append(run_python('-m', 'pipeline', 'label', *arguments).wall_sec)
    with_them, without = (median(each) for each in seconds.values())
    name = 'one image in a fresh process'
    return [
        *(Row(f'{name}, {way}', median(each), 's') for way, each in seconds.items()),
        Row(f'{name}: time with loader processes / without', with_them / without, '', _MOST_TIMES),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    images, rounds = (64, 1) if is_quick else (1000, 3)
    rows = compare('embedded', folder, images, rounds, _LOOP_THREADS)
    rows += fresh_process(folder, images)
    rows += one_image(folder / 'one', 1 if is_quick else 5)
    name, images, rounds = ('R14x1', 8, 1) if is_quick else ('R50x1', 96, 3)
    model = export_random(folder, name)
    flags = ('--model', str(model), '--canary', 'finite', '--batch_size', '8')
    bit = folder / 'bit'
    return [*rows, *compare(f'{name}, batch 8', bit, images, rounds, (4,), flags, _MIN_SHARE)]


def export_random(folder: Path, name: str) -> Path:
    """A SavedModel of a BiT network with random weights."""
    npz, model = folder / f'BiT-M-{name}.npz', folder / 'model'
    np.savez(npz, **synthetic_weights.make_weights(name, 0))
    run_python('-m', 'pipeline', 'export-model', '--weights', npz, '--output', model)
    npz.unlink()
    return model
