"""`--config FILE`: as if it stood on the command line, which wins."""

import json

import pytest

from pipeline import config_file
from pipeline.commands.label import split_arguments
from pipeline.main import COMMANDS, main
from pipeline.options import OPTIONS, add_arguments_of_every_command, add_label_arguments
from pipeline.parser import Parser
from tests.support import app, samples


@pytest.fixture
def write(tmp_path):
    def write(text, name='nightly.toml'):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return str(path)

    return write


def parser_with(path, command='label'):
    parser = Parser(prog=f'lemmabeam {command}')
    add_arguments_of_every_command(parser)
    add_label_arguments(parser)
    parser.config = config_file.read(path, command, tuple(COMMANDS))
    return parser


def parsed(path, *argv, command='label'):
    return parser_with(path, command).parse_args(argv)


def said(capsys, *argv):
    try:
        code = main(argv)
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    assert (code, out, err.count('\n')) == (2, '', 1), err
    return err


EVERYTHING = {
    'input': ['a', 'b'],
    'carry': ['split', 'customer'],
    'partition-by': 'split,customer',
    'output': 'out',
    'threshold': 0.25,
    'max_labels': 7,
    'min-labels': '2',
    'max_bytes': '3MiB',
    'memory_budget': 12345678,
    'fetch_deadline_sec': 5,
    'force': True,
    'jit': False,
    'canary': 'finite',
    'model': 'bit-m-r50x1',
}
AS_TYPED = (
    '--input a --input b --carry split,customer --partition_by split,customer --output out '
    '--threshold 0.25 --max_labels 7 --min_labels 2 --max_bytes 3MiB --memory_budget 12345678 '
    '--fetch_deadline_sec 5 --force --canary finite --model bit-m-r50x1'
).split()


def test_it_says_what_a_command_line_says(write):
    expected = vars(parsed(write(''), *AS_TYPED))
    assert vars(parsed(write(EVERYTHING, 'a.json'))) == expected
    toml = '\n'.join(f'{key} = {json.dumps(value)}' for key, value in EVERYTHING.items())
    assert vars(parsed(write(toml))) == expected
    assert vars(parsed(write(f'[label]\n{toml}'))) == expected


@pytest.mark.parametrize('option', OPTIONS, ids=lambda option: option.name)
def test_each_option_may_stand_in_it(option, write):
    text = (option.type.choices or ('1',))[-1]
    value = True if option.is_switch else text
    argument = f'--{option.name}' if option.is_switch else f'--{option.name}={text}'
    expected = vars(parsed(write(''), argument))
    for name in {option.name, option.name.replace('_', '-')}:
        assert vars(parsed(write({name: value}, 'a.json'))) == expected


def test_the_command_line_wins_then_the_table_of_the_command(write):
    path = write(
        'input = ["a", "b"]\nthreshold = 0.1\nforce = true\nmax-labels = 3\nsample = 9\n'
        '[label]\nthreshold = 0.2\nmax_labels = 4\n[verify]\nexact = true\n[export-model]\nx = 1\n'
    )
    args = parsed(path, '--input', 'c', '--force=false', '--max-labels', '5')
    assert args.input == ['c']
    assert (args.threshold, args.force, args.max_labels, args.sample) == (0.2, False, 5, 9)
    assert parsed(path, command='retry').threshold == 0.1


def test_what_toml_writes_without_quotes_is_a_text(write):
    args = parsed(write('since = 2026-11-24T01:02:03Z\n'))
    assert args.since == '2026-11-24T01:02:03+00:00'
    assert parsed(write('since = 2026-11-24\n')).since == '2026-11-24'


def test_a_value_that_looks_like_an_option_is_none(write):
    assert (
        parsed(write({'uri_column': '--force', 'output': '-x'}, 'a.json')).uri_column == '--force'
    )


def test_options_of_beam_may_stand_in_it(write):
    path = write(
        'input = "a"\noutput = "b"\nrunner = "PrismRunner"\nexperiments = ["x", "y"]\n'
        'num_workers = 3\nuse_public_ips = false\nsave_main_session = true\nregion = "there"\n'
    )
    _, options = split_arguments(parser_with(path), ['--region', 'here'])
    given = options.get_all_options(drop_default=True)
    assert given['runner'] == 'PrismRunner'
    assert given['experiments'][:2] == ['x', 'y']
    assert (given['num_workers'], given['use_public_ips']) == (3, False)
    assert (given['save_main_session'], given['region']) == (True, 'here')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('thresold = 1', "unknown key 'thresold'; did you mean threshold?"),
        ('max-label = 1', "unknown key 'max-label'; did you mean max_labels?"),
        ('qwertyuiop = 1', "unknown key 'qwertyuiop'"),
        ('folder = "x"', "unknown key 'folder'"),
        ('threshold = "high"', "threshold = 'high': expected a number from 0 to 1"),
        ('threshold = true', 'threshold = true: expected a number or a text'),
        ('threshold = [0.1, 0.2]', 'threshold = [0.1, 0.2]: expected one value, not a list'),
        ('max-labels = 2.5', "max-labels = '2.5': expected a whole number, 1 or more"),
        ('force = "yes"', "force = 'yes': expected true or false"),
        ('force = 1', 'force = 1: expected true or false'),
        ('canary = "lax"', "canary = 'lax': expected one of strict, finite, off"),
        ('run_id = 5', 'run_id = 5: expected a text in quotes'),
        ('input = ["a", 5]', 'input = 5: expected a text in quotes'),
        ('carry = ["a", ""]', "carry = 'a,': expected column names"),
        ('num_workers = {a = 1}', 'no command has the table [num_workers]'),
        ('[lable]\nforce = true', 'no command has the table [lable]; did you mean [label]?'),
        ('[label.x]\nforce = true', "x = {'force': True}: expected a number or a text"),
        ('max_labels = 1\nmax-labels = 2', 'max_labels and max-labels are the same option'),
        ('config = "b.toml"', 'config: a file cannot name another one'),
        ('help = true', 'help = it is nothing for a file'),
        ('save_main_session = "x"', 'save_main_session: expected true or false'),
        ('a = [', 'no TOML: Invalid value (at end of document)'),
    ],
)
def test_what_is_wrong_in_it_is_told_with_file_and_key(text, message, write, capsys):
    path = write(text)
    line = said(capsys, 'label', '--input', 'a', '--output', 'b', '--config', path)
    assert line.startswith(f'lemmabeam: --config {path}: {message}')


