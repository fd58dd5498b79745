"""A compiled model: whole batches of pixels in, the few labels of each image out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from transforms.core.errors import InferenceError, ModelError
from transforms.model import canary
from transforms.model.canary import Seen
from transforms.model.choices import AUTO, OFF, STRICT, TENSORFLOW, slower
from transforms.model.cpu import bfloat16_by
from transforms.model.resolve import ModelSource
from transforms.model.runtimes import choose
from transforms.model.runtimes.base import Compiled, Place, first_words

_LOGGER = logging.getLogger(__name__)

_NO_MEMORY = 'not enough memory'


class InferenceOptions(NamedTuple):
    """How the model is called.

    Attributes:
      model: what is called.
      batch_size: slots per call.
      threshold, max_labels, min_labels: see `transforms.model.sparse.sparse_labels`.
      intra_op_threads: threads within one operation; the last bits of scores depend on it.
      precision: of `transforms.model.choices.PRECISIONS`; 'auto' is bfloat16 on a GPU and float32
        elsewhere.
      jit: whether XLA compiles the model, which it always does with JAX.
      canary: of `transforms.model.choices.CANARY_MODES`.
      require_gpu: refuse to work without a GPU.
      features: whether the pooled features are wanted.
      require_rebuilt: refuse a BiT network that can only be used as it was saved.
      backend: of `transforms.model.choices.BACKENDS`, see `transforms.model.runtimes.choose`.
      precision_receipt: of how many images each process says how far its precision agrees with
        float32, see `transforms.model.receipt`; 0 for none.
      min_agreement: share of these whose best class must be the same, from 0 to 1.
      accelerators: how many devices of a process have a model each.
      accelerator: which of them this one is for, from 0.
    """

    model: ModelSource
    batch_size: int
    threshold: float
    max_labels: int
    min_labels: int
    intra_op_threads: int
    precision: str = AUTO
    jit: bool = False
    canary: str = STRICT
    require_gpu: bool = False
    features: bool = False
    require_rebuilt: bool = False
    backend: str = AUTO
    precision_receipt: int = 0
    min_agreement: float = 0.0
    accelerators: int = 1
    accelerator: int = 0


class Prediction(NamedTuple):
    """What the model says of a batch; k is at least `max_labels`, or the number of classes.

    Attributes:
      indices: (N, k) int32 class indices by falling score, ties by index.
      scores: (N, k) float32.
      counts: (N,) int32, how many of the k are labels; -1 if an output is not finite.
      features: (N, length) float16, or None.
    """

    indices: np.ndarray
    scores: np.ndarray
    counts: np.ndarray
    features: np.ndarray | None


class Model(Protocol):
    """What labels batches: `Predictor`, or a substitute."""

    @property
    def computed(self) -> dict[str, Any]:
        """How it computes, for the report; with the keys of `Predictor.computed`."""

    def __call__(self, pixels: np.ndarray) -> Prediction:
        """Labels a batch, see `Predictor.__call__`."""


MakeModel = Callable[[InferenceOptions], Model]
"""Makes a model from its options; may raise ModelError.

