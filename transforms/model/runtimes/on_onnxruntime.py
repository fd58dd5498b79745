"""ONNX Runtime: computes graphs in ONNX, and what is around them is done in numpy."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.choices import ONNX_RUNTIME
from transforms.model.runtimes.base import Compiled, Fault, Label, LoadedModel, Place

if TYPE_CHECKING:
    from transforms.model.load import Network
    from transforms.model.resolve import ModelSource

_FIRST = Place()
_CPU, _CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'
_SILENT = 4  # severity of its log; what it would say there stands in its errors
# A graph of ONNX that gives its input, one float: whoever can run it can run others.
_SMALLEST = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01pZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b'\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r'
)
# How it says that there is too little memory: its arena, CUDA, its libraries.
_NO_MEMORY = (
    'Failed to allocate memory',
    'is smaller than requested bytes',
    'out of memory',
    'ALLOC_FAILED',
    'bad_alloc',
)
_FAULTS = {
    'InvalidArgument': 'InvalidArgumentError',
    'NotImplemented': 'UnimplementedError',
}
"""What its errors are called with the other runtimes; all others are internal ones."""


class OnnxRuntime:
    """See `transforms.model.runtimes.base.Runtime`.

    Args:
      intra_op_threads: threads within one operation on a CPU.
      require_gpu: refuse to work without a GPU.
      place: the GPU; there is one CPU.
      library: what computes; by default the installed `onnxruntime`.

    Raises:
      ModelError: it cannot be loaded, or there is no such GPU.
    """

    backend = ONNX_RUNTIME
    always_compiles = False

    def __init__(
        self,
        intra_op_threads: int,
        require_gpu: bool,
        place: Place = _FIRST,
        library: Any = None,
    ):
        self._library = library or _import()
        self._threads = intra_op_threads
        gpus = self._gpus(place.of)
        if require_gpu and not gpus:
            raise ModelError(
                f'--require_gpu: {_without_gpu(self._library)}; check the driver with nvidia-smi, '
                "and install onnxruntime-gpu instead of onnxruntime, with CUDA's libraries"
            )
        place.check(gpus or 1, 'ONNX Runtime', 'GPUs' if gpus else 'CPUs')
        self.device = 'GPU' if gpus else 'CPU'
        self._providers = _providers(place.number if gpus else None)

    def _gpus(self, most: int) -> int:
        """How many of the first GPUs it can compute on; to be built for them is not enough."""
        if _CUDA not in self._library.get_available_providers():
            return 0
        # CUDA's libraries may lie in packages of Python, as TensorFlow's do.  It prints what is not
        # there, and results go to standard output.
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            self._library.preload_dlls()
        for number in range(most):
            try:
                session = self._session(_SMALLEST, {}, _providers(number))
                session.run(None, {'x': np.zeros(1, np.float32)})
            except Exception:  # noqa: BLE001 (each kind of failure has its own)
                return number
            if session.get_providers()[0] != _CUDA:
                return number
        return most

    def _session(
        self, model: str | bytes, axes: Mapping[str, int], providers: Sequence[Any]
    ) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = _SILENT
        # Threads that wait would take the time of those that decode the next pictures.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        for name, length in axes.items():
            options.add_free_dimension_override_by_name(name, length)
        # What it falls back to would be a CPU, and it would print so.
        return self._library.InferenceSession(
            model, options, providers=providers, enable_fallback=0
        )

    def open(self, path: Path, axes: Mapping[str, int]) -> Any:
        """A session of a file.

        Args:
          path: of the file.
          axes: lengths of those that have a name instead.

        Raises:
          Exception: that `fault` understands, or of a file that it cannot load.
        """
        return self._session(str(path), axes, self._providers)

    def placed(self) -> contextlib.AbstractContextManager[Any]:
        """A session knows its device."""
        return contextlib.nullcontext()

    def compile(
        self,
        network: 'Network',
        shape: tuple[int, int, int, int],
        label: Label,
        jit: bool,  # noqa: ARG002 (`choose.check_backend` refuses it)
    ) -> Compiled:
        """The session is made by the first call, as it also is where calls become smaller."""
        size = shape[0]
        mean, std = np.asarray(network.mean, np.float32), np.asarray(network.std, np.float32)
        nothing = np.zeros((size, 0), np.float32)
        unlabeled = nothing.astype(np.int32), nothing, np.zeros(size, np.int32)

        def predict(pixels: np.ndarray) -> Sequence[Any]:
            images = pixels[..., ::-1] if network.is_bgr else pixels
            # Bytes are moved in a third of the time that it takes to move floats.
            images = network.owner.layout.hold(images).astype(np.float32)
            images -= mean
            images /= std
            logits, features = network.call(images)
            if network.features:
                network.features.check(features, size)
            if not network.logits:
                return *unlabeled, features
            network.logits.check(logits, size)
            found = label(logits)
            return found if features is None else (*found, features)

        return predict

    def fault(self, error: Exception) -> Fault | None:
        """By its class, and for memory by its words: it has no class for that."""
        is_own = type(error).__module__.startswith('onnxruntime.')
        if isinstance(error, MemoryError) or (
            is_own and any(words in str(error) for words in _NO_MEMORY)
        ):
            return Fault('ResourceExhaustedError', True)
        if not is_own:
            return None
        return Fault(_FAULTS.get(type(error).__name__, 'InternalError'), False)

    def sparse_labels(self) -> Callable[..., tuple[Any, Any, Any]]:
        """In numpy."""
        from transforms.model.sparse_numpy import sparse_labels

        return sparse_labels

    def prepare_to_read_saved_models(self) -> None:
        """It computes none."""

    def load_as_saved(
        self,
        source: 'ModelSource',
        path: Path,
        batch_size: int,
        why: str,  # noqa: ARG002 (no family builds them)
    ) -> LoadedModel:
        """ONNX models."""
        from transforms.model import onnx_model

        size_px = source.card.resize.size_px
        return onnx_model.load(path, source.card, (batch_size, size_px, size_px, 3), self)


def _import() -> Any:
    try:
        import onnxruntime
    except (ImportError, OSError) as e:
        raise ModelError(
            f'ONNX Runtime, which ONNX models need, cannot be loaded: {e}; pip install '
            "'lemmabeam[onnx]', or onnxruntime-gpu for NVIDIA GPUs"
        ) from e
    return onnxruntime


def _providers(gpu: int | None) -> list[Any]:
    """What computes, the best first; float32 is float32, and the same bytes each time."""
    if gpu is None:
        return [_CPU]
    # By default products are rounded to 10 bits, and convolutions are those that were the fastest
    # when each was tried.
    exact = {'use_tf32': '0', 'cudnn_conv_algo_search': 'HEURISTIC'}
    return [(_CUDA, {'device_id': str(gpu), **exact}), _CPU]


def _without_gpu(library: Any) -> str:
    built_for = 'GPUs' if _CUDA in library.get_available_providers() else 'CPUs only'
    return (
        f'ONNX Runtime {library.__version__} sees no GPU on this machine (it was built for '
        f'{built_for})'
    )
