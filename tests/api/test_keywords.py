"""Options as keywords mean what they mean on the command line."""

import argparse
import datetime
import inspect
from pathlib import Path

import lemmabeam as lb
import numpy as np
import pytest

from pipeline.api.keywords import FOR_COMMANDS, by_keyword, options_of, reword
from pipeline.options import OPTIONS, LabelOptions, add_label_arguments
from transforms.core.errors import InvalidOption, StoreError, UsageError

# Of each option that takes a value, one as Python has it and one as a command line has it.
VALUES = {
    'input': ([Path('/a'), 'gs://b/c'], ['--input=/a', '--input=gs://b/c']),
    'output': (Path('/o'), ['--output=/o']),
    'carry': (['split', 'day'], ['--carry=split,day']),
    'partition_by': ('split', ['--partition_by=split']),
    'since': (datetime.timedelta(days=7), ['--since=1w']),
    'max_bytes': ('64MiB', ['--max_bytes=67108864']),
    'memory_budget': (2**30, ['--memory_budget=1GiB']),
    'threshold': (np.float64(0.25), ['--threshold=0.25']),
    'canary': ('finite', ['--canary=finite']),
    'precision': ('float32', ['--precision=float32']),
    'backend': ('jax', ['--backend=jax']),
    'min_agreement': (0.5, ['--min_agreement=0.5']),
    'max_failure_rate': (1, ['--max_failure_rate=1']),
    'keep_above': (0.05, ['--keep_above=0.05']),
    'wait_for_lease_sec': (0, ['--wait_for_lease_sec=0']),
    'fetch_deadline_sec': (1.5, ['--fetch_deadline_sec=1.5']),
    'decode_deadline_sec': (
        datetime.timedelta(seconds=2).total_seconds(),
        ['--decode_deadline_sec=2'],
    ),
}


def parsed(*argv):
    parser = argparse.ArgumentParser()
    add_label_arguments(parser)
    return LabelOptions.of(parser.parse_args(argv))


@pytest.mark.parametrize('option', OPTIONS, ids=lambda option: option.name)
def test_a_keyword_is_its_option(option):
    if option.name in VALUES:
        value, argv = VALUES[option.name]
    elif option.is_switch:
        value, argv = True, [f'--{option.name}']
    elif option.type.parse is None:
        value, argv = 'x', [f'--{option.name}=x']
    else:
        value, argv = np.int64(7), [f'--{option.name}=7']
    needed = {'input': '/in', 'output': '/out'} | {option.name: value}
    argv += [f'--{name}=/{name[:-3]}' for name in ('input', 'output') if name != option.name]
    if option.name in FOR_COMMANDS:
        with pytest.raises(TypeError, match=option.name):
            options_of(LabelOptions, needed, 'label')
        return
    assert options_of(LabelOptions, needed, 'label') == parsed(*argv)


def test_none_is_the_default():
    given = {'input': 'x', 'output': 'y', 'carry': (), **dict.fromkeys(['threshold', 'chunk_size'])}
    assert options_of(LabelOptions, given, 'label') == parsed('--input=x', '--output=y')


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        ('batch_size', True, 'batch_size True: expected a value'),
        ('batch_size', 1.5, 'batch_size 1.5: expected a whole number, 1 or more'),
        ('batch_size', b'1', "batch_size b'1': expected a text or a number"),
        ('force', 1, 'force 1: expected True or False'),
        ('model', 7, 'model 7: expected a text'),
        ('precision', 'half', "precision 'half': expected one of auto, "),
        ('carry', ['a', ''], "carry ['a', '']: expected column names"),
        ('since', datetime.timedelta(0), 'since datetime.timedelta(0): expected an age'),
        ('input', ['a', 3], 'input 3: expected a text'),
        ('input', 5, 'input 5: expected a text, or a list of them'),
        ('input', b'a', "input b'a': expected a text, or a list of them"),
        ('input', [], 'input []: expected at least one'),
        ('input', None, 'input None: expected a value'),
        ('output', None, 'output None: expected a value'),
        ('carry', 5, 'carry 5: expected a text, or a list of them'),
    ],
)
def test_a_wrong_value_is_said_with_its_keyword(name, value, said):
    with pytest.raises(UsageError) as caught:
        options_of(LabelOptions, {'input': 'x', 'output': 'y', name: value}, 'label')
    assert str(caught.value).startswith(said)
    assert caught.value.name == name


def test_what_is_no_option_is_said_with_what_may_be_meant():
    for name, hint in (('treshold', "did you mean 'threshold'"), ('runner', 'pipeline_options')):
        with pytest.raises(TypeError, match=rf'^label\(\) got an unexpected .* {name!r}; .*{hint}'):
            options_of(LabelOptions, {'input': 'x', 'output': 'y', name: 1}, 'label')


def test_times_have_a_zone_or_are_utc():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    for given, text in (
        (datetime.datetime(2026, 11, 24, 1, tzinfo=zone), '2026-11-24T01:00:00+02:00'),
        (datetime.date(2026, 11, 24), '2026-11-24'),
        (datetime.timedelta(hours=36), '36h'),
        ('7d', '7d'),
    ):
        options = {'input': 'x', 'output': 'y', 'since': given}
        assert options_of(LabelOptions, options, 'label').since == text


def test_messages_have_keywords_and_commands_keep_their_flags():
    said = '--chunk_size 3: see `lemmabeam clean --forget X`, or --num_workers of Beam'
    meant = 'chunk_size 3: see `lemmabeam clean --forget X`, or --num_workers of Beam'
    assert reword(said) == meant
    with pytest.raises(StoreError, match=r'^output gone$'), by_keyword():
        raise StoreError('--output gone')
    with pytest.raises(InvalidOption, match=r'^model x: or model_card$') as caught, by_keyword():
        raise InvalidOption('model', 'x', 'or --model_card')
    assert (caught.value.name, caught.value.why) == ('model', 'or model_card')


def test_editors_see_every_option():
    shown = inspect.signature(lb.label).parameters
    assert shown.keys() == {option.name for option in OPTIONS} - FOR_COMMANDS | {
        'progress',
        'pipeline_options',
    }
    assert shown['chunk_size'].default == 1024
    assert 'input' not in inspect.signature(lb.retry).parameters
    assert 's3_endpoint_url' in inspect.signature(lb.open).parameters
