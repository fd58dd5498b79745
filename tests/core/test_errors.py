"""Errors that name an option, on their way to a person."""

import pickle

from transforms.core.errors import InvalidOption, UsageError


def test_an_invalid_option_is_told_by_name_value_and_reason():
    error = InvalidOption('model_size', '3', 'expected 16 pixels or more')
    assert isinstance(error, UsageError)
    assert str(error) == '--model_size 3: expected 16 pixels or more'
    assert str(error.named('size')) == '--size 3: expected 16 pixels or more'


def test_an_invalid_option_crosses_processes():
    error = pickle.loads(pickle.dumps(InvalidOption('model', 'x', 'no such file')))
    assert (error.name, error.value, error.why) == ('model', 'x', 'no such file')
    assert str(error) == '--model x: no such file'
