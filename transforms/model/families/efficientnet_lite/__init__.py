"""EfficientNet-Lite (Tan and Le, 2019; the Lite variant of 2020): Lite0 is in this package."""

import functools
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transforms.core.errors import ModelError
from transforms.images.resize import Resize
from transforms.model.card import CAT, Activation, Canary, ModelCard
from transforms.model.choices import EMBEDDED
from transforms.model.families.base import Built, KnownModel, NotRebuiltError
from transforms.model.tensor_files import Kind, open_tensors
from transforms.model.vocabulary import ILSVRC2012, names_by_length

if TYPE_CHECKING:
    from transforms.model.resolve import ModelSource

PUBLISHED = ''
NAMES = ''
WEIGHTS = Path(str(importlib.resources.files('transforms.model'))) / (
    'data/efficientnet_lite0_ilsvrc2012_fp16.npz'
)
"""The weights of the embedded model, in the package."""

_STEM, _HEAD = 'stem/kernel', 'classifier/bias'

CARD = ModelCard(
    name='efficientnet-lite0',
    resize=Resize(size_px=224, short_side_px=256, filter='bicubic'),
    mean=127.0,
    std=128.0,
    activation=Activation.SOFTMAX,
    vocabulary=ILSVRC2012,
    threshold=0.05,
    max_labels=5,
    batch_size=32,
    # 0.95 with the right colours in the right range, 0.81 with red and blue exchanged, 0.74 with
    # samples from 0 to 1; the cat is one to this network in any colours.
    canary=(CAT, Canary('coffee.jpg', 'espresso', min_score=0.88)),
    source='EfficientNet-Lite0 trained on ILSVRC-2012',
    licence='Apache-2.0',
)


@functools.cache
def cards() -> Mapping[str, KnownModel]:
    """The embedded model."""
    return {EMBEDDED: KnownModel(CARD, EMBEDDED, 4_631_000, 385_187_552, file=WEIGHTS)}


def find_by_location(path: str) -> None:
    """It is published nowhere else in this form."""


def features(architecture: str) -> int:  # noqa: ARG001
    """Its card names no architecture."""
    raise ModelError('')


class _Lite0(NamedTuple):
    """See `transforms.model.families.base.Recognized`."""

    classes: int | None
    shown: str

    def describe(self, source: str) -> ModelCard:
        vocabulary = next(iter(names_by_length(self.classes or 0)), '')
        return CARD.with_changes(vocabulary=vocabulary, canary=(CAT,), source=source, licence='')

    def check(self, card: ModelCard, classes: int | None) -> ModelCard:
        if card.architecture:
            raise ModelError(
                f'{self.shown}: holds an EfficientNet-Lite0, but {card.name} is a '
                f'{card.architecture}'
            )
        if classes != self.classes:
            raise ModelError(
                f'{self.shown}: has a head of {self.classes} classes, but {card.name} has {classes}'
            )
        return card


def recognize(path: Path, shown: str) -> _Lite0 | None:
    """See `transforms.model.families.base.Family`; by the names of the first and the last layer."""
    with open_tensors(path, shown) as tensors:
        head = tensors.shapes.get(_HEAD)
        return _Lite0(head[0], shown) if head and _STEM in tensors.shapes else None


def build(source: 'ModelSource', path: Path, precision: str, batch_size: int) -> Built:  # noqa: ARG001
    """See `transforms.model.families.base.Family`."""
    if source.kind is Kind.SAVED_MODEL:
        raise NotRebuiltError
    from transforms.model.families.efficientnet_lite import network

    card = source.card
    with open_tensors(path, str(path)) as tensors:
        weights = {name: tensors[name] for name in tensors.shapes}
    model = network.build(weights, card.resize.size_px, len(source.vocabulary), precision=precision)
    return Built(model, card.mean, card.std)
