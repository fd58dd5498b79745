"""The ModelHandler by which Beam's RunInference calls the model.

Beam's own TensorFlow handlers cannot load what Keras 3 makes, attach the input image to each
result and pickle every batch for a metric.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from transforms.errors import ModelError
from transforms.model.registry import get_model
from transforms.process import LIVE, shared
from transforms.rows import Batch, Image, LabeledBatch

PRECISION = 'float32'


class InferenceOptions(NamedTuple):
    """How the model is called.

    Attributes:
      model: its name, see `transforms.model.registry.get_model`.
      batch_size: slots of every call.
      threshold, max_labels, min_labels: see `transforms.model.sparse.sparse_labels`.
      intra_op_threads: threads within one operation; the last bits of scores depend on it.
    """

    model: str
    batch_size: int
    threshold: float
    max_labels: int
    min_labels: int
    intra_op_threads: int


class Predictor:
    """A compiled model; one a process, made with `transforms.process.shared`."""

    def __init__(self, options: InferenceOptions):
        tf = _import_tensorflow(options.intra_op_threads)
        from transforms.model.sparse import sparse_labels

        source = get_model(options.model)
        card = source.card
        # The variables of a network are held weakly by the function that uses them.
        self._network = source.build()
        shape = (options.batch_size, card.resize.size_px, card.resize.size_px, 3)

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)])
        def predict(pixels: Any) -> Any:
            images = (tf.cast(pixels, tf.float32) - card.mean) / card.std
            logits = self._network(images, training=False)
            return sparse_labels(
                logits, card.activation, options.threshold, options.max_labels, options.min_labels
            )

        self._predict = predict
        # One batch runs; a second one would only share the device and double its memory.
        self._device = threading.Lock()
        self(np.zeros(shape, np.uint8))

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels a batch of the fixed size.

        Args:
          pixels: (batch_size, S, S, 3) uint8 RGB in [0, 255].

        Returns:
          indices (batch_size, k) int32, scores (batch_size, k) float32, counts (batch_size,)
          int32, as `sparse_labels` gives them.
        """
        with self._device:
            indices, scores, counts = self._predict(pixels)
            return indices.numpy(), scores.numpy(), counts.numpy()


def label_batch(batch: Batch, predictor: Predictor) -> LabeledBatch:
    """Calls the model on a batch; one without any image is not worth a call."""
    started = time.perf_counter()
    images = sum(isinstance(outcome, Image) for outcome in batch.outcomes)
    if images:
        indices, scores, counts = predictor(batch.pixels)
    else:
        indices, scores = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)
        counts = np.zeros(0, np.int32)
    timings = {**batch.timings, 'infer': time.perf_counter() - started}
    return LabeledBatch(batch.chunk, batch.start, batch.outcomes, indices, scores, counts, timings)


class ImageModelHandler(ModelHandler[Batch, LabeledBatch, Predictor]):
    """Takes whole batches as single elements: chunks have cut them already."""

    def __init__(self, options: InferenceOptions):
        super().__init__()
        self._options = options

    def load_model(self) -> Predictor:
        """The predictor of this process."""
        return shared(Predictor, self._options)

    def run_inference(
        self,
        batch: Sequence[Batch],
        model: Predictor,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 (Beam's signature)
    ) -> list[LabeledBatch]:
        """Labels each batch; a list, because Beam does not count the failures of a generator."""
        labeled = [label_batch(each, model) for each in batch]
        for each in labeled:
            slots = [i for i, outcome in enumerate(each.outcomes) if isinstance(outcome, Image)]
            bad = sum(each.counts[slot] < 0 for slot in slots)
            LIVE.add(labeled=len(slots) - bad, failed=bad)
        return labeled

    def get_num_bytes(self, batch: Sequence[Batch]) -> int:
        """Bytes of pixels; Beam's default pickles the batch to know."""
        return sum(each.pixels.nbytes for each in batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """One of our batches a call."""
        return {'min_batch_size': 1, 'max_batch_size': 1}

    def get_metrics_namespace(self) -> str:
        """Where Beam counts."""
        return 'lemmabeam'


def _import_tensorflow(intra_op_threads: int) -> Any:
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
    with _without_startup_messages():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
    if keras.backend.backend() != 'tensorflow':
        raise ModelError(
            f'Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow'
        )
    threading_config = tf.config.threading
    if threading_config.get_intra_op_parallelism_threads() != intra_op_threads:
        try:
            threading_config.set_intra_op_parallelism_threads(intra_op_threads)
        except RuntimeError as e:
            raise ModelError(
                f'--intra_op_threads {intra_op_threads}: TensorFlow runs in this process already, '
                f'with {threading_config.get_intra_op_parallelism_threads() or "its own default"}'
            ) from e
    return tf


# A machine without an NVIDIA driver is no error.  A progress line may stand before each.
_CHATTER = re.compile(rb'(?:I\d{4} |WARNING: All log messages before absl|E\d{4} .*cuInit).*\n')


@contextlib.contextmanager
def _without_startup_messages() -> Iterator[None]:
    """Holds back what TensorFlow's libraries print before their log level counts.

    Everything else that any thread writes to standard error meanwhile is passed on afterwards.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, descriptor)
            os.close(saved)
            held.seek(0)
            os.write(descriptor, _CHATTER.sub(b'', held.read()))
