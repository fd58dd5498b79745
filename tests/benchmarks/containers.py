"""Pictures inside files beside loose ones: on disk, and in a store that takes 20 ms a request.

Fetched, decoded and resized as a run does it, without a model.
"""

import io
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
import urllib3

from tests.benchmarks.images import picture
from tests.benchmarks.loading import OPTIONS, POLICY
from tests.benchmarks.measure import Row
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import running_emulator
from transforms.chunks import cut
from transforms.core.elements import Chunk, Image, Item, Ref
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
    pictures = _pictures(400 if quick else 4000)
    places = _write(folder, pictures)
    rounds = 2 if quick else 3
    rows = _compare('disk', {name: str(folder / place) for name, place in places.items()}, rounds)
    with running_emulator() as endpoint:
        _upload(endpoint, folder)
        proxy = FaultProxy(endpoint)
        proxy.pause_sec = _PAUSE_SEC
        try:
            with urllib3.PoolManager():
                stored = {name: f'gs://{_BUCKET}/{place}' for name, place in places.items()}
                rows += _from_store(proxy, stored, sum(map(len, pictures)), rounds)
        finally:
            proxy.close()
    return rows


def _pictures(count: int) -> list[bytes]:
    """JPEGs of some 100 KB: few are made, and each is another file by what follows its end."""
    made = []
    for seed in range(min(count, 40)):
        data = io.BytesIO()
        picture(seed, *_SIZE).save(data, 'JPEG', quality=90)
        made.append(data.getvalue())
    return [
        made[i % len(made)] + i.to_bytes(4, 'big') + bytes(max(0, _BYTES - len(made[i % len(made)])))
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


def _chunks(place: str) -> tuple[list[Chunk], float]:
    """What a place lists, in chunks, and how long it took to list."""
    started = time.perf_counter()
    refs = [each for each in list_input(resolve(place, _PLAIN), _PLAIN) if isinstance(each, Ref)]
    took_sec = time.perf_counter() - started
    items = [Item(ref.uri, ref.version, ref.size_bytes, ['[]']) for ref in refs]
    return list(cut(items, _CHUNK)), took_sec


def _load(chunks: Sequence[Chunk]) -> float:
    """Images a second."""
    loader = Loader(OPTIONS)
    started = time.perf_counter()
    loaded = 0
    for chunk in chunks:
        pending = []
        look_ahead = loader.look_ahead_of(chunk)
        for start in range(0, len(chunk.items), _BATCH):
            while pending and (len(pending) >= look_ahead or not loader.may_look_ahead):
                loaded += _images(loader, pending.pop(0))
            pending.append(loader.begin(chunk, start, POLICY))
        loaded += sum(_images(loader, batch) for batch in pending)
    if loaded != sum(len(chunk.items) for chunk in chunks):
        raise RuntimeError(f'{loaded} pictures were loaded')
    return loaded / (time.perf_counter() - started)


def _images(loader: Loader, batch: object) -> int:
    return sum(isinstance(each.outcome, Image) for each in loader.result(batch))  # type: ignore[arg-type]


def _measure(
    places: dict[str, str], rounds: int, before: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of images a second, and seconds to list, by what was read."""
    listed = {name: _chunks(place) for name, place in places.items()}
    rates: dict[str, list[float]] = {name: [] for name in places}
    for chunks, _ in listed.values():
        _load(chunks[:1])  # as caches and processes are later
    for _ in range(rounds):
        for name, (chunks, _) in listed.items():
            before(name)
            rates[name].append(_load(chunks))
    return (
        {name: median(found) for name, found in rates.items()},
        {name: took_sec for name, (_, took_sec) in listed.items()},
    )


def _compare(where: str, places: dict[str, str], rounds: int) -> list[Row]:
    rates, _ = _measure(places, rounds)
    return [
        *(Row(f'{where}: {name}', rate, 'images/s') for name, rate in rates.items()),
        Row(f'{where}: tar / loose', rates['tar'] / rates['loose'], at_least=1.0),
        Row(f'{where}: Parquet / loose', rates['Parquet'] / rates['loose'], at_least=1.0),
    ]


def _from_store(
    proxy: FaultProxy, places: dict[str, str], size_bytes: int, rounds: int
) -> list[Row]:
    import pytest

    asked: dict[str, int] = {}

    def before(name: str) -> None:
        proxy.set(None)
        now[0] = name

    now = ['']
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
        rates: dict[str, list[float]] = {name: [] for name in places}
        listed = {name: _chunks(place)[0] for name, place in places.items()}
        for _ in range(rounds):
            for name, chunks in listed.items():
                before(name)
                rates[name].append(_load(chunks))
                asked[name] = sum(proxy.attempts.values())
    found = {name: median(each) for name, each in rates.items()}
    where = f'store, {1000 * _PAUSE_SEC:g} ms a request'
    return [
        *(Row(f'{where}: {name}', rate, 'images/s') for name, rate in found.items()),
        Row(f'{where}: tar / loose', found['tar'] / found['loose'], at_least=3.0),
        Row(f'{where}: Parquet / loose', found['Parquet'] / found['loose'], at_least=3.0),
        Row(f'{where}: tar, requests for 8 MB', 8e6 * asked['tar'] / size_bytes, at_most=1.0),
        Row(f'{where}: Parquet, requests for 8 MB', 8e6 * asked['Parquet'] / size_bytes, at_most=1.0),
    ]
