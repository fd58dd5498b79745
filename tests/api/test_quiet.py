"""What calls of `lemmabeam` leave of the logging of others."""

import logging

from pipeline.api.quiet import called


def test_a_call_that_ends_takes_nothing_from_another_one_that_goes_on():
    root = logging.getLogger()
    before = [*root.filters], [*root.handlers]
    record = logging.LogRecord('root', logging.WARNING, 'x/apache_beam/y.py', 1, 'said', (), None)
    first, second = called(False), called(False)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not root.filter(record)
    second.__exit__(None, None, None)
    assert root.filter(record)
    assert ([*root.filters], [*root.handlers]) == before
