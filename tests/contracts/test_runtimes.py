"""What each runtime does alike: TensorFlow and ONNX Runtime in this process, JAX in one of its own,
as Keras has one backend a process.

What is not checked here: accelerators, and that one really runs out of memory; errors of the
runtimes themselves in a whole run (test_failing_model), and SavedModels (test_saved_models).
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.contracts import test_families as families
from tests.data.bit_reference import synthetic_weights
from tests.support import onnx_models, samples
from transforms.core.errors import InferenceError, ModelError
from transforms.core.resources import cpu_count
from transforms.images.decode import decode
from transforms.model import registry
from transforms.model.choices import (
    BACKEND_NAMES,
    EMBEDDED,
    JAX,
    OFF,
    ONNX_RUNTIME,
    STRICT,
    TENSORFLOW,
)
from transforms.model.predictor import InferenceOptions, Prediction, Predictor
from transforms.model.rescue import predict_or_rescue
from transforms.model.resolve import ModelSource, resolve_model
from transforms.model.runtimes import choose
from transforms.model.runtimes.base import Fault, Runtime
from transforms.model.tensor_files import Kind

Call = Callable[..., Any]
"""Calls a function of a module with these arguments in the process of a runtime."""

BATCH = 8
SIDE_PX = families.CARD.resize.size_px
COLOURS = (100, 200, 300)
PICTURES = ('cat', 'coffee', 'cameraman', 'rocket', 'scooter', 'temple')
BEST = ('tiger cat', 'espresso', 'tripod', 'missile', 'moped', 'palace')
"""What is best to see in them; no network was trained on these pictures."""
REFERENCE = Path(synthetic_weights.__file__).with_name('r14x1.npz')


# --- called in the process of a runtime


def set_variables(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def some_source(backend: str) -> ModelSource:
    """A model that the backend computes; it is not loaded."""
    source = resolve_model(EMBEDDED)
    return dataclasses.replace(source, kind=Kind.ONNX) if backend == ONNX_RUNTIME else source


def start(backend: str) -> Runtime:
    return choose.start(backend, some_source(backend), cpu_count(), require_gpu=False)


def native_error(backend: str, name: str, text: str = 'on command') -> Exception:
    """An error as the runtime raises it, by the name of its kind."""
    start(backend)
    if backend == TENSORFLOW:
        import tensorflow as tf

        of_tensorflow: Exception = getattr(tf.errors, name)(None, None, text)
        return of_tensorflow
    if backend == ONNX_RUNTIME:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        if name == 'ResourceExhaustedError':
            text = f'Failed to allocate memory for requested buffer of size 1: {text}'
        own = {'InvalidArgumentError': 'InvalidArgument'}.get(name, 'RuntimeException')
        of_onnx_runtime: Exception = getattr(state, own)(text)
        return of_onnx_runtime
    import jax

    words = ''.join(f'_{letter}' if letter.isupper() else letter for letter in name)
    status = words.strip('_').removesuffix('_Error').upper()
    of_jax: Exception = jax.errors.JaxRuntimeError(f'{status}: {text}')
    return of_jax


def faults(backend: str) -> list[Fault | None]:
    runtime = start(backend)
    return [
        runtime.fault(native_error(backend, 'ResourceExhaustedError')),
        runtime.fault(native_error(backend, 'InternalError', 'the device is lost')),
        runtime.fault(native_error(backend, 'InvalidArgumentError')),
        runtime.fault(ValueError('a typing mistake')),
        runtime.fault(InferenceError('of ours')),
    ]


def fault_of_too_much(backend: str) -> Fault | None:
    """What is told of an array that no machine has the memory for."""
    runtime = start(backend)
    from keras import ops

    try:
        np.asarray(ops.zeros((2**46,), 'float32'))
    except Exception as e:  # noqa: BLE001 (which one is the question)
        return runtime.fault(e)
    raise AssertionError('there was memory for it')


def eigen_threads(backend: str) -> int:
    """How many threads there are that compute a part of an operation."""
    start(backend)
    tasks = Path('/proc/self/task').glob('*/comm')
    return sum(task.read_text().strip() == 'tf_XLAEigen' for task in tasks)


def colour(backend: str, path: Path, card: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A predictor of the network that sees the colour of a picture."""
    values: dict[str, Any] = {'batch_size': BATCH, 'threshold': 0.5, 'max_labels': 3}
    values |= {'min_labels': 0, 'intra_op_threads': cpu_count(), 'canary': OFF, 'backend': backend}
    with mock.patch.dict(registry.FAMILIES, colour=families.Colour(path)):
        source = resolve_model(str(path))
        if card:
            source = dataclasses.replace(source, card=source.card.with_changes(**card))
        return Predictor(InferenceOptions(source, **(values | changes)))