It is sent to the workers, where equal ones share a model: so it can be pickled, and equals its
unpickled copy, as a class, a function or a frozen dataclass does.
"""


class Predictor:
    """A compiled model that has passed its canary; one per process, by `core.resources.shared`.

    When the device runs out of memory, later calls take fewer images, as many as fitted.  Not
    thread-safe, see `transforms.model.device`.

    Attributes:
      options: how it is called.
      network: what computes.
      images_a_call: how many currently go into a call.

    Raises:
      ModelError: the model cannot be loaded, or not with this backend, fails its canary, or lacks a
        GPU or features.
    """

    def __init__(self, options: InferenceOptions):
        self.options = options
        source = options.model
        self._runtime = runtime = choose.start(
            options.backend,
            source,
            options.intra_op_threads,
            options.require_gpu,
            Place(options.accelerator, options.accelerators),
        )
        from transforms.model.load import load_network

        precision = options.precision
        if precision == AUTO:
            is_fast = runtime.device != 'CPU' and source.can_be_rebuilt
            precision = 'bfloat16' if is_fast else 'float32'
        with runtime.placed():
            self.network = load_network(
                source,
                precision,
                options.batch_size,
                options.features,
                runtime,
                may_be_float32=options.precision == AUTO,
                must_be_rebuilt=options.require_rebuilt,
            )
        size_px = source.card.resize.size_px
        self._shape = (options.batch_size, size_px, size_px, 3)
        self.images_a_call = options.batch_size
        self._compiled: dict[int, Compiled] = {}
        self._computed = {
            'network': self.network.route,
            'precision': self.network.precision,
            'backend': runtime.backend,
            'device': runtime.device,
            'jit': options.jit or runtime.always_compiles,
            'features': self.network.features and self.network.features.length,
        }
        is_own_choice = options.precision == AUTO and source.can_be_rebuilt
        is_cpu = (runtime.backend, runtime.device) == (TENSORFLOW, 'CPU')
        if is_own_choice and is_cpu and (by := bfloat16_by()):
            self._computed['bfloat16_by'] = by
        if self.network.why_saved:
            self._computed['why_saved'] = self.network.why_saved
            _LOGGER.warning('%s', slower(source.card.name, self.network.why_saved))
        try:
            if options.canary == OFF:
                self(np.zeros(self._shape, np.uint8))
            else:
                canary.run_canary(options.canary, source, self.see)
        except InferenceError as e:
            jit = ', compiled by XLA (--jit)' if options.jit else ''
            raise ModelError(f'the model failed in its first call{jit}: {e}') from e

    @property
    def computed(self) -> dict[str, Any]:
        """How it computes, for the report: precision, backend, device, XLA, and images a call.

        For a BiT network that is used as it was saved, also why.
        """
        return {**self._computed, 'batch_size': self.images_a_call}

    def _compile(self, size: int) -> Compiled:
        """The model for calls of so many images."""
        options = self.options
        sparse_labels = self._runtime.sparse_labels()

        def label(logits: Any) -> tuple[Any, Any, Any]:
            return sparse_labels(
                logits,
                options.model.card.activation,
                options.threshold,
                options.max_labels,
                options.min_labels,
                canary.TOP,
            )

        shape = size, *self._shape[1:]
        return self._runtime.compile(self.network, shape, label, options.jit)

    def __call__(self, pixels: np.ndarray) -> Prediction:
        """Labels a batch of the fixed size.

        Args:
          pixels: (batch_size, S, S, 3) uint8 RGB in [0, 255].

        Raises:
          InferenceError: the runtime fails or runs out of memory, or the model does not return one
            row per image.
        """
        indices, scores, counts, *wide = self._call(pixels)
        if not wide:
            return Prediction(indices, scores, counts, None)
        with np.errstate(over='ignore'):
            features = wide[0].astype(np.float16)
        counts = np.where(np.isfinite(features).all(axis=1), counts, -1)
        return Prediction(indices, scores, counts, features)

    def _call(self, pixels: np.ndarray) -> list[np.ndarray]:
        size = self.images_a_call
        while True:
            try:
                if size not in self._compiled:
                    self._compiled[size] = self._compile(size)
                parts = [self._compiled[size](part) for part in _parts(pixels, size)]
                break
            except Exception as e:  # noqa: BLE001 (each runtime has its own, and the rest is raised again)
                size = self._smaller(size, e)
        # Only what went well is remembered: an image that no memory is enough for is no measure.
        self.images_a_call = size
        return [np.concatenate(outputs)[: len(pixels)] for outputs in zip(*parts, strict=True)]

    def _smaller(self, size: int, error: Exception) -> int:
        """How many images the next call takes where one of this size failed.

        Raises:
          InferenceError: fewer would not help.
          Exception: the error, if it is none of the device or the model.
        """
        fault = self._runtime.fault(error)
        if fault and fault.is_memory:
            if size > 1:
                return size // 2
            words = f'the device does not have enough memory for one image: {first_words(error)}'
            raise InferenceError(words, _NO_MEMORY) from error
        if size < self.images_a_call and (fault or isinstance(error, TypeError | ValueError)):
            raise InferenceError(
                f'the device does not have enough memory for {self.images_a_call} '
                'images per call, and the model takes no fewer; lower --batch_size',
                _NO_MEMORY,
            ) from error
        if fault:
            raise InferenceError(first_words(error), fault.name) from error
        raise error

    def see(self, pictures: Sequence[np.ndarray]) -> list[Seen]:
        """What it sees in any number of pictures, for a canary."""
        seen = []
        for start in range(0, len(pictures), self._shape[0]):
            pixels = np.zeros(self._shape, np.uint8)
            part = pictures[start : start + self._shape[0]]
            pixels[: len(part)] = part
            found = self(pixels)
            seen += [
                Seen(
                    found.indices[i],
                    found.scores[i],
                    found.counts[i] >= 0,
                    None if found.features is None else found.features[i],
                )
                for i in range(len(part))
            ]
        return seen


def _parts(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cuts a batch into calls of one size; the last one may have slots without an image."""
    for start in range(0, len(pixels), size):
        part = pixels[start : start + size]
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
        yield part


def check_precision(precision: str, source: ModelSource) -> None:
    """Refuses a precision that a model as it was saved cannot compute in, before it is loaded.

    Raises:
      ModelError: it is refused.
    """
    if precision not in (AUTO, 'float32') and not source.can_be_rebuilt:
        raise ModelError(
            f'--precision {precision}: the {source.kind.value} {source.card.name} computes as it '
            'was exported; only the embedded model and BiT networks can use another precision'
        )
