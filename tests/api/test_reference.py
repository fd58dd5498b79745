"""pipeline/API.md, and that every public name is described and shown."""

import doctest
import inspect

import pytest

from pipeline.api import errors, reference


def test_the_page_is_up_to_date():
    """`python -m pipeline.api.reference` writes it anew."""
    assert reference.REFERENCE.read_text() == reference.as_markdown()


@pytest.mark.parametrize('name', reference.public())
def test_a_public_name_has_a_docstring_with_an_example(name):
    value = reference.public()[name]
    text = inspect.getdoc(value)
    assert 'Example:' in text
    assert doctest.DocTestParser().get_examples(text)
    assert f'### lb.{name}\n' in reference.as_markdown()


def test_errors_have_a_line_each():
    assert [*errors.__all__] == sorted(errors.__all__)
    for name in errors.__all__:
        assert f'- `{name}`' in reference.as_markdown()
        assert issubclass(getattr(errors, name), errors.LemmabeamError)
