"""The results of a chunk: one Arrow table with a row per image, labelled or failed.

It is all that leaves a finished chunk.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.elements import (
    DeadLetter,
    Failure,
    Image,
    Item,
    LabeledBatch,
    Note,
    Outcome,
    Stage,
    Unchanged,
)
from transforms.core.long_texts import LONG_CHARS, LONG_TEXTS
from transforms.core.reasons import Reason
from transforms.output.run_metadata import FEATURES

NOT_COMPUTED = ''
"""How a batch without any image was computed."""

_COMPUTED = b'lemmabeam.computed'

SCHEMA = pa.schema(
    [
        ('uri', pa.string()),
        ('carried', pa.list_(pa.string())),
        ('object_version', pa.string()),
        ('content_sha256', pa.string()),
        ('width', pa.int32()),
        ('height', pa.int32()),
        ('format', pa.string()),
        ('indices', pa.list_(pa.int32())),
        ('scores', pa.list_(pa.float32())),
        ('stage', pa.string()),
        ('reason', pa.string()),
        ('detail', pa.string()),
        ('size_bytes', pa.int64()),
        ('is_unchanged', pa.bool_()),
    ]
)

SAME = 'same'
"""Column of the images of the same bytes, which have no rows yet; only where there are any."""

_TWIN = pa.struct(
    [
        ('uri', pa.string()),
        ('object_version', pa.string()),
        ('carried', pa.list_(pa.string())),
    ]
)
_CHANGED = {
    'stage': Stage.FETCH.value,
    'reason': Reason.CHANGED_WHILE_READING.value,
    'detail': 'an object of the same bytes was to be read for it, which is not as it was listed',
}


def outcome_table(batches: Sequence[LabeledBatch]) -> pa.Table:
    """The rows of a chunk, in the order of its images.

    Args:
      batches: every batch of one chunk, in order.

    Returns:
      A table of `SCHEMA`, followed by `FEATURES` if there are any; `reason` is set for failed
      images, `is_unchanged` for those an earlier run has dealt with (and `content_sha256` where the
      bytes showed it), and the rest is labelled.  Its metadata says how the model computed.
    """
    items = [item for batch in batches for item in batch.items]
    outcomes = [outcome for batch in batches for outcome in batch.outcomes]
    is_labeled = np.fromiter((isinstance(each, Image) for each in outcomes), bool, len(outcomes))
    indices, scores = _labels(batches, is_labeled)
    # By column, as an object a row would take longer than a fast accelerator does.
    images = [each if isinstance(each, Image) else _NO_IMAGE for each in outcomes]
    digests = [None if isinstance(each, Failure) else each.content_sha256 for each in outcomes]
    failures = [each if isinstance(each, Failure) else None for each in outcomes]
    columns = {
        'uri': [item.uri for item in items],
        'carried': [list(map(LONG_TEXTS.lengthen, item.carried)) for item in items],
        'object_version': [each.object_version for each in outcomes],
        'content_sha256': digests,
        'width': [each.width for each in images],
        'height': [each.height for each in images],
        'format': [each.format for each in images],
        'indices': indices,
        'scores': scores,
        'stage': [each and each.stage.value for each in failures],
        'reason': [each and each.reason.value for each in failures],
        'detail': [each and each.detail for each in failures],
        'size_bytes': [each and each.size_bytes for each in failures],
        'is_unchanged': [isinstance(each, Unchanged) for each in outcomes],
    }
    table = pa.table(columns, SCHEMA)
    if any(item.same for item in items):
        table = table.append_column(SAME, _same(items, outcomes))
    length = next((batch.features.shape[1] for batch in batches if batch.features is not None), 0)
    if length:
        table = table.append_column(FEATURES, _features(batches, is_labeled, length))
    computed = sorted({batch.computed for batch in batches} - {NOT_COMPUTED})
    return table.replace_schema_metadata({_COMPUTED: json.dumps(computed)})


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of a chunk, joined from parts in order, each from `outcome_table`."""
    without = [
        table.drop_columns([FEATURES]) if _has_features(table) else table for table in tables
    ]
    joined = pa.concat_tables(without, promote_options='default').combine_chunks()
    length = next(
        (table.field(FEATURES).type.list_size for table in tables if _has_features(table)), 0
    )
    if length:
        joined = joined.append_column(FEATURES, _joined_features(tables, length))
    ways = {way for table in tables for way in computed(table)}
    return joined.replace_schema_metadata({_COMPUTED: json.dumps(sorted(ways))})


