"""The embedded model in other precisions and with features, and used in a wrong way.

Only the rules of the canary, on models that are made up, are in `tests.model.test_canary`.
"""

import dataclasses
import os
import random

import numpy as np
import pytest

from tests.data.bit_reference import synthetic_weights
from tests.support import app, samples
from transforms.core.errors import ModelError
from transforms.core.resources import cpu_count
from transforms.images.decode import decode
from transforms.model import canary
from transforms.model.card import CAT
from transforms.model.choices import EMBEDDED
from transforms.model.cpu import bfloat16_by
from transforms.model.families import efficientnet_lite
from transforms.model.predictor import InferenceOptions, Predictor
from transforms.model.resolve import resolve_model
from transforms.model.runtimes.on_tensorflow import import_tensorflow
from transforms.model.vocabulary import Vocabulary
from transforms.model.witness import Witness

CAT_PIXELS = decode((samples.SAMPLE / 'cat.jpg').read_bytes(), efficientnet_lite.CARD.resize)
PIXELS = np.stack([CAT_PIXELS, CAT_PIXELS[:, ::-1]])


@pytest.fixture(scope='module', autouse=True)
def tf():
    tf = import_tensorflow(cpu_count())
    with app.networks_built_once():
        yield tf


@pytest.fixture(scope='module')
def embedded():
    return resolve_model(EMBEDDED)


@pytest.fixture(scope='module')
def plain(embedded):
    return make(embedded, features=True)


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
    'swapped channels': ({'channels': 'BGR'}, 'espresso with at least 0.88'),
    'range from 0 to 1': ({'mean': 0.0, 'std': 255.0}, 'espresso'),
    'range from 0 to 255': ({'mean': 0.0, 'std': 1.0}, 'n02120997'),
}


def refusal(call, expected):
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert 'failed its canary, so nothing was labelled' in message
    assert f'it should see {expected}' in message
    assert 'its best labels are' in message


@pytest.mark.parametrize('case', WRONG)
def test_strict_refuses_a_model_that_is_used_in_a_wrong_way(embedded, case):
    changes, expected = WRONG[case]
    refusal(lambda: make(with_card(embedded, **changes)), expected)


def test_strict_refuses_a_class_list_in_another_order(embedded, plain):
    source = dataclasses.replace(embedded, vocabulary=shuffled(embedded.vocabulary))
    refusal(lambda: canary.run_canary(canary.STRICT, source, plain.see), 'n02120997')
    canary.run_canary(canary.STRICT, embedded, plain.see)


def test_strict_accepts_it_whatever_the_labels_and_images_a_call(embedded):
    predictor = make(embedded, max_labels=1, threshold=1.0, batch_size=1)
    found = predictor(PIXELS[:1])
    assert found.indices.shape == found.scores.shape == (1, canary.TOP)
    assert found.counts.tolist() == [0]


# A network of the size that matters is exported.
@pytest.mark.slow
def test_strict_refuses_synthetic_weights_and_finite_does_not(tmp_path):
    from pipeline.main import main

    np.savez(tmp_path / 'x.npz', **synthetic_weights.make_weights('R14x1', 0, 1000))
    folder = str(tmp_path / 'model')
    assert main(['export-model', '--weights', str(tmp_path / 'x.npz'), '--output', folder]) == 0
    source = resolve_model(folder, size_px=224, cache=str(tmp_path))
    assert source.card.canary == (CAT,)
    assert canary.default_mode(source.card) == canary.STRICT
    with pytest.raises(ModelError, match=r"n02120997 in the image 'cat\.jpg'"):
        make(source)
    make(source, canary=canary.FINITE)


def test_auto_is_float32_on_a_cpu(plain):
    assert plain.computed == {
        'network': 'built from its weights',
        'precision': 'float32',
        'backend': 'tensorflow',
        'device': 'CPU',
        'jit': False,
        'features': 1280,
        'batch_size': 2,
        # What would be faster, where it would be.
        **({'bfloat16_by': by} if (by := bfloat16_by()) else {}),
    }


@pytest.mark.parametrize(
    ('changes', 'tolerance'),
    [
        ({'precision': 'float32'}, 0.0),
        # XLA takes its time with a whole network; of a small one: test_saved_models.
        pytest.param({'jit': True}, 1e-5, marks=pytest.mark.slow),
        ({'precision': 'bfloat16'}, 0.05),
        # As bfloat16, but chosen by hand only; of BiT, see tests.model.test_saved_models.
        pytest.param({'precision': 'float16'}, 0.02, marks=pytest.mark.slow),
    ],
)
def test_other_ways_give_nearly_the_same(embedded, plain, changes, tolerance):
    expected = plain(PIXELS)
    predictor = make(embedded, **changes)
    found = predictor(PIXELS)
    assert predictor.computed['precision'] == changes.get('precision', 'float32')
    assert predictor.computed['jit'] == changes.get('jit', False)
    assert found.scores.dtype == np.float32
    assert found.features is None
    for a, b in zip(expected.indices, found.indices, strict=True):
        assert set(a[:3]) == set(b[:3])
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=tolerance)
    if tolerance == 0.0:
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_receipt_finds_a_damaged_bfloat16_and_lets_a_sound_one_pass(embedded, plain):
    """The network itself: its weights are what is damaged."""
    predictor = make(embedded, precision='bfloat16', threshold=0.01)
    options = predictor.options._replace(precision_receipt=2, min_agreement=0.9)
    seen = predictor(PIXELS)
    receipt = Witness(options, Predictor).look(PIXELS, seen, [0, 1], 'bfloat16')
    assert (receipt.images, receipt.same_best) == (2, 2)
    assert receipt.jaccard > 0.5
    assert 0 < receipt.p99 <= receipt.largest < 0.05
    weights = predictor.network.owner.get_layer('head').weights[0]
    before = np.asarray(weights)
    try:
        weights.assign(before[..., ::-1])
        seen = predictor(PIXELS)
    finally:
        weights.assign(before)  # the network is kept for other tests
    with pytest.raises(ModelError, match=r'--precision bfloat16: 0\.0% of 2 images have the same'):
        Witness(options, Predictor).look(PIXELS, seen, [0, 1], 'bfloat16')


def test_features_are_the_pooled_ones(plain):
    import keras

    images = (PIXELS.astype(np.float32) - 127) / 128
    logits, features = plain.network.call(images)
    found = plain(PIXELS)
    assert found.features.dtype == np.float16
    np.testing.assert_allclose(found.features, features, rtol=1e-3, atol=1e-3)
    scores = keras.ops.softmax(logits)
    np.testing.assert_allclose(found.scores[:, 0], np.asarray(scores).max(1), rtol=0, atol=1e-6)


def test_a_gpu_can_be_required(embedded, tf):
    if tf.config.list_physical_devices('GPU'):
        make(embedded, require_gpu=True)
    else:
        with pytest.raises(ModelError, match=r'--require_gpu: TensorFlow .* sees no GPU'):
            make(embedded, require_gpu=True)


def test_tensorflow_that_runs_already_is_taken_as_it_is(plain, monkeypatch):
    """As in a process in which somebody has trained a model before."""
    tf = import_tensorflow()
    affinity = os.sched_getaffinity(0)
    threading = tf.config.threading
    monkeypatch.setattr(threading, 'get_intra_op_parallelism_threads', lambda: 0)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: affinity | {97, 98, 99})
    cores = len(affinity) + 3
    import_tensorflow(cores)
    with pytest.raises(ModelError, match=f'with {cores}; --intra_op_threads {cores} take'):
        import_tensorflow(cores + 1)
