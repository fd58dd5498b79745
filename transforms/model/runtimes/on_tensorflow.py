"""TensorFlow: started quietly, once, with the threads and on the device that were asked for."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.choices import TENSORFLOW
from transforms.model.runtimes import keras_backend
from transforms.model.runtimes.base import Compiled, Fault, Label, LoadedModel, Place
from transforms.model.runtimes.quiet import without_startup_messages

if TYPE_CHECKING:
    from transforms.model.load import Network
    from transforms.model.resolve import ModelSource


_FIRST = Place()


class TensorFlow:
    """See `transforms.model.runtimes.base.Runtime`.

    Args:
      intra_op_threads: threads within one operation.
      require_gpu: refuse to work without a GPU.
      place: the GPU, or, on a machine without one, the logical CPU.

    Raises:
      ModelError: it cannot be loaded, Keras has another backend here, or there is no such GPU.
    """

    backend = TENSORFLOW
    always_compiles = False

    def __init__(self, intra_op_threads: int, require_gpu: bool, place: Place = _FIRST):
        self._tf = tf = import_tensorflow(intra_op_threads)
        self.device = device_name(tf, require_gpu, place.number)
        self._name: str | None = None
        if place.of > 1:
            kind = 'CPU' if self.device == 'CPU' else 'GPU'
            found = tf.config.list_logical_devices(kind)
            place.check(len(found), 'TensorFlow', f'{kind}s')
            self._name = found[place.number].name
        # Where float32 is computed, it is: GPUs would round the factors to 10 bits.
        tf.config.experimental.enable_tensor_float_32_execution(False)

    def placed(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing is said where there is only one."""
        return self._tf.device(self._name) if self._name else contextlib.nullcontext()

    def compile(
        self, network: 'Network', shape: tuple[int, int, int, int], label: Label, jit: bool
    ) -> Compiled:
        """One shape a function, so nothing is retraced.

        Labels are made by a function of their own: within one graph a shape is what the graph was
        told, and a wrong one can get lost, but what comes out of a function has the shape it has.
        """
        size = shape[0]
        outputs = self.compile_network(network, shape, jit)
        nothing = np.zeros((size, 0), np.float32)
        unlabeled = nothing.astype(np.int32), nothing, np.zeros(size, np.int32)
        if network.logits:
            labels = self._traced(label, (size, network.logits.length), self._tf.float32, jit)

        def predict(pixels: np.ndarray) -> Sequence[Any]:
            with self.placed():
                return compute(pixels)

        def compute(pixels: np.ndarray) -> Sequence[Any]:
            logits, features = outputs(pixels)
            if network.features:
                network.features.check(features, size)
            if not network.logits:
                return *unlabeled, features.numpy()
            network.logits.check(logits, size)
            found = labels(logits) if features is None else (*labels(logits), features)
            return [output.numpy() for output in found]

        return predict

    def compile_network(
        self, network: 'Network', shape: tuple[int, int, int, int], jit: bool
    ) -> Callable[[np.ndarray], tuple[Any, Any]]:
        """The way from pixels to logits and features."""
        tf = self._tf
        mean, std = np.asarray(network.mean, np.float32), np.asarray(network.std, np.float32)

        def call(pixels: Any) -> tuple[Any, Any]:
            images = tf.cast(pixels, tf.float32)
            if network.is_bgr:
                images = tf.reverse(images, [-1])
            return network.call((images - mean) / std)

        traced: Callable[[np.ndarray], tuple[Any, Any]] = self._traced(call, shape, tf.uint8, jit)
        return traced

    def _traced(
        self, function: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any, jit: bool
    ) -> Any:
        tf = self._tf
        traced = tf.function(function, jit_compile=jit or None, autograph=False)
        with self.placed():
            return traced.get_concrete_function(tf.TensorSpec(shape, dtype))

    def fault(self, error: Exception) -> Fault | None:
        """By its class."""
        errors = self._tf.errors
        if not isinstance(error, errors.OpError):
            return None
        return Fault(type(error).__name__, isinstance(error, errors.ResourceExhaustedError))

    def sparse_labels(self) -> Callable[..., tuple[Any, Any, Any]]:
        """By Keras."""
        from transforms.model.sparse import sparse_labels

        return sparse_labels

    def prepare_to_read_saved_models(self) -> None:
        """It is there already."""

    def load_as_saved(
        self,
        source: 'ModelSource',
        path: Path,
        batch_size: int,
        why: str,  # noqa: ARG002 (it takes all SavedModels)
    ) -> LoadedModel:
        """SavedModels."""
        from transforms.model import saved_model

        size_px = source.card.resize.size_px
        return saved_model.load(path, source.card, (batch_size, size_px, size_px, 3))


def import_tensorflow(intra_op_threads: int | None = None) -> Any:
    """The tensorflow module, with Keras on it.

    Args:
      intra_op_threads: threads within one operation; None leaves them as they are.

    Raises:
      ModelError: it cannot be loaded, Keras uses another backend, or TensorFlow already runs with
        another number of threads.
    """
    tf = _import(TENSORFLOW)
    threads = tf.config.threading
    if intra_op_threads and threads.get_intra_op_parallelism_threads() != intra_op_threads:
        try:
            threads.set_intra_op_parallelism_threads(intra_op_threads)
        except RuntimeError as e:
            # Somebody else has begun to compute in this process; its own choice is one a core.
            running = threads.get_intra_op_parallelism_threads() or _core_count()
            if running != intra_op_threads:
                raise ModelError(
                    f'--intra_op_threads {intra_op_threads}: TensorFlow is already running in this '
                    f'process, with {running}; --intra_op_threads {running} takes those'
                ) from e
    return tf


def import_beside(other: str) -> Any:
    """The tensorflow module to read SavedModels with, where Keras computes on another backend.

    It touches no accelerator, which is the other one's.

    Args:
      other: that backend.

    Raises:
      ModelError: it cannot be loaded.
    """
    tf = _import(other)
    with contextlib.suppress(RuntimeError):  # somebody else has begun to compute with it
        tf.config.set_visible_devices([], 'GPU')
    return tf


def _import(backend: str) -> Any:
    """The tensorflow module, and Keras imported on a backend."""
    keras_backend.set_backend(backend)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    with without_startup_messages():
        try:
            import tensorflow as tf
        except (ImportError, OSError) as e:
            raise ModelError(
                f'TensorFlow cannot be loaded: {e}. Is it installed completely, and is the '
                'memory limit (ulimit -v) high enough?'
            ) from e
        tf.config.list_physical_devices()
        import keras  # noqa: F401 (with TensorFlow, it says as much)
    return tf


def _core_count() -> int:
    """Cores that this process may use, as TensorFlow counts them: by its affinity."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return cores or 1


def device_name(tf: Any, require_gpu: bool, number: int = 0) -> str:
    """The name of a GPU, by default the first, or 'CPU' without one.

    Raises:
      ModelError: there is none, and one was required.
    """
    gpus = tf.config.list_physical_devices('GPU')
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[min(number, len(gpus) - 1)])
        return str(details.get('device_name', 'GPU'))
    if require_gpu:
        build = 'was built for GPUs' if tf.test.is_built_with_cuda() else 'was built without CUDA'
        raise ModelError(
            f'--require_gpu: TensorFlow {tf.__version__} sees no GPU on this machine (it {build}); '
            "check the driver with nvidia-smi, and install 'lemmabeam[gpu]'"
        )
    return 'CPU'