def _same(items: Sequence[Item], outcomes: Sequence[Outcome]) -> pa.Array:
    """A list per row; the first of each is null where what was read tells nothing of the others."""
    rows = []
    for item, outcome in zip(items, outcomes, strict=True):
        twins: list[dict[str, Any] | None] = [
            {
                'uri': twin.uri,
                'object_version': twin.version,
                'carried': list(map(LONG_TEXTS.lengthen, twin.carried)),
            }
            for twin in item.same
        ]
        is_other = isinstance(outcome, Failure) and outcome.reason.about.of_access
        if twins and (is_other or outcome.object_version != item.version):
            twins.insert(0, None)
        rows.append(twins)
    return pa.array(rows, pa.list_(_TWIN))


def with_twins(table: pa.Table) -> tuple[pa.Table, int]:
    """The rows of a finished chunk, with those of images of the same bytes behind each.

    Returns:
      The rows, without `SAME`, and how many of those to be written, one for each set of carried
      values, have labels for the bytes of another image.
    """
    if SAME not in table.schema.names:
        return table, 0
    own = table.drop_columns([SAME])
    is_labeled = pc.and_not(pc.is_null(own['reason']), own['is_unchanged']).to_pylist()
    rows: list[int] = []
    others: list[tuple[int, dict[str, Any]]] = []
    reused = 0
    for i, twins in enumerate(table[SAME].to_pylist()):
        rows.append(i)
        why = _CHANGED if twins and twins[0] is None else {}
        for twin in filter(None, twins or ()):
            twin['carried'] = list(map(LONG_TEXTS.shorten, twin['carried']))
            others.append((len(rows), twin | why))
            rows.append(i)
            reused += len(twin['carried']) if is_labeled[i] and not why else 0
    found = own.take(pa.array(rows, pa.int64()))
    for name in ('uri', 'object_version', 'carried', *_CHANGED):
        values = found[name].to_pylist()
        for i, twin in others:
            values[i] = twin.get(name, values[i])
        place = found.schema.get_field_index(name)
        field = found.schema.field(place)
        found = found.set_column(place, field, pa.array(values, field.type))
    return found, reused


def _has_features(table: pa.Table) -> bool:
    return FEATURES in table.schema.names


def _joined_features(tables: Sequence[pa.Table], length: int) -> pa.Array:
    rows = sum(map(len, tables))
    values, is_there = np.zeros((rows, length), np.float16), np.zeros(rows, bool)
    start = 0
    for table in tables:
        end = start + len(table)
        if _has_features(table):  # else none of its images was given to the model
            column = table[FEATURES].combine_chunks()
            is_there[start:end] = column.is_valid()
            found = pc.list_flatten(column).to_numpy(zero_copy_only=False)
            values[start:end][is_there[start:end]] = found.reshape(-1, length)
        start = end
    return _list_column(values, is_there)


class _Nothing(NamedTuple):
    """What is known of a slot without an image."""

    width: None = None
    height: None = None
    format: None = None


_NO_IMAGE = _Nothing()


