"""Peak memory of fresh processes: with the number of images, and with very large ones.

It is that of all processes of a run together, see `tests.benchmarks.measure.Process`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pillow_heif
import urllib3
from PIL import Image

from tests.benchmarks.images import jpeg, link_jpegs, photographs, write_jpegs
from tests.benchmarks.measure import Process, Row, run_python
from tests.support.servers import running_emulator

_MB = 1e6
# Of a loader process at rest.
_REST_MB = 90.0
# Of all processes with the embedded model: beside the default budget, and together with it.
_BESIDE_BYTES = 1_300 * _MB
_BUDGET_BYTES = 512 << 20
# Just under the default limit of 50 megapixels.
_LIMIT_PX = (7_070, 7_070)
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
from transforms.output.layout import Layout
from transforms.read import ReadRefs
from transforms.sources.inputs import Columns, Listing
from transforms.sources.resolve import resolve
columns = Columns('uri', (), ())
layout = Layout(sys.argv[2], 'list-only', 'none', (), (), 1)
root = beam.Pipeline(runner='FnApiRunner')
refs, access, _ = root | ReadRefs(Listing((resolve(sys.argv[1], columns),), columns), layout)
items, *_ = {'refs': refs, 'known': root | ReadHistory((), layout), 'access': access} | DropDone()
_ = items | beam.combiners.Count.Globally()
root.run().wait_until_finish()
"""

# Loads what is named, and tells what of each process is resident and its proportional set, in
# bytes: of the server, then of the loader processes.
_REST = """
import json, os, sys
from tests.benchmarks.loading import OPTIONS, POLICY
from tests.benchmarks.tree import children, pss_bytes, resident_bytes
from transforms.loading.loader import Loader
from transforms.core.elements import Chunk, Item
told, *uris = sys.argv[1:]
loader = Loader(OPTIONS)
loader.result(loader.begin(Chunk('c', [Item(uri, '', -1, ['[]']) for uri in uris]), 0, POLICY))
[server] = children(os.getpid())
with open(told, 'w') as file:
    json.dump([(resident_bytes(pid), pss_bytes(pid)) for pid in (server, *children(server))], file)
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


def rest_rows(folder: Path) -> list[Row]:
    """What a loader process has resident when it has loaded small images and waits."""
    paths = write_jpegs(folder / 'images', 32)
    rows = _at_rest('local files', folder / 'local', [str(path) for path in paths])
    with running_emulator() as endpoint, urllib3.PoolManager() as pool:
        pool.request('POST', f'{endpoint}/storage/v1/b?project=test', json={'name': 'bench'})
        for path in paths:
            url = f'{endpoint}/upload/storage/v1/b/bench/o?uploadType=media&name={path.name}'
            pool.request('POST', url, body=path.read_bytes())
        rows += _at_rest('gs://', folder / 'gcs', [f'gs://bench/{path.name}' for path in paths])
    return rows


def _at_rest(name: str, told: Path, uris: Sequence[str]) -> list[Row]:
    run_python('-c', _REST, told, *uris)
    server, *loaders = json.loads(told.read_text())
    resident_mb, pss_mb = (max(each[i] for each in loaders) / _MB for i in (0, 1))
    return [
        Row(f'loader process at rest, {name}: resident', resident_mb, 'MB', at_most=_REST_MB),
        Row(f'loader process at rest, {name}: PSS', pss_mb, 'MB'),
        Row(f'their server, {name}: resident', server[0] / _MB, 'MB', at_most=_REST_MB),
    ]


def _large_files(folder: Path, size_px: tuple[int, int]) -> dict[str, Path]:
    """A picture in the formats that take most memory, by their names."""
    pillow_heif.register_heif_opener()
    picture = photographs()[0].resize(size_px)
    deep = Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 257)
    ways: dict[str, tuple[Image.Image, str, str, dict[str, Any]]] = {
        'PNG': (picture, 'png', 'PNG', {'compress_level': 1}),
        'CMYK JPEG': (picture.convert('CMYK'), 'jpg', 'JPEG', {'progressive': True}),
        'TIFF': (picture.quantize(16).convert('RGB'), 'tif', 'TIFF', {'compression': 'tiff_lzw'}),
        'WebP': (picture, 'webp', 'WEBP', {'method': 0}),
        'AVIF': (picture, 'avif', 'AVIF', {'speed': 10}),
        'HEIF': (picture, 'heic', 'HEIF', {'quality': 30, 'enc_params': {'preset': 'ultrafast'}}),
        'PNG of 16 bit': (deep, 'png', 'PNG', {'compress_level': 1}),
    }
    folder.mkdir()
    files = {}
    for name, (image, suffix, file_format, how) in ways.items():
        files[name] = folder / f'{name}.{suffix}'
        image.save(files[name], file_format, **how)
    return files


def mix_rows(folder: Path, size_px: tuple[int, int], count: int, deep_count: int) -> list[Row]:
    """Peaks of runs over nothing but pictures at the limits, by default options."""
    folder.mkdir()
    files = _large_files(folder / 'files', size_px)
    deep = files.pop('PNG of 16 bit')
    mixes: dict[str, tuple[int, list[Path]]] = {
        'of all formats': (count, list(files.values())),
        **{name: (count, [path]) for name, path in files.items()},
        'PNG of 16 bit': (deep_count, [deep]),
    }
    rows = []
    for name, (number, paths) in mixes.items():
        images = folder / name
        images.mkdir()
        for i in range(number):
            path = paths[i % len(paths)]
            (images / f'{i:02d}{path.suffix}').hardlink_to(path)
        peak_bytes = label(images, folder / f'output {name}').peak_bytes
        most_mb = (_BESIDE_BYTES + _BUDGET_BYTES) / _MB
        megapixels = f'{size_px[0] * size_px[1] / 1e6:.0f} megapixels'
        title = f'peak, {number} pictures of {megapixels}, {name}'
        rows.append(Row(title, peak_bytes / _MB, 'MB', at_most=round(most_mb)))
    return rows


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
    grown_bytes = processes[many].largest_bytes - processes[few].largest_bytes
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
            *rest_rows(folder / 'rest'),
            *mix_rows(folder / 'mixes', (640, 480), 6, 2),
            *large_rows(folder / 'large', 8, (2_000, 2_000), 1),
            *growth_rows(folder / 'growth', 16, 64, 16, 1),
        ]
    return [
        *listing_rows(folder / 'listing', 50_000, 250_000),
        *rest_rows(folder / 'rest'),
        *mix_rows(folder / 'mixes', _LIMIT_PX, 32, 40),
        *large_rows(folder / 'large', 100, _LARGE_PX, 3),
        *growth_rows(folder / 'growth', 2_000, 20_000, 1_000, 1),
    ]
