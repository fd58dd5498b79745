"""Flips bits of every durable file of an output: `python -m tests.support.flip_bits [--flips N]`.

Whatever reads the file is asked in a process of its own, so that its crash or its hanging is
noticed.  It must say that the file is damaged, or read what stood there before; work that is
damaged must be done again, and nothing else may be touched.  Prints what was found, by file, and
exits with 0 where it was no more than this.
"""

import argparse
import collections
import contextlib
import json
import random
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.report.statistics import read_digest
from tests.support.datasets import MODEL, VOCABULARY, Row, add_run
from transforms.core.elements import Chunk, DeadLetter, Image, Item, LabeledBatch, Ref
from transforms.core.errors import DamagedError, LemmabeamError
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.dataset.latest_file import write_latest
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.reader import open_dataset, read_vocabulary
from transforms.dataset.verify import notes, verify
from transforms.output import results
from transforms.output.layout import Layout, check_dataset
from transforms.output.results import carried_text
from transforms.runs import checkpoints, in_progress
from transforms.runs.complete import complete_runs
from transforms.runs.history import history_files, read_history
from transforms.runs.vocabularies import keep_vocabulary
from transforms.sources import snapshot
from transforms.sources.inputs import Columns, Input, Kind
from transforms.sources.listing import list_input
from transforms.storage.registry import store_for

_ROOT = Path(__file__).parents[2]
_READ_SEC = 60
_RUN = 'b'
_BEGUN = in_progress.Begun(
    '2026-11-24T01:02:03+00:00', 3, ['a', 'b'], {'threshold': 0.1, 'model': MODEL}
)
_COLUMNS = Columns('uri', ('split', 'id'), ('split',))
# What a flip may come to.
_NAMED, _SAME, _AGAIN = 'named', 'the same', 'done again'
GOOD = {_NAMED, _SAME, _AGAIN}


