"""Models that fail on command, to be handed in; they take no time, as that of `without_model`."""

import io

import numpy as np
from PIL import Image

from tests.support import without_model
from transforms.core.errors import InferenceError
from transforms.model.predictor import Prediction

_COLOUR = (255, 0, 255)


def poison() -> bytes:
    """A picture on which `Poisoned` fails."""
    data = io.BytesIO()
    Image.new('RGB', (64, 48), _COLOUR).save(data, 'PNG')
    return data.getvalue()


class Poisoned(without_model.Predictor):
    """Fails on every batch that has a poisoned picture in it."""

    def __call__(self, pixels: np.ndarray) -> Prediction:
        if (pixels == np.array(_COLOUR, np.uint8)).all(axis=(1, 2, 3)).any():
            raise InferenceError('a poisoned picture in the batch', 'Poison')
        return super().__call__(pixels)


class Broken(without_model.Predictor):
    """Fails whatever it is given."""

    def __call__(self, pixels: np.ndarray) -> Prediction:
        raise InferenceError('broken on command', 'Broken')
