"""The rows of a run, read once and kept small: histograms, counts of classes and a few examples."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.hashing import content_hash
from transforms.output import dead_letters, predictions
from transforms.output.parquet import MOST_ROWS, batches, open_parquet
from transforms.output.partitions import unescape
from transforms.output.run_metadata import FEATURES
from transforms.runs.complete import CompleteRun
from transforms.storage.base import Store
from transforms.storage.sealed import open_listed

BINS = 20
_LARGE = (FEATURES, predictions.STORED_SCORES)
_SCORES = 'labels.list.element.score'
_NEEDED = {
    predictions.KIND: frozenset(predictions.prediction_schema((), {}).names),
    dead_letters.KIND: frozenset(dead_letters.dead_letter_schema((), {}).names),
}

T = TypeVar('T')


class ClassCount(NamedTuple):
    """A class, and how many rows it is a label of; `wnid` is None outside WordNet."""

    wnid: str | None
    name: str
    rows: int


class Example(NamedTuple):
    """One row of the predictions.

    Attributes:
      uri: the image.
      content_sha256: of the bytes that were labelled; None where the run did not see them.
      labels: (name, score) by falling score.
      carried: (column, value) of the carried columns.
    """

    uri: str
    content_sha256: str | None
    labels: Sequence[tuple[str, float]]
    carried: Sequence[tuple[str, str | None]]


class Failed(NamedTuple):
    """One row of the dead letters; `carried` as in `Example`."""

    uri: str
    stage: str
    reason: str
    detail: str
    carried: Sequence[tuple[str, str | None]]


class Digest(NamedTuple):
    """What a report shows of the rows of a run.

    Attributes:
      rows: rows of the predictions.
      score_range: lower and upper edge of the histograms.
      scores: (BINS,) int64, stored scores, also those below the threshold.
      best_scores: (BINS,) int64, rows by their best one.
      rows_by_labels: rows with 0, 1, 2, … labels.
      classes: by index of the class.
      random: rows chosen by a hash of run and URI.
      least_certain: rows with the lowest best score.
      unlabeled: rows without any label, chosen as `random`; their labels are the scores below the
        threshold that are stored.
      failed: rows of the dead letters by reason, chosen as `random`.
    """

    rows: int
    score_range: tuple[float, float]
    scores: np.ndarray
    best_scores: np.ndarray
    rows_by_labels: Sequence[int]
    classes: dict[int, ClassCount]
    random: Sequence[Example]
    least_certain: Sequence[Example]
    unlabeled: Sequence[Example]
    failed: dict[str, Sequence[Failed]]


def read_digest(
    output: str,
    run: CompleteRun,
    store: Store,
    examples: int,
    failed: int,
    most_rows: int = MOST_ROWS,
) -> Digest:
    """Reads every row of a run, a batch at a time; what is kept does not grow with the rows.

    Args:
      output: absolute URI of the output folder.
      run: the run.
      store: of the output.
      examples: rows to keep of each kind.
      failed: dead letters to keep of each reason.
      most_rows: rows of a batch.

    Raises:
      StoreError: a file is missing or damaged.
    """
    low, high = _score_range(output, run, store)
    scores, best_scores = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    lengths: np.ndarray = np.zeros(1, np.int64)
    least = run.report.least_score
    classes = _Classes(least)
    random, least_certain, unlabeled = (_Smallest[Example](examples) for _ in range(3))
    rows = 0
    for path, batch in _batches(output, run, predictions.KIND, store, most_rows=most_rows):
        labels = _Labels(batch.column('labels'))
        rows += len(batch)
        classes.add(labels)
        lengths = _add(lengths, np.bincount(labels.reaching(least)))
        # Damaged scores would otherwise be in no bin at all.
        scores += np.histogram(np.clip(labels.scores, low, high), BINS, (low, high))[0]
        has_scores = labels.lengths > 0
        best = np.full(len(batch), -np.inf, np.float32)
        best[has_scores] = labels.scores[labels.starts[has_scores]]
        best_scores += np.histogram(np.clip(best[has_scores], low, high), BINS, (low, high))[0]
        has_labels = has_scores & (best >= np.float32(least))
        if not examples:
            continue
        hashes = [_rank(run.id, uri) for uri in batch.column('uri').to_pylist()]
        nothing = np.zeros(len(batch), np.float32)
        for kept, keys, chosen, shown_from in (
            (random, nothing, np.ones(len(batch), bool), least),
            (least_certain, best, has_labels, least),
            (unlabeled, nothing, ~has_labels, -np.inf),
        ):
            for i in np.flatnonzero(chosen & (keys <= kept.limit)).tolist():
                key = (float(keys[i]), hashes[i])
                if kept.wants(key):
                    kept.add(key, _example(path, batch, i, np.float32(shown_from)))
    return Digest(
        rows,
        (low, high),
        scores,
        best_scores,
        lengths.tolist(),
        classes.counts,
        random.items(),
        least_certain.items(),
        unlabeled.items(),
        _read_failed(output, run, store, failed),
    )


def read_classes(output: str, run: CompleteRun, store: Store) -> dict[int, ClassCount]:
    """The classes of a run alone, by index.

    Raises:
      StoreError: a file is missing or damaged.
    """
    classes = _Classes(run.report.least_score)
    for _, batch in _batches(output, run, predictions.KIND, store, ['labels']):
        classes.add(_Labels(batch.column('labels')))
    return classes.counts


def commonest(classes: Iterable[ClassCount]) -> list[ClassCount]:
    """Classes by falling count."""
    return sorted(classes, key=lambda each: (-each.rows, each.name, each.wnid or ''))


class _Labels:
    """The labels of a batch, flat."""

    def __init__(self, labels: Any):
        flat = labels.flatten()
        self.indices: np.ndarray = flat.field('index').to_numpy()
        self.scores: np.ndarray = flat.field('score').to_numpy()
        self.lengths: np.ndarray = labels.value_lengths().to_numpy().astype(np.int64)
        self.starts: np.ndarray = np.cumsum(self.lengths) - self.lengths
        self._flat = flat

    def reaching(self, least: float) -> np.ndarray:
        """(N,) int64, how many scores of each row reach this one."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.bincount(rows[self.scores >= np.float32(least)], minlength=len(self.lengths))

    def names(self, position: int) -> tuple[str | None, str]:
        """wnid and name of one label."""
        label = self._flat[position].as_py()
        return label['wnid'], label['name']