class Output:
    """An output of two complete runs and one that was interrupted, and all that reads it.

    Args:
      root: its folder; `make` fills an empty one.
    """

    def __init__(self, root: Path):
        self.root = root
        self.layout = Layout(str(root), 'c', MODEL, ('split', 'id'), ('split',), 8)
        self.store = store_for(str(root))
        self.chunks = [
            Chunk(f'{i:016x}', [Item(f'/in/{i}{j}.jpg', '1', 5, ['["train", "1"]'])
            for j in range(8)])
            for i in range(3)
        ]  # fmt: skip

    def make(self) -> None:
        """Writes it."""
        rows = [
            Row(f'/in/{i:02d}.jpg', [(i, 0.5), (50, 0.25)][: i % 4], ['train', f'{i:03d}'], 'v1')
            for i in range(40)
        ]
        carried = carried_text(['train', None])
        failed = [
            DeadLetter(f'/in/{i}.jpg', 'decode', 'truncated', 'JPEG ends early', 5, carried, 'v1')
            for i in range(90, 99)
        ]
        carry, partition_by = ('split', 'id'), ('split',)
        add_run(self.root, 'a', rows[:8], carry=carry, partition_by=partition_by)
        add_run(self.root, _RUN, rows, failed=failed, carry=carry, partition_by=partition_by)
        write_latest_sql(str(self.root), self.store)
        in_progress.begin(self.layout, _BEGUN)
        refs = [Ref(f'/in/{i}.jpg', f'v{i}', i, carried, '', '') for i in range(50)]
        snapshot.freeze(self.layout, 0, [*refs, 'skipped_not_image'])
        for number, chunk in enumerate(self.chunks):
            checkpoints.keep(self.layout, chunk, _rows_of(chunk, number))

    def files(self) -> list[str]:
        """Every file that decides rows, relative to the root; not of run a, which is like b."""
        found = (path for path in self.root.rglob('*') if path.is_file())
        paths = sorted(path.relative_to(self.root).as_posix() for path in found)
        return [path for path in paths if '/run=a/' not in path and not path.startswith('runs/a/')]

    def readers(self, path: str) -> dict[str, Callable[[], Any]]:
        """What reads a file, by name; each gives what it read, or raises `LemmabeamError`."""
        if path.endswith('run.json'):
            return {'begun': lambda: in_progress.begun(self.layout)}
        if '/listing/' in path:
            return {'check': self._check_listing, 'listing': self._read_listing}
        readers: dict[str, Callable[[], Any]] = {'verify': self._verify}
        if path == 'dataset.json':
            readers |= {'check_dataset': lambda: check_dataset(self.layout)}
            readers |= {'open_dataset': lambda: open_dataset(str(self.root), self.store)[2:]}
        elif path.endswith('report.json'):
            readers |= {'runs': lambda: complete_runs(str(self.root), self.store)}
        elif path.startswith('vocabularies/'):
            readers |= {'vocabulary': self._vocabulary}
        if path.endswith(('report.json', '.parquet')):
            readers |= {'history': self._history, 'retry': self._retry, 'latest': self._latest}
            readers |= {'report': self._digest}
        return readers

    def _check_listing(self) -> None:
        try:
            snapshot.check(self.layout, 1)
        except DamagedError as e:
            raise LemmabeamError(str(e)) from e

    def _read_listing(self) -> Any:
        found = snapshot.find(self.layout, 0)
        return found and (
            found,
            [list(snapshot.read_part(self.layout, *each)) for each in found[0]],
        )

    def _runs(self) -> list[Any]:
        return complete_runs(str(self.root), self.store)

    def _vocabulary(self) -> Any:
        dataset = open_dataset(str(self.root), self.store)
        return read_vocabulary(dataset, self._runs()[-1])

    def _history(self) -> Any:
        limits = {'max_bytes': 1, 'max_pixels': 1}
        files = history_files(self._runs(), MODEL, [], 'uri', limits, retry_dead=False)
        return [list(read_history(file, self.layout)) for file in files]

    def _retry(self) -> Any:
        folder = f'{self.root}/{Kind.DEAD_LETTERS}/model={MODEL}/run={_RUN}'
        return list(list_input(Input(Kind.DEAD_LETTERS, folder, 'truncated'), _COLUMNS))

    def _latest(self) -> Any:
        target = self.root.parent / 'latest.parquet'
        dataset = open_dataset(str(self.root), self.store)
        write_latest(dataset, self._runs(), str(target), DEFAULT_OPTIONS)
        return target.read_bytes()

    def _digest(self) -> Any:
        return repr(read_digest(str(self.root), self._runs()[-1], self.store, 3, 3))

    def _verify(self) -> Any:
        problems = verify(str(self.root))
        if problems:
            raise LemmabeamError('\n'.join(problems))
        return notes(str(self.root))

    def try_chunk(self, path: str) -> str:
        """What becomes of a finished chunk: nothing of a damaged one, and it is finished again."""
        number = next(i for i, chunk in enumerate(self.chunks) if chunk.id in path)
        chunk = self.chunks[number]
        rows = _rows_of(chunk, number)
        data, damaged = checkpoints.find(self.layout, chunk)
        if data is not None:
            return _SAME if data == rows else 'other rows'
        kept = checkpoints.keep(self.layout, chunk, rows)
        again = checkpoints.find(self.layout, chunk)
        (self.root / path).with_name(f'{chunk.id}-1.arrow').unlink()
        return _AGAIN if (damaged, kept, again) == (1, rows, (rows, 1)) else 'not done again'

    def heal(self, path: str) -> str:
        """What the next run makes of a damaged vocabulary."""
        whole = VOCABULARY.to_parquet()
        keep_vocabulary(str(self.root), self.store, VOCABULARY)
        return _NAMED if (self.root / path).read_bytes() == whole else 'not written anew'


def _rows_of(chunk: Chunk, number: int) -> bytes:
    image = Image('1', 'ab' * 32, 10, 10, 'JPEG', 5)
    count = len(chunk.items)
    scores = np.linspace(0.9, 0.1 + number / 10, 2 * count, dtype=np.float32).reshape(count, 2)
    indices = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
    counts = np.full(count, 2, np.int32)
    batch = LabeledBatch(chunk, 0, [image] * count, indices, scores, counts, None, {}, '')
    return results.to_ipc(results.outcome_table([batch]))


class Flip(NamedTuple):
    """A bit of a file, relative to the root."""

    path: str
    bit: int


def flips_of(output: Output, count: int, seed: int) -> list[Flip]:
    """Bits of each file in turn, the same for the same seed."""
    rng = random.Random(seed)
    sizes = {path: 8 * (output.root / path).stat().st_size for path in output.files()}
    paths = list(sizes)
    return [
        Flip(path, rng.randrange(sizes[path]))
        for path in (paths[i % len(paths)] for i in range(count))
    ]


