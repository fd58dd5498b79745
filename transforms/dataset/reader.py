"""An output folder as its readers see it: its pinned layout, its complete runs and their files."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import DamagedError, ImageError, StoreError, UsageError
from transforms.core.json_object import JsonObject
from transforms.core.stores import StoreOptions
from transforms.model.vocabulary import Vocabulary, is_packaged_file
from transforms.output import predictions
from transforms.output.layout import SCHEMA_VERSION
from transforms.output.partitions import folder_of_values, unescape
from transforms.runs.complete import CompleteRun, complete_runs, restore_or_remove
from transforms.runs.vocabularies import vocabulary_checksums
from transforms.storage.base import Store
from transforms.storage.registry import has_folder, output_store
from transforms.storage.sealed import Checksum, open_json

_VOCABULARY_COLUMNS = ['wnid', 'lemmas', 'definition']


class Dataset(NamedTuple):
    """An output folder that runs have written.

    Attributes:
      output: its absolute URI.
      store: how it is reached.
      carry: carried columns, in order.
      partition_by: those of them that are folders.
    """

    output: str
    store: Store
    carry: tuple[str, ...]
    partition_by: tuple[str, ...]

    @property
    def file_columns(self) -> tuple[str, ...]:
        """Carried columns that are inside the prediction files."""
        return tuple(column for column in self.carry if column not in self.partition_by)


def dataset_at(output: str, stores: StoreOptions, flag: str = '') -> Dataset:
    """As `open_dataset`, of an output by how its store is reached."""
    return open_dataset(output, output_store(output, stores), flag)


def open_dataset(output: str, store: Store, flag: str = '') -> Dataset:
    """Reads the pinned layout of an output folder.

    Args:
      output: its absolute URI.
      store: how it is reached.
      flag: what names it on the command line, for messages: '--output ' or ''.

    Raises:
      UsageError: there is no such folder, no run has written there, or a run of another version
        has.
      StoreError: its dataset.json is damaged, or the store does not answer.
    """
    if not has_folder(store, output):
        raise UsageError(
            f'{flag}{uris.named(output)}: no such folder; give the --output of `lemmabeam label`'
        )
    uri = uris.join(output, 'dataset.json')
    data = store.read(uri)
    if data is None:
        raise UsageError(
            f'{flag}{uris.named(output)}: no dataset.json there, so no complete run has written '
            'here; give the --output of `lemmabeam label`'
        )
    try:
        spec = JsonObject(open_json(data).value)
        version = spec.count('schema_version')
        # Another version may have something else.
        is_ours = version == SCHEMA_VERSION
        carry = spec.texts('carry') if is_ours else ()
        partition_by = spec.texts('partition_by') if is_ours else ()
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: restore it from a backup') from e
    if not is_ours:
        raise UsageError(
            f'{flag}{output}: the dataset has schema version {version}, but this version of '
            f'Lemmabeam reads {SCHEMA_VERSION}; use the version that wrote it'
        )
    if not set(partition_by) <= set(carry):
        raise StoreError(f'{uri} is damaged: restore it from a backup')
    return Dataset(output, store, carry, partition_by)


def runs_of_model(
    dataset: Dataset, runs: Sequence[CompleteRun], model_id: str
) -> list[CompleteRun]:
    """The runs with scores of a model, in their order.

    Raises:
      UsageError: there is none; names the models that are there.
    """
    found = [run for run in runs if run.model_id == model_id]
    if not found:
        known = ', '.join(sorted({run.model_id for run in runs})) or 'none'
        raise UsageError(
            f'--model_id {model_id}: no complete run of this model in {dataset.output}; models '
            f'with complete runs: {known}'
        )
    return found


def read_vocabulary(dataset: Dataset, run: CompleteRun) -> Vocabulary:
    """The classes of a run's model, from the file beside its predictions.

    Raises:
      StoreError: the file is missing, damaged or not the one its name says.
    """
    advice = (
        'restore it from a backup, or run `lemmabeam label` with this model, which writes it again'
    )
    name = run.report.metadata.get('vocabulary', '')
    file_name = run.report.model.vocabulary
    uri = uris.join(dataset.output, f'vocabularies/{file_name}')
    data = None if '/' in file_name else dataset.store.read(uri)
    if data is None:
        raise StoreError(f'{uri} is missing: {advice}')
    try:
        _check_vocabulary(dataset, run, file_name, data)
        # Not by `read_table`, which imports pandas: 0.4 s.
        table = pq.ParquetFile(io.BytesIO(data)).read(_VOCABULARY_COLUMNS)
        wnids, lemmas, definitions = (table[name].to_pylist() for name in _VOCABULARY_COLUMNS)
        vocabulary = Vocabulary(
            name, tuple(wnids), tuple(tuple(words) for words in lemmas), tuple(definitions)
        )
        is_it = vocabulary.file_name == file_name
    except (DamagedError, pa.ArrowException, OSError, LookupError, TypeError, AttributeError) as e:
        raise StoreError(f'{uri} is damaged: {advice}') from e
    if not is_it:
        raise StoreError(f'{uri} does not match the hash in its name: {advice}')
    return vocabulary


def _check_vocabulary(dataset: Dataset, run: CompleteRun, file_name: str, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    if {sha256, None} & vocabulary_checksums([run], file_name):
        return
    # Written anew by a later run, with another version of Arrow, because it was damaged.
    known = vocabulary_checksums(complete_runs(dataset.output, dataset.store), file_name)
    if sha256 not in known and not is_packaged_file(file_name, data):
        raise DamagedError('its checksum is in no report')


class StoredFile(NamedTuple):
    """A prediction file of a complete run.

    Attributes:
      path: relative to the output.
      folder: its partition folders, 'split=train/' or ''.
      values: the carried columns in these, None for those inside the file.
      rows: how many it has, by the report.
      checksum: of its bytes, by the report.
      run: its run.
      place: of the run among those that were asked for.
    """

    path: str
    folder: str
    values: tuple[str | None, ...]
    rows: int
    checksum: Checksum
    run: CompleteRun
    place: int


def files_of(dataset: Dataset, run: CompleteRun, place: int) -> Iterator[StoredFile]:
    """The prediction files of a run, as its report lists them.

    Raises:
      StoreError: the report is damaged.
    """
    prefix = f'{predictions.KIND}/model={run.model_id}/run={run.id}/'
    for file in run.files(predictions.KIND):
        *folders, name = file.path.removeprefix(prefix).split('/')
        pairs = [folder.partition('=') for folder in folders]
        if (
            not file.path.startswith(prefix)
            or not name
            or [column for column, _, _ in pairs] != list(dataset.partition_by)
        ):
            raise StoreError(damaged(dataset, run))
        inside = {column: unescape(value) for column, _, value in pairs}
        try:
            folder = folder_of_values(dataset.partition_by, list(inside.values()))
        except ImageError as e:  # a name that we would not have written so
            raise StoreError(damaged(dataset, run)) from e
        values = tuple(inside.get(column) for column in dataset.carry)
        yield StoredFile(file.path, folder, values, file.rows, file.checksum, run, place)


def damaged(dataset: Dataset, run: CompleteRun) -> str:
    """The message for a run whose report is not as it was written."""
    uri = uris.join(dataset.output, f'runs/{run.id}/report.json')
    return f'{uri} is damaged: {restore_or_remove(run.id)}'
