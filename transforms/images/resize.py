"""How an image becomes the square that a network takes."""

import dataclasses

from transforms.core.errors import InvalidOption

FILTERS = ('bilinear', 'bicubic')
MIN_SIZE_PX, MAX_SIZE_PX = 16, 4096


@dataclasses.dataclass(frozen=True)
class Resize:
    """How an image becomes the square the network takes.

    Attributes:
      size_px: side of the square.
      short_side_px: the short side is scaled to this many pixels and the centre cropped; None
        squashes the whole image to the square, whatever its aspect.
      filter: 'bilinear' or 'bicubic', both antialiased when they shrink.
    """

    size_px: int
    short_side_px: int | None
    filter: str

    def to_size(self, size_px: int) -> 'Resize':
        """The same rule for another square.

        Raises:
          UsageError: no network works on a square of this size.
        """
        if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
            why = f'expected {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels'
            raise InvalidOption('model_size', str(size_px), why)
        short = self.short_side_px
        if short is not None:
            short = round(short * size_px / self.size_px)
        return dataclasses.replace(self, size_px=size_px, short_side_px=short)
