"""BiT: ResNet-v2 with group normalization and weight standardization."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transforms.model.card import ModelCard
from transforms.model.families.base import Built
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.families.bit.known import (
    NAMES,
    PUBLISHED,
    cards,
    checkpoint_card,
    find_by_location,
)
from transforms.model.families.bit.ranges import OWN_RANGE, normalization
from transforms.model.families.bit.weights import NoBitError, Weights
from transforms.model.tensor_files import Kind

if TYPE_CHECKING:
    from transforms.model.resolve import ModelSource

__all__ = ['NAMES', 'PUBLISHED', 'build', 'cards', 'features', 'find_by_location', 'recognize']


def features(architecture: str) -> int:
    """See `transforms.model.families.base.Family`; (2048 x width) float32."""
    return Architecture.parse(architecture).features


class _Recognized(NamedTuple):
    """See `transforms.model.families.base.Recognized`."""

    weights: Weights
    classes: int | None

    def describe(self, source: str) -> ModelCard:
        architecture = self.weights.architecture
        return checkpoint_card(
            f'bit-{architecture}'.lower(), architecture, self.classes, source=source
        )

    def check(self, card: ModelCard, classes: int | None) -> ModelCard:
        architecture = card.architecture or str(self.weights.architecture)
        self.weights.check(Architecture.parse(architecture), classes, card.name)
        return card.with_changes(architecture=architecture)


def recognize(path: Path, shown: str) -> _Recognized | None:
    """See `transforms.model.families.base.Family`; by the names and shapes of the tensors."""
    try:
        with Weights(path, shown) as weights:
            return _Recognized(weights, weights.classes)
    except NoBitError:
        return None


def build(source: 'ModelSource', path: Path, precision: str, batch_size: int) -> Built:
    """See `transforms.model.families.base.Family`.

    A SavedModel gives its tensors, if their network computes what that one does.
    """
    if source.kind is Kind.SAVED_MODEL:
        from transforms.model.families.bit import rebuild

        return rebuild.build(source, path, precision, batch_size)
    from transforms.model.families.bit import resnet
    from transforms.model.resolve import printable_location

    card = source.card
    architecture, classes = Architecture.parse(card.architecture), len(source.vocabulary) or None
    with Weights(path, printable_location(source.location)) as tensors:
        network = resnet.build(architecture, classes, tensors, precision=precision)
    return Built(network, *normalization(card, OWN_RANGE))
