"""BiT modules in every form that was ever seen or is likely: built anew, and proven by numbers.

What names and orders say by themselves is in test_recognition.
"""

import functools
import json
import os
import re
import shutil

import numpy as np
import pytest

from tests.data.bit_reference import synthetic_weights
from transforms.core.errors import ModelError
from transforms.core.resources import cpu_count
from transforms.model.choices import JAX, TENSORFLOW
from transforms.model.families import bit
from transforms.model.families.base import NotRebuiltError
from transforms.model.families.bit.checkpoint import Architecture, layout
from transforms.model.families.bit.known import bit_card
from transforms.model.resolve import resolve_model
from transforms.model.runtimes.on_jax import Jax
from transforms.model.runtimes.on_tensorflow import TensorFlow, import_tensorflow

CLASSES = 100
BUILT, SAVED = 'built from its weights', 'as it was saved'


@pytest.fixture(scope='module', autouse=True)
def tf():
    return import_tensorflow(cpu_count())


@pytest.fixture(scope='module')
def weights():
    return synthetic_weights.make_weights('R14x1', 0, CLASSES)


@pytest.fixture(scope='module')
def pictures():
    chance = np.random.Generator(np.random.PCG64(1))
    return chance.integers(0, 256, (2, 64, 64, 3)).astype(np.float32)


def beta_first(weights):
    """In another order."""
    return dict(sorted(weights.items(), key=lambda pair: pair[0]))


def gamma_first(weights):
    names = list(weights)
    swapped = [
        name.replace('beta', 'gamma') if name.endswith('beta') else name.replace('gamma', 'beta')
        for name in names
    ]
    return {name: weights[name] for name in swapped}


def nothing(_):
    return None


def module(make=dict, rename=str, taken=(0.0, 1.0)):
    def write(weights, depth, folder):
        from tests.support.published import PublishedModule, save

        save(PublishedModule(make(weights), depth, rename=rename, taken=taken), folder)

    return write


def dense(weights):
    from tests.support import published

    return published.dense(weights)


def tensorflow_1(weights, depth, folder):
    from tests.support import published

    published.save_as_tensorflow_1(weights, depth, folder)


def keras(weights, depth, folder):
    from tests.support import published

    published.save_as_keras(weights, depth, folder)


def numbered(name):
    return name.removeprefix('resnet/').replace('conv2d/', 'conv2d_17/').replace('norm/', 'norm_3/')


FORMS = {
    'official': module(),
    'dense head': module(dense, lambda name: name.replace('head/conv2d', 'head/dense')),
    'second model': module(rename=lambda name: name.replace('resnet/', 'resnet_1/')),
    'numbered': module(rename=numbered),
    'nameless': module(gamma_first, nothing),
    'nameless, beta first': module(rename=nothing, taken=(0.0, 255.0)),
    'from -1 to 1': module(taken=(-1.0, 1.0)),
    'from 0 to 255': module(taken=(0.0, 255.0)),
    'Keras': keras,
    'TensorFlow 1': tensorflow_1,
}


def source_of(folder, architecture='R14x1', **changes):
    card = bit_card('m', Architecture(14, 1), '', value_range=(0.0, 1.0))
    changes = {'labels': 'labels.txt', 'threshold': 0.0, 'activation': 'softmax'} | changes
    written = card.to_dict() | {'architecture': architecture} | changes
    written['resize']['size_px'] = 64
    (folder / 'labels.txt').write_text(''.join(f'class {i}\n' for i in range(CLASSES)))
    (folder / 'model_card.json').write_text(json.dumps(written))
    return resolve_model(str(folder), cache=str(folder / 'cache'))


def load(source, backend=TENSORFLOW, **options):
    from transforms.model.load import load_network

    runtime = TensorFlow(cpu_count(), require_gpu=False)
    if backend == JAX:  # all that is asked of it here
        runtime.load_as_saved = functools.partial(Jax.load_as_saved, runtime)
    return load_network(source, 'float32', 2, False, runtime, may_be_float32=True, **options)


def logits_of(network, pictures):
    return np.asarray(network.call((pictures - network.mean) / network.std)[0])


def own_answer(tf, folder, pictures, taken):
    """Of what was saved, called as its maker would."""
    loaded = tf.saved_model.load(str(folder))
    low, high = taken
    images = tf.constant(pictures / 255 * (high - low) + low)
    if callable(loaded):
        return np.asarray(loaded(images))
    (found,) = loaded.signatures['serving_default'](images=images).values()
    return np.asarray(found)


