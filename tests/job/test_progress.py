"""What a person sees while a run works and at its end."""

import io
import re
import time

import pytest
from rich.console import Console

from pipeline.job import progress
from pipeline.report.look_lower import look_lower
from pipeline.report.summary import print_summary
from tests.support import app, made_runs, samples
from transforms.core.reasons import Reason
from transforms.core.resources import LIVE, LiveCounts
from transforms.runs.report import RunReport


def counts(**totals):
    live = LiveCounts()
    live.add(**totals)
    return live


def test_a_line_says_what_is_going_on():
    line = progress.progress_line
    assert line(counts(), 3, 0) == 'working, 3 s'
    assert line(counts(listed=1200), 3, 0) == '1,200 listed, 3 s'
    assert line(counts(listed=9, total=8), 3, 0) == '8 images, loading the model, 3 s'
    assert (
        line(counts(listed=9000, total=8000, labeled=1900, failed=100), 60, 50)
        == '2,000 of 8,000 done, 100 failed, 50.0 images/s, 0:02:00 left'
    )
    assert line(counts(listed=2, total=2, labeled=2), 60, 50).endswith('writing')


def test_a_line_says_what_is_waited_for():
    def line_at(elapsed_sec):
        return progress.progress_line(live, elapsed_sec, 0, patience_sec=0.0)

    live = counts(listed=9, total=8)
    live.has_model = True
    assert line_at(3) == '8 images, reading the first images, 3 s'
    live.wait_for('gs://b/a.jpg')
    line = line_at(30)
    assert line == '8 images, reading the first images, 30 s, waiting 0 s for gs://b/a.jpg'
    live.add(labeled=1)
    live.wait_for(f'gs://b/{"x" * 100}.jpg')
    line = line_at(40)
    place, name = f'gs://b/{"x" * 23}', f'{"x" * 26}.jpg'
    assert line.endswith(f'done, 0 failed, 0.0 images/s, waiting 0 s for {place}…{name}')
    live.wait_for('')
    assert 'waiting' not in line_at(50)


class Stream(io.StringIO):
    """Can be waited for."""

    def wait_for(self, text, count):
        ends_at = time.monotonic() + 30
        while self.getvalue().count(text) < count and time.monotonic() < ends_at:
            time.sleep(0.01)


class Terminal(Stream):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_that_is_wiped_at_the_end():
    stream = Terminal()
    with progress.reporting(stream, redraw_sec=0.01):
        LIVE.add(listed=1, total=1)
        stream.wait_for('\r', 3)
    text = stream.getvalue()
    assert text.count('\r') > 3
    assert '\n' not in text
    assert text.endswith('\r\x1b[K')
    assert 'listed' in text or 'images' in text or 'done' in text


def test_a_log_gets_lines_now_and_then():
    stream = Stream()
    with progress.reporting(stream, redraw_sec=0.01, log_sec=0.01):
        stream.wait_for('\n', 2)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1
    assert all(line.startswith('lemmabeam: ') for line in lines)


def test_a_log_is_told_at_once_of_what_hangs():
    stream = Stream()
    with progress.reporting(stream, redraw_sec=0.01, patience_sec=0.05):
        for name in ('/mnt/a.jpg', '/mnt/b.jpg'):
            LIVE.wait_for(name)
            stream.wait_for('\n', 1 + (name == '/mnt/b.jpg'))
        LIVE.wait_for('')
    first, second = stream.getvalue().splitlines()
    assert first.endswith('waiting 0 s for /mnt/a.jpg')
    assert second.endswith('waiting 0 s for /mnt/b.jpg')


def test_names_cannot_write_on_the_terminal(tmp_path):
    name = '[red]x\x1b[2J[bold] [link=a].jpg'
    config, _ = app.make_config('--input', samples.SAMPLE, '--output', tmp_path, '--run_id', 'a')
    report = made_runs.write_run(
        tmp_path,
        'a',
        [(f'/in/{name}', [(0, name, 0.5)])],
        [(f'/in/bad{name}', Reason.EMPTY, name)],
        model_id=config.layout.model_id,
    )
    stream = io.StringIO()
    print_summary(RunReport.from_json(report), config.layout, Console(file=stream, width=200))
    said = stream.getvalue()
    assert '\x1b' not in said
    assert 'without a label' not in said  # an earlier version did not count them
    assert re.findall(r'(\w*)\[red\]x\\x1b\[2J\[bold\] \[link=a\]\.jpg', said) == [
        '',
        '',
        'bad',
        '',
    ]


def test_images_without_a_label_are_counted(tmp_path):
    config, _ = app.make_config(
        '--input', samples.SAMPLE, '--output', tmp_path / 'my labels', '--run_id', 'a'
    )
    report = made_runs.write_run(
        tmp_path / 'my labels',
        'a',
        [('/a', [(0, 'robin', 0.5)]), ('/b', [(1, 'wren', 0.06)]), ('/c', [])],
        model_id=config.layout.model_id,
        metadata={'threshold': '0.3', 'stored_floor': '0.05'},
    )
    report['counts']['without_label'] = 2
    stream = io.StringIO()
    print_summary(RunReport.from_json(report), config.layout, Console(file=stream, width=200))
    said = stream.getvalue()
    assert re.search(r'without a label +│ +2 \(66\.7 %\)', said)
    assert f"`lemmabeam relabel --output '{tmp_path}/my labels' --threshold 0.05`" in said
    assert said.count('(none above the threshold)') == 2
    assert 'robin 0.50' in said
    assert 'wren' not in said  # it is stored, and no label


STORED = {'threshold': '0.1', 'stored_floor': '0.01'}
NOT_STORED = {'threshold': '0.1', 'stored_floor': '0.1'}


@pytest.mark.parametrize(
    ('without', 'labeled', 'metadata', 'expected'),
    [
        (6, 10, STORED, 'relabel --output DIR --threshold 0.01` can use them without the'),
        (6, 10, NOT_STORED, 'label --sample 1000 --keep_above 0.01` into another `--output`'),
        (6, 10, NOT_STORED | {'relabeled_from': 'a'}, 'a lower score needs no model'),
        (5, 10, STORED, ''),
        (0, 0, STORED, ''),
        (None, 10, STORED, ''),
        (6, 10, {'threshold': '0.0', 'stored_floor': '0.0'}, ''),  # outputs as they are
    ],
)
def test_where_most_images_have_no_label_the_way_lower_is_said(
    without, labeled, metadata, expected
):
    said = look_lower(without, labeled, metadata)
    assert bool(said) == bool(expected)
    assert expected in said
