"""`lemmabeam clean`: removes what interrupted runs have left, old runs, and single images."""

import argparse
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.job.progress import tell_waiting
from pipeline.job.signals import stopping_on_signals
from pipeline.messages import StandardStreams
from pipeline.options import add_lease_arguments, add_store_arguments, store_options
from pipeline.parser import Parser
from pipeline.runners.dataflow.status import JOBS
from transforms.core import uris
from transforms.core.errors import UsageError
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
from transforms.storage.registry import has_folder

# What `--drop` may name.
_SCORES, _FEATURES = 'scores', 'features'


def main(parser: Parser, argv: Sequence[str]) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam clean`."""
    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument(
        '--run_id',
        action='append',
        metavar='ID',
        help='an incomplete run to remove; may be repeated (default: all of them)',
    )
    parser.add_argument(
        '--prune_before',
        metavar='ID',
        help='also remove every complete run before this one; refused where a row of theirs is the '
        'newest of its image and model (`lemmabeam relabel` copies those into a run of its own)',
    )
    parser.add_argument(
        '--drop',
        action='append',
        default=[],
        choices=(_SCORES, _FEATURES),
        help='let --prune_before remove what no later run has: scores below the labels, without '
        'which relabelling goes no lower, or feature vectors; may be repeated (default: that is '
        'refused; `lemmabeam relabel` without thresholds keeps the scores)',
    )
    parser.add_argument(
        '--forget',
        action='append',
        default=[],
        metavar='URI',
        help='also remove this image from every run, as the column uri has it; may be repeated',
    )
    parser.add_argument('--dry_run', action='store_true', help='only say what would be removed')
    add_lease_arguments(parser)
    add_store_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Removes what is asked for, and says what; the exit code.

    Raises:
      UsageError: DIR is no folder, something cannot be removed, or an image to forget is in no run
        (what else was asked for is done then).
      StoreError: a file or report is damaged, or a store fails.
    """
    output = uris.absolute(args.folder).rstrip('/')
    layout = RunPaths(output, 'clean', '', stores=store_options(args))
    if not has_folder(layout.store, output):
        raise UsageError(f'{uris.named(args.folder)}: no such folder')
    if args.forget and args.run_id is not None:
        raise UsageError(
            '--forget: the work of all incomplete runs goes with it; leave out --run_id'
        )
    if args.drop and args.prune_before is None:
        raise UsageError(f'--drop {args.drop[0]} goes with --prune_before')
    told = tell_waiting(StandardStreams())
    lease.acquire(layout, args.break_lease, args.wait_for_lease_sec, told, JOBS)
    with stopping_on_signals(lambda: '; the same command goes on', lambda: lease.release(layout)):
        try:
            in_progress.remove_temporaries(layout, everywhere=True)
            corrected = list(_finish_forgetting(layout, args.dry_run))
            said = [
                *corrected,
                *_remove_work(layout, args.run_id, args.dry_run),
                *_prune(layout, args.prune_before, args.drop, args.dry_run),
            ]
            forgotten = {uri: _forget(layout, uri, args.dry_run) for uri in args.forget}
            said += itertools.chain(*forgotten.values())
            if not args.dry_run:
                in_progress.remove_empty_folders(layout)
                if complete_runs(output, layout.store):
                    write_latest_sql(output, layout.store)
        finally:
            lease.release(layout)
    print('\n'.join(uris.printable(line) for line in said) or 'nothing to remove')
    nowhere = [uri for uri, lines in forgotten.items() if not lines]
    if nowhere and not corrected:  # else an interrupted --forget was finished just now
        names = ', '.join(uris.printable(repr(uri)) for uri in nowhere)
        raise UsageError(
            f'--forget: no complete run has {names}: is it written as in the column uri?'
        )
    return 0


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
            Path(run.uri(f'runs/{run.run_id}')).rmdir()


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
