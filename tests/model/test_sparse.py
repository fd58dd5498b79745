"""The few labels of each image, against a plain loop."""

import itertools

import numpy as np
import pytest

from tests.support.app import make_config
from tests.support.samples import SAMPLE
from transforms.model import sparse_numpy
from transforms.model.card import Activation
from transforms.model.runtimes.on_tensorflow import import_tensorflow

CLASSES = 7


@pytest.fixture(scope='module', params=['Keras', 'numpy'])
def sparse_labels(request):
    if request.param == 'numpy':
        return sparse_numpy.sparse_labels
    # With the threads that runs in this process may want later.
    config, _ = make_config('--input', SAMPLE, '--output', '/nowhere')
    import_tensorflow(config.inference.intra_op_threads)
    from transforms.model import sparse

    return sparse.sparse_labels


def scores_of(logits, activation):
    exact = logits.astype(float)
    if activation is Activation.SIGMOID:
        return 1 / (1 + np.exp(-exact))
    if activation is Activation.SOFTMAX:
        exact = np.exp(exact - exact.max(axis=1, keepdims=True))
        return exact / exact.sum(axis=1, keepdims=True)
    return exact


def made_logits():
    # Few values, so that many classes are equally good.
    return np.random.default_rng(1).integers(-3, 4, (40, CLASSES)).astype(np.float32) / 2


@pytest.mark.parametrize('activation', Activation)
def test_labels_are_those_of_a_plain_loop(sparse_labels, activation):
    logits = made_logits()
    best = np.array(
        [sorted(range(CLASSES), key=lambda index: (-values[index], index)) for values in logits]
    )
    exact = np.take_along_axis(scores_of(logits, activation), best, 1)
    seen = set()
    for threshold, max_labels, min_labels, at_least in itertools.product(
        (0.0, 0.05, 0.1, 0.3, 0.5, 1.0), (1, 3, CLASSES, CLASSES + 2), (0, 2, CLASSES + 1), (0, 5)
    ):
        if min_labels > max_labels:
            continue  # refused on the command line
        found = sparse_labels(logits, activation, threshold, max_labels, min_labels, at_least)
        indices, scores, counts = (np.asarray(each) for each in found)
        k = min(max(max_labels, at_least), CLASSES)
        assert indices.shape == scores.shape == (len(logits), k)
        assert (indices.dtype, scores.dtype, counts.dtype) == (np.int32, np.float32, np.int32)
        np.testing.assert_array_equal(indices, best[:, :k])
        np.testing.assert_allclose(scores, exact[:, :k], rtol=1e-6, atol=1e-7)
        for row, found in enumerate(scores.tolist()):
            count = sum(score >= float(np.float32(threshold)) for score in found)
            count = min(max(count, min_labels), max_labels, CLASSES)
            assert counts[row] == count
            seen.add(count)
    assert seen == {*range(CLASSES + 1)}


def test_a_score_that_is_the_threshold_is_a_label(sparse_labels):
    logits = np.array([[0.5, 0.25, 0.75]], np.float32)
    _, _, counts = sparse_labels(logits, Activation.NONE, 0.5, 3, 0)
    assert list(np.asarray(counts)) == [2]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_told(sparse_labels, value):
    logits = made_logits()[:3]
    logits[1, 4] = value
    for min_labels in (0, 2):
        _, _, counts = sparse_labels(logits, Activation.SIGMOID, 0.5, 3, min_labels)
        assert [count < 0 for count in np.asarray(counts)] == [False, True, False]
        assert np.asarray(counts)[1] == -1
