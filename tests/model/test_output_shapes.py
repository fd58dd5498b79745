"""SavedModels that give something else than a row an image, always or for certain pictures only.

Each is a real one.  A model that gives its rows in another order is not noticed by their number.
"""

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from pipeline.main import main
from tests.model.test_saved_models import make_predictor, with_card
from tests.support import app
from transforms.core.errors import ModelError
from transforms.core.resources import cpu_count
from transforms.dataset.verify import verify
from transforms.model.rescue import predict_or_rescue
from transforms.model.runtimes.on_tensorflow import import_tensorflow

SIZE_PX = 16
BATCH = 4
GUILTY = 1
CARD = MappingProxyType(
    {
        'resize': {'size_px': SIZE_PX},
        'architecture': None,
        'activation': 'none',
        'batch_size': BATCH,
    }
)


@pytest.fixture(scope='module', autouse=True)
def tf():
    return import_tensorflow(cpu_count())


@pytest.fixture(scope='module')
def pixels():
    """Four pictures, the second of them white."""
    shape = (BATCH, SIZE_PX, SIZE_PX, 3)
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    pixels[GUILTY] = 255
    return pixels


def save(tf, folder, give, **card):
    """A model that gives `give(tf, mean of each channel, whether a picture is white)`."""

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE_PX, SIZE_PX, 3), tf.float32)])
    def call(images):
        means = tf.reduce_mean(images, (1, 2))
        return give(tf, means, tf.reduce_all(means > 0.99, axis=1))

    module = tf.Module()
    module.__call__ = call
    tf.saved_model.save(module, str(folder))
    return with_card(folder, 3, **CARD | card)


def predictor(folder, tmp_path, **options):
    return make_predictor(folder, tmp_path / 'cache', batch_size=BATCH, **options)


@pytest.fixture(scope='module')
def healthy(tf, pixels, tmp_path_factory):
    """What a model that gives the means says of the pictures."""
    folder = tmp_path_factory.mktemp('healthy')
    return predictor(save(tf, folder / 'model', lambda tf, means, white: means), folder)(pixels)


def less(tf, rows, white):
    return tf.boolean_mask(rows, ~white)


def more(tf, rows, white):
    return tf.repeat(rows, tf.where(white, 2, 1), axis=0)


def single(tf, rows, white):
    return tf.cond(tf.reduce_any(white), lambda: rows[:1], lambda: rows)


def fewer_classes(tf, rows, white):
    return tf.cond(tf.reduce_any(white), lambda: rows[:, :2], lambda: rows)


def more_classes(tf, rows, white):
    return tf.cond(tf.reduce_any(white), lambda: tf.tile(rows, (1, 2)), lambda: rows)


def another_rank(tf, rows, white):
    return tf.cond(tf.reduce_any(white), lambda: rows[:, None], lambda: rows)


SHIFTS = {
    less: '(3, 3)',
    more: '(5, 3)',
    single: '(1, 3)',
    fewer_classes: '(4, 2)',
    more_classes: '(4, 6)',
    another_rank: '(4, 1, 3)',
}


# XLA takes its time with each, and pads what is too small if it is not asked for its shape.
@pytest.mark.parametrize(
    ('shift', 'jit'), [*((shift, False) for shift in SHIFTS), (less, True), (fewer_classes, True)]
)
def test_a_picture_that_changes_the_shape_is_lost_and_no_other(
    tf, tmp_path, pixels, healthy, shift, jit
):
    model = predictor(save(tf, tmp_path / 'model', shift), tmp_path, jit=jit)
    found, guilty = predict_or_rescue(model, pixels, range(BATCH))
    shape = f"'logits' of the shape {SHIFTS[shift]} for 4 images, expected (4, 3)"
    assert guilty == {GUILTY: shape}
    others = [i for i in range(BATCH) if i != GUILTY]
    np.testing.assert_array_equal(found.indices[others], healthy.indices[others])
    np.testing.assert_array_equal(found.counts[others], healthy.counts[others])
    tolerance = 1e-6 if jit else 0
    np.testing.assert_allclose(found.scores[others], healthy.scores[others], 0, tolerance)


FEATURES = {
    'a row less': (less, '(3, 3)'),
    'a row more': (more, '(5, 3)'),
    'shorter': (fewer_classes, '(4, 2)'),
}


