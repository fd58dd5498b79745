"""The shape of a large run: listing, chunks, files and books of ten million images.

Beam's local engine holds in memory what is behind a GroupByKey, about 1 KB an image. So this is
what a distributed engine does: everything that is shuffled is written with the coders of the graph
to 64 partitions on disk, and each partition is read alone and goes through the functions that the
steps call.
"""

import collections
import hashlib
import itertools
import json
import logging
import resource
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import apache_beam as beam
import numpy as np
from apache_beam.utils import windowed_value

from pipeline.job.graph import build
from tests.benchmarks.measure import Process, Row, run_python
from tests.support import app, samples, shuffles
from transforms import chunks
from transforms.core.elements import Chunk, Failure, Image, Item, Known, LabeledBatch, Stage
from transforms.core.reasons import Reason
from transforms.model.vocabulary import load_vocabulary
from transforms.output import predictions, results
from transforms.output.layout import Layout
from transforms.sources import inputs, listing, snapshot
from transforms.storage.base import Entry

_PARTITIONS = 64
_CAMERAS = 20
_LABELS = 5
_CLASSES = 21_843
_VOCABULARY = 'imagenet21k'
_BAD_EVERY = 10_000
_FAILED_EVERY = 1_000
_CHUNK_SIZE = 1024
_BATCH_SIZES = (32, 128)
_MOST_USEC = 150
_MOST_MB = 2000
_PART_ROWS = (1, 16, 1024)

_PHASES = (
    'list and freeze',
    'read what is frozen, to the shuffle',
    'group by URI and merge',
    'key by bucket',
    'cut into chunks',
    'rows of chunks, routed to files',
)
_ROW = 'bytes a row'
_GROUP = 'DropDone/GroupByUri'
_BUCKETS = 'MakeChunks/GroupByBucket'
_SPREAD = 'MakeChunks/Spread'


class _Store:
    """A bucket of so many images in folders by camera; each 100th file is no image."""

    def __init__(self, images: int):
        self._images = images

    def list(self, folder: str) -> Iterator[Entry]:
        top, _, camera = folder.partition('/camera-')
        first, step = (int(camera), _CAMERAS) if camera else (0, 1)
        for i in range(first, self._images, step):
            name = f'{top}/camera-{i % _CAMERAS:02d}/2026/11/24/image-{i:010d}'
            bad = ('bad_name', 'not UTF-8') if i % _BAD_EVERY == _BAD_EVERY // 2 else ('', '')
            yield Entry(f'{name}.jpg', _version(i), 40_000, *bad)
            if i % 100 == 0:
                yield Entry(f'{name}.txt', _version(i), 100)


def _version(i: int) -> str:
    return str(1_764_000_000_000_000 + i)


class _Shuffle:
    """What an engine does: elements by key to partitions, encoded; a partition is read alone."""

    def __init__(self, folder: Path, name: str, coder: beam.coders.Coder):
        self._coder = coder
        self._paths = [folder / f'{name}-{i:02d}' for i in range(_PARTITIONS)]
        self._files = [path.open('wb', buffering=1 << 18) for path in self._paths]
        self.elements = 0
        self.bytes = 0

    def write(self, key: bytes, element: object) -> None:
        data = self._coder.encode(element)
        self.elements += 1
        self.bytes += len(data)
        file = self._files[zlib.crc32(key) % _PARTITIONS]
        file.write(struct.pack('<I', len(data)))
        file.write(data)

    def partitions(self) -> Iterator[Iterator[object]]:
        for file in self._files:
            file.close()
        for path in self._paths:
            yield self._read(path)
            path.unlink()

    def _read(self, path: Path) -> Iterator[object]:
        with path.open('rb', buffering=1 << 20) as file:
            while head := file.read(4):
                yield self._coder.decode(file.read(struct.unpack('<I', head)[0]))


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _sha256(item: Item) -> str:
    return hashlib.sha256(item.uri.encode()).hexdigest()


