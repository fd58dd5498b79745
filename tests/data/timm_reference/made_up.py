"""Weights of a network of timm that anybody can make again, of the names and shapes alone."""

import zlib

import numpy as np

# Of the head, so that its scores differ.
_HEAD, _HEAD_GAIN = 'classifier', 25.0


def weights(name, shape):
    """(shape) float32: biases below 0.1, all others so wide that what they multiply keeps its size.

    From raw words of PCG64, a stream that numpy promises never to change.
    """
    count = int(np.prod(shape))
    words = np.random.PCG64(zlib.crc32(name.encode())).random_raw(count)
    values = (words >> 40).astype(np.float64) * 2.0**-23 - 1.0
    if len(shape) < 2:
        return (0.1 * values).astype(np.float32).reshape(shape)
    bound = np.sqrt(6.0 / np.prod(shape[1:])) * (_HEAD_GAIN if name.startswith(_HEAD) else 1.0)
    return (bound * values).astype(np.float32).reshape(shape)
