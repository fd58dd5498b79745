"""From dense logits to the few labels of each image, on the device."""

import keras
from keras import ops

from transforms.model.card import Activation

_ACTIVATIONS = {
    Activation.SIGMOID: ops.sigmoid,
    Activation.SOFTMAX: ops.softmax,
    Activation.NONE: lambda logits: logits,
}


def sparse_labels(
    logits: keras.KerasTensor,
    activation: Activation,
    threshold: float,
    max_labels: int,
    min_labels: int,
    at_least: int = 0,
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """The labels of a batch.

    Args:
      logits: (N, classes) float32.
      activation: what makes scores of them.
      threshold: a class is a label if its score reaches it.
      max_labels: at most this many labels, the best.
      min_labels: at least this many, whatever their scores.
      at_least: return this many of the best classes, even if fewer are labels.

    Returns:
      indices: (N, k) int32 by falling score, ties by index; k = min(max(max_labels, at_least),
        classes).
      scores: (N, k) float32, in [0, 1] except for the activation 'none'.
      counts: (N,) int32, how many of the k are labels; -1 if a logit is not finite.
    """
    classes = logits.shape[-1]
    k = min(max(max_labels, at_least), classes)
    scores, indices = ops.top_k(_ACTIVATIONS[activation](logits), k)
    counts = ops.sum(ops.cast(scores >= threshold, 'int32'), axis=-1)
    counts = ops.clip(counts, min(min_labels, classes), min(max_labels, classes))
    is_finite = ops.all(ops.isfinite(logits), axis=-1)
    return ops.cast(indices, 'int32'), scores, ops.where(is_finite, counts, -1)
