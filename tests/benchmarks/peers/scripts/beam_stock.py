"""Beam with the TensorFlow handler and the Parquet sink it comes with."""

import functools
import sys

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.io.parquetio import WriteToParquet
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.ml.inference.tensorflow_inference import ModelType, TFModelHandlerNumpy
from apache_beam.options.pipeline_options import PipelineOptions
from label_model import SCHEMA, LabelModel, read_card
from pillow_pixels import prepare


class HubModel:
    """What the handler takes for a Keras model: those it loads itself cannot be SavedModels."""

    def __init__(self, card):
        self._card = card

    def load_weights(self, _):
        self._model = LabelModel(self._card)

    def __call__(self, pixels):
        return self._model(pixels)


def load(file, card):
    with file.open() as opened:
        return file.metadata.path, prepare(opened, card)


def to_row(element):
    path, result = element
    return {'uri': path, 'labels': result.inference}


def main(images, output, card_file, batch_size, *beam_arguments):
    card = read_card(card_file)
    handler = TFModelHandlerNumpy(
        card['saved_model'],
        ModelType.SAVED_WEIGHTS,
        functools.partial(HubModel, card),
        min_batch_size=batch_size,
        max_batch_size=batch_size,
    )
    with beam.Pipeline(options=PipelineOptions(beam_arguments)) as root:
        (
            root
            | fileio.MatchFiles(f'{images}/*')
            | fileio.ReadMatches()
            | beam.Map(load, card)
            | RunInference(KeyedModelHandler(handler))
            | beam.Map(to_row)
            | WriteToParquet(f'{output}/labels', SCHEMA, file_name_suffix='.parquet')
        )


if __name__ == '__main__':
    main(*sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:])
