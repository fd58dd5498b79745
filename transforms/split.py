"""The step that reads finished chunks, each once, and decides where everything in them goes."""

from collections.abc import Iterator

import apache_beam as beam

from transforms.core.elements import DeadLetter, Item
from transforms.core.long_texts import LONG_TEXTS
from transforms.output import results, tell_apart
from transforms.output.layout import Layout
from transforms.output.predictions import route


class CountShards(beam.PTransform):
    """How many files each partition has: counted before inference, whatever fails later.

    Expands PCollection[Item] to a singleton PCollection[dict[str, int]], by partition folder.

    Raises (when run):
      UsageError: the file system does not tell two partitions apart.
    """

    def __init__(self, layout: Layout):
        super().__init__()
        self._layout = layout

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[dict[str, int]]:
        layout = self._layout
        return (
            items
            | 'Partitions'
            >> beam.FlatMap(
                lambda item: [
                    layout.partition_folder(LONG_TEXTS.lengthen(carried))
                    for carried in item.carried
                ]
            ).with_output_types(str)
            | 'CountRows' >> beam.combiners.Count.PerElement()
            | 'Shards' >> beam.MapTuple(lambda folder, rows: (folder, layout.shards(rows)))
            | 'ShardsOfAll' >> beam.combiners.ToDict()
            | 'TellApart' >> beam.Map(_told_apart, layout).with_output_types(dict[str, int])
        )


def _told_apart(shards: dict[str, int], layout: Layout) -> dict[str, int]:
    tell_apart.check(layout, shards)
    return shards


class _SplitDoFn(beam.DoFn):
    def __init__(self, layout: Layout):
        self._layout = layout

    def process(
        self, chunk: bytes, shards: dict[str, int]
    ) -> Iterator[tuple[str, bytes] | beam.pvalue.TaggedOutput]:
        table, reused = results.with_twins(results.from_ipc(chunk))
        for path, rows in route(table, self._layout, shards).items():
            yield path, results.to_ipc(rows)
        for letter in (*results.dead_letters(table), *results.of_same_bytes(table)):
            yield beam.pvalue.TaggedOutput('failed', letter)
        yield beam.pvalue.TaggedOutput('counts', ('unchanged', results.count_unchanged(table)))
        yield beam.pvalue.TaggedOutput('counts', ('reused', reused))
        for way in results.computed(table):
            yield beam.pvalue.TaggedOutput('computed', way)


class SplitChunks(beam.PTransform):
    """Takes finished chunks apart.

    Args:
      layout: the output.

    Expands (chunks, the result of `CountShards`) to (PCollection[tuple[str, bytes]] of labelled
    rows by the path of their file, PCollection[DeadLetter] including notes,
    PCollection[tuple[str, int]] of counts, PCollection[str] of how the model computed, each way
    once).
    """

    def __init__(self, layout: Layout):
        super().__init__()
        self._layout = layout

    def expand(
        self, inputs: tuple[beam.PCollection[bytes], beam.PCollection[dict[str, int]]]
    ) -> tuple[
        beam.PCollection[tuple[str, bytes]],
        beam.PCollection[DeadLetter],
        beam.PCollection[tuple[str, int]],
        beam.PCollection[str],
    ]:
        chunks, shards = inputs
        split = chunks | 'Split' >> beam.ParDo(
            _SplitDoFn(self._layout), beam.pvalue.AsSingleton(shards)
        ).with_output_types(
            tuple[str, bytes], failed=DeadLetter, counts=tuple[str, int], computed=str
        ).with_outputs('failed', 'counts', 'computed', main='rows')
        # Only the workers know in what precision, and on what, they computed.
        computed = split.computed | 'EachOnce' >> beam.Distinct()
        return split.rows, split.failed, split.counts, computed
