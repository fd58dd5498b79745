"""BiT as the published modules compute it, with TensorFlow alone and without a line of ours.

Weights are standardized in every call and moments come from `tf.nn.moments`; the input is [0, 1].
A second opinion for tests, and what benchmarks compare with.
"""

import tensorflow as tf

_UNITS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class PublishedModule(tf.Module):
    """Called with (N, H, W, 3) float32 in [0, 1], gives logits, or features without a head.

    Args:
      weights: tensors of an official checkpoint by name.
      depth: 50 for R50x1.
      are_named: whether its variables have the names of the checkpoint's tensors.
    """

    def __init__(self, weights, depth, *, are_named=True):
        super().__init__()
        self._depth = depth
        self._tensors = {
            name: tf.Variable(value, name=name if are_named else None)
            for name, value in weights.items()
        }

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)], autograph=False
    )
    def __call__(self, images):
        x = tf.pad(images * 2.0 - 1.0, ((0, 0), (3, 3), (3, 3), (0, 0)))
        x = self._convolve(x, 'resnet/root_block', 2, 'VALID')
        x = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = tf.nn.max_pool2d(x, 3, 2, 'VALID')
        for block, units in enumerate(_UNITS[self._depth], 1):
            for unit in range(1, units + 1):
                stride = 2 if block > 1 and unit == 1 else 1
                x = self._unit(x, f'resnet/block{block}/unit{unit:02d}', stride, unit == 1)
        features = tf.reduce_mean(tf.nn.relu(self._normalize(x, 'resnet')), (1, 2))
        if 'resnet/head/conv2d/kernel' not in self._tensors:
            return features
        head = self._tensors['resnet/head/conv2d/kernel'][0, 0]
        return features @ head + self._tensors['resnet/head/conv2d/bias']

    def _unit(self, x, name, stride, is_first):
        y = tf.nn.relu(self._normalize(x, f'{name}/a'))
        shortcut = self._convolve(y, f'{name}/a/proj', stride, 'VALID') if is_first else x
        y = self._convolve(y, f'{name}/a', 1, 'VALID')
        y = tf.nn.relu(self._normalize(y, f'{name}/b'))
        y = tf.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = self._convolve(y, f'{name}/b', stride, 'VALID')
        y = tf.nn.relu(self._normalize(y, f'{name}/c'))
        return shortcut + self._convolve(y, f'{name}/c', 1, 'VALID')

    def _convolve(self, x, name, stride, padding):
        kernel = self._tensors[f'{name}/standardized_conv2d/kernel']
        mean, variance = tf.nn.moments(kernel, (0, 1, 2))
        return tf.nn.conv2d(x, (kernel - mean) / tf.sqrt(variance + 1e-10), stride, padding)

    def _normalize(self, x, name):
        shape = tf.shape(x)
        channels = x.shape[-1]
        grouped = tf.reshape(x, (shape[0], shape[1], shape[2], 32, channels // 32))
        mean, variance = tf.nn.moments(grouped, (1, 2, 4), keepdims=True)
        normalized = (grouped - mean) * tf.math.rsqrt(variance + 1e-5)
        gamma = self._tensors[f'{name}/group_norm/gamma']
        return tf.reshape(normalized, shape) * gamma + self._tensors[f'{name}/group_norm/beta']


def save(module, folder):
    """Writes it as a SavedModel without a card and without signatures, as they were published."""
    tf.saved_model.save(module, str(folder), signatures={})
