"""Durable progress: a run that is killed is resumed, and nothing is paid twice."""

import contextlib
import io
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.main import main
from tests.support import app, forks, quick_beam, samples, without_model
from tests.support.counted import WITHOUT_MODEL, at_risk
from tests.support.samples import SAMPLE
from transforms.dataset.verify import compare, verify

CHUNK = 64
quick_beam.install()


# A run that waits to be killed in the first call of the model behind so many finished chunks.
HELD = """
import pathlib, sys, threading
from tests.support import counted
from transforms import label as handler

count, chunks, wanted, *argv = sys.argv[1:]
predict = handler.predict_or_rescue

def held(*args):
    if len(list(pathlib.Path(chunks).glob('*.arrow'))) >= int(wanted):
        threading.Event().wait()
    return predict(*args)

handler.predict_or_rescue = held
sys.exit(counted.run(count, argv))
"""


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=SAMPLE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def counted(path: Path) -> int:
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def label_there(count: Path, *arguments) -> tuple[int, str]:
    """Labels in a process of its own; the exit code, and what it said."""
    process = start('-m', 'tests.support.counted', count, *arguments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def label_here(count: Path, kind: str, *arguments) -> tuple[int, str]:
    """The same in this process."""
    assert kind == WITHOUT_MODEL

    def counting(images):
        with count.open('a') as file:
            file.write(f'{images}\n')

    with (
        app.before_each_call(counting),
        app.stand_in(with_decoder=False, store=without_model.Store(0)),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(out),
    ):
        return main(without_model.in_threads([str(each) for each in arguments])), out.getvalue()


def killed_and_resumed(tmp_path, arguments, images, attempts, label=label_there) -> list[int]:
    """Kills so many attempts at a run and lets the last one end.

    Asserts that what comes out is what an undisturbed run gives, and what was paid for it.
    Returns how many chunks each kill left.
    """
    whole, disturbed = tmp_path / 'whole', tmp_path / 'disturbed'
    common = [*arguments, '--run_id', 'night-1', '--chunk_size', CHUNK]
    code, output = label(tmp_path / 'whole.count', *common, '--output', whole)
    assert code == 0, output
    assert counted(tmp_path / 'whole.count') == images
    left = []
    report = disturbed / 'runs/night-1/report.json'
    for attempt in attempts:
        attempt(tmp_path / 'count', disturbed, *common, '--output', disturbed)
        left.append(len(list(disturbed.glob('_work/night-1/chunks/*.arrow'))))
        if report.exists():
            break
    kills = len(left)
    code, output = label(tmp_path / 'count', *common, '--output', disturbed)
    # One that was killed behind its report is complete; the attempt only tidies up.
    assert code == 0 or 'this run is complete' in output, output
    assert report.exists()
    assert not (disturbed / '_work').exists()
    assert verify(str(disturbed)) == []
    assert compare(str(whole), str(disturbed), exact=True).differences == []
    paid = counted(tmp_path / 'count')
    print(f'{kills} kills, {paid} inferences for {images} images')
    # One bundle is in flight.
    assert images <= paid <= images + kills * at_risk(CHUNK), left
    return left


def killed_behind(chunks):
    """Killed in a call of the model, with so many chunks finished."""

    def attempt(count, output, *arguments):
        folder = output / '_work/night-1/chunks'
        process = forks.Fork(HELD, count, folder, chunks, *arguments)
        ends_at = time.monotonic() + 120
        while len(list(folder.glob('*.arrow'))) < chunks and time.monotonic() < ends_at:
            time.sleep(0.05)
        process.kill()
        process.communicate()

    return attempt


def killed(moment):
    """Killed at a moment that comes by itself."""

    def attempt(count, output, *arguments):
        process = start('-m', 'tests.support.counted', count, *arguments)
        with contextlib.suppress(subprocess.TimeoutExpired):
            moment(process, output)
        process.kill()
        process.communicate()

    return attempt


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


def test_a_killed_run_is_resumed_and_pays_for_nothing_twice(tmp_path):
    images = 512
    arguments = [WITHOUT_MODEL, 'label', '--input', manifest_of(tmp_path, images)]
    attempts = [killed_behind(2), killed_behind(5)]
    left = killed_and_resumed(tmp_path, arguments, images, attempts, label_here)
    # What the device had done before it was held may have been kept as well.
    assert 2 <= left[0] <= 4
    assert 5 <= left[1] <= 7


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    images = 20_000
    arguments = [WITHOUT_MODEL, 'label', '--input', manifest_of(tmp_path, images)]
    left = killed_and_resumed(
        tmp_path, arguments, images, map(killed, ten_moments(random.Random(), 200))
    )
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
    left = killed_and_resumed(
        tmp_path, arguments, images, map(killed, ten_moments(random.Random(), 10))
    )
    assert len(left) == 10, left
    print(left)
