"""Checks an output folder, and compares two: the oracle of the tests, and of careful people.

VERIFY.md beside this file says what it vouches for, and what it cannot know.
"""

import functools
import hashlib
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.elements import Stage
from transforms.core.errors import DamagedError, LemmabeamError, StoreError, UsageError
from transforms.core.hashing import uri_hash
from transforms.core.reasons import Reason
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.dataset import forget, latest_sql
from transforms.dataset.reader import Dataset, open_dataset
from transforms.model.card import Activation
from transforms.model.vocabulary import Vocabulary, is_packaged_file
from transforms.output import dead_letters, predictions
from transforms.output.partitions import values_of_path
from transforms.runs import in_progress
from transforms.runs.complete import CompleteRun
from transforms.runs.report import PublishedFile, RunReport, kind_of
from transforms.runs.vocabularies import vocabulary_checksums
from transforms.storage.registry import has_folder, output_store
from transforms.storage.sealed import open_json

_SHOWN = 10
_REPORT = re.compile(r'runs/([^/]+)/report\.json')
_PLACE = re.compile(r"'((?:[^'\n]|'')*)/predictions[/']")
_VOCABULARY = re.compile(r'vocabularies/[^/]+-[0-9a-f]{8}\.parquet')
# The kind of a row, and what it is the row of.
_Key = tuple[Any, ...]
_PART = re.compile(r'part-(\d{5,})-of-(\d{5,})\.parquet')


class _Classes(NamedTuple):
    """The classes of a vocabulary.

    Attributes:
      sha256: of its file, None where it is missing.
      problem: what is wrong with it, or ''; bytes that are in no report are not parsed.
      names: (wnid, name) of each class.
      is_packaged: no report has these bytes, but this version writes them.
    """

    sha256: str | None
    problem: str = ''
    names: Sequence[tuple[str | None, str]] = ()
    is_packaged: bool = False


class _Dataset:
    """An output folder as it is.

    Attributes:
      root: absolute URI.
      store: how it is reached.
      spec: dataset.json.
      runs: complete runs by id, those with a damaged report left out.
      problems: what is wrong with the reports, a line each.
      unsealed: files without a checksum, as earlier versions wrote them.
      forgetting: runs in which forgetting an image was interrupted; their reports are corrected.
      paths: every file below the root, outside `_work`, relative to it; without temporary files.
      temporaries: these.
      unfinished: the work of runs that are not complete, or were not when they were killed.
    """

    def __init__(self, folder: str, stores: StoreOptions):
        self.root = uris.absolute(folder).rstrip('/')
        self.store = output_store(self.root, stores)
        if not has_folder(self.store, self.root):
            raise UsageError(f'{uris.named(folder)}: no such folder')
        prefix = len(uris.join(self.root, ''))
        found = {entry.uri[prefix:] for entry in self.store.list(self.root)}
        found = {path for path in found if not path.startswith('_work/')}
        self.temporaries = {path for path in found if in_progress.is_temporary(path)}
        self.paths = found - self.temporaries
        if 'dataset.json' not in self.paths:
            raise UsageError(
                f'{uris.named(folder)}: no dataset.json there, so no complete run has written here'
            )
        self.unfinished = in_progress.unfinished(self.root, self.store)
        self.problems: list[str] = []
        self.unsealed: list[str] = []
        self.forgetting: list[str] = []
        self.runs: dict[str, CompleteRun] = {}
        self._classes: dict[str, _Classes] = {}
        self.spec: Dataset | None = None
        try:
            self._open('dataset.json')
            self.spec = open_dataset(self.root, self.store)
        except DamagedError as e:
            self.problems.append(f'dataset.json is damaged: {e}')
        except LemmabeamError as e:
            self.problems.append(f'dataset.json: {e}')
        for path in sorted(self.paths):
            if _REPORT.fullmatch(path):
                self._add_run(path)

    @property
    def carry(self) -> tuple[str, ...]:
        """The carried columns."""
        return self.spec.carry if self.spec else ()

    def in_order(self) -> list[CompleteRun]:
        """The complete runs, the oldest first."""
        return sorted(self.runs.values(), key=lambda run: run[:3])

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return self.store.read(uris.join(self.root, path)) or b''

    def classes(self, file_name: str) -> _Classes:
        """The classes of a vocabulary, which is read once: runs share it."""
        if file_name not in self._classes:
            self._classes[file_name] = self._read_classes(file_name)
        return self._classes[file_name]

    def _read_classes(self, file_name: str) -> _Classes:
        path = f'vocabularies/{file_name}'
        if path not in self.paths:
            return _Classes(None)
        data = self.read(path)
        sha256 = _sha256(data)
        known = vocabulary_checksums(self.runs.values(), file_name)
        # A run that was interrupted behind it may have written an earlier version's file anew.
        is_packaged = sha256 not in known and is_packaged_file(file_name, data)
        if not {sha256, None} & known and not is_packaged:
            return _Classes(sha256)
        return _classes_of(file_name, data)._replace(is_packaged=is_packaged)

    def rows(self, path: str) -> Iterator[dict[str, Any]]:
        """The rows of a Parquet file, with the columns that stand in its path."""
        return _rows(path, self.read(path))

    def _open(self, path: str) -> dict[str, Any]:
        value, is_sealed = open_json(self.read(path))
        if not is_sealed:
            self.unsealed.append(path)
        return value

    def _add_run(self, path: str) -> None:
        run_id = path.split('/')[1]
        try:
            report = RunReport.from_json(self._open(path))
        except DamagedError as e:
            self.problems.append(f'{path} is damaged: {e}')
            return
        if forget.is_pending(report):
            self.forgetting.append(run_id)
            report = forget.settle(report, lambda pending: _sha256(self.read(pending.path)))
        self.runs[run_id] = CompleteRun.of(run_id, report)


