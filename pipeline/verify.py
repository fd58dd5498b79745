"""Checks an output folder, and compares two: the oracle of the tests and of careful people."""

import hashlib
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import dead_letters, latest, uris, work, write
from transforms.dataset import open_dataset
from transforms.errors import LemmabeamError, UsageError
from transforms.hashing import uri_hash
from transforms.layout import SCHEMA_VERSION
from transforms.model.card import Activation
from transforms.partitions import values_of_path
from transforms.rows import Reason, Stage
from transforms.runs import complete_runs, kind_of
from transforms.storage import DEFAULT_OPTIONS, StoreOptions, store_for

_KINDS = (write.KIND, dead_letters.KIND)
_SHOWN = 10
# What becomes of a listed ref; the last one is what `lemmabeam clean --forget` took away.
_ENDS = ('labeled', 'duplicates', 'unchanged', 'dead_lettered', 'forgotten')
_PLACE = re.compile(r"'(?:[^'\n]|'')*/(predictions|runs)(?=['/])")
_VOCABULARY = re.compile(r'vocabularies/[^/]+-[0-9a-f]{8}\.parquet')
_PART = re.compile(r'part-(\d{5,})-of-(\d{5,})\.parquet')


class _DamagedError(ValueError):
    """A file cannot be parsed; says which."""


class _Run(NamedTuple):
    report: dict[str, Any]
    files: dict[str, dict[str, Any]]


class _Dataset:
    """An output folder as it lies there.

    Attributes:
      root: absolute URI.
      store: how it is reached.
      spec: dataset.json.
      runs: complete runs by id.
      paths: every file below the root, outside `_work`, relative to it.
    """

    def __init__(self, folder: str, stores: StoreOptions):
        self.root = uris.absolute(folder).rstrip('/')
        self.store = store_for(self.root, stores)
        if not self.store.is_folder(self.root):
            raise UsageError(f'{folder}: no such folder')
        prefix = len(uris.join(self.root, ''))
        found = (entry.uri[prefix:] for entry in self.store.list(self.root))
        self.paths = {path for path in found if not path.startswith('_work/')}
        if 'dataset.json' not in self.paths:
            raise UsageError(
                f'{folder}: no dataset.json there, so no complete run has written here'
            )
        self.spec = self._parse('dataset.json')
        reports = (
            path for path in sorted(self.paths) if re.fullmatch(r'runs/[^/]+/report.json', path)
        )
        self.runs = {}
        for path in reports:
            report = self._parse(path)
            self.runs[path.split('/')[1]] = _Run(
                report, {file['path']: file for file in report['files']}
            )

    def _parse(self, path: str) -> Any:
        try:
            return json.loads(self.read(path))
        except ValueError as e:
            raise _DamagedError(f'{path} is damaged: it is not JSON') from e

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return self.store.read(uris.join(self.root, path)) or b''

    def unfinished(self) -> list[work.Unfinished]:
        """The work of runs that are not complete."""
        return work.unfinished(self.root, self.store)

    def rows(self, path: str) -> Iterator[dict[str, Any]]:
        """The rows of a Parquet file, with the columns that stand in its path."""
        columns = values_of_path(path)
        for batch in pq.ParquetFile(io.BytesIO(self.read(path))).iter_batches(10_000):
            for row in batch.to_pylist():
                yield row | columns


def verify(folder: str, stores: StoreOptions = DEFAULT_OPTIONS) -> list[str]:
    """Checks one output folder.

    Every file on the list of a complete run is there with its bytes, rows, schema and metadata;
    nothing else lies beside it; the books balance; no row is there twice.

    Returns:
      What is wrong, a line each; empty when the folder is whole and consistent.

    Raises:
      UsageError: it is no output folder.
    """
    try:
        return _verify(_Dataset(folder, stores))
    except _DamagedError as e:
        return [str(e)]
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        return [f'dataset.json or a report.json is damaged: {type(e).__name__}']


