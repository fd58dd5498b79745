"""Inference, and the seam at which the rows of a finished chunk are handed on."""

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from transforms.faults import FailFast
from transforms.finished import keep
from transforms.layout import Layout
from transforms.metrics import distribution
from transforms.model.handler import ImageModelHandler
from transforms.model.predictor import InferenceOptions
from transforms.outcomes import outcome_table, to_ipc
from transforms.rows import Batch, Failure, Image, LabeledBatch, Stage


class _FinishChunksDoFn(beam.DoFn):
    """Gathers the batches of a chunk and emits its rows when the last one is there.

    The batches of a chunk follow each other within one bundle, because everything since the chunk
    is fused and one to one.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._infer_msec = distribution('infer_msec')
        self._batch_images = distribution('batch_images')

    def start_bundle(self) -> None:
        self._batches: list[LabeledBatch] = []

    def process(self, batch: LabeledBatch) -> Iterator[bytes | beam.pvalue.TaggedOutput]:
        self._batches.append(batch)
        for name, seconds in batch.timings.items():
            yield beam.pvalue.TaggedOutput('stats', (f'{name}_sec', seconds))
        filled = sum(
            isinstance(outcome, Image)
            or (isinstance(outcome, Failure) and outcome.stage is Stage.INFER)
            for outcome in batch.outcomes
        )
        self._infer_msec.update(round(1000 * batch.timings['infer']))
        self._batch_images.update(filled)
        yield beam.pvalue.TaggedOutput('stats', ('batches', 1.0))
        yield beam.pvalue.TaggedOutput('stats', ('filled_slots', float(filled)))
        if batch.start + len(batch.outcomes) == len(batch.chunk.items):
            yield keep(self._layout, batch.chunk, to_ipc(outcome_table(self._batches)))
            self._batches = []

    def finish_bundle(self) -> None:
        if self._batches:
            raise RuntimeError(f'a bundle ends within the chunk {self._batches[0].chunk.id}')


class LabelImages(beam.PTransform):
    """Runs the model, finishes the chunks and keeps them.

    Args:
      options: the model, and how it is called.
      fail_fast: when a failing model stops the run.
      layout: the output.

    Expands PCollection[Batch] to (PCollection[bytes], one Arrow stream of
    `transforms.outcomes.SCHEMA` a chunk, PCollection[tuple[str, float]] of statistics).
    """

    def __init__(self, options: InferenceOptions, fail_fast: FailFast, layout: Layout):
        super().__init__()
        self._options = options
        self._fail_fast = fail_fast
        self._layout = layout

    def expand(
        self, batches: beam.PCollection[Batch]
    ) -> tuple[beam.PCollection[bytes], beam.PCollection[tuple[str, float]]]:
        finished = (
            batches
            | 'Infer' >> RunInference(ImageModelHandler(self._options, self._fail_fast))
            | 'FinishChunks'
            >> beam.ParDo(_FinishChunksDoFn(self._layout))
            .with_output_types(bytes, stats=tuple[str, float])
            .with_outputs('stats', main='chunks')
        )
        return finished.chunks, finished.stats
