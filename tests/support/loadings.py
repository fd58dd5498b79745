"""Files loaded in loader processes by tests, with the decoder of `crashing`; no Beam."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.support import crashing, samples
from transforms.core.elements import Chunk, Failure, Image, Item, Outcome
from transforms.core.errors import StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.limits import PixelLimits
from transforms.core.reasons import Reason
from transforms.images import decode
from transforms.images.resize import Resize
from transforms.loading.batch import LoadingBatch
from transforms.loading.loader import Loader
from transforms.loading.options import LoadOptions
from transforms.loading.processes import Pool
from transforms.storage.base import FetchLimits

RESIZE = Resize(size_px=16, short_side_px=None, filter='bilinear')
OPTIONS = LoadOptions(
    RESIZE,
    batch_size=8,
    fetch=FetchLimits(1 << 20, 20.0),
    pixels=PixelLimits(1_000_000, 4_000_000),  # a loader process may take little memory, then
    memory_budget_bytes=1 << 25,
    threads=4,
    processes=2,
    decode_deadline_sec=30.0,
    open_image=crashing.open_image,
)
ANY_FAILURE = FaultPolicy(FailFast(0, ''), StoreError)


@functools.cache
def good(number: int) -> bytes:
    return samples.picture(number, (40, 30))


def write(folder: Path, acts: list[str]) -> list[Path]:
    """A picture for each: '' is a good one."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, act in enumerate(acts):
        data = crashing.picture(good(number), act) if act else good(number)
        paths.append(folder / f'{number:02d}-{act or "good"}.jpg')
        paths[-1].write_bytes(data)
    return paths


def begin(
    paths: Sequence[Path], options: LoadOptions = OPTIONS, policy: FaultPolicy = ANY_FAILURE
) -> tuple[Loader, list[LoadingBatch]]:
    chunk = Chunk('c', [Item(str(path), '', -1, ['[]']) for path in paths])
    loader = Loader(options)
    size = options.batch_size
    return loader, [loader.begin(chunk, at, policy) for at in range(0, len(paths), size)]


def load(
    paths: Sequence[Path], options: LoadOptions = OPTIONS, policy: FaultPolicy = ANY_FAILURE
) -> dict[str, Outcome]:
    """Loads them; the pixels of each are looked at on the way, and that others have none."""
    loader, batches = begin(paths, options, policy)
    found = {}
    for batch in batches:
        results = loader.result(batch)
        slots = batch.pixels[: len(results)]
        for item, pixels, loaded in zip(batch.items, slots, results, strict=True):
            found[Path(item.uri).stem] = loaded.outcome
            if isinstance(loaded.outcome, Image):
                data = Path(item.uri).read_bytes()
                np.testing.assert_array_equal(pixels, decode.decode(data, RESIZE))
            else:
                assert not pixels.any()
        assert not batch.pixels[len(batch.items) :].any()
    return found


def failed(outcomes: Mapping[str, Outcome]) -> dict[str, tuple[Reason, str]]:
    """Reason and detail of each that failed; the others are pictures."""
    for outcome in outcomes.values():
        assert isinstance(outcome, Image | Failure)
    return {
        name: (outcome.reason, outcome.detail)
        for name, outcome in outcomes.items()
        if isinstance(outcome, Failure)
    }


def processes(pool: Pool) -> list[int]:
    """The loader processes at the moment."""
    assert pool.server
    children = Path(f'/proc/{pool.server.process.pid}/task/{pool.server.process.pid}/children')
    return [pid for pid in map(int, children.read_text().split()) if is_alive(pid)]


@contextlib.contextmanager
def within(seconds: float) -> Iterator[Callable[[], None]]:
    """Waits for something, again and again."""
    ends_at = time.monotonic() + seconds

    def tick() -> None:
        assert time.monotonic() < ends_at
        time.sleep(0.01)

    yield tick


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has asked about yet."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False