@functools.lru_cache(maxsize=4)  # most datasets have one, and the same as most others
def _classes_of(file_name: str, data: bytes) -> _Classes:
    sha256 = _sha256(data)
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read().to_pydict()
        vocabulary = Vocabulary(
            file_name.rpartition('-')[0],
            tuple(table['wnid']),
            tuple(tuple(words) for words in table['lemmas']),
            tuple(table['definition']),
        )
        is_it = (
            vocabulary.file_name == file_name
            and table['name'] == list(vocabulary.names)
            and table['index'] == list(range(len(vocabulary)))
        )
    except (pa.ArrowException, OSError, LookupError, TypeError, AttributeError):
        return _Classes(sha256, 'cannot be read')
    if not is_it:
        return _Classes(sha256, 'does not match the hash in its name')
    return _Classes(sha256, names=tuple(zip(vocabulary.wnids, vocabulary.names, strict=True)))


def _rows(path: str, data: bytes) -> Iterator[dict[str, Any]]:
    columns = values_of_path(path)
    for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(10_000):
        for row in batch.to_pylist():
            yield row | columns


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def verify(folder: str, stores: StoreOptions = DEFAULT_OPTIONS) -> list[str]:
    """Checks one output folder.

    Every file on the list of a complete run is there with its bytes, rows, schema and metadata;
    nothing else lies beside it; the books balance; no row is there twice.

    Returns:
      What is wrong, a line each; empty when the folder is whole and consistent.

    Raises:
      UsageError: it is not an output folder.
      StoreError: it cannot be read.
    """
    dataset = _Dataset(folder, stores)
    if dataset.spec is None:
        return dataset.problems
    problems = list(dataset.problems)
    for run in dataset.in_order():
        problems += _check_run(dataset, dataset.spec, run)
    problems += [
        f'{path}: belongs to no complete run'
        + '; `lemmabeam clean` removes it' * (in_progress.run_of(path) is not None)
        for path in sorted(dataset.paths - _expected(dataset))
    ]
    if not problems:
        problem, _ = _check_latest(dataset, dataset.spec)
        problems += [problem] * bool(problem)
    return list(dict.fromkeys(problems))  # runs share their vocabulary


