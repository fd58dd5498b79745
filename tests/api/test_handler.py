"""The ModelHandler in Beam's RunInference; its model takes no time."""

import apache_beam as beam
import lemmabeam as lb
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from tests.support import without_model
from tests.support.collected import collect, taken
from tests.support.failing_model import Broken, Poisoned
from transforms.core.resources import shared

SIZE_PX = 64


def handler(make=without_model.Predictor, **options):
    made = lb.ModelHandler(model_size=SIZE_PX, batch_size=4, **options)
    made.config = made.config._replace(make=make)
    return made


@pytest.fixture
def pixels():
    shape = (10, SIZE_PX, SIZE_PX, 3)
    return list(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


class Shapes(without_model.Predictor):
    """Remembers what it is given."""

    def __init__(self, options):
        super().__init__(options)
        self.seen = set()

    def __call__(self, pixels):
        self.seen.add(pixels.shape)
        return super().__call__(pixels)


def test_batches_are_padded_and_results_follow_their_images(pixels):
    made = handler(Shapes)
    together = made.run_inference(pixels, made.load_model())
    alone = [made.run_inference([each], made.load_model())[0] for each in pixels]
    assert together == alone
    assert len({str(each) for each in together}) == len(pixels)
    assert made.load_model().get().seen == {(4, SIZE_PX, SIZE_PX, 3)}
    label = together[0].labels[0]
    model = made.config.inference.model
    assert label.name == model.vocabulary.names[label.index]
    assert label.wnid == model.vocabulary.wnids[label.index]


def test_there_is_one_model_a_process(pixels):
    one, other = handler(Shapes), handler(Shapes)
    one.run_inference(pixels, one.load_model())
    assert one.load_model() is other.load_model()
    assert other.load_model().get() is shared(Shapes, one.config.inference)


def test_under_keys_and_with_exception_handling(pixels):
    examples = list(enumerate([*pixels, np.zeros((3, 3, 3), np.uint8)]))
    with beam.Pipeline('FnApiRunner') as pipeline:
        good, bad = (
            pipeline
            | beam.Create(examples, reshuffle=False)
            | RunInference(KeyedModelHandler(handler())).with_exception_handling()
        )
        collect(good, 'good')
        collect(bad.failed_inferences, 'bad')
    made = handler()
    expected = dict(enumerate(made.run_inference(pixels[:8], made.load_model())))
    assert dict(taken('good')) == expected
    ((batch, (kind, said, _)),) = taken('bad')
    assert [key for key, _ in batch] == [8, 9, 10]
    assert kind is lb.errors.UsageError
    assert 'pixels of shape (3, 3, 3) and type uint8: efficientnet-lite0 takes (64, 64, 3)' in said


def test_without_keys(pixels):
    with beam.Pipeline('FnApiRunner') as pipeline:
        found = pipeline | beam.Create(pixels) | RunInference(handler())
        collect(found, 'found')
    made = handler()
    expected = made.run_inference(pixels, made.load_model())
    assert sorted(map(str, taken('found'))) == sorted(map(str, expected))


def test_only_the_guilty_are_lost(pixels):
    pixels[5] = np.full_like(pixels[5], (255, 0, 255))
    made, healthy = handler(Poisoned), handler()
    found = made.run_inference(pixels, made.load_model())
    expected = healthy.run_inference(pixels, healthy.load_model())
    lost = lb.Prediction([], None, 'model_error', 'the model fails on it: Poison')
    assert found == [*expected[:5], lost, *expected[6:]]


class Infinite(without_model.Predictor):
    def __call__(self, pixels):
        found = super().__call__(pixels)
        return found._replace(counts=np.where(np.arange(len(pixels)) == 1, -1, found.counts))


def test_scores_that_are_not_finite_are_none(pixels):
    made = handler(Infinite)
    found = made.run_inference(pixels[:3], made.load_model())
    assert [each.reason for each in found] == ['', 'nonfinite_scores', '']
    assert found[1].labels == []


def test_a_model_that_always_fails_is_to_blame_itself(pixels):
    made = handler(Broken)
    with pytest.raises(lb.errors.ModelError, match='also without any image'):
        made.run_inference(pixels, made.load_model())
