"""BiT as the published modules compute it, with TensorFlow alone and without a line of ours.

Weights are standardized in every call and moments come from `tf.nn.moments`.  A second opinion for
tests, and what benchmarks compare with.  No published classification module could be looked into,
so that these are saved in every form that one is likely to have.
"""

import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_UNITS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
HEAD = 'resnet/head/conv2d'

Weights = Mapping[str, np.ndarray]


class Computation(NamedTuple):
    """From (N, H, W, 3) float32 in [-1, 1] to logits, or to features without a head.

    Attributes:
      tensors: by their names in an official checkpoint; the head's kernel may have two dimensions.
      depth: 50 for R50x1.
    """

    tensors: Mapping[str, Any]
    depth: int

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
        x = self._convolve(x, 'resnet/root_block', 2, 'VALID')
        x = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = tf.nn.max_pool2d(x, 3, 2, 'VALID')
        for block, units in enumerate(_UNITS[self.depth], 1):
            for unit in range(1, units + 1):
                stride = 2 if block > 1 and unit == 1 else 1
                x = self._unit(x, f'resnet/block{block}/unit{unit:02d}', stride, unit == 1)
        features = tf.reduce_mean(tf.nn.relu(self._normalize(x, 'resnet')), (1, 2))
        if f'{HEAD}/kernel' not in self.tensors:
            return features
        kernel = self.tensors[f'{HEAD}/kernel']
        head = kernel[0, 0] if len(kernel.shape) == 4 else kernel
        return tf.matmul(features, head) + self.tensors[f'{HEAD}/bias']

    def _unit(self, x: tf.Tensor, name: str, stride: int, is_first: bool) -> tf.Tensor:
        y = tf.nn.relu(self._normalize(x, f'{name}/a'))
        shortcut = self._convolve(y, f'{name}/a/proj', stride, 'VALID') if is_first else x
        y = self._convolve(y, f'{name}/a', 1, 'VALID')
        y = tf.nn.relu(self._normalize(y, f'{name}/b'))
        y = tf.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = self._convolve(y, f'{name}/b', stride, 'VALID')
        y = tf.nn.relu(self._normalize(y, f'{name}/c'))
        return shortcut + self._convolve(y, f'{name}/c', 1, 'VALID')

    def _convolve(self, x: tf.Tensor, name: str, stride: int, padding: str) -> tf.Tensor:
        return convolve(x, self.tensors[f'{name}/standardized_conv2d/kernel'], stride, padding)

    def _normalize(self, x: tf.Tensor, name: str) -> tf.Tensor:
        gamma, beta = (self.tensors[f'{name}/group_norm/{part}'] for part in ('gamma', 'beta'))
        return normalize(x, gamma, beta)


def convolve(x: tf.Tensor, kernel: Any, stride: int, padding: str) -> tf.Tensor:
    """With a kernel that is standardized."""
    mean, variance = tf.nn.moments(tf.convert_to_tensor(kernel), (0, 1, 2))
    return tf.nn.conv2d(x, (kernel - mean) / tf.sqrt(variance + 1e-10), stride, padding)


def normalize(x: tf.Tensor, gamma: Any, beta: Any) -> tf.Tensor:
    """In 32 groups."""
    shape = tf.shape(x)
    channels = x.shape[-1]
    grouped = tf.reshape(x, (shape[0], shape[1], shape[2], 32, channels // 32))
    mean, variance = tf.nn.moments(grouped, (1, 2, 4), keepdims=True)
    normalized = (grouped - mean) * tf.math.rsqrt(variance + 1e-5)
    return tf.reshape(normalized, shape) * gamma + beta


def dense(weights: Weights) -> dict[str, np.ndarray]:
    """With a head of rank 2, as of a dense layer."""
    kernel = weights[f'{HEAD}/kernel']
    return {**weights, f'{HEAD}/kernel': kernel.reshape(kernel.shape[-2:])}


class PublishedModule(tf.Module):
    """Called with (N, H, W, 3) float32, gives logits, or features without a head.

    Args:
      weights: tensors of an official checkpoint by name; its variables are listed in this order.
      depth: 50 for R50x1.
      rename: what a variable is called, by the name of its tensor; None for no name at all.
      taken: what it takes for black and white.
    """

    def __init__(
        self,
        weights: Weights,
        depth: int,
        *,
        rename: Callable[[str], str | None] = str,
        taken: tuple[float, float] = (0.0, 1.0),
    ):
        super().__init__()
        self._listed = [tf.Variable(value, name=rename(name)) for name, value in weights.items()]
        # Nothing that is tracked: it would tell their names.
        by_name = dict(zip(weights, self._listed, strict=True))
        self._compute = Computation(types.MappingProxyType(by_name), depth)
        self._taken = types.SimpleNamespace(low=taken[0], high=taken[1])

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)], autograph=False
    )
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        low, high = self._taken.low, self._taken.high
        return self._compute((images - low) * (2.0 / (high - low)) - 1.0)


