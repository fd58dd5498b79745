"""Trains a small Keras classifier, and labels images with it.

    python fine_tuned.py --pictures PICTURES --model MODEL --images IMAGES --labels LABELS

`PICTURES` has a folder of pictures for each class.  What is trained on them goes to `MODEL` as a
SavedModel with the two files that tell Lemmabeam what it is, so that `lemmabeam label --model
MODEL` and all else takes it, too; the labels of the folder `IMAGES` go to `LABELS` as Parquet.

Put your own network in the place of this one: whatever takes a batch of images and gives a row of
numbers for each, one number a class, can be labelled with.
"""

import argparse
import json
from pathlib import Path

import apache_beam as beam
import keras
import lemmabeam as lb

SIZE_PX = 64


def train(pictures: str, epochs: int) -> tuple[keras.Model, list[str]]:
    """A classifier of pixels from 0 to 1, and its classes in the order of its outputs."""
    data = keras.utils.image_dataset_from_directory(
        pictures, image_size=(SIZE_PX, SIZE_PX), label_mode='int', seed=0
    )
    model = keras.Sequential(
        [
            keras.Input((SIZE_PX, SIZE_PX, 3)),
            keras.layers.Conv2D(16, 3, strides=2, activation='relu'),
            keras.layers.Conv2D(32, 3, strides=2, activation='relu'),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(data.class_names)),  # logits: the card names the activation
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    scaled = data.map(lambda images, labels: (images / 255, labels))
    model.fit(scaled, epochs=epochs, shuffle=False, verbose=0)
    return model, data.class_names


def save(model: keras.Model, classes: list[str], folder: str) -> None:
    """Writes the SavedModel, its card and the names of its classes."""
    model.export(folder, verbose=False)
    card = {
        'name': 'fine-tuned',
        'resize': {'size_px': SIZE_PX, 'filter': 'bilinear'},
        'range': [0, 1],
        'activation': 'softmax',
        'labels': 'labels.txt',
    }
    Path(folder, 'model_card.json').write_text(json.dumps(card, indent=2))
    Path(folder, 'labels.txt').write_text('\n'.join(classes) + '\n')


def label(model: str, images: str, labels: str) -> None:
    """Labels the pictures right in a folder, each with its best class."""
    step = lb.LabelImages(model, top_k=1)
    with beam.Pipeline('FnApiRunner') as pipeline:
        uris = [str(path) for path in Path(images).iterdir() if path.is_file()]
        found = pipeline | beam.Create(uris) | step
        _ = found.labels | lb.WriteLabels(labels, metadata=step.metadata)
        _ = found.dead_letters | beam.Map(
            lambda letter: print(f'{letter.uri}: {letter.reason}, {letter.detail}')
        )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    for name in ('pictures', 'model', 'images', 'labels'):
        parser.add_argument(f'--{name}', required=True)
    parser.add_argument('--epochs', type=int, default=20)
    args = parser.parse_args()
    save(*train(args.pictures, args.epochs), args.model)
    label(args.model, args.images, args.labels)
