"""What is wrong with a command line is told in one line."""

import pytest

from pipeline.main import main


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
        ('report a --run-id x', "unknown option '--run-id'; did you mean --run_id?"),
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
