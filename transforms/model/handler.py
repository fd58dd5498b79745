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

from transforms import uris
from transforms.faults import FailFast, inference_policy
from transforms.model.device import Device
from transforms.model.predictor import InferenceOptions, Prediction, Predictor
from transforms.model.rescue import predict_or_rescue
from transforms.outcomes import NOT_COMPUTED
from transforms.process import LIVE, shared
from transforms.rows import Batch, Failure, Image, LabeledBatch, Reason, Stage
from transforms.versions import library_versions


class LazyPredictor:
    """The predictor of this process, loaded when the first image wants it.

    A run that has nothing to label does not even import TensorFlow.

    Args:
      options: the model, and how it is called.
      device: who may call it; by default the one of this process.
    """

    def __init__(self, options: InferenceOptions, device: Device | None = None):
        self._options = options
        self.device = device or shared(Device, options.model.id)

    def get(self) -> Predictor:
        """Loads and checks the model, once a process."""
        return shared(Predictor, self._options)


def label_batch(batch: Batch, model: LazyPredictor) -> LabeledBatch:
    """Calls the model on a batch; one without any image is not worth a call.

    Raises:
      ModelError: the model fails, and no image is to blame.
    """
    started = time.perf_counter()
    outcomes = list(batch.outcomes)
    images = {i: each for i, each in enumerate(outcomes) if isinstance(each, Image)}
    if images:
        predictor = model.get()
        with model.device.at_work_on(lambda: _describe(batch, list(images))):
            found, guilty = predict_or_rescue(predictor, batch.pixels, list(images))
        facts = {**predictor.computed, 'versions': library_versions()}
        computed = json.dumps(facts, sort_keys=True)
    else:
        nothing = np.zeros((0, 0), np.float32)
        found = Prediction(nothing.astype(np.int32), nothing, np.zeros(0, np.int32), None)
        guilty = {}
        computed = NOT_COMPUTED
    for slot, image in images.items():
        if slot in guilty:
            reason, detail = Reason.MODEL_ERROR, f'the model fails on it: {guilty[slot]}'
        elif found.counts[slot] < 0:
            reason, detail = Reason.NONFINITE_SCORES, 'the model gave infinite or undefined outputs'
        else:
            continue
        outcomes[slot] = Failure(
            Stage.INFER, reason, detail, image.size_bytes, image.object_version
        )
    timings = {**batch.timings, 'infer': time.perf_counter() - started}
    return LabeledBatch(batch.chunk, batch.start, outcomes, *found, timings, computed)


def _describe(batch: Batch, slots: Sequence[int]) -> str:
    """A batch, for people."""
    first, last = (
        uris.printable(batch.chunk.items[batch.start + slot].uri) for slot in (slots[0], slots[-1])
    )
    return f'{len(slots)} images of the chunk {batch.chunk.id}, from {first} to {last}'


class ImageModelHandler(ModelHandler[Batch, LabeledBatch, LazyPredictor]):
    """Takes whole batches as single elements: chunks have cut them already.

    Args:
      options: the model, and how it is called.
      fail_fast: when a failing model stops the run.
    """

    def __init__(self, options: InferenceOptions, fail_fast: FailFast):
        super().__init__()
        self._options = options
        self._fail_fast = fail_fast

    def load_model(self) -> LazyPredictor:
        """The predictor of this process, not loaded yet."""
        return LazyPredictor(self._options)

    def run_inference(
        self,
        batch: Sequence[Batch],
        model: LazyPredictor,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 (Beam's signature)
    ) -> list[LabeledBatch]:
        """Labels each batch; a list, because Beam does not count the failures of a generator."""
        policy = inference_policy(self._fail_fast)
        labeled = [label_batch(each, model) for each in batch]
        for each in labeled:
            for item, outcome in zip(each.items, each.outcomes, strict=True):
                if isinstance(outcome, Image):
                    LIVE.add(labeled=1)
                    policy.record(item.uri, None)
                elif isinstance(outcome, Failure) and outcome.stage is Stage.INFER:
                    LIVE.add(failed=1)
                    policy.record(item.uri, outcome)
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
