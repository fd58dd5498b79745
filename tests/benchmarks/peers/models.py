"""Writes what the peers load: a SavedModel as people publish them, and what its card says."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.bit_reference import synthetic_weights
from transforms.model.card import ModelCard
from transforms.model.families.efficientnet_lite import WEIGHTS
from transforms.model.registry import known_models
from transforms.model.runtimes.on_tensorflow import import_tensorflow
from transforms.model.vocabulary import load_vocabulary

CARD = 'card.json'
SAVED_MODEL = 'saved_model'


def write_embedded(folder: Path) -> ModelCard:
    """The network inside the package, with the same weights."""
    tf = import_tensorflow()
    from transforms.model.families.efficientnet_lite.network import build

    card = known_models()['embedded'].card
    size = card.resize.size_px
    with np.load(WEIGHTS, allow_pickle=False) as file:
        network = build(dict(file), size, len(load_vocabulary(card.vocabulary)))

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            # Keras's own objects would have the reader import Keras.
            self.weights = [variable.value for variable in network.variables]

        @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32)])
        def __call__(self, images: Any) -> Any:
            return network(images, training=False)

    tf.saved_model.save(Module(), str(folder / SAVED_MODEL))
    return card


def write_bit(name: str, folder: Path) -> ModelCard:
    """A BiT network of synthetic weights in the published form."""
    import_tensorflow()
    from tests.support.published import PublishedModule, save

    card = known_models()[name].card
    weights = synthetic_weights.make_weights(card.architecture, 0)
    depth = int(card.architecture.removeprefix('R').partition('x')[0])
    save(PublishedModule(weights, depth), folder / SAVED_MODEL)
    return card


def write_card(card: ModelCard, folder: Path) -> None:
    """What somebody who reads a model's page knows of it, as JSON."""
    said = {
        'saved_model': str(folder / SAVED_MODEL),
        'size_px': card.resize.size_px,
        'short_side_px': card.resize.short_side_px,
        'filter': card.resize.filter,
        'mean': float(np.asarray(card.mean)),
        'std': float(np.asarray(card.std)),
        'activation': card.activation.value,
        'threshold': card.threshold,
        'max_labels': card.max_labels,
        'labels': list(load_vocabulary(card.vocabulary).names),
    }
    (folder / CARD).write_text(json.dumps(said))


def main(argv: Sequence[str]) -> None:
    """Takes the name of a model and a new folder."""
    name, folder = argv[0], Path(argv[1])
    folder.mkdir(parents=True)
    card = write_embedded(folder) if name == 'embedded' else write_bit(name, folder)
    write_card(card, folder)


if __name__ == '__main__':
    main(sys.argv[1:])
