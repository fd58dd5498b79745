"""What a scheduled run costs: durable progress, and a second run that finds nothing new."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.images import jpeg, link_jpegs, write_jpegs
from tests.benchmarks.measure import Process, Row, run_python
from transforms.storage.local import LocalStore

_MOST_USEC = 150
_START_SEC = 15
_MOST_MB = 2500
_LEAST_RATE = 0.97

# What the run does is real; afterwards it tells whether TensorFlow was needed for it.
_LABEL = """
import sys
from pipeline.main import main
code = main(sys.argv[1:])
print('tensorflow' in sys.modules, file=sys.stderr)
sys.exit(code)
"""
_WITHOUT_PROGRESS = f"""
from transforms import resume as finished
finished.find = lambda layout, chunk: finished.Found(None, 0)
finished.find_parts = lambda layout, chunk, most=None: finished.Parts([], 0)
finished.keep = lambda layout, chunk, data: data
{_LABEL}"""


def _second_run(output: Path, process: Process, images: int) -> None:
    """Makes sure that it did what is measured."""
    reports = [json.loads(path.read_text()) for path in output.glob('runs/*/report.json')]
    second = max(reports, key=lambda report: report['sequence'])
    fetch_sec = second['stage_thread_sec'].get('fetch', 0)
    if second['counts']['unchanged'] != images or fetch_sec or 'True' in process.errors:
        raise RuntimeError(f'{second["counts"]}, {fetch_sec} s of fetching; {process.errors}')


def unchanged_files(folder: Path, images: int) -> list[Row]:
    """A second run over real files, with the real model that it need not load."""
    paths = [folder / f'{seed}.jpg' for seed in range(8)]
    folder.mkdir()
    for seed, path in enumerate(paths):
        path.write_bytes(jpeg(seed, 160, 120))
    link_jpegs(folder / 'in', images, paths)
    arguments = ('label', '--input', folder / 'in', '--output', folder / 'out')
    run_python('-m', 'tests.support.without_model', '--real_fetch', *arguments)
    started = time.perf_counter()
    listed = sum(1 for _ in LocalStore().list(str(folder / 'in')))
    listing_sec = time.perf_counter() - started
    second = run_python('-c', _LABEL, *arguments)
    _second_run(folder / 'out', second, images)
    beyond_sec = second.wall_sec - listing_sec
    allowed_sec = _START_SEC + 1e-6 * _MOST_USEC * listed
    name = f'second run, {images:,} unchanged files'
    return [
        Row(f'{name}: time beyond the listing', beyond_sec, 's', allowed_sec),
        Row(f'{name}: the listing alone', listing_sec, 's'),
        Row(f'{name}: peak', second.peak_bytes / 1e6, 'MB'),
    ]


def unchanged_objects(folder: Path, objects: int) -> list[Row]:
    """A second run over a synthetic listing."""
    label = ('label', '--input', 'gs://synthetic/photos', '--output', folder / 'objects')
    arguments = ('-m', 'tests.support.without_model', '--objects', str(objects), *label)
    first = run_python(*arguments)
    second = run_python(*arguments)
    _second_run(folder / 'objects', second, objects)
    name = f'{objects:,} unchanged objects'
    return [
        Row(f'second run, {name}: time', 1e6 * second.wall_sec / objects, 'µs a ref'),
        Row(f'second run, {name}: peak', second.peak_bytes / 1e6, 'MB', _MOST_MB),
        Row(f'second run / first run without a model, {name}', second.wall_sec / first.wall_sec),
    ]


def durable_progress(folder: Path, images: int, chunk_size: int, rounds: int) -> list[Row]:
    """The same run with and without finished chunks being looked for and kept."""
    paths = write_jpegs(folder / 'distinct', min(images, 200))
    link_jpegs(folder / 'images', images, paths)
    seconds: dict[str, list[float]] = {_LABEL: [], _WITHOUT_PROGRESS: []}
    for i in range(rounds):
        for j, (code, found) in enumerate(seconds.items()):
            process = run_python(
                *('-c', code, 'label', '--input', folder / 'images'),
                *('--output', folder / f'progress-{i}-{j}', '--chunk_size', str(chunk_size)),
            )
            found.append(process.wall_sec)
    with_it, without = (median(found) for found in seconds.values())
    chunks = -(-images // chunk_size)
    return [
        Row(
            f'images/s with durable progress / without, {images:,} images, some {chunks} chunks',
            without / with_it,
            '',
            at_least=_LEAST_RATE,
        ),
        Row('the same, seconds with it', with_it, 's'),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    files, objects = (1_000, 4_000) if is_quick else (100_000, 1_000_000)
    images, rounds = (64, 1) if is_quick else (3_000, 3)
    return [
        *unchanged_files(folder / 'unchanged', files),
        *unchanged_objects(folder, objects),
        *durable_progress(folder, images, 64 if is_quick else 256, rounds),
    ]
