"""Predictions as Parquet files, one per shard of a partition."""

import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core.elements import WrittenFile
from transforms.core.errors import StoreError
from transforms.core.long_texts import LONG_TEXTS, MARK, in_order
from transforms.output import results, run_metadata
from transforms.output.layout import Layout
from transforms.output.run_metadata import SCORES_FLOOR

KIND = 'predictions'
WITHOUT_LABEL = 'without_label'
"""Count in the report: rows of predictions in which no class reached the threshold."""

TOP_LABELS = 10
"""How many names the report lists: those most often the first label of an image."""

ROW_GROUP_ROWS = 65_536
PIECE_ROWS = 256
"""Rows turned into columns at a time: their carried values are in memory twice meanwhile."""

_SCORE = pa.float32()
_LABEL = pa.struct(
    [
        pa.field('index', pa.int32(), nullable=False),
        pa.field('wnid', pa.string()),
        pa.field('name', pa.string(), nullable=False),
        pa.field('score', _SCORE, nullable=False),
    ]
)
_STORED = {b'description': b'pixels as stored, before the EXIF orientation is applied'}

STORED_SCORES = 'stored_scores'
"""Column of a snapshot of relabelled rows: all scores that are stored, also below their labels."""

GONE_SINCE = 'gone_since'
"""Column that readers see, but no file has: since when the inputs no longer list a row."""

_STORED_SCORE = pa.struct(
    [pa.field('index', pa.int32(), nullable=False), pa.field('score', _SCORE, nullable=False)]
)
_STORED_SCORES = pa.list_(pa.field('element', _STORED_SCORE, nullable=False))

# What crosses the shuffle: no strings of labels, carried values still as JSON.
_ROUTED_COLUMNS = 'uri object_version content_sha256 width height format indices scores'.split()


def prediction_schema(file_columns: Sequence[str], metadata: Mapping[str, str]) -> pa.Schema:
    """Schema of a prediction file.

    Args:
      file_columns: carried columns that are not partitions.
      metadata: how the scores were made, as text; 'features' is the length of the features, if they
        were asked for; with `SCORES_FLOOR` there are `STORED_SCORES`.
    """
    length = metadata.get(run_metadata.FEATURES)
    features = (
        [pa.field(run_metadata.FEATURES, pa.list_(pa.float16(), int(length)))] if length else []
    )
    has_scores = SCORES_FLOOR in metadata
    scores = [pa.field(STORED_SCORES, _STORED_SCORES, nullable=False)] if has_scores else []
    fields = [
        pa.field('uri', pa.string(), nullable=False),
        pa.field('object_version', pa.string()),
        pa.field('content_sha256', pa.string()),
        pa.field('width', pa.int32(), metadata=_STORED),
        pa.field('height', pa.int32(), metadata=_STORED),
        pa.field('format', pa.string()),
        pa.field('labels', pa.list_(pa.field('element', _LABEL, nullable=False)), nullable=False),
        *features,
        *scores,
        *(pa.field(column, pa.string()) for column in file_columns),
    ]
    return pa.schema(fields, {f'lemmabeam.{key}': value for key, value in metadata.items()})


def route(table: pa.Table, layout: Layout, shards: Mapping[str, int]) -> dict[str, pa.Table]:
    """Splits the labelled rows of a finished chunk by the file they belong to.

    Args:
      table: rows of `transforms.output.results.SCHEMA`.
      layout: the output.
      shards: files per partition, by its folder.

    Returns:
      Tables by path; a row for each set of carried values, `carried` now a JSON text, or what
      `transforms.core.long_texts` has for it.
    """
    labeled = results.labeled(table)
    carried = labeled['carried'].combine_chunks()
    features = [name for name in table.column_names if name == run_metadata.FEATURES]
    rows = labeled.select([*_ROUTED_COLUMNS, *features]).take(pc.list_parent_indices(carried))
    rows = rows.append_column('carried', results.shortened(pc.list_flatten(carried)))
    members = defaultdict(list)
    pairs = zip(rows['uri'].to_pylist(), rows['carried'].to_pylist(), strict=True)
    for i, (uri, values) in enumerate(pairs):
        folder = layout.partition_folder(LONG_TEXTS.lengthen(values))
        members[layout.path_for(KIND, folder, uri, shards[folder])].append(i)
    if len(members) == 1:
        return dict.fromkeys(members, rows)
    return {path: rows.take(pa.array(indices)) for path, indices in members.items()}


def expected_paths(layout: Layout, shards: Mapping[str, int]) -> list[str]:
    """Every file of the run, including those that stay empty.

    A dataset without any rows still has one, so that readers find its schema.
    """
    folders = shards or {layout.partition_folder(_no_values(layout)): 1}
    return [
        layout.shard_path(KIND, folder, shard, count)
        for folder, count in folders.items()
        for shard in range(count)
    ]


def _no_values(layout: Layout) -> str:
    return results.carried_text([None] * len(layout.carry))


class Classes(Protocol):
    """Names of a model's classes; `transforms.model.vocabulary.Vocabulary` is one."""

    @property
    def wnids(self) -> Sequence[str | None]:
        """The WordNet id of each class, in the order of the logits; None outside of WordNet."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each class."""


