"""How a command line is read, and that what is wrong with it is told in one line."""

import pytest

from pipeline import __version__
from pipeline.commands.retry import RetryOptions
from pipeline.flags import declared
from pipeline.main import COMMANDS, main
from pipeline.options import OPTIONS, add_label_arguments
from pipeline.parser import Parser


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('', 'the following arguments are required: COMMAND'),
        ('frob', "unknown command 'frob'; lemmabeam --help tells more"),
        ('Lable', "unknown command 'Lable'; did you mean label?"),
        ('export_model', "unknown command 'export_model'; did you mean export-model?"),
        ('verify', 'the following arguments are required: DIR'),
        ('verify a b c', "'c': no option, and one value too many"),
        ('verify --output a', "unknown option '--output'; DIR is given without one"),
        ('report a --run-idd x', "unknown option '--run-idd'; did you mean --run_id?"),
        ('latest a --model-idd x --output b', "unknown option '--model-idd'; did you mean"),
        ('label --max-labels x', "--max_labels: 'x': expected a whole number"),
        ('relabel --output a --max-labels=0', "--max_labels: '0': expected a whole number"),
        ('verify a --by-name=maybe', '--by_name=maybe: expected true or false, or --by_name alone'),
        ('models --chek x', "unknown option '--chek'; did you mean --check?"),
        ('models bit-m-r50x1', "'bit-m-r50x1': no option; did you mean --check bit-m-r50x1?"),
        ('relabel a --threshold 0.5', "'a': no option; did you mean --output a?"),
        ('relabel --threshhold=0.5 --output a', "unknown option '--threshhold=0.5'; did you mean"),
        ('export-model a.npz --output b', "'a.npz': no option; did you mean --weights a.npz?"),
        ('label --input a --output b --maxLabels 5', "unknown option '--maxLabels'; did you mean"),
        (
            'label --input a --output b --top_k 5',
            "unknown option '--top_k'; lemmabeam label",
        ),
        ('clean x --drop moon', "--drop: invalid choice: 'moon'"),
        ('label --threshold x', "--threshold: 'x': expected a number from 0 to 1"),
        ('retry --output', '--output: expected one argument'),
        ('label photos', "'photos': no option; did you mean --input photos?"),
        ('label photos --output x', "'photos': no option; did you mean --input photos?"),
    ],
)
def test_errors_are_one_line(arguments, said, capsys):
    try:
        code = main(arguments.split())
    except SystemExit as e:
        code = e.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith(f'lemmabeam: {said}')
    assert error.count('\n') == 1


def test_a_folder_to_retry_is_an_output(capsys):
    assert main(['retry', 'labels']) == 2
    assert capsys.readouterr().err.endswith('did you mean --output labels?\n')


def exit_of(*argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    return stopped.value.code


@pytest.mark.parametrize('command', COMMANDS)
def test_each_command_tells_the_version(command, capsys):
    assert exit_of(command, '--version') == 0
    assert capsys.readouterr().out == f'lemmabeam {__version__}\n'


def label_parser():
    parser = Parser(prog='lemmabeam label')
    add_label_arguments(parser)
    return parser


@pytest.mark.parametrize('option', OPTIONS, ids=lambda option: option.name)
def test_an_option_may_be_written_with_dashes(option):
    value = (option.type.choices or ('1',))[-1]
    for name in (option.name, option.name.replace('_', '-')):
        lines = [[f'--{name}={value}'], [f'--{name}', value]]
        for line in [[f'--{name}']] if option.is_switch else lines:
            parsed, rest = label_parser().parse_known_args(line)
            found = getattr(parsed, option.name)
            found = found[0] if isinstance(found, (list, tuple)) else found
            assert str(found).removesuffix('.0') == ('True' if option.is_switch else value)
            assert rest == []


def test_what_is_no_option_of_ours_stays_as_it_is():
    given = '--job-server-timeout=3 --temp_location a-b --max-labels 5 -- --sub-x'.split()
    parsed, rest = label_parser().parse_known_args(given)
    assert parsed.max_labels == 5
    assert rest == '--job-server-timeout=3 --temp_location a-b -- --sub-x'.split()


def test_no_option_of_beam_is_one_of_ours_with_dashes():
    from pipeline.beam_options import make_beam_parser

    ours = {action.dest for action in label_parser()._actions}
    theirs = {flag.strip('-') for flag in make_beam_parser()._option_string_actions}
    assert not ours & {name.replace('-', '_') for name in theirs - ours}


def test_a_switch_may_be_switched_off_again():
    for line, value in (
        ('--force', True),
        ('--force=true', True),
        ('--force=false', False),
        ('--force --force=false', False),
        ('--force=false --force', True),
    ):
        assert label_parser().parse_args(line.split()).force is value
    taken_over = label_parser()
    taken_over.set_defaults(features=True)
    assert taken_over.parse_args([]).features
    assert not taken_over.parse_args(['--features=false']).features


@pytest.mark.parametrize(
    ('command', 'options'), [('label', OPTIONS), ('retry', declared(RetryOptions))]
)
def test_help_is_short_and_all_of_it_is_there_for_the_asking(command, options, capsys):
    hidden = {'input', 'sample', 'since', 'force'} if command == 'retry' else set()
    assert exit_of(command, '--help') == 0
    short = capsys.readouterr().out
    for flag in ('--help-all', '--help_all'):
        assert exit_of(command, flag) == 0
        whole = capsys.readouterr().out
        for each in options:
            shown = f'\n  --{each.name} '
            assert (shown in whole.replace('\n', ' \n')) == (each.name not in hidden)
            assert (shown in short.replace('\n', ' \n')) == (
                each.is_common and each.name not in hidden
            )
    assert '--help-all' in short
    assert '--runner' in short
    assert short.count('\n  --') <= 20
    assert {each.name for each in options if each.is_common} >= {'output', 'model', 'threshold'}
