"""A model that fails on command, by what TensorFlow itself would raise; the rest is real.

What is not checked here: that a GPU really runs out of memory.
"""

import numpy as np
import pytest

from tests.support import app, samples
from transforms.core.elements import Batch, Chunk, Failure, Image, Item, Stage
from transforms.core.errors import ModelError
from transforms.core.fail_fast import FailFast
from transforms.core.reasons import Reason
from transforms.dataset.verify import verify
from transforms.images.decode import decode
from transforms.label import ImageModelHandler, LazyPredictor, label_batch
from transforms.model.device import Devices
from transforms.model.rescue import predict_or_rescue

BATCH = 8
SIZE_PX = 64
FLAGS = ('--batch_size', BATCH, '--chunk_size', 16, '--max_labels', 7, '--model_size', SIZE_PX)
FLAGS += ('--min_labels', 1, '--canary', 'finite')


@pytest.fixture(scope='module')
def shared_predictor():
    """The embedded model as the pipeline shares it, compiled once for each number of images."""
    config, _ = app.make_config('--input', samples.SAMPLE, '--output', '/nowhere', *FLAGS)
    found = app.predictor(config)
    compile_, compiled = found._compile, dict(found._compiled)

    def compile_once(size):
        if size not in compiled:
            compiled[size] = compile_(size)
        return compiled[size]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, '_compile', compile_once)
        yield found


@pytest.fixture
def predictor(shared_predictor):
    """What a test does to it is undone."""
    found = shared_predictor
    before = found.images_a_call, found._compiled, found._compile
    yield found
    found.images_a_call, found._compiled, found._compile = before


@pytest.fixture(scope='module')
def tf(shared_predictor):
    import tensorflow

    return tensorflow