@pytest.mark.parametrize('case', FEATURES)
@pytest.mark.parametrize('with_labels', [False, True])
def test_features_are_held_against_the_call_as_well(tf, tmp_path, pixels, case, with_labels):
    shift, shape = FEATURES[case]

    def give(tf, means, white):
        features = {'features': shift(tf, means, white)}
        return {'logits': means, **features} if with_labels else features

    card = {} if with_labels else {'labels': None}
    folder = save(tf, tmp_path / 'model', give, **card)
    found, guilty = predict_or_rescue(
        predictor(folder, tmp_path, features=True), pixels, range(BATCH)
    )
    assert guilty == {GUILTY: f"'features' of the shape {shape} for 4 images, expected (4, 3)"}
    others = [i for i in range(BATCH) if i != GUILTY]
    means = pixels.astype(np.float32).mean((1, 2)) / 255
    np.testing.assert_allclose(found.features[others], means[others], atol=1e-3)
    if with_labels:  # nobody asks for the features
        _, guilty = predict_or_rescue(predictor(folder, tmp_path), pixels, range(BATCH))
        assert guilty == {}


def test_rows_that_are_lost_in_one_part_of_a_batch_and_found_in_another(tf, tmp_path, pixels):
    """Smaller calls are put together: each is held against its own size."""

    def give(tf, means, white):
        red = (means[:, 0] > 0.99) & ~white
        return tf.repeat(means, tf.where(white, 0, tf.where(red, 2, 1)), axis=0)

    batch = pixels.copy()
    batch[2] = 255, 0, 0
    model = predictor(save(tf, tmp_path / 'model', give), tmp_path)
    model.images_a_call = 2
    _, guilty = predict_or_rescue(model, batch, range(BATCH))
    assert guilty == {
        slot: f"'logits' of the shape ({rows}, 3) for 2 images, expected (2, 3)"
        for slot, rows in ((GUILTY, 1), (2, 3))
    }


# Where oneDNN allocates, TensorFlow waits for memory: ten seconds in each of nine calls.
@pytest.mark.slow
def test_a_picture_for_which_no_memory_is_enough_is_lost_and_no_other(
    tf, tmp_path, pixels, healthy
):
    def give(tf, means, white):
        values = tf.where(tf.reduce_any(white), tf.constant(2**47, tf.int64), 1)
        return means + 0 * tf.reduce_sum(tf.random.stateless_uniform([values], (1, 2)))

    model = predictor(save(tf, tmp_path / 'model', give), tmp_path)
    found, guilty = predict_or_rescue(model, pixels, range(BATCH))
    assert guilty == {GUILTY: 'not enough memory'}
    assert model.computed['batch_size'] == BATCH
    others = [i for i in range(BATCH) if i != GUILTY]
    np.testing.assert_array_equal(found.scores[others], healthy.scores[others])


def test_what_every_picture_does_is_the_models_fault(tf, tmp_path):
    def give(tf, means, white):
        return tf.boolean_mask(means, tf.reduce_max(means, axis=1) < 0.1)

    folder = save(tf, tmp_path / 'model', give)
    with pytest.raises(ModelError) as caught:
        predictor(folder, tmp_path, canary='finite')
    assert str(caught.value).startswith(
        "the model failed in its first call: 'logits' of the shape (2, 3) for 4 images, expected "
        '(4, 3); a model must give one row per image'
    )


