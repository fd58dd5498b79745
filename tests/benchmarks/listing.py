"""Listing a prefix of a store that takes 100 ms a page: one request at a time, and several."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.benchmarks.measure import Row
from transforms.storage.base import Store
from transforms.storage.gcs import GcsStore
from transforms.storage.pages import AT_A_TIME
from transforms.storage.s3 import S3Store

_PAUSE_SEC = 0.1
_LEAST_TIMES = 4.0
_ROOT = Path(__file__).parents[2]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    count = 20_000 if is_quick else 1_000_000
    names = folder / 'names.txt'
    # Ten folders, one of them with half of the names.
    lines = (f'photos/{0 if i < count // 2 else 1 + i % 9}/image-{i:08d}.jpg' for i in range(count))
    names.write_text('\n'.join(sorted(lines)))
    rows: list[Row] = []
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
