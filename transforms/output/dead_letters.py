"""Dead letters: the images that have no labels, and why."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from transforms.core.elements import DeadLetter, Note, Stage
from transforms.core.long_texts import LONG_TEXTS, in_order
from transforms.core.reasons import Reason
from transforms.output import results
from transforms.output.predictions import PIECE_ROWS, ROW_GROUP_ROWS

KIND = 'dead_letters'
VERSIONS = 'dead_versions'
"""Which version of which object is not worth another try, and which row is gone: read by the next
run, and by readers of the newest rows.
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
    """Schema of a dead-letter file; it contains the carried columns, also those of partitions."""
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
    ordered = _ordered(letters)
    for start in range(0, len(ordered), ROW_GROUP_ROWS):
        yield _dead_letter_table(ordered[start : start + ROW_GROUP_ROWS], carry, schema)


def _dead_letter_table(
    letters: Sequence[DeadLetter], carry: Sequence[str], schema: pa.Schema
) -> pa.Table:
    def row_of(letter: DeadLetter) -> dict[str, Any]:
        row = {
            'uri': letter.uri,
            'stage': letter.stage,
            'reason': letter.reason,
            'detail': letter.detail,
            'retryable': Reason(letter.reason).retryable,
            'size_bytes': None if letter.size_bytes < 0 else letter.size_bytes,
        }
        carried = LONG_TEXTS.lengthen(letter.carried)
        values = [_storable(value) for value in results.carried_values(carried)]
        return row | dict(zip(carry, values or [None] * len(carry), strict=True))

    return _table(letters, row_of, schema)


def _ordered(letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    return in_order(letters, lambda letter: letter.uri, lambda letter: letter.carried)


def _table(
    letters: Sequence[DeadLetter], row_of: Callable[[DeadLetter], dict[str, Any]], schema: pa.Schema
) -> pa.Table:
    pieces = [
        pa.Table.from_pylist([row_of(each) for each in letters[start : start + PIECE_ROWS]], schema)
        for start in range(0, len(letters), PIECE_ROWS)
    ]
    return pa.concat_tables([*pieces, schema.empty_table()]).combine_chunks()


def _storable(value: str | None) -> str | None:
    """A carried value; null if it is not UTF-8, which makes the row a dead letter."""
    try:
        (value or '').encode()
    except UnicodeEncodeError:
        return None
    return value


def is_note(letter: DeadLetter) -> bool:
    """Whether it is a `Note` in the shape of a dead letter."""
    return letter.reason in _NOTES


def version_table(letters: Iterable[DeadLetter]) -> pa.Table:
    """The dead letters that hold as long as the object, or the line, is unchanged; and notes."""

    def row_of(letter: DeadLetter) -> dict[str, Any]:
        return {
            'uri': letter.uri,
            'object_version': letter.version,
            'reason': letter.reason,
            'carried': LONG_TEXTS.lengthen(letter.carried),
        }

    lasting = [
        letter
        for letter in _ordered(letters)
        if is_note(letter)
        or (Reason(letter.reason).lasting and (letter.version or letter.stage == Stage.LIST.value))
    ]
    return _table(lasting, row_of, VERSION_SCHEMA)
