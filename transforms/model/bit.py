"""Big Transfer networks (Kolesnikov et al., 2019, arXiv:1912.11370) in Keras 3.

A ResNet-v2 with group normalization and weight standardization.  The kernels are standardized
once, when they are loaded, instead of in every call; group normalization reads its input once and
includes the ReLU that always follows it.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from transforms.errors import ModelError

_GROUPS = 32
_NORM_EPSILON = 1e-5
_KERNEL_EPSILON = 1e-10
_UNITS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_ROOT_CHANNELS = 64
_EXPANSION = 4


class Architecture(NamedTuple):
    """Depth and width of a network, 'R101x3' as (101, 3).

    R14 is not published: one unit a block, for tests.
    """

    depth: int
    width: int

    @classmethod
    def parse(cls, name: str) -> 'Architecture':
        """Reads 'R101x3'.

        Raises:
          ModelError: not of this form, or no such depth.
        """
        match = re.fullmatch(r'[Rr](\d+)[Xx](\d+)', name)
        if match is None or int(match[1]) not in _UNITS or int(match[2]) == 0:
            depths = ', '.join(f'R{depth}' for depth in _UNITS)
            raise ModelError(f'no BiT architecture {name!r}; depths are {depths}, as in R101x3')
        return cls(int(match[1]), int(match[2]))

    @property
    def features(self) -> int:
        """Length of the pooled feature vector."""
        return 2048 * self.width


def layout(architecture: Architecture, classes: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an official checkpoint, in its order.

    Args:
      architecture: depth and width.
      classes: of the head; None for a checkpoint without one.
    """
    channels = _ROOT_CHANNELS * architecture.width
    shapes: dict[str, tuple[int, ...]] = {_kernel('root_block'): (7, 7, 3, channels)}
    for block, units in enumerate(_UNITS[architecture.depth], 1):
        inner = _ROOT_CHANNELS * architecture.width * 2 ** (block - 1)
        for unit in range(1, units + 1):
            name = f'block{block}/unit{unit:02d}'
            parts = {
                'a': (1, 1, channels, inner),
                'b': (3, 3, inner, inner),
                'c': (1, 1, inner, inner * _EXPANSION),
            }
            for part, shape in parts.items():
                shapes |= _norm(f'{name}/{part}/', shape[2])
                shapes[_kernel(f'{name}/{part}')] = shape
            if unit == 1:
                shapes[_kernel(f'{name}/a/proj')] = (1, 1, channels, inner * _EXPANSION)
            channels = inner * _EXPANSION
    shapes |= _norm('', channels)
    if classes is not None:
        shapes['resnet/head/conv2d/kernel'] = (1, 1, channels, classes)
        shapes['resnet/head/conv2d/bias'] = (classes,)
    return shapes


def _kernel(name: str) -> str:
    return f'resnet/{name}/standardized_conv2d/kernel'


def _norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f'resnet/{prefix}group_norm/{part}': (channels,) for part in ('beta', 'gamma')}