def _expected(dataset: _Dataset) -> set[str]:
    """The files that may be there."""
    expected = {'dataset.json', latest_sql.PATH}
    # Runs share them, and one that was interrupted in its last step may have been the first.
    expected |= {path for path in dataset.paths if _VOCABULARY.fullmatch(path)}
    for run_id, run in dataset.runs.items():
        # The report for people is made anew at will: nothing in it is checked.
        expected |= {f'runs/{run_id}/{name}' for name in ('report.json', 'report.html')}
        expected |= {file.path for file in run.report.files}
        expected.add(f'vocabularies/{run.report.model.vocabulary}')
    # What a run is just publishing, or was when it ended, is told by `notes`; and of a run whose
    # report is damaged nobody knows the files.
    others = {each.run_id for each in dataset.unfinished if each.has_begun}
    others |= {path.split('/')[1] for path in dataset.paths if _REPORT.fullmatch(path)}
    others -= dataset.runs.keys()
    return expected | {
        path
        for path in dataset.paths
        if in_progress.run_of(path) in others or _REPORT.fullmatch(path)
    }


def _check_latest(dataset: _Dataset, spec: Dataset) -> tuple[str, str]:
    """Whether latest.sql is the query for the runs that are there, wherever it looks for them.

    Returns:
      What is wrong, and what is worth knowing; at most one of them is not ''.
    """
    runs = dataset.in_order()
    found = dataset.read(latest_sql.PATH).decode(errors='replace')
    advice = f'`lemmabeam clean {dataset.root}` rewrites it'
    match = _PLACE.search(found)
    place = match[1].replace("''", "'") if match else dataset.root
    # A run that was killed behind its report has not written it any more.
    killed = {each.run_id for each in dataset.unfinished}
    before = [run for run in runs if run.id not in killed]
    for root, note in (
        (dataset.root, ''),
        (
            place,
            f'{latest_sql.PATH} points to another place, as if the dataset had been moved; '
            f'{advice}',
        ),
    ):
        if found == _query(spec._replace(output=root), runs):
            return '', note
        if found == _query(spec._replace(output=root), before):
            return '', f'{latest_sql.PATH} is from before the interrupted run; {advice}'
    what = 'does not match the complete runs here' if found else 'is missing'
    return f'{latest_sql.PATH}: {what}; {advice}', ''


def _query(spec: Dataset, runs: Sequence[CompleteRun]) -> str:
    """latest.sql of some runs; there is none before the first."""
    return latest_sql.latest_sql(spec, runs) if runs else ''


def notes(folder: str, stores: StoreOptions = DEFAULT_OPTIONS) -> list[str]:
    """What is worth knowing about an output folder, but not wrong with it.

    One line for each run that is in progress or was interrupted, for anything else that a kill has
    left, and for files that cannot be checked as well.
    """
    try:
        dataset = _Dataset(folder, stores)
        note = _check_latest(dataset, dataset.spec)[1] if dataset.spec else ''
    except (UsageError, StoreError):
        return []  # `verify` tells what is damaged
    found = [note] * bool(note)
    found += [
        f'run {each.run_id} is complete, but its work files are still there ({each}): the next '
        f'run, or `lemmabeam clean {dataset.root}`, removes them'
        if each.run_id in dataset.runs
        else f'run {each.run_id} is in progress or was interrupted ({each}): run its command '
        f'again to resume it, or `lemmabeam clean {dataset.root}` to remove it'
        for each in dataset.unfinished
    ]
    found += [
        f'run {run_id}: a `lemmabeam clean --forget` was interrupted: run it again, or the '
        'image stays'
        for run_id in dataset.forgetting
    ]
    found += [
        f'{path}: left by a killed process, unless it is being written right now; `lemmabeam '
        f'clean {dataset.root}` removes it'
        for path in sorted(dataset.temporaries)
    ]
    found += [
        f'{path} has no checksum of its own, because an earlier version wrote it: some changes '
        'to it cannot be detected'
        for path in dataset.unsealed
    ]
    return found


