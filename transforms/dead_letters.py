"""The step that writes dead letters; for their files see `transforms.output.dead_letters`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam

from transforms.core.elements import DeadLetter, WrittenFile
from transforms.metrics import count_file, counter
from transforms.output import results
from transforms.output.dead_letters import (
    KIND,
    VERSION_SCHEMA,
    VERSIONS,
    dead_letter_schema,
    dead_letter_tables,
    is_note,
    version_table,
)
from transforms.output.layout import Layout
from transforms.output.predictions import write_file


class _WriteDoFn(beam.DoFn):
    def __init__(self, layout: Layout, metadata: Mapping[str, str]):
        self._layout = layout
        self._metadata = metadata

    def process(
        self, element: tuple[str, Iterable[DeadLetter | None]], computed: Sequence[str]
    ) -> Iterator[WrittenFile | beam.pvalue.TaggedOutput]:
        path, found = element
        noted = [letter for letter in found if letter is not None]
        letters = [letter for letter in noted if not is_note(letter)]
        carry = self._layout.carry
        schema = dead_letter_schema(carry, results.with_computed(self._metadata, computed))
        tables = dead_letter_tables(letters, carry, schema)
        yield count_file(write_file(path, self._layout, schema, tables))
        # A file of its own: what a dead letter says is the same for all versions.
        versions = self._layout.run_folder(VERSIONS) + path.removeprefix(
            self._layout.run_folder(KIND)
        )
        noted_file = write_file(versions, self._layout, VERSION_SCHEMA, [version_table(noted)])
        yield count_file(noted_file)
        for reason, count in Counter(letter.reason for letter in letters).items():
            counter(f'dead_letters_{reason}').inc(count)
            yield beam.pvalue.TaggedOutput('counts', (f'dead_lettered/{reason}', count))


class WriteDeadLetters(beam.PTransform):
    """Dead letters to Parquet files.

    Expands (PCollection[DeadLetter], including notes, singleton PCollection[int] of the most there
    can be, PCollection[str] of how the model computed) to (PCollection[WrittenFile], of `KIND` and
    `VERSIONS`, PCollection[tuple[str, int]] of counts by reason).
    """

    def __init__(self, layout: Layout, metadata: Mapping[str, str]):
        super().__init__()
        self._layout = layout
        self._metadata = metadata

    def expand(
        self,
        inputs: tuple[beam.PCollection[DeadLetter], beam.PCollection[int], beam.PCollection[str]],
    ) -> tuple[beam.PCollection[WrittenFile], beam.PCollection[tuple[str, int]]]:
        letters, most, computed = inputs
        layout = self._layout
        # As many files as could be needed, known before anything fails.
        keyed = letters | 'KeyByFile' >> beam.Map(
            lambda letter, refs: (
                layout.path_for(KIND, '', letter.uri, layout.shards(refs)),
                letter,
            ),
            beam.pvalue.AsSingleton(most),
        ).with_output_types(tuple[str, DeadLetter | None])
        expected = most | 'Expect' >> beam.FlatMap(
            lambda refs: [
                (layout.shard_path(KIND, '', shard, layout.shards(refs)), None)
                for shard in range(layout.shards(refs))
            ]
        ).with_output_types(tuple[str, DeadLetter | None])
        written = (
            (keyed, expected)
            | 'WithEmptyFiles' >> beam.Flatten()
            | 'GroupByFile' >> beam.GroupByKey()
            | 'Write'
            >> beam.ParDo(_WriteDoFn(layout, self._metadata), beam.pvalue.AsList(computed))
            .with_output_types(WrittenFile, counts=tuple[str, int])
            .with_outputs('counts', main='files')
        )
        return written.files, written.counts
