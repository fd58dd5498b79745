"""Fetching small objects from a storage emulator, beside bare connections; and its CPU."""

import http.client
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import urllib3

from tests.benchmarks.measure import Row, run_python
from tests.support.servers import running_emulator
from transforms.storage.base import FetchLimits
from transforms.storage.gcs import GcsStore

_THREADS = 16
_OBJECT_BYTES = 20_000
_MIN_SHARE = 0.8
_MOST_CPU_MSEC = 2.0


def _fill(endpoint: str, count: int) -> None:
    data = random.Random(0).randbytes(_OBJECT_BYTES)
    with urllib3.PoolManager() as pool:
        pool.request('POST', f'{endpoint}/storage/v1/b?project=test', json={'name': 'bench'})
        for i in range(count):
            url = f'{endpoint}/upload/storage/v1/b/bench/o?uploadType=media&name={i:06d}.jpg'
            if pool.request('POST', url, body=data).status != 200:
                raise RuntimeError(f'the emulator does not take {url}')


def _ways(endpoint: str) -> dict[str, Callable[[int], int]]:
    store, limits = GcsStore(), FetchLimits(10**6, 60.0)
    pool = urllib3.PoolManager(maxsize=_THREADS).connection_from_url(endpoint)
    local = threading.local()
    host = endpoint.partition('://')[2]

    def ours(i: int) -> int:
        return len(store.fetch(f'gs://bench/{i:06d}.jpg', limits, lambda _: None).data)

    def pooled(i: int) -> int:
        path = f'/download/storage/v1/b/bench/o/{i:06d}.jpg?alt=media'
        return len(pool.urlopen('GET', path).data)

    def standard(i: int) -> int:
        if not hasattr(local, 'connection'):
            local.connection = http.client.HTTPConnection(host)
        local.connection.request('GET', f'/download/storage/v1/b/bench/o/{i:06d}.jpg?alt=media')
        return len(local.connection.getresponse().read())

    return {'ours': ours, 'urllib3': pooled, 'http.client': standard}


def compare(endpoint: str, count: int, rounds: int) -> list[Row]:
    """Fetches every object in each way, in turns."""
    ways = _ways(endpoint)
    wall_sec: dict[str, list[float]] = {name: [] for name in ways}
    cpu_sec: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            with ThreadPoolExecutor(_THREADS) as threads:
                wall, cpu = time.perf_counter(), time.process_time()
                if set(threads.map(ways[name], range(count))) != {_OBJECT_BYTES}:
                    raise RuntimeError(f'{name}: an object of another size')
                if i:  # the first round opens the connections
                    wall_sec[name].append(time.perf_counter() - wall)
                    cpu_sec[name].append(time.process_time() - cpu)

    def times_as_fast(other: str) -> float:
        pairs = zip(wall_sec['ours'], wall_sec[other], strict=True)
        return median(b / a for a, b in pairs)

    return [
        *(Row(f'{name}: rate', count / median(wall_sec[name]), 'objects/s') for name in ways),
        *(
            Row(f'{name}: CPU', 1e3 * median(cpu_sec[name]) / count, 'ms an object')
            for name in ways
        ),
        Row('rate, ours / urllib3', times_as_fast('urllib3'), at_least=_MIN_SHARE),
        Row('rate, ours / http.client', times_as_fast('http.client')),
    ]


def whole_graph(folder: Path, few: int, many: int) -> list[Row]:
    """What fetching and Beam take together; at most so much of it under the interpreter's lock."""
    processes = {}
    for count in (few, many):
        manifest = folder / f'{count}.txt'
        manifest.write_text(''.join(f'gs://bench/{i:06d}.jpg\n' for i in range(count)))
        processes[count] = run_python(
            *('-m', 'tests.support.without_model', '--real_fetch', 'label', '--input', manifest),
            *('--output', folder / f'output-{count}'),
        )
    cpu_sec = processes[many].cpu_sec - processes[few].cpu_sec
    msec = 1e3 * cpu_sec / (many - few)
    return [Row('fetch and Beam: CPU, all of it', msec, 'ms an image', at_most=_MOST_CPU_MSEC)]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    count, rounds = (50, 1) if is_quick else (2_000, 5)
    with running_emulator() as endpoint:
        _fill(endpoint, count)
        return [
            *compare(endpoint, count, rounds),
            *whole_graph(folder, count // 10, count),
        ]
