"""Computes the first images of a worker process in float32 as well: what `receipt` tells of.

So what a precision does to the labels of one's own pictures is known before a million are paid for.
"""

import gc
import logging
from collections.abc import Sequence

import numpy as np

from transforms.core.errors import InferenceError, ModelError
from transforms.model.choices import FLOAT32, OFF, REDUCED
from transforms.model.predictor import InferenceOptions, MakeModel, Model, Prediction
from transforms.model.receipt import Receipt, merge

_LOGGER = logging.getLogger(__name__)


def in_float32(options: InferenceOptions) -> InferenceOptions:
    """The same model, to be held against."""
    return options._replace(precision=FLOAT32, canary=OFF, features=False)


def compare(found: Prediction, exact: Prediction, slots: Sequence[int]) -> Receipt:
    """Compares two predictions of a batch.

    Scores are known of the best classes only: of one that is among those of one prediction alone,
    the difference is what it exceeds the last score of the other one by.

    Args:
      found: in the precision of the run.
      exact: in float32.
      slots: which hold images that both have labels for.
    """
    same_best, overlaps, differences = 0, [], [0.0]
    for slot in slots:
        same_best += int(found.indices[slot, 0] == exact.indices[slot, 0])
        one, other = (
            dict(zip(each.indices[slot].tolist(), each.scores[slot].tolist(), strict=True))
            for each in (found, exact)
        )
        ours, theirs = (
            set(each.indices[slot, : each.counts[slot]].tolist()) for each in (found, exact)
        )
        overlaps.append(len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0)
        differences += [abs(score - other[index]) for index, score in one.items() if index in other]
        for these, those in ((one, other), (other, one)):
            least = min(those.values())
            differences += [
                max(0.0, score - least) for index, score in these.items() if index not in those
            ]
    return Receipt(
        len(slots),
        same_best,
        float(np.mean(overlaps)) if overlaps else 1.0,
        max(differences),
        float(np.percentile(differences, 99)),
    )


class Witness:
    """Computes the first images of a process in float32 as well; not thread-safe.

    Args:
      options: how the model is called; `precision_receipt` says of how many images.
      make: makes the model that computes in float32.
    """

    def __init__(self, options: InferenceOptions, make: MakeModel):
        self._options = options
        self._make = make
        self._exact: Model | None = None
        self._seen: list[Receipt] = []
        self._refusal = ''
        source = options.model
        # What is used as it was saved has no other precision.
        has_another = source.card.has_classes and source.can_be_rebuilt
        self._is_over = not (options.precision_receipt and has_another)

    def look(
        self, pixels: np.ndarray, found: Prediction, slots: Sequence[int], precision: str
    ) -> Receipt | None:
        """Compares a batch, unless enough images were compared.

        Args:
          pixels: (N, S, S, 3) uint8 RGB.
          found: what the model of the run says of them.
          slots: which hold images.
          precision: that it has computed in.

        Raises:
          ModelError: too few images have the same best class.
        """
        if self._refusal:  # also where a runner tries the same again
            raise ModelError(self._refusal)
        if self._is_over or precision not in REDUCED:
            return None
        try:
            if self._exact is None:
                self._exact = self._make(in_float32(self._options))
            exact = self._exact(pixels)
        except (ModelError, InferenceError) as e:
            _LOGGER.warning(
                'no precision receipt: the model cannot be computed in %s beside %s: %s '
                '(--precision_receipt 0 does not try)',
                *(FLOAT32, precision, e),
            )
            self._end()
            return None
        both = [slot for slot in slots if min(found.counts[slot], exact.counts[slot]) >= 0]
        receipt = compare(found, exact, both)
        self._seen.append(receipt)
        merged = merge(self._seen)
        if merged and merged.images >= self._options.precision_receipt:
            self._end()
            self._refusal = refusal(merged, precision, self._options.min_agreement)
            if self._refusal:
                raise ModelError(self._refusal)
        return receipt

    def _end(self) -> None:
        """Makes room on the device."""
        self._is_over, self._exact = True, None
        gc.collect()


def refusal(receipt: Receipt, precision: str, min_agreement: float) -> str:
    """Why a precision changes too much, and what to do; '' if it does not."""
    if receipt.agreement >= min_agreement:
        return ''
    return (
        f'--precision {precision}: {receipt}; expected the same best class for '
        f'{min_agreement:.0%} at least (--min_agreement). Take --precision {FLOAT32}, or a lower '
        'floor if these labels will do'
    )
