"""The step that writes predictions; for their files see `transforms.output.predictions`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa

from transforms.core.elements import WrittenFile
from transforms.metrics import count_file
from transforms.output import results
from transforms.output.layout import Layout
from transforms.output.predictions import (
    WITHOUT_LABEL,
    Classes,
    expected_paths,
    first_names,
    prediction_schema,
    prediction_tables,
    write_file,
)
from transforms.output.run_metadata import least_score


class _WriteDoFn(beam.DoFn):
    def __init__(self, layout: Layout, classes: Classes, metadata: Mapping[str, str]):
        self._layout = layout
        self._classes = classes
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
            for table in prediction_tables(routed, self._classes, self._layout, schema):
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
    """Labelled rows to Parquet files.

    Args:
      layout: the output.
      classes: names of the labels.
      metadata: see `prediction_schema`; completed with what the workers know.

    Expands (rows by the path of their file, the result of `transforms.split.CountShards`, how they
    were computed) to (PCollection[WrittenFile], PCollection[tuple[str, int]] of counts,
    PCollection[tuple[str, int]] of how often each label is an image's first).
    """

    def __init__(self, layout: Layout, classes: Classes, metadata: Mapping[str, str]):
        super().__init__()
        self._layout = layout
        self._classes = classes
        self._metadata = metadata

    def expand(
        self,
        inputs: tuple[
            beam.PCollection[tuple[str, bytes]],
            beam.PCollection[dict[str, int]],
            beam.PCollection[str],
        ],
    ) -> tuple[
        beam.PCollection[WrittenFile],
        beam.PCollection[tuple[str, int]],
        beam.PCollection[tuple[str, int]],
    ]:
        routed, shards, computed = inputs
        layout = self._layout
        expected = shards | 'Expect' >> beam.FlatMap(
            lambda counts: [(path, b'') for path in expected_paths(layout, counts)]
        ).with_output_types(tuple[str, bytes])
        written = (
            (routed, expected)
            | 'WithEmptyFiles' >> beam.Flatten()
            | 'GroupByFile' >> beam.GroupByKey()
            | 'Write'
            >> beam.ParDo(
                _WriteDoFn(layout, self._classes, self._metadata), beam.pvalue.AsList(computed)
            )
            .with_output_types(WrittenFile, counts=tuple[str, int], top_labels=tuple[str, int])
            .with_outputs('counts', 'top_labels', main='files')
        )
        return written.files, written.counts, written.top_labels
