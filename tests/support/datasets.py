"""Datasets made by hand, as `lemmabeam label` would have written them."""

import datetime
import functools
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.elements import DeadLetter, Note, WrittenFile
from transforms.model.vocabulary import load_vocabulary
from transforms.output import dead_letters, predictions, run_metadata
from transforms.output.layout import Layout, dataset_spec
from transforms.output.results import carried_text
from transforms.runs.report import Counts, PublishedFile, RunModel, RunReport, TopLabel, kind_of
from transforms.storage.sealed import open_json, seal_json

VOCABULARY = load_vocabulary('ilsvrc2012')
MODEL = 'm-00000000'
_NOTHING: Counter[str] = Counter()


class Row(NamedTuple):
    """A row of predictions; `labels` are (class index, score), by falling score."""

    uri: str
    labels: Sequence[tuple[int, float]] = ()
    carried: Sequence[str | None] = ()
    version: str = '1'


@functools.cache
def vocabulary_file() -> bytes:
    """The classes as a run writes them."""
    return VOCABULARY.to_parquet()


def metadata_of(model_id: str, **changes: str) -> dict[str, str]:
    """Metadata of a run: scores from 0.1 on, 5 labels at most."""
    return {
        'schema_version': '1',
        'model_id': model_id,
        'activation': 'softmax',
        'stored_floor': '0.1',
        'threshold': '0.1',
        'max_labels': '5',
        'min_labels': '0',
        'vocabulary': VOCABULARY.name,
        **changes,
    }


def add_run(
    folder: Path,
    run_id: str,
    rows: Sequence[Row],
    *,
    carry: Sequence[str] = (),
    partition_by: Sequence[str] = (),
    rows_per_file: int = 100,
    sequence: int | None = None,
    model_id: str = MODEL,
    command: str = 'label',
    features: bool = False,
    notes: Sequence[tuple[Row, Note]] = (),
    failed: Sequence[DeadLetter] = (),
    **metadata: str,
) -> Layout:
    """Adds a complete run; without `sequence`, the next one.

    With features, those of a row are its number, twice. A note is of URI and carried values.
    """
    layout = Layout(str(folder), run_id, model_id, tuple(carry), tuple(partition_by), rows_per_file)
    if features:
        metadata['features'] = '2'
    schema = predictions.prediction_schema(layout.file_columns, metadata_of(model_id, **metadata))
    folders = defaultdict(list)
    for row in rows:
        folders[layout.partition_folder(carried_text(row.carried))].append(row)
    members: dict[str, list[Row]] = {path: [] for path in predictions.expected_paths(layout, {
        name: layout.shards(len(found)) for name, found in folders.items()
    })}  # fmt: skip
    for name, found in folders.items():
        for row in found:
            path = layout.path_for(predictions.KIND, name, row.uri, layout.shards(len(found)))
            members[path].append(row)
    files = [
        predictions.write_file(path, layout, schema, [table_of(found, layout, schema)])
        for path, found in members.items()
    ]
    if notes:
        letters = [
            DeadLetter(row.uri, '', note.value, '', -1, carried_text(row.carried))
            for row, note in notes
        ]
        path = layout.shard_path(dead_letters.VERSIONS, '', 0, 1)
        table = dead_letters.version_table(letters)
        files.append(predictions.write_file(path, layout, dead_letters.VERSION_SCHEMA, [table]))
    files += _write_failed(layout, failed, metadata_of(model_id, **metadata))
    least = np.float32(run_metadata.least_score(metadata_of(model_id, **metadata)))
    first = Counter(
        VOCABULARY.names[row.labels[0][0]]
        for row in rows
        if row.labels and np.float32(row.labels[0][1]) >= least
    )
    reasons = Counter(letter.reason for letter in failed)
    finish(layout, files, metadata_of(model_id, **metadata), sequence, command, first, reasons)
    return layout


def _write_failed(
    layout: Layout, failed: Sequence[DeadLetter], metadata: dict[str, str]
) -> list[WrittenFile]:
    kind, schema = dead_letters.KIND, dead_letters.dead_letter_schema(layout.carry, metadata)
    shards = layout.shards(len(failed)) if failed else 0
    files = []
    for shard in range(shards):
        path = layout.shard_path(kind, '', shard, shards)
        found = [each for each in failed if layout.path_for(kind, '', each.uri, shards) == path]
        tables = dead_letters.dead_letter_tables(found, layout.carry, schema)
        files.append(predictions.write_file(path, layout, schema, tables))
        path = layout.shard_path(dead_letters.VERSIONS, '', shard, shards)
        table = dead_letters.version_table(found)
        files.append(predictions.write_file(path, layout, dead_letters.VERSION_SCHEMA, [table]))
    return files


