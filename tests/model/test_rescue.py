"""Which images of a batch are lost when the model fails on it; knows neither Beam nor TensorFlow.

Errors of TensorFlow itself, and whole runs on them, are in `tests.model.test_failing_model`.
"""

import numpy as np
import pytest

from transforms.core.errors import InferenceError, ModelError
from transforms.model.predictor import Prediction
from transforms.model.rescue import predict_or_rescue

BATCH = 8


@pytest.fixture(scope='module')
def pixels():
    """Eight different pictures."""
    return np.random.default_rng(0).integers(1, 256, (BATCH, 6, 6, 3)).astype(np.uint8)


def healthy(pixels):
    """Another answer for each picture, and for each slot it may lie in."""
    seen = pixels.reshape(len(pixels), -1).astype(np.int32) @ np.arange(1, 109, dtype=np.int32)
    seen = seen * 10 + np.arange(len(pixels), dtype=np.int32)
    scores = np.stack([1 / (1 + seen), 1 / (2 + seen)], axis=1).astype(np.float32)
    return Prediction(np.stack([seen, seen + 1], axis=1), scores, seen % 3, seen[:, None] / 2)


def failing(when):
    """A model that asks `when(pixels)` for an error first."""

    def predict(pixels):
        error = when(pixels)
        if error is not None:
            raise InferenceError(str(error)) from error
        return healthy(pixels)

    return predict


def same(one, other, slots):
    slots = list(slots)
    return all(np.array_equal(a[slots], b[slots]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('guilty', [[0], [7], [3], [2, 3], [0, 5], [1, 3, 5, 7], [0, 1, 2, 3]])
def test_only_the_guilty_are_lost_and_the_bits_of_others_stay(pixels, guilty):
    calls = []

    def when(batch):
        calls.append(batch)
        # Wherever the picture lies: it is the picture that does it.
        hurts = any((batch == pixels[i]).all(axis=(1, 2, 3)).any() for i in guilty)
        return ValueError('poison') if hurts else None

    found, lost = predict_or_rescue(failing(when), pixels, range(BATCH))
    assert lost == dict.fromkeys(guilty, 'ValueError')
    assert same(found, healthy(pixels), set(range(BATCH)) - set(guilty))
    assert len(calls) <= 1 + 1 + len(guilty) * (2 * 3 + 2)
    # Every call has the whole size, with the pictures in their slots.
    for batch in calls:
        assert batch.shape == pixels.shape
        there = batch.any(axis=(1, 2, 3))
        assert np.array_equal(batch[there], pixels[there])


@pytest.mark.parametrize('slots', [[5], [2, 6]])
def test_no_call_is_made_in_vain(pixels, slots):
    """The batch, one without images, each image alone, and one more for each that is guilty."""
    batch = np.zeros_like(pixels)
    batch[slots] = pixels[slots]
    calls = []

    def when(batch):
        calls.append(batch)
        return ValueError('poison') if batch.any() else None

    _, lost = predict_or_rescue(failing(when), batch, slots)
    assert lost.keys() == set(slots)
    # The last is for what becomes of the slots.
    assert len(calls) == 1 + 1 + 2 * len(slots) + 1


def test_an_error_without_a_cause_is_told_by_its_own_name(pixels):
    def predict(batch):
        if batch[5].any():
            raise InferenceError('poison')
        return healthy(batch)

    _, lost = predict_or_rescue(predict, pixels, range(BATCH))
    assert lost == {5: 'InferenceError'}


def test_an_error_in_words_of_ours_is_told_in_them(pixels):
    def predict(batch):
        if batch[5].any():
            raise InferenceError('words of TensorFlow; do this', 'ours') from ValueError('x')
        return healthy(batch)

    _, lost = predict_or_rescue(predict, pixels, range(BATCH))
    assert lost == {5: 'ours'}


def test_a_batch_of_which_all_are_guilty_still_has_an_answer(pixels):
    batch = np.zeros_like(pixels)
    batch[[2, 6]] = pixels[[2, 6]]
    predict = failing(lambda batch: ValueError('poison') if batch.any() else None)
    found, lost = predict_or_rescue(predict, batch, [2, 6])
    assert lost == dict.fromkeys([2, 6], 'ValueError')
    assert same(found, healthy(np.zeros_like(pixels)), range(BATCH))


def test_features_are_saved_where_there_are_some(pixels):
    def predict(batch):
        if batch[1].any() and batch[2].any():
            raise InferenceError('too much')
        return healthy(batch)._replace(features=None)

    found, lost = predict_or_rescue(predict, pixels, range(BATCH))
    assert lost == {}
    assert found.features is None
    assert same(found[:3], healthy(pixels)[:3], range(BATCH))


def test_empty_slots_stay_empty(pixels):
    sparse = pixels.copy()
    sparse[[1, 2, 6]] = 0
    predict = failing(lambda batch: ValueError('x') if batch[4].any() else None)
    found, lost = predict_or_rescue(predict, sparse, [0, 3, 4, 5, 7])
    assert lost == {4: 'ValueError'}
    assert same(found, healthy(sparse), [0, 3, 5, 7])


@pytest.mark.parametrize('slots', [range(BATCH), [5]])
def test_what_fails_once_is_tried_again(pixels, slots):
    batch = np.zeros_like(pixels)
    batch[list(slots)] = pixels[list(slots)]
    errors = [OSError('once')]
    predict = failing(lambda _: errors.pop() if errors else None)
    found, lost = predict_or_rescue(predict, batch, list(slots))
    assert lost == {}
    assert same(found, healthy(batch), slots)


def test_a_model_that_always_fails_is_not_its_images_fault(pixels):
    calls = []
    predict = failing(lambda batch: calls.append(batch) or OSError('the device is lost'))
    with pytest.raises(ModelError, match='even without any image: the device is lost'):
        predict_or_rescue(predict, pixels, range(BATCH))
    assert len(calls) == 2
    assert not calls[1].any()


@pytest.mark.parametrize('works', range(2, 12))
def test_a_device_that_is_lost_meanwhile_is_no_images_fault(pixels, works):
    calls = []

    def when(batch):
        calls.append(batch)
        if batch[6].any():
            return ValueError('poison')
        return OSError('lost') if len(calls) > works else None

    try:
        _, lost = predict_or_rescue(failing(when), pixels, range(BATCH))
    except ModelError:
        return
    assert lost == {6: 'ValueError'}
    assert len(calls) <= works


def test_other_errors_are_not_taken_for_the_models(pixels):
    def broken(_):
        raise KeyError('a mistake of ours')

    with pytest.raises(KeyError):
        predict_or_rescue(broken, pixels, [0])

    def fails(_):
        raise InferenceError('x')

    with pytest.raises(ModelError):
        predict_or_rescue(fails, pixels, [0])
