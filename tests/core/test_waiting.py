"""What does not answer ends, is named, and is waited for by nobody."""

import itertools
import os
import threading
import time

import pytest

from tests.support import app
from transforms.core.errors import ManifestError, StoreError
from transforms.core.resources import LIVE
from transforms.core.waiting import alive, each_within, within
from transforms.runs.complete import complete_runs
from transforms.sources import manifest
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve
from transforms.storage import local
from transforms.storage.local import LocalStore

PLAIN = Columns('uri', (), ())
LONG_SEC = 60.0


@pytest.fixture
def stuck():
    """A call that does not return before the test ends."""
    ended = threading.Event()
    yield lambda *_, **__: ended.wait()
    ended.set()


def test_items_come_in_order_and_errors_behind_them():
    assert list(each_within(LONG_SEC, 'x', range(5_000))) == list(range(5_000))
    assert list(each_within(LONG_SEC, 'x', ())) == []
    assert within(LONG_SEC, 'x', lambda: None) is None

    def failing():
        yield from range(3)
        raise ManifestError('line 4')

    found = each_within(LONG_SEC, 'x', failing())
    assert list(itertools.islice(found, 3)) == [0, 1, 2]
    with pytest.raises(ManifestError, match='line 4'):
        next(found)


def test_who_wants_only_the_first_ends_the_rest():
    taken, closed = [], threading.Event()

    def items():
        try:
            for i in itertools.count():
                taken.append(i)
                yield i
        finally:
            closed.set()

    found = each_within(LONG_SEC, 'x', items())
    assert next(found) == 0
    found.close()
    assert closed.wait(LONG_SEC)
    assert len(taken) < 10


def test_what_does_not_come_is_named(stuck):
    def items():
        yield stuck()

    found = each_within(0.01, 'gs://b/photos', items())
    with pytest.raises(StoreError, match=r'^gs://b/photos: no answer within 0.01 s: is the store'):
        next(found)
    assert LIVE.waits() == ('', 0.0)


def test_the_deadline_is_that_of_one_item_and_signs_of_life_count(stuck):
    now = [0.0]
    is_stuck = threading.Event()

    def clock():
        now[0] += is_stuck.is_set()
        return now[0]

    def items():
        for _ in range(5):
            now[0] += 0.9
            alive()
        yield 'a'
        is_stuck.set()
        yield stuck()

    found = each_within(1.0, 'x', items(), clock)
    assert next(found) == 'a'
    with pytest.raises(StoreError):
        next(found)


@pytest.mark.parametrize('name', ['scandir', 'stat'])
def test_a_folder_that_does_not_answer_is_named(name, tmp_path, stuck, monkeypatch):
    (tmp_path / 'a.jpg').write_bytes(b'x')
    found = resolve(str(tmp_path), PLAIN)._replace(deadline_sec=0.01)
    ours = os.fspath(tmp_path)
    real = getattr(os, name)

    def answer(path, *more, **options):
        return stuck() if path == ours else real(path, *more, **options)

    monkeypatch.setattr(local.os, name, answer)
    with pytest.raises(StoreError, match=f'^{tmp_path}: no answer within 0.01 s'):
        list(list_input(found, PLAIN))
    if name == 'stat':
        with pytest.raises(StoreError, match=f'^{tmp_path}: no answer within 0.01 s'):
            resolve(str(tmp_path), PLAIN, deadline_sec=0.01)


def test_a_manifest_that_does_not_answer_is_named(tmp_path, stuck, monkeypatch):
    path = tmp_path / 'list.csv'
    path.write_text('uri\na.jpg\n')
    found = resolve(str(path), PLAIN)._replace(deadline_sec=0.01)
    monkeypatch.setattr(manifest._Lines, '_read', stuck)
    for read in (
        lambda: list(list_input(found, PLAIN)),
        lambda: manifest.check_columns(str(path), 'uri', (), deadline_sec=0.01),
    ):
        with pytest.raises(StoreError, match=f'^{path}: no answer within 0.01 s'):
            read()


@pytest.mark.parametrize('name', ['scandir', 'stat'])
def test_an_output_that_does_not_answer_is_named(name, tmp_path, stuck, monkeypatch):
    runs = tmp_path / 'runs'
    runs.mkdir()
    real = getattr(os, name)

    def answer(path, *more, **options):
        return stuck() if os.fspath(path) == str(runs) else real(path, *more, **options)

    monkeypatch.setattr(local.os, name, answer)
    with pytest.raises(StoreError, match=f'^{runs}: no answer within 0.01 s'):
        complete_runs(str(tmp_path), LocalStore(), 0.01)


_STUCK = """
import os, sys, threading
from transforms.core import waiting
waiting.LEAST_DEADLINE_SEC = 1.0
from pipeline.main import main

def stuck(call):
    def answer(path, *more, **named):
        if '/in/' in f'{path}/':
            threading.Event().wait()
        return call(path, *more, **named)
    return answer

os.scandir, os.stat = stuck(os.scandir), stuck(os.stat)
sys.exit(main())
"""


@pytest.mark.parametrize(
    'command',
    [
        ('label', '--input', '{}/in', '--output', '{}/out', '--fetch_deadline_sec', '1'),
        # It ends as with the input; that the output is named is above.
        pytest.param(
            ('label', '--input', '{}/out', '--output', '{}/in', '--fetch_deadline_sec', '1'),
            marks=pytest.mark.slow,
        ),
        ('verify', '{}/in'),
    ],
    ids=['input', 'output', 'verify'],
)
def test_a_command_over_a_folder_that_does_not_answer_ends(command, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'out').mkdir()
    started = time.monotonic()
    done = app.python('-c', _STUCK, *(each.format(tmp_path) for each in command))
    assert done.returncode == 1
    assert f'{tmp_path}/in: no answer within 1 s' in done.stderr
    assert time.monotonic() - started < LONG_SEC
