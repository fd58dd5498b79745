"""Listing a prefix of a store that takes 100 ms a page by one and by several requests; inventories.

As a program it lists an input, and fails if it has not so many images.
"""

import contextlib
import datetime
import gzip
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.measure import Row, run_python
from transforms.core.elements import Ref
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve
from transforms.storage.base import Store
from transforms.storage.gcs import GcsStore
from transforms.storage.pages import AT_A_TIME
from transforms.storage.s3 import S3Store

_PAUSE_SEC = 0.1
_LEAST_TIMES = 4.0
_MOST_USEC = 10
_MOST_MORE_MB = 50
_ROOT = Path(__file__).parents[2]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    count = 20_000 if is_quick else 1_000_000
    names = folder / 'names.txt'
    # Ten folders, one of them with half of the names.
    lines = (f'photos/{0 if i < count // 2 else 1 + i % 9}/image-{i:08d}.jpg' for i in range(count))
    names.write_text('\n'.join(sorted(lines)))
    rows = _inventories(folder, 10 if is_quick else 1000)
    with _served(names) as url:
        kinds: dict[str, Callable[[int], Store]] = {
            'gs': lambda at_a_time: GcsStore(at_a_time=at_a_time),
            's3': lambda at_a_time: S3Store(url, anonymous=True, at_a_time=at_a_time),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('STORAGE_EMULATOR_HOST', url)
            for scheme, make in kinds.items():
                rows += _compare(scheme, make, count)
    return rows


def _compare(scheme: str, make: Callable[[int], Store], count: int) -> list[Row]:
    wall_sec = {}
    for at_a_time in (1, AT_A_TIME):
        store = make(at_a_time)
        started = time.perf_counter()
        listed = sum(1 for _ in store.list(f'{scheme}://bucket/photos'))
        wall_sec[at_a_time] = time.perf_counter() - started
        if listed != count:
            raise RuntimeError(f'{listed} names instead of {count}')
    title = f'{scheme}://, {count:,} names, {_PAUSE_SEC * 1000:.0f} ms a page'
    return [
        Row(f'{title}: one request at a time', wall_sec[1], 's'),
        Row(f'{title}: {AT_A_TIME} at a time', wall_sec[AT_A_TIME], 's'),
        Row(
            f'{title}: speed, {AT_A_TIME} / 1',
            wall_sec[1] / wall_sec[AT_A_TIME],
            at_least=_LEAST_TIMES,
        ),
    ]


def _inventories(folder: Path, thousands: int) -> list[Row]:
    """S3 Inventory in ten files, and in one, each of so many thousand rows."""
    rows = []
    for kind in ('CSV', 'Parquet'):
        measured = {}
        for files in (1, 10):
            place = folder / f'{kind}-{files}'
            manifest = place / 'inventory/2026-01-03T01-00Z/manifest.json'
            manifest.parent.mkdir(parents=True)
            manifest.write_text(
                json.dumps(_write(place / 'inventory/data', kind, files, thousands))
            )
            count = files * thousands * 1000
            measured[count] = run_python('-m', 'tests.benchmarks.listing', manifest, str(count))
        few, many = measured
        usec = 1e6 * (measured[many].wall_sec - measured[few].wall_sec) / (many - few)
        cpu_usec = 1e6 * (measured[many].cpu_sec - measured[few].cpu_sec) / (many - few)
        title = f'S3 Inventory, {kind}'
        more_bytes = measured[many].peak_bytes - measured[few].peak_bytes
        rows += [
            Row(f'{title}, {few:,} to {many:,} keys: time', usec, 'µs a key'),
            Row(f'{title}, {few:,} to {many:,} keys: CPU', cpu_usec, 'µs a key', _MOST_USEC),
            Row(f'{title}, {many:,} keys: peak', measured[many].peak_bytes / 1e6, 'MB'),
            Row(f'{title}, {few:,} to {many:,} keys: peak', more_bytes / 1e6, 'MB', _MOST_MORE_MB),
        ]
    return rows


def _write(folder: Path, kind: str, files: int, thousands: int) -> dict[str, Any]:
    """Writes the data files; what the manifest is to hold."""
    folder.mkdir()
    told = []
    for number in range(files):
        count = thousands * 1000
        numbers = pa.array(range(number * count, (number + 1) * count))
        digits = pc.utf8_lpad(pc.cast(numbers, pa.string()), 8, '0')
        times = pa.array([datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)] * count)
        table = pa.table(
            {
                'bucket': pa.array(['source'] * count),
                'key': pc.binary_join_element_wise('photos/2026/image-', digits, '.jpg', ''),
                'size': pc.add(numbers, 100_000),
                'last_modified_date': pc.cast(times, pa.timestamp('ms', 'UTC')),
                'e_tag': pc.binary_join_element_wise('acbd18db4cc2f85cedef654f', digits, ''),
            }
        )
        path = folder / f'{number}.{"csv.gz" if kind == "CSV" else "parquet"}'
        if kind == 'CSV':
            with gzip.open(path, 'wb', 1) as file:
                pa_csv.write_csv(table, file, pa_csv.WriteOptions(include_header=False))
        else:
            pq.write_table(table, path)
        with path.open('rb') as data:
            md5 = hashlib.file_digest(data, 'md5').hexdigest()
        told.append(
            {'key': f'source/inventory/data/{path.name}', 'size': path.stat().st_size}
            | {'MD5checksum': md5}
        )
    schema = 'Bucket, Key, Size, LastModifiedDate, ETag'
    return {
        'sourceBucket': 'source',
        'destinationBucket': 'arn:aws:s3:::inventories',
        'fileFormat': kind,
        'fileSchema': schema,
        'files': told,
    }


@contextlib.contextmanager
def _served(names: Path) -> Iterator[str]:
    """The address of a server of these names, a process of its own."""
    command = [sys.executable, '-m', 'tests.support.listing_server', str(names), str(_PAUSE_SEC)]
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def _list(place: str, count: int) -> None:
    columns = Columns('uri', (), ())
    found = list_input(resolve(place, columns), columns)
    listed = sum(isinstance(each, Ref) for each in found)
    if listed != count:
        raise RuntimeError(f'{listed} images instead of {count}')


if __name__ == '__main__':
    _list(sys.argv[1], int(sys.argv[2]))
