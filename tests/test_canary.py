"""The canary, with real weights that are loaded in a wrong way, and how a model is computed."""

import dataclasses
import random

import numpy as np
import pytest

from tests import samples, support
from tests.data.bit_reference import synthetic_weights
from transforms.decode import decode
from transforms.errors import ModelError, UsageError
from transforms.model import canary, registry
from transforms.model.canary import Seen, run_canary
from transforms.model.card import CAT, Activation
from transforms.model.predictor import InferenceOptions, Predictor
from transforms.model.registry import EMBEDDED
from transforms.model.sources import resolve_model
from transforms.model.vocabulary import Vocabulary, load_vocabulary
from transforms.process import cpu_count


@pytest.fixture(scope='module', autouse=True)
def tf():
    support.start_tensorflow()
    import tensorflow

    return tensorflow


@pytest.fixture(scope='module')
def embedded():
    return resolve_model(EMBEDDED)


def make(source, **changes):
    values = {
        'model': source,
        'batch_size': 2,
        'threshold': 0.05,
        'max_labels': 5,
        'min_labels': 0,
        'intra_op_threads': cpu_count(),
        'canary': canary.STRICT,
    }
    return Predictor(InferenceOptions(**(values | changes)))


def with_card(source, **changes):
    return dataclasses.replace(source, card=source.card.with_changes(**changes))


def shuffled(vocabulary):
    order = list(range(len(vocabulary)))
    random.Random(0).shuffle(order)
    wnids, lemmas = ([values[i] for i in order] for values in (vocabulary.wnids, vocabulary.lemmas))
    return Vocabulary('shuffled', tuple(wnids), tuple(lemmas), vocabulary.definitions)


WRONG = {
    'channels swapped': (lambda s: with_card(s, channels='BGR'), 'espresso with at least 0.88'),
    'range from 0 to 1': (lambda s: with_card(s, mean=0.0, std=255.0), 'espresso'),
    'range from 0 to 255': (lambda s: with_card(s, mean=0.0, std=1.0), 'n02120997'),
    'classes shuffled': (
        lambda s: dataclasses.replace(s, vocabulary=shuffled(s.vocabulary)),
        'n02120997',
    ),
}


@pytest.mark.parametrize('case', WRONG)
def test_strict_refuses_a_model_that_is_used_in_a_wrong_way(embedded, case):
    change, expected = WRONG[case]
    with pytest.raises(ModelError) as caught:
        make(change(embedded))
    message = str(caught.value)
    assert 'failed its canary, so that nothing was labelled' in message
    assert f'it should see {expected}' in message
    assert 'its best labels are' in message


def test_strict_accepts_it_as_it_should_be_used_whatever_the_labels(embedded):
    for changes in ({}, {'max_labels': 1, 'threshold': 1.0}, {'batch_size': 1}, {'jit': True}):
        make(embedded, **changes)


def test_strict_refuses_synthetic_weights_and_finite_does_not(tmp_path):
    from pipeline.main import main

    np.savez(tmp_path / 'x.npz', **synthetic_weights.make_weights('R14x1', 0, 1000))
    folder = str(tmp_path / 'model')
    assert main(['export-model', '--weights', str(tmp_path / 'x.npz'), '--output', folder]) == 0
    source = resolve_model(folder, size_px=224, cache=str(tmp_path))
    assert source.card.canary == (CAT,)
    assert canary.default_mode(source.card) == canary.STRICT
    with pytest.raises(ModelError, match=r"n02120997 in the picture 'cat\.jpg'"):
        make(source)
    make(source, canary=canary.FINITE)