TAKEN = {
    'from -1 to 1': (-1.0, 1.0),
    'from 0 to 255': (0.0, 255.0),
    'nameless, beta first': (0.0, 255.0),
}


# What the others add is a name or an order, which test_recognition looks at.  An official one is
# below, with other means; one of these takes numbers up to 255.
QUICK = ('nameless, beta first',)


@pytest.mark.parametrize(
    ('form', 'architecture'),
    [
        *((form, 'R14x1') for form in QUICK),
        # A hundred megabytes are written and read for each.
        *(pytest.param(form, 'R50x1', marks=pytest.mark.slow) for form in FORMS),
    ],
)
def test_it_is_rebuilt_and_gives_what_the_module_gives(tf, pictures, form, architecture, tmp_path):
    folder = tmp_path / 'module'
    depth = Architecture.parse(architecture).depth
    FORMS[form](synthetic_weights.make_weights(architecture, 0, CLASSES), depth, folder)
    expected = own_answer(tf, folder, pictures, TAKEN.get(form, (0.0, 1.0)))
    # Whatever range the card says.
    network = load(source_of(folder, architecture))
    assert (network.route, network.why_saved) == (BUILT, '')
    np.testing.assert_allclose(logits_of(network, pictures), expected, rtol=0, atol=1e-3)


@pytest.fixture(scope='module')
def published(weights):
    from tests.support.published import PublishedModule

    return PublishedModule(weights, 14)


@pytest.fixture(scope='module')
def written(published, tmp_path_factory):
    from tests.support.published import save

    folder = tmp_path_factory.mktemp('written') / 'module'
    save(published, folder)
    return folder


@pytest.fixture
def official(written, tmp_path):
    """A module as it is published, whose card a test may write."""
    return shutil.copytree(written, tmp_path / 'module', copy_function=os.link)


def other(weights, depth, folder):
    """Somebody who keeps the same tensors, and computes something else."""
    from tests.support.published import PublishedModule, save

    class Other(PublishedModule):
        @property
        def _compute(self):
            return lambda images: -self._theirs(images)

        @_compute.setter
        def _compute(self, computation):
            self._theirs = computation

    save(Other(weights, depth), folder)


def test_one_that_computes_something_else_is_used_as_it_is(tf, weights, pictures, tmp_path):
    folder = tmp_path / 'module'
    other(weights, 14, folder)
    network = load(source_of(folder))
    assert network.route == SAVED
    assert 'the network built from its tensors gives other outputs' in network.why_saved
    expected = own_answer(tf, folder, pictures, (0.0, 1.0))
    np.testing.assert_allclose(logits_of(network, pictures), expected, rtol=0, atol=1e-5)
    refuse_as_found(network.why_saved, source_of(folder))


def refuse_as_found(why_saved, source):
    """Asks for a network that is built, where it was found out already why there is none."""

    def build(*_):
        raise NotRebuiltError(why_saved)

    message = f'--require_rebuilt: m is used as it was saved: {re.escape(why_saved)}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bit, 'build', build)
        with pytest.raises(ModelError, match=message):
            load(source, must_be_rebuilt=True)
        alone = f'--backend jax: the SavedModel m is used as it was saved ({why_saved}), which only'
        with pytest.raises(ModelError, match=re.escape(alone)):
            load(source, backend=JAX)


# Nobody publishes such a module; a whole network is built for it.
@pytest.mark.slow
def test_numbers_that_are_none_prove_nothing(weights, tmp_path):
    broken = {name: np.full_like(value, np.nan) for name, value in weights.items()}
    FORMS['official'](broken, 14, tmp_path / 'module')
    network = load(source_of(tmp_path / 'module'))
    assert network.route == SAVED
    assert 'its outputs are not numbers' in network.why_saved


def test_tensors_of_another_architecture_are_named(official):
    source = source_of(official, 'R50x1')
    lacking = "lacks the tensor 'resnet/block1/unit02/a/group_norm/beta'"
    with pytest.raises(NotRebuiltError, match=lacking):
        bit.build(source, source.path(), 'float32', 2)


