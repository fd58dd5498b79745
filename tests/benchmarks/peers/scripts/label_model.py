"""The model as its page says it is used: `hub.load`, and a call with a batch of floats."""

import json
from pathlib import Path

import pyarrow as pa
import tensorflow as tf
import tensorflow_hub as hub

LABELS = pa.list_(pa.struct({'index': pa.int32(), 'name': pa.string(), 'score': pa.float32()}))
SCHEMA = pa.schema({'uri': pa.string(), 'labels': LABELS})


def read_card(file):
    return json.loads(Path(file).read_text())


class LabelModel:
    """(N, S, S, 3) uint8 to the labels of each image, best first."""

    def __init__(self, card):
        self._card = card
        self._model = hub.load(card['saved_model'])
        self._activation = {'sigmoid': tf.sigmoid, 'softmax': tf.nn.softmax}[card['activation']]
        shape = (None, card['size_px'], card['size_px'], 3)
        self._top = tf.function(self._find_top, input_signature=[tf.TensorSpec(shape, tf.uint8)])

    def _find_top(self, pixels):
        card = self._card
        images = (tf.cast(pixels, tf.float32) - card['mean']) / card['std']
        return tf.math.top_k(self._activation(self._model(images)), card['max_labels'])

    def __call__(self, pixels):
        scores, indices = (x.numpy().tolist() for x in self._top(pixels))
        return [self._labels(*row) for row in zip(scores, indices, strict=True)]

    def _labels(self, scores, indices):
        names, threshold = self._card['labels'], self._card['threshold']
        return [
            {'index': index, 'name': names[index], 'score': score}
            for score, index in zip(scores, indices, strict=True)
            if score >= threshold
        ]
