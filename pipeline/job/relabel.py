"""Relabelling: a run of its own that is made of the stored scores of others, without a model.

Called with options that are well-formed; what they mean for this output is checked here.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import named_file
from pipeline.job.new_run import check_new_run, next_sequence
from pipeline.job.progress import tell_waiting
from pipeline.job.signals import Stopping, stopping_on_signals
from pipeline.messages import SILENT, Messages
from pipeline.options import make_run_id
from pipeline.report.bottleneck import make_verdict
from pipeline.runners.dataflow.status import JOBS
from transforms.core import uris
from transforms.core.elements import WrittenFile
from transforms.core.errors import LemmabeamError, StoreError, UsageError
from transforms.core.resources import TEMPORARIES
from transforms.core.stores import StoreOptions
from transforms.core.versions import library_versions
from transforms.dataset import gone, newest
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.newest import NewestRows, Shard, newest_rows
from transforms.dataset.reader import Dataset, dataset_at, read_vocabulary, runs_of_model
from transforms.dataset.relabel import (
    Thresholds,
    are_cut,
    check_threshold,
    keep_labels,
    of_same_image,
    parse_thresholds,
    threshold_array,
)
from transforms.dataset.relabel_metadata import copied_metadata, lost_features, relabelled_metadata
from transforms.output import dead_letters, predictions, run_metadata, tell_apart
from transforms.output.layout import Layout
from transforms.runs import in_progress, lease
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.runs.publish import clean_up, discard, find_commit, publish
from transforms.runs.report import RELABEL, Counts, PublishedFile, RunReport, TopLabel, kind_of

COMMAND = RELABEL
ROWS_PER_FILE = 1_000_000
"""Where the newest run does not say how many rows its files have."""

# What decides which classes are labels, and how they are counted.
_LABELS_METADATA = (
    'threshold',
    'stored_floor',
    'max_labels',
    'min_labels',
    'thresholds_sha256',
    'complete_from',
)

_Tables = Callable[[Shard], Iterator[pa.Table]]


class ThresholdsFile(NamedTuple):
    """CSV with thresholds of single classes: how it was called, and its bytes."""

    name: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
      model_id: the model whose scores are meant, None for the only one.
      threshold: from which score on a class is a label, for classes that `thresholds` does not
        name; None for that of the newest run.
      thresholds: those of single classes, or None.
      max_labels: labels an image has at most, None for that of the newest run.
      options: all options by name, for the report.
    """

    model_id: str | None
    threshold: float | None
    thresholds: ThresholdsFile | None
    max_labels: int | None
    options: Mapping[str, Any]

    @property
    def keeps_labels(self) -> bool:
        """Whether the labels stay as they are."""
        return (self.threshold, self.thresholds, self.max_labels) == (None, None, None)


class Relabelled(NamedTuple):
    """What has become of it.

    Attributes:
      report: of the run.
      report_uri: where it lies.
      lost_features: ids of runs whose features were not taken over.
    """

    report: RunReport
    report_uri: str
    lost_features: list[str]


def relabel_output(
    output: str,
    options: Mapping[str, Any],
    stores: StoreOptions,
    messages: Messages = SILENT,
    stopping: Stopping = stopping_on_signals,
) -> Relabelled:
    """Relabels an output folder as the options of the command say; see `relabel`.

    Args:
      output: its absolute URI.
      options: of `lemmabeam relabel`, by name, all of them; they are kept in the report.
      stores: how it is reached.
      messages: takes whom it waits for.
      stopping: what a signal is answered with.

    Raises:
      UsageError: there is no such output, or a value cannot be used.
      StoreError: a file or report is damaged, or a store fails; nothing is published then.
    """
    now = datetime.datetime.now(datetime.UTC)
    dataset = dataset_at(output, stores, '--output ')
    layout = Layout(
        output=output,
        run_id=make_run_id(options['run_id'], now),
        model_id='',
        carry=dataset.carry,
        partition_by=dataset.partition_by,
        rows_per_file=ROWS_PER_FILE,
        stores=stores,
        attempt=secrets.token_hex(4),
    )
    wanted = Wanted(
        model_id=options['model_id'],
        threshold=options['threshold'],
        thresholds=_read_thresholds(options['thresholds'], stores),
        max_labels=options['max_labels'],
        options=options,
    )
    return relabel(
        dataset,
        layout,
        wanted,
        now,
        options['break_lease'],
        options['wait_for_lease_sec'],
        stopping=stopping,
        messages=messages,
    )


