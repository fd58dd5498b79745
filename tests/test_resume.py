"""Durable progress: a run that is killed is gone on with, and nothing is paid twice."""

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.verify import compare, verify
from tests import support
from tests.support import SAMPLE

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
    # One bundle is in flight, and the chunk it works on is lost.
    assert images <= paid <= images + kills * CHUNK, left
    return left


def after(seconds):
    return lambda process, _: process.wait(seconds)


def at_chunks(count):
    """When so many chunks are finished."""

    def wait(process, output):
        ends_at = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < ends_at:
            if len(list(output.glob('_work/night-1/chunks/*.arrow'))) >= count:
                return
            time.sleep(0.005)

    return wait


def manifest_of(tmp_path, images) -> Path:
    path = tmp_path / 'list.txt'
    path.write_text(''.join(f'/photos/{i:06d}.jpg\n' for i in range(images)))
    return path


def test_a_killed_run_is_gone_on_with_and_pays_for_nothing_twice(tmp_path):
    images = 4096
    arguments = ['without_model', 'label', '--input', manifest_of(tmp_path, images)]
    left = killed_and_resumed(tmp_path, arguments, images, [at_chunks(3), at_chunks(20)])
    assert left[0] >= 3
    assert left[1] >= 20


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    rng = random.Random()
    images = 20_000
    arguments = ['without_model', 'label', '--input', manifest_of(tmp_path, images)]
    # The whole takes some 10 s, start included.
    moments = [after(rng.uniform(1.5, 9)) for _ in range(10)]
    print(killed_and_resumed(tmp_path, arguments, images, moments))


@pytest.mark.slow
def test_killed_at_ten_random_moments_with_the_real_model(tmp_path):
    rng = random.Random()
    images = 400
    support.write_pictures(tmp_path / 'photos', images)
    arguments = ['label', '--input', tmp_path / 'photos']
    moments = [after(rng.uniform(2, 9)) for _ in range(10)]
    print(killed_and_resumed(tmp_path, arguments, images, moments))
