"""What is told, and where it goes."""

import io
import json
import logging
import re

import pytest

from pipeline import __version__, logs
from pipeline.main import main
from pipeline.messages import SILENT, StandardStreams
from tests.support import app


def tell(messages):
    messages.say('a result')
    messages.note('a note')
    messages.error('an error')
    messages.trace('a traceback')
    messages.console().print('a table')


def test_a_function_tells_nothing_and_shows_no_progress(capfd):
    tell(SILENT)
    assert SILENT.progress is None
    assert capfd.readouterr() == ('', '')


def test_a_command_has_its_result_alone_on_standard_output(capsys):
    tell(StandardStreams())
    out, err = capsys.readouterr()
    assert out == 'a result\na table\n'
    assert err == 'lemmabeam: a note\nlemmabeam: an error\na traceback\n'


def test_quiet_tells_errors_only(capsys):
    messages = StandardStreams(is_quiet=True)
    messages.say('a result')
    messages.note('a note')
    messages.console().print('a table')
    messages.error('an error')
    assert messages.progress is None
    assert capsys.readouterr() == ('', 'lemmabeam: an error\n')


@pytest.mark.parametrize('is_quiet', [False, True])
def test_json_is_alone_on_standard_output(is_quiet, capsys):
    messages = StandardStreams(is_quiet, is_json=True)
    tell(messages)
    messages.result({'uri': 'é\udcff', 'score': 0.5})
    out, err = capsys.readouterr()
    assert json.loads(out) == {'uri': 'é\udcff', 'score': 0.5}
    assert out.isascii()
    assert ('a result\n' in err, 'a table\n' in err) == (not is_quiet, not is_quiet)


def test_a_log_file_has_all_that_is_told_with_times(tmp_path, capsys):
    path = tmp_path / 'log'
    path.write_text('of yesterday\n')
    with logs.logged(StandardStreams(is_quiet=True), str(path)) as messages:
        tell(messages)
        messages.log('for the log')
        messages.progress.write('lemmabeam: 3 of 4 done\n')
        logging.getLogger('apache_beam.runners').info('a stage')
        logging.getLogger('transforms.model').debug('a detail')
    logging.getLogger('apache_beam.runners').error('later')
    assert capsys.readouterr() == ('', 'lemmabeam: an error\na traceback\n')
    first, *lines = path.read_text().splitlines()
    assert first == 'of yesterday'
    assert all(re.match(r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ', line) for line in lines)
    assert [line.partition(' ')[2] for line in lines] == [
        'INFO lemmabeam: a result',
        'INFO lemmabeam: a note',
        'ERROR lemmabeam: an error',
        'ERROR lemmabeam: a traceback',
        'INFO lemmabeam: a table',
        'INFO lemmabeam: for the log',
        'INFO lemmabeam: 3 of 4 done',
        'INFO apache_beam.runners: a stage',
    ]


def test_of_the_progress_on_a_terminal_a_log_has_a_line_now_and_then(caplog):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    caplog.set_level(logging.INFO)
    shown = Terminal()
    for log_sec, count in ((3600, 0), (0, 3)):
        progress = logs._LoggedProgress(shown, logging.getLogger('lemmabeam'), log_sec)
        assert progress.isatty()
        for i in range(3):
            progress.write(f'\r\x1b[K{i} of 3 done')
        progress.write('\r\x1b[K')
        assert len(caplog.records) == count
    assert caplog.records[-1].message == '2 of 3 done'
    assert shown.getvalue().count('done') == 6


def test_what_the_log_says_is_shown_as_without_a_file(tmp_path):
    code = """
import logging, sys
from pipeline import logs
from pipeline.messages import StandardStreams
logs.start('quiet' in sys.argv)
logs.show_engine('verbose' in sys.argv)
def log():
    for name in ('lemmabeam', 'apache_beam.x', 'transforms.x', 'other'):
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, 'said')
log()
print('with a file', file=sys.stderr)
with logs.logged(StandardStreams(), sys.argv[1]):
    log()
"""
    expected = {
        'plain': ['WARNING transforms.x', 'ERROR transforms.x', 'ERROR other'],
        'quiet': ['ERROR transforms.x', 'ERROR other'],
        'verbose': [
            *(f'{level} apache_beam.x' for level in ('INFO', 'WARNING', 'ERROR')),
            *(f'{level} transforms.x' for level in ('WARNING', 'ERROR')),
            *(f'{level} other' for level in ('INFO', 'WARNING', 'ERROR')),
        ],
    }
    for way, lines in expected.items():
        path = tmp_path / way
        done = app.python('-c', code, path, way)
        without, _, with_file = done.stderr.partition('with a file\n')
        assert without.replace(': said', '').splitlines() == lines
        assert with_file == without
        assert path.read_text().count(': said\n') == 12


def test_a_log_file_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    for path, why in (
        (tmp_path, 'Is a directory'),
        (tmp_path / 'none' / 'log', 'No such file or directory'),
        ('gs://bucket/log', 'expected a local file'),
    ):
        assert main(['verify', str(tmp_path), '--log_file', str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.startswith(f'lemmabeam: --log_file {path}: ')) == ('', True), err
        assert why in err
        assert err.count('\n') == 1


def test_a_full_disk_ends_no_command(capsys):
    with logs.logged(StandardStreams(), '/dev/full') as messages:
        messages.say('a result')
        messages.say('another')
    out, err = capsys.readouterr()
    assert out == 'a result\nanother\n'
    assert err.startswith('lemmabeam: --log_file /dev/full: some lines could not be written: ')
    assert err.count('\n') == 1


def test_what_is_wrong_with_a_command_line_is_logged_too(tmp_path, capsys):
    path = tmp_path / 'log'
    assert main(['verify', 'a', '--exat', '--log-file', str(path)]) == 2
    assert '--exat' in capsys.readouterr().err
    lines = [line.partition(' ')[2] for line in path.read_text().splitlines()]
    assert lines == [
        f'INFO lemmabeam: lemmabeam verify begins, version {__version__}',
        "ERROR lemmabeam: unknown option '--exat'; did you mean --exact?",
        'INFO lemmabeam: lemmabeam verify ends with exit code 2',
    ]


def test_quiet_and_verbose_contradict_each_other(capsys):
    assert main(['label', '--input', 'a', '--output', 'b', '--quiet', '--verbose']) == 2
    assert '--quiet tells less, and --verbose more' in capsys.readouterr().err
