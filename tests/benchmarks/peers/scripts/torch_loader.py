"""A torch DataLoader whose worker processes decode with Pillow, in front of the same model."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from label_model import SCHEMA, LabelModel, read_card
from pillow_pixels import prepare
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    def __init__(self, folder, card):
        self._paths = sorted(map(str, Path(folder).iterdir()))
        self._card = card

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, i):
        return self._paths[i], prepare(self._paths[i], self._card)


def main(images, output, card_file, batch_size, workers):
    card = read_card(card_file)
    batches = iter(DataLoader(Images(images, card), batch_size, num_workers=workers))
    model = LabelModel(card)  # after the workers were forked
    rows = []
    for paths, pixels in batches:
        for path, labels in zip(paths, model(pixels.numpy()), strict=True):
            rows.append({'uri': path, 'labels': labels})
    Path(output).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), Path(output) / 'labels.parquet')


if __name__ == '__main__':
    main(*sys.argv[1:4], *map(int, sys.argv[4:6]))
