"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite variant of 2020) as a Keras 3 network.

Lite: no squeeze-and-excitation, ReLU6 instead of swish, stem and head not scaled.  Batch
normalization is folded into the convolutions of the embedded weights.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from transforms.core.errors import ModelError
from transforms.model.families.base import FEATURES


class _Stage(NamedTuple):
    repeats: int
    kernel_px: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280


def _unset(shape: tuple[int, ...], dtype: object = None) -> np.ndarray:  # noqa: ARG001
    """What variables are before they have their values.

    Random numbers would take their time, and of zeros of its own JAX compiles each shape.
    """
    return np.zeros(shape, np.float32)


def build(
    weights: dict[str, np.ndarray], size_px: int, classes: int, *, precision: str = 'float32'
) -> keras.Model:
    """The network with its weights.

    Args:
      weights: arrays by name, '<layer>/kernel' (HWIO; depthwise HWC1) and '<layer>/bias', any
        float type.
      size_px: side of the input.
      classes: number of logits.
      precision: type in which the convolutions are stored and computed, 'float32', 'bfloat16' or
        'float16'; pooling and head are float32 always.

    Returns:
      A model from (N, size_px, size_px, 3) float32 to (N, classes) float32 logits; its layer
      `FEATURES` gives the pooled features, (N, 1280) float32.

    Raises:
      ModelError: a tensor is missing, unknown or of another shape.
    """
    inputs = keras.Input((size_px, size_px, 3), dtype='float32', name='images')
    x = _conv(inputs, 'stem', _STEM_CHANNELS, precision, kernel_px=3, stride=2)
    block = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, f'block{block:02d}', stage, stride, precision)
            block += 1
    x = _conv(x, 'head', _HEAD_CHANNELS, precision)
    x = layers.GlobalAveragePooling2D(dtype='float32', name=FEATURES)(x)
    logits = layers.Dense(
        classes,
        dtype='float32',
        kernel_initializer=_unset,
        bias_initializer=_unset,
        name='classifier',
    )(x)
    model = keras.Model(inputs, logits, name='efficientnet_lite0')
    _assign(model, weights)
    return model


def _conv(
    x: keras.KerasTensor,
    name: str,
    channels: int,
    dtype: str,
    kernel_px: int = 1,
    stride: int = 1,
    is_linear: bool = False,
) -> keras.KerasTensor:
    x = layers.Conv2D(
        channels,
        kernel_px,
        stride,
        padding='same',
        dtype=dtype,
        kernel_initializer=_unset,
        bias_initializer=_unset,
        name=name.replace('/', '.'),
    )(x)
    return x if is_linear else layers.ReLU(6.0, dtype=dtype)(x)


def _block(
    x: keras.KerasTensor, name: str, stage: _Stage, stride: int, dtype: str
) -> keras.KerasTensor:
    """Inverted residual: expand, depthwise, linear projection."""
    shortcut = x
    if stage.expansion > 1:
        x = _conv(x, f'{name}/expand', x.shape[-1] * stage.expansion, dtype)
    x = layers.DepthwiseConv2D(
        stage.kernel_px,
        stride,
        padding='same',
        dtype=dtype,
        depthwise_initializer=_unset,
        bias_initializer=_unset,
        name=f'{name}.depthwise',
    )(x)
    x = layers.ReLU(6.0, dtype=dtype)(x)
    x = _conv(x, f'{name}/project', stage.channels, dtype, is_linear=True)
    if stride == 1 and shortcut.shape[-1] == stage.channels:
        x = layers.Add(dtype=dtype)([shortcut, x])
    return x


def _assign(model: keras.Model, weights: dict[str, np.ndarray]) -> None:
    left = dict(weights)
    for layer in model.layers:
        if not layer.weights:
            continue
        values = []
        for part, variable in zip(('kernel', 'bias'), layer.weights, strict=True):
            key = f'{layer.name.replace(".", "/")}/{part}'
            value = left.pop(key, None)
            if value is None:
                raise ModelError(f'the weights lack the tensor {key!r}')
            if value.shape != tuple(variable.shape):
                raise ModelError(
                    f'the tensor {key!r} has shape {value.shape}, expected {tuple(variable.shape)}'
                )
            values.append(value.astype(np.float32))
        layer.set_weights(values)
    if left:
        raise ModelError(f'the weights hold unknown tensors: {", ".join(sorted(left))}')
