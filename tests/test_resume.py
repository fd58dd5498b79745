"""Durable progress: a run that is killed is gone on with, and nothing is paid twice."""

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.verify import compare, verify
from tests import samples
from tests.samples import SAMPLE

CHUNK = 64


def start(count: Path, *arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-m', 'tests.counted', str(count), *map(str, arguments)],
        cwd=SAMPLE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def counted(path: Path) -> int:
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def finished(process: subprocess.Popen, timeout_sec: float = 120) -> str:
    output, _ = process.communicate(timeout=timeout_sec)
    assert process.returncode == 0, output
    return output


def work_of(output: Path) -> list[Path]:
    return [path for path in output.glob('_work/**/*') if path.is_file()]


def killed_and_resumed(tmp_path, arguments, images, moments) -> list[int]:
    """Kills a run at each of these moments and lets the last attempt end.

    Asserts that what comes out is what an undisturbed run gives, and what was paid for it.
    Returns how many chunks each kill left.
    """
    whole, disturbed = tmp_path / 'whole', tmp_path / 'disturbed'
    common = [*arguments, '--run_id', 'night-1', '--chunk_size', CHUNK]
    finished(start(tmp_path / 'whole.count', *common, '--output', whole), 300)
    assert counted(tmp_path / 'whole.count') == images
    left = []
    kills = 0
    report = disturbed / 'runs/night-1/report.json'
    for moment in moments:
        process = start(tmp_path / 'count', *common, '--output', disturbed)
        with contextlib.suppress(subprocess.TimeoutExpired):
            moment(process, disturbed)
        process.kill()
        process.communicate()
        kills += 1
        left.append(len(list(disturbed.glob('_work/night-1/chunks/*.arrow'))))
        if report.exists():
            break
    last = start(tmp_path / 'count', *common, '--output', disturbed)
    output, _ = last.communicate(timeout=300)
    # One that was killed behind its report is complete; the attempt only tidies up.
    assert last.returncode == 0 or 'this run is complete' in output, output
    assert report.exists()
    assert not (disturbed / '_work').exists()
    assert verify(str(disturbed)) == []
    assert compare(str(whole), str(disturbed)) == []
    paid = counted(tmp_path / 'count')
    print(f'{kills} kills, {paid} inferences for {images} images')
    # One bundle is in flight, and the chunk it works on is lost.
    assert images <= paid <= images + kills * CHUNK, left
    return left


def after(seconds):
    return lambda process, _: process.wait(seconds)


def when(is_so, delay_sec=0.0):
    """As soon as something holds of the output, and a little later."""

    def wait(process, output):
        ends_at = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < ends_at:
            if is_so(output):
                time.sleep(delay_sec)
                return
            time.sleep(0.002)

    return wait


def at_chunks(count, delay_sec=0.0):
    """When so many chunks are finished."""
    return when(
        lambda output: len(list(output.glob('_work/night-1/chunks/*.arrow'))) >= count, delay_sec
    )


def ten_moments(rng, chunks):
    """Random moments in every stage: three while it starts, five while it works, two at its end."""
    working = sorted(rng.sample(range(1, chunks), 5))
    moments = [at_chunks(count, rng.uniform(0, 0.3)) for count in working]
    for _ in range(3):
        moments.insert(rng.randrange(len(moments)), after(rng.uniform(0.2, 3)))
    staged = when(lambda output: (output / '_work/night-1/staged').exists(), rng.uniform(0, 0.05))
    published = when(lambda output: (output / 'predictions').exists(), rng.uniform(0, 0.02))
    return [*moments, staged, published]


def manifest_of(tmp_path, images) -> Path:
    path = tmp_path / 'list.txt'
    path.write_text(''.join(f'/photos/{i:06d}.jpg\n' for i in range(images)))
    return path


def test_a_killed_run_is_gone_on_with_and_pays_for_nothing_twice(tmp_path):
    images = 8192
    arguments = ['without_model', 'label', '--input', manifest_of(tmp_path, images)]
    left = killed_and_resumed(tmp_path, arguments, images, [at_chunks(3), at_chunks(20)])
    assert left[0] >= 3
    assert left[1] >= 20


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    images = 20_000
    arguments = ['without_model', 'label', '--input', manifest_of(tmp_path, images)]
    left = killed_and_resumed(tmp_path, arguments, images, ten_moments(random.Random(), 200))
    assert len(left) == 10, left
    print(left)


@pytest.mark.slow
def test_killed_at_ten_random_moments_with_the_real_model(tmp_path):
    images = 1_000
    paths = samples.write_pictures(tmp_path / 'photos', 100)
    for i in range(100, images):
        (tmp_path / f'photos/{i:04d}.jpg').hardlink_to(paths[i % 100])
    for name in samples.BAD:
        (tmp_path / 'photos' / name).unlink()
    arguments = ['label', '--input', tmp_path / 'photos']
    left = killed_and_resumed(tmp_path, arguments, images, ten_moments(random.Random(), 10))
    assert len(left) == 10, left
    print(left)