def _read_thresholds(name: str | None, stores: StoreOptions) -> ThresholdsFile | None:
    if name is None:
        return None
    return ThresholdsFile(name, named_file.read('--thresholds', name, stores))


def relabel(
    dataset: Dataset,
    layout: Layout,
    wanted: Wanted,
    started_at: datetime.datetime,
    break_lease: bool = False,
    wait_for_lease_sec: float = 0,
    rows_at_once: int = newest.ROWS_AT_ONCE,
    stopping: Stopping = stopping_on_signals,
    messages: Messages = SILENT,
) -> Relabelled:
    """Writes the run, under the lease of the output.

    Args:
      dataset: the output, whose runs have the scores.
      layout: of the run to make; its model and rows a file are found here.
      wanted: what is asked for.
      started_at: now, in UTC.
      break_lease: whether to go on though another run has the lease.
      wait_for_lease_sec: how long to wait for one that has it.
      rows_at_once: above so many rows in all, they are spilled to a temporary folder.
      stopping: what a signal is answered with, as `stopping_on_signals`.
      messages: takes whom it waits for.

    Raises:
      UsageError: something cannot be used, or the lease is held.
      StoreError: a file or report is damaged, or a store fails; nothing is published then.
    """
    advice = f'; nothing of run {layout.run_id} counts, start it again'

    def leave() -> None:
        TEMPORARIES.remove_all()
        with contextlib.suppress(LemmabeamError):
            _discard_begun(layout)
        lease.release(layout)

    lease.acquire(layout, break_lease, wait_for_lease_sec, tell_waiting(messages), JOBS)
    with stopping(lambda: advice, leave):
        try:
            return _Relabelling(dataset, layout, wanted, started_at, rows_at_once).run()
        finally:
            with contextlib.suppress(StoreError):
                lease.release(layout)


