"""The precision receipt: how far the labels of a run agree with those in float32.

`transforms.model.witness` makes them.
"""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from transforms.model.choices import FLOAT32

STATISTIC = 'receipt/'
"""How the name of a statistic begins whose rest is a receipt; its value is how often there is one.
"""


class Receipt(NamedTuple):
    """How far a precision agrees with float32 on the same images.

    Attributes:
      images: so many were computed in both.
      same_best: of how many the best class is the same.
      jaccard: of the labels of an image in one and in the other, labels of both divided by labels
        of either, the mean of all images; 1 for an image without any in both.
      largest: difference of the scores of a class, in [0, 1] if the scores are.
      p99: the 99th percentile of these differences; of several receipts put together, the largest
        one.
    """

    images: int
    same_best: int
    jaccard: float
    largest: float
    p99: float

    @property
    def agreement(self) -> float:
        """Share of the images whose best class is the same; 1 of none."""
        return self.same_best / self.images if self.images else 1.0

    def __str__(self) -> str:
        return (
            f'{self.agreement:.1%} of {self.images:,} images have the same best class as in '
            f'{FLOAT32}, labels overlap by {self.jaccard:.1%}, scores differ by {self.largest:.2g} '
            f'at most, {self.p99:.2g} at the 99th percentile'
        )


def merge(receipts: Iterable[Receipt]) -> Receipt | None:
    """One receipt of all; None of none."""
    found = [receipt for receipt in receipts if receipt.images]
    if not found:
        return None
    images = sum(receipt.images for receipt in found)
    return Receipt(
        images,
        sum(receipt.same_best for receipt in found),
        sum(receipt.jaccard * receipt.images for receipt in found) / images,
        max(receipt.largest for receipt in found),
        max(receipt.p99 for receipt in found),
    )


def as_statistic(receipt: Receipt) -> tuple[str, float]:
    """A statistic that says it: sums of such have each as often as it was given."""
    return f'{STATISTIC}{json.dumps(receipt)}', 1.0


def of_statistics(stats: Mapping[str, float]) -> Receipt | None:
    """What the receipts among the statistics of a run come to; None without any."""
    return merge(
        Receipt(*json.loads(name.removeprefix(STATISTIC)))
        for name, count in stats.items()
        for _ in range(round(count))
        if name.startswith(STATISTIC)
    )