class Judge:
    """Tries flips in this process."""

    def __init__(self, output: Output):
        self._output = output
        self._whole = {
            path: {name: read() for name, read in output.readers(path).items()}
            for path in output.files()
            if '/chunks/' not in path
        }
        self._before = self._state()

    def outcome(self, flip: Flip) -> str:
        """One of `GOOD`, or what went wrong."""
        target = self._output.root / flip.path
        whole = target.read_bytes()
        damaged = bytearray(whole)
        damaged[flip.bit // 8] ^= 1 << flip.bit % 8
        target.write_bytes(damaged)
        try:
            found = self._try(flip.path)
            if target.read_bytes() not in (whole, bytes(damaged)):
                return 'written over'
        except Exception as e:  # noqa: BLE001 (anything but an error of ours is a finding)
            return f'{type(e).__name__}: {e}'
        finally:
            target.write_bytes(whole)
        return found if self._state() == self._before else 'another file is not what it was'

    def _try(self, path: str) -> str:
        if '/chunks/' in path:
            return self._output.try_chunk(path)
        said = {}
        for name, read in self._output.readers(path).items():
            try:
                found = read()
            except LemmabeamError as e:
                said[name] = str(e)
                continue
            if found != self._whole[path][name] and name != 'verify':
                return f'accepted by {name}'
        if 'verify' not in self._whole[path]:
            return _NAMED if said else _SAME
        if 'verify' not in said:
            return f'named by {sorted(said)}, but not by verify' if said else _SAME
        if path not in said['verify']:
            return f'verify names something else: {said["verify"]}'
        return self._output.heal(path) if path.startswith('vocabularies/') else _NAMED

    def _state(self) -> dict[str, int]:
        root = self._output.root
        return {str(path): path.stat().st_size for path in root.rglob('*') if path.is_file()}


def work_off(root: Path) -> None:
    """Tries the flips that come in, a line each, and answers with a line."""
    judge = Judge(Output(root))
    print('ready', flush=True)
    for line in sys.stdin:
        print(json.dumps(judge.outcome(Flip(*json.loads(line)))), flush=True)


class Worker:
    """A process that tries flips, and another one where that is gone.

    Args:
      root: the output; the process is started when it is asked first.
    """

    def __init__(self, root: Path):
        self._root = root
        self.process: subprocess.Popen[str] | None = None

    def ask(self, flip: Flip) -> str:
        """The outcome; 'crash' or 'hang' where there is none."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'tests.support.flip_bits', '--worker', self._root],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._read(600) == 'ready'
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(flip) + '\n')
            self.process.stdin.flush()
        answer = self._read(_READ_SEC)
        if answer is None or not answer:
            self.close()
            return 'hang' if answer is None else 'crash'
        outcome: str = json.loads(answer)
        return outcome

    def _read(self, timeout_sec: float) -> str | None:
        assert self.process
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_sec)
        return self.process.stdout.readline().strip() if ready else None

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def search(root: Path, count: int, seed: int) -> Iterator[tuple[Flip, str]]:
    """Flips so many bits of a fresh output, one at a time; yields what came of each.

    Args:
      root: an empty folder.
      count: how many.
      seed: chooses them.
    """
    output = Output(root / 'out')
    output.make()
    with contextlib.closing(Worker(output.root)) as worker:
        for flip in flips_of(output, count, seed):
            path = output.root / flip.path
            whole = path.read_bytes()
            outcome = worker.ask(flip)
            path.write_bytes(whole)  # a process that is gone has not
            yield flip, outcome


def main() -> int:
    """Searches, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--flips', type=int, default=10_000, help='how many (default: 10000)')
    parser.add_argument('--seed', type=int, default=1, help='chooses them (default: 1)')
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work_off(args.worker)
        return 0
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        for flip, outcome in search(Path(folder), args.flips, args.seed):
            found[flip.path][outcome] += 1
            if outcome not in GOOD:
                print(f'bit {flip.bit} of {flip.path}: {outcome}')
    for path, outcomes_of in found.items():
        print(f'{path}: {dict(outcomes_of)}')
    total = sum(found.values(), collections.Counter())
    print(f'{total.total()} flips: {dict(total)}')
    return int(bool(total.keys() - GOOD))


if __name__ == '__main__':
    sys.exit(main())