# That both are candidates, in which order, is in test_recognition; several are tried here for what
# has no names.
@pytest.mark.slow
def test_of_two_that_agree_the_first_is_taken(tf, weights, pictures, tmp_path):
    twins = {**weights, **{f'ema/{name}': value for name, value in weights.items()}}
    FORMS['official'](twins, 14, tmp_path / 'module')
    network = load(source_of(tmp_path / 'module'))
    assert network.route == BUILT


def test_what_was_proven_in_this_process_is_not_proven_again(official, pictures):
    """As for a precision receipt; the bytes of the SavedModel are what it is known by."""
    from transforms.model.families.bit import rebuild

    first = load(source_of(official))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild, '_answers', None)
        again = load(source_of(official))
    assert (again.route, again.why_saved) == (BUILT, '')
    np.testing.assert_array_equal(logits_of(again, pictures), logits_of(first, pictures))


def test_of_each_further_candidate_only_what_differs_is_set(monkeypatch):
    from transforms.model.families.bit import rebuild
    from transforms.model.saved_model import Variables

    set_anew = []
    monkeypatch.setattr(rebuild.resnet, 'build', lambda *_: 'a network')
    monkeypatch.setattr(rebuild.resnet, 'assign', lambda *given: set_anew.append(given))
    one = {name: name for name in layout(Architecture(14, 1), CLASSES)}
    gamma, beta, *_ = (name for name in one if 'group_norm' in name)
    other = {**one, gamma: beta, beta: gamma}
    variables = Variables([], None, one.__getitem__)
    candidates = [one, other, one]
    made = [*rebuild._networks(candidates, variables, Architecture(14, 1), CLASSES)]
    assert made == ['a network'] * 3
    assert [names for *_, names in set_anew] == [{gamma, beta}] * 2
    assert [dict(weights._keys) for _, weights, _ in set_anew] == candidates[1:]


def test_a_graph_that_takes_one_size_of_whole_numbers_is_asked_in_those(tf, tmp_path):
    from transforms.model.families.bit import rebuild

    call = tf.function(
        lambda images: tf.reduce_mean(tf.cast(images, tf.float32), (1, 2)),
        input_signature=[tf.TensorSpec((2, 64, 64, 3), tf.uint8, 'images')],
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / 'm'), signatures={'serving_default': call})
    noise, answers = rebuild._answers(tmp_path / 'm', source_of(tmp_path / 'm').card, 2)
    assert noise.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(answers[0.0, 255.0], 255 * noise.mean((1, 2)), rtol=1e-5)


# A whole network is built for each; how such a graph is asked is above, and a network that takes
# numbers up to 255 is above as well.
@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 64, 64, 3), (None, 64, 64, 3)])
def test_a_graph_that_takes_one_size_of_whole_numbers(tf, weights, pictures, shape, tmp_path):
    from tests.support.published import Computation, PublishedModule

    module = PublishedModule(weights, 14)
    compute = Computation(module._compute.tensors, 14)
    call = tf.function(
        lambda images: compute(tf.cast(images, tf.float32) / 127.5 - 1.0),
        input_signature=[tf.TensorSpec(shape, tf.uint8, 'images')],
        autograph=False,
    )
    plain = tf.Module()
    plain.kept = module._listed
    tf.saved_model.save(plain, str(tmp_path / 'm'), signatures={'serving_default': call})
    network = load(source_of(tmp_path / 'm'))
    assert network.route == BUILT
    expected = np.asarray(call(tf.cast(pictures, tf.uint8)))
    np.testing.assert_allclose(logits_of(network, pictures), expected, rtol=0, atol=1e-3)


def test_a_normalization_of_its_own_is_obeyed(tf, official, published, pictures):
    mean, std = [120.0, 110.0, 100.0], [60.0, 58.0, 57.0]
    network = load(source_of(official, mean=mean, std=std))
    assert network.route == BUILT
    images = tf.constant((pictures - mean) / std, tf.float32)
    expected = np.asarray(published(images))
    np.testing.assert_allclose(logits_of(network, pictures), expected, rtol=0, atol=1e-3)


# A card that lacks a field; whole networks are loaded for it.
@pytest.mark.slow
def test_without_an_architecture_its_range_is_looked_at_nonetheless(official):
    network = load(source_of(official, architecture=''))
    assert network.route == SAVED
    assert 'add "architecture": "R14x1"' in network.why_saved
    wrong = source_of(official, mean=127.5, std=127.5, architecture='')
    with pytest.raises(ModelError, match=r'from \[-1, 1\], but its graph takes \[0, 1\]'):
        load(wrong)
