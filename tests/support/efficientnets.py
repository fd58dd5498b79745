"""Counts what an EfficientNetV2 is made of, layer by layer, from the description by its authors."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """Blocks of the same width, of 3 x 3 kernels.

    Attributes:
      is_fused: a full convolution in place of a depthwise one with squeeze and excitation.
      blocks, stride, expansion, channels: `stride` is that of the first block.
    """

    is_fused: bool
    blocks: int
    stride: int
    expansion: int
    channels: int


class Variant(NamedTuple):
    """One of the family; width and depth are factors of its stages."""

    stages: Sequence[Stage]
    stem_channels: int
    width: float
    depth: float
    size_px: int


def _stages(*rows: tuple[bool, int, int, int, int]) -> list[Stage]:
    return [Stage(*row) for row in rows]


_BASE = _stages(
    (True, 1, 1, 1, 16), (True, 2, 2, 4, 32), (True, 2, 2, 4, 48),
    (False, 3, 2, 4, 96), (False, 5, 1, 6, 112), (False, 8, 2, 6, 192),
)  # fmt: skip
_SMALL = _stages(
    (True, 2, 1, 1, 24), (True, 4, 2, 4, 48), (True, 4, 2, 4, 64),
    (False, 6, 2, 4, 128), (False, 9, 1, 6, 160), (False, 15, 2, 6, 256),
)  # fmt: skip
_MEDIUM = _stages(
    (True, 3, 1, 1, 24), (True, 5, 2, 4, 48), (True, 5, 2, 4, 80), (False, 7, 2, 4, 160),
    (False, 14, 1, 6, 176), (False, 18, 2, 6, 304), (False, 5, 1, 6, 512),
)  # fmt: skip
_LARGE = _stages(
    (True, 4, 1, 1, 32), (True, 7, 2, 4, 64), (True, 7, 2, 4, 96), (False, 10, 2, 4, 192),
    (False, 19, 1, 6, 224), (False, 25, 2, 6, 384), (False, 7, 1, 6, 640),
)  # fmt: skip
_EXTRA_LARGE = _stages(
    (True, 4, 1, 1, 32), (True, 8, 2, 4, 64), (True, 8, 2, 4, 96), (False, 16, 2, 4, 192),
    (False, 24, 1, 6, 256), (False, 32, 2, 6, 512), (False, 8, 1, 6, 640),
)  # fmt: skip

VARIANTS = {
    'b0': Variant(_BASE, 32, 1.0, 1.0, 224),
    'b1': Variant(_BASE, 32, 1.0, 1.1, 240),
    'b2': Variant(_BASE, 32, 1.1, 1.2, 260),
    'b3': Variant(_BASE, 32, 1.2, 1.4, 300),
    's': Variant(_SMALL, 24, 1.0, 1.0, 384),
    'm': Variant(_MEDIUM, 24, 1.0, 1.0, 480),
    'l': Variant(_LARGE, 32, 1.0, 1.0, 480),
    'xl': Variant(_EXTRA_LARGE, 32, 1.0, 1.0, 512),
}


class _Counter:
    def __init__(self) -> None:
        self.parameters = 0
        self.multiply_adds = 0

    def convolve(self, kernel: int, inputs: int, outputs: int, side: int, groups: int = 1) -> None:
        """With its normalization, to a map of this side."""
        weights = kernel * kernel * inputs * outputs // groups
        self.parameters += weights + 2 * outputs
        self.multiply_adds += weights * side * side

    def connect(self, inputs: int, outputs: int) -> None:
        """With a bias."""
        self.parameters += (inputs + 1) * outputs
        self.multiply_adds += inputs * outputs


def count(variant: Variant, classes: int) -> tuple[int, int]:
    """Trained values, and multiply-adds for an image of its size."""

    def scaled(channels: int) -> int:
        return int(channels * variant.width + 4) // 8 * 8

    found = _Counter()
    side, channels = math.ceil(variant.size_px / 2), scaled(variant.stem_channels)
    found.convolve(3, 3, channels, side)
    for stage in variant.stages:
        outputs = scaled(stage.channels)
        for block in range(math.ceil(stage.blocks * variant.depth)):
            before, wide = side, channels * stage.expansion
            side = math.ceil(side / (1 if block else stage.stride))
            if not stage.is_fused:
                found.convolve(1, channels, wide, before)
                found.convolve(3, wide, wide, side, groups=wide)
                found.connect(wide, channels // 4)
                found.connect(channels // 4, wide)
                found.convolve(1, wide, outputs, side)
            elif stage.expansion == 1:
                found.convolve(3, channels, outputs, side)
            else:
                found.convolve(3, channels, wide, side)
                found.convolve(1, wide, outputs, side)
            channels = outputs
    found.convolve(1, channels, scaled(1280), side)
    found.connect(scaled(1280), classes)
    return found.parameters, found.multiply_adds
