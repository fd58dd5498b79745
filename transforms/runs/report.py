"""report.json, the books of a run: checked once when it is read, and typed from then on.

What an earlier version did not write has a default here.  A report that is written again keeps its
values; keys that this version does not know are dropped.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from transforms.core.elements import WrittenFile
from transforms.core.errors import DamagedError
from transforms.core.json_object import JsonObject
from transforms.model.card import Activation
from transforms.model.choices import BACKEND_NAMES, slower
from transforms.model.receipt import Receipt
from transforms.model.vocabulary import NONE
from transforms.output import run_metadata
from transforms.storage.sealed import Checksum

LABEL, RELABEL = 'label', 'relabel'
"""Commands that make runs: from inputs, and from the rows of other runs."""

# Of metadata, which are texts.
_COUNTS = ('max_labels', 'min_labels', run_metadata.FEATURES, run_metadata.SCORES_MAX)
_NUMBERS = ('threshold', 'stored_floor', 'complete_from', run_metadata.SCORES_FLOOR)


def kind_of(path: str) -> str:
    """What a file of a run holds: 'predictions', 'dead_letters' or 'dead_versions'."""
    parts = path.split('/')
    return parts[2] if parts[0] == 'runs' and len(parts) > 2 else parts[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the images that a run listed.

    Attributes:
      listed: images, and manifest lines that name none.
      labeled: rows of predictions.
      without_label: of these, rows in which no class reached the threshold; None if that is
        unknown, as for a model without classes.
      reused: of these, rows with the labels of another image of the same bytes.
      duplicates, unchanged, dead_lettered: what became of the other listed ones.
      dead_lettered_by_reason: dead letters by the values of `Reason`.
      gone: rows of earlier runs that the inputs no longer list; None if that is unknown.
      skipped_not_image, skipped_before_since: files that are not listed.
      forgotten: what `lemmabeam clean --forget` has removed of what was listed.
    """

    listed: int
    labeled: int
    without_label: int | None = None
    reused: int = 0
    duplicates: int = 0
    unchanged: int = 0
    dead_lettered: int = 0
    dead_lettered_by_reason: Mapping[str, int] = dataclasses.field(default_factory=dict)
    gone: int | None = None
    skipped_not_image: int = 0
    skipped_before_since: int = 0
    forgotten: int = 0

    @property
    def ended(self) -> int:
        """How many of the listed ones are accounted for; all of them, if the books balance."""
        ends = (self.labeled, self.duplicates, self.unchanged, self.dead_lettered, self.forgotten)
        return sum(ends)

    @property
    def share_without_label(self) -> float | None:
        """Share of the labelled rows, from 0 to 1; None if that is unknown."""
        if self.without_label is None or not self.labeled:
            return None
        return round(self.without_label / self.labeled, 4)

    @classmethod
    def from_json(cls, counts: JsonObject) -> 'Counts':
        """Errors as of `JsonObject`."""
        return cls(
            listed=counts.count('listed'),
            labeled=counts.count('labeled'),
            without_label=counts.count_or_none('without_label'),
            reused=counts.count('reused', 0),
            duplicates=counts.count('duplicates', 0),
            unchanged=counts.count('unchanged', 0),
            dead_lettered=counts.count('dead_lettered', 0),
            dead_lettered_by_reason=counts.counts('dead_lettered_by_reason', {}),
            gone=counts.count_or_none('gone'),
            skipped_not_image=counts.count('skipped_not_image', 0),
            skipped_before_since=counts.count('skipped_before_since', 0),
            forgotten=counts.count('forgotten', 0),
        )

    def to_json(self) -> dict[str, Any]:
        """As a report has them."""
        return {
            'listed': self.listed,
            'labeled': self.labeled,
            'without_label': self.without_label,
            **_known(reused=self.reused or None),
            'duplicates': self.duplicates,
            'unchanged': self.unchanged,
            'dead_lettered': self.dead_lettered,
            'dead_lettered_by_reason': dict(self.dead_lettered_by_reason),
            'gone': self.gone,
            'skipped_not_image': self.skipped_not_image,
            'skipped_before_since': self.skipped_before_since,
            **_known(forgotten=self.forgotten or None),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The bottleneck of a run.

    Attributes:
      bounded_by: the stage that was waited for most; None if none was.
      share: of each stage in that time, from 0 to 1.
      share_of_wall: that time divided by the wall time; with several workers it may exceed 1.
      advice: how to be faster.
    """

    bounded_by: str | None
    share: Mapping[str, float]
    share_of_wall: float | None
    advice: str | None

    @classmethod
    def from_json(cls, verdict: JsonObject) -> 'Verdict':
        """Errors as of `JsonObject`."""
        found = cls(
            bounded_by=verdict.text_or_none('bounded_by'),
            share=verdict.numbers('share'),
            share_of_wall=verdict.number_or_none('share_of_wall'),
            advice=verdict.text_or_none('advice'),
        )
        if found.bounded_by is not None and found.bounded_by not in found.share:
            raise DamagedError(f'verdict.bounded_by is {found.bounded_by!r}, which has no share')
        return found

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        return {
            'bounded_by': self.bounded_by,
            'share': dict(self.share),
            'share_of_wall': self.share_of_wall,
            'advice': self.advice,
        }


class TopLabel(NamedTuple):
    """A name, and how many images it is the first label of."""

    name: str
    images: int


@dataclasses.dataclass(frozen=True)
class Computed:
    """One of the ways in which a run computed: usually the only one, if all workers are alike.

    Attributes:
      facts: what the workers say about it, as JSON values: 'network', 'precision' and 'device';
        'backend', which earlier versions did not write; and more for people to read.
    """

    facts: Mapping[str, Any]

    def __str__(self) -> str:
        facts = self.facts
        backend = BACKEND_NAMES.get(facts.get('backend', ''))
        by = f' by {backend}' if backend else ''
        return f'{facts["network"]}, {facts["precision"]} on {facts["device"]}{by}'

    def slower(self, model_id: str) -> str:
        """What it cost that a BiT network was used as it was saved; '' if none was."""
        why = self.facts.get('why_saved')
        return slower(model_id, str(why)) if why else ''

    @property
    def faster(self) -> str:
        """What would take less time on the CPUs that there were; '' for nothing that is known."""
        by = self.facts.get('bfloat16_by')
        if not by:
            return ''
        return (
            f'These CPUs compute bfloat16 by themselves ({by}): with --precision bfloat16 the '
            'model takes about half to three quarters of its time; what that does to the labels is '
            'measured and told (--precision_receipt)'
        )

    @classmethod
    def from_json(cls, facts: JsonObject) -> 'Computed':
        """Errors as of `JsonObject`."""
        for name in ('network', 'precision', 'device'):
            facts.text(name)
        return cls(facts.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunModel:
    """The model of a run; attributes are None if an earlier version did not write them.

    Attributes:
      id: as in the paths of the files.
      location: where its weights came from, for people.
      kind: format of the weights.
      passed_over: other places that were tried in vain, and why.
      weights_sha256, fingerprint: hex hashes of the weights, and of all that decides scores.
      card: the model card, as JSON values.
      vocabulary: name of the file of its classes.
      computed: the ways in which it computed.
      vocabulary_sha256: hex hash of the file of its classes.
    """

    id: str
    location: str | None = None
    kind: str | None = None
    passed_over: tuple[str, ...] = ()
    weights_sha256: str | None = None
    fingerprint: str | None = None
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vocabulary: str
    computed: tuple[Computed, ...] = ()
    vocabulary_sha256: str | None = None

    @classmethod
    def from_json(cls, model: JsonObject) -> 'RunModel':
        """Errors as of `JsonObject`."""
        return cls(
            id=model.text('id'),
            location=model.text_or_none('location'),
            kind=model.text_or_none('kind'),
            passed_over=model.texts('passed_over', []),
            weights_sha256=model.text_or_none('weights_sha256'),
            fingerprint=model.text_or_none('fingerprint'),
            card=model.object('card', {}).values,
            vocabulary=model.text('vocabulary'),
            computed=tuple(Computed.from_json(each) for each in model.objects('computed', [])),
            vocabulary_sha256=model.text_or_none('vocabulary_sha256'),
        )

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        return {
            'id': self.id,
            **_known(location=self.location, kind=self.kind),
            'passed_over': list(self.passed_over),
            **_known(weights_sha256=self.weights_sha256, fingerprint=self.fingerprint),
            'card': dict(self.card),
            'vocabulary': self.vocabulary,
            'computed': [dict(each.facts) for each in self.computed],
            **_known(vocabulary_sha256=self.vocabulary_sha256),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replacement:
    """What a file is about to be replaced by, while an image is being forgotten.

    Attributes:
      rows, size_bytes, sha256: of the new file.
      reasons: of the dead letters that it no longer has.
      first_labels: of the labelled rows that it no longer has, by name.
    """

    rows: int
    size_bytes: int
    sha256: str
    reasons: Mapping[str, int]
    first_labels: Mapping[str, int]

    @classmethod
    def from_json(cls, replacement: JsonObject) -> 'Replacement':
        """Errors as of `JsonObject`."""
        return cls(
            rows=replacement.count('rows'),
            size_bytes=replacement.count('size_bytes'),
            sha256=replacement.text('sha256'),
            reasons=replacement.counts('reasons'),
            first_labels=replacement.counts('first_labels'),
        )

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        return {
            'rows': self.rows,
            'size_bytes': self.size_bytes,
            'sha256': self.sha256,
            'reasons': dict(self.reasons),
            'first_labels': dict(self.first_labels),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file that a run has published.

    Attributes:
      path: below the output folder, '/'-separated.
      rows, size_bytes, sha256: of the file.
      write_sec: how long it took to assemble and write it; None if that was not measured.
      rows_found: how many it holds, if not as many as were written.
      replacement: what it is about to be replaced by.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    write_sec: float | None = None
    rows_found: int | None = None
    replacement: Replacement | None = None

    @property
    def kind(self) -> str:
        """What it holds, as of `kind_of`."""
        return kind_of(self.path)

    @property
    def checksum(self) -> Checksum:
        """What its bytes are checked against."""
        coming = '' if self.replacement is None else self.replacement.sha256
        return Checksum(self.size_bytes, self.sha256, coming)

    @classmethod
    def of(cls, file: WrittenFile) -> 'PublishedFile':
        """One that was just written."""
        return cls(**file._asdict())

    @classmethod
    def from_json(cls, file: JsonObject) -> 'PublishedFile':
        """Errors as of `JsonObject`."""
        is_replaced = 'replacement' in file.values
        return cls(
            path=file.text('path'),
            rows=file.count('rows'),
            size_bytes=file.count('size_bytes'),
            sha256=file.text('sha256'),
            write_sec=file.number_or_none('write_sec'),
            rows_found=file.count_or_none('rows_found'),
            replacement=Replacement.from_json(file.object('replacement')) if is_replaced else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        coming = None if self.replacement is None else self.replacement.to_json()
        return {
            'path': self.path,
            'rows': self.rows,
            'size_bytes': self.size_bytes,
            'sha256': self.sha256,
            **_known(write_sec=self.write_sec, rows_found=self.rows_found, replacement=coming),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a run says about itself, in the order of report.json.

    Attributes:
      run_id, sequence, command: which run it is, its place in its folder, and what made it.
      balanced: whether all that was listed is accounted for, and is where it should be.
      counts: what became of it.
      skipped_suffixes: files that were skipped, by the commonest suffixes.
      started_at, finished_at: UTC, in ISO 8601.
      wall_sec: seconds between the two.
      images_per_sec: images labelled by this attempt per second of that; None if there is no rate.
      labeled_by_earlier_attempts: labelled images that were taken over.
      damaged_chunks: checkpoints that had to be redone.
      receipt: how far the precision of the run agrees with float32 on its first images; None if
        it computed in float32, or that was not looked at.
      stage_thread_sec: seconds of all threads, by activity.
      verdict: the bottleneck; None if an earlier version did not look for it.
      batches: calls of the model.
      batch_fill: share of their slots that had an image; None without any calls.
      top_labels: the commonest first labels.
      inputs: each with 'kind', 'uri' and 'pattern'.
      options: of the command, as JSON values.
      cut_rows: of a relabelling, rows that may lack labels.
      model: whose scores they are.
      metadata: of the files, as text; `activation`, `threshold` and others were checked.
      versions: of the software.
      files: what it has published.

    Example:
      >>> report = lb.open('labels').runs()[-1]
      >>> report.counts.listed, report.balanced, report.model.id
      (3, True, 'efficientnet-lite0-30581518')
    """

    run_id: str
    sequence: int = 0
    command: str = LABEL
    balanced: bool
    counts: Counts
    skipped_suffixes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    started_at: str
    finished_at: str
    wall_sec: float
    images_per_sec: float | None = None
    labeled_by_earlier_attempts: int = 0
    damaged_chunks: int = 0
    receipt: Receipt | None = None
    stage_thread_sec: Mapping[str, float] = dataclasses.field(default_factory=dict)
    verdict: Verdict | None = None
    batches: int = 0
    batch_fill: float | None = None
    top_labels: tuple[TopLabel, ...] = ()
    inputs: tuple[dict[str, str], ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cut_rows: int | None = None
    model: RunModel
    metadata: Mapping[str, str]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: tuple[PublishedFile, ...]

    @property
    def started(self) -> datetime.datetime:
        """When it began, UTC."""
        return _utc(self.started_at)

    @property
    def finished(self) -> datetime.datetime:
        """When it was done, UTC."""
        return _utc(self.finished_at)

    @property
    def is_relabelling(self) -> bool:
        """Whether its rows were made from those of other runs, without the model."""
        return self.command == RELABEL

    @property
    def activation(self) -> Activation:
        """What its scores are."""
        return Activation(self.metadata['activation'])

    @property
    def has_bounded_scores(self) -> bool:
        """Whether its scores are from 0 to 1; else they are any numbers, as the network gives."""
        return self.activation is not Activation.NONE

    @property
    def has_classes(self) -> bool:
        """Whether its model gives labels, and not only features."""
        return self.metadata.get('vocabulary') != NONE

    @property
    def threshold(self) -> float:
        """What a score must reach to be a label, unless its class has its own threshold."""
        return float(self.metadata['threshold'])

    @property
    def max_labels(self) -> int:
        """How many labels a row may have."""
        return int(self.metadata['max_labels'])

    @property
    def features(self) -> int:
        """The length of the features of a row, 0 if there are none."""
        return int(self.metadata.get(run_metadata.FEATURES, 0))

    @property
    def scores_from(self) -> float | None:
        """The score from which on all are kept beside the labels; None if none are."""
        floor = self.metadata.get(run_metadata.SCORES_FLOOR)
        return None if floor is None else float(floor)

    @property
    def least_score(self) -> float:
        """`run_metadata.least_score`."""
        return run_metadata.least_score(self.metadata)

    @property
    def counted_from(self) -> float:
        """The least score that counts as a label in it; old reports count them all."""
        return -math.inf if self.counts.without_label is None else self.least_score

    @classmethod
    def from_json(cls, value: object) -> 'RunReport':
        """Reads a report, as parsed by `json.loads`, of this version or an earlier one.

        Raises:
          DamagedError: no run writes such a report; names what is wrong.
        """
        report = JsonObject(value)
        finished_at = report.text('finished_at')
        found = cls(
            run_id=report.text('run_id'),
            sequence=report.count('sequence', 0),
            command=report.text('command', LABEL),
            balanced=report.flag('balanced'),
            counts=Counts.from_json(report.object('counts')),
            skipped_suffixes=report.counts('skipped_suffixes', {}),
            started_at=report.text('started_at', finished_at),
            finished_at=finished_at,
            wall_sec=report.number('wall_sec'),
            images_per_sec=report.number_or_none('images_per_sec'),
            labeled_by_earlier_attempts=report.count('labeled_by_earlier_attempts', 0),
            damaged_chunks=report.count('damaged_chunks', 0),
            receipt=_receipt(report),
            stage_thread_sec=report.numbers('stage_thread_sec', {}),
            verdict=_verdict(report),
            batches=report.count('batches', 0),
            batch_fill=report.number_or_none('batch_fill'),
            top_labels=tuple(
                TopLabel(each.text('name'), each.count('images'))
                for each in report.objects('top_labels', [])
            ),
            inputs=_inputs(report),
            options=report.object('options', {}).values,
            cut_rows=report.count_or_none('cut_rows'),
            model=RunModel.from_json(report.object('model')),
            metadata=_metadata(report),
            versions=report.texts_by_name('versions', {}),
            files=tuple(PublishedFile.from_json(each) for each in report.objects('files')),
        )
        _check_times(found)
        return found

    def to_json(self) -> dict[str, Any]:
        """The content of report.json, without its checksum."""
        return {
            'run_id': self.run_id,
            'sequence': self.sequence,
            'command': self.command,
            'balanced': self.balanced,
            'counts': self.counts.to_json(),
            'skipped_suffixes': dict(self.skipped_suffixes),
            'share_without_label': self.counts.share_without_label,
            'started_at': self.started_at,
            'finished_at': self.finished_at,
            'wall_sec': self.wall_sec,
            'images_per_sec': self.images_per_sec,
            'labeled_by_earlier_attempts': self.labeled_by_earlier_attempts,
            'damaged_chunks': self.damaged_chunks,
            **_known(receipt=None if self.receipt is None else self.receipt._asdict()),
            'stage_thread_sec': dict(self.stage_thread_sec),
            **_known(verdict=None if self.verdict is None else self.verdict.to_json()),
            'batches': self.batches,
            'batch_fill': self.batch_fill,
            'top_labels': [each._asdict() for each in self.top_labels],
            'inputs': [dict(each) for each in self.inputs],
            'options': dict(self.options),
            **_known(cut_rows=self.cut_rows),
            'model': self.model.to_json(),
            'metadata': dict(self.metadata),
            'versions': dict(self.versions),
            'files': [file.to_json() for file in self.files],
        }


def number_in(options: Mapping[str, Any], name: str) -> float | None:
    """A number among the options of a report; None if it is null or missing.

    Raises:
      DamagedError: it is something else.
    """
    return JsonObject(dict(options), 'options').number_or_none(name)


def _known(**values: Any) -> dict[str, Any]:
    """The values that there are: of the others nothing is written, as by an earlier version."""
    return {name: value for name, value in values.items() if value is not None}


def _verdict(report: JsonObject) -> Verdict | None:
    if not report.values.get('verdict'):
        return None
    return Verdict.from_json(report.object('verdict'))


def _receipt(report: JsonObject) -> Receipt | None:
    if not report.values.get('receipt'):
        return None
    receipt = report.object('receipt')
    return Receipt(
        receipt.count('images'),
        receipt.count('same_best'),
        *(receipt.number(name) for name in ('jaccard', 'largest', 'p99')),
    )


def _inputs(report: JsonObject) -> tuple[dict[str, str], ...]:
    names = ('kind', 'uri', 'pattern')
    return tuple({name: each.text(name) for name in names} for each in report.objects('inputs', []))


def _metadata(report: JsonObject) -> dict[str, str]:
    metadata = report.texts_by_name('metadata')
    if metadata.get('activation') not in {each.value for each in Activation}:
        raise DamagedError(f'metadata.activation is {metadata.get("activation")!r}')
    for name in ('max_labels', 'threshold', 'stored_floor'):
        if name not in metadata:
            raise DamagedError(f'metadata.{name} is missing')
    for name in _COUNTS:
        if not metadata.get(name, '0').isdecimal():
            raise DamagedError(f'metadata.{name} is {metadata[name]!r}')
    for name in _NUMBERS:
        try:
            float(metadata.get(name, '0'))
        except ValueError as e:
            raise DamagedError(f'metadata.{name} is {metadata[name]!r}') from e
    return metadata


def _check_times(report: RunReport) -> None:
    for name in ('started_at', 'finished_at'):
        text = getattr(report, name)
        try:
            _utc(text)
        except (ValueError, OverflowError) as e:
            raise DamagedError(f'{name} is {text!r}') from e


def _utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
