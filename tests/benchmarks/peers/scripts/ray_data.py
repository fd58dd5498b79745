"""Ray Data: decoding in tasks, the model in an actor."""

import io
import sys

import pyarrow as pa
import ray
from label_model import LABELS, LabelModel, read_card
from pillow_pixels import prepare


class Label:
    def __init__(self, card):
        self._model = LabelModel(card)

    def __call__(self, batch):
        labels = pa.array(self._model(batch['pixels']), LABELS)
        return pa.table({'uri': pa.array(batch['uri'], pa.string()), 'labels': labels})


def main(images, output, card_file, batch_size):
    # On the loopback interface, without the dashboard.
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address='127.0.0.1')
    card = read_card(card_file)

    def load(row):
        return {'uri': row['path'], 'pixels': prepare(io.BytesIO(row['bytes']), card)}

    (
        ray.data.read_binary_files(images, include_paths=True)
        # With other needs than the model's actor, or Ray would run both in it, one after the other.
        .map(load, num_cpus=0.5)
        .map_batches(
            Label,
            fn_constructor_args=(card,),
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .write_parquet(output)
    )
    ray.shutdown()


if __name__ == '__main__':
    main(*sys.argv[1:4], int(sys.argv[4]))