def _check_run(dataset: _Dataset, spec: Dataset, run: CompleteRun) -> list[str]:
    report = run.report
    path = f'runs/{run.id}/report.json'
    problems = [f'{path}: {what}' for what in _check_report(run)]
    unlike = [f'{path}: {what}' for what in _check_shards(run, spec)]
    what = _check_vocabulary(dataset, run)
    if what:
        unlike.append(f'vocabularies/{report.model.vocabulary}: {what}')
    if unlike:
        return problems + unlike
    classes = dataset.classes(report.model.vocabulary).names
    found = _Found(Counter(), Counter(), Counter())
    for file in report.files:
        data = dataset.read(file.path) if file.path in dataset.paths else None
        what = _check_file(data, file, spec, report)
        if what or data is None:
            problems.append(f'{file.path}: {what}')
        elif file.kind != dead_letters.VERSIONS:
            problems += _check_rows(file.path, data, spec, report, classes, found)
    if problems:
        return problems
    return [f'{path}: {what}' for what in _check_books(report, found)]


def _check_report(run: CompleteRun) -> Iterator[str]:
    """Contradictions in a report."""
    report, model, metadata = run.report, run.report.model, run.report.metadata
    counts = report.counts
    if report.run_id != run.id:
        yield f'it belongs to run {report.run_id}'
    if not report.balanced:
        yield f'the books do not balance: {counts.to_json()}'
    if counts.listed != counts.ended:
        yield f'{counts.listed} listed, but {counts.ended} accounted for'
    reasons = sum(counts.dead_lettered_by_reason.values())
    if counts.dead_lettered != reasons:
        yield f'{counts.dead_lettered} dead letters, but {reasons} by reason'
    if metadata.get('model_id', model.id) != model.id:
        yield f'its model is {model.id}, but its metadata says {metadata["model_id"]}'
    name = model.vocabulary.rpartition('-')[0]
    if metadata.get('vocabulary', name) != name:
        yield (
            f'its vocabulary is {model.vocabulary}, but its metadata says {metadata["vocabulary"]}'
        )


class _Found(NamedTuple):
    """What was counted in the rows of a run.

    Attributes:
      rows: how often each (uri, carried columns) appears.
      reasons: dead letters by reason.
      first_labels: predictions by the name of their first label, where they have one.
    """

    rows: Counter[tuple[Any, ...]]
    reasons: Counter[str]
    first_labels: Counter[str]


def _check_books(report: RunReport, found: _Found) -> Iterator[str]:
    counts = report.counts
    if dict(found.reasons) != counts.dead_lettered_by_reason:
        yield (
            f'dead letters {dict(sorted(found.reasons.items()))}, but the report has '
            f'{counts.dead_lettered_by_reason}'
        )
    labeled = found.rows.total() - found.reasons.total()
    if labeled != counts.labeled:
        yield f'{labeled} labelled rows, but the report has {counts.labeled}'
    if counts.reused > counts.labeled:
        yield f'{counts.labeled} labelled rows, but {counts.reused} of them are said to be reused'
    without = counts.without_label
    if without not in (None, labeled - found.first_labels.total()):
        yield (
            f'{labeled - found.first_labels.total()} rows without a label, but the report has '
            f'{without}'
        )
    for key, n in found.rows.items():
        if n > 1:
            yield f'{key[0]} appears {n} times'
    listed = [(each.name, each.images) for each in report.top_labels]
    expected = sorted(found.first_labels.items(), key=lambda each: (-each[1], each[0]))
    if counts.forgotten:  # behind the first ten there are others, which it cannot know
        expected = [(name, n) for name, n in expected if name in dict(listed)]
    if listed != expected[: predictions.TOP_LABELS]:
        yield f'top_labels are {listed}, but the rows have {expected[: predictions.TOP_LABELS]}'


