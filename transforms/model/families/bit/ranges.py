"""Which samples a BiT network takes, and how pixels are brought to them."""

from typing import Any

import numpy as np

from transforms.model.card import ModelCard

Range = tuple[float, float]
EXPORTED: Range = (0.0, 1.0)
OWN_RANGE: Range = (-1.0, 1.0)
"""What the networks of `transforms.model.families.bit.resnet` take for black and white."""
RANGES: tuple[Range, ...] = (EXPORTED, OWN_RANGE, (0.0, 255.0))


def range_of(card: ModelCard) -> Range | None:
    """The range of a card; None for one with other means and deviations."""
    for low, high in RANGES:
        std = 255.0 / (high - low)
        if (card.mean, card.std) == (0.0 - low * std, std):
            return low, high
    return None


def normalization(card: ModelCard, taken: Range) -> tuple[Any, Any]:
    """What brings samples to the [-1, 1] of the network, as the graph of the SavedModel would.

    Args:
      card: of the model.
      taken: what the SavedModel takes for black and white; the [-1, 1] of the network itself where
        there is none.

    Returns:
      Mean and standard deviation of samples in [0, 255].

    A card that says another range than the graph takes is wrong; one that normalizes in a way of
    its own is obeyed.
    """
    if range_of(card) is not None:
        return 127.5, 127.5
    low, high = taken
    mean, std = np.asarray(card.mean), np.asarray(card.std)
    return mean + std * (low + high) / 2, std * (high - low) / 2