class _Relabelling:
    def __init__(
        self,
        dataset: Dataset,
        layout: Layout,
        wanted: Wanted,
        started_at: datetime.datetime,
        rows_at_once: int,
    ):
        self._wanted = wanted
        self._rows_at_once = rows_at_once
        self._dataset = dataset
        self._started_at = started_at
        self._started = time.perf_counter()
        runs = complete_runs(dataset.output, dataset.store)
        self._runs = runs
        found = in_progress.unfinished(layout.output, layout.store)
        self._sequence = next_sequence(layout, runs, found)
        self._in_time = _choose(dataset, runs, wanted.model_id)
        copies = newest.copies_among(self._in_time)
        self._copies = [run for run in self._in_time if run.id in copies]
        self._sources = newest.by_worth(self._in_time)
        newest_run = self._sources[-1]
        self._layout = dataclasses.replace(
            layout, model_id=newest_run.model_id, rows_per_file=_rows_per_file(newest_run)
        )
        self._vocabulary = read_vocabulary(dataset, newest_run)
        self._top_labels: Counter[str] = Counter()
        self._cut_rows = 0
        self._lost_features: list[str] = []

    def run(self) -> Relabelled:
        """Writes everything, the report last."""
        in_progress.remove_temporaries(self._layout)
        check_new_run(self._layout, self._runs, COMMAND)
        report = self._snapshot() if self._wanted.keeps_labels else self._relabel()
        clean_up(self._layout)
        report_uri = self._layout.uri(self._layout.report_path)
        return Relabelled(report, report_uri, self._lost_features)

    def _relabel(self) -> RunReport:
        with self._newest(self._sources, stored_scores=True) as found:
            used = _used(self._sources, found)
            standard = self._standard(used)
            thresholds = self._thresholds(standard)
            max_labels = self._max_labels(standard)
            self._check_floor(used, thresholds)
            metadata = relabelled_metadata(used, thresholds, max_labels)
            schema = predictions.prediction_schema(self._layout.file_columns, metadata)
            values = thresholds.values.astype(np.float32)

            def tables(shard: Shard) -> Iterator[pa.Table]:
                for part in newest.row_groups(found.table(shard)):
                    kept = self._keep(part, values, thresholds.lowest, max_labels)
                    yield self._table(kept, schema, {})

            decided = self._deciding(thresholds, max_labels)
            return self._finish(used, found, tables, decided, metadata)

    def _snapshot(self) -> RunReport:
        """Copies the newest rows, whichever run made their labels; the scores beside them."""
        # In that order the same shards have the same rows.
        scored = [*self._copies, *self._sources]
        with (
            self._newest(self._in_time) as found,
            self._newest(scored, stored_scores=True) as stored,
        ):
            used, sources = _used(self._in_time, found), _used(scored, stored)
            self._check_alike(used)
            metadata = copied_metadata(used, sources)
            schema = predictions.prediction_schema(self._layout.file_columns, metadata)
            has_scores = predictions.STORED_SCORES in schema.names

            def tables(shard: Shard) -> Iterator[pa.Table]:
                scores = stored.table(shard)
                for start in range(0, len(scores), predictions.ROW_GROUP_ROWS):
                    part = found.table(shard).slice(start, predictions.ROW_GROUP_ROWS)
                    beside = {}
                    if has_scores:
                        of_part = of_same_image(
                            part, scores.slice(start, predictions.ROW_GROUP_ROWS)
                        )
                        newest.check_indices(of_part, self._vocabulary)
                        beside[predictions.STORED_SCORES] = predictions.stored_scores_of(of_part)
                    yield self._table(part, schema, beside)

            return self._finish(used, found, tables, self._kept(metadata), metadata)

    def _kept(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        return {
            'model_id': self._layout.model_id,
            'threshold': float(metadata['threshold']),
            'thresholds_sha256': metadata.get('thresholds_sha256'),
            'max_labels': int(metadata['max_labels']),
            'keeps_labels': True,
        }

    def _newest(
        self, runs: Sequence[CompleteRun], stored_scores: bool = False
    ) -> contextlib.AbstractContextManager[NewestRows]:
        rows_per_file = self._layout.rows_per_file
        return newest_rows(self._dataset, runs, rows_per_file, self._rows_at_once, stored_scores)

    def _finish(
        self,
        used: Sequence[CompleteRun],
        found: NewestRows,
        tables: _Tables,
        decided: dict[str, Any],
        metadata: dict[str, str],
    ) -> RunReport:
        """Writes the rows and publishes them; the report."""
        self._lost_features = lost_features(used)
        try:
            self._check_undecided(decided)
            tell_apart.check(self._layout, {shard.folder for shard in found.shards})
            in_progress.begin(self._layout, self._begun())
            files = list(self._write(found, tables, metadata))

            def make_report(publish_sec: float) -> RunReport:
                return self._report(used, files, decided, metadata, publish_sec)

            report = publish(self._layout, make_report, self._vocabulary)
            write_latest_sql(self._layout.output, self._layout.store)
        except LemmabeamError:
            # Of a store that is gone nothing can be removed; the error itself is what matters.
            with contextlib.suppress(StoreError):
                _discard_begun(self._layout)
            raise
        return report

    def _check_undecided(self, ours: Mapping[str, Any]) -> None:
        """Refuses other options than those of an attempt of which only the report is missing."""
        commit = find_commit(self._layout)
        if commit is None:
            return
        theirs = commit.report.options
        if any(theirs.get(name) != value for name, value in ours.items()):
            raise UsageError(
                f'--run_id {self._layout.run_id}: this run was relabelled with other options, and '
                'only its report is missing: give those, choose another id, or remove it with '
                f'`lemmabeam clean {self._layout.output}`'
            )

    def _deciding(self, thresholds: Thresholds, max_labels: int) -> dict[str, Any]:
        return {
            'model_id': self._layout.model_id,
            'threshold': thresholds.threshold,
            'thresholds_sha256': thresholds.sha256 or None,
            'max_labels': max_labels,
            'keeps_labels': None,
        }

    def _begun(self) -> in_progress.Begun:
        """What tells `lemmabeam clean` whose the files are, if this is killed."""
        options = {'command': COMMAND, 'model': self._layout.model_id}
        return in_progress.Begun(self._started_at.isoformat(), self._sequence, [], options)

    def _standard(self, used: Sequence[CompleteRun]) -> CompleteRun:
        """The run whose threshold and limit hold where none is given: the newest one.

        Raises:
          UsageError: its classes have thresholds of their own, which nobody knows any more.
        """
        run = max([*used, *self._copies], key=lambda run: run[:3])
        is_given = self._wanted.threshold is not None or self._wanted.thresholds is not None
        if 'thresholds_sha256' in run.report.metadata and not is_given:
            raise UsageError(
                f'--max_labels: run {run.id} has thresholds of single classes; give them again '
                'with --thresholds, or one for all with --threshold'
            )
        return run

    def _check_alike(self, used: Sequence[CompleteRun]) -> None:
        """Refuses to make one run of rows whose labels mean different things.

        Raises:
          UsageError: they do; it names both runs.
        """
        ours = used[-1].report.metadata
        for run in used[:-1]:
            theirs = run.report.metadata
            for name in _LABELS_METADATA:
                if theirs.get(name) != ours.get(name):
                    raise UsageError(
                        f'the newest rows are labelled in different ways ({name} is '
                        f'{theirs.get(name)} in run {run.id} and {ours.get(name)} in run '
                        f'{used[-1].id}), and one run has one: give a --threshold (or '
                        '--thresholds) for all of them'
                    )

    def _thresholds(self, source: CompleteRun) -> Thresholds:
        wanted = self._wanted
        activation, threshold = source.report.activation, source.report.threshold
        if not len(self._vocabulary):
            raise UsageError(f'--model_id {source.model_id}: a model without classes has no labels')
        if wanted.threshold is not None:
            where = f'--threshold {wanted.threshold:g}'
            threshold = check_threshold(wanted.threshold, activation, where)
        by_class: dict[int, float] = {}
        name, sha256 = '', ''
        if wanted.thresholds is not None:
            name, data = wanted.thresholds
            where = f'--thresholds {uris.printable(name)}'
            by_class = parse_thresholds(data, where, self._vocabulary, activation)
            sha256 = hashlib.sha256(data).hexdigest()
        values = threshold_array(threshold, by_class, len(self._vocabulary))
        return Thresholds(threshold, by_class, name, sha256, values)

    def _max_labels(self, source: CompleteRun) -> int:
        given = self._wanted.max_labels
        if given is None:
            return source.report.max_labels
        classes = len(self._vocabulary)
        if given > classes:
            raise UsageError(f'--max_labels {given}: {source.model_id} has only {classes} classes')
        return given

    def _check_floor(self, used: Sequence[CompleteRun], thresholds: Thresholds) -> None:
        lowest = thresholds.lowest
        for source in used:
            floor = newest.floor_of(source.report.metadata)
            if not lowest < floor:
                continue
            index = int(thresholds.values.argmin())
            flag = f'--threshold {thresholds.threshold:g}'
            if index in thresholds.by_class:
                name = self._vocabulary.names[index]
                flag = f'--thresholds {uris.printable(thresholds.file)}: {name!r} at {lowest:g}'
            raise UsageError(
                f'{flag}: run {source.id} has stored no scores below {floor:g}; choose {floor:g} '
                'or more, or label again with a lower --threshold'
            )

    def _write(
        self,
        found: NewestRows,
        tables: _Tables,
        metadata: dict[str, str],
    ) -> Iterator[WrittenFile]:
        layout = self._layout
        schema = predictions.prediction_schema(layout.file_columns, metadata)
        for shard in found.shards:
            path = layout.shard_path(predictions.KIND, shard.folder, shard.part, shard.parts)
            counted = self._counted(tables(shard), run_metadata.least_score(metadata))
            yield predictions.write_file(path, layout, schema, counted)
            if found.gone:
                path = layout.shard_path(
                    dead_letters.VERSIONS, shard.folder, shard.part, shard.parts
                )
                notes = gone.as_notes(found.table(shard), newest.carry_names(len(layout.carry)))
                yield predictions.write_file(path, layout, dead_letters.VERSION_SCHEMA, [notes])
        if not found.shards:
            for path in predictions.expected_paths(layout, {}):
                yield predictions.write_file(path, layout, schema, ())

    def _counted(self, tables: Iterator[pa.Table], least: float) -> Iterator[pa.Table]:
        for table in tables:
            self._top_labels.update(predictions.first_names(table, least))
            yield table

    def _keep(self, rows: pa.Table, values: np.ndarray, lowest: float, max_labels: int) -> pa.Table:
        """Rows with the labels that reach their thresholds; those that were cut are counted."""
        newest.check_indices(rows, self._vocabulary)
        limits = np.array([newest.limit_of(run.report.metadata) for run in self._sources])
        # All classes of a small model may be stored, and then none is missing.
        limits[limits >= len(self._vocabulary)] = len(self._vocabulary) + 1
        kept = keep_labels(rows, values, max_labels)
        stored_limits = limits[rows[newest.PLACE].to_numpy()]
        self._cut_rows += int(are_cut(rows, kept, stored_limits, lowest, max_labels).sum())
        return kept

    def _table(self, rows: pa.Table, schema: pa.Schema, beside: dict[str, Any]) -> pa.Table:
        """Rows as a file has them, with some columns `beside` those of `NewestRows.table`."""
        newest.check_indices(rows, self._vocabulary)
        columns: dict[str, Any] = {name: rows[name] for name in newest.STORED} | beside
        columns['labels'] = predictions.labels_of(rows, self._vocabulary, schema)
        if run_metadata.FEATURES in schema.names:
            columns[run_metadata.FEATURES] = rows[run_metadata.FEATURES]
        names = newest.carry_names(len(self._dataset.carry))
        for name, column in zip(names, self._dataset.carry, strict=True):
            if column in self._dataset.file_columns:
                columns[column] = rows[name]
        return pa.table(columns, schema)

    def _report(
        self,
        used: Sequence[CompleteRun],
        files: Sequence[WrittenFile],
        decided: Mapping[str, Any],
        metadata: dict[str, str],
        publish_sec: float,
    ) -> RunReport:
        inputs = [run.report.inputs for run in used]
        rows = sum(file.rows for file in files if kind_of(file.path) == predictions.KIND)
        wall_sec = time.perf_counter() - self._started
        write_sec = sum(file.write_sec for file in files)
        common = sorted(self._top_labels.items(), key=lambda label: (-label[1], label[0]))
        return RunReport(
            run_id=self._layout.run_id,
            sequence=self._sequence,
            command=COMMAND,
            balanced=True,
            counts=Counts(listed=rows, labeled=rows, without_label=rows - self._top_labels.total()),
            started_at=self._started_at.isoformat(),
            finished_at=datetime.datetime.now(datetime.UTC).isoformat(),
            wall_sec=round(wall_sec, 3),
            images_per_sec=round(rows / wall_sec, 3) if rows else None,
            stage_thread_sec={'write': round(write_sec, 3), 'publish': round(publish_sec, 3)},
            verdict=make_verdict({'write_sec': write_sec}, wall_sec),
            top_labels=tuple(TopLabel(*each) for each in common[: predictions.TOP_LABELS]),
            # Where all had the same, what they no longer list can still be told.
            inputs=inputs[-1] if all(each == inputs[-1] for each in inputs) else (),
            options={
                **self._wanted.options,
                'run_id': self._layout.run_id,
                **decided,
                'rows_per_file': self._layout.rows_per_file,
            },
            cut_rows=self._cut_rows,
            model=used[-1].report.model,
            metadata=metadata,
            versions=library_versions(),
            files=tuple(PublishedFile.of(file) for file in sorted(files)),
        )


def _discard_begun(layout: Layout) -> None:
    """Removes what this attempt has left, and nothing of another one or of a run that labels."""
    begun = in_progress.begun(layout)
    if begun is None or begun.options.get('command') != COMMAND:
        return
    discard(layout)
    found = in_progress.unfinished(layout.output, layout.store)
    paths = [path for each in found if each.run_id == layout.run_id for path in each.paths]
    if paths == [f'{layout.work_folder}/run.json']:
        clean_up(layout)


def _choose(
    dataset: Dataset, runs: Sequence[CompleteRun], model_id: str | None
) -> list[CompleteRun]:
    if not runs:
        raise UsageError(f'--output {dataset.output}: no complete run there; label something first')
    if model_id is not None:
        return runs_of_model(dataset, runs, model_id)
    ids = sorted({run.model_id for run in runs})
    if len(ids) > 1:
        raise UsageError(
            f'--model_id is missing: {dataset.output} has scores of {", ".join(ids)}; name one'
        )
    return list(runs)


def _used(runs: Sequence[CompleteRun], found: NewestRows) -> list[CompleteRun]:
    """Of some runs those with a newest row: others have no say."""
    used = [run for run, rows in zip(runs, found.rows_by_run, strict=True) if rows]
    return used or list(runs[-1:])


def _rows_per_file(source: CompleteRun) -> int:
    rows = source.report.options.get('rows_per_file')
    return rows if isinstance(rows, int) and rows > 0 else ROWS_PER_FILE