def test_json_is_as_strict(write, capsys):
    for text, message in (
        ('[1]', 'expected an object'),
        ('{"force": true, "force": false}', "no JSON: 'force' is there twice"),
        ('{"threshold": null}', 'threshold = null: expected a number or a text'),
        ('{"force": null}', 'force = null: expected true or false'),
        ('{"threshold": NaN}', "threshold = 'nan': expected a number from 0 to 1"),
        ('{', 'no JSON: Expecting property name'),
        ('[' * 100_000, 'no JSON: '),
    ):
        path = write(text, 'a.json')
        assert message in said(capsys, 'label', '--input', 'a', '--output', 'b', '--config', path)


def test_a_file_that_cannot_be_read_is_told(tmp_path, capsys):
    (tmp_path / 'latin.toml').write_bytes(b'model = "\xe9"')
    (tmp_path / 'folder.toml').mkdir()
    for name, message in (
        ('none.toml', 'cannot be read: No such file or directory'),
        ('folder.toml', 'cannot be read: Is a directory'),
        ('latin.toml', 'not in UTF-8'),
        ('a.yaml', 'expected a local .toml or .json'),
    ):
        assert message in said(capsys, 'verify', 'a', '--config', str(tmp_path / name))
    assert 'expected a local' in said(capsys, 'verify', 'a', '--config', 'gs://b/a.toml')


@pytest.mark.parametrize(
    'text',
    [
        f'label{".a" * 5000} = 1',
        f'input = {"[" * 150}{"]" * 150}',
        f'input = {{a = "{"x" * 100_000}"}}',
        f'# {"x" * 2**20}',
    ],
    ids=['deep table', 'deep list', 'long text', 'long file'],
)
def test_one_of_any_size_and_depth_is_refused_in_a_short_line(text, write, capsys):
    told = said(capsys, 'label', '--config', write(text))
    assert '--config' in told
    assert len(told) < 1000


def test_a_second_file_is_not_left_out_in_silence(write, capsys):
    path = write('')
    for second in (['--config', path], [f'--config={path}']):
        line = said(capsys, 'verify', 'a', '--config', path, *second)
        assert line.startswith('lemmabeam: --config: given twice; ')


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_it_and_refuses_what_is_no_option_of_it(command, write, capsys):
    path = write({'no_such_option': 'x'}, 'a.json')
    positional = {
        'completion': ['zsh'],
        'clean': ['x'],
        'latest': ['x'],
        'report': ['x'],
        'verify': ['x'],
    }
    required = {'label': 'input', 'retry': 'output', 'relabel': 'output', 'latest': 'output'}
    argv = [command, *positional.get(command, []), '--config', path]
    if command in required:
        argv += [f'--{required[command]}', 'x']
    if command == 'export-model':
        argv += ['--weights', 'x', '--output', 'x']
    if command == 'retry':  # which looks into the output first
        assert 'there is no complete run to retry' in said(capsys, *argv)
    else:
        assert f"--config {path}: unknown key 'no_such_option'" in said(capsys, *argv)


def test_required_options_may_stand_in_it(write, capsys, tmp_path):
    path = write({'output': str(tmp_path / 'nothing')}, 'a.json')
    assert 'there is no complete run to retry' in said(capsys, 'retry', '--config', path)
    assert 'nothing: no such folder' in said(capsys, 'relabel', '--config', path)


@pytest.mark.usefixtures('stand_in_model')
def test_a_run_of_it_is_resumed_and_retried_as_one_of_a_command_line(write, tmp_path):
    output = tmp_path / 'out'
    options = {'output': str(output), 'batch-size': 4, 'chunk_size': 4}
    path = write({**options, 'label': {'input': [str(samples.SAMPLE)]}}, 'a.json')
    typed = ('label', '--input', samples.SAMPLE, '--output', output, '--batch_size=4')
    typed += ('--chunk_size=4',)
    with app.crashing_behind(1):
        assert app.invoke('label', '--config', path).returncode == 1
    done = app.invoke(*typed, '--max_failure_rate', '1')
    assert done.returncode == 0, done.stderr
    (path_of_first,) = output.glob('runs/*/report.json')
    first = json.loads(path_of_first.read_text())
    assert first['labeled_by_earlier_attempts'] > 0
    assert app.invoke('retry', '--config', path, '--reasons=truncated').returncode == 0
    (second,) = set(output.glob('runs/*/report.json')) - {path_of_first}
    second = json.loads(second.read_text())
    assert (second['command'], second['counts']['listed']) == ('retry', 1)
    assert first['options'].keys() == second['options'].keys() - {'reasons'}