def predicted(backend: str, path: Path, pixels: np.ndarray, **options: Any) -> tuple[Any, Any]:
    predictor = colour(backend, path, **options)
    return predictor(pixels), predictor.computed


def failing(
    backend: str,
    path: Path,
    pixels: np.ndarray,
    most: int = BATCH,
    poison: np.ndarray | None = None,
    broken: str = '',
) -> tuple[list[Prediction], dict[int, str], list[int], int]:
    """What becomes of a batch, and of the next one.

    Args:
      most: so many images fit into memory.
      poison: a picture on which the network fails.
      broken: what it says of any batch, as an `InternalError`.

    Returns:
      Both predictions, the guilty ones of the first, the sizes of all calls, and images a call.
    """
    predictor = colour(backend, path)
    compile_, sizes = predictor._compile, []

    def compiled(size: int) -> Any:
        function = compile_(size)

        def call(part: np.ndarray) -> Any:
            sizes.append(len(part))
            if broken:
                raise native_error(backend, 'InternalError', broken)
            if len(part) > most:
                raise native_error(backend, 'ResourceExhaustedError')
            if poison is not None and (part == poison).all(axis=(1, 2, 3)).any():
                raise native_error(backend, 'InvalidArgumentError')
            return function(part)

        return call

    predictor._compile, predictor._compiled = compiled, {}
    first, guilty = predict_or_rescue(predictor, pixels, range(BATCH))
    second, _ = predict_or_rescue(predictor, pixels, range(BATCH))
    return [first, second], guilty, sizes, predictor.images_a_call


def without_classes(backend: str, pixels: np.ndarray) -> list[np.ndarray]:
    """What a network gives that has features only."""
    runtime = start(backend)
    import keras

    from transforms.model.load import BUILT, Network, Output

    images = keras.Input((SIDE_PX, SIDE_PX, 3))
    whole = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    network = Network(
        lambda images: (None, whole(images, training=False)),
        *(None, Output('features', 3), 0.0, 255.0, False, 'float32', BUILT, '', whole),
    )
    return list(runtime.compile(network, pixels.shape, _no_label, jit=False)(pixels))


def _no_label(_: Any) -> Any:
    raise AssertionError('there is nothing to make labels of')


def seen(
    backend: str, pixels: np.ndarray, model: str = EMBEDDED
) -> tuple[Prediction, dict[str, Any]]:
    """What the embedded model sees in pictures, after its canary."""
    options = InferenceOptions(
        *(resolve_model(model), len(pixels), 0.05, 5, 0, cpu_count()),
        canary=STRICT,
        backend=backend,
        features=True,
    )
    predictor = Predictor(options)
    return predictor(pixels), predictor.computed


def logits_of_reference(backend: str, path: Path, precision: str, images: np.ndarray) -> np.ndarray:
    """What the network of a file of weights gives, compiled, before anything is made of it."""
    runtime = start(backend)
    from transforms.model.load import load_network

    source = resolve_model(str(path))
    network = load_network(source, precision, len(images), False, runtime)
    assert (network.precision, network.why_saved) == (precision, '')
    compiled = runtime.compile(network, images.shape, lambda logits: (logits,) * 3, jit=False)
    found: np.ndarray = compiled(images)[0]
    return found


def logits_of_saved_model(backend: str, folder: Path, images: np.ndarray) -> np.ndarray:
    """What the network gives that is built of the variables of a SavedModel."""
    runtime = start(backend)
    from transforms.model.load import BUILT, load_network

    source = resolve_model(str(folder))
    network = load_network(source, 'float32', len(images), False, runtime)
    assert (network.route, network.why_saved) == (BUILT, '')
    compiled = runtime.compile(network, images.shape, lambda logits: (logits,) * 3, jit=False)
    found: np.ndarray = compiled(images)[0]
    return found


def loads(module: str) -> bool:
    return module in sys.modules


