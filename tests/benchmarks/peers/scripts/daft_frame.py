"""Daft: its own decoding and resizing, the model in a class."""

import sys

import daft
import numpy as np
import pyarrow as pa
from daft import DataType, col
from daft.functions import (
    crop,
    decode_image,
    download,
    image_height,
    image_width,
    resize,
    to_list,
    when,
)
from label_model import LABELS, LabelModel, read_card

BATCH_SIZE = int(sys.argv[4])


@daft.cls(max_concurrency=1)
class Label:
    def __init__(self, card):
        self._model = LabelModel(card)

    @daft.method.batch(return_dtype=DataType.from_arrow_type(LABELS), batch_size=BATCH_SIZE)
    def __call__(self, pixels):
        return pa.array(self._model(np.stack(pixels.to_pylist())), LABELS)


def centre(image, card):
    """The part of an image that the centre crop of the scaled image shows."""
    width, height = image_width(image), image_height(image)
    short = when(width < height, width).otherwise(height)
    side = (short * card['size_px'] / card['short_side_px']).cast('uint32')
    left, top = ((edge - side) / 2 for edge in (width, height))
    return crop(image, to_list(left.cast('uint32'), top.cast('uint32'), side, side))


def main(images, output, card_file):
    card = read_card(card_file)
    frame = daft.from_glob_path(f'{images}/*')
    frame = frame.with_column('image', decode_image(download(col('path')), mode='RGB'))
    image = centre(col('image'), card) if card['short_side_px'] else col('image')
    pixels = resize(image, card['size_px'], card['size_px'])
    labels = Label(card)(pixels)
    frame.select(col('path').alias('uri'), labels.alias('labels')).write_parquet(output)


if __name__ == '__main__':
    main(*sys.argv[1:4])
