"""Labels from stored scores: other thresholds, without a model."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.errors import UsageError
from transforms.model.card import Activation
from transforms.model.vocabulary import Vocabulary

_HEADER = ['class', 'threshold']
_INDEX = re.compile(r'[0-9]{1,9}')


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What makes a score a label.

    Attributes:
      threshold: for the classes without their own.
      by_class: for the others, by index.
      file: where these come from, '' if there are none.
      sha256: hex hash of that file.
      values: (classes,) float64, the threshold of every class.
    """

    threshold: float
    by_class: dict[int, float]
    file: str
    sha256: str
    values: np.ndarray

    @property
    def lowest(self) -> float:
        """The lowest of all classes."""
        return float(self.values.min())


def keep_labels(rows: pa.Table, thresholds: np.ndarray, max_labels: int) -> pa.Table:
    """Drops the labels whose score does not reach their class's threshold.

    Args:
      rows: with columns 'indices' list<int32> and 'scores' list<float32>, by falling score.
      thresholds: (classes,) float32.
      max_labels: how many of the remaining labels a row keeps, the first ones.

    Returns:
      The rows with those two columns replaced, never null.
    """
    indices, scores = rows['indices'].combine_chunks(), rows['scores'].combine_chunks()
    index = pc.list_flatten(indices).to_numpy()
    score = pc.list_flatten(scores).to_numpy()
    ends = np.cumsum(lengths_of(indices))
    is_kept = score >= thresholds[index]
    kept_ends = _counts_before(is_kept, ends)
    lengths = np.diff(kept_ends, prepend=0)
    if len(lengths) and lengths.max() > max_labels:
        # Its rank among the kept labels of its row; those that are not kept do not matter.
        starts = np.repeat(kept_ends - lengths, np.diff(ends, prepend=0))
        is_kept &= np.cumsum(is_kept) - starts <= max_labels
        kept_ends = _counts_before(is_kept, ends)
    offsets = pa.array(np.concatenate([[0], kept_ends]), pa.int32())
    for name, values in (('indices', index), ('scores', score)):
        place = rows.schema.get_field_index(name)
        lists = pa.ListArray.from_arrays(offsets, pa.array(values[is_kept]))
        rows = rows.set_column(place, name, lists)
    return rows


def are_cut(
    rows: pa.Table, kept: pa.Table, stored_max_labels: np.ndarray, lowest: float, max_labels: int
) -> np.ndarray:
    """Rows that may lack labels, because a limit cut them when they were stored.

    Args:
      rows: as in `keep_labels`.
      kept: what that made of them.
      stored_max_labels: (N,) int, the limit under which each row was stored.
      lowest: the lowest threshold.
      max_labels: the new limit.

    Returns:
      (N,) bool: rows that were stored with as many labels as they could have, the last of which
      reaches the threshold, and that may now have more.
    """
    lengths = lengths_of(rows['indices'].combine_chunks())
    if not len(lengths):
        return np.zeros(0, bool)
    flat = pc.list_flatten(rows['scores'].combine_chunks()).to_numpy()
    last = np.concatenate([[-np.inf], flat])[np.where(lengths > 0, np.cumsum(lengths), 0)]
    has_room = lengths_of(kept['indices'].combine_chunks()) < max_labels
    are: np.ndarray = (lengths >= stored_max_labels) & (last >= np.float32(lowest)) & has_room
    return are


