"""A model that fails on command, by what TensorFlow itself would raise; the rest is real.

What is not checked here: that a GPU really runs out of memory.
"""

import numpy as np
import pytest

from pipeline.verify import verify
from tests import samples, support
from transforms.errors import InferenceError, ModelError
from transforms.model.rescue import predict_or_rescue

BATCH = 8


@pytest.fixture(scope='module')
def tf():
    support.start_tensorflow()
    import tensorflow

    return tensorflow


@pytest.fixture
def predictor(tf, tmp_path):
    """The embedded model as the pipeline shares it; what a test does to it is undone."""
    config, _ = support.make_config(*arguments(tmp_path))
    found = support.predictor(config)
    before = found._call_size, found._compiled, found._compile
    yield found
    found._call_size, found._compiled, found._compile = before


@pytest.fixture(scope='module')
def pixels():
    """Eight different pictures."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3)).astype(np.uint8)


def arguments(folder):
    flags = ('--batch_size', str(BATCH), '--chunk_size', '16', '--max_labels', '7')
    return ('--input', samples.SAMPLE, '--output', folder / 'unused', *flags)


def failing(predictor, when):
    """Lets every compiled function of a model ask `when(pixels)` for an error first."""
    compile_ = predictor._compile

    def compiled(size):
        function = compile_(size)

        def call(pixels):
            error = when(pixels)
            if error is not None:
                raise error
            return function(pixels)

        return call

    predictor._compile = compiled
    predictor._compiled = {}


def same(one, other, slots):
    slots = list(slots)
    return all(np.array_equal(a[slots], b[slots]) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize('guilty', [[0], [7], [3], [2, 3], [0, 5], [1, 3, 5, 7], [0, 1, 2, 3]])
def test_only_the_guilty_are_lost_and_the_bits_of_others_stay(tf, predictor, pixels, guilty):
    healthy = predictor(pixels)
    calls = []

    def when(batch):
        calls.append(batch)
        # Wherever the picture lies: it is the picture that does it.
        hurts = any((batch == pixels[i]).all(axis=(1, 2, 3)).any() for i in guilty)
        return tf.errors.InvalidArgumentError(None, None, 'poison') if hurts else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == dict.fromkeys(guilty, 'InvalidArgumentError')
    assert same(found, healthy, set(range(BATCH)) - set(guilty))
    assert len(calls) <= 1 + 1 + len(guilty) * (2 * 3 + 2)
    # Every call has the whole size, with the pictures in their slots.
    for batch in calls:
        assert batch.shape == pixels.shape
        there = batch.any(axis=(1, 2, 3))
        assert np.array_equal(batch[there], pixels[there])


def test_empty_slots_stay_empty(tf, predictor, pixels):
    sparse = pixels.copy()
    sparse[[1, 2, 6]] = 0
    healthy = predictor(sparse)

    def when(batch):
        return tf.errors.InternalError(None, None, 'x') if batch[4].any() else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, sparse, [0, 3, 4, 5, 7])
    assert lost == {4: 'InternalError'}
    assert same(found, healthy, [0, 3, 5, 7])


@pytest.mark.parametrize('slots', [range(BATCH), [5]])
def test_what_fails_once_is_tried_again(tf, predictor, pixels, slots):
    batch = np.zeros_like(pixels)
    batch[list(slots)] = pixels[list(slots)]
    healthy = predictor(batch)
    errors = [tf.errors.AbortedError(None, None, 'once')]
    failing(predictor, lambda _: errors.pop() if errors else None)
    found, lost = predict_or_rescue(predictor, batch, list(slots))
    assert lost == {}
    assert same(found, healthy, slots)


def test_a_model_that_always_fails_is_not_its_images_fault(tf, predictor, pixels):
    failing(predictor, lambda _: tf.errors.InternalError(None, None, 'the device is lost'))
    with pytest.raises(ModelError, match='also without any image: the device is lost'):
        predict_or_rescue(predictor, pixels, range(BATCH))


@pytest.mark.parametrize('works', range(2, 12))
def test_a_device_that_is_lost_meanwhile_is_no_images_fault(tf, predictor, pixels, works):
    calls = []

    def when(batch):
        calls.append(batch)
        if batch[6].any():
            return tf.errors.InvalidArgumentError(None, None, 'poison')
        return tf.errors.UnavailableError(None, None, 'lost') if len(calls) > works else None

    failing(predictor, when)
    try:
        _, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    except ModelError:
        return
    assert lost == {6: 'InvalidArgumentError'}
    assert len(calls) <= works


def test_out_of_memory_halves_the_calls_from_then_on(tf, predictor, pixels):
    healthy = predictor(pixels)
    sizes = []

    def when(batch):
        sizes.append(len(batch))
        full = len(batch) > 2
        return tf.errors.ResourceExhaustedError(None, None, 'OOM') if full else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == {}
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert predictor.computed['batch_size'] == 2
    assert np.array_equal(found.counts, healthy.counts)
    assert np.abs(found.scores - healthy.scores).max() < 1e-5
    predictor(pixels)
    assert sizes[6:] == [2, 2, 2, 2], 'it is remembered'


def test_calls_of_a_size_that_does_not_divide_the_batch(tf, predictor, pixels):
    healthy = predictor(pixels)
    predictor._call_size = 3
    found = predictor(pixels)
    assert [len(each) for each in found[:3]] == [8, 8, 8]
    assert np.abs(found.scores - healthy.scores).max() < 1e-5


def test_no_memory_for_a_single_image_stops_the_run(tf, predictor, pixels):
    failing(predictor, lambda _: tf.errors.ResourceExhaustedError(None, None, 'OOM'))
    with pytest.raises(ModelError, match='not enough memory for one image: OOM'):
        predict_or_rescue(predictor, pixels, range(BATCH))


def test_other_errors_are_not_taken_for_the_models():
    def broken(_):
        raise KeyError('a mistake of ours')

    with pytest.raises(KeyError):
        predict_or_rescue(broken, np.zeros((2, 4, 4, 3), np.uint8), [0])

    def fails(_):
        raise InferenceError('x')

    with pytest.raises(ModelError):
        predict_or_rescue(fails, np.zeros((2, 4, 4, 3), np.uint8), [0])


# --- the whole job


def run(tmp_path, name, *more):
    flags = (*arguments(tmp_path)[4:], *more)
    output = tmp_path / name
    report = support.label('--input', tmp_path / 'in', '--output', output, '--run_id', name, *flags)
    assert verify(str(output)) == []
    labels = {row['uri']: row['labels'] for row in support.rows(output, 'predictions')}
    return report, labels, support.rows(output, 'dead_letters')


def test_a_poisoned_picture_costs_one_row(tf, predictor, tmp_path):
    paths = samples.write_pictures(tmp_path / 'in', 20)
    _, healthy, before = run(tmp_path, 'healthy')
    poison = support.decode_224(paths[7])

    def when(batch):
        hurts = (batch == poison).all(axis=(1, 2, 3)).any()
        return tf.errors.InvalidArgumentError(None, None, 'poison') if hurts else None

    failing(predictor, when)
    report, labels, dead = run(tmp_path, 'poisoned')
    assert report['balanced']
    assert report['counts']['dead_lettered_by_reason']['model_error'] == 1
    assert healthy.pop(str(paths[7]))
    assert labels == healthy
    (letter,) = [row for row in dead if row['reason'] == 'model_error']
    assert letter['uri'] == str(paths[7])
    assert letter['detail'] == 'the model fails on it: InvalidArgumentError'
    assert (letter['stage'], letter['retryable']) == ('infer', True)
    assert letter['size_bytes'] == paths[7].stat().st_size
    assert len(dead) == len(before) + 1


def test_scores_that_are_not_finite_are_no_labels(tf, predictor, tmp_path):
    paths = samples.write_pictures(tmp_path / 'in', 20)
    _, healthy, _ = run(tmp_path, 'healthy')
    poison = support.decode_224(paths[7])
    compile_ = predictor._compile

    def compiled(size):
        function = compile_(size)

        def call(pixels):
            indices, scores, counts = function(pixels)
            hurt = (pixels == poison).all(axis=(1, 2, 3))
            return indices, tf.where(hurt[:, None], np.nan, scores), tf.where(hurt, -1, counts)

        return call

    predictor._compile, predictor._compiled = compiled, {}
    report, labels, _ = run(tmp_path, 'nan')
    assert report['counts']['dead_lettered_by_reason']['nonfinite_scores'] == 1
    assert healthy.pop(str(paths[7]))
    assert labels == healthy


def test_a_run_that_ran_out_of_memory_says_so(tf, predictor, tmp_path):
    samples.write_pictures(tmp_path / 'in', 20)
    _, healthy, _ = run(tmp_path, 'healthy')
    calls = []

    def when(batch):
        calls.append(len(batch))
        full = len(calls) > 1 and len(batch) > 4
        return tf.errors.ResourceExhaustedError(None, None, 'OOM') if full else None

    failing(predictor, when)
    report, labels, _ = run(tmp_path, 'full')
    assert report['counts']['labeled'] == 20
    assert {way['batch_size'] for way in report['model']['computed']} == {4, 8}
    assert report['metadata']['batch_size'] == '4+8'
    assert labels.keys() == healthy.keys()
    for uri, found in labels.items():
        scores = {label['index']: label['score'] for label in healthy[uri]}
        assert {x['index']: x['score'] for x in found} == pytest.approx(scores, abs=1e-5)


def test_a_model_that_fails_on_every_picture_stops_the_run(tf, predictor, tmp_path):
    samples.write_pictures(tmp_path / 'in', 30)

    def when(batch):
        return tf.errors.InternalError(None, None, 'x') if batch.any() else None

    failing(predictor, when)
    message = r'the first 20 images of this process all failed with model_error'
    with pytest.raises(Exception, match=message):
        run(tmp_path, 'failing')
    report, labels, dead = run(tmp_path, 'regardless', '--fail_fast_after', '0')
    assert not labels
    assert len(dead) == 33
    assert report['balanced']
