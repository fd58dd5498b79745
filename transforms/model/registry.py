"""Models by name."""

import dataclasses
import functools
import hashlib
import importlib.resources
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from transforms.errors import UsageError
from transforms.model.card import Activation, ModelCard, Resize

if TYPE_CHECKING:
    import keras

_DATA = importlib.resources.files('transforms.model') / 'data'

EMBEDDED = 'embedded'


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded: its card, and a function that reads its weights.

    Attributes:
      card: what the model is.
      fingerprint: hex SHA-256 over weights and card, see `ModelCard.fingerprint`.
      build: makes the network, (N, S, S, 3) float32 normalized images to (N, classes) logits.
    """

    card: ModelCard
    fingerprint: str
    build: Callable[[], 'keras.Model']

    @property
    def id(self) -> str:
        """The name under which its predictions stand."""
        return f'{self.card.name}-{self.fingerprint[:8]}'


_EMBEDDED_CARD = ModelCard(
    name='efficientnet-lite0',
    resize=Resize(size_px=224, short_side_px=256, filter='bicubic'),
    mean=127.0,
    std=128.0,
    activation=Activation.SOFTMAX,
    classes=1000,
    vocabulary='ilsvrc2012',
    threshold=0.05,
    max_labels=5,
    batch_size=32,
    source='EfficientNet-Lite0 trained on ILSVRC-2012',
    licence='Apache-2.0',
)


def get_model(name: str) -> ModelSource:
    """Finds a model.

    Args:
      name: the value of --model.

    Raises:
      UsageError: there is no such model.
    """
    if name != EMBEDDED:
        raise UsageError(f'--model {name!r} is not known; this version has: {EMBEDDED}')
    return _embedded()


@functools.cache
def _embedded() -> ModelSource:
    data = (_DATA / 'efficientnet_lite0_ilsvrc2012_fp16.npz').read_bytes()
    fingerprint = _EMBEDDED_CARD.fingerprint(hashlib.sha256(data).hexdigest())
    return ModelSource(_EMBEDDED_CARD, fingerprint, _build_embedded)


def _build_embedded() -> 'keras.Model':
    from transforms.model import efficientnet_lite

    data = (_DATA / 'efficientnet_lite0_ilsvrc2012_fp16.npz').read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    card = _EMBEDDED_CARD
    return efficientnet_lite.build(weights, card.resize.size_px, card.classes)