def table_of(rows: Sequence[Row], layout: Layout, schema: pa.Schema) -> pa.Table:
    """Rows as a file of the run has them."""
    rows = sorted(rows, key=lambda row: row.uri)
    lists = pa.table(
        {
            'indices': pa.array(
                [[index for index, _ in row.labels] for row in rows], pa.list_(pa.int32())
            ),
            'scores': pa.array(
                [[score for _, score in row.labels] for row in rows], pa.list_(pa.float32())
            ),
        }
    )
    columns = {
        'uri': [row.uri for row in rows],
        'object_version': [row.version for row in rows],
        'content_sha256': ['0' * 64] * len(rows),
        'width': [4] * len(rows),
        'height': [3] * len(rows),
        'format': ['JPEG'] * len(rows),
        'labels': predictions.labels_of(lists, VOCABULARY, schema),
    }
    if 'features' in schema.names:
        numbers = np.repeat(np.arange(len(rows)), 2).astype(np.float16)
        columns['features'] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 2)
    for column in layout.file_columns:
        place = layout.carry.index(column)
        columns[column] = [row.carried[place] for row in rows]
    return pa.table(columns, schema)


def finish(
    layout: Layout,
    files: Sequence[WrittenFile],
    metadata: dict[str, str],
    sequence: int | None = None,
    command: str = 'label',
    first_labels: Counter[str] = _NOTHING,
    reasons: Counter[str] = _NOTHING,
) -> None:
    """Publishes the files of a run, and writes its report."""
    root = Path(layout.output)
    for file in files:
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        Path(layout.staged_uri(file.path)).rename(root / file.path)
    for path, data in {
        'dataset.json': seal_json(dataset_spec(layout)),
        f'vocabularies/{VOCABULARY.file_name}': vocabulary_file(),
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(data)
    shutil.rmtree(root / '_work')
    if sequence is None:
        sequence = 1 + len(list(root.glob('runs/*/report.json')))
    report = report_of(layout, files, metadata, sequence, command, first_labels, reasons)
    report_path = root / layout.report_path
    report_path.parent.mkdir(parents=True, exist_ok=True)
    report_path.write_bytes(seal_json(report.to_json()))


def report_of(
    layout: Layout,
    files: Sequence[WrittenFile],
    metadata: dict[str, str],
    sequence: int = 1,
    command: str = 'label',
    first_labels: Counter[str] = _NOTHING,
    reasons: Counter[str] = _NOTHING,
) -> RunReport:
    """The report of a run that has dealt with all it was given."""
    rows = sum(file.rows for file in files if kind_of(file.path) == predictions.KIND)
    failed = reasons.total()
    common = sorted(first_labels.items(), key=lambda pair: (-pair[1], pair[0]))[:10]
    return RunReport(
        run_id=layout.run_id,
        sequence=sequence,
        command=command,
        balanced=True,
        counts=Counts(
            listed=rows + failed,
            labeled=rows,
            without_label=None if first_labels is _NOTHING else rows - first_labels.total(),
            dead_lettered=failed,
            dead_lettered_by_reason=dict(sorted(reasons.items())),
        ),
        started_at=started_at(sequence).isoformat(),
        # A clock that goes back: nothing may depend on it.
        finished_at=datetime.datetime(2026, 1, 1 + 28 // sequence).isoformat(),
        wall_sec=1.0,
        top_labels=tuple(TopLabel(*each) for each in common),
        options={'rows_per_file': layout.rows_per_file},
        model=RunModel(
            id=layout.model_id,
            vocabulary=VOCABULARY.file_name,
            vocabulary_sha256=hashlib.sha256(vocabulary_file()).hexdigest(),
        ),
        metadata=metadata,
        files=tuple(PublishedFile.of(file) for file in files),
    )


def started_at(sequence: int) -> datetime.datetime:
    """When the run of this place began."""
    return datetime.datetime(2026, 1, sequence, tzinfo=datetime.UTC)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any], *, seal: bool = True) -> None:
    """Changes a JSON file of ours in place, by default as if it had been written so.

    Args:
      change: is given the content, and changes it.
      seal: give it the checksum that fits; without, it has none, as a file of an older version.
    """
    value = open_json(path.read_bytes()).value
    change(value)
    path.write_bytes(seal_json(value) if seal else json.dumps(value).encode())


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Changes the rows of a file of a run, and its report so that it knows the file."""
    table = pq.ParquetFile(path).read()
    edit_table(path, pa.Table.from_pylist(change(table.to_pylist()), table.schema))


def edit_table(path: Path, table: pa.Table) -> None:
    """Puts another table in the place of a file of a run, and its report knows the file."""
    pq.write_table(table, path)
    root = next(folder for folder in path.parents if (folder / 'runs').is_dir())
    name = path.relative_to(root).as_posix()
    parts = name.split('/')
    run_id = parts[1] if parts[0] == 'runs' else parts[2].removeprefix('run=')

    def change(report: dict[str, Any]) -> None:
        (file,) = (file for file in report['files'] if file['path'] == name)
        data = path.read_bytes()
        file['sha256'] = hashlib.sha256(data).hexdigest()
        file |= {'rows': table.num_rows, 'size_bytes': len(data)}

    edit_json(root / f'runs/{run_id}/report.json', change)