def _verify(dataset: _Dataset) -> list[str]:
    problems: list[str] = []
    if dataset.spec.get('schema_version') != SCHEMA_VERSION:
        return [f'dataset.json has schema version {dataset.spec.get("schema_version")}']
    expected = {'dataset.json', latest.PATH}
    for run_id, run in dataset.runs.items():
        problems += _check_run(dataset, run_id, run)
        vocabulary = f'vocabularies/{run.report["model"]["vocabulary"]}'
        expected |= {f'runs/{run_id}/report.json', vocabulary, *run.files}
        # For people, made and made anew at will: nothing in it is checked.
        expected.add(f'runs/{run_id}/report.html')
    unfinished = dataset.unfinished()
    problems += [
        f'{path}: belongs to no complete run'
        for path in sorted(dataset.paths - expected)
        # Runs share them, and one that was interrupted in its last step may have been the first.
        if not _VOCABULARY.fullmatch(path)
        # What a run is just publishing, or was when it ended, is told by `notes`.
        and not any(
            f'/run={each.run_id}/' in path or f'runs/{each.run_id}/' in path
            for each in unfinished
            if each.has_begun
        )
    ]
    if not problems:
        problems += _check_latest(dataset)
    return problems


def _check_latest(dataset: _Dataset) -> list[str]:
    """Whether latest.sql is the query for the runs that are there, wherever it looks for them."""
    expected, found = _latest(dataset)
    if _anywhere(found) == _anywhere(expected):
        return []
    what = 'is not that of the complete runs here' if found else 'is missing'
    return [f'{latest.PATH}: {what}; `lemmabeam clean {dataset.root}` writes it anew']


def _latest(dataset: _Dataset) -> tuple[str, str]:
    """latest.sql as it should be, and as it is; both '' before the first run."""
    if not dataset.runs:
        return '', ''
    runs = complete_runs(dataset.root, dataset.store)
    expected = latest.latest_sql(open_dataset(dataset.root, dataset.store), runs)
    return expected, dataset.read(latest.PATH).decode(errors='replace')


def _anywhere(query: str) -> str:
    return _PLACE.sub(r"'\1", query)


def notes(folder: str, stores: StoreOptions = DEFAULT_OPTIONS) -> list[str]:
    """What is worth knowing of an output folder, and no fault of it: a line for each run that is
    under way or was interrupted.
    """
    try:
        dataset = _Dataset(folder, stores)
        expected, found = _latest(dataset)
    except (LemmabeamError, ValueError, LookupError, TypeError, AttributeError):
        return []  # `verify` tells what is damaged
    moved = f'{latest.PATH} names another place, as if the dataset had been moved; '
    moved += f'`lemmabeam clean {dataset.root}` writes it anew'
    is_moved = expected != found and _anywhere(expected) == _anywhere(found)
    return [moved] * is_moved + [
        f'run {each.run_id} is complete, but its work is still there ({each}): the next run, or '
        f'`lemmabeam clean {dataset.root}`, removes it'
        if each.run_id in dataset.runs
        else f'run {each.run_id} is under way, or was interrupted ({each}): the command that began '
        f'it goes on with it, `lemmabeam clean {dataset.root}` removes it'
        for each in dataset.unfinished()
    ]


def _check_run(dataset: _Dataset, run_id: str, run: _Run) -> list[str]:
    problems = []
    report = run.report
    counts = report['counts']
    for path, file in run.files.items():
        problems += _check_file(dataset, path, file, report)
    problems += _check_shards(run.files)
    if problems:
        return problems
    if not report['balanced']:
        problems.append(f'run {run_id}: the books do not balance: {counts}')
    ended = sum(counts.get(name, 0) for name in _ENDS)
    if counts['listed'] != ended:
        problems.append(f'run {run_id}: {counts["listed"]} listed, but {ended} accounted for')
    classes = _read_classes(dataset, f'vocabularies/{report["model"]["vocabulary"]}')
    if classes is None:
        return [f'run {run_id}: vocabularies/{report["model"]["vocabulary"]} cannot be read']
    seen: Counter[tuple[Any, ...]] = Counter()
    reasons: Counter[str] = Counter()
    for path in run.files:
        if kind_of(path) == dead_letters.VERSIONS:
            continue
        is_dead = kind_of(path) == dead_letters.KIND
        shard, shards = map(int, _PART.fullmatch(path.rpartition('/')[2]).groups())  # type: ignore[union-attr]
        before = ''
        for number, row in enumerate(dataset.rows(path)):
            if row['uri'] < before:
                problems.append(f'{path}: {row["uri"]} is not in the order of URIs')
            if uri_hash(row['uri']) % shards != shard:
                problems.append(f'{path}: {row["uri"]} belongs to another part')
            before = row['uri']
            key = (row['uri'], *(row[column] for column in dataset.spec['carry']))
            # Bad lines are told apart by what cannot be stored.
            seen[(*key, path, number) if is_dead and _is_of_listing(row) else key] += 1
            if is_dead:
                reasons[row['reason']] += 1
                problems += _check_dead_letter(path, row)
            else:
                problems += _check_prediction(path, row, report, classes)
    if dict(reasons) != counts['dead_lettered_by_reason']:
        problems.append(
            f'run {run_id}: dead letters {dict(sorted(reasons.items()))}, '
            f'but the report has {counts["dead_lettered_by_reason"]}'
        )
    labeled = sum(seen.values()) - sum(reasons.values())
    if labeled != counts['labeled']:
        problems.append(
            f'run {run_id}: {labeled} labelled rows, the report has {counts["labeled"]}'
        )
    problems += [f'run {run_id}: {key[0]} is there {n} times' for key, n in seen.items() if n > 1]
    return problems


