"""What every engine is asked: the bytes of the local one, also when it is killed.

Two scenarios, from the storage emulator to the storage emulator; the inputs hold carried columns,
a partition, duplicates and images that fail.  The engine's workers are processes of their own.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.support import app, samples
from tests.support.counted import WITHOUT_NETWORK, at_risk
from tests.support.engine_worker import COUNT, KIND, running_pool, workers
from transforms.dataset.verify import verify
from transforms.storage.registry import store_for

RUN = 'night-1'
CHUNK = 64
_CARRIED = ['--carry', 'split,customer', '--partition_by', 'split', '--rows_per_file', 100]
_END_SEC = 300.0


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine of Beam that runs.

    Attributes:
      flags: options that choose it.
      restarts: whether it goes on by itself when a part of it is killed; otherwise the job fails,
        and the same command goes on.
      harms: what is killed of it, each in an attempt of its own, given the process of the command
        and the ids of the SDK workers.
      at_once: how many chunks may be under way, and are lost with what is killed.
    """

    flags: Sequence[str]
    restarts: bool
    harms: Sequence[Callable[[subprocess.Popen[bytes], list[int]], None]]
    at_once: int


class Bucket(Protocol):
    """A bucket of any store: `Bucket` and `S3Bucket` of tests.conftest."""

    def uri(self, name: str = '') -> str:
        """The URI of an object."""

    def put(self, name: str, data: bytes) -> str:
        """Uploads an object and returns its URI."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """Images in a bucket, and what is to come of them."""

    manifest: str
    inferred: int
    listed: int
    dead: dict[str, int]
    duplicates: int


def fill(bucket: Bucket, pictures: Sequence[bytes]) -> Listed:
    """Puts images into a bucket and lists them: some twice, some for two customers, some bad."""
    rng = random.Random(7)
    lines = []
    bad = dict(samples.BAD) | {'gone.jpg': None}
    names = [f'{i % 7}/{i:05d}.jpg' for i in range(len(pictures))]
    for name, data in [*zip(names, pictures, strict=True), *bad.items()]:
        if data is not None:
            bucket.put(f'in/{name}', data)
        split = rng.choice(('train', 'test', '007', ''))
        lines.append({'uri': f'in/{name}', 'split': split, 'customer': f'c{rng.randrange(20)}'})
    twice, shared = lines[: len(pictures) // 10], lines[10:14]
    lines += twice
    lines += [line | {'customer': 'another'} for line in shared]
    lines.append({'uri': 'ftp://example.com/1.jpg', 'split': 'test', 'customer': 'c1'})
    rng.shuffle(lines)
    manifest = bucket.put('list.jsonl', ''.join(json.dumps(x) + '\n' for x in lines).encode())
    dead = {'not_an_image': 1, 'empty': 1, 'truncated': 1, 'not_found': 1, 'bad_uri': 1}
    return Listed(manifest, len(pictures), len(lines), dead, len(twice))


def files_of(output: str) -> dict[str, bytes]:
    """Everything of an output that must be the same bytes, by path."""
    store = store_for(output)
    found = {}
    for kind in ('predictions', 'dead_letters', 'vocabularies'):
        for entry in store.list(f'{output}/{kind}'):
            data = store.read(entry.uri)
            assert data is not None, entry.uri
            found[entry.uri.removeprefix(output)] = data
    return found


def counted(path: Path) -> int:
    """How many images a model was given."""
    return sum(map(int, path.read_text().split())) if path.exists() else 0


@contextlib.contextmanager
def started(count: Path, kind: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """`lemmabeam label` as a process; it and what it starts are gone in the end."""
    # For workers that are started by the engine itself.
    environment = os.environ | {COUNT: str(count.with_name('count')), KIND: kind}
    words = [str(count), *([kind] if kind else []), 'label', *map(str, arguments)]
    with Path(f'{count}.log').open('ab') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', 'tests.support.counted', *words],
            cwd=samples.SAMPLE.parents[1],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finished(count: Path, kind: str, *arguments: object) -> None:
    """Runs `lemmabeam label` to its end."""
    with started(count, kind, *arguments) as process:
        process.wait(_END_SEC)
        assert process.returncode == 0, Path(f'{count}.log').read_text()


def report_of(output: str, run_id: str) -> dict[str, Any]:
    """What a run says of itself."""
    data = store_for(output).read(f'{output}/runs/{run_id}/report.json')
    assert data is not None
    report: dict[str, Any] = json.loads(data)
    return report


def check_same(ours: str, theirs: str) -> None:
    """Two outputs are the same, byte for byte, and whole."""
    expected, found = files_of(ours), files_of(theirs)
    assert len(expected) >= 4
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []
    same = app.command('verify', ours, theirs, '--exact')
    assert same.returncode == 0, same.stdout + same.stderr
    assert same.stdout.startswith('the same: ')


def check_undisturbed(engine: Callable[[int], Engine], bucket: Bucket, tmp_path: Path) -> None:
    """With the real model: the bytes of the local engine; a second run has nothing to do.

    Args:
      engine: makes it, given the port of a pool of SDK workers.
      bucket: for the images and the outputs.
      tmp_path: for counts and logs.
    """
    listed = fill(bucket, [samples.picture(i) for i in range(200)])
    ours, theirs = bucket.uri('local'), bucket.uri('engine')
    common = ['--input', listed.manifest, *_CARRIED, '--chunk_size', CHUNK]
    finished(tmp_path / 'local', '', *common, '--output', ours, '--run_id', RUN)
    count = tmp_path / 'count'
    with running_pool(tmp_path / 'pool', count, '') as port:
        flags = engine(port).flags
        begun_at = time.monotonic()
        finished(tmp_path / 'launcher', '', *common, '--output', theirs, '--run_id', RUN, *flags)
        first_sec = time.monotonic() - begun_at
        paid = counted(count)
        check_same(ours, theirs)
        begun_at = time.monotonic()
        finished(
            tmp_path / 'launcher', '', *common, '--output', theirs, '--run_id', 'night-2', *flags
        )
        print(f'{first_sec:.1f} s, again {time.monotonic() - begun_at:.1f} s, {paid} inferences')
    counts = report_of(theirs, RUN)['counts']
    assert counts['listed'] == listed.listed
    assert counts['duplicates'] == listed.duplicates
    assert counts['dead_lettered_by_reason'] == dict(sorted(listed.dead.items()))
    assert paid == listed.inferred
    assert counted(tmp_path / 'launcher') == 0, 'the workers label, not the launcher'
    again = report_of(theirs, 'night-2')['counts']
    assert again['labeled'] == 0
    # What was not there may be there now.
    assert again['dead_lettered_by_reason'] == {'not_found': 1}
    assert counted(count) == paid
    assert verify(theirs) == []


def check_disturbed(engine: Callable[[int], Engine], bucket: Bucket, tmp_path: Path) -> None:
    """More images, with a model that takes no time: parts of the engine are killed.

    What comes out is what an undisturbed run of the local engine gives, and finished chunks are not
    paid for again.

    Args:
      engine: makes it, given the port of a pool of SDK workers.
      bucket: for the images and the outputs.
      tmp_path: for counts and logs.
    """
    images = 4_000
    listed = fill(bucket, [b'%d' % i for i in range(images)])
    ours, theirs = bucket.uri('local'), bucket.uri('engine')
    common = ['--input', listed.manifest, *_CARRIED, '--chunk_size', CHUNK, '--run_id', RUN]
    finished(tmp_path / 'local', WITHOUT_NETWORK, *common, '--output', ours)
    count = tmp_path / 'count'
    launcher = tmp_path / 'launcher'
    left = 0
    with running_pool(tmp_path / 'pool', count, WITHOUT_NETWORK) as port:
        made = engine(port)
        arguments = [*common, '--output', theirs, *made.flags]
        for harm in made.harms:
            with started(launcher, WITHOUT_NETWORK, *arguments) as process:
                _wait_for_chunks(process, theirs, left + 5, launcher)
                harm(process, workers(count))
                code = process.wait(_END_SEC)
            log = Path(f'{launcher}.log').read_text()
            if made.restarts:
                assert code == 0, log
            else:
                assert code == 1, (code, log)
                assert 'run the same command again to resume' in log
                left = len(_chunks(theirs))
            print(f'{harm.__name__}: exit code {code}, {left} chunks kept, {counted(count)} paid')
        if not made.restarts:
            finished(launcher, WITHOUT_NETWORK, *arguments)
    check_same(ours, theirs)
    # Without a decoder, what is no image is one.
    inferred = counted(tmp_path / 'local')
    paid = counted(count)
    report = report_of(theirs, RUN)
    print(f'{len(made.harms)} kills, {paid} inferences for {inferred} images')
    assert report['counts']['listed'] == listed.listed
    assert inferred >= images
    assert inferred <= paid <= inferred + len(made.harms) * made.at_once * at_risk(CHUNK)
    if not made.restarts:
        assert report['labeled_by_earlier_attempts'] > 0


def check_refused(engine: Callable[[int], Engine], bucket: Bucket, tmp_path: Path) -> None:
    """What a worker refuses comes back as it does from the local engine: exit code and line.

    Args:
      engine: makes it, given the port of a pool of SDK workers.
      bucket: for the images and the output.
      tmp_path: for logs.
    """
    listed = fill(bucket, [b'%d' % i for i in range(20)])
    launcher, output = tmp_path / 'launcher', bucket.uri('refused')
    with running_pool(tmp_path / 'pool', tmp_path / 'count', WITHOUT_NETWORK) as port:
        arguments = ['--input', listed.manifest, *_CARRIED, '--max_images', 3, *engine(port).flags]
        with started(launcher, WITHOUT_NETWORK, *arguments, '--output', output) as process:
            code = process.wait(_END_SEC)
    log = Path(f'{launcher}.log').read_text()
    assert code == 2, log
    lines = [line for line in log.splitlines() if line.startswith('lemmabeam: --max_images 3: ')]
    assert len(lines) == 1, log
    assert counted(tmp_path / 'count') == 0


def _chunks(output: str) -> list[str]:
    return [entry.uri for entry in store_for(output).list(f'{output}/_work/{RUN}/chunks')]


def _wait_for_chunks(
    process: subprocess.Popen[bytes], output: str, count: int, launcher: Path
) -> None:
    ends_at = time.monotonic() + _END_SEC
    while len(_chunks(output)) < count:
        log = Path(f'{launcher}.log').read_text()
        assert process.poll() is None, f'ended before it could be disturbed: {log}'
        assert time.monotonic() < ends_at, f'no {count} chunks: {log}'
        time.sleep(0.05)
