"""Which outputs of a model that is used as it was saved are the logits, and the features."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from transforms.core.errors import ModelError
from transforms.model.card import ModelCard
from transforms.model.families.base import FEATURES, LOGITS

T = TypeVar('T')


def pick(
    outputs: Mapping[str, T], form: Callable[[T], str], card: ModelCard, shown: str
) -> tuple[str | None, str | None]:
    """Names of the output with the logits, and of that with the features.

    Args:
      outputs: all of them by name.
      form: tells the shape and type of one, for people.
      card: of the model.
      shown: what messages call it.

    Returns:
      None for what the model does not have.

    Raises:
      ModelError: it has several, and the card names none, or one that it does not have.
    """
    has_features = FEATURES in outputs
    if not card.has_classes:
        by_name = has_features and not card.output
        return None, FEATURES if by_name else _only(outputs, form, card, shown)
    return _only(outputs, form, card, shown), FEATURES if has_features else None


def _only(outputs: Mapping[str, T], form: Callable[[T], str], card: ModelCard, shown: str) -> str:
    """The name of the output that is meant."""
    others = [name for name in outputs if name != FEATURES]
    wanted_name = card.output or LOGITS
    if wanted_name in outputs:
        return wanted_name
    if not card.output and len(others) == 1:
        return others[0]
    shapes = ', '.join(f'{name!r} {form(outputs[name])}' for name in sorted(outputs))
    wanted = f'no output {card.output!r}' if card.output else f'{len(others)} outputs'
    raise ModelError(
        f"{shown} has {wanted}: {shapes}; name the one with the logits as 'output' in its "
        'model card'
    )
