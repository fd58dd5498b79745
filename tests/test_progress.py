"""What a person sees while a run works and at its end."""

import io
import time

from rich.console import Console

from pipeline import progress
from pipeline.summary import print_summary
from tests import samples, support
from transforms.process import LIVE, LiveCounts


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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_that_is_wiped_at_the_end(monkeypatch):
    monkeypatch.setattr(progress, '_REDRAW_SEC', 0.01)
    stream = Terminal()
    with progress.reporting(stream):
        LIVE.add(listed=1, total=1)
        time.sleep(0.1)
    text = stream.getvalue()
    assert '\n' not in text
    assert text.endswith('\r\x1b[K')
    assert 'listed' in text or 'images' in text or 'done' in text


def test_a_log_gets_lines_now_and_then(monkeypatch):
    monkeypatch.setattr(progress, '_LOG_SEC', 0.01)
    stream = io.StringIO()
    with progress.reporting(stream):
        time.sleep(0.1)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1
    assert all(line.startswith('lemmabeam: ') for line in lines)


def test_names_cannot_write_on_the_terminal(tmp_path):
    name = '[red]x\x1b[2J[bold] [link=a].jpg'
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / name).write_bytes(samples.picture(1))
    (tmp_path / 'in' / f'bad{name}').write_bytes(b'')
    report = support.label('--input', tmp_path / 'in', '--output', tmp_path / 'out')
    config, _ = support.make_config(
        '--input', tmp_path / 'in', '--output', tmp_path / 'out', '--run_id', report['run_id']
    )
    stream = io.StringIO()
    print_summary(report, config.layout, Console(file=stream, width=120))
    assert '\x1b' not in stream.getvalue()
    assert r'[red]x\x1b[2J[bold] [link=a].jpg' in stream.getvalue()
