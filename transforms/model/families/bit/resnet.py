"""Big Transfer networks (Kolesnikov et al., 2019, arXiv:1912.11370) in Keras 3.

A ResNet-v2 with group normalization and weight standardization.  The kernels are standardized
once, when they are loaded, instead of in every call; group normalization reads its input once and
includes the ReLU that always follows it.
"""

from collections.abc import Callable, Collection, Mapping

import keras
import numpy as np
from keras import layers, ops

from transforms.model.families.base import FEATURES
from transforms.model.families.bit import checkpoint
from transforms.model.families.bit.checkpoint import EXPANSION, ROOT_CHANNELS, Architecture, Unit

_GROUPS = 32
_NORM_EPSILON = 1e-5


class GroupNormRelu(layers.Layer):
    """Group normalization over 32 groups of consecutive channels, and ReLU.

    One pass: the mean and the mean of squares of each channel give those of its group, and one
    multiply-add applies both.  Computed in float32 whatever the type of the input, which is also
    that of the result.
    """

    def __init__(self, name: str, gamma: '_Initializer', beta: '_Initializer'):
        super().__init__(name=name, dtype='float32', autocast=False)
        self._initializers = {'gamma': gamma, 'beta': beta}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes `gamma` and `beta`, (channels,) float32."""
        self.gamma, self.beta = (
            self.add_weight(shape=(input_shape[-1],), initializer=initializer, name=name)
            for name, initializer in self._initializers.items()
        )

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """As its input."""
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """(N, H, W, C) to the same."""
        wide = ops.cast(x, 'float32')
        grouped = (-1, _GROUPS, x.shape[-1] // _GROUPS)
        mean = self._by_group(ops.mean(wide, axis=(1, 2)), grouped)
        square = self._by_group(ops.mean(ops.square(wide), axis=(1, 2)), grouped)
        variance = ops.maximum(square - ops.square(mean), 0.0)
        scale = ops.reshape(self.gamma, grouped) * ops.rsqrt(variance + _NORM_EPSILON)
        shift = ops.reshape(self.beta, grouped) - mean * scale
        by_channel = (-1, 1, 1, x.shape[-1])
        normalized = wide * ops.reshape(scale, by_channel) + ops.reshape(shift, by_channel)
        return ops.cast(ops.relu(normalized), x.dtype)

    def _by_group(self, x: keras.KerasTensor, grouped: tuple[int, ...]) -> keras.KerasTensor:
        return ops.mean(ops.reshape(x, grouped), axis=-1, keepdims=True)


def build(
    architecture: Architecture,
    classes: int | None,
    weights: Mapping[str, np.ndarray],
    *,
    precision: str = 'float32',
    is_standardized: bool = False,
) -> keras.Model:
    """The network with its weights.

    Args:
      architecture: depth and width.
      classes: logits of the head; None for a network that ends with the pooled features.
      weights: tensors of an official checkpoint by name, see
        `transforms.model.families.bit.checkpoint.layout`; each is read once.
      precision: type in which the convolutions are stored and computed, 'float32', 'bfloat16' or
        'float16'; normalization, pooling and head are float32 always.
      is_standardized: the kernels are standardized already.

    Returns:
      A model from (N, H, W, 3) float32 in [-1, 1] to logits (N, classes) float32, or, without
      classes, to features (N, 2048 x width) float32; the layer `FEATURES` gives those in any case.
    """
    make = _Layers(weights, precision, is_standardized)
    inputs = keras.Input((None, None, 3), dtype='float32', name='images')
    x = make.padding(3)(inputs)
    x = make.conv('root_block', ROOT_CHANNELS * architecture.width, 7, 2)(x)
    x = make.padding(1)(x)  # zeros, not minus infinity
    x = layers.MaxPooling2D(3, 2, dtype=precision)(x)
    for unit in architecture.units():
        x = _apply(unit, x, make)
    x = make.norm('')(x)
    x = layers.GlobalAveragePooling2D(dtype='float32', name=FEATURES)(x)
    if classes is not None:
        x = make.head(classes)(x)
    return keras.Model(inputs, x, name=f'bit_{architecture}'.lower())


def tensors(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables of a network by the names of an official checkpoint.

    Kernels are the standardized ones; the head's lacks the two leading 1s.
    """
    return {
        name: variable
        for layer in model.layers
        if layer.weights
        for name, variable in zip(_names(layer), layer.weights, strict=True)
    }


