"""Pictures inside files beside loose ones: on disk, and in a store that takes 20 ms a request.

Fetched, decoded and resized as a run does it, without a model.
"""

import collections
import functools
import io
import tarfile
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import urllib3

from tests.benchmarks.images import picture
from tests.benchmarks.loading import OPTIONS, POLICY
from tests.benchmarks.measure import Row
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import running_emulator
from transforms.chunks import cut
from transforms.core.elements import Chunk, Image, Item, Ref
from transforms.loading.batch import LoadingBatch
from transforms.loading.loader import Loader
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve

_PLAIN = Columns('uri', (), ())
_BATCH = OPTIONS.batch_size
_CHUNK = 1024
_SIZE = 640, 480
_BYTES = 100_000
_PAUSE_SEC = 0.02
_SHARDS = 4
_BUCKET = 'bench'
_WHERE = f'store, {1000 * _PAUSE_SEC:g} ms a request'


def run(quick: bool, folder: Path) -> Sequence[Row]:
    """All figures."""
    pictures = _pictures(400 if quick else 20_000)
    few = pictures[: len(pictures) // 10]
    places = _write(folder / 'all', pictures, _FORMS)
    others = _write(folder / 'few', few, _OTHER_FORMS)
    rounds = 2 if quick else 3
    on_disk = {name: str(folder / 'all' / place) for name, place in places.items()}
    rows = _compare('disk', on_disk, rounds)
    with running_emulator() as endpoint:
        proxy = FaultProxy(endpoint)
        proxy.pause_sec = _PAUSE_SEC
        try:
            _upload(endpoint, folder)
            stored = {name: f'gs://{_BUCKET}/all/{place}' for name, place in places.items()}
            rows += _from_store(proxy, stored, sum(map(len, pictures)), rounds)
            stored = {name: f'gs://{_BUCKET}/few/{place}' for name, place in others.items()}
            rows += _others_from_store(proxy, stored, sum(map(len, few)), rounds)
        finally:
            proxy.close()
    return rows


class _Measured(NamedTuple):
    rates: dict[str, float]
    asked: dict[str, int]


def _pictures(count: int) -> list[bytes]:
    """JPEGs of some 100 KB: few are made, and each is another file by what follows its end."""
    made = []
    for seed in range(min(count, 40)):
        data = io.BytesIO()
        picture(seed, *_SIZE).save(data, 'JPEG', quality=90)
        made.append(data.getvalue())
    return [
        made[i % len(made)]
        + i.to_bytes(4, 'big')
        + bytes(max(0, _BYTES - len(made[i % len(made)])))
        for i in range(count)
    ]


def _write(folder: Path, pictures: Sequence[bytes], forms: Sequence[str]) -> dict[str, str]:
    """The pictures in each form; what --input takes for them, below the folder."""
    share = len(pictures) // _SHARDS
    for form in forms:
        (folder / form).mkdir(parents=True)
        for shard in range(_SHARDS):
            part = range(shard * share, (shard + 1) * share)
            named = [(f'{i:06d}.jpg', pictures[i]) for i in part]
            _WRITERS[form](folder / form / f'{shard}', named)
    places = {form: f'{form}/*{next((folder / form).iterdir()).suffix}' for form in forms}
    return places | {_LOOSE: _LOOSE}


_Named = Sequence[tuple[str, bytes]]


def _write_loose(path: Path, pictures: _Named) -> None:
    for name, data in pictures:
        (path.parent / name).write_bytes(data)


def _write_tar(path: Path, pictures: _Named) -> None:
    with tarfile.open(path.with_suffix('.tar'), 'w') as archive:
        for name, data in pictures:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _write_zip(path: Path, pictures: _Named) -> None:
    with zipfile.ZipFile(path.with_suffix('.zip'), 'w') as archive:
        for name, data in pictures:
            archive.writestr(name, data)


def _write_parquet(path: Path, pictures: _Named, rows: int = 100) -> None:
    table = pa.table({'image': [data for _, data in pictures]})
    pq.write_table(table, path.with_suffix('.parquet'), row_group_size=rows, compression='none')


def _write_arrow(path: Path, pictures: _Named) -> None:
    table = pa.table({'image': [data for _, data in pictures]})
    with pa.ipc.new_stream(path.with_suffix('.arrow'), table.schema) as stream:
        stream.write_table(table, max_chunksize=100)


def _write_tfrecord(path: Path, pictures: _Named) -> None:
    with tf.io.TFRecordWriter(str(path.with_suffix('.tfrecord'))) as records:
        for _, data in pictures:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
            example = tf.train.Example(features=tf.train.Features(feature={'image/encoded': value}))
            records.write(example.SerializeToString())


_LOOSE = 'loose'
_WRITERS: dict[str, Callable[[Path, _Named], None]] = {
    _LOOSE: _write_loose,
    'tar': _write_tar,
    'Parquet': _write_parquet,
    'Parquet, one row group': functools.partial(_write_parquet, rows=10**6),
    'zip': _write_zip,
    'Arrow': _write_arrow,
    'TFRecord': _write_tfrecord,
}
_FORMS = (_LOOSE, 'tar', 'Parquet')
_OTHER_FORMS = (_LOOSE, *(form for form in _WRITERS if form not in _FORMS))


def _upload(endpoint: str, folder: Path) -> None:
    with urllib3.PoolManager() as pool:
        pool.request('POST', f'{endpoint}/storage/v1/b?project=test', json={'name': _BUCKET})
        for path in sorted(folder.rglob('*')):
            if path.is_file():
                name = urllib.parse.quote(path.relative_to(folder).as_posix(), safe='')
                query = f'uploadType=media&name={name}'
                url = f'{endpoint}/upload/storage/v1/b/{_BUCKET}/o?{query}'
                if pool.request('POST', url, body=path.read_bytes()).status != 200:
                    raise RuntimeError(f'the emulator does not take {path}')


def _chunks(place: str) -> list[Chunk]:
    """What a place lists, in chunks."""
    refs = [each for each in list_input(resolve(place, _PLAIN), _PLAIN) if isinstance(each, Ref)]
    items = [Item(ref.uri, ref.version, ref.size_bytes, ['[]']) for ref in refs]
    return list(cut(items, _CHUNK))


def _load(chunks: Sequence[Chunk]) -> float:
    """Images a second, of one chunk after the other as in a bundle of a run."""
    loader = Loader(OPTIONS)
    started = time.perf_counter()
    loaded = 0
    pending: collections.deque[LoadingBatch] = collections.deque()
    for chunk in chunks:
        look_ahead = loader.look_ahead_of(chunk)
        for start in range(0, len(chunk.items), _BATCH):
            while pending and (len(pending) >= look_ahead or not loader.may_look_ahead):
                loaded += _images(loader, pending.popleft())
            pending.append(loader.begin(chunk, start, POLICY))
    loaded += sum(_images(loader, batch) for batch in pending)
    if loaded != sum(len(chunk.items) for chunk in chunks):
        raise RuntimeError(f'{loaded} pictures were loaded')
    return loaded / (time.perf_counter() - started)


def _images(loader: Loader, batch: LoadingBatch) -> int:
    return sum(isinstance(each.outcome, Image) for each in loader.result(batch))


def _measure(places: dict[str, str], rounds: int, proxy: FaultProxy | None = None) -> _Measured:
    """Medians of images a second, and requests in the first round, by what was read."""
    chunks = {name: _chunks(place) for name, place in places.items()}
    rates: dict[str, list[float]] = {name: [] for name in places}
    asked: dict[str, int] = {}
    for _ in range(rounds):
        for name, each in chunks.items():
            if proxy is not None:
                proxy.set(None)
            rates[name].append(_load(each))
            asked.setdefault(name, sum(proxy.attempts.values()) if proxy else 0)
    return _Measured({name: median(found) for name, found in rates.items()}, asked)


def _compare(where: str, places: dict[str, str], rounds: int) -> list[Row]:
    rates = _measure(places, rounds).rates
    return [
        *(Row(f'{where}: {name}', rate, 'images/s') for name, rate in rates.items()),
        Row(f'{where}: tar / loose', rates['tar'] / rates['loose'], at_least=1.0),
        Row(f'{where}: Parquet / loose', rates['Parquet'] / rates['loose'], at_least=1.0),
    ]


def _from_store(
    proxy: FaultProxy, places: dict[str, str], size_bytes: int, rounds: int
) -> list[Row]:
    found, asked = _measure_stored(proxy, places, rounds)
    rows = [Row(f'{_WHERE}: {name}', rate, 'images/s') for name, rate in found.items()]
    others = [name for name in places if name != _LOOSE]
    rows += [
        Row(f'{_WHERE}: {name} / loose', found[name] / found[_LOOSE], at_least=3.0)
        for name in others
    ]
    rows += [
        Row(f'{_WHERE}: {name}, requests for 8 MB', 8e6 * asked[name] / size_bytes, at_most=1.0)
        for name in others
    ]
    return rows


def _others_from_store(
    proxy: FaultProxy, places: dict[str, str], size_bytes: int, rounds: int
) -> list[Row]:
    """The other forms, with a tenth of the pictures."""
    found, asked = _measure_stored(proxy, places, rounds)
    rows = []
    for name in places:
        if name != _LOOSE:
            requests = 8e6 * asked[name] / size_bytes
            rows += [
                Row(f'{_WHERE}: {name} / loose', found[name] / found[_LOOSE]),
                Row(f'{_WHERE}: {name}, requests for 8 MB', requests),
            ]
    return rows


def _measure_stored(proxy: FaultProxy, places: dict[str, str], rounds: int) -> _Measured:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
        return _measure(places, rounds, proxy)
