"""What a precision receipt says, on models that are made up; knows neither Beam nor TensorFlow.

Networks that really compute in bfloat16 are in `tests.model.test_computing`.
"""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

from transforms.core.errors import InferenceError, ModelError
from transforms.model.choices import EMBEDDED, FLOAT32, OFF
from transforms.model.predictor import InferenceOptions, Prediction
from transforms.model.receipt import Receipt, as_statistic, merge, of_statistics
from transforms.model.resolve import resolve_model
from transforms.model.witness import Witness, compare

BATCH = 4
PIXELS = np.zeros((BATCH, 2, 2, 3), np.uint8)


def prediction(*rows, counts):
    """Rows of (index, score), best first."""
    indices, scores = zip(*(zip(*row, strict=True) for row in rows), strict=True)
    return Prediction(
        np.array(indices, np.int32), np.array(scores, np.float32), np.array(counts), None
    )


EXACT = prediction(
    [(1, 0.75), (2, 0.5), (3, 0.25)],
    [(4, 0.5), (5, 0.25), (6, 0.125)],
    [(7, 0.25), (8, 0.125), (9, 0.0)],
    [(1, 0.75), (2, 0.5), (3, 0.25)],
    counts=[2, 1, 0, 3],
)
CLOSE = prediction(
    [(1, 0.75), (2, 0.25), (3, 0.25)],  # less sure of 2, which is no label any more
    [(4, 0.5), (6, 0.25), (5, 0.25)],
    [(7, 0.25), (8, 0.125), (5, 0.0625)],  # 5 is new: not in the best three of the other
    [(1, 0.75), (2, 0.5), (3, 0.25)],
    counts=[1, 1, 0, 3],
)
WRONG = prediction(
    *[[(9, 0.75), (8, 0.5), (1, 0.25)]] * BATCH,
    counts=[2] * BATCH,
)


def test_two_predictions_are_compared_by_image_and_class():
    assert compare(EXACT, EXACT, range(BATCH)) == Receipt(4, 4, 1.0, 0.0, 0.0)
    found = compare(CLOSE, EXACT, range(BATCH))
    assert found[:4] == (4, 4, (0.5 + 1 + 1 + 1) / 4, 0.25)
    assert 0.125 < found.p99 <= 0.25
    # Of 5 only what it exceeds the last one by is known; 9 is not better than what is last.
    assert compare(CLOSE, EXACT, [2])[3:] == (0.0625, pytest.approx(0.0625, abs=0.01))
    assert compare(CLOSE, EXACT, []) == Receipt(0, 0, 1.0, 0.0, 0.0)
    wrong = compare(WRONG, EXACT, range(BATCH))
    assert (wrong.images, wrong.same_best, wrong.jaccard) == (4, 0, 0.0)
    assert wrong.largest == 0.75


def test_receipts_of_several_processes_are_put_together():
    one, other = Receipt(64, 64, 1.0, 0.01, 0.002), Receipt(16, 12, 0.5, 0.4, 0.3)
    stats = {'batches': 3.0, as_statistic(one)[0]: 2.0, as_statistic(other)[0]: 1.0}
    assert of_statistics(stats) == Receipt(144, 140, (128 + 8) / 144, 0.4, 0.3)
    assert of_statistics({'batches': 3.0}) is None
    assert merge([Receipt(0, 0, 1.0, 0.0, 0.0)]) is None
    assert str(other) == (
        '75.0% of 16 images have the same best class as in float32, labels overlap by 50.0%, '
        'scores differ by 0.4 at most, 0.3 at the 99th percentile'
    )


class Models:
    """Makes models that give the same whatever they see, and knows which were asked for."""

    def __init__(self, gives=EXACT):
        self.gives = gives
        self.made = []
        self.living = weakref.WeakSet()

    def __call__(self, options):
        self.made.append(options)
        if isinstance(self.gives, ModelError):
            raise self.gives
        model = Model(self.gives)
        self.living.add(model)
        return model


class Model:
    def __init__(self, gives):
        self.gives = gives

    def __call__(self, pixels):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.fixture(scope='module')
def source():
    return resolve_model(EMBEDDED)


def options(source, images=8, **changes):
    return InferenceOptions(
        *(source, BATCH, 0.5, 3, 0, 1),
        precision='auto',
        precision_receipt=images,
        min_agreement=0.9,
        **changes,
    )


def test_a_sound_precision_is_compared_until_it_is_enough(source):
    models = Models()
    witness = Witness(options(source, features=True), models)
    looked = [witness.look(PIXELS, CLOSE, [0, 1, 3], 'bfloat16') for _ in range(4)]
    assert [each and each.images for each in looked] == [3, 3, 3, None]
    (made,) = models.made
    assert (made.precision, made.canary, made.features) == (FLOAT32, OFF, False)
    gc.collect()
    assert not models.living, 'the device has room again'


def test_a_damaged_precision_stops_the_process(source):
    witness = Witness(options(source), Models())
    assert witness.look(PIXELS, WRONG, range(BATCH), 'bfloat16').same_best == 0
    with pytest.raises(ModelError) as caught:
        witness.look(PIXELS, WRONG, range(BATCH), 'bfloat16')
    said = str(caught.value)
    assert said.startswith('--precision bfloat16: 0.0% of 8 images have the same best class')
    assert 'expected the same best class for 90% at least (--min_agreement). Take' in said
    # A runner tries a batch again, and what it is told must not be that all is well now.
    with pytest.raises(ModelError) as again:
        witness.look(PIXELS, EXACT, range(BATCH), 'bfloat16')
    assert str(again.value) == said


def test_images_without_labels_are_no_measure(source):
    lost = EXACT._replace(counts=np.array([-1, 1, -1, 3]))
    witness = Witness(options(source), Models(lost))
    assert witness.look(PIXELS, EXACT, range(BATCH), 'float16') == Receipt(2, 2, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ('images', 'precision', 'card'),
    [(8, FLOAT32, {}), (0, 'bfloat16', {}), (8, 'bfloat16', {'vocabulary': None})],
)
def test_nothing_is_made_where_there_is_nothing_to_see(source, images, precision, card):
    models = Models()
    changed = dataclasses.replace(source, card=source.card.with_changes(**card))
    witness = Witness(options(changed, images), models)
    assert witness.look(PIXELS, WRONG, range(BATCH), precision) is None
    assert models.made == []


@pytest.mark.parametrize('error', [ModelError('no room'), InferenceError('no room')])
def test_what_cannot_be_had_is_said_once(source, error, caplog):
    witness = Witness(options(source), Models(error))
    for _ in range(2):
        assert witness.look(PIXELS, WRONG, range(BATCH), 'bfloat16') is None
    (record,) = caplog.records
    assert record.message == (
        'no precision receipt: the model cannot be computed in float32 beside bfloat16: no room '
        '(--precision_receipt 0 does not try)'
    )