def assign(model: keras.Model, weights: Mapping[str, np.ndarray], names: Collection[str]) -> None:
    """Gives a network of float32 other values for some of its tensors.

    Args:
      model: what `build` made.
      weights: as for `build`, not standardized.
      names: of the tensors to change.
    """
    for name, variable in tensors(model).items():
        if name in names:
            is_convolution = name.endswith('/standardized_conv2d/kernel')
            value = checkpoint.standardize(weights[name]) if is_convolution else weights[name]
            variable.assign(value.reshape(variable.shape))


def _names(layer: layers.Layer) -> list[str]:
    name = layer.name.replace('.', '/')
    if isinstance(layer, GroupNormRelu):
        return [f'resnet/{name}/{part}' for part in ('gamma', 'beta')]
    if isinstance(layer, layers.Dense):
        return [f'resnet/{name}/conv2d/{part}' for part in ('kernel', 'bias')]
    return [checkpoint.kernel_name(name)]


_Initializer = Callable[..., np.ndarray]


class _Layers:
    """Makes layers with their weights.

    Variables start with their values: zeros first would take the memory of all weights again.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: str, is_standardized: bool):
        self._weights = weights
        self.dtype = dtype
        self._prepare = np.asarray if is_standardized else checkpoint.standardize

    def conv(self, name: str, channels: int, kernel_px: int = 1, stride: int = 1) -> layers.Conv2D:
        return layers.Conv2D(
            channels,
            kernel_px,
            stride,
            use_bias=False,
            kernel_initializer=self._given(checkpoint.kernel_name(name), self._prepare),
            dtype=self.dtype,
            name=name.replace('/', '.'),
        )

    def norm(self, name: str) -> GroupNormRelu:
        path = f'{name}/group_norm'.lstrip('/')
        gamma, beta = (self._given(f'resnet/{path}/{part}') for part in ('gamma', 'beta'))
        return GroupNormRelu(path.replace('/', '.'), gamma, beta)

    def head(self, classes: int) -> layers.Dense:
        kernel, bias = (self._given(f'resnet/head/conv2d/{part}') for part in ('kernel', 'bias'))
        return layers.Dense(
            classes,
            kernel_initializer=kernel,
            bias_initializer=bias,
            dtype='float32',
            name='head',
        )

    def padding(self, px: int) -> layers.ZeroPadding2D:
        return layers.ZeroPadding2D(px, dtype=self.dtype)

    def _given(
        self, name: str, prepare: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> _Initializer:
        def initialize(shape: tuple[int, ...], dtype: object = None) -> np.ndarray:  # noqa: ARG001
            # The head's kernel is stored as that of a convolution.
            return prepare(self._weights[name]).reshape(shape)

        return initialize


def _apply(unit: Unit, x: keras.KerasTensor, make: _Layers) -> keras.KerasTensor:
    """Pre-activation bottleneck; the 3 x 3 convolution carries the stride."""
    channels = unit.inner * EXPANSION
    shortcut = x
    x = make.norm(f'{unit.name}/a')(x)
    if unit.has_projection:
        shortcut = make.conv(f'{unit.name}/a/proj', channels, 1, unit.stride)(x)
    x = make.conv(f'{unit.name}/a', unit.inner)(x)
    x = make.norm(f'{unit.name}/b')(x)
    x = make.padding(1)(x)
    x = make.conv(f'{unit.name}/b', unit.inner, 3, unit.stride)(x)
    x = make.norm(f'{unit.name}/c')(x)
    x = make.conv(f'{unit.name}/c', channels)(x)
    return layers.Add(dtype=make.dtype)([shortcut, x])
