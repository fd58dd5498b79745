"""Where the files of a run are, and what its datasets look like."""

import dataclasses
import json
import re
from typing import Any

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.hashing import power_of_two, uri_hash
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC
from transforms.output.partitions import folder_of_values
from transforms.storage.bounded import BoundedStore
from transforms.storage.registry import output_store
from transforms.storage.sealed import open_json

SCHEMA_VERSION = 1
RUN_ID = re.compile(r'[A-Za-z][A-Za-z0-9._-]{0,99}|\d{8}T\d{6}Z-[0-9a-f]{4}')
"""What a run may be called, so that readers of partitions take it for a text."""

FOLDERS = ('_work', 'dead_letters', 'predictions', 'runs', 'vocabularies')
"""All folders of an output."""


@dataclasses.dataclass(frozen=True)
class Output:
    """An output folder.

    Attributes:
      output: its absolute URI.
      stores: how it is reached.
      deadline_sec: how long its store is waited for.
    """

    output: str
    stores: StoreOptions = dataclasses.field(default=DEFAULT_OPTIONS, kw_only=True)
    deadline_sec: float = dataclasses.field(default=LEAST_DEADLINE_SEC, kw_only=True)

    @property
    def store(self) -> BoundedStore:
        """Its store."""
        return output_store(self.output, self.stores, self.deadline_sec)

    @property
    def is_local(self) -> bool:
        """Whether it is a local folder, where a run is published by renaming."""
        return uris.scheme_of(self.output) == ''

    def uri(self, path: str) -> str:
        """The URI of a path below it."""
        return uris.join(self.output, path)


@dataclasses.dataclass(frozen=True)
class RunPaths(Output):
    """Where the files of a run are, relative to the output.

    Attributes:
      run_id: id of the run.
      model_id: id of the model.
      attempt: which attempt at the run this is, as part of a path; each has its own staged files.
    """

    run_id: str
    model_id: str
    attempt: str = dataclasses.field(default='0', kw_only=True)

    def run_folder(self, kind: str) -> str:
        """'predictions/model=<id>/run=<id>' or the same of 'dead_letters'.

        What only later runs read is beside the report: 'runs/<id>/dead_versions'.
        """
        if kind == 'dead_versions':
            return f'runs/{self.run_id}/{kind}'
        return f'{kind}/model={self.model_id}/run={self.run_id}'

    @property
    def work_folder(self) -> str:
        """Where unpublished files of this run are."""
        return f'_work/{self.run_id}'

    @property
    def staging_folder(self) -> str:
        """Where this attempt keeps the files that it has written."""
        return f'{self.work_folder}/staged/{self.attempt}'

    @property
    def report_path(self) -> str:
        """The file that makes a run complete."""
        return f'runs/{self.run_id}/report.json'

    @property
    def commit_path(self) -> str:
        """The file that decides which attempt's files are published."""
        return f'{self.work_folder}/commit.json'

    def staged_uri(self, path: str) -> str:
        """Where a file is written before the run is published."""
        return self.uri(f'{self.staging_folder}/{path}')

    def shard_path(self, kind: str, folder: str, shard: int, shards: int) -> str:
        """Path of one file of a partition."""
        return f'{self.run_folder(kind)}/{folder}part-{shard:05d}-of-{shards:05d}.parquet'

    def path_for(self, kind: str, folder: str, uri: str, shards: int) -> str:
        """Path of the file a row belongs to, by the hash of its URI."""
        return self.shard_path(kind, folder, uri_hash(uri) % shards, shards)


@dataclasses.dataclass(frozen=True)
class Layout(RunPaths):
    """Where the rows of a run go.

    Attributes:
      carry: carried columns, in order.
      partition_by: those of them that are folders.
      rows_per_file: approximate rows per Parquet file.
    """

    carry: tuple[str, ...]
    partition_by: tuple[str, ...]
    rows_per_file: int

    @property
    def file_columns(self) -> tuple[str, ...]:
        """Carried columns that are inside the prediction files."""
        return tuple(column for column in self.carry if column not in self.partition_by)

    def partition_folder(self, carried: str) -> str:
        """'split=train/' for a row's carried columns; '' without partitions."""
        if not self.partition_by:
            return ''
        values = json.loads(carried)
        chosen = [values[self.carry.index(column)] for column in self.partition_by]
        return folder_of_values(self.partition_by, chosen)

    def shards(self, rows: int) -> int:
        """How many files hold this many rows: a power of two, like the number of buckets.

        So the rows of a chunk go to one file per partition, however many files there are.
        """
        return power_of_two(-(-rows // self.rows_per_file))


def dataset_spec(layout: Layout) -> dict[str, Any]:
    """The content of dataset.json: what every run into the folder shares."""
    return {
        'schema_version': SCHEMA_VERSION,
        'partition_by': list(layout.partition_by),
        'carry': list(layout.carry),
    }


def check_dataset(layout: Layout) -> bool:
    """Compares the run with what earlier runs have pinned.

    Returns:
      Whether the folder has a dataset.json.

    Raises:
      UsageError: the run does not fit; both layouts are named.
    """
    uri = layout.uri('dataset.json')
    data = layout.store.read(uri)
    if data is None:
        return False
    try:
        there, _ = open_json(data)
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: restore it, or choose another --output') from e
    ours = dataset_spec(layout)
    if there != ours:
        raise UsageError(
            f'--output {layout.output}: this run does not fit the dataset there; the dataset '
            f'has {json.dumps(there)}, but this run has {json.dumps(ours)}; use the same '
            '--carry and --partition_by, or another --output'
        )
    return True
