"""Writes the weights of a BiT network as a SavedModel that anyone can call."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from transforms.core.errors import ModelError
from transforms.core.resources import TEMPORARIES
from transforms.model import saved_model
from transforms.model.card import CARD_FILE, ModelCard
from transforms.model.download.fetch import sha256_of
from transforms.model.families.base import FEATURES, LOGITS
from transforms.model.families.bit import resnet
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.families.bit.weights import Weights
from transforms.model.runtimes.base import first_words
from transforms.model.sparse import sparse_labels


class _Export(tf.Module):
    """What is saved: the variables by official name, and the functions over them.

    Called with float32 images in [0, 1] it gives logits (features without a head), as the published
    modules do; with uint8 images in [0, 255], too.
    """

    def __init__(self, network: keras.Model, card: ModelCard):
        super().__init__()
        # A plain function, which is not tracked: Keras's own objects are not to be saved.
        self._call = _both(network, card.has_classes)
        self._card = card
        setattr(
            self,
            saved_model.WEIGHTS,
            {name: variable.value for name, variable in resnet.tensors(network).items()},
        )
        shape = (None, None, None, 3)
        self._images = tf.TensorSpec(shape, tf.uint8, 'images')
        output = 0 if card.has_classes else 1
        self.__call__ = tf.function(lambda images: self._outputs(images)[output], autograph=False)
        for dtype in (tf.float32, tf.uint8):
            self.__call__.get_concrete_function(tf.TensorSpec(shape, dtype, 'images'))

    def signatures(self) -> dict[str, Any]:
        """The signatures to save, by name."""
        features = self._function(lambda images: {FEATURES: self._outputs(images)[1]})
        found = {FEATURES: features, 'serving_default': features}
        if self._card.has_classes:
            found[LOGITS] = self._function(lambda images: {LOGITS: self._outputs(images)[0]})
            size = self._card.resize.size_px
            square = tf.TensorSpec((None, size, size, 3), tf.uint8, 'images')
            found['serving_default'] = self._function(self._labels, square)
        return found

    def _function(self, call: Any, images: Any = None) -> Any:
        spec = self._images if images is None else images
        return tf.function(call, autograph=False).get_concrete_function(spec)

    def _outputs(self, images: Any) -> tuple[Any, Any]:
        is_uint8 = images.dtype == tf.uint8
        scaled = (tf.cast(images, tf.float32) - 127.5) / 127.5 if is_uint8 else images * 2.0 - 1.0
        logits, features = self._call(scaled)
        return logits, features

    def _labels(self, images: Any) -> dict[str, Any]:
        card = self._card
        logits, _ = self._outputs(images)
        indices, scores, count = sparse_labels(
            logits, card.activation, card.threshold, card.max_labels, 0
        )
        return {'indices': indices, 'scores': scores, 'count': count}


def _both(network: keras.Model, has_classes: bool) -> Any:
    """Logits and features, in one graph that all functions to save share: it is made once."""
    features = network.get_layer(FEATURES).output
    whole = keras.Model(network.input, [network.output, features] if has_classes else features)
    graph = tf.function(lambda images: whole(images, training=False), autograph=False)
    shared = graph.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.float32))

    def call(images: Any) -> tuple[Any, Any]:
        found = shared(images)
        return tuple(found) if has_classes else (None, found)

    return call


def export(
    weights: Weights, card: ModelCard, classes: int | None, labels: bytes, folder: Path
) -> None:
    """Writes a SavedModel.

    Signatures, all of `images` uint8 RGB in [0, 255]:
      serving_default: (N, S, S, 3) to `indices` (N, k) int32, `scores` (N, k) float32 and `count`
        (N,) int32, see `transforms.model.sparse.sparse_labels`.
      logits: (N, H, W, 3) to `logits` (N, classes) float32.
      features: (N, H, W, 3) to `features` (N, length) float32.
    Without a head there are features only.  The card, and the class list unless it is a packaged
    one, are written beside it.

    Args:
      weights: each tensor is read once.
      card: with its `architecture`, and `labels` unless the class list is a packaged one.
      classes: of the head, or None.
      labels: content of the file that the card names as `labels`.
      folder: must not exist, or be empty; appears whole or not at all.

    Raises:
      ModelError: the weights are not of the card's architecture or not numbers, or the folder
        cannot be written.
    """
    network = resnet.build(Architecture.parse(card.architecture), classes, weights)
    try:
        with TEMPORARIES.hold(
            folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}.tmp')
        ) as new:
            new.mkdir(parents=True)
            module = _Export(network, card)
            tf.saved_model.save(module, str(new), signatures=module.signatures())
            card = card.with_changes(
                weights_sha256=_digest(weights), saved_model_sha256=sha256_of(new)
            )
            if card.labels:
                (new / card.labels).write_bytes(labels)
            text = json.dumps(card.to_dict(), indent=2, ensure_ascii=False)
            (new / CARD_FILE).write_text(f'{text}\n', encoding='utf-8')
            new.rename(folder)
    except OSError as e:
        raise ModelError(f'{folder}: cannot be written: {e.strerror}') from e
    except tf.errors.OpError as e:  # a full disk, above all
        raise ModelError(f'{folder}: cannot be written: {first_words(e)}') from e


def _digest(weights: Weights) -> str:
    lines = [f'{name} {digest}\n' for name, digest in sorted(weights.digests.items())]
    return hashlib.sha256(''.join(lines).encode()).hexdigest()
