"""Official BiT checkpoints: which tensors they hold.

Does not import Keras, so that names, sizes and wrong files can be reported without it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.tensor_files import Shapes, listed

ROOT_CHANNELS = 64
EXPANSION = 4

_KERNEL_EPSILON = 1e-10
_UNITS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_HEAD = 'resnet/head/conv2d'
HEAD_KERNEL = f'{_HEAD}/kernel'
_MOST_CLASSES = 1_000_000
_UNIT = re.compile(r'resnet/block(\d+)/unit(\d+)/')


class Architecture(NamedTuple):
    """Depth and width of a network, 'R101x3' as (101, 3).

    R14 is not published: one unit per block, for tests.
    """

    depth: int
    width: int

    def __str__(self) -> str:
        return f'R{self.depth}x{self.width}'

    @classmethod
    def parse(cls, name: str) -> 'Architecture':
        """Reads 'R101x3'.

        Raises:
          ModelError: not of this form, or no such depth.
        """
        match = re.fullmatch(r'[Rr](\d{1,4})[Xx](\d{1,2})', name)
        if match is None or int(match[1]) not in _UNITS or int(match[2]) == 0:
            depths = ', '.join(f'R{depth}' for depth in _UNITS)
            raise ModelError(
                f'unknown BiT architecture {name!r}; depths are {depths}, as in R101x3'
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def features(self) -> int:
        """Length of the pooled feature vector."""
        return 2048 * self.width

    def units(self) -> Iterator['Unit']:
        """The residual units from input to output."""
        channels = ROOT_CHANNELS * self.width
        for block, count in enumerate(_UNITS[self.depth], 1):
            inner = ROOT_CHANNELS * self.width * 2 ** (block - 1)
            for unit in range(1, count + 1):
                stride = 2 if unit == 1 and block > 1 else 1
                yield Unit(f'block{block}/unit{unit:02d}', channels, inner, stride, unit == 1)
                channels = inner * EXPANSION


class Unit(NamedTuple):
    """One pre-activation bottleneck.

    Attributes:
      name: 'block1/unit01'.
      channels: of its input.
      inner: channels of its 3 x 3 convolution; its output has four times as many.
      stride: of the 3 x 3 convolution and of the projection.
      has_projection: whether the shortcut is a 1 x 1 convolution.
    """

    name: str
    channels: int
    inner: int
    stride: int
    has_projection: bool


def layout(architecture: Architecture, classes: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an official checkpoint, in its order.

    Args:
      architecture: depth and width.
      classes: of the head; None for a checkpoint without one.
    """
    shapes: dict[str, tuple[int, ...]] = {
        kernel_name('root_block'): (7, 7, 3, ROOT_CHANNELS * architecture.width)
    }
    for unit in architecture.units():
        parts = {
            'a': (1, 1, unit.channels, unit.inner),
            'b': (3, 3, unit.inner, unit.inner),
            'c': (1, 1, unit.inner, unit.inner * EXPANSION),
        }
        for part, shape in parts.items():
            shapes |= _norm(f'{unit.name}/{part}/', shape[2])
            shapes[kernel_name(f'{unit.name}/{part}')] = shape
        if unit.has_projection:
            projection = (1, 1, unit.channels, unit.inner * EXPANSION)
            shapes[kernel_name(f'{unit.name}/a/proj')] = projection
    shapes |= _norm('', architecture.features)
    if classes is not None:
        shapes[HEAD_KERNEL] = (1, 1, architecture.features, classes)
        shapes[f'{_HEAD}/bias'] = (classes,)
    return shapes


def kernel_name(name: str) -> str:
    """The tensor of a convolution, 'block1/unit01/a' for example."""
    return f'resnet/{name}/standardized_conv2d/kernel'


def _norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f'resnet/{prefix}group_norm/{part}': (channels,) for part in ('beta', 'gamma')}


def parameters(architecture: Architecture, classes: int | None) -> int:
    """Number of trained values."""
    return sum(math.prod(shape) for shape in layout(architecture, classes).values())


def multiply_adds(architecture: Architecture, classes: int | None, size_px: int) -> int:
    """Multiply-add operations of convolutions and head for one image of size_px x size_px."""
    shapes = layout(architecture, classes)
    side = (size_px + 6 - 7) // 2 + 1
    total = side**2 * math.prod(shapes[kernel_name('root_block')])
    side = (side + 2 - 3) // 2 + 1
    for unit in architecture.units():
        before, side = side, (side - 1) // unit.stride + 1
        total += before**2 * math.prod(shapes[kernel_name(f'{unit.name}/a')])
        for part in ('b', 'c', 'a/proj') if unit.has_projection else ('b', 'c'):
            total += side**2 * math.prod(shapes[kernel_name(f'{unit.name}/{part}')])
    return total + architecture.features * (classes or 0)


def standardize(kernel: np.ndarray) -> np.ndarray:
    """A kernel (H, W, I, O) with mean 0 and variance 1 for each output channel, float32."""
    mean = kernel.mean(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    variance = kernel.var(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    standardized = (kernel - mean) / np.sqrt(variance + _KERNEL_EPSILON)
    return np.asarray(standardized, np.float32)


def identify(shapes: Shapes) -> tuple[Architecture, int | None]:
    """What network a checkpoint is of, by the names and shapes of its tensors.

    Returns:
      Its architecture, and the classes of its head or None.

    Raises:
      ModelError: it is not a BiT network; names what is missing, unknown or of another shape.
    """
    root = kernel_name('root_block')
    if root not in shapes:
        raise ModelError(
            f'not a BiT checkpoint: it lacks the tensor {root!r} and holds {listed(sorted(shapes))}'
        )
    units = {match[0]: int(match[1]) for match in map(_UNIT.match, shapes) if match}
    counts = Counter(units.values())
    # A file with a unit missing is told what it lacks of the network it comes closest to.
    depth = min(_UNITS, key=lambda d: sum(abs(n - counts[i]) for i, n in enumerate(_UNITS[d], 1)))
    width = max(1, shapes[root][-1] // ROOT_CHANNELS) if shapes[root] else 1
    architecture = Architecture(depth, width)
    head = shapes.get(HEAD_KERNEL) or shapes.get(f'{_HEAD}/bias')
    classes = head[-1] if head else None
    if classes is not None and not 0 < classes <= _MOST_CLASSES:
        raise ModelError(f'a head of {classes} classes; expected 1 to {_MOST_CLASSES}')
    check(shapes, architecture, classes)
    return architecture, classes


def check(shapes: Shapes, architecture: Architecture, classes: int | None) -> None:
    """Compares a checkpoint with the layout of a network.

    Features are taken from checkpoints with a head, too.

    Raises:
      ModelError: they differ; names each tensor that is missing, unknown or of another shape.
    """
    expected = layout(architecture, classes)
    wrong = [f'lacks the tensor {name!r}' for name in expected if name not in shapes]
    wrong += [
        f'{name!r} has shape {tuple(shapes[name])}, expected {shape}'
        for name, shape in expected.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    extra = [name for name in sorted(shapes) if name not in expected]
    if classes is None:
        extra = [name for name in extra if not name.startswith(f'{_HEAD}/')]
    wrong += [f'unknown tensor {name!r}' for name in extra]
    if wrong:
        raise ModelError(f'not the tensors of a BiT-{architecture}: {listed(wrong)}')
