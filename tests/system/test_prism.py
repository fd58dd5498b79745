"""Beam's engine Prism, a process, with an SDK worker that is another one: `make test-prism`.

What is not checked here: several SDK workers at once, as Prism starts one an environment only.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from tests.api.test_composite import label_images, labelled
from tests.api.test_step_examples import TEMPLATES, check_own_pipeline
from tests.support import app, crashing, engines, samples
from tests.support.failing_model import Poisoned, poison
from transforms.dataset.verify import compare, verify

ROOT = Path(__file__).parents[2]
_BINARY = Path(os.environ.get('PRISM') or Path(sys.executable).with_name('prism'))


@pytest.fixture
def prism() -> list[str]:
    """The flags that choose it."""
    if not _BINARY.exists():
        pytest.fail(f'no Prism at {_BINARY}; build it with: make .venv/bin/{_BINARY.name}')
    return ['--runner=PrismRunner', f'--prism_location={_BINARY}']


def kill_worker(process: subprocess.Popen, workers: list[int]) -> None:
    (pid,) = workers
    os.kill(pid, signal.SIGKILL)


def kill_engine(process: subprocess.Popen, workers: list[int]) -> None:
    children = Path(f'/proc/{process.pid}/task').glob('*/children')
    pids = [int(pid) for each in children for pid in each.read_text().split()]
    (pid,) = (pid for pid in pids if Path(f'/proc/{pid}/exe').resolve() == _BINARY.resolve())
    os.kill(pid, signal.SIGKILL)


def test_the_version_of_prism_is_that_of_beam():
    lines = (Path(__file__).parents[1] / 'environments/prism/go.mod').read_text().split('\n')
    assert f'\tgithub.com/apache/beam/sdks/v2 v{beam.__version__} // indirect' in lines


def test_a_job_may_take_longer_than_answers_of_the_engine(tmp_path):
    def limit_sec(*flags):
        arguments = ('--input', samples.SAMPLE, '--output', tmp_path, *flags)
        _, beam_options = app.make_config(*arguments)
        return beam_options.view_as(PortableOptions).job_server_timeout

    assert limit_sec() == limit_sec('--runner=FlinkRunner') == 300
    assert limit_sec('--runner=PrismRunner') > 30 * 86400
    assert limit_sec('--runner', 'PrismRunner', '--job_server_timeout', '5') == 5


@pytest.mark.engine
def test_the_sample_gives_the_same_bytes(prism, tmp_path):
    common = ['--input', samples.SAMPLE, '--run_id', 'a', '--max_failure_rate', '0.25']
    for output, flags in ((tmp_path / 'local', []), (tmp_path / 'prism', prism)):
        done = app.command('label', *common, '--output', output, *flags)
        assert done.returncode == 0, done.stderr
    assert compare(str(tmp_path / 'local'), str(tmp_path / 'prism'), exact=True).differences == []
    assert verify(str(tmp_path / 'prism')) == []


@pytest.mark.engine
def test_the_same_bytes_and_nothing_to_do_again(prism, bucket, tmp_path):
    engines.check_undisturbed(lambda port: _engine(prism, port), bucket, tmp_path)


@pytest.mark.engine
def test_the_same_bytes_when_it_is_killed(prism, bucket, tmp_path):
    engines.check_disturbed(lambda port: _engine(prism, port), bucket, tmp_path)


@pytest.mark.engine
def test_what_a_worker_refuses_ends_as_locally(prism, bucket, tmp_path):
    engines.check_refused(lambda port: _engine(prism, port), bucket, tmp_path)


@pytest.mark.engine
@pytest.mark.parametrize('is_stopped', [False, True], ids=['fails', 'is stopped'])
def test_prism_ends_with_a_run_that(is_stopped, prism, tmp_path):
    own = tmp_path / 'prism'
    own.symlink_to(_BINARY)
    manifest = tmp_path / 'list.jsonl'
    line = json.dumps({'uri': str(samples.PHOTOGRAPHS[0])}) + '\n'
    manifest.write_text(line * 20_000 if is_stopped else line + line[:-5])
    words = ['label', '--input', str(manifest), '--output', str(tmp_path / 'out')]
    process = subprocess.Popen(
        [sys.executable, '-m', 'pipeline', *words, prism[0], f'--prism_location={own}'],
        cwd=samples.SAMPLE.parents[1],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until(lambda: _running(own))
        if is_stopped:
            process.terminate()
        assert process.wait(60) == (143 if is_stopped else 1)
        _wait_until(lambda: not _running(own))
    finally:
        process.kill()
        process.wait()
        for pid in _running(own):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.engine
def test_a_pipeline_of_somebody_else(prism, tmp_path):
    """The example, as it stands: a program of its own."""

    def run(*flags):
        path = os.pathsep.join([str(ROOT), str(ROOT / 'pipeline' / 'api')])
        done = app.python(TEMPLATES / 'own_pipeline.py', *flags, *prism, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr

    check_own_pipeline(tmp_path, run)


@pytest.mark.engine
def test_the_composite_gives_the_same_rows_where_decoder_and_model_fail(prism, tmp_path):
    samples.write_pictures(tmp_path, 30)
    (tmp_path / 'poison.png').write_bytes(poison())
    (tmp_path / 'crash.jpg').write_bytes(crashing.picture(samples.picture(3), 'segv'))
    uris = [str(path) for path in tmp_path.iterdir()]

    def step():
        made = label_images(Poisoned, min_labels=2)
        load = made.config.load._replace(processes=2, open_image=crashing.open_image)
        made.config = made.config._replace(load=load)
        return made

    expected = labelled(uris, step())
    found = labelled(uris, step(), PipelineOptions(prism))
    assert found == expected
    assert len(found[0]) == 30
    reasons = {'model_error', 'decoder_crashed', 'truncated', 'empty', 'not_an_image'}
    assert {row.reason for row in found[1]} == reasons


def _running(program: Path) -> list[int]:
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(bytes(program) + b'\0'):
                found.append(int(path.parent.name))
    return found


def _wait_until(is_so, timeout_sec=30):
    ends_at = time.monotonic() + timeout_sec
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def _engine(prism: list[str], port: int) -> engines.Engine:
    flags = [*prism, '--environment_type=EXTERNAL', f'--environment_config=localhost:{port}']
    return engines.Engine(flags, False, (kill_worker, kill_engine), at_once=1)