def _check_file(
    dataset: _Dataset, path: str, file: Mapping[str, Any], report: Mapping[str, Any]
) -> list[str]:
    if path not in dataset.paths:
        return [f'{path}: is missing']
    data = dataset.read(path)
    try:
        parquet = pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return [f'{path}: cannot be read as Parquet, {len(data)} bytes']
    problems = []
    if hashlib.sha256(data).hexdigest() != file['sha256']:
        problems.append(f'{path}: its bytes are not those the report lists')
    if parquet.metadata.num_rows != file['rows']:
        problems.append(
            f'{path}: {parquet.metadata.num_rows} rows, the report lists {file["rows"]}'
        )
    carry, partitions = dataset.spec['carry'], dataset.spec['partition_by']
    if kind_of(path) == dead_letters.VERSIONS:
        schema = dead_letters.VERSION_SCHEMA
    elif kind_of(path) == write.KIND:
        inside = [column for column in carry if column not in partitions]
        schema = write.prediction_schema(inside, report['metadata'])
    else:
        schema = dead_letters.dead_letter_schema(carry, report['metadata'])
    if not parquet.schema_arrow.equals(schema):
        problems.append(f'{path}: another schema than {schema.names}: {parquet.schema_arrow.names}')
    elif (parquet.schema_arrow.metadata or {}) != (schema.metadata or {}):
        problems.append(f'{path}: its metadata is not that of the report')
    return problems


def _check_shards(files: Iterable[str]) -> list[str]:
    folders: dict[str, set[tuple[int, int]]] = {}
    problems = []
    for path in files:
        folder, _, name = path.rpartition('/')
        match = _PART.fullmatch(name)
        if match is None:
            problems.append(f'{path}: not named part-NNNNN-of-NNNNN.parquet')
            continue
        folders.setdefault(folder, set()).add((int(match[1]), int(match[2])))
    for folder, parts in folders.items():
        total = max(count for _, count in parts)
        if parts != {(i, total) for i in range(total)}:
            problems.append(f'{folder}: not all of its {total} parts are listed')
    return problems


def _is_of_listing(dead_letter: Mapping[str, Any]) -> bool:
    return bool(dead_letter['stage'] == Stage.LIST.value)


def _check_dead_letter(path: str, row: Mapping[str, Any]) -> list[str]:
    known = {reason.value for reason in Reason}
    if row['reason'] not in known or row['stage'] not in {stage.value for stage in Stage}:
        return [f'{path}: {row["uri"]} has an unknown reason or stage: {row["reason"]}']
    if row['retryable'] != Reason(row['reason']).retryable:
        return [f'{path}: {row["uri"]}: {row["reason"]} with retryable {row["retryable"]}']
    return []


def _read_classes(dataset: _Dataset, path: str) -> list[tuple[str | None, str]] | None:
    """(wnid, name) of each class, or None where the vocabulary is missing or damaged."""
    try:
        table = pq.read_table(io.BytesIO(dataset.read(path)), columns=['wnid', 'name'])
    except (pa.ArrowException, OSError):
        return None
    return list(zip(table['wnid'].to_pylist(), table['name'].to_pylist(), strict=True))