REFUSED = {
    'no rows': (lambda tf, x: x[:, 0], 'of the shape (4,) for 4 images'),
    'maps': (lambda tf, x: x[:, None, None], 'of the shape (4, 1, 1, 3) for 4 images'),
    'a single row': (lambda tf, x: x[:1], 'of the shape (1, 3) for 4 images'),
    'empty rows': (lambda tf, x: x[:, :0], 'of the shape (4, 0) for 4 images'),
    'two rows an image': (
        lambda tf, x: tf.repeat(x, 2, axis=0),
        'of the shape (8, 3) for 4 images',
    ),
    'none of black ones': (
        lambda tf, x: tf.boolean_mask(x, x[:, 0] > 0),
        'of the shape (0, 3) for 4 images',
    ),
    'ragged': (lambda tf, x: tf.RaggedTensor.from_tensor(x), 'as RaggedTensor'),
    'sparse': (lambda tf, x: tf.sparse.from_dense(x), 'as SparseTensor'),
    'text': (lambda tf, x: tf.strings.as_string(x), 'as (4, 3) string'),
    'complex': (lambda tf, x: tf.cast(x, tf.complex64), 'as (4, 3) complex64'),
    'nested': (lambda tf, x: {'logits': {'a': x}}, 'as dict'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_outputs_of_another_form_are_refused_by_name(tf, tmp_path, case):
    give, wrong = REFUSED[case]
    folder = save(tf, tmp_path / 'model', lambda tf, means, white: give(tf, means))
    with pytest.raises(ModelError) as caught:
        predictor(folder, tmp_path)
    assert f"the SavedModel gives 'logits' {wrong}, expected" in str(caught.value)


def test_an_output_is_told_by_the_name_that_its_card_has(tf, tmp_path, pixels):
    folder = save(
        tf,
        tmp_path / 'model',
        lambda tf, means, white: {'a': less(tf, means, white), 'b': means},
        output='a',
    )
    _, guilty = predict_or_rescue(predictor(folder, tmp_path), pixels, range(BATCH))
    assert guilty == {GUILTY: "'a' of the shape (3, 3) for 4 images, expected (4, 3)"}


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64', 'int32', 'uint8', 'bool'])
def test_numbers_of_any_type_will_do(tf, tmp_path, pixels, dtype):
    folder = save(tf, tmp_path / 'model', lambda tf, means, white: tf.cast(9 * means, dtype))
    found = predictor(folder, tmp_path)(pixels)
    assert found.scores.dtype == np.float32
    expected = {'bool': 1}.get(dtype, 9)
    np.testing.assert_array_equal(found.scores[GUILTY], [expected] * 3)


# --- the whole job


@pytest.fixture(scope='module')
def pictures(pixels, tmp_path_factory):
    """Six of them in a folder, the second one white."""
    folder = tmp_path_factory.mktemp('pictures')
    more = np.random.default_rng(1).integers(0, 200, (2, *pixels.shape[1:])).astype(np.uint8)
    for i, each in enumerate([*pixels, *more]):
        Image.fromarray(each).save(folder / f'{i}.png')
    return folder


def test_no_picture_has_the_labels_of_another_one(tf, tmp_path, pictures):
    folder = save(tf, tmp_path / 'shifted', less)
    arguments = ('--input', pictures, '--max_failure_rate', 1, '--threshold', 0)
    output = tmp_path / 'out'
    done = app.invoke('label', *arguments, '--output', output, '--model', folder)
    assert done.returncode == 0, done.stderr
    assert verify(str(output)) == []
    found = {
        Path(row['uri']).name: {label['name']: label['score'] for label in row['labels']}
        for row in app.rows(output, 'predictions')
    }
    # Each has its own mean of each channel.
    assert found.keys() == {f'{i}.png' for i in range(6) if i != GUILTY}
    for name, scores in found.items():
        with Image.open(pictures / name) as picture:
            means = np.asarray(picture).mean((0, 1)) / 255
        assert scores == pytest.approx({f'thing {i}': mean for i, mean in enumerate(means)})
    assert len({json.dumps(scores) for scores in found.values()}) == 5
    white = str(pictures / f'{GUILTY}.png')
    (letter,) = app.rows(output, 'dead_letters')
    assert (letter['uri'], letter['stage'], letter['reason']) == (white, 'infer', 'model_error')
    assert letter['detail'] == (
        "the model failed on it: 'logits' of the shape (3, 3) for 4 images, expected (4, 3)"
    )


def test_models_check_says_so_of_the_picture_that_it_is_given(tf, tmp_path, pictures, capsys):
    folder = save(tf, tmp_path / 'model', less)
    check = ['models', '--json', '--check', str(folder), '--image']
    assert main([*check, str(pictures / '0.png')]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['picture'] == str(pictures / '0.png')
    assert found['computed']['device'] == 'CPU'
    assert found['classes_seen'][0].keys() == {'index', 'wnid', 'name', 'score', 'is_label'}
    assert main([*check, str(pictures / '1.png')]) == 1
    assert (
        "lemmabeam: the model fails on this picture: 'logits' of the shape (3, 3) for 4 images"
        in capsys.readouterr().err
    )
