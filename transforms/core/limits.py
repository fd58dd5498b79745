"""How large a picture may be."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PixelLimits:
    """The most pixels an image may claim in its header.

    A baseline JPEG is decoded at a reduced size, so it takes little memory however large it is.  A
    QOI may have 10 million, as decoding it is slow.
    """

    max_px: int = 50_000_000
    max_baseline_jpeg_px: int = 200_000_000


DEFAULT_LIMITS = PixelLimits()