class _Classes:
    def __init__(self, least: float) -> None:
        self.counts: dict[int, ClassCount] = {}
        self._least = np.float32(least)

    def add(self, labels: _Labels) -> None:
        positions = np.flatnonzero(labels.scores >= self._least)
        found, first, rows = np.unique(
            labels.indices[positions], return_index=True, return_counts=True
        )
        firsts = positions[first].tolist()
        for index, position, n in zip(found.tolist(), firsts, rows.tolist(), strict=True):
            known = self.counts.get(index) or ClassCount(*labels.names(position), 0)
            self.counts[index] = known._replace(rows=known.rows + n)


class _Smallest(Generic[T]):
    """The items with the smallest keys, one a key."""

    def __init__(self, size: int):
        self._size = size
        self._items: dict[tuple[float, int], T] = {}
        self._heap: list[tuple[float, int]] = []  # negative keys: the largest comes first

    @property
    def limit(self) -> float:
        """No key whose first part is larger is wanted."""
        return np.inf if len(self._heap) < self._size else -self._heap[0][0]

    def wants(self, key: tuple[float, int]) -> bool:
        if key in self._items:
            return False
        return len(self._heap) < self._size or (-key[0], -key[1]) > self._heap[0]

    def add(self, key: tuple[float, int], item: T) -> None:
        self._items[key] = item
        heapq.heappush(self._heap, (-key[0], -key[1]))
        if len(self._heap) > self._size:
            score, rank = heapq.heappop(self._heap)
            del self._items[(-score, -rank)]

    def items(self) -> list[T]:
        """By rising keys."""
        return [self._items[key] for key in sorted(self._items)]


def _rank(run_id: str, uri: str) -> int:
    return int.from_bytes(content_hash(run_id, uri)[:8], 'big')


def _add(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.zeros(max(len(one), len(other)), np.int64)
    total[: len(one)] += one
    total[: len(other)] += other
    return total


def _score_range(output: str, run: CompleteRun, store: Store) -> tuple[float, float]:
    if run.report.has_bounded_scores:
        return 0.0, 1.0
    low, high = np.inf, -np.inf
    for _, batch in _batches(output, run, predictions.KIND, store, [_SCORES]):
        scores = batch.column('labels').flatten().field('score').to_numpy()
        if len(scores):
            low, high = min(low, float(scores.min())), max(high, float(scores.max()))
    if not np.isfinite(low) or not np.isfinite(high):
        return 0.0, 1.0
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _batches(
    output: str,
    run: CompleteRun,
    kind: str,
    store: Store,
    columns: Sequence[str] | None = None,
    most_rows: int = MOST_ROWS,
) -> Iterator[tuple[str, Any]]:
    """(path, batch) of all files of a kind; without feature vectors, unless they are asked for."""
    for file in run.files(kind):
        uri = uris.join(output, file.path)
        try:
            with open_listed(store, uri, file.checksum) as stream:
                parquet = open_parquet(stream)
                names = parquet.schema_arrow.names
                if not _NEEDED[kind] <= set(names):
                    raise UsageError(f'its columns are {names}')
                wanted = columns or [name for name in names if name not in _LARGE]
                # Threads would hold more at a time, and save little.
                for batch in batches(parquet, wanted, most_rows, use_threads=False):
                    yield file.path, batch
        except (DamagedError, UsageError, pa.ArrowException, OSError) as e:
            raise StoreError(
                f'{uri} is missing or damaged: run `lemmabeam verify` for details'
            ) from e


def _example(path: str, batch: Any, position: int, least: np.float32) -> Example:
    row = batch.slice(position, 1).to_pylist()[0]
    labels = [(label['name'], label['score']) for label in row['labels'] if label['score'] >= least]
    carried = [
        (name, value) for name, value in row.items() if name not in _NEEDED[predictions.KIND]
    ]
    parts = (part.partition('=') for part in path.split('/')[3:-1])
    carried = [*((name, unescape(value)) for name, _, value in parts), *carried]
    return Example(row['uri'], row['content_sha256'], labels, carried)


def _read_failed(
    output: str, run: CompleteRun, store: Store, count: int
) -> dict[str, Sequence[Failed]]:
    kept: dict[str, _Smallest[Failed]] = defaultdict(lambda: _Smallest(count))
    for row in _rows(_batches(output, run, dead_letters.KIND, store)):
        key = (0.0, _rank(run.id, row['uri']))
        smallest = kept[row['reason']]
        if smallest.wants(key):
            carried = [
                (name, value)
                for name, value in row.items()
                if name not in _NEEDED[dead_letters.KIND]
            ]
            failed = Failed(row['uri'], row['stage'], row['reason'], row['detail'], carried)
            smallest.add(key, failed)
    return {reason: smallest.items() for reason, smallest in sorted(kept.items())}


def _rows(batches: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    for _, batch in batches:
        yield from batch.to_pylist()
