"""Standard streams that take nothing: what was done stays done, and its code says so."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.job import streams
from pipeline.job.chatter import without_chatter
from tests.support.samples import SAMPLE
from transforms.model.runtimes import quiet


@contextlib.contextmanager
def broken(kind):
    """A file that cannot be written."""
    if kind == 'full':
        with Path('/dev/full').open('wb') as file:
            yield file
        return
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, 'wb') as file:
        yield file


def closing(descriptor):
    return lambda: os.close(descriptor)


def run(*arguments, **options):
    command = [sys.executable, '-m', 'pipeline', *arguments]
    return subprocess.run(command, cwd=SAMPLE.parents[1], check=False, **options)


@pytest.mark.parametrize('kind', ['full', 'pipe'])
def test_output_that_is_not_taken_changes_no_code(kind):
    with broken(kind) as file:
        done = run('models', stdout=file, stderr=subprocess.PIPE)
    assert done.returncode == 0
    said = b'lemmabeam: standard output cannot be written: No space left on device\n'
    assert done.stderr == (said if kind == 'full' else b'')


@pytest.mark.parametrize('kind', ['full', 'pipe'])
def test_errors_that_are_not_taken_change_no_code(kind, tmp_path):
    with broken(kind) as file:
        done = run('verify', str(tmp_path), stdout=subprocess.PIPE, stderr=file)
    assert (done.returncode, done.stdout) == (2, b'')


def test_a_name_that_the_encoding_of_the_terminal_has_not_is_spelled_out(tmp_path):
    code = "from pipeline.job import streams; streams.forgive(); print('\\u00fc\\u4e2d')"
    environment = os.environ | {'PYTHONIOENCODING': 'latin-1'}
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=SAMPLE.parents[1],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b'\xfc\\u4e2d\n')


@pytest.mark.parametrize('descriptor', [1, 2])
def test_streams_that_are_closed(descriptor, tmp_path):
    done = run('verify', str(tmp_path), preexec_fn=closing(descriptor), capture_output=True)
    assert done.returncode == 2
    assert done.stdout == b'', 'what belongs to standard error is not said elsewhere'


def test_a_stream_that_was_closed_is_one_that_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)
    monkeypatch.setattr(sys, 'stderr', None)
    streams.forgive()
    assert sys.stderr.isatty() is False
    print('said', file=sys.stderr)
    streams.flush()
    sys.stdout.close()
    sys.stderr.close()


def test_other_streams_stay(monkeypatch):
    ours = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', ours)
    monkeypatch.setattr(sys, 'stderr', ours)
    streams.forgive()
    assert sys.stdout is sys.stderr is ours


WORKER = """
import logging, sys
logging.warning('of the root')
logging.getLogger().setLevel(logging.INFO)
logging.getLogger('apache_beam.runners.worker').info('control channel')
logging.getLogger('transforms.model').warning('slower')
logging.getLogger('apache_beam').error('broken')
print('Traceback', file=sys.stderr)
sys.stderr.write('  of something')
"""


def test_of_worker_processes_only_what_matters_is_shown(capfd):
    with without_chatter():
        subprocess.run([sys.executable, '-c', WORKER], check=True)
    assert capfd.readouterr().err.splitlines() == [
        'WARNING:transforms.model:slower',
        'ERROR:apache_beam:broken',
        'Traceback',
        '  of something',
    ]


def test_what_this_process_says_goes_past(capfd, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', streams.errors_on(2))
    with without_chatter():
        assert sys.stderr.fileno() != 2
        print('\rdone 1', end='', file=sys.stderr, flush=True)
        assert capfd.readouterr().err == '\rdone 1', 'at once, without the end of a line'
    assert sys.stderr.fileno() == 2


def test_a_process_that_stays_is_not_waited_for():
    command = [sys.executable, '-c', 'input()']
    with without_chatter(last_lines_sec=0.01):
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.poll() is None
    process.communicate(b'.\n')


ENDED = """
import os, sys
from transforms.model.runtimes import quiet
with quiet.without_startup_messages():
    os.write(2, b'F0000 no such instructions\\nI0000 the CPU has others\\n')
    if sys.argv[1:]:
        os._exit(3)
"""


@pytest.mark.parametrize('arguments', [[], ['ended']])
def test_the_last_words_of_a_library_that_ends_the_process_are_not_lost(arguments):
    ended = subprocess.run(
        [sys.executable, '-c', ENDED, *arguments],
        cwd=SAMPLE.parents[1],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert ended.returncode == (3 if arguments else 0)
    assert ended.stderr == b'F0000 no such instructions\n'


def test_two_runs_of_a_process_leave_standard_error_as_it_was():
    def where():
        found = os.fstat(2)
        return found.st_dev, found.st_ino

    before = where(), sys.stderr
    first, second = without_chatter(0.01), without_chatter(0.01)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (where(), sys.stderr) == before


def test_two_threads_that_load_a_model_leave_standard_error_as_it_was(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', streams.errors_on(2))
    is_in, goes_on = threading.Event(), threading.Event()

    def load():
        with quiet.without_startup_messages():
            is_in.set()
            assert goes_on.wait(20)

    before = os.fstat(2).st_ino
    other = threading.Thread(target=load)
    with quiet.without_startup_messages():
        other.start()
        assert not is_in.wait(0.2)
    goes_on.set()
    other.join(20)
    assert os.fstat(2).st_ino == before
