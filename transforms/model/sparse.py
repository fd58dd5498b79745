"""From dense logits to the few labels of each image, on the device."""

import keras
from keras import ops

from transforms.model.card import Activation

_ACTIVATIONS = {Activation.SIGMOID: ops.sigmoid, Activation.SOFTMAX: ops.softmax}


def sparse_labels(
    logits: keras.KerasTensor,
    activation: Activation,
    threshold: float,
    max_labels: int,
    min_labels: int,
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """The labels of a batch.

    Args:
      logits: (N, classes) float32.
      activation: what makes scores of them.
      threshold: a class is a label if its score reaches it.
      max_labels: at most so many labels, the best.
      min_labels: at least so many, whatever their scores.

    Returns:
      indices: (N, k) int32 by falling score, ties by index; k = min(max_labels, classes).
      scores: (N, k) float32 in [0, 1].
      counts: (N,) int32, how many of the k are labels; -1 where a logit is not finite.
    """
    k = min(max_labels, logits.shape[-1])
    scores, indices = ops.top_k(_ACTIVATIONS[activation](logits), k)
    counts = ops.sum(ops.cast(scores >= threshold, 'int32'), axis=-1)
    counts = ops.maximum(counts, min(min_labels, k))
    is_finite = ops.all(ops.isfinite(logits), axis=-1)
    return ops.cast(indices, 'int32'), scores, ops.where(is_finite, counts, -1)