def lengths_of(lists: pa.ListArray) -> np.ndarray:
    """(N,) int64, how long each list is."""
    lengths: np.ndarray = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _counts_before(flags: np.ndarray, ends: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.concatenate([[0], np.cumsum(flags)])[ends]
    return counts


def check_threshold(value: float, activation: Activation, where: str) -> float:
    """A threshold, if scores of this activation can have one.

    Args:
      value: the number.
      activation: of the model.
      where: names the option and its value, for messages.

    Raises:
      UsageError: it is not from 0 to 1, or for 'none' not finite.
    """
    if not math.isfinite(value):
        raise UsageError(f'{where}: expected a finite number')
    if activation is not Activation.NONE and not 0 <= value <= 1:
        raise UsageError(f'{where}: expected a number from 0 to 1, as the scores of this model are')
    return value


def parse_thresholds(
    data: bytes, where: str, vocabulary: Vocabulary, activation: Activation
) -> dict[int, float]:
    """Reads a table of thresholds: CSV with the header class,threshold.

    A class is given as a wnid; or, if it is not one, as a name; or, if it is neither, as an index.

    Returns:
      Thresholds by class index.

    Raises:
      UsageError: a line cannot be used; names it.
    """
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise UsageError(f'{where}: not UTF-8 text, at byte {e.start}') from e
    reader = csv.reader(io.StringIO(text, newline=''), strict=True)
    classes = _Classes(vocabulary)
    thresholds: dict[int, float] = {}
    lines: dict[int, int] = {}
    try:
        header = next(reader, [])
        if header != _HEADER:
            raise UsageError(f'{where}, line 1: expected the header class,threshold')
        for row in reader:
            line = f'{where}, line {reader.line_num}'
            if not row:
                continue
            if len(row) != 2:
                raise UsageError(f'{line}: {len(row)} columns, expected class,threshold')
            index = classes.find(row[0], line)
            if index in thresholds:
                raise UsageError(
                    f'{line}: {row[0]!r} is the same class as line {lines[index]}; keep one'
                )
            thresholds[index] = _number(row[1], activation, line)
            lines[index] = reader.line_num
    except csv.Error as e:
        raise UsageError(f'{where}, line {reader.line_num}: not valid CSV ({e})') from e
    return thresholds


def _number(text: str, activation: Activation, line: str) -> float:
    try:
        value = float(text)
    except ValueError as e:
        raise UsageError(f'{line}: {text!r} is not a number') from e
    return check_threshold(value, activation, f'{line}: {text}')


class _Classes:
    def __init__(self, vocabulary: Vocabulary):
        self._name = vocabulary.name
        self._wnids = vocabulary.wnids
        self._count = len(vocabulary)
        self._by_wnid = {wnid: [i] for i, wnid in enumerate(vocabulary.wnids) if wnid}
        self._by_name: dict[str, list[int]] = {}
        for i, name in enumerate(vocabulary.names):
            self._by_name.setdefault(name, []).append(i)

    def find(self, text: str, line: str) -> int:
        found = self._by_wnid.get(text) or self._by_name.get(text) or self._by_index(text)
        if not found:
            raise UsageError(
                f'{line}: {text!r} is not the wnid, name or index of a class of {self._name}'
            )
        if len(found) > 1:
            each = ', '.join(f'{i}' + f' ({self._wnids[i]})' * bool(self._wnids[i]) for i in found)
            raise UsageError(
                f'{line}: {text!r} is the name of several classes: {each}; give one by its wnid or '
                'index'
            )
        return found[0]

    def _by_index(self, text: str) -> list[int]:
        is_there = _INDEX.fullmatch(text) and int(text) < self._count
        return [int(text)] if is_there else []


def of_same_image(rows: pa.Table, scored: pa.Table) -> pa.Table:
    """The scores of `scored` for each of `rows`; its own if the object version differs."""
    is_same = pc.fill_null(pc.equal(rows['object_version'], scored['object_version']), True)
    columns = {
        name: pc.if_else(is_same, scored[name], rows[name]) for name in ('indices', 'scores')
    }
    return pa.table(columns)


def threshold_array(threshold: float, by_class: Mapping[int, float], classes: int) -> np.ndarray:
    """(classes,) float64: the threshold of every class."""
    thresholds = np.full(classes, threshold, np.float64)
    thresholds[list(by_class)] = list(by_class.values())
    return thresholds
