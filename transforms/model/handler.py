"""The ModelHandler by which Beam's RunInference calls the model.

Beam's own TensorFlow handlers cannot load what Keras 3 makes, attach the input image to each
result and pickle every batch for a metric.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from transforms.model.predictor import InferenceOptions, Prediction, Predictor
from transforms.process import LIVE, shared
from transforms.rows import Batch, Image, LabeledBatch


def label_batch(batch: Batch, predictor: Predictor) -> LabeledBatch:
    """Calls the model on a batch; one without any image is not worth a call."""
    started = time.perf_counter()
    if any(isinstance(outcome, Image) for outcome in batch.outcomes):
        found = predictor(batch.pixels)
    else:
        nothing = np.zeros((0, 0), np.float32)
        found = Prediction(nothing.astype(np.int32), nothing, np.zeros(0, np.int32), None)
    timings = {**batch.timings, 'infer': time.perf_counter() - started}
    computed = json.dumps(predictor.computed, sort_keys=True)
    return LabeledBatch(batch.chunk, batch.start, batch.outcomes, *found, timings, computed)


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