def _check_file(data: bytes | None, file: PublishedFile, spec: Dataset, report: RunReport) -> str:
    """What is wrong with a file; its bytes are looked at before they are parsed."""
    if data is None:
        return 'is missing'
    if _sha256(data) != file.sha256:
        return f'its bytes do not match the checksum in the report ({len(data)} bytes)'
    if len(data) != file.size_bytes:
        return f'{len(data)} bytes, but the report lists {file.size_bytes}'
    try:
        parquet = pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return f'cannot be read as Parquet, {len(data)} bytes'
    if parquet.metadata.num_rows != file.rows:
        return f'{parquet.metadata.num_rows} rows, but the report lists {file.rows}'
    if file.kind == dead_letters.VERSIONS:
        schema = dead_letters.VERSION_SCHEMA
    elif file.kind == predictions.KIND:
        schema = predictions.prediction_schema(spec.file_columns, report.metadata)
    else:
        schema = dead_letters.dead_letter_schema(spec.carry, report.metadata)
    if not parquet.schema_arrow.equals(schema):
        return (
            'its columns or their types are not those expected: '
            f'{parquet.schema_arrow.names}, expected {schema.names}'
        )
    if (parquet.schema_arrow.metadata or {}) != (schema.metadata or {}):
        return 'its metadata does not match the report'
    return ''


def _check_shards(run: CompleteRun, spec: Dataset) -> Iterator[str]:
    """Whether the files that are listed are a run's, and all of their partitions."""
    folders: dict[str, set[tuple[int, int]]] = {}
    ours = {
        kind: f'{kind}/model={run.model_id}/run={run.id}'
        for kind in (predictions.KIND, dead_letters.KIND)
    }
    ours[dead_letters.VERSIONS] = f'runs/{run.id}/{dead_letters.VERSIONS}'
    paths = [file.path for file in run.report.files]
    for path in paths:
        folder, _, name = path.rpartition('/')
        match = _PART.fullmatch(name)
        top = ours.get(kind_of(path), '?')
        columns = [part.partition('=')[0] for part in folder[len(top) + 1 :].split('/') if part]
        partitioned, flat = list(spec.partition_by), list[str]()
        forms = {
            predictions.KIND: [partitioned],
            dead_letters.VERSIONS: [flat, partitioned],  # as `label` and `relabel` write it
        }.get(kind_of(path), [flat])
        if match is None or not f'{folder}/'.startswith(f'{top}/') or columns not in forms:
            yield f'it lists {path}, which is not a file of this run'
        else:
            folders.setdefault(folder, set()).add((int(match[1]), int(match[2])))
    if len(set(paths)) < len(paths):
        yield 'it lists a file twice'
    for folder, parts in folders.items():
        total = max(count for _, count in parts)
        if parts != {(i, total) for i in range(total)}:
            yield f'not all of the {total} parts of {folder} are listed'


def _check_rows(
    path: str,
    data: bytes,
    spec: Dataset,
    report: RunReport,
    classes: Sequence[tuple[str | None, str]],
    found: _Found,
) -> Iterator[str]:
    shard, shards = map(int, _PART.fullmatch(path.rpartition('/')[2]).groups())  # type: ignore[union-attr]
    before, least = '', np.float32(report.counted_from)
    for number, row in enumerate(_rows(path, data)):
        where = f'{path}: {row["uri"]}'
        if row['uri'] < before:
            yield f'{where} is out of order: rows are sorted by URI'
        if uri_hash(row['uri']) % shards != shard:
            yield f'{where} belongs in another part'
        before = row['uri']
        key = (row['uri'], *(row[column] for column in spec.carry))
        is_dead = kind_of(path) == dead_letters.KIND
        # Bad lines are told apart by what cannot be stored.
        found.rows[(*key, path, number) if is_dead and _is_of_listing(row) else key] += 1
        if is_dead:
            found.reasons[row['reason']] += 1
            whats = _check_dead_letter(row)
        else:
            found.first_labels.update(
                label['name'] for label in row['labels'][:1] if label['score'] >= least
            )
            whats = _check_prediction(row, report, classes)
        for what in whats:
            yield f'{where} {what}'


def _is_of_listing(dead_letter: Mapping[str, Any]) -> bool:
    return bool(dead_letter['stage'] == Stage.LIST.value)


def _check_dead_letter(row: Mapping[str, Any]) -> Iterator[str]:
    known = {reason.value for reason in Reason}
    if row['reason'] not in known or row['stage'] not in {stage.value for stage in Stage}:
        yield f'has an unknown reason or stage: {row["reason"]}'
    elif row['retryable'] != Reason(row['reason']).retryable:
        yield f'has {row["reason"]} with retryable {row["retryable"]}'