def save(module: tf.Module, folder: Path | str) -> None:
    """Writes it as a SavedModel without a card and without signatures, as they were published."""
    tf.saved_model.save(module, str(folder), signatures={})


def save_as_tensorflow_1(weights: Weights, depth: int, folder: Path) -> None:
    """Writes a SavedModel whose variables have no objects, and a signature instead of a call."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        tensors = {
            name: tf.compat.v1.get_variable(f'module/{name}', initializer=value)
            for name, value in weights.items()
        }
        tf.compat.v1.train.get_or_create_global_step()
        logits = Computation(tensors, depth)(images * 2.0 - 1.0)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(
            session, str(folder), {'images': images}, {'logits': logits}
        )


def save_as_keras(weights: Weights, depth: int, folder: Path) -> None:
    """Writes a functional model of Keras 2, whose layers are numbered as they are made."""
    import tf_keras

    class StandardizedConv2D(tf_keras.layers.Layer):
        def __init__(self, kernel: np.ndarray, stride: int = 1, **options: Any):
            super().__init__(**options)
            self._value, self._stride = kernel, stride

        def build(self, _: tf.TensorShape) -> None:
            self.kernel = self.add_weight('kernel', self._value.shape)
            self.kernel.assign(self._value)

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return convolve(x, self.kernel, self._stride, 'VALID')

        def get_config(self) -> dict[str, Any]:
            return {}

    class GroupNorm(tf_keras.layers.Layer):
        def __init__(self, gamma: np.ndarray, beta: np.ndarray, **options: Any):
            super().__init__(**options)
            self._values = gamma, beta

        def build(self, shape: tf.TensorShape) -> None:
            self.gamma, self.beta = (
                self.add_weight(name, (shape[-1],)) for name in ('gamma', 'beta')
            )
            for variable, value in zip((self.gamma, self.beta), self._values, strict=True):
                variable.assign(value)

        def call(self, x: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(normalize(x, self.gamma, self.beta))

        def get_config(self) -> dict[str, Any]:
            return {}

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return StandardizedConv2D(weights[f'{name}/standardized_conv2d/kernel'], stride)(x)

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        gamma, beta = (weights[f'{name}/group_norm/{part}'] for part in ('gamma', 'beta'))
        return GroupNorm(gamma, beta)(x)

    layers = tf_keras.layers
    images = tf_keras.Input((None, None, 3))
    x = layers.ZeroPadding2D(3)(layers.Rescaling(2.0, -1.0)(images))
    x = layers.ZeroPadding2D(1)(conv(x, 'resnet/root_block', 2))
    x = layers.MaxPooling2D(3, 2)(x)
    for block, units in enumerate(_UNITS[depth], 1):
        for number in range(1, units + 1):
            name = f'resnet/block{block}/unit{number:02d}'
            stride = 2 if block > 1 and number == 1 else 1
            y = norm(x, f'{name}/a')
            x = conv(y, f'{name}/a/proj', stride) if number == 1 else x
            y = norm(conv(y, f'{name}/a'), f'{name}/b')
            y = conv(layers.ZeroPadding2D(1)(y), f'{name}/b', stride)
            x = layers.Add()([x, conv(norm(y, f'{name}/c'), f'{name}/c')])
    x = layers.GlobalAveragePooling2D()(norm(x, 'resnet'))
    kernel = weights[f'{HEAD}/kernel']
    head = layers.Dense(kernel.shape[-1], name='head')
    model = tf_keras.Model(images, head(x))
    head.set_weights([kernel.reshape(kernel.shape[-2:]), weights[f'{HEAD}/bias']])
    tf_keras.models.save_model(model, str(folder), save_format='tf', include_optimizer=False)
