"""Pictures inside files beside loose ones: on disk, and in a store that takes 20 ms a request.

Fetched, decoded and resized as a run does it, without a model.
"""

import collections
import io
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
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


def run(quick: bool, folder: Path) -> Sequence[Row]:
    """All figures."""
    pictures = _pictures(400 if quick else 20_000)
    places = _write(folder, pictures)
    rounds = 2 if quick else 3
    rows = _compare('disk', {name: str(folder / place) for name, place in places.items()}, rounds)
    with running_emulator() as endpoint:
        _upload(endpoint, folder)
        proxy = FaultProxy(endpoint)
        proxy.pause_sec = _PAUSE_SEC
        try:
            stored = {name: f'gs://{_BUCKET}/{place}' for name, place in places.items()}
            rows += _from_store(proxy, stored, sum(map(len, pictures)), rounds)
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


def _write(folder: Path, pictures: Sequence[bytes]) -> dict[str, str]:
    """The pictures in each form; what --input takes for them, below the folder."""
    share = len(pictures) // _SHARDS
    (folder / 'loose').mkdir()
    for i, data in enumerate(pictures):
        (folder / 'loose' / f'{i:06d}.jpg').write_bytes(data)
    for shard in range(_SHARDS):
        part = range(shard * share, (shard + 1) * share)
        with tarfile.open(folder / f'{shard}.tar', 'w') as archive:
            for i in part:
                member = tarfile.TarInfo(f'{i:06d}.jpg')
                member.size = len(pictures[i])
                archive.addfile(member, io.BytesIO(pictures[i]))
        rows = pa.table({'image': [pictures[i] for i in part]})
        pq.write_table(rows, folder / f'{shard}.parquet', row_group_size=100, compression='none')
    return {'loose': 'loose', 'tar': '*.tar', 'Parquet': '*.parquet'}


def _upload(endpoint: str, folder: Path) -> None:
    with urllib3.PoolManager() as pool:
        pool.request('POST', f'{endpoint}/storage/v1/b?project=test', json={'name': _BUCKET})
        for path in sorted(folder.rglob('*')):
            if path.is_file():
                name = path.relative_to(folder).as_posix().replace('/', '%2F')
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
        found, asked = _measure(places, rounds, proxy)
    where = f'store, {1000 * _PAUSE_SEC:g} ms a request'
    return [
        *(Row(f'{where}: {name}', rate, 'images/s') for name, rate in found.items()),
        Row(f'{where}: tar / loose', found['tar'] / found['loose'], at_least=3.0),
        Row(f'{where}: Parquet / loose', found['Parquet'] / found['loose'], at_least=3.0),
        Row(f'{where}: tar, requests for 8 MB', 8e6 * asked['tar'] / size_bytes, at_most=1.0),
        Row(
            f'{where}: Parquet, requests for 8 MB', 8e6 * asked['Parquet'] / size_bytes, at_most=1.0
        ),
    ]
