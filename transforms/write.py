"""The step that writes predictions; what is in their files: `transforms.output.predictions`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa

from transforms.core.elements import Item, WrittenFile
from transforms.core.long_texts import LONG_TEXTS
from transforms.metrics import count_file
from transforms.model.vocabulary import Vocabulary
from transforms.output import results, tell_apart
from transforms.output.layout import Layout
from transforms.output.predictions import (
    WITHOUT_LABEL,
    expected_paths,
    first_names,
    least_score,
    prediction_schema,
    prediction_tables,
    route,
    write_file,
)


def _told_apart(shards: dict[str, int], layout: Layout) -> dict[str, int]:
    tell_apart.check(layout, shards)
    return shards


class _RouteDoFn(beam.DoFn):
    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, chunk: bytes, shards: dict[str, int]) -> Iterator[tuple[str, bytes]]:
        for path, rows in route(results.from_ipc(chunk), self._layout, shards).items():
            yield path, results.to_ipc(rows)


class _WriteDoFn(beam.DoFn):
    def __init__(self, layout: Layout, vocabulary: Vocabulary, metadata: Mapping[str, str]):
        self._layout = layout
        self._vocabulary = vocabulary
        self._metadata = metadata

    def process(
        self, element: tuple[str, Iterable[bytes]], computed: Sequence[str]
    ) -> Iterator[WrittenFile | beam.pvalue.TaggedOutput]:
        path, parts = element
        metadata = results.with_computed(self._metadata, computed)
        schema = prediction_schema(self._layout.file_columns, metadata)
        least = least_score(metadata)
        names: Counter[str] = Counter()

        def tables() -> Iterator[pa.Table]:
            routed = [results.from_ipc(data) for data in parts if data]
            for table in prediction_tables(routed, self._vocabulary, self._layout, schema):
                names.update(first_names(table, least))
                yield table

        file = write_file(path, self._layout, schema, tables())
        yield count_file(file)
        yield beam.pvalue.TaggedOutput('counts', ('labeled', file.rows))
        without = file.rows - names.total()
        yield beam.pvalue.TaggedOutput('counts', (WITHOUT_LABEL, without))
        for pair in names.items():
            yield beam.pvalue.TaggedOutput('top_labels', pair)


class WritePredictions(beam.PTransform):
    """Finished chunks to Parquet files.

    Args:
      layout: the output.
      vocabulary: names of the labels.
      metadata: see `prediction_schema`; completed by what the workers know.

    Expands (chunks, items, how they were computed) to (PCollection[WrittenFile],
    PCollection[tuple[str, int]] of counts, PCollection[tuple[str, int]] of how often each label is
    an image's first).
    """

    def __init__(self, layout: Layout, vocabulary: Vocabulary, metadata: Mapping[str, str]):
        super().__init__()
        self._layout = layout
        self._vocabulary = vocabulary
        self._metadata = metadata

    def expand(
        self,
        inputs: tuple[beam.PCollection[bytes], beam.PCollection[Item], beam.PCollection[str]],
    ) -> tuple[
        beam.PCollection[WrittenFile],
        beam.PCollection[tuple[str, int]],
        beam.PCollection[tuple[str, int]],
    ]:
        chunks, items, computed = inputs
        layout = self._layout
        # Counted before inference, so that a row's file does not depend on what fails.
        shards = (
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
        routed = chunks | 'Route' >> beam.ParDo(
            _RouteDoFn(layout), beam.pvalue.AsSingleton(shards)
        ).with_output_types(tuple[str, bytes])
        expected = shards | 'Expect' >> beam.FlatMap(
            lambda counts: [(path, b'') for path in expected_paths(layout, counts)]
        ).with_output_types(tuple[str, bytes])
        written = (
            (routed, expected)
            | 'WithEmptyFiles' >> beam.Flatten()
            | 'GroupByFile' >> beam.GroupByKey()
            | 'Write'
            >> beam.ParDo(
                _WriteDoFn(layout, self._vocabulary, self._metadata), beam.pvalue.AsList(computed)
            )
            .with_output_types(WrittenFile, counts=tuple[str, int], top_labels=tuple[str, int])
            .with_outputs('counts', 'top_labels', main='files')
        )
        return written.files, written.counts, written.top_labels