def prediction_tables(
    routed: Sequence[pa.Table], classes: Classes, layout: Layout, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The rows of one file, sorted by URI and carried values, with the names of their labels.

    One row group at a time: names and columns of a whole file would double the memory of its rows.

    Args:
      routed: what `route` returned for the file.
      classes: names of the labels.
      layout: the output.
      schema: from `prediction_schema`.
    """
    if not routed:
        return
    rows = pa.concat_tables(routed)
    if rows['uri'].num_chunks > 1:
        rows = rows.combine_chunks()
    order = _order(rows)
    for start in range(0, len(order), ROW_GROUP_ROWS):
        part = rows.take(order.slice(start, ROW_GROUP_ROWS))
        yield _prediction_table(part, classes, layout, schema)


def _order(rows: pa.Table) -> pa.Array:
    """Places of rows, by URI and carried values."""
    if not pc.any(pc.starts_with(rows['carried'], MARK)).as_py():
        return pc.sort_indices(rows, [('uri', 'ascending'), ('carried', 'ascending')])
    names, texts = rows['uri'].to_pylist(), rows['carried'].to_pylist()
    order = in_order(range(len(rows)), names.__getitem__, texts.__getitem__)
    return pa.array(order, pa.int64())


def _prediction_table(
    rows: pa.Table, classes: Classes, layout: Layout, schema: pa.Schema
) -> pa.Table:
    columns: dict[str, Any] = {name: rows[name] for name in _ROUTED_COLUMNS[:-2]}
    columns['labels'] = labels_of(rows, classes, schema)
    if run_metadata.FEATURES in schema.names:
        columns[run_metadata.FEATURES] = rows[run_metadata.FEATURES]
    if layout.file_columns:
        columns |= _carried_columns(rows['carried'], layout)
    return pa.table(columns, schema)


def _carried_columns(texts: pa.ChunkedArray, layout: Layout) -> dict[str, pa.ChunkedArray]:
    """Carried columns of JSON texts."""
    parts: dict[str, list[pa.Array]] = {column: [] for column in layout.file_columns}
    for start in range(0, len(texts), PIECE_ROWS):
        piece = texts.slice(start, PIECE_ROWS).to_pylist()
        rows = [results.carried_values(LONG_TEXTS.lengthen(text)) for text in piece]
        for column, arrays in parts.items():
            place = layout.carry.index(column)
            arrays.append(pa.array([row[place] for row in rows], pa.string()))
    # In one piece: pages may begin elsewhere where another one does.
    return {
        column: pa.chunked_array(parts.pop(column), pa.string()).combine_chunks()
        for column in layout.file_columns
    }


def labels_of(rows: pa.Table, classes: Classes, schema: pa.Schema) -> pa.Array:
    """The column 'labels' of `schema`, from the columns 'indices' and 'scores' of `rows`."""
    indices = _single(rows['indices'])
    index = pc.list_flatten(indices)
    structs = pa.StructArray.from_arrays(
        [
            index,
            pa.array(classes.wnids, pa.string()).take(index),
            pa.array(classes.names, pa.string()).take(index),
            pc.list_flatten(_single(rows['scores'])),
        ],
        fields=list(_LABEL),
    )
    lengths = pc.list_value_length(indices).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=schema.field('labels').type)


def stored_scores_of(rows: pa.Table) -> pa.Array:
    """The column `STORED_SCORES`, from the columns 'indices' and 'scores' of `rows`."""
    indices = _single(rows['indices'])
    values = [pc.list_flatten(indices), pc.list_flatten(_single(rows['scores']))]
    structs = pa.StructArray.from_arrays(values, fields=list(_STORED_SCORE))
    lengths = pc.list_value_length(indices).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=_STORED_SCORES)


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def first_names(table: pa.Table, least: float) -> dict[str, int]:
    """How often each name is the first label of a row of predictions, with at least this score."""
    first = pc.list_flatten(pc.list_slice(table['labels'], 0, 1))
    reaches = pc.greater_equal(pc.struct_field(first, 'score'), pa.scalar(least, _SCORE))
    counts = pc.value_counts(pc.struct_field(first.filter(reaches), 'name')).to_pylist()
    return {count['values']: count['counts'] for count in counts}


def to_parquet(schema: pa.Schema, tables: Iterable[pa.Table]) -> bytes:
    """Tables as one Parquet file; the same tables give the same bytes."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression='zstd') as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def write_file(
    path: str, layout: Layout, schema: pa.Schema, tables: Iterable[pa.Table]
) -> WrittenFile:
    """Writes one file of a run to its staging place.

    Raises:
      StoreError: another file has its name, or the store fails.
    """
    started = time.perf_counter()
    rows = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal rows
        for table in tables:
            rows += table.num_rows
            yield table

    data = to_parquet(schema, counted())
    uri = layout.staged_uri(path)
    # Once more, by an engine that repeats what may have failed, it is the same.
    if not layout.store.create(uri, data) and layout.store.read(uri) != data:
        raise StoreError(
            f'{uri} already exists, with other rows: start the run again; if that does not '
            'help, the file system cannot tell the names of two partitions apart: choose '
            'another --output'
        )
    sha256 = hashlib.sha256(data).hexdigest()
    write_sec = time.perf_counter() - started
    return WrittenFile(path, rows, len(data), sha256, write_sec)


"""When the first run began that did not find a row's image; UTC, null if it is still there."""
