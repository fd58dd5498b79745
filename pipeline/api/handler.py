"""Our models behind Beam's RunInference, for pixels that come from anywhere."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from apache_beam import coders
from apache_beam.ml.inference import base

from pipeline.api.keywords import takes
from pipeline.api.rows import Float32, Label
from pipeline.api.step_options import CALLING, configure
from transforms.core.errors import UsageError
from transforms.label import LazyPredictor, lazy_predictor, lost
from transforms.model import predictor
from transforms.model.choices import EMBEDDED
from transforms.model.device import Device
from transforms.model.rescue import predict_or_rescue


class Prediction(NamedTuple):
    """What a model says of one image.

    Attributes:
      labels: by falling score, ties by index; an image may have none.
      features: the pooled feature vector, where it was asked for.
      reason: '' where there are labels to be had; 'model_error' or 'nonfinite_scores' of an image
        on which the model fails also alone.
      detail: one line on that, '' without.

    Example:
      >>> import lemmabeam as lb
      >>> lb.Prediction([], reason='model_error', detail='the model failed on it').reason
      'model_error'
    """

    labels: Sequence[Label]
    features: Sequence[Float32] | None = None
    reason: str = ''
    detail: str = ''


coders.registry.register_coder(Prediction, coders.RowCoder)


def _call(
    model: LazyPredictor, pixels: np.ndarray, images: int, device: Device
) -> tuple[predictor.Prediction, dict[int, str]]:
    made = model.get(device)
    with device.at_work_on(lambda: f'{images} images of RunInference'):
        return predict_or_rescue(made, pixels, range(images))


class ModelHandler(base.ModelHandler[np.ndarray, Prediction, LazyPredictor]):
    """Calls a model on single images, under Beam's RunInference.

    An example is (S, S, 3) uint8 RGB in [0, 255], S being the input size of the model, as
    `ReadImages` gives it; a result is a `Prediction`.  It works under KeyedModelHandler and with
    `with_exception_handling`.  There is one model a process, which passes its canary before the
    first image.  A batch is padded to the batch size of the model, so that nothing is compiled
    twice; one on which the model fails is called again in halves, and only images on which it fails
    alone end without labels, with a `reason`.  A model that fails without any image raises
    ModelError.

    Which images share a batch is Beam's choice, and the last bits of a score depend on the place in
    it: for the same bytes on any runner, use `LabelImages`.

    Args:
      model: as `label` takes it; default the embedded one.  It is looked up, and fetched if need
        be, when the handler is made.
      options: those of `label` that concern the model and how it is called, by the same names:
        threshold, max_labels, min_labels, features, batch_size, precision, precision_receipt,
        min_agreement, backend, jit, canary, require_gpu, require_rebuilt, intra_op_threads,
        model_card, model_size, model_cache, model_sha256.

    Attributes:
      config: what the options come to.
      size_px: S, in pixels.

    Raises:
      TypeError: there is no such option.
      UsageError: a value cannot be used, or (in a worker) an example has another shape or type.
      ModelError: the model cannot be fetched or, in a worker, loaded or called.

    Example:
      >>> import numpy as np, lemmabeam as lb
      >>> handler = lb.ModelHandler(max_labels=1, min_labels=1)
      >>> pixels = np.zeros((handler.size_px, handler.size_px, 3), np.uint8)
      >>> [prediction] = handler.run_inference([pixels], handler.load_model())
      >>> len(prediction.labels)
      1
    """

    @takes(CALLING)
    def __init__(self, model: str = EMBEDDED, **options: Any):
        super().__init__()
        self.config = configure(
            type(self).__name__, CALLING, {'model': model, **options}, has_chunks=False
        )

    @property
    def size_px(self) -> int:
        """Side of the square that the model takes, in pixels."""
        return self.config.load.resize.size_px

    def load_model(self) -> LazyPredictor:
        """The model of this process, loaded when the first batch wants it."""
        return lazy_predictor(self.config.inference, self.config.make)

    def run_inference(
        self,
        batch: Sequence[np.ndarray],
        model: LazyPredictor,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 (Beam's signature)
    ) -> list[Prediction]:
        """Labels any number of images."""
        size = self.config.inference.batch_size
        starts = range(0, len(batch), size)
        return [each for i in starts for each in self._predict(batch[i : i + size], model)]

    def _predict(self, images: Sequence[np.ndarray], model: LazyPredictor) -> list[Prediction]:
        pixels = np.zeros(
            (self.config.inference.batch_size, self.size_px, self.size_px, 3), np.uint8
        )
        for slot, image in enumerate(images):
            if image.shape != pixels.shape[1:] or image.dtype != np.uint8:
                raise UsageError(
                    f'pixels of shape {image.shape} and type {image.dtype}: '
                    f'{self.config.inference.model.card.name} takes {pixels.shape[1:]} and uint8'
                )
            pixels[slot] = image
        call = functools.partial(_call, model, pixels, len(images))
        found, guilty = model.devices.submit(call).result()
        failed = lost(found, guilty, len(images))
        return [
            Prediction([], None, failed[slot][0].value, failed[slot][1])
            if slot in failed
            else self._prediction(found, slot)
            for slot in range(len(images))
        ]

    def _prediction(self, found: predictor.Prediction, slot: int) -> Prediction:
        classes = self.config.inference.model.vocabulary
        count = found.counts[slot]
        labels = [
            Label(index, classes.wnids[index], classes.names[index], score)
            for index, score in zip(
                found.indices[slot, :count].tolist(),
                found.scores[slot, :count].tolist(),
                strict=True,
            )
        ]
        features = None if found.features is None else found.features[slot].tolist()
        return Prediction(labels, features)

    def get_num_bytes(self, batch: Sequence[np.ndarray]) -> int:
        """Bytes of pixels; Beam's default pickles the batch to know."""
        return sum(image.nbytes for image in batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """As many images as go into a call."""
        size = self.config.inference.batch_size
        return {'min_batch_size': size, 'max_batch_size': size}

    def get_metrics_namespace(self) -> str:
        """Where Beam counts."""
        return 'lemmabeam'
