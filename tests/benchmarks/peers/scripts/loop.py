"""The plain loop: Pillow, and the model on a batch of so many images."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from label_model import SCHEMA, LabelModel, read_card
from pillow_pixels import prepare


def main(images, output, card_file, batch_size):
    card = read_card(card_file)
    model = LabelModel(card)
    paths = sorted(Path(images).iterdir())
    rows = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        pixels = np.stack([prepare(path, card) for path in batch])
        for path, labels in zip(batch, model(pixels), strict=True):
            rows.append({'uri': str(path), 'labels': labels})
    Path(output).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), Path(output) / 'labels.parquet')


if __name__ == '__main__':
    main(*sys.argv[1:4], int(sys.argv[4]))