@pytest.fixture(scope='module')
def pixels():
    """Eight different pictures."""
    shape = (BATCH, SIZE_PX, SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def failing(predictor, when, change=lambda pixels, outputs: outputs):
    """Lets every compiled function of a model ask `when(pixels)` for an error first."""
    compile_ = predictor._compile

    def compiled(size):
        function = compile_(size)

        def call(pixels):
            error = when(pixels)
            if error is not None:
                raise error
            return change(pixels, function(pixels))

        return call

    predictor._compile = compiled
    predictor._compiled = {}


def same(one, other, slots):
    slots = list(slots)
    return all(np.array_equal(a[slots], b[slots]) for a, b in zip(one[:3], other[:3], strict=True))


def test_only_the_guilty_are_lost_and_the_bits_of_others_stay(tf, predictor, pixels):
    healthy = predictor(pixels)
    assert len(set(healthy.scores[:, 0].tolist())) == BATCH
    guilty = [2, 7]

    def when(batch):
        hurts = any((batch == pixels[i]).all(axis=(1, 2, 3)).any() for i in guilty)
        return tf.errors.InvalidArgumentError(None, None, 'poison') if hurts else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == dict.fromkeys(guilty, 'InvalidArgumentError')
    assert same(found, healthy, set(range(BATCH)) - set(guilty))


def test_what_fails_once_is_tried_again(tf, predictor, pixels):
    healthy = predictor(pixels)
    errors = [tf.errors.AbortedError(None, None, 'once')]
    failing(predictor, lambda _: errors.pop() if errors else None)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == {}
    assert same(found, healthy, range(BATCH))


def test_a_fault_of_the_program_is_none_of_the_model(predictor, pixels):
    failing(predictor, lambda _: ValueError('a typing mistake'))
    with pytest.raises(ValueError, match='a typing mistake'):
        predictor(pixels)


OTHER_SIZE = {
    'traced': lambda tf: ValueError('expected 8 images'),
    'run': lambda tf: tf.errors.InvalidArgumentError(None, None, 'expected 8 images'),
}
"""What a SavedModel of a fixed batch size says of another one, and when."""


@pytest.mark.parametrize('is_noticed', OTHER_SIZE)
def test_a_model_of_one_batch_size_that_has_too_little_memory(tf, predictor, pixels, is_noticed):
    def when(batch):
        if len(batch) == BATCH:
            return tf.errors.ResourceExhaustedError(None, None, 'full')
        return OTHER_SIZE[is_noticed](tf)

    failing(predictor, when)
    message = (
        f'without any image: .* not have enough memory for {BATCH} images .* lower --batch_size'
    )
    with pytest.raises(ModelError, match=message):
        predict_or_rescue(predictor, pixels, range(BATCH))


def test_a_model_that_always_fails_is_not_its_images_fault(tf, predictor, pixels):
    failing(predictor, lambda _: tf.errors.InternalError(None, None, 'the device is lost'))
    with pytest.raises(ModelError, match='even without any image: the device is lost'):
        predict_or_rescue(predictor, pixels, range(BATCH))


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


def test_calls_of_a_size_that_does_not_divide_the_batch(predictor, pixels):
    healthy = predictor(pixels)
    predictor.images_a_call = 3
    found = predictor(pixels)
    assert [len(each) for each in found[:3]] == [8, 8, 8]
    assert np.abs(found.scores - healthy.scores).max() < 1e-5


def test_no_memory_for_a_single_image_stops_the_run(tf, predictor, pixels):
    failing(predictor, lambda _: tf.errors.ResourceExhaustedError(None, None, 'OOM'))
    with pytest.raises(ModelError, match='not have enough memory for one image: OOM'):
        predict_or_rescue(predictor, pixels, range(BATCH))


@pytest.mark.parametrize('other_size', [None, *OTHER_SIZE])
def test_a_picture_that_no_memory_is_enough_for_is_named(tf, predictor, pixels, other_size):
    healthy = predictor(pixels)
    guilty = [2, 5]

    def when(batch):
        if any((batch == pixels[i]).all(axis=(1, 2, 3)).any() for i in guilty):
            return tf.errors.ResourceExhaustedError(None, None, 'OOM')
        return OTHER_SIZE[other_size](tf) if other_size and len(batch) < BATCH else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == dict.fromkeys(guilty, 'not enough memory')
    assert same(found, healthy, set(range(BATCH)) - set(guilty))
    assert predictor.computed['batch_size'] == BATCH, 'others pay nothing for it'


def test_it_is_named_also_where_calls_must_get_smaller(tf, predictor, pixels):
    healthy = predictor(pixels)

    def when(batch):
        is_full = len(batch) > 2 or (batch == pixels[3]).all(axis=(1, 2, 3)).any()
        return tf.errors.ResourceExhaustedError(None, None, 'OOM') if is_full else None

    failing(predictor, when)
    found, lost = predict_or_rescue(predictor, pixels, range(BATCH))
    assert lost == {3: 'not enough memory'}
    assert predictor.computed['batch_size'] == 2
    others = [i for i in range(BATCH) if i != 3]
    assert np.abs(found.scores - healthy.scores)[others].max() < 1e-5


def test_a_call_that_does_not_come_back_is_told_with_its_batch(predictor, pixels, caplog):
    now, looks = [0.0], []

    def when(_):
        now[0] += 300
        looks[0]()

    failing(predictor, when)
    items = [Item(f'gs://b/{i}.jpg', '1', 1, ()) for i in range(3 * BATCH)]
    image = Image('1', 'x', 1, 1, 'JPEG', 1)
    dead = Failure(Stage.FETCH, Reason.EMPTY, '', 0)
    outcomes = [dead, *[image] * 5, dead, dead]
    batch = Batch(Chunk('c0ffee', items), BATCH, outcomes, pixels, {})
    devices = Devices('mine-1234', 1, lambda: now[0], looks.append)
    label_batch(batch, LazyPredictor(predictor.options, devices))
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert record.message.startswith(
        'the model mine-1234 has not returned for 300 s on 5 images of the chunk c0ffee, '
        'from gs://b/9.jpg to gs://b/13.jpg. '
    )


# --- the whole job


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    return samples.write_pictures(tmp_path_factory.mktemp('pictures') / 'in', 20)


def run(paths, folder, *more):
    """Report, labels by URI, and dead letters of a run that is as it should be."""
    output = folder / 'out'
    report = app.label('--input', paths[0].parent, '--output', output, *FLAGS, *more)
    assert verify(str(output)) == []
    labels = {row['uri']: row['labels'] for row in app.rows(output, 'predictions')}
    return report, labels, app.rows(output, 'dead_letters')


@pytest.fixture(scope='module')
def healthy(shared_predictor, paths, tmp_path_factory):
    """Labels and dead letters of a run without faults."""
    _, labels, dead = run(paths, tmp_path_factory.mktemp('healthy'))
    return labels, dead


def test_a_poisoned_picture_costs_one_row_and_so_do_undefined_scores(
    tf, predictor, paths, healthy, tmp_path
):
    labels_before, dead_before = healthy
    poison, undefined = (
        decode(path.read_bytes(), predictor.options.model.card.resize)
        for path in (paths[7], paths[12])
    )

    def when(batch):
        hurts = (batch == poison).all(axis=(1, 2, 3)).any()
        return tf.errors.InvalidArgumentError(None, None, 'poison') if hurts else None

    def change(batch, outputs):
        indices, scores, counts = outputs
        hurt = (batch == undefined).all(axis=(1, 2, 3))
        return indices, tf.where(hurt[:, None], np.nan, scores), tf.where(hurt, -1, counts)

    failing(predictor, when, change)
    report, labels, dead = run(paths, tmp_path)
    assert report['balanced']
    assert report['counts']['dead_lettered_by_reason']['model_error'] == 1
    assert report['counts']['dead_lettered_by_reason']['nonfinite_scores'] == 1
    lost = {str(paths[7]), str(paths[12])}
    assert all(labels_before[uri] for uri in lost)
    assert labels == {uri: found for uri, found in labels_before.items() if uri not in lost}
    (letter,) = [row for row in dead if row['reason'] == 'model_error']
    assert letter['uri'] == str(paths[7])
    assert letter['detail'] == 'the model failed on it: InvalidArgumentError'
    assert (letter['stage'], letter['retryable']) == ('infer', True)
    assert letter['size_bytes'] == paths[7].stat().st_size
    (letter,) = [row for row in dead if row['reason'] == 'nonfinite_scores']
    assert letter['uri'] == str(paths[12])
    assert len(dead) == len(dead_before) + 2


def test_a_run_that_ran_out_of_memory_says_so(tf, predictor, paths, healthy, tmp_path):
    labels_before, _ = healthy
    calls = []

    def when(batch):
        calls.append(len(batch))
        full = len(calls) > 1 and len(batch) > 4
        return tf.errors.ResourceExhaustedError(None, None, 'OOM') if full else None

    failing(predictor, when)
    report, labels, _ = run(paths, tmp_path)
    assert report['counts']['labeled'] == 20
    assert {way['batch_size'] for way in report['model']['computed']} == {4, 8}
    assert report['metadata']['batch_size'] == '4+8'
    assert labels.keys() == labels_before.keys()
    for uri, found in labels.items():
        scores = {label['index']: label['score'] for label in labels_before[uri]}
        assert {x['index']: x['score'] for x in found} == pytest.approx(scores, abs=1e-5)


def test_a_model_that_fails_on_every_picture_stops_the_run(tf, predictor, pixels, paths, tmp_path):
    def when(batch):
        return tf.errors.InternalError(None, None, 'x') if batch.any() else None

    failing(predictor, when)
    # By way of the stage alone: that its error ends a run is seen of those of stores.
    stage = ImageModelHandler(predictor.options, FailFast(20, 'run'))
    items = [Item(f'gs://b/{i}.jpg', '1', 1, ()) for i in range(3 * BATCH)]
    outcomes = [Image('1', 'x', 1, 1, 'JPEG', 1)] * BATCH
    batches = [
        Batch(Chunk('c', items), start, list(outcomes), pixels, {})
        for start in range(0, len(items), BATCH)
    ]
    model = stage.load_model()
    for batch in batches[:2]:
        labeled = stage.run_inference([batch], model)[0].result()
        assert {outcome.reason for outcome in labeled.outcomes} == {Reason.MODEL_ERROR}
    message = r'the first 20 images of this process all failed with model_error'
    with pytest.raises(ModelError, match=message):
        stage.run_inference(batches[2:], model)[0].result()
    report, labels, dead = run(paths, tmp_path, '--fail_fast_after', '0')
    assert not labels
    assert len(dead) == 23
    assert report['balanced']
