"""JAX: the whole way from pixels to labels as one program of XLA."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.choices import JAX
from transforms.model.runtimes import keras_backend
from transforms.model.runtimes.base import Compiled, Fault, Label, LoadedModel, Place

if TYPE_CHECKING:
    from transforms.model.load import Network
    from transforms.model.resolve import ModelSource

_FIRST = Place()
_THREADS = 'NPROC'
"""What XLA takes for the number of processors, when it starts."""


class Jax:
    """See `transforms.model.runtimes.base.Runtime`.

    Args:
      intra_op_threads: threads within one operation on a CPU.  They are as many as somebody else
        has chosen, who has begun to compute with JAX in this process before.
      require_gpu: refuse to work without an accelerator.
      place: the device.

    Raises:
      ModelError: it cannot be loaded, Keras has another backend here, or there is no such
        accelerator.
    """

    backend = JAX
    always_compiles = True

    def __init__(self, intra_op_threads: int, require_gpu: bool, place: Place = _FIRST):
        keras_backend.set_backend(JAX)
        try:
            import jax
        except ImportError as e:
            raise ModelError(
                f"--backend jax: JAX cannot be loaded: {e}; pip install 'lemmabeam[jax]', or "
                "'lemmabeam[jax-cuda]' for NVIDIA GPUs"
            ) from e
        import keras  # noqa: F401 (on JAX from now on)

        self._jax = jax
        try:
            with _environment(_THREADS, str(intra_op_threads)):
                devices = jax.local_devices()
        except RuntimeError as e:
            raise ModelError(f'--backend jax: JAX finds no device: {e}') from e
        place.check(len(devices), 'JAX', f'devices of the platform {devices[0].platform!r}')
        self._device = devices[place.number]
        is_cpu = self._device.platform == 'cpu'
        self.device = 'CPU' if is_cpu else str(self._device.device_kind)
        if require_gpu and is_cpu:
            raise ModelError(
                f'--require_gpu: JAX {jax.__version__} sees no GPU and no TPU on this machine; '
                "check the driver with nvidia-smi, and install 'lemmabeam[jax-cuda]'"
            )

    def placed(self) -> contextlib.AbstractContextManager[Any]:
        """By JAX's default, for this thread."""
        here: contextlib.AbstractContextManager[Any] = self._jax.default_device(self._device)
        return here

    def compile(
        self,
        network: 'Network',
        shape: tuple[int, int, int, int],
        label: Label,
        jit: bool,  # noqa: ARG002 (it is compiled in any case)
    ) -> Compiled:
        """One program of one shape.

        The weights are its arguments: as constants they would be there once more, and be folded
        while it is compiled.
        """
        import keras
        from keras import ops

        jax, size = self._jax, shape[0]
        variables = network.owner.weights
        values = jax.device_put([variable.value for variable in variables], self._device)
        mean, std = np.asarray(network.mean, np.float32), np.asarray(network.std, np.float32)

        def call(values: Any, pixels: Any) -> Sequence[Any]:
            images = ops.cast(pixels, 'float32')
            if network.is_bgr:
                images = ops.flip(images, -1)
            with keras.StatelessScope(zip(variables, values, strict=True)):
                logits, features = network.call((images - mean) / std)
            if network.features:
                network.features.check(features, size)
            if not network.logits:
                nothing = np.zeros((size, 0), np.float32)
                return nothing.astype(np.int32), nothing, np.zeros(size, np.int32), features
            network.logits.check(logits, size)
            return label(logits) if features is None else (*label(logits), features)

        # Where float32 is computed, it is: GPUs would round the factors to 10 bits, TPUs to 7.
        with jax.default_matmul_precision('highest'):
            traced = jax.jit(call).lower(values, jax.ShapeDtypeStruct(shape, np.uint8))
        program = traced.compile()

        def predict(pixels: np.ndarray) -> Sequence[Any]:
            found: Sequence[Any] = jax.device_get(
                program(values, jax.device_put(pixels, self._device))
            )
            return found

        return predict

    def fault(self, error: Exception) -> Fault | None:
        """By the status that its message begins with, such as 'RESOURCE_EXHAUSTED: …'."""
        if not isinstance(error, self._jax.errors.JaxRuntimeError):
            return None
        text = str(error)
        status = text.partition(':')[0]
        is_status = status.isupper() and status.replace('_', '').isalpha()
        words = status.split('_') if is_status else ['internal']
        # The driver says it in its own words where a kernel or a library is loaded.
        is_memory = status == 'RESOURCE_EXHAUSTED' or 'OUT_OF_MEMORY' in text
        return Fault(''.join(map(str.capitalize, words)) + 'Error', is_memory)

    def sparse_labels(self) -> Callable[..., tuple[Any, Any, Any]]:
        """By Keras."""
        from transforms.model.sparse import sparse_labels

        return sparse_labels

    def load_as_saved(
        self,
        source: 'ModelSource',
        path: Path,  # noqa: ARG002 (it takes none)
        batch_size: int,  # noqa: ARG002
        why: str,
    ) -> LoadedModel:
        """Refuses them: JAX has no format of its own."""
        from transforms.model.runtimes.choose import not_by

        raise ModelError(not_by(JAX, source, why))

    def prepare_to_read_saved_models(self) -> None:
        """Imports TensorFlow, which alone can read them, without its accelerators."""
        from transforms.model.runtimes.on_tensorflow import import_beside

        import_beside(JAX)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable of the environment for the length of a with block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
