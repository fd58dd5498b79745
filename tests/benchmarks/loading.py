"""Loading alone: loader processes beside as many bare decoders, and beside other settings."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.images import write_jpegs
from tests.benchmarks.measure import Row
from transforms.core.elements import Chunk, Item
from transforms.core.errors import StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.limits import PixelLimits
from transforms.core.resources import cpu_count
from transforms.images.resize import Resize
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions
from transforms.storage.base import FetchLimits

RESIZE = Resize(size_px=224, short_side_px=256, filter='bilinear')
_BATCH = 32
OPTIONS = LoadOptions(RESIZE, _BATCH, FetchLimits(1 << 26, 60.0), PixelLimits(), 1 << 29, 16)
POLICY = FaultPolicy(FailFast(0, ''), StoreError)

# Reads and decodes its share of a folder again and again, one picture after the other.
_BARE = """
import sys
from pathlib import Path
from tests.benchmarks.loading import RESIZE
from transforms.images.decode import decode
share, shares = int(sys.argv[2]), int(sys.argv[3])
paths = sorted(Path(sys.argv[1]).iterdir())
decode(paths[0].read_bytes(), RESIZE)
print(flush=True)
for _ in sys.stdin:
    for path in paths[share::shares]:
        decode(path.read_bytes(), RESIZE)
    print(flush=True)
"""


class Bare:
    """As many single-threaded decoders as there are cores; a call decodes a folder once."""

    def __init__(self, folder: Path):
        count = cpu_count()
        self._processes = [
            subprocess.Popen(
                [sys.executable, '-c', _BARE, folder, str(i), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for i in range(count)
        ]
        self._hear()

    def _hear(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def __call__(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write('\n')
        self._hear()

    def end(self) -> None:
        """Ends them."""
        for process in self._processes:
            process.communicate()


def _loading(folder: Path, options: LoadOptions) -> Callable[[], None]:
    """Loads a folder, as far ahead as a run does; takes the batches as fast as they come."""
    items = [Item(str(path), '', -1, ['[]']) for path in sorted(folder.iterdir())]
    chunk = Chunk('c', items)
    loader = Loader(options)

    def load() -> None:
        pending = []
        for start in range(0, len(items), _BATCH):
            while pending and (len(pending) >= loader.look_ahead or not loader.may_look_ahead):
                loader.result(pending.pop(0))
            pending.append(loader.begin(chunk, start, POLICY))
        for batch in pending:
            loader.result(batch)

    return load


def _ways(folder: Path) -> dict[str, Callable[[], None]]:
    cores = cpu_count()
    grid = [(1, 16), (cores, 2), (cores, 4), (cores, 8), (2 * cores, 4), (0, 3), (0, 16)]
    settings = {
        f'{processes} processes, {threads} threads each': OPTIONS._replace(
            processes=processes, threads=threads
        )
        for processes, threads in grid
    }
    return {
        'default': _loading(folder, OPTIONS),
        **{name: _loading(folder, options) for name, options in settings.items()},
    }


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    images, rounds = (64, 2) if is_quick else (800, 12)
    write_jpegs(folder / 'images', images)
    bare = Bare(folder / 'images')
    ways: dict[str, Callable[[], None]] = {'bare decoders': bare, **_ways(folder / 'images')}
    for load in ways.values():
        load()  # processes start, files are read
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    own: list[float] = []
    for i in range(rounds):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            started, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
            if name == 'default':
                own.append((time.process_time() - cpu) / images)
    bare.end()
    # The fastest of many ways was also lucky in the rounds by which it is chosen: those by which it
    # is measured are others.
    grid = [name for name in ways if name not in ('bare decoders', 'default')]
    best = min(grid, key=lambda name: median(seconds[name][::2]))

    def ratio(other: str) -> float:
        pairs = zip(seconds[other][1::2], seconds['default'][1::2], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    return [
        *(Row(name, images / median(each), 'images/s') for name, each in seconds.items()),
        Row(f'default / {cpu_count()} bare decoders', ratio('bare decoders'), at_least=0.95),
        Row(f'default / best ({best})', ratio(best), at_least=0.95),
        Row('processor time of this process an image', 1000 * median(own), 'ms'),
    ]