def labeled(chunk: Chunk) -> LabeledBatch:
    """A chunk as if it had been labelled: each 1000th image failed, scores are random."""
    outcome = [
        Failure(Stage.DECODE, Reason.TRUNCATED, 'JPEG ends early, at 31000 bytes', 31_000)
        if zlib.crc32(item.uri.encode()) % _FAILED_EVERY == 0
        else Image(item.version, _sha256(item), 500, 375, 'JPEG', 40_000)
        for item in chunk.items
    ]
    rng = np.random.default_rng(int(chunk.id, 16))
    shape = (len(chunk.items), _LABELS)
    indices = rng.integers(0, _CLASSES, shape, np.int32)
    scores = rng.random(shape, np.float32)
    counts = np.full(len(chunk.items), _LABELS)
    return LabeledBatch(chunk, 0, outcome, indices, scores, counts, None, {}, '')


def simulate(images: int, folder: Path) -> dict:
    """Lists, drops, chunks, labels, routes and counts so many images; what it took and came to."""
    top = 'gs://synthetic/photos'
    # One camera is listed twice, and one was labelled by an earlier run.
    inputs = [inputs.Input(inputs.Kind.FOLDER, uri, '') for uri in (top, f'{top}/camera-00')]
    layout = Layout(str(folder / 'output'), 'a', 'model-00000000', (), (), 1_000_000)
    config, _ = app.make_config('--input', samples.SAMPLE, '--output', folder / 'output')
    root = beam.Pipeline()
    build(root, config)
    proto = root.to_runner_api()
    coders = {
        name: shuffles.coder_of(proto, shuffle)
        for name, shuffle in shuffles.shuffled(proto).items()
    }
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def phase(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[name], started = now - started, now
        print(name, seconds[name], _peak_bytes(), flush=True)

    listing.store_for = lambda *_: _Store(images)
    columns = inputs.Columns('uri', (), ())
    found = [
        snapshot.freeze(layout, number, listing.list_input(source, columns))
        for number, source in enumerate(inputs)
    ]
    frozen_bytes = sum(path.stat().st_size for path in (folder / 'output').rglob('*.arrow'))
    phase('list and freeze')

    counts: collections.Counter[str] = collections.Counter()
    grouped = _Shuffle(folder, 'group', coders[_GROUP])
    for each in found:
        counts.update(each.left_out)
        refs = (ref for part in each.parts for ref in snapshot.read_part(layout, *part))
        for ref in refs:
            counts['listed'] += 1
            grouped.write(ref.uri.encode(), (ref.uri, ('refs', ref)))
    ref_bytes = grouped.bytes / grouped.elements
    phase('read what is frozen, to the shuffle')
    for entry in _Store(images).list(f'{top}/camera-01'):
        if not entry.uri.endswith('.txt'):
            known = Known(1, entry.version, '[]', entry.reason, True)
            grouped.write(entry.uri.encode(), (entry.uri, ('known', known)))
    known_bytes = (grouped.bytes - counts['listed'] * ref_bytes) / (
        grouped.elements - counts['listed']
    )
    started = time.perf_counter()

    # The number of buckets is not known before the last URI is merged: the engine keeps the items.
    kept = _Shuffle(folder, 'kept', coders[_BUCKETS])
    for partition in grouped.partitions():
        by_uri: dict[str, dict[str, list]] = {}
        for uri, (tag, value) in partition:
            by_uri.setdefault(uri, {'refs': [], 'known': []})[tag].append(value)
        for uri, each in by_uri.items():
            merged = chunks.merge(each['refs'], each['known'])
            counts['duplicates'] += merged.duplicates
            counts['unchanged'] += merged.unchanged
            counts['gone'] += merged.gone
            counts['dead_lettered'] += len(merged.dead)
            if merged.item is not None:
                kept.write(uri.encode(), (0, merged.item))
    phase('group by URI and merge')

    buckets = chunks.bucket_count(kept.elements, _CHUNK_SIZE)
    by_bucket = _Shuffle(folder, 'bucket', coders[_BUCKETS])
    for partition in kept.partitions():
        for _, item in partition:
            bucket = chunks.bucket_of(item.uri, buckets)
            by_bucket.write(bucket.to_bytes(8, 'big'), (bucket, item))
    phase('key by bucket')

    fills: list[int] = []
    spread_bytes = 0
    spread = _Shuffle(folder, 'spread', coders[_SPREAD])
    bucket_sizes: list[int] = []
    for partition in by_bucket.partitions():
        members: dict[int, list[Item]] = {}
        for bucket, item in partition:
            members.setdefault(bucket, []).append(item)
        for bucket, items in members.items():
            bucket_sizes.append(len(items))
            for chunk in chunks.cut(items, _CHUNK_SIZE):
                fills.append(len(chunk.items))
                element = (0, (chunk, None, windowed_value.PANE_INFO_UNKNOWN))
                spread.write(chunk.id.encode(), (bucket, element[1]))
    spread_bytes = spread.bytes
    phase('cut into chunks')
    peak_bytes = _peak_bytes()

    shards = layout.shards(kept.elements)
    by_file: collections.Counter[str] = collections.Counter()
    finished_bytes = routed_bytes = tables = 0
    first: list[bytes] = []
    for partition in spread.partitions():
        for _, (chunk, _, _) in partition:
            table = results.outcome_table([labeled(chunk)])
            finished_bytes += len(results.to_ipc(table))
            counts['dead_lettered'] += len(results.dead_letters(table))
            counts['unchanged'] += results.count_unchanged(table)
            for path, rows in predictions.route(table, layout, {'': shards}).items():
                data = results.to_ipc(rows)
                by_file[path] += rows.num_rows
                tables += 1
                routed_bytes += len(data)
                if path.endswith(f'part-00000-of-{shards:05d}.parquet'):
                    first.append(data)
    phase('rows of chunks, routed to files')

    schema = predictions.prediction_schema((), {})
    parts = [results.from_ipc(data) for data in first]
    file = predictions.write_file(
        next(iter(sorted(by_file))),
        layout,
        schema,
        predictions.prediction_tables(parts, load_vocabulary(_VOCABULARY), layout, schema),
    )
    phase('write one file')
    counts['labeled'] = by_file.total()

    left = sum(counts[name] for name in ('labeled', 'duplicates', 'unchanged', 'dead_lettered'))
    repeated = len(range(0, images, _CAMERAS))
    if counts['listed'] != left or counts['listed'] != images + repeated:
        raise RuntimeError(f'the books do not balance: {counts}')
    if counts['duplicates'] != repeated or sum(fills) != kept.elements:
        raise RuntimeError(f'{counts}, {sum(fills)} images in chunks of {kept.elements}')
    return {
        'counts': dict(counts),
        'seconds': seconds,
        'frozen_bytes': frozen_bytes / counts['listed'],
        'ref_bytes': ref_bytes,
        'known_bytes': known_bytes,
        'item_bytes': by_bucket.bytes / by_bucket.elements,
        'spread_bytes': spread_bytes / sum(fills),
        'finished_bytes': finished_bytes / sum(fills),
        'routed_bytes': routed_bytes / counts['labeled'],
        'routed_tables': tables,
        'buckets': buckets,
        'bucket_sizes': sorted(bucket_sizes),
        'fills': sorted(fills),
        'shards': shards,
        'file_rows': sorted(by_file.values()),
        'file_bytes': file.size_bytes / file.rows,
        'peak_bytes': peak_bytes,
        'write_peak_bytes': _peak_bytes(),
    }


def write_parts(rows: int, part_rows: int, folder: Path) -> dict:
    """What it takes to write a file of rows that come so many at a time."""
    layout = Layout(str(folder / 'output'), 'a', 'model-00000000', (), (), rows)
    store = _Store(2 * rows)
    items = (
        Item(entry.uri, entry.version, 1, ['[]'])
        for entry in store.list('gs://synthetic/photos')
        if not entry.uri.endswith('.txt')
    )
    data = []
    while len(data) * part_rows < rows:
        part = list(itertools.islice(items, part_rows))
        table = results.outcome_table([labeled(Chunk(chunks.chunk_id(part), part))])
        for path_rows in predictions.route(table, layout, {'': 1}).values():
            data.append(results.to_ipc(path_rows))
    size_bytes = sum(map(len, data))
    before_bytes, started = _peak_bytes(), time.perf_counter()
    schema = predictions.prediction_schema((), {})
    parts = [results.from_ipc(each) for each in data]
    file = predictions.write_file(
        'part',
        layout,
        schema,
        predictions.prediction_tables(parts, load_vocabulary(_VOCABULARY), layout, schema),
    )
    return {
        'rows': file.rows,
        'bytes': size_bytes / file.rows,
        'sec': time.perf_counter() - started,
        'peak_bytes': _peak_bytes() - before_bytes,
    }


def _told(folder: Path, *arguments: object) -> tuple[Process, dict]:
    process = run_python('-m', 'tests.benchmarks.shape', folder, *map(str, arguments))
    return process, json.loads((folder / 'told.json').read_text())


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    images = 20_000 if is_quick else 10_000_000
    process, told = _told(folder, images)
    counts, seconds, fills = told['counts'], told['seconds'], told['fills']
    listed = counts['listed']
    name = f'{images:,} images'
    rows = [
        Row(f'{name}: refs listed, each one in exactly one place at the end', listed, 'refs'),
        Row(f'{name}: time', process.wall_sec, 's'),
        Row(f'{name}: time a ref', 1e6 * process.wall_sec / listed, 'µs a ref', _MOST_USEC),
        Row(f'{name}: peak until chunks are cut', told['peak_bytes'] / 1e6, 'MB', _MOST_MB),
        Row(f'{name}: peak with the first file written', told['write_peak_bytes'] / 1e6, 'MB'),
    ]
    for phase in _PHASES:
        rows.append(Row(f'{phase}: time', 1e6 * seconds[phase] / listed, 'µs a ref'))
    rows += [
        Row('frozen listing', told['frozen_bytes'], 'bytes a ref'),
        Row(f'{_GROUP}: a ref', told['ref_bytes'], 'bytes a ref', 300),
        Row(f'{_GROUP}: a row of an earlier run', told['known_bytes'], 'bytes a row', 250),
        Row(f'{_BUCKETS}: an image', told['item_bytes'], 'bytes an image', 150),
        Row(f'{_SPREAD}: an image', told['spread_bytes'], 'bytes an image', 150),
        Row('finished chunk under _work', told['finished_bytes'], 'bytes an image'),
        Row('WritePredictions/GroupByFile: a row', told['routed_bytes'], _ROW),
        Row('Parquet, 5 labels with random scores', told['file_bytes'], _ROW),
        Row('buckets', told['buckets']),
        Row('fullest bucket / mean', told['bucket_sizes'][-1] * told['buckets'] / sum(fills)),
        Row('chunks', len(fills)),
        Row('chunk, fewest images', fills[0], 'images'),
        Row('chunk, median', median(fills), 'images'),
        Row('chunk, most images', fills[-1], 'images', _CHUNK_SIZE),
        Row('files', told['shards']),
        Row('rows a part that a chunk sends to a file', counts['labeled'] / told['routed_tables']),
        Row('write one file', seconds['write one file'], 's'),
        Row('file, fewest rows / mean', told['file_rows'][0] * told['shards'] / counts['labeled']),
        Row('file, most rows / mean', told['file_rows'][-1] * told['shards'] / counts['labeled']),
    ]
    for size in _BATCH_SIZES:
        slots = sum(-(-fill // size) * size for fill in fills)
        rows.append(Row(f'batch fill, {size} slots', sum(fills) / slots))
    few = 2_000 if is_quick else 100_000
    for part_rows in _PART_ROWS:
        _, told = _told(folder, few, part_rows)
        kind = f'file of {few:,} rows, {part_rows:,} a part'
        rows += [
            Row(f'{kind}: shuffled', told['bytes'], _ROW),
            Row(f'{kind}: time to write', 1e6 * told['sec'] / told['rows'], 'µs a row'),
            Row(f'{kind}: memory beyond its parts', told['peak_bytes'] / 1e6, 'MB'),
        ]
    return rows


def main(folder: Path, images: int, part_rows: int = 0) -> None:
    """Simulates, or writes a file, in a process of its own, and leaves there what is told."""
    logging.disable()
    told = write_parts(images, part_rows, folder) if part_rows else simulate(images, folder)
    (folder / 'told.json').write_text(json.dumps(told))


if __name__ == '__main__':
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
