"""What is wrong with a command line is told in one line."""

import pytest

from pipeline.main import main


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('', 'the following arguments are required: COMMAND'),
        ('frob', "COMMAND: invalid choice: 'frob'"),
        ('verify', 'the following arguments are required: DIR'),
        ('verify a b c', 'unrecognized arguments: c'),
        ('models --chek x', 'unrecognized arguments: --chek x'),
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