def standardize(kernel: np.ndarray) -> np.ndarray:
    """A kernel (H, W, I, O) with mean 0 and variance 1 for each output channel, float32."""
    kernel = kernel.astype(np.float32)
    mean = kernel.mean(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    variance = kernel.var(axis=(0, 1, 2), keepdims=True, dtype=np.float64)
    standardized = (kernel - mean) / np.sqrt(variance + _KERNEL_EPSILON)
    return np.asarray(standardized, np.float32)


class GroupNormRelu(layers.Layer):
    """Group normalization over 32 groups of consecutive channels, and ReLU.

    One pass: the mean and the mean of squares of each channel give those of its group, and one
    multiply-add applies both.  Statistics are float32 whatever the compute type.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes `gamma` and `beta`, (channels,) float32."""
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer='ones', name='gamma')
        self.beta = self.add_weight(shape=(input_shape[-1],), initializer='zeros', name='beta')

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """(N, H, W, C) to the same."""
        channels = x.shape[-1]
        wide = ops.cast(x, 'float32')
        mean = self._by_group(ops.mean(wide, axis=(1, 2)), channels)
        square = self._by_group(ops.mean(ops.square(wide), axis=(1, 2)), channels)
        variance = ops.maximum(square - ops.square(mean), 0.0)
        scale = ops.cast(self.gamma, 'float32') * self._by_channel(
            ops.rsqrt(variance + _NORM_EPSILON), channels
        )
        shift = ops.cast(self.beta, 'float32') - self._by_channel(mean, channels) * scale
        scale, shift = (ops.cast(t[:, None, None, :], x.dtype) for t in (scale, shift))
        return ops.relu(x * scale + shift)

    def _by_group(self, x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
        return ops.mean(ops.reshape(x, (-1, _GROUPS, channels // _GROUPS)), axis=-1)

    def _by_channel(self, x: keras.KerasTensor, channels: int) -> keras.KerasTensor:
        return ops.repeat(x, channels // _GROUPS, axis=-1)


def build(
    architecture: Architecture, classes: int | None, weights: Mapping[str, np.ndarray]
) -> keras.Model:
    """The network with its weights.

    Args:
      architecture: depth and width.
      classes: logits of the head; None for a network that ends with the pooled features.
      weights: tensors of an official checkpoint by name, see `layout`.

    Returns:
      A model from (N, H, W, 3) float32 in [-1, 1] to logits (N, classes) float32, or, without
      classes, to features (N, 2048 x width) float32.

    Raises:
      ModelError: a tensor is missing, unknown or of another shape.
    """
    _check(weights, architecture, classes)
    inputs = keras.Input((None, None, 3), dtype='float32', name='images')
    x = layers.ZeroPadding2D(3)(inputs)
    x = _conv(x, 'root_block', _ROOT_CHANNELS * architecture.width, kernel_px=7, stride=2)
    x = layers.ZeroPadding2D(1)(x)  # zeros, not minus infinity
    x = layers.MaxPooling2D(3, 2)(x)
    for block, units in enumerate(_UNITS[architecture.depth], 1):
        inner = _ROOT_CHANNELS * architecture.width * 2 ** (block - 1)
        for unit in range(1, units + 1):
            stride = 2 if unit == 1 and block > 1 else 1
            x = _unit(x, f'block{block}/unit{unit:02d}', inner, stride, has_projection=unit == 1)
    x = GroupNormRelu(name='group_norm')(x)
    x = layers.GlobalAveragePooling2D(dtype='float32', name='features')(x)
    if classes is not None:
        x = layers.Dense(classes, dtype='float32', name='head')(x)
    model = keras.Model(inputs, x, name=f'bit_r{architecture.depth}x{architecture.width}')
    _assign(model, weights)
    return model


def _check(
    weights: Mapping[str, np.ndarray], architecture: Architecture, classes: int | None
) -> None:
    head = {name for name in weights if name.startswith('resnet/head/')}
    expected = layout(architecture, classes)
    for name, shape in expected.items():
        if name not in weights:
            raise ModelError(f'the weights lack the tensor {name!r}')
        if weights[name].shape != shape:
            raise ModelError(
                f'the tensor {name!r} has shape {weights[name].shape}, expected {shape}'
            )
    # Features are taken from checkpoints with a head, too.
    unknown = weights.keys() - expected.keys() - (head if classes is None else set())
    if unknown:
        raise ModelError(f'the weights hold unknown tensors: {", ".join(sorted(unknown))}')


def _assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    for layer in model.layers:
        name = layer.name.replace('.', '/')
        if isinstance(layer, GroupNormRelu):
            values = [weights[f'resnet/{name}/{part}'] for part in ('gamma', 'beta')]
        elif isinstance(layer, layers.Conv2D):
            values = [standardize(weights[_kernel(name)])]
        elif isinstance(layer, layers.Dense):
            kernel = weights['resnet/head/conv2d/kernel']
            values = [kernel[0, 0], weights['resnet/head/conv2d/bias']]
        else:
            continue
        layer.set_weights(values)


def _conv(
    x: keras.KerasTensor, name: str, channels: int, kernel_px: int = 1, stride: int = 1
) -> keras.KerasTensor:
    return layers.Conv2D(channels, kernel_px, stride, use_bias=False, name=name.replace('/', '.'))(
        x
    )


def _unit(
    x: keras.KerasTensor, name: str, inner: int, stride: int, has_projection: bool
) -> keras.KerasTensor:
    """Pre-activation bottleneck; the 3 x 3 convolution carries the stride."""
    shortcut = x
    x = GroupNormRelu(name=f'{name}/a/group_norm'.replace('/', '.'))(x)
    if has_projection:
        shortcut = _conv(x, f'{name}/a/proj', inner * _EXPANSION, stride=stride)
    x = _conv(x, f'{name}/a', inner)
    x = GroupNormRelu(name=f'{name}/b/group_norm'.replace('/', '.'))(x)
    x = layers.ZeroPadding2D(1)(x)
    x = _conv(x, f'{name}/b', inner, kernel_px=3, stride=stride)
    x = GroupNormRelu(name=f'{name}/c/group_norm'.replace('/', '.'))(x)
    x = _conv(x, f'{name}/c', inner * _EXPANSION)
    return layers.Add()([shortcut, x])
