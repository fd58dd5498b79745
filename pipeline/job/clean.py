"""Removes what interrupted runs have left, old runs, and single images."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.job.progress import tell_waiting
from pipeline.job.signals import Stopping, stopping_on_signals
from pipeline.messages import SILENT, Messages
from pipeline.runners.dataflow.status import JOBS
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import StoreOptions
from transforms.core.texts import counted
from transforms.dataset import newest
from transforms.dataset.forget import finish, forget, is_pending
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.reader import Dataset, open_dataset
from transforms.output import run_metadata
from transforms.output.layout import RunPaths
from transforms.runs import in_progress, lease
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.runs.in_progress import Unfinished
from transforms.runs.publish import KINDS, clean_up, remove_tree

_SCORES, _FEATURES = 'scores', 'features'
DROPPABLE = (_SCORES, _FEATURES)
"""What --drop may name."""


class Wanted(NamedTuple):
    """What is to be removed.

    Attributes:
      run_ids: incomplete runs, None for all of them.
      prune_before: the first complete run to keep; None keeps all.
      drop: of `DROPPABLE`, what may go though no later run has it.
      forget: images to remove from every run, as the column uri has them.
      dry_run: only say what would be removed.
    """

    run_ids: Sequence[str] | None = None
    prune_before: str | None = None
    drop: Sequence[str] = ()
    forget: Sequence[str] = ()
    dry_run: bool = False


class Cleaned(NamedTuple):
    """What was removed, or would be.

    Attributes:
      lines: one for each run, or for each image and run.
      forgotten: of each image that was to be forgotten, the lines.
      is_corrected: whether an interrupted forgetting was finished, too.
    """

    lines: list[str]
    forgotten: Mapping[str, list[str]]
    is_corrected: bool

    def check_found(self) -> None:
        """Refuses images to forget that are nowhere, when all else is done.

        Raises:
          UsageError: there are some.
        """
        nowhere = [uri for uri, lines in self.forgotten.items() if not lines]
        if nowhere and not self.is_corrected:  # else that was finished just now
            names = ', '.join(uris.printable(repr(uri)) for uri in nowhere)
            raise UsageError(
                f'--forget: no complete run has {names}: is it written as in the column uri?'
            )


def clean(
    folder: str,
    wanted: Wanted,
    stores: StoreOptions,
    break_lease: bool = False,
    wait_for_lease_sec: float = 0,
    messages: Messages = SILENT,
    stopping: Stopping = stopping_on_signals,
) -> Cleaned:
    """Removes what is asked for, under the lease of the output.

    Args:
      folder: the output, as it was given.
      wanted: what to remove.
      stores: how it is reached.
      break_lease: whether to go on though another run has the lease.
      wait_for_lease_sec: how long to wait for one that has it.
      messages: takes whom it waits for.
      stopping: what a signal is answered with.

    Raises:
      UsageError: that is no folder, or something cannot be removed.
      StoreError: a file or report is damaged, or a store fails.
    """
    output = uris.absolute(folder).rstrip('/')
    layout = RunPaths(output, 'clean', '', stores=stores)
    if not layout.store.is_folder(output):
        raise UsageError(f'{uris.named(folder)}: no such folder')
    if wanted.forget and wanted.run_ids is not None:
        raise UsageError(
            '--forget: the work of all incomplete runs goes with it; leave out --run_id'
        )
    if wanted.drop and wanted.prune_before is None:
        raise UsageError(f'--drop {wanted.drop[0]} goes with --prune_before')
    is_dry_run = wanted.dry_run
    lease.acquire(layout, break_lease, wait_for_lease_sec, tell_waiting(messages), JOBS)
    with stopping(lambda: '; the same command goes on', lambda: lease.release(layout)):
        try:
            in_progress.remove_temporaries(layout, everywhere=True)
            corrected = list(_finish_forgetting(layout, is_dry_run))
            lines = [
                *corrected,
                *_remove_work(layout, wanted.run_ids, is_dry_run),
                *_prune(layout, wanted.prune_before, wanted.drop, is_dry_run),
            ]
            forgotten = {uri: _forget(layout, uri, is_dry_run) for uri in wanted.forget}
            lines += itertools.chain(*forgotten.values())
            if not is_dry_run:
                in_progress.remove_empty_folders(layout)
                if complete_runs(output, layout.store):
                    write_latest_sql(output, layout.store)
        finally:
            lease.release(layout)
    return Cleaned(lines, forgotten, bool(corrected))


def _remove_work(
    layout: RunPaths, run_ids: Sequence[str] | None, is_dry_run: bool
) -> Iterator[str]:
    done = {each.id for each in complete_runs(layout.output, layout.store)}
    found = {each.run_id: each for each in in_progress.unfinished(layout.output, layout.store)}
    # Of a run whose work is gone already, too: its rows would stay for whoever reads by a pattern.
    half = in_progress.published(layout.output, layout.store)
    ids = sorted(found.keys() | half.keys() - done)
    if run_ids is not None:
        ids = _chosen(ids, run_ids, layout.output)
    for run_id in ids:
        each = found.get(run_id, Unfinished(run_id, [], 0, 0, False))
        if not is_dry_run:
            run = dataclasses.replace(layout, run_id=run_id)
            if run_id not in done:
                _remove_published(run, half.get(run_id, ()))
            for path in each.paths:
                layout.store.delete(layout.uri(path))
        if run_id in found:
            state = 'left by a complete run' if run_id in done else 'incomplete'
            yield f'{_verb(is_dry_run)} the work of run {run_id}, {state}: {each}'
        else:
            yield f'{_verb(is_dry_run)} what run {run_id} had half published'


def _prune(
    layout: RunPaths, before: str | None, drop: Sequence[str], is_dry_run: bool
) -> Iterator[str]:
    if before is None:
        return
    dataset = open_dataset(layout.output, layout.store)
    runs = complete_runs(layout.output, layout.store)
    ids = [each.id for each in runs]
    if before not in ids:
        raise UsageError(
            f'--prune_before {before}: no complete run of this id; there is: {", ".join(ids)}'
        )
    old = ids[: ids.index(before)]
    for model_id in {each.model_id for each in runs}:
        of_model = [each for each in runs if each.model_id == model_id]
        with newest.newest_rows(dataset, of_model) as found:
            for each, rows in zip(of_model, found.rows_by_run, strict=True):
                if each.id in old and rows:
                    raise UsageError(
                        f'--prune_before {before}: {counted(rows, "row")} of run {each.id} '
                        f'{"is" if rows == 1 else "are"} the newest of their image; `lemmabeam '
                        f'relabel --output {layout.output} --model_id {model_id}` writes them into '
                        f'a run of its own, before which all can go'
                    )
        _check_lost(dataset, of_model, old, drop, before)
    if not is_dry_run and old:
        # Readers first.
        write_latest_sql(layout.output, layout.store, without=old)
    for each in runs[: len(old)]:
        if not is_dry_run:
            run = dataclasses.replace(layout, run_id=each.id, model_id=each.model_id)
            # The report goes before the files, for a complete run has all of them.  What is left
            # when this is interrupted is unfinished work, and goes with the next `clean`.
            in_progress.begin(
                run, in_progress.Begun(each.finished_at, each.sequence, [], _options_of(each))
            )
            layout.store.delete(layout.uri(run.report_path))
            _remove_published(run, [run.run_folder(kind) for kind in KINDS])
            clean_up(run)
        labeled = counted(each.report.counts.labeled, 'row')
        yield f'{_verb(is_dry_run)} run {each.id}, {labeled}'


def _check_lost(
    dataset: Dataset,
    runs: Sequence[CompleteRun],
    old: Sequence[str],
    drop: Sequence[str],
    before: str,
) -> None:
    """Refuses to remove what only old runs have of the newest rows, unless it is named.

    Args:
      dataset: the folder.
      runs: all of a model.
      old: ids of those that are to go.
      drop: of `_SCORES` and `_FEATURES`, what may go.
      before: the id that was given.

    Raises:
      UsageError: scores below labels would go, or features.
      StoreError: a report is damaged.
    """
    kept = [run for run in runs if run.id not in old]
    if not kept or len(kept) == len(runs):
        return
    going = [run for run in _scored(dataset, runs) if run.id in old]
    staying = _scored(dataset, kept)
    if not going or not staying:
        return
    lowest = min(newest.floor_of(run.report.metadata) for run in going)
    most = max(newest.limit_of(run.report.metadata) for run in going)
    floor = max(newest.floor_of(run.report.metadata) for run in staying)
    limit = min(newest.limit_of(run.report.metadata) for run in staying)
    where = f'--prune_before {before}: run {", ".join(run.id for run in going)}'
    if (lowest < floor or most > limit) and _SCORES not in drop:
        raise UsageError(
            f'{where} has scores that no later run has (from {lowest:g} on, {most} an image; later '
            f'ones from {floor:g} on, {limit} an image): `lemmabeam relabel --output '
            f'{dataset.output}` without thresholds copies them, --drop {_SCORES} lets them go'
        )
    theirs, ours = (
        [run_metadata.FEATURES in run.report.metadata for run in each] for each in (going, staying)
    )
    if any(theirs) and not all(ours) and _FEATURES not in drop:
        raise UsageError(
            f'{where} has feature vectors that no later run has, which are copied only where all '
            f'newest rows have them: --drop {_FEATURES} lets them go'
        )


def _scored(dataset: Dataset, runs: Sequence[CompleteRun]) -> list[CompleteRun]:
    """The runs that a relabelling would read a row of."""
    sources = newest.by_worth(runs)
    with newest.newest_rows(dataset, sources) as found:
        return [run for run, rows in zip(sources, found.rows_by_run, strict=True) if rows]


def _options_of(run: CompleteRun) -> dict[str, str]:
    return {'command': 'prune', 'model': run.model_id}


def _remove_published(run: RunPaths, folders: Iterable[str]) -> None:
    for folder in folders:
        remove_tree(run, folder)
    run.store.delete(run.uri(f'runs/{run.run_id}/report.html'))
    if run.is_local:
        with contextlib.suppress(OSError):  # something is there that is not ours
            folder = run.uri(f'runs/{run.run_id}')
            run.store.within('deleting', folder, Path(folder).rmdir)


def _finish_forgetting(layout: RunPaths, is_dry_run: bool) -> Iterator[str]:
    for run in complete_runs(layout.output, layout.store):
        if is_pending(run.report):
            if not is_dry_run:
                finish(run, layout.output, layout.store)
            yield (
                f'{"would correct" if is_dry_run else "corrected"} the report of run {run.id}: a '
                '--forget was interrupted; give it again, or the image stays'
            )


def _forget(layout: RunPaths, uri: str, is_dry_run: bool) -> list[str]:
    """A line for each run that knew the image."""
    gone = forget(layout.output, layout.store, uri, is_dry_run)
    verb = _verb(is_dry_run)
    return [
        f'{verb} {uri} from run {run_id}: {counted(rows, "row")}' for run_id, rows in gone.items()
    ]


def _verb(is_dry_run: bool) -> str:
    return 'would remove' if is_dry_run else 'removed'


def _chosen(found: Sequence[str], run_ids: Sequence[str], output: str) -> list[str]:
    for run_id in run_ids:
        if run_id not in found:
            names = ', '.join(found) or 'none'
            raise UsageError(f'--run_id {run_id}: {output} has no such work; there is: {names}')
    return list(run_ids)