def _check_vocabulary(dataset: _Dataset, run: CompleteRun) -> str:
    """What is wrong with the classes of a run; '' where nothing is."""
    file_name = run.report.model.vocabulary
    classes = dataset.classes(file_name)
    if classes.sha256 is None:
        return 'is missing'
    # Of reports of an earlier version nobody knows the bytes.
    known = vocabulary_checksums(dataset.runs.values(), file_name)
    is_known = classes.sha256 in known or classes.is_packaged
    if not is_known and run.report.model.vocabulary_sha256 is not None:
        return 'its bytes do not match the checksum in the report'
    return classes.problem


def _check_prediction(
    row: Mapping[str, Any],
    report: RunReport,
    classes: Sequence[tuple[str | None, str]],
) -> Iterator[str]:
    labels = row['labels']
    order = [(-label['score'], label['index']) for label in labels]
    if order != sorted(order):
        yield 'has labels that are not sorted by falling score, ties by index'
    if report.activation is Activation.NONE:
        if not all(math.isfinite(label['score']) for label in labels):
            yield 'has a score that is not finite'
    elif not all(0 <= label['score'] <= 1 for label in labels):
        yield 'has a score outside 0 to 1'
    if len(labels) > report.max_labels:
        yield f'has {len(labels)} labels'
    if not all(
        0 <= each['index'] < len(classes) for each in row.get(predictions.STORED_SCORES, ())
    ):
        yield f'has a stored score for a class outside the {len(classes)} of its model'
    if len({label['index'] for label in labels}) != len(labels):
        yield 'has a class twice'
    for label in labels:
        index = label['index']
        if not 0 <= index < len(classes):
            yield f'has a label of class {index}, but there are only {len(classes)} classes'
        elif (label['wnid'], label['name']) != classes[index]:
            yield 'has a label whose name is not the one in the vocabulary'


class Comparison(NamedTuple):
    """How two outputs differ.

    Attributes:
      differences: the first ones, a line each; empty where they are the same.
      totals: rows of both, and how many of them differ, in one line.
    """

    differences: list[str]
    totals: str


def compare(
    folder: str,
    other: str,
    *,
    by_name: bool = False,
    exact: bool = False,
    tolerance: float = 0.0,
    stores: StoreOptions = DEFAULT_OPTIONS,
) -> Comparison:
    """Compares two output folders that `verify` found whole.

    Compares what was computed: the newest row of each image, carried values and model, and the dead
      letters of those that have none, whatever the runs are called.

    Args:
      folder, other: the two folders.
      by_name: pair rows by object name below each dataset's common folder, and leave out `uri`
        and `object_version`.
      exact: compare the rows of each run with those of the run of the same id, and the bytes of
        the files.
      tolerance: largest difference of two scores that counts as equal.
      stores: how both are reached.
    """
    ours, theirs = _Dataset(folder, stores), _Dataset(other, stores)
    a, b = (_keyed_rows(dataset, by_name, exact) for dataset in (ours, theirs))
    found: list[str] = []
    counts: Counter[str] = Counter()
    for key in sorted(a.keys() | b.keys(), key=str):
        lines = list(_compare_row(ours, theirs, key, a.get(key), b.get(key), tolerance))
        kind = 'only in one' if key not in a or key not in b else 'different'
        counts[f'{key[0]} {kind}'] += bool(lines)
        found += lines[: max(0, _SHOWN - len(found))]
    if not found and exact and tolerance == 0:
        one, two = _bytes(ours), _bytes(theirs)
        paths = [path for path in sorted(one.keys() | two.keys()) if one.get(path) != two.get(path)]
        found = [f'{path}: the same rows, but different bytes' for path in paths[:_SHOWN]]
    return Comparison(found, _totals(a, b, counts))