def refusal(backend: str, require_gpu: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        choose.start(backend, some_source(backend), cpu_count(), require_gpu)
    return str(caught.value)


# --- the contract


class RuntimeContract:
    """Subclasses say which runtime, and where it runs."""

    BACKEND = ''
    NETWORK = 'built from its weights'

    @pytest.fixture
    def there(self) -> Call:
        raise NotImplementedError

    def test_it_labels_a_batch(self, there: Call, weights: Path, coloured: np.ndarray) -> None:
        found, computed = there(predicted, self.BACKEND, weights, coloured, features=True)
        assert found.indices.dtype == found.counts.dtype == np.int32
        assert found.scores.dtype == np.float32
        assert found.indices.shape == found.scores.shape == (BATCH, 5)
        assert found.indices[:, 0].tolist() == [COLOURS[i % 3] for i in range(BATCH)]
        assert (np.diff(found.scores) <= 0).all()
        # Of classes with the same score, the first ones.
        assert found.indices[0, 1:].tolist() == [0, 1, 2, 3]
        assert found.counts.tolist() == [0] * BATCH
        assert (found.features.dtype, found.features.shape) == (np.float16, (BATCH, 3))
        assert (found.features.argmax(1) == np.arange(BATCH) % 3).all()
        computed.pop('bfloat16_by', '')  # of some CPUs
        assert computed == {
            'network': self.NETWORK,
            'precision': 'float32',
            'backend': self.BACKEND,
            'device': 'CPU',
            'jit': self.BACKEND == JAX,
            'features': 3,
            'batch_size': BATCH,
        }

    def test_counts_are_of_labels(self, there: Call, weights: Path, coloured: np.ndarray) -> None:
        changes = {'threshold': 0.01, 'min_labels': 2, 'max_labels': 7}
        found, _ = there(predicted, self.BACKEND, weights, coloured, **changes)
        assert found.indices.shape == (BATCH, 7)
        assert found.counts.tolist() == [2] * BATCH
        assert found.features is None

    def test_blue_may_come_first(self, there: Call, weights: Path, coloured: np.ndarray) -> None:
        card = {'channels': 'BGR'}
        found, _ = there(predicted, self.BACKEND, weights, coloured, card=card)
        assert found.indices[:, 0].tolist() == [COLOURS[2 - i % 3] for i in range(BATCH)]

    def test_bytes_are_the_same_again(self, there: Call, weights: Path) -> None:
        shape = (BATCH, SIDE_PX, SIDE_PX, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        one, other = (there(predicted, self.BACKEND, weights, pixels)[0] for _ in range(2))
        assert [part.tobytes() for part in one[:3]] == [part.tobytes() for part in other[:3]]
        assert len(set(one.scores[:, 0].tolist())) == BATCH

    def test_errors_are_told_apart(self, there: Call) -> None:
        assert there(faults, self.BACKEND) == [
            Fault('ResourceExhaustedError', True),
            Fault('InternalError', False),
            Fault('InvalidArgumentError', False),
            None,
            None,
        ]

    def test_calls_get_smaller_where_memory_is_short(
        self, there: Call, weights: Path, coloured: np.ndarray
    ) -> None:
        healthy, _ = there(predicted, self.BACKEND, weights, coloured)
        found, guilty, sizes, a_call = there(failing, self.BACKEND, weights, coloured, most=2)
        assert (guilty, a_call) == ({}, 2)
        assert sizes == [8, 4, *[2] * 8]
        for each in found:
            assert np.array_equal(each.indices[:, 0], healthy.indices[:, 0])
            assert np.abs(each.scores - healthy.scores).max() < 1e-5

    def test_a_picture_that_it_fails_on_is_lost_alone(
        self, there: Call, weights: Path, coloured: np.ndarray
    ) -> None:
        pixels = coloured.copy()
        pixels[5] = 77
        healthy, _ = there(predicted, self.BACKEND, weights, pixels)
        (found, _), guilty, _, a_call = there(
            failing, self.BACKEND, weights, pixels, poison=pixels[5]
        )
        assert guilty == {5: 'InvalidArgumentError'}
        assert a_call == BATCH
        others = [i for i in range(BATCH) if i != 5]
        for one, other in zip(found[:3], healthy[:3], strict=True):
            assert np.array_equal(one[others], other[others])

    def test_a_device_that_is_lost_is_no_pictures_fault(
        self, there: Call, weights: Path, coloured: np.ndarray
    ) -> None:
        with pytest.raises(ModelError, match=r'even without any image: .*the device is lost'):
            there(failing, self.BACKEND, weights, coloured, broken='the device is lost')

    def test_a_gpu_can_be_required(self, there: Call) -> None:
        name = BACKEND_NAMES[self.BACKEND]
        said = there(refusal, self.BACKEND, require_gpu=True)
        assert said.startswith(f'--require_gpu: {name} ')
        assert ' sees no GPU ' in said


class OfKeras(RuntimeContract):
    """What is alike of those that compute what Keras builds."""

    def test_a_network_without_classes_gives_features(
        self, there: Call, coloured: np.ndarray
    ) -> None:
        indices, scores, counts, features = there(without_classes, self.BACKEND, coloured)
        assert indices.shape == scores.shape == (BATCH, 0)
        assert counts.tolist() == [0] * BATCH
        np.testing.assert_allclose(features, coloured.mean((1, 2)) / 255, rtol=1e-6)

    def test_the_other_one_cannot_be_had_in_its_process(self, there: Call) -> None:
        there(faults, self.BACKEND)
        other = JAX if self.BACKEND == TENSORFLOW else TENSORFLOW
        assert there(refusal, other).startswith(
            f"Keras was imported in this process with the backend '{self.BACKEND}' already"
        )

    @pytest.mark.parametrize(('precision', 'tolerance'), [('float32', 1e-3), ('bfloat16', 0.05)])
    def test_it_gives_what_the_authors_compute(
        self, there: Call, bit: Path, precision: str, tolerance: float
    ) -> None:
        with np.load(REFERENCE) as reference:
            images, expected = reference['images_noise64'], reference['logits_noise64']
        found = there(logits_of_reference, self.BACKEND, bit, precision, images)
        largest = np.abs(expected).max() if precision != 'float32' else 1.0
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * largest)


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the network that sees the colour of a picture."""
    path = tmp_path_factory.mktemp('colour') / 'colour.npz'
    mix = np.zeros((3, families.CLASSES), np.float32)
    for channel, index in enumerate(COLOURS):
        mix[channel, index] = 2.0
    np.savez(path, mix=mix)
    return path


@pytest.fixture(scope='module')
def coloured() -> np.ndarray:
    """Red, green, blue, and so on."""
    pixels = np.zeros((BATCH, SIDE_PX, SIDE_PX, 3), np.uint8)
    for i in range(BATCH):
        pixels[i, ..., i % 3] = 255
    return pixels


@pytest.fixture(scope='module')
def bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small BiT, with its card."""
    folder = tmp_path_factory.mktemp('bit')
    weights = synthetic_weights.make_weights('R14x1', 0, 100)
    np.savez(folder / 'r14x1.npz', **weights)
    write_card(folder)
    return folder / 'r14x1.npz'


def write_card(folder: Path) -> None:
    (folder / 'labels.txt').write_text(''.join(f'class {i}\n' for i in range(100)))
    card = families.CARD.with_changes(architecture='R14x1', labels='labels.txt', vocabulary='')
    (folder / 'model_card.json').write_text(json.dumps(card.to_dict()))


@contextlib.contextmanager
def other_process() -> Iterator[Call]:
    """Runs functions in a process in which nothing has imported Keras yet."""
    context = multiprocessing.get_context('spawn')
    environment = {'JAX_PLATFORMS': 'cpu', 'KERAS_BACKEND': TENSORFLOW}  # --backend wins
    with concurrent.futures.ProcessPoolExecutor(1, context, set_variables, (environment,)) as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()


@pytest.fixture(scope='module')
def jax_process() -> Iterator[Call]:
    with other_process() as call:
        yield call


# A process of its own with both of them, 16 s; a whole run on JAX is in test_backends.
WITH_JAX = pytest.mark.slow


class TestTensorFlow(OfKeras):
    BACKEND = TENSORFLOW

    @pytest.fixture
    def there(self) -> Call:
        return lambda function, *args, **options: function(*args, **options)


class TestOnnxRuntime(RuntimeContract):
    BACKEND = ONNX_RUNTIME
    NETWORK = 'as it was saved'

    @pytest.fixture
    def there(self) -> Call:
        return lambda function, *args, **options: function(*args, **options)

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        """The network that sees the colour of a picture."""
        mix = np.zeros((3, families.CLASSES), np.float32)
        for channel, index in enumerate(COLOURS):
            mix[channel, index] = 2.0
        graph = onnx_models.Graph()
        mean = graph.add('Flatten', graph.add('GlobalAveragePool', 'images'))
        graph.name(graph.add('MatMul', mean, graph.weight('mix', mix)), 'logits')
        graph.name(mean, 'features')
        model = graph.model(
            [('images', onnx_models.FLOAT, ('batch', 3, SIDE_PX, SIDE_PX))],
            [
                ('logits', onnx_models.FLOAT, ('batch', families.CLASSES)),
                ('features', onnx_models.FLOAT, ('batch', 3)),
            ],
        )
        card = families.CARD.with_changes(architecture='')
        return onnx_models.save(model, tmp_path / 'colour', card.to_dict())

    def test_a_network_without_classes_gives_features(
        self, weights: Path, coloured: np.ndarray
    ) -> None:
        card = {'vocabulary': '', 'mean': 0.0, 'std': 255.0}
        found, computed = predicted(self.BACKEND, weights, coloured, card=card, features=True)
        assert found.indices.shape == found.scores.shape == (BATCH, 0)
        assert found.counts.tolist() == [0] * BATCH
        assert computed['features'] == 3
        np.testing.assert_allclose(found.features, coloured.mean((1, 2)) / 255, rtol=1e-3)


@WITH_JAX
class TestJax(OfKeras):
    BACKEND = JAX

    @pytest.fixture
    def there(self, jax_process: Call) -> Call:
        return jax_process

    @pytest.fixture(autouse=True)
    def _without_tensorflow(self, there: Call) -> Iterator[None]:
        yield
        assert not there(loads, 'tensorflow')

    def test_a_call_has_the_threads_that_it_was_given(self, there: Call) -> None:
        assert there(eigen_threads, JAX) == cpu_count()
        assert there(os.getenv, 'NPROC') == os.getenv('NPROC'), 'as others left it'

    # Of TensorFlow the class is looked at; and it waits for memory for ten seconds.
    def test_too_little_memory_is_told_as_jax_tells_it(self, there: Call) -> None:
        assert there(fault_of_too_much, JAX) == Fault('ResourceExhaustedError', True)


@WITH_JAX
def test_both_see_the_same_in_pictures(jax_process: Call) -> None:
    pixels = pictures()
    check_same(seen(TENSORFLOW, pixels), jax_process(seen, JAX, pixels), JAX)


def test_the_embedded_network_in_onnx_gives_its_labels(tmp_path: Path) -> None:
    model = str(onnx_models.embedded(tmp_path / 'lite0'))
    pixels = pictures()
    check_same(seen(TENSORFLOW, pixels), seen(ONNX_RUNTIME, pixels, model), ONNX_RUNTIME)


def pictures() -> np.ndarray:
    resize = resolve_model(EMBEDDED).card.resize
    return np.stack(
        [decode((samples.SAMPLE / f'{name}.jpg').read_bytes(), resize) for name in PICTURES]
    )


def check_same(
    ours: tuple[Prediction, dict[str, Any]], theirs: tuple[Prediction, dict[str, Any]], backend: str
) -> None:
    """What TensorFlow has seen in the pictures, and another one."""
    (one, computed), (other, elsewhere) = ours, theirs
    assert (computed['backend'], elsewhere['backend']) == (TENSORFLOW, backend)
    names = resolve_model(EMBEDDED).vocabulary.names
    assert tuple(names[index] for index in one.indices[:, 0]) == BEST
    assert np.array_equal(one.indices[:, 0], other.indices[:, 0])
    assert np.array_equal(one.counts, other.counts)
    for i, count in enumerate(one.counts):
        assert set(one.indices[i, :count]) == set(other.indices[i, :count])
    assert np.abs(one.scores - other.scores).max() <= 1e-4
    assert one.features is not None
    assert other.features is not None
    np.testing.assert_allclose(one.features, other.features, rtol=0, atol=2e-3)


@pytest.mark.slow  # imports TensorFlow and JAX in a process of its own, and loads a SavedModel
def test_jax_computes_the_network_of_a_saved_model(tmp_path: Path) -> None:
    """Its variables are read, and its outputs compared, by TensorFlow; it is not computed by it."""
    start(TENSORFLOW)
    from tests.support.published import PublishedModule, save

    folder = tmp_path / 'module'
    save(PublishedModule(synthetic_weights.make_weights('R14x1', 0, 100), 14), folder)
    write_card(folder)
    with np.load(REFERENCE) as reference:
        images, expected = reference['images_noise64'], reference['logits_noise64']
    with other_process() as call:
        found = call(logits_of_saved_model, JAX, folder, images)
        assert call(loads, 'tensorflow')
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
