"""That Ctrl-C and SIGTERM end a process at once, whatever it is at; whole runs are in test_cli."""

import subprocess
import sys

import pytest

# Sends itself a signal where `{at}` says, and waits.
CODE = """
import contextlib, os, signal, sys, threading, time
from pipeline.job.signals import stopping_on_signals

def give_back():
    print('gave back', flush=True)

{before}
with stopping_on_signals(lambda: '; the same command goes on', give_back):
    {at}
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
"""
SIGNALS = [('SIGINT', 130), ('SIGTERM', 143)]


def run(name, at='pass', before='', **options):
    code = CODE.format(name=name, at=at, before=before)
    options = {'stderr': subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


@pytest.mark.parametrize(('name', 'code'), SIGNALS)
def test_it_says_so_gives_back_and_ends(name, code):
    done = run(name)
    assert (done.returncode, done.stdout) == (code, 'gave back\n')
    assert done.stderr == f'\nlemmabeam: stopped by {name}; the same command goes on\n'


def test_while_a_thread_is_being_started():
    """The handler interrupts whoever holds the lock that starting another one would wait for."""
    done = run('SIGINT', 'threading._active_limbo_lock.acquire()')
    assert (done.returncode, done.stdout) == (130, 'gave back\n')


def test_what_is_to_be_given_back_may_never_end():
    done = run('SIGTERM', before='def give_back(): time.sleep(60)')
    assert (done.returncode, done.stdout) == (143, '')
    done = run('SIGTERM', before='def give_back(): raise ValueError')
    assert done.returncode == 143


def test_nobody_listens():
    assert run('SIGINT', before='os.close(2)').returncode == 130
    full = (
        'ends = os.pipe(); os.dup2(ends[1], 2); os.set_blocking(2, False)\n'
        'with contextlib.suppress(BlockingIOError):\n'
        '    while os.write(2, bytes(4096)): pass\n'
        'os.set_blocking(2, True)'
    )
    assert run('SIGINT', before=full).returncode == 130


def test_an_end_without_a_signal_gives_nothing_back():
    code = (
        CODE.partition('    {at}')[0].format(before='')
        + '    pass\nprint(threading.active_count())'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ('1\n', '')