def verify_and_compare(
    folder: str,
    other: str,
    *,
    by_name: bool = False,
    exact: bool = False,
    tolerance: float = 0.0,
    stores: StoreOptions = DEFAULT_OPTIONS,
) -> Comparison:
    """Compares two output folders, unless one of them is not whole; arguments as of `compare`.

    Returns:
      The comparison; or what is wrong with the first that is not whole, and no totals.

    Raises:
      UsageError: there is no such output, or it is one of another version.
      StoreError: the store does not answer.
    """
    problems = verify(folder, stores) or verify(other, stores)
    if problems:
        return Comparison(problems, '')
    return compare(folder, other, by_name=by_name, exact=exact, tolerance=tolerance, stores=stores)


def _totals(a: Mapping[_Key, Any], b: Mapping[_Key, Any], counts: Counter[str]) -> str:
    said = []
    for kind in (predictions.KIND, dead_letters.KIND):
        ours, theirs = (sum(key[0] == kind for key in each) for each in (a, b))
        rows = f'{ours:,}' if ours == theirs else f'{ours:,} and {theirs:,}'
        unlike = ''.join(
            f', {counts[f"{kind} {how}"]:,} {how}'
            for how in ('different', 'only in one')
            if counts[f'{kind} {how}']
        )
        said.append(f'{rows} {kind.replace("_", " ")}{unlike}')
    return '; '.join(said)


def _bytes(dataset: _Dataset) -> dict[str, str]:
    """Hashes of everything that must be byte-identical."""
    kinds = (predictions.KIND, dead_letters.KIND, 'vocabularies')
    return {
        path: hashlib.sha256(dataset.read(path)).hexdigest()
        for path in dataset.paths
        if path.split('/')[0] in kinds
    }


def _compare_row(
    ours: _Dataset,
    theirs: _Dataset,
    key: _Key,
    a: Mapping[str, Any] | None,
    b: Mapping[str, Any] | None,
    tolerance: float,
) -> Iterator[str]:
    kind, *parts = key
    name = ', '.join(str(part) for part in parts if part is not None)
    if a is None or b is None:
        yield f'{kind}: {name}: only in {(ours if b is None else theirs).root}'
        return
    for column in sorted(a.keys() | b.keys()):
        one, two = a.get(column), b.get(column)
        if not _equal(one, two, tolerance):
            yield f'{kind}: {name}: {column} {one!r} and {two!r}'


def _keyed_rows(dataset: _Dataset, by_name: bool, exact: bool) -> dict[_Key, dict[str, Any]]:
    prefix = len(_common_folder(dataset)) if by_name else 0
    keyed: dict[_Key, dict[str, Any]] = {}
    for run in dataset.in_order():
        for kind in (dead_letters.KIND, predictions.KIND):
            for row in (row for file in run.files(kind) for row in dataset.rows(file.path)):
                key = _key_of(row, kind, run, dataset.carry, prefix)
                if by_name:
                    row.pop('uri')
                    row.pop('object_version', None)
                if exact:
                    key = (*key, run.id)
                elif kind == predictions.KIND:  # what failed before is superseded
                    keyed.pop((dead_letters.KIND, *key[1:]), None)
                keyed[key] = row
    return keyed


def _key_of(
    row: Mapping[str, Any], kind: str, run: CompleteRun, carry: Sequence[str], prefix: int
) -> _Key:
    key = (kind, row['uri'][prefix:], *(row[column] for column in carry), run.model_id)
    # Bad lines are told apart by what cannot be stored.
    return (*key, row['detail']) if kind == dead_letters.KIND and _is_of_listing(row) else key


def _common_folder(dataset: _Dataset) -> str:
    """The longest folder, slash included, that every URI of a dataset lies in."""
    names = [
        row['uri']
        for run in dataset.runs.values()
        for kind in (predictions.KIND, dead_letters.KIND)
        for file in run.files(kind)
        for row in dataset.rows(file.path)
    ]
    if not names:
        return ''
    first, last = min(names), max(names)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return ''.join(char for char, _ in same).rpartition('/')[0] + '/'


def _equal(one: Any, two: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return one == two or math.isclose(one, two, rel_tol=0, abs_tol=tolerance)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(
            _equal(x, y, tolerance) for x, y in zip(one, two, strict=True)
        )
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_equal(one[k], two[k], tolerance) for k in one)
    return bool(one == two)
