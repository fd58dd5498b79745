"""Peak memory of fresh processes: with the number of images, and with a very large one."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.images import jpeg, link_jpegs, write_jpegs
from tests.benchmarks.measure import Process, Row, run_python

_MB = 1e6
# What a longer run may take more: some slack, and the rows of its images.
_SLACK_BYTES = 60 * _MB
_BYTES_PER_IMAGE = 400
_LARGE_PX = (10_000, 10_000)
_LARGE_MB = 100.0

_LIST_ONLY = """
import sys
import apache_beam as beam
from transforms.chunks import DropDone
from transforms.history import ReadHistory
from transforms.layout import Layout
from transforms.listing import Columns, Listing, ReadRefs, resolve
columns = Columns('uri', (), ())
layout = Layout(sys.argv[2], 'list-only', 'none', (), (), 1)
root = beam.Pipeline(runner='FnApiRunner')
refs, access, _ = root | ReadRefs(Listing((resolve(sys.argv[1], columns),), columns), layout)
items, *_ = (refs, root | ReadHistory((), layout), access) | DropDone()
_ = items | beam.combiners.Count.Globally()
root.run().wait_until_finish()
"""


def label(images: Path, output: Path) -> Process:
    """Labels a folder in a fresh process."""
    return run_python(
        '-m', 'pipeline', 'label', '--input', images, '--output', output, '--max_failure_rate', '0'
    )


def growth_rows(folder: Path, few: int, many: int, distinct: int, rounds: int) -> list[Row]:
    """Peak at two numbers of images."""
    paths = write_jpegs(folder / 'distinct', distinct)
    peaks: dict[int, list[int]] = {few: [], many: []}
    for count in peaks:
        link_jpegs(folder / f'images-{count}', count, paths)
    for i in range(rounds):
        for count, found in peaks.items():
            output = folder / f'output-{count}-{i}'
            found.append(label(folder / f'images-{count}', output).peak_bytes)
    grown_mb = (median(peaks[many]) - median(peaks[few])) / _MB
    allowed_mb = (_SLACK_BYTES + _BYTES_PER_IMAGE * (many - few)) / _MB
    return [
        *(Row(f'peak, {n} images', median(found) / _MB, 'MB') for n, found in peaks.items()),
        Row(f'peak, {many} images, more than {few}', grown_mb, 'MB', at_most=round(allowed_mb, 1)),
    ]


def large_rows(folder: Path, small: int, size_px: tuple[int, int], rounds: int) -> list[Row]:
    """What one very large baseline JPEG adds to the peak of a run of small ones."""
    paths = write_jpegs(folder / 'small', small)
    link_jpegs(folder / 'with-large', small, paths)
    (folder / 'with-large' / 'large.jpg').write_bytes(jpeg(0, *size_px))
    peaks: dict[str, list[int]] = {'small': [], 'with-large': []}
    for i in range(rounds):
        for name, found in peaks.items():
            found.append(label(folder / name, folder / f'output-{name}-{i}').peak_bytes)
    added_mb = (median(peaks['with-large']) - median(peaks['small'])) / _MB
    megapixels = round(size_px[0] * size_px[1] / 1e6)
    name = f'peak, {small} images and a baseline JPEG of {megapixels} megapixels'
    return [
        Row(f'peak, {small} images', median(peaks['small']) / _MB, 'MB'),
        Row(name, median(peaks['with-large']) / _MB, 'MB'),
        Row(f'{name}: added', added_mb, 'MB', at_most=_LARGE_MB),
    ]


def listing_rows(folder: Path, few: int, many: int) -> list[Row]:
    """What listing a manifest and dropping its duplicates holds and takes for each ref."""
    folder.mkdir()
    processes = {}
    for count in (few, many):
        manifest = folder / f'{count}.txt'
        lines = (f'/photos/2026/11/camera-{i % 97:02d}/image-{i:08d}.jpg\n' for i in range(count))
        manifest.write_text(''.join(lines))
        processes[count] = run_python('-c', _LIST_ONLY, manifest, folder / f'{count}')
    refs = many - few
    grown_bytes = processes[many].peak_bytes - processes[few].peak_bytes
    grown_sec = processes[many].wall_sec - processes[few].wall_sec
    name = f'listing and deduplication, {few:,} to {many:,} refs'
    return [
        Row(f'{name}: memory', grown_bytes / refs, 'bytes a ref'),
        Row(f'{name}: time', 1e6 * grown_sec / refs, 'µs a ref'),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    if is_quick:
        return [
            *listing_rows(folder / 'listing', 1_000, 5_000),
            *large_rows(folder / 'large', 8, (2_000, 2_000), 1),
            *growth_rows(folder / 'growth', 16, 64, 16, 1),
        ]
    return [
        *listing_rows(folder / 'listing', 50_000, 250_000),
        *large_rows(folder / 'large', 100, _LARGE_PX, 3),
        *growth_rows(folder / 'growth', 2_000, 20_000, 1_000, 1),
    ]