class TestRules:
    """Fakes: a model that must fail on command."""

    cat = decode((samples.SAMPLE / 'cat.jpg').read_bytes(), registry.EMBEDDED_CARD.resize)

    def check(self, source, cat, coffee, mode=canary.FINITE):
        def call(pictures):
            assert len(pictures) == 2
            np.testing.assert_array_equal(pictures[0], self.cat)
            return [cat, coffee]

        run_canary(mode, source, call)

    def seen(self, scores, indices=range(5), is_finite=True, features=None):
        return Seen(
            np.array(list(indices), np.int32), np.array(scores, np.float32), is_finite, features
        )

    def test_finite(self, embedded):
        good = self.seen([0.9, 0.1, 0, 0, 0])
        other = self.seen([0.8, 0.1, 0, 0, 0])
        self.check(embedded, good, other)
        with pytest.raises(ModelError, match='infinite or undefined'):
            self.check(embedded, good, self.seen([0.8, 0.1, 0, 0, 0], is_finite=False))
        with pytest.raises(ModelError, match='the same for two different pictures'):
            self.check(embedded, good, good)
        with pytest.raises(ModelError, match=r'scores from -1 to 1\.5'):
            self.check(embedded, good, self.seen([1.5, 0, 0, 0, -1]))
        self.check(
            with_card(embedded, activation=Activation.NONE), good, self.seen([1.5, 0, 0, 0, -1])
        )

    def test_features_alone(self, embedded):
        nothing = dataclasses.replace(embedded, vocabulary=load_vocabulary('none'))
        one = self.seen([], [], features=np.ones(3, np.float16))
        other = self.seen([], [], features=np.zeros(3, np.float16))
        self.check(nothing, one, other)
        with pytest.raises(ModelError, match='the same for two'):
            self.check(nothing, one, one)

    @pytest.mark.parametrize('activation', [Activation.SOFTMAX, Activation.SIGMOID])
    def test_an_activation_applied_twice(self, embedded, activation):
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 3, (2, 1000))
        logits[0, 7] = 20  # quite sure of one, once
        once = {
            Activation.SOFTMAX: lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
            Activation.SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
        }[activation]

        def top(scores):
            best = np.argsort(-scores)[:5]
            return self.seen(scores[best], best)

        source = with_card(embedded, activation=activation)
        self.check(source, *map(top, once(logits)))
        with pytest.raises(ModelError, match='should be "none", not'):
            self.check(source, *map(top, once(once(logits))))

    def test_strict_looks_at_the_five_best(self, embedded):
        source = with_card(embedded, canary=(CAT,))
        tabby = source.vocabulary.names.index('tabby')
        scores = [0.5, 0.1, 0.1, 0.1, 0.01]
        other = self.seen([0.4, 0.1, 0.1, 0.1, 0.01])
        self.check(source, self.seen(scores, [1, 2, 3, 4, tabby]), other, canary.STRICT)
        with pytest.raises(ModelError, match=r'best labels are goldfish 0\.50'):
            self.check(
                source, self.seen([*scores, 0.0], [1, 2, 3, 4, 5, tabby]), other, canary.STRICT
            )

    def test_which_models_can_be_asked_strictly(self, embedded):
        bare = with_card(embedded, canary=())
        assert canary.default_mode(bare.card) == canary.FINITE
        canary.check_mode(canary.STRICT, bare)  # the list has felines
        things = Vocabulary('things', (None,) * 1000, (('thing',),) * 1000, (None,) * 1000)
        own = dataclasses.replace(bare, vocabulary=things)
        canary.check_mode(canary.FINITE, own)
        with pytest.raises(UsageError, match='--canary strict: the card of efficientnet-lite0'):
            canary.check_mode(canary.STRICT, own)


@pytest.fixture(scope='module')
def plain(embedded):
    return make(embedded, features=True)


class TestComputing:
    """Precision, XLA and features of the embedded model, on a real picture."""

    pixels = np.stack([TestRules.cat, TestRules.cat[:, ::-1]])

    def test_auto_is_float32_on_a_cpu(self, plain):
        assert plain.computed == {
            'network': 'built from its weights',
            'precision': 'float32',
            'device': 'CPU',
            'jit': False,
            'features': 1280,
            'batch_size': 2,
        }

    @pytest.mark.parametrize(
        ('changes', 'tolerance'),
        [
            ({'precision': 'float32'}, 0.0),
            ({'jit': True}, 1e-5),
            ({'precision': 'bfloat16'}, 0.05),
            ({'precision': 'float16'}, 0.02),
        ],
    )
    def test_other_ways_give_nearly_the_same(self, embedded, plain, changes, tolerance):
        expected = plain(self.pixels)
        predictor = make(embedded, **changes)
        found = predictor(self.pixels)
        assert predictor.computed['precision'] == changes.get('precision', 'float32')
        assert predictor.computed['jit'] == changes.get('jit', False)
        assert found.scores.dtype == np.float32
        assert found.features is None
        for a, b in zip(expected.indices, found.indices, strict=True):
            assert set(a[:3]) == set(b[:3])
        np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=tolerance)
        if tolerance == 0.0:
            np.testing.assert_array_equal(found.scores, expected.scores)

    def test_features_are_the_pooled_ones(self, plain, embedded):
        import keras

        from transforms.model.network import load_network

        whole = load_network(embedded, 'float32', 2, with_features=True)
        images = (self.pixels.astype(np.float32) - 127) / 128
        logits, features = whole.call(images)
        found = plain(self.pixels)
        assert found.features.dtype == np.float16
        np.testing.assert_allclose(found.features, features, rtol=1e-3, atol=1e-3)
        scores = keras.ops.softmax(logits)
        np.testing.assert_allclose(found.scores[:, 0], np.asarray(scores).max(1), rtol=0, atol=1e-6)

    def test_a_gpu_can_be_required(self, embedded, tf):
        if tf.config.list_physical_devices('GPU'):
            make(embedded, require_gpu=True)
        else:
            with pytest.raises(ModelError, match=r'--require_gpu: TensorFlow .* sees no GPU'):
                make(embedded, require_gpu=True)
