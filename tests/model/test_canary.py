"""What a model must see in known pictures: the rules, on models that are made up.

Real weights that are loaded in a wrong way are in `tests.model.test_computing`.
"""

import dataclasses

import numpy as np
import pytest

from tests.support import samples
from transforms.core.errors import ModelError, UsageError
from transforms.images.decode import decode
from transforms.model import canary
from transforms.model.canary import Seen, run_canary
from transforms.model.card import CAT, Activation, Canary
from transforms.model.choices import EMBEDDED
from transforms.model.families import efficientnet_lite
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.families.bit.known import bit_card
from transforms.model.resolve import resolve_model
from transforms.model.vocabulary import Vocabulary, load_vocabulary

CAT_PIXELS = decode((samples.SAMPLE / 'cat.jpg').read_bytes(), efficientnet_lite.CARD.resize)


@pytest.fixture(scope='module')
def embedded():
    return resolve_model(EMBEDDED)


def with_card(source, **changes):
    return dataclasses.replace(source, card=source.card.with_changes(**changes))


def check(source, cat, coffee, mode=canary.FINITE):
    def call(pictures):
        assert len(pictures) == 2
        np.testing.assert_array_equal(pictures[0], CAT_PIXELS)
        return [cat, coffee]

    run_canary(mode, source, call)


def seen(scores, indices=range(5), is_finite=True, features=None):
    return Seen(
        np.array(list(indices), np.int32), np.array(scores, np.float32), is_finite, features
    )


def test_finite(embedded):
    good = seen([0.9, 0.1, 0, 0, 0])
    other = seen([0.8, 0.1, 0, 0, 0])
    check(embedded, good, other)
    with pytest.raises(ModelError, match='NaN or infinite'):
        check(embedded, good, seen([0.8, 0.1, 0, 0, 0], is_finite=False))
    with pytest.raises(ModelError, match='the same outputs for two different images'):
        check(embedded, good, good)
    with pytest.raises(ModelError, match=r'scores from -1 to 1\.5'):
        check(embedded, good, seen([1.5, 0, 0, 0, -1]))
    for scores in ([1.0, 0.5, 0, 0, -1e-3], [1 + 1e-3, 0.5, 0, 0, 0]):
        with pytest.raises(ModelError, match='scores from'):
            check(embedded, good, seen(scores))
    check(with_card(embedded, activation=Activation.NONE), good, seen([1.5, 0, 0, 0, -1]))


def test_features_alone(embedded):
    nothing = dataclasses.replace(embedded, vocabulary=load_vocabulary('none'))
    one = seen([], [], features=np.ones(3, np.float16))
    other = seen([], [], features=np.zeros(3, np.float16))
    check(nothing, one, other)
    with pytest.raises(ModelError, match='the same outputs for two'):
        check(nothing, one, one)


@pytest.mark.parametrize('activation', [Activation.SOFTMAX, Activation.SIGMOID])
def test_an_activation_applied_twice(embedded, activation):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 1000))
    logits[0, 7] = 20  # quite sure of one, once
    once = {
        Activation.SOFTMAX: lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
        Activation.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    }[activation]

    def top(scores):
        best = np.argsort(-scores)[:5]
        return seen(scores[best], best)

    source = with_card(embedded, activation=activation)
    check(source, *map(top, once(logits)))
    with pytest.raises(ModelError, match='should then be "none", not'):
        check(source, *map(top, once(once(logits))))


def test_strict_looks_at_the_five_best(embedded):
    source = with_card(embedded, canary=(CAT,))
    tabby = source.vocabulary.names.index('tabby')
    scores = [0.5, 0.1, 0.1, 0.1, 0.01]
    other = seen([0.4, 0.1, 0.1, 0.1, 0.01])
    check(source, seen(scores, [1, 2, 3, 4, tabby]), other, canary.STRICT)
    with pytest.raises(ModelError, match=r'best labels are goldfish 0\.50'):
        check(source, seen([*scores, 0.0], [1, 2, 3, 4, 5, tabby]), other, canary.STRICT)


def test_which_models_can_be_asked_strictly(embedded):
    bare = with_card(embedded, canary=())
    assert canary.default_mode(bare.card) == canary.FINITE
    canary.check_mode(canary.STRICT, bare)  # the list has felines
    things = Vocabulary('things', (None,) * 1000, (('thing',),) * 1000, (None,) * 1000)
    own = dataclasses.replace(bare, vocabulary=things)
    canary.check_mode(canary.FINITE, own)
    with pytest.raises(UsageError, match='--canary strict: the card of efficientnet-lite0'):
        canary.check_mode(canary.STRICT, own)


def test_strict_looks_at_a_quarter_of_few_classes(embedded):
    names = [f'thing {i}' for i in range(8)]
    things = Vocabulary('things', (None,) * 8, tuple((name,) for name in names), (None,) * 8)
    source = with_card(embedded, canary=(Canary('cat.jpg', 'thing 7', 0.0),))
    source = dataclasses.replace(source, vocabulary=things)
    scores = [0.5, 0.2, 0.1, 0.1, 0.1]
    other = seen([0.4, 0.3, 0.1, 0.1, 0.1])
    check(source, seen(scores, [1, 7, 2, 3, 4]), other, canary.STRICT)
    with pytest.raises(ModelError, match=r'best labels are thing 1 0\.50, thing 2 0\.20;'):
        check(source, seen(scores, [1, 2, 7, 3, 4]), other, canary.STRICT)


def test_scores_of_all_classes_that_are_meant_count_together(embedded):
    source = with_card(embedded, canary=(Canary('cat.jpg', CAT.expected, 0.75),))
    one, other = (source.vocabulary.names.index(name) for name in ('tabby', 'tiger cat'))
    coffee = seen([0.4, 0.1, 0.1, 0.1, 0.01])
    check(source, seen([0.5, 0.25, 0.1, 0, 0], [one, other, 1, 2, 3]), coffee, canary.STRICT)
    message = f'it should see {CAT.expected} with at least 0.75 in'
    with pytest.raises(ModelError, match=message):
        check(source, seen([0.5, 0.2, 0.1, 0, 0], [one, other, 1, 2, 3]), coffee, canary.STRICT)


def test_a_network_with_the_classes_of_imagenet_must_see_the_cat():
    for vocabulary in ('ilsvrc2012', 'imagenet21k'):
        card = bit_card('x', Architecture(14, 1), vocabulary, value_range=(0.0, 1.0))
        assert card.canary == (CAT,)
        assert canary.default_mode(card) == canary.STRICT
    card = bit_card('x', Architecture(14, 1), '', value_range=(0.0, 1.0))
    assert canary.default_mode(card) == canary.FINITE
