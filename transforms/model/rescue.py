"""Saves the images of a batch on which the model failed, except those that cause it."""

from collections.abc import Callable, Sequence

import numpy as np

from transforms.core.errors import InferenceError, ModelError
from transforms.model.predictor import Prediction

Predict = Callable[[np.ndarray], Prediction]


def predict_or_rescue(
    predict: Predict, pixels: np.ndarray, slots: Sequence[int]
) -> tuple[Prediction, dict[int, str]]:
    """Calls the model on a batch, and on parts of it if that fails.

    Every call has the full size, with each image in its original slot: the last bits of a score
      depend on both, and on nothing else.

    Args:
      predict: the model; takes (N, S, S, 3) uint8.
      pixels: (N, S, S, 3) uint8 RGB in [0, 255].
      slots: which slots hold images.

    Returns:
      What the model says of the batch, and the error of each slot that fails even alone.

    Raises:
      ModelError: it fails even without any image, so none is to blame.
    """
    try:
        return predict(pixels), {}
    except InferenceError as e:
        _blame_the_model(predict, pixels, e)
    guilty: dict[int, str] = {}
    rescued: Prediction | None = None
    waiting = [list(slots)]
    if len(slots) > 1:  # alone it has a second try; more of them have it in their halves
        waiting = _halves(slots)
    while waiting:
        part = waiting.pop()
        alone = np.zeros_like(pixels)
        alone[part] = pixels[part]
        try:
            found = predict(alone)
        except InferenceError as e:
            if len(part) > 1:
                waiting += _halves(part)
                continue
            _blame_the_model(predict, pixels, e)
            guilty[part[0]] = e.detail
            continue
        rescued = found if rescued is None else _merged(rescued, found, part)
    if rescued is None:
        rescued = predict(np.zeros_like(pixels))
    return rescued, guilty


def _blame_the_model(predict: Predict, pixels: np.ndarray, error: InferenceError) -> None:
    try:
        predict(np.zeros_like(pixels))
    except InferenceError:
        raise ModelError(f'the model fails even without any image: {error}') from error


def _halves(slots: Sequence[int]) -> list[list[int]]:
    middle = len(slots) // 2
    return [list(slots[:middle]), list(slots[middle:])]


def _merged(one: Prediction, other: Prediction, slots: Sequence[int]) -> Prediction:
    """`one`, with these rows of `other`."""

    def rows(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        both = ours.copy()
        both[slots] = theirs[slots]
        return both

    features = None
    if one.features is not None and other.features is not None:
        features = rows(one.features, other.features)
    return Prediction(
        rows(one.indices, other.indices),
        rows(one.scores, other.scores),
        rows(one.counts, other.counts),
        features,
    )
