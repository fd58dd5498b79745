"""tf.data with TensorFlow's own decoding and resizing."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from label_model import SCHEMA, LabelModel, read_card


def load(path, card):
    size, short = card['size_px'], card['short_side_px']
    data = tf.io.read_file(path)
    if short:
        # Decodes no more than the centre crop.
        height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2])
        side = tf.minimum(height, width) * size // short
        window = tf.stack([(height - side) // 2, (width - side) // 2, side, side])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
    else:
        image = tf.io.decode_jpeg(data, channels=3)
    image = tf.image.resize(image, (size, size), card['filter'], antialias=True)
    return path, tf.saturate_cast(tf.round(image), tf.uint8)


def main(images, output, card_file, batch_size):
    card = read_card(card_file)
    model = LabelModel(card)
    dataset = (
        tf.data.Dataset.from_tensor_slices(sorted(map(str, Path(images).iterdir())))
        .map(lambda path: load(path, card), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
    rows = []
    for paths, pixels in dataset:
        for path, labels in zip(paths.numpy(), model(pixels), strict=True):
            rows.append({'uri': path.decode(), 'labels': labels})
    Path(output).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), Path(output) / 'labels.parquet')


if __name__ == '__main__':
    main(*sys.argv[1:4], int(sys.argv[4]))
