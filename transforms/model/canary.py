"""The canary: what a model must see in known pictures before it labels unknown ones.

A wrong value range, channel or class order gives plausible scores for the wrong classes, which
somebody may notice a million rows later.  Here it is found when each worker starts.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transforms.core.errors import ImageError, InvalidOption, ModelError
from transforms.images.decode import decode
from transforms.model.card import CAT, Activation, Canary, ModelCard
from transforms.model.choices import FINITE, STRICT
from transforms.model.resolve import ModelSource
from transforms.model.vocabulary import Vocabulary

TOP = 5
"""How many of the best classes are checked, whatever the threshold; fewer if the list is short."""

# Any two pictures serve to see whether a model tells them apart.
_TWO_PICTURES = ('cat.jpg', 'coffee.jpg')
# With fewer classes, logits may well lie between 0 and 1 by chance.
_MANY_CLASSES = 20


class Seen(NamedTuple):
    """What a model gave for one picture.

    Attributes:
      indices, scores: (k,) of its best classes, by falling score.
      is_finite: whether every score was.
      features: (length,) float16, or None.
    """

    indices: np.ndarray
    scores: np.ndarray
    is_finite: bool
    features: np.ndarray | None


def default_mode(card: ModelCard) -> str:
    """Strict for a card that says what must be seen."""
    return STRICT if card.canary else FINITE


def check_mode(mode: str, source: ModelSource) -> None:
    """Refuses `strict` for a model without anything that it must see.

    Raises:
      UsageError: it is refused.
    """
    if mode == STRICT and not _expected(source):
        raise InvalidOption(
            'canary',
            mode,
            f"the card of {source.card.name} has no 'canary' (an image and what must be seen "
            'in it), and none of its classes is a WordNet feline; add one, or use --canary '
            'finite',
        )


def run_canary(
    mode: str, source: ModelSource, call: Callable[[Sequence[np.ndarray]], Sequence[Seen]]
) -> None:
    """Sends known pictures through the whole path, from the decoder to the labels.

    Args:
      mode: `STRICT` or `FINITE`.
      source: the model.
      call: labels pictures, each (S, S, 3) uint8, with at least `TOP` classes each.

    Raises:
      ModelError: the model does not see what it must; says what it saw.
    """
    expected = _expected(source) if mode == STRICT else ()
    names = list(dict.fromkeys((*_TWO_PICTURES, *(canary.image for canary in expected))))
    seen = dict(zip(names, call([_decode(source, name) for name in names]), strict=True))
    one, other = _TWO_PICTURES
    _check_finite(seen[one], seen[other], source)
    for canary in expected:
        _check_seen(canary, seen[canary.image], source.vocabulary)


def _expected(source: ModelSource) -> tuple[Canary, ...]:
    if source.card.canary:
        return source.card.canary
    return (CAT,) if source.vocabulary.has(CAT.expected) else ()


def pixels_of(data: bytes, source: ModelSource) -> np.ndarray:
    """A picture as a model takes it: (S, S, 3) uint8 RGB in [0, 255].

    Raises:
      ImageError: it cannot be decoded.
    """
    return decode(data, source.card.resize)


def _decode(source: ModelSource, name: str) -> np.ndarray:
    try:
        return pixels_of(source.picture(name), source)
    except ImageError as e:
        raise ModelError(f'the canary image {name!r} cannot be decoded: {e}') from e


def _check_finite(one: Seen, other: Seen, source: ModelSource) -> None:
    activation, classes = source.card.activation, len(source.vocabulary)
    scores = np.concatenate([one.scores, other.scores])
    if not (one.is_finite and other.is_finite):
        raise ModelError(
            _refused(
                'its outputs for known images are NaN or infinite, or its features exceed what '
                'float16 can hold'
            )
        )
    if activation is not Activation.NONE and not ((scores >= 0) & (scores <= 1)).all():
        raise ModelError(_refused(f'it gives scores from {scores.min():g} to {scores.max():g}'))
    if len(scores) and _is_activated_twice(scores, classes, activation):
        raise ModelError(
            _refused(
                'all its outputs lie between 0 and 1, so they are probably scores already: '
                f'"activation" in its card should then be "none", not "{activation.value}"'
            )
        )
    if (
        np.array_equal(one.indices, other.indices)
        and np.array_equal(one.scores, other.scores)
        and (
            one.features is None
            or other.features is None
            or np.array_equal(one.features, other.features)
        )
    ):
        raise ModelError(_refused('it gives the same outputs for two different images'))


def _is_activated_twice(scores: np.ndarray, classes: int, activation: Activation) -> bool:
    """Whether all logits can have been from 0 to 1, which those of many classes never are."""
    if classes < _MANY_CLASSES:
        return False
    match activation:
        case Activation.SOFTMAX:
            low, high = 0.0, math.e / (math.e + classes - 1)
        case Activation.SIGMOID:
            low, high = 0.5, 1 / (1 + math.exp(-1))
        case _:
            return False
    return bool(low <= scores.min() and scores.max() <= high * (1 + 1e-6))


def _check_seen(canary: Canary, seen: Seen, vocabulary: Vocabulary) -> None:
    # Among the best five of five classes are all.
    top = max(1, min(TOP, len(vocabulary) // 4))
    best = list(zip(seen.indices[:top].tolist(), seen.scores[:top].tolist(), strict=True))
    right = [score for index, score in best if vocabulary.is_it(index, canary.expected)]
    if right and sum(right) >= canary.min_score:
        return
    labels = ', '.join(f'{vocabulary.names[index]} {score:.2f}' for index, score in best)
    wanted = f'{canary.expected}' + (
        f' with at least {canary.min_score:g}' if canary.min_score else ''
    )
    raise ModelError(
        _refused(
            f'it should see {wanted} in the image {canary.image!r}, but its best labels are '
            f'{labels}; its value range or the order of its channels or classes is wrong, or '
            'the export is broken'
        )
    )


def _refused(what: str) -> str:
    return (
        f'the model failed its canary, so nothing was labelled: {what}. If that is expected, '
        'pass a weaker --canary'
    )
