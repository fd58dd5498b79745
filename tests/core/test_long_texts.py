"""What lines carry does not wait in memory, however long it is, and nothing else depends on it."""

import contextlib
import csv
import itertools
import os
import random
from pathlib import Path

import pytest
from apache_beam.runners.portability.fn_api_runner import execution

from tests.support import app
from tests.system.test_golden import files_of
from transforms.core import long_texts
from transforms.core.long_texts import LONG_CHARS, LongTexts, in_order

LONG = LONG_CHARS * 20


def _text(seed, length=LONG):
    """Of three bytes a character, and nothing that is there twice."""
    rng = random.Random(seed)
    return ''.join(chr(rng.randrange(0x4E00, 0x9F00)) for _ in range(length))


def test_long_texts_are_kept_once_and_short_ones_left():
    texts = LongTexts()
    long, other = (f'["{_text(seed)}"]' for seed in range(2))
    assert texts.shorten(long) is long
    with texts.on_disk():
        short = texts.shorten(long)
        assert len(short) < 50
        assert short == texts.shorten(f'["{_text(0)}"]') != texts.shorten(other)
        assert (texts.lengthen(short), texts.lengthen(texts.shorten(other))) == (long, other)
        assert texts.shorten('["a"]') == texts.lengthen('["a"]') == '["a"]'
    assert texts.shorten(long) is long
    assert texts.lengthen(long) is long


def test_two_runs_of_a_process_share_the_file():
    texts = LongTexts()
    long = ['x' * LONG_CHARS, 'y' * LONG_CHARS]
    first, second = texts.on_disk(), texts.on_disk()
    first.__enter__()
    short = [texts.shorten(long[0])]
    second.__enter__()
    short.append(texts.shorten(long[1]))
    assert [texts.lengthen(each) for each in short] == long
    first.__exit__(None, None, None)
    assert texts.lengthen(short[1]) == long[1]
    assert texts.shorten(long[1]) == short[1]
    second.__exit__(None, None, None)
    assert not texts.are_on_disk
    assert texts.shorten(long[0]) == long[0]


def test_on_a_full_disk_a_text_stays_what_it_was(monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    texts = LongTexts()
    first, second = (_text(seed) for seed in range(2))
    with texts.on_disk():
        short = texts.shorten(first)
        with monkeypatch.context() as patch:
            patch.setattr(os, 'pwrite', full)
            assert texts.shorten(second) is second
        # The same for the same, also when there is room again.
        assert texts.shorten(second) is second
        assert texts.shorten(first) == short
        assert texts.lengthen(short) == first


def test_without_a_temporary_folder_texts_stay_in_memory(monkeypatch):
    def none():
        raise FileNotFoundError(2, 'No usable temporary directory')

    monkeypatch.setattr(long_texts.tempfile, 'TemporaryFile', none)
    texts = LongTexts()
    with texts.on_disk():
        assert texts.shorten(_text(0)) == _text(0)


def test_rows_are_in_the_order_of_the_texts_themselves(monkeypatch):
    texts = LongTexts()
    monkeypatch.setattr(long_texts, 'LONG_TEXTS', texts)
    rows = [(uri, f'["{c * n}"]') for uri in 'ba' for n in (1, LONG) for c in 'zxy']
    with texts.on_disk():
        short = [(uri, texts.shorten(text)) for uri, text in rows]
        ordered = in_order(short, lambda row: row[0], lambda row: row[1])
        assert [(uri, texts.lengthen(text)) for uri, text in ordered] == sorted(rows)


@pytest.fixture
def manifest(tmp_path):
    """Good and bad lines, twice and with other texts, a few of which are short."""
    path = tmp_path / 'list.csv'
    names = [f'{i}.jpg' for i in range(20)]
    for name in names[:15]:
        (tmp_path / name).write_bytes(name.encode())
    lines = [(name, 'ab'[i % 2], _text(i)) for i, name in enumerate(names)]
    lines += [(names[i], 'a', _text(i + j)) for i in (0, 4, 16) for j in (0, 7, 9)]
    lines += [(names[0], 'a', 'short'), ('ftp://h/x.jpg', 'b', _text(3)), ('', 'b', _text(4))]
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([('uri', 'place', 'note'), *lines])
    return path


def _run(manifest: Path, output: Path) -> dict[str, str]:
    flags = ('--carry', 'note', '--partition_by', 'place', '--chunk_size', '4', '--batch_size', '4')
    with app.stand_in(with_decoder=False):
        for run_id in ('first', 'second'):
            done = app.invoke(
                *('label', '--input', manifest, '--output', output, '--run_id', run_id),
                *('--max_failure_rate', '1', *flags),
            )
            assert done.returncode == 0, done.stderr
            manifest.write_text(''.join(manifest.read_text().splitlines(True)[:-5]))
    return files_of(str(output))


@pytest.mark.slow  # two whole runs that count what the engine holds
def test_the_engine_holds_no_long_text_and_files_are_the_same(manifest, tmp_path, monkeypatch):
    lines = manifest.read_text()
    largest = 0
    buffers = (execution.ListBuffer, execution.GroupingBuffer)
    appends = [buffer.append for buffer in buffers]

    def watched(append):
        def run(buffer, element):
            nonlocal largest
            largest = max(largest, len(element))
            append(buffer, element)

        return run

    with monkeypatch.context() as patch:
        for buffer, append in zip(buffers, appends, strict=True):
            patch.setattr(buffer, 'append', watched(append))
        found = _run(manifest, tmp_path / 'out')
    assert 0 < largest < 3 * LONG
    manifest.write_text(lines)
    monkeypatch.setattr(long_texts.LONG_TEXTS, 'on_disk', contextlib.nullcontext)
    assert _run(manifest, tmp_path / 'out2') == found
    kinds = {kind for kind, *_ in (path.partition('/') for path in found)}
    assert {'predictions', 'dead_letters'} <= kinds
    notes = [row['note'] for row in app.rows(tmp_path / 'out', 'predictions', 'first')]
    assert sum(len(note) == LONG for note in notes) >= 15
    assert len(list(itertools.chain(app.rows(tmp_path / 'out', 'dead_letters')))) > 5