def _check_prediction(
    path: str,
    row: Mapping[str, Any],
    report: Mapping[str, Any],
    classes: Sequence[tuple[str | None, str]],
) -> list[str]:
    labels = row['labels']
    order = [(-label['score'], label['index']) for label in labels]
    where = f'{path}: {row["uri"]}'
    problems = []
    if order != sorted(order):
        problems.append(f'{where}: labels are not by falling score, ties by index')
    if report['metadata']['activation'] == Activation.NONE.value:
        if not all(math.isfinite(label['score']) for label in labels):
            problems.append(f'{where}: a score is not finite')
    elif not all(0 <= label['score'] <= 1 for label in labels):
        problems.append(f'{where}: a score is not from 0 to 1')
    if len(labels) > int(report['metadata']['max_labels']):
        problems.append(f'{where}: {len(labels)} labels')
    if len({label['index'] for label in labels}) != len(labels):
        problems.append(f'{where}: a class twice')
    if any((label['wnid'], label['name']) != classes[label['index']] for label in labels):
        problems.append(f'{where}: a label is not named as in the vocabulary')
    return problems


def compare(
    folder: str,
    other: str,
    *,
    by_name: bool = False,
    tolerance: float = 0.0,
    stores: StoreOptions = DEFAULT_OPTIONS,
) -> list[str]:
    """Compares two output folders that `verify` found whole.

    Args:
      folder, other: the two.
      by_name: pair rows by object name below each dataset's common folder, and leave out `uri`
        and `object_version`; otherwise files must be the same bytes.
      tolerance: largest difference of two scores that counts as equal.
      stores: how both are reached.

    Returns:
      The first differences, a line each; empty when they are the same.
    """
    ours, theirs = _Dataset(folder, stores), _Dataset(other, stores)
    if not by_name and tolerance == 0 and _bytes(ours) == _bytes(theirs):
        return []
    differences = (
        difference
        for kind in _KINDS
        for difference in _compare_rows(ours, theirs, kind, by_name, tolerance)
    )
    found = list(itertools.islice(differences, _SHOWN))
    if not found and not by_name and tolerance == 0:
        a, b = _bytes(ours), _bytes(theirs)
        paths = [path for path in sorted(a.keys() | b.keys()) if a.get(path) != b.get(path)]
        found = [f'{path}: the same rows, but other bytes' for path in paths[:_SHOWN]]
    return found


def _bytes(dataset: _Dataset) -> dict[str, str]:
    """Hashes of everything that must be byte-identical."""
    kinds = (*_KINDS, 'vocabularies')
    return {
        path: hashlib.sha256(dataset.read(path)).hexdigest()
        for path in dataset.paths
        if path.split('/')[0] in kinds
    }


def _compare_rows(
    ours: _Dataset, theirs: _Dataset, kind: str, by_name: bool, tolerance: float
) -> Iterator[str]:
    a, b = (_keyed_rows(dataset, kind, by_name) for dataset in (ours, theirs))
    for key in sorted(a.keys() | b.keys(), key=str):
        name = ', '.join(str(part) for part in key if part is not None)
        if key not in b:
            yield f'{kind}: {name}: only in {ours.root}'
        elif key not in a:
            yield f'{kind}: {name}: only in {theirs.root}'
        else:
            for column in sorted(a[key].keys() | b[key].keys()):
                one, two = a[key].get(column), b[key].get(column)
                if not _equal(one, two, tolerance):
                    yield f'{kind}: {name}: {column} {one!r} and {two!r}'


def _keyed_rows(
    dataset: _Dataset, kind: str, by_name: bool
) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = [
        row | {'run': None if by_name else path.split('/')[2]}
        for run in dataset.runs.values()
        for path in run.files
        if path.startswith(f'{kind}/')
        for row in dataset.rows(path)
    ]
    prefix = len(_common_folder(dataset)) if by_name else 0
    keyed = {}
    for row in rows:
        carried = tuple(row[column] for column in dataset.spec['carry'])
        key = (row['uri'][prefix:], *carried, row.pop('run'))
        if kind == dead_letters.KIND and _is_of_listing(row):
            key = (*key, row['detail'])
        if by_name:
            row.pop('uri')
            row.pop('object_version', None)
        keyed[key] = row
    return keyed


def _common_folder(dataset: _Dataset) -> str:
    """The longest folder, slash included, that every URI of a dataset lies in."""
    names = [
        row['uri']
        for run in dataset.runs.values()
        for path in run.files
        for row in dataset.rows(path)
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
