"""Values of JSON objects: each kind, its default, and what is said of another."""

import pytest

from transforms.core.errors import DamagedError
from transforms.core.json_object import JsonObject


def test_values_and_their_defaults():
    found = JsonObject({'text': 'a', 'count': 3, 'number': 2, 'none': None, 'object': {'n': 1}})
    assert (found.text('text'), found.text('other', 'b')) == ('a', 'b')
    assert (found.count('count'), found.count('other', 7)) == (3, 7)
    assert found.number('number') == 2
    assert isinstance(found.number('number'), int), 'it is written again as it was'
    assert found.text_or_none('none') is found.count_or_none('other') is None
    assert found.number_or_none('number') == 2
    assert found.counts('object') == found.numbers('object') == {'n': 1}
    assert found.object('other', {}).values == found.counts('other', {}) == {}
    assert found.objects('other', []) == []
    assert found.texts('other', ['a']) == ('a',)


@pytest.mark.parametrize(
    ('kind', 'value'),
    [
        ('text', 1),
        ('text', None),
        ('flag', 1),
        ('count', True),
        ('count', -1),
        ('count', 1.0),
        ('number', '1'),
        ('number', False),
        ('number', float('inf')),
        ('text_or_none', []),
        ('count_or_none', 'x'),
        ('number_or_none', float('nan')),
        ('object', []),
        ('objects', {}),
        ('texts', ['a', 1]),
        ('texts', 'ab'),
    ],
)
def test_another_kind_is_named(kind, value):
    outer = JsonObject({'outer': {'moon': value}}).object('outer')
    with pytest.raises(DamagedError, match=r'^outer\.moon is '):
        getattr(outer, kind)('moon')


@pytest.mark.parametrize(
    'kind', ['text', 'flag', 'count', 'number', 'object', 'objects', 'texts', 'counts']
)
def test_what_is_missing_is_named(kind):
    with pytest.raises(DamagedError, match=r'^moon is missing$'):
        getattr(JsonObject({}), kind)('moon')