def _labels(batches: Sequence[LabeledBatch], is_labeled: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Class indices and scores: a list per row, null if the image has no labels."""
    indices, scores = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    counts = np.zeros(len(is_labeled), np.int32)
    start = 0
    for batch in batches:
        end = start + len(batch.outcomes)
        if is_labeled[start:end].any():  # otherwise it was perhaps not inferred
            counts[start:end] = batch.counts[: end - start]
            counts[start:end] *= is_labeled[start:end]
            is_label = np.arange(batch.indices.shape[1]) < counts[start:end, np.newaxis]
            indices.append(batch.indices[: end - start][is_label])
            scores.append(batch.scores[: end - start][is_label])
        start = end
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    missing = pa.array(~is_labeled)
    found, values = (
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(each)), mask=missing)
        for each in (indices, scores)
    )
    return found, values


def _features(batches: Sequence[LabeledBatch], is_labeled: np.ndarray, length: int) -> pa.Array:
    values = np.zeros((len(is_labeled), length), np.float16)
    start = 0
    for batch in batches:
        end = start + len(batch.outcomes)
        if batch.features is not None:  # a batch without any image was not inferred
            values[start:end] = batch.features[: len(batch.outcomes)]
        start = end
    values[~is_labeled] = 0
    return _list_column(values, is_labeled)


def _list_column(values: np.ndarray, is_there: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), values.shape[1], mask=pa.array(~is_there)
    )


def computed(table: pa.Table) -> list[str]:
    """How the model computed the rows of a chunk: one JSON object per way."""
    ways: list[str] = json.loads((table.schema.metadata or {}).get(_COMPUTED, b'[]'))
    return ways


def with_computed(metadata: Mapping[str, str], ways: Iterable[str]) -> dict[str, str]:
    """Metadata of files, completed by what only the workers know.

    Args:
      metadata: what the launcher knows.
      ways: what `computed` returned for every chunk.
    """
    facts = [json.loads(way) for way in sorted(set(ways))]
    known = {
        name: '+'.join(sorted({fact[name] for fact in facts})) or 'none'
        for name in ('precision', 'backend')
    }
    sizes = {fact['batch_size'] for fact in facts}
    if len(sizes) > 1 or sizes - {int(metadata.get('batch_size', 0))}:
        known['batch_size'] = '+'.join(str(size) for size in sorted(sizes))
    # A run may be resumed after an update, and one worker may have another backend than the next.
    for name in sorted({name for fact in facts for name in fact['versions']}):
        versions = {fact['versions'][name] for fact in facts if name in fact['versions']}
        known[f'version.{name}'] = '+'.join(sorted(versions))
    lengths = {fact['features'] for fact in facts} - {None}
    if lengths:
        known['features'] = str(max(lengths))
    return {**metadata, **known}


def dead_letters(table: pa.Table) -> list[DeadLetter]:
    """The failed images of a finished chunk, one dead letter for each set of carried values."""
    failed = table.filter(table['reason'].is_valid())
    letters: list[DeadLetter] = []
    for row in failed.to_pylist():
        size_bytes = -1 if row['size_bytes'] is None else row['size_bytes']
        letters.extend(
            DeadLetter(
                row['uri'],
                row['stage'],
                row['reason'],
                row['detail'],
                size_bytes,
                carried,
                row['object_version'],
            )
            for carried in row['carried']
        )
    return letters


def of_same_bytes(table: pa.Table) -> list[DeadLetter]:
    """Notes of the images that were labelled before, and have another version now."""
    same = table.filter(pc.and_(table['is_unchanged'], table['content_sha256'].is_valid()))
    return [
        DeadLetter(row['uri'], '', Note.SAME.value, '', -1, carried, row['object_version'])
        for row in same.to_pylist()
        for carried in row['carried']
    ]


def labeled(table: pa.Table) -> pa.Table:
    """The labelled images of a finished chunk."""
    return table.filter(pc.and_not(pc.is_null(table['reason']), table['is_unchanged']))


def count_unchanged(table: pa.Table) -> int:
    """How many rows, one for each set of carried values, an earlier run has dealt with."""
    unchanged = table.filter(table['is_unchanged'])
    return len(pc.list_flatten(unchanged['carried']))


def with_short_texts(data: bytes) -> bytes:
    """The rows of a finished chunk, to be kept in memory: long carried values stay on disk."""
    if not LONG_TEXTS.are_on_disk:
        return data
    table = from_ipc(data)
    lists = table['carried'].combine_chunks()
    texts = pc.list_flatten(lists)
    short = shortened(texts)
    if short is texts:
        return data
    place = table.schema.get_field_index('carried')
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists))]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), short)
    return to_ipc(table.set_column(place, table.schema.field(place), lists))


def shortened(texts: pa.Array) -> pa.Array:
    """Carried values as JSON texts with long ones replaced; the same array if none is long."""
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest < LONG_CHARS or not LONG_TEXTS.are_on_disk:
        return texts
    return pa.array([LONG_TEXTS.shorten(text.as_py()) for text in texts], pa.string())


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream.

    Compressed: runners hold them in memory, several copies of each, until the last chunk is done.
    """
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression='zstd')
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """What `to_ipc` wrote, as a table."""
    return pa.ipc.open_stream(data).read_all()


def carried_text(values: Sequence[str | None]) -> str:
    """Carried values as the JSON text that travels."""
    return json.dumps(list(values), ensure_ascii=False)


def carried_values(text: str) -> list[str | None]:
    """What `carried_text` wrote."""
    values: list[str | None] = json.loads(text)
    return values
