"""Dead letters: the images that have no labels, and why."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa

from transforms import outcomes
from transforms.layout import Layout
from transforms.metrics import counter
from transforms.rows import DeadLetter, Note, Reason, Stage, WrittenFile
from transforms.write import ROW_GROUP_ROWS, write_file

KIND = 'dead_letters'
VERSIONS = 'dead_versions'
"""Which version of which object is not worth another try, and which row is gone: read by the next
run, and by who looks for the newest rows.
"""
_NOTES = frozenset(note.value for note in Note)

VERSION_SCHEMA = pa.schema(
    [
        pa.field('uri', pa.string(), nullable=False),
        pa.field('object_version', pa.string(), nullable=False),
        pa.field('reason', pa.string(), nullable=False),
        pa.field('carried', pa.string(), nullable=False),
    ]
)


def dead_letter_schema(carry: Sequence[str], metadata: Mapping[str, str]) -> pa.Schema:
    """Schema of a dead-letter file; carried columns stand inside it, also partitions."""
    fields = [
        pa.field('uri', pa.string(), nullable=False),
        pa.field('stage', pa.string(), nullable=False),
        pa.field('reason', pa.string(), nullable=False),
        pa.field('detail', pa.string(), nullable=False),
        pa.field('retryable', pa.bool_(), nullable=False),
        pa.field('size_bytes', pa.int64()),
        *(pa.field(column, pa.string()) for column in carry),
    ]
    return pa.schema(fields, {f'lemmabeam.{key}': value for key, value in metadata.items()})


def dead_letter_tables(
    letters: Iterable[DeadLetter], carry: Sequence[str], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The rows of one file, sorted by URI and carried values, a part at a time."""
    ordered = sorted(letters, key=lambda letter: (letter.uri, letter.carried))
    for start in range(0, len(ordered), ROW_GROUP_ROWS):
        yield _dead_letter_table(ordered[start : start + ROW_GROUP_ROWS], carry, schema)


def _dead_letter_table(
    letters: Sequence[DeadLetter], carry: Sequence[str], schema: pa.Schema
) -> pa.Table:
    rows = []
    for letter in letters:
        row = {
            'uri': letter.uri,
            'stage': letter.stage,
            'reason': letter.reason,
            'detail': letter.detail,
            'retryable': Reason(letter.reason).retryable,
            'size_bytes': None if letter.size_bytes < 0 else letter.size_bytes,
        }
        values = [_storable(value) for value in outcomes.carried_values(letter.carried)]
        rows.append(row | dict(zip(carry, values or [None] * len(carry), strict=True)))
    return pa.Table.from_pylist(rows, schema)


def _storable(value: str | None) -> str | None:
    """A carried value; null where it is no UTF-8, for which it is a dead letter."""
    try:
        (value or '').encode()
    except UnicodeEncodeError:
        return None
    return value


def is_note(letter: DeadLetter) -> bool:
    """Whether it is a `Note` in the shape of a dead letter."""
    return letter.reason in _NOTES


def version_table(letters: Iterable[DeadLetter]) -> pa.Table:
    """The dead letters that stay what they are as long as the object, or the line, stays; notes."""
    rows = [
        {
            'uri': letter.uri,
            'object_version': letter.version,
            'reason': letter.reason,
            'carried': letter.carried,
        }
        for letter in sorted(letters, key=lambda letter: (letter.uri, letter.carried))
        if is_note(letter)
        or (Reason(letter.reason).lasting and (letter.version or letter.stage == Stage.LIST.value))
    ]
    return pa.Table.from_pylist(rows, VERSION_SCHEMA)


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
        schema = dead_letter_schema(carry, outcomes.with_computed(self._metadata, computed))
        tables = dead_letter_tables(letters, carry, schema)
        yield write_file(path, self._layout, schema, tables)
        # A file of its own: what a dead letter says is the same for all versions.
        versions = self._layout.run_folder(VERSIONS) + path.removeprefix(
            self._layout.run_folder(KIND)
        )
        yield write_file(versions, self._layout, VERSION_SCHEMA, [version_table(noted)])
        for reason, count in Counter(letter.reason for letter in letters).items():
            counter(f'dead_letters_{reason}').inc(count)
            yield beam.pvalue.TaggedOutput('counts', (f'dead_lettered/{reason}', count))


class WriteDeadLetters(beam.PTransform):
    """Dead letters to Parquet files.

    Expands (PCollection[DeadLetter], notes among them, singleton PCollection[int] of the most that
    they can be, PCollection[str] of how the model computed) to
    (PCollection[WrittenFile], of `KIND` and `VERSIONS`, PCollection[tuple[str, int]] of counts by
    reason).
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
