"""Labelled images of somebody's own pipeline as Parquet files."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.typehints.decorators import no_annotations

from pipeline.api.images import check_whole
from pipeline.api.keywords import by_keyword, takes
from pipeline.api.rows import LabeledImage, carried_text
from pipeline.api.step_options import WRITING, options_of
from pipeline.config import ROWS_PER_FILE, columns_of
from pipeline.options import store_options
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.metrics import count_file
from transforms.output.layout import Layout
from transforms.output.predictions import (
    KIND,
    ROW_GROUP_ROWS,
    expected_paths,
    prediction_schema,
    write_file,
)
from transforms.output.run_metadata import FEATURES


@dataclasses.dataclass(frozen=True)
class _Folder(Layout):
    """Files right in a folder, each whole as soon as it is there."""

    def staged_uri(self, path: str) -> str:
        return self.uri(path)

    def shard_path(self, _kind: str, _folder: str, shard: int, shards: int) -> str:
        return f'part-{shard:05d}-of-{shards:05d}.parquet'


class _WriteDoFn(beam.DoFn):
    def __init__(self, layout: _Folder, metadata: Mapping[str, str]):
        self._layout = layout
        self._metadata = metadata

    def process(self, element: tuple[str, Iterable[LabeledImage | None]]) -> Iterator[str]:
        path, found = element
        schema = prediction_schema(self._layout.carry, self._metadata)
        rows = [row for row in found if row is not None]
        rows.sort(key=lambda row: (row.uri, carried_text(row.carried)))
        parts = (
            _table(rows[start : start + ROW_GROUP_ROWS], schema, self._layout.carry)
            for start in range(0, len(rows), ROW_GROUP_ROWS)
        )
        yield self._layout.uri(count_file(write_file(path, self._layout, schema, parts)).path)


def _table(rows: Sequence[LabeledImage], schema: pa.Schema, carry: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows]
        for name in schema.names
        if name in LabeledImage._fields and name not in ('labels', FEATURES)
    }
    columns['labels'] = [[label._asdict() for label in row.labels] for row in rows]
    if FEATURES in schema.names:
        columns[FEATURES] = [_features(row, schema.field(FEATURES).type.list_size) for row in rows]
    columns |= {name: [row.carried.get(name) for row in rows] for name in carry}
    return pa.table(
        {name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema
    )


def _features(row: LabeledImage, length: int) -> np.ndarray:
    features = np.asarray([] if row.features is None else row.features, np.float16)
    if len(features) != length:  # readers of Arrow know no null among vectors of one length
        raise UsageError(
            f'{uris.printable(row.uri)}: {len(features)} features, and WriteLabels was told '
            f'features={length}; LabelImages gives them with features=True'
        )
    return features


def _labeled_image(row: Any) -> LabeledImage:
    """A row of any kind as one of ours; what it does not say is null."""
    if isinstance(row, LabeledImage):
        return row
    if not hasattr(row, 'uri') or not hasattr(row, 'labels'):
        raise TypeError(
            f'{uris.printable(repr(row))[:200]}: WriteLabels takes rows with the fields of '
            'LabeledImage, "uri" and "labels" at least'
        )
    given = {name: getattr(row, name) for name in LabeledImage._fields if hasattr(row, name)}
    return LabeledImage(**given)


class WriteLabels(beam.PTransform):
    """Writes labelled images as Parquet files with the schema of those that `label` writes.

    A row's file follows from its URI, rows are sorted by URI inside a file, and each file is there
    whole or not at all: the same rows give the same bytes, and what a runner retries does no harm.
    All files are there once the pipeline has ended; a pipeline that fails may leave some of them.
    It makes no dataset of runs as `label` does: for newest rows, books and resuming use that.

    Input: a bounded PCollection of LabeledImage, or of rows with such fields, in the global window.

    Args:
      folder: local, gs://, s3:// or az://; it must hold no Parquet file yet.
      metadata: text by name that goes into each file, such as `LabelImages.metadata`.
      features: length of the feature vectors, to write them as float16; default none are written.
      options: of `label`, by the same names: carry, the names of carried values that become columns
        of text, while others are not written; rows_per_file; user_project, s3_endpoint_url,
        s3_region_name, s3_request_payer.

    Returns:
      PCollection[str] of the URIs of the files.

    Raises:
      TypeError: there is no such option.
      UsageError: a value cannot be used, or (expand) the folder has Parquet files already, or the
        input is unbounded or in other windows.
      StoreError: the folder cannot be listed, or a file cannot be written.

    Example:
      >>> import tempfile, apache_beam as beam, lemmabeam as lb, pyarrow.parquet as pq
      >>> rows = [lb.LabeledImage('/photos/1.jpg', [lb.Label(281, None, 'tabby', 0.75)])]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with beam.Pipeline('FnApiRunner') as pipeline:
      ...         _ = pipeline | beam.Create(rows) | lb.WriteLabels(folder)
      ...     pq.read_table(folder)['labels'].to_pylist()
      [[{'index': 281, 'wnid': None, 'name': 'tabby', 'score': 0.75}]]
    """

    @takes(WRITING)
    def __init__(
        self,
        folder: str,
        *,
        metadata: Mapping[str, str] | None = None,
        features: int | None = None,
        **options: Any,
    ):
        super().__init__()
        if what := uris.read_only(str(folder)):
            raise UsageError(f'folder {uris.printable(str(folder))}: {what} is not written to')
        with by_keyword():
            args = options_of(type(self).__name__, WRITING, options)
            self._layout = _Folder(
                output=uris.absolute(str(folder)).rstrip('/'),
                run_id='',
                model_id='',
                carry=columns_of(args).carry,
                partition_by=(),
                rows_per_file=args.rows_per_file or ROWS_PER_FILE,
                stores=store_options(args),
            )
        self._metadata = {**(metadata or {})}
        if features is not None:
            self._metadata[FEATURES] = str(features)

    @no_annotations  # rows of other kinds are taken, too
    def expand(self, rows: beam.PCollection[Any]) -> beam.PCollection[str]:
        """See the class."""
        check_whole(self.label, rows, 'files follow from all rows together')
        layout = self._layout
        _check_empty(layout)
        images = rows | 'TakeRows' >> beam.Map(_labeled_image).with_output_types(LabeledImage)
        shards = (
            images
            | 'CountRows' >> beam.combiners.Count.Globally()
            | 'Shards' >> beam.Map(layout.shards).with_output_types(int)
        )
        keyed = images | 'KeyByFile' >> beam.Map(
            lambda row, count: (layout.path_for(KIND, '', row.uri, count), row),
            beam.pvalue.AsSingleton(shards),
        ).with_output_types(tuple[str, LabeledImage | None])
        # A file without rows is written, too, so that readers find the schema.
        expected = shards | 'Expect' >> beam.FlatMap(
            lambda count: [(path, None) for path in expected_paths(layout, {'': count})]
        ).with_output_types(tuple[str, LabeledImage | None])
        return (
            (keyed, expected)
            | 'WithEmptyFiles' >> beam.Flatten()
            | 'GroupByFile' >> beam.GroupByKey()
            | 'Write' >> beam.ParDo(_WriteDoFn(layout, self._metadata)).with_output_types(str)
        )


def _check_empty(layout: Layout) -> None:
    if not layout.store.is_folder(layout.output):
        return
    for entry in layout.store.list(layout.output, 1):
        if uris.suffix_of(entry.uri) == '.parquet':
            raise UsageError(
                f'folder {uris.printable(layout.output)}: it holds {uris.printable(entry.uri)} '
                'already; choose another one, or delete what is there'
            )
