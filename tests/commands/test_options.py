"""One declaration an option: what is made of it, and that the reference says the same."""

import argparse
import dataclasses

import pytest

from pipeline import flags
from pipeline.commands.option_reference import REFERENCE, as_markdown
from pipeline.flags import add_options, declared, option
from pipeline.options import OPTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """Options, one of each kind."""

    side: int = option('sizes', flags.POSITIVE, default=3, metavar='PX', help='a side, 90 % of it')
    place: str = option('', flags.TEXT, is_required=True, metavar='DIR', help='where')
    name: tuple[str, ...] = option('', flags.TEXT, is_repeated=True, metavar='X', help='names')
    fast: bool = option('', flags.SWITCH, default=False, help='do', decides_rows=False)
    kind: str = option('sizes', flags.one_of(['a', 'b']), default='a', help='which')


def parser(*hidden: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_options(made, declared(Declared), hidden)
    return made


def test_a_parser_is_made_of_declarations():
    args = parser().parse_args(['--side=4', '--name=x', '--name=y', '--fast', '--kind=b'])
    assert vars(args) == {'side': 4, 'place': None, 'name': ['x', 'y'], 'fast': True, 'kind': 'b'}
    args = parser().parse_args([])
    assert vars(args) == {'side': 3, 'place': None, 'name': None, 'fast': False, 'kind': 'a'}
    for wrong in ('--side=0', '--kind=c'):
        with pytest.raises(argparse.ArgumentError):
            parser().parse_args([wrong])


def test_help_stands_in_groups_and_without_what_is_hidden():
    shown = parser('place').format_help()
    assert shown.index('--fast') < shown.index('sizes:') < shown.index('a side, 90 % of it')
    assert '--place' not in shown
    assert parser('place').parse_args(['--place=x']).place == 'x'


def test_an_option_decides_rows_unless_it_is_said_otherwise():
    assert [each.name for each in declared(Declared) if not each.decides_rows] == ['fast']
    assert not any(each.per_run for each in declared(Declared))
    assert all(each.in_template for each in declared(Declared))


def test_defaults_are_written_as_on_a_command_line():
    written = {each.name: each.default_text for each in declared(Declared)}
    assert written == {'side': '3', 'place': '', 'name': '', 'fast': 'false', 'kind': 'a'}


def test_the_reference_is_what_the_declarations_say():
    text = 'write it anew: python -m pipeline.commands.option_reference'
    assert REFERENCE.read_text() == as_markdown(), text
    for each in OPTIONS:
        assert as_markdown().count(f'\n| `--{each.name}` |') == 1


def test_what_decided_rows_of_runs_that_may_be_unfinished_still_does():
    decides = {
        *('carry', 'force', 'input', 'model', 'model_size', 'partition_by', 'retry_dead', 'sample'),
        *(
            'since',
            'uri_column',
            'rows_per_file',
            'canary',
            'threshold',
            'keep_above',
            'max_labels',
        ),
        *('min_labels', 'features', 'batch_size', 'chunk_size', 'precision', 'jit', 'max_bytes'),
        *('intra_op_threads', 'max_pixels', 'backend'),
    }
    assert decides <= {each.name for each in OPTIONS if each.decides_rows}
