"""Reading what was labelled: the newest row of each image, and what there is beside it."""

import functools
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset

from pipeline.api.keywords import as_stores, by_keyword, stores_of, takes
from pipeline.options import STORE_OPTIONS
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import StoreOptions
from transforms.dataset.latest_file import write_latest
from transforms.dataset.reader import dataset_at, read_vocabulary, runs_of_model
from transforms.output import dead_letters
from transforms.output.parquet import read_rows
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.runs.report import RunReport

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


class Labels:
    """What the runs of an output folder have come to, when it was opened; `open` makes one.

    The newest rows are put together once, when they are first asked for, in a temporary file
    ($TMPDIR) that goes with this object and what reads it.  There is one for each image, its
    carried columns and model:

    - `uri`, `object_version`, `content_sha256`, `format` string; `width`, `height` int32, in pixels
      as stored;
    - `labels` list of struct of `index` int32, `wnid` string, `name` string, `score` float32, by
      score, the highest first;
    - carried columns, `model` and `run`, string; `gone_since`, which is null as long as the inputs
      list the image;
    - `features` float16, where runs have written them.

    Example:
      >>> labels = lb.open('labels')
      >>> labels.to_table(['uri', 'labels']).num_rows
      3
    """

    def __init__(self, folder: str, model_id: str | None, stores: StoreOptions):
        output = uris.absolute(folder).rstrip('/') or '/'
        self._stores = stores
        self._dataset = dataset_at(output, stores)
        found = complete_runs(output, self._dataset.store)
        self._runs = found if model_id is None else runs_of_model(self._dataset, found, model_id)

    def __repr__(self) -> str:
        models = ', '.join(sorted({run.model_id for run in self._runs})) or 'no model'
        runs = f'{len(self._runs):,} complete run{"s" if len(self._runs) != 1 else ""}'
        return f'<Labels of {self._dataset.output}: {runs} of {models}>'

    def runs(self) -> tuple[RunReport, ...]:
        """The reports of the complete runs, the oldest first."""
        return tuple(run.report for run in self._runs)

    def dataset(self) -> pa.dataset.Dataset:
        """The newest rows as a pyarrow.dataset, for what is larger than memory.

        Raises:
          errors.StoreError: a file is damaged, or the store does not answer.
        """
        found = pa.dataset.dataset(self._folder.file, format='parquet')
        self._folder.outlives(found)
        return found

    def to_table(self, columns: list[str] | None = None, filter: Any = None) -> pa.Table:  # noqa: A002
        """The newest rows as an Arrow table.

        Args:
          columns: those that are wanted, by default all.
          filter: an expression of pyarrow.dataset, such as pc.field('width') > 1000.

        Raises:
          errors.StoreError: a file is damaged, or the store does not answer.
        """
        return self.dataset().to_table(columns=columns, filter=filter)

    def to_pandas(self, columns: list[str] | None = None, filter: Any = None) -> 'pd.DataFrame':  # noqa: A002
        """The newest rows as a frame of pandas, if that is installed; arguments of `to_table`."""
        return self.to_table(columns, filter).to_pandas()

    def to_duckdb(
        self, connection: 'duckdb.DuckDBPyConnection | None' = None
    ) -> 'duckdb.DuckDBPyRelation':
        """The newest rows as a relation of DuckDB, which must be installed.

        It may be queried as long as it, or this object, is there; what is made of it has no file
        any more once both are gone.

        Args:
          connection: of DuckDB; by default its own default.
        """
        import duckdb

        found = (connection or duckdb).read_parquet(self._folder.file)
        self._folder.outlives(found)
        return found

    def vocabulary(self) -> pa.Table:
        """The classes of the model: `index` int32, `wnid`, `name`, `definition` string.

        Raises:
          errors.UsageError: there are runs of several models, or none; `open` takes a model_id.
          errors.StoreError: the file is missing or damaged.
        """
        ids = sorted({run.model_id for run in self._runs})
        if len(ids) != 1:
            known = ', '.join(ids) or 'none'
            raise UsageError(f'{self._dataset.output} has runs of {known}: open it with a model_id')
        found = read_vocabulary(self._dataset, self._runs[-1])
        columns = {
            'index': pa.array(range(len(found)), pa.int32()),
            'wnid': pa.array(found.wnids, pa.string()),
            'name': pa.array(found.names, pa.string()),
            'definition': pa.array(found.definitions, pa.string()),
        }
        return pa.table(columns)

    def dead_letters(self) -> pa.Table:
        """The last dead letter of each image that has no row, and its carried columns.

        Columns: `uri`, `stage`, `reason`, `detail` string, `retryable` bool, `size_bytes` int64,
        carried columns, `model` and `run` string.

        Raises:
          errors.StoreError: a file is damaged, or the store does not answer.
        """
        carry = self._dataset.carry
        schema = dead_letters.dead_letter_schema(carry, {}).remove_metadata()
        for name in ('model', 'run'):
            schema = schema.append(pa.field(name, pa.string(), nullable=False))
        last: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in self._runs:
            for row in self._letters(run, [*schema.names[:-2]]):
                last[(run.model_id, row['uri'], *(row[name] for name in carry))] = row
        if last:
            failed = pa.dataset.field('uri').isin([key[1] for key in last])
            rows = self.to_table(['model', 'uri', *carry], failed)
            for row in rows.to_pylist():
                last.pop((row['model'], row['uri'], *(row[name] for name in carry)), None)
        return pa.Table.from_pylist([last[key] for key in sorted(last, key=str)], schema)

    def _letters(self, run: CompleteRun, columns: list[str]) -> list[dict[str, Any]]:
        output, store = self._dataset.output, self._dataset.store
        return [
            {**row, 'model': run.model_id, 'run': run.id}
            for file in run.files(dead_letters.KIND)
            for row in read_rows(store, uris.join(output, file.path), file.checksum, columns)
        ]

    @functools.cached_property
    def _folder(self) -> '_Folder':
        folder = _Folder()
        write_latest(self._dataset, self._runs, folder.file, self._stores)
        return folder


class _Folder:
    """A temporary folder with one file; it goes with this object."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix='lemmabeam-')
        self.file = str(Path(folder) / 'latest.parquet')
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def outlives(self, reader: object) -> None:
        """Has it stay as long as what reads the file by its name."""
        weakref.finalize(reader, _let_go, self).atexit = False


def _let_go(_: _Folder) -> None:
    """What is done with it by who held it: nothing; it goes with the last one."""


@takes(STORE_OPTIONS)
def open(  # noqa: A001 (as in other libraries that open a folder of data)
    folder: str | os.PathLike[str], *, model_id: str | None = None, **stores: Any
) -> Labels:
    """Opens an output folder for reading.

    Args:
      folder: the output of `label`, local, gs://, s3:// or az://.
      model_id: the only model whose rows are wanted; by default all, which have a column `model`.
      **stores: how stores are reached, as of `relabel`.

    Raises:
      errors.UsageError: there is no such output, or no run of that model.
      errors.StoreError: a report is damaged, or the store does not answer.

    Example:
      >>> labels = lb.open('labels')
      >>> [report.counts.labeled for report in labels.runs()]
      [3]
      >>> labels.to_table(['width', 'height']).to_pylist()[0]
      {'width': 451, 'height': 300}
      >>> labels.vocabulary().num_rows, labels.dead_letters().num_rows
      (1000, 0)
      >>> labels.to_duckdb().aggregate('count(*), max(width)').fetchall()
      [(3, 512)]
    """
    with by_keyword():
        return Labels(os.fspath(folder), model_id, as_stores(stores_of(stores, 'open')))
