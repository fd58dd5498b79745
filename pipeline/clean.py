"""`lemmabeam clean`: removes what interrupted runs have left, old runs, and single images."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.options import add_lease_arguments, add_store_arguments, store_options
from pipeline.progress import tell_waiting
from pipeline.signals import stopping_on_signals
from transforms import lease, uris, work
from transforms.dataset import open_dataset
from transforms.errors import UsageError
from transforms.forget import finish, forget, is_pending
from transforms.latest import write_latest_sql
from transforms.layout import Layout
from transforms.newest import newest_rows
from transforms.publish import KINDS, clean_up, remove_tree
from transforms.runs import CompleteRun, complete_runs
from transforms.work import Unfinished


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
      UsageError: DIR is no folder, or something cannot be removed.
      StoreError: a file or report is damaged, or a store fails.
    """
    output = uris.absolute(args.folder).rstrip('/')
    layout = Layout(output, 'clean', '', (), (), 1, store_options(args))
    if not layout.store.is_folder(output):
        raise UsageError(f'{args.folder}: no such folder')
    if args.forget and args.run_id is not None:
        raise UsageError(
            '--forget: the work of all incomplete runs goes with it; leave out --run_id'
        )
    lease.acquire(layout, args.break_lease, args.wait_for_lease_sec, tell_waiting)
    with stopping_on_signals(lambda: '; the same command goes on', lambda: lease.release(layout)):
        try:
            work.remove_temporaries(layout, everywhere=True)
            said = [
                *_finish_forgetting(layout, args.dry_run),
                *_remove_work(layout, args.run_id, args.dry_run),
                *_prune(layout, args.prune_before, args.dry_run),
                *_forget(layout, args.forget, args.dry_run),
            ]
            if not args.dry_run:
                work.remove_empty_folders(layout)
                if complete_runs(output, layout.store):
                    write_latest_sql(output, layout.store)
        finally:
            lease.release(layout)
    print('\n'.join(uris.printable(line) for line in said) or 'nothing to remove')
    return 0


def _remove_work(layout: Layout, run_ids: Sequence[str] | None, is_dry_run: bool) -> Iterator[str]:
    done = {each.id for each in complete_runs(layout.output, layout.store)}
    found = {each.run_id: each for each in work.unfinished(layout.output, layout.store)}
    # Of a run whose work is gone already, too: its rows would stay for whoever reads by a pattern.
    half = work.published(layout.output, layout.store)
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


def _prune(layout: Layout, before: str | None, is_dry_run: bool) -> Iterator[str]:
    if before is None:
        return
    dataset = open_dataset(layout.output, layout.store)
    runs = complete_runs(layout.output, layout.store)
    ids = [each.id for each in runs]
    if before not in ids:
        raise UsageError(f'--prune_before {before}: no complete run of this id; there is: {ids}')
    old = ids[: ids.index(before)]
    for model_id in {each.model_id for each in runs}:
        of_model = [each for each in runs if each.model_id == model_id]
        with newest_rows(dataset, of_model) as found:
            for each, rows in zip(of_model, found.rows_by_run, strict=True):
                if each.id in old and rows:
                    raise UsageError(
                        f'--prune_before {before}: {rows} rows of run {each.id} are the newest of '
                        f'their image; `lemmabeam relabel --output {layout.output} --model_id '
                        f'{model_id}` writes them into a run of its own, before which all can go'
                    )
    if not is_dry_run and old:
        # Readers first.
        write_latest_sql(layout.output, layout.store, without=old)
    for each in runs[: len(old)]:
        if not is_dry_run:
            run = dataclasses.replace(layout, run_id=each.id, model_id=each.model_id)
            # The report goes before the files, for a complete run has all of them.  What is left
            # when this is interrupted is unfinished work, and goes with the next `clean`.
            work.begin(run, work.Begun(each.finished_at, each.sequence, [], _options_of(each)))
            layout.store.delete(layout.uri(run.report_path))
            _remove_published(run, [run.run_folder(kind) for kind in KINDS])
            clean_up(run)
        yield f'{_verb(is_dry_run)} run {each.id}, {each.report["counts"]["labeled"]:,} rows'


def _options_of(run: CompleteRun) -> dict[str, str]:
    return {'command': 'prune', 'model': run.model_id}


def _remove_published(run: Layout, folders: Iterable[str]) -> None:
    for folder in folders:
        remove_tree(run, folder)
    run.store.delete(run.uri(f'runs/{run.run_id}/report.html'))
    if run.is_local:
        with contextlib.suppress(OSError):  # something is there that is not ours
            Path(run.uri(f'runs/{run.run_id}')).rmdir()


def _finish_forgetting(layout: Layout, is_dry_run: bool) -> Iterator[str]:
    for run in complete_runs(layout.output, layout.store):
        if is_pending(run.report):
            if not is_dry_run:
                finish(run, layout.output, layout.store)
            yield (
                f'{"would correct" if is_dry_run else "corrected"} the report of run {run.id}: a '
                '--forget was interrupted; give it again, or the image stays'
            )


def _forget(layout: Layout, forgotten: Sequence[str], is_dry_run: bool) -> Iterator[str]:
    for uri in forgotten:
        if is_dry_run:
            yield f'would look for {uri} in every run, and remove it'
            continue
        gone = forget(layout.output, layout.store, uri)
        for run_id, rows in gone.items():
            yield f'removed {uri} from run {run_id}: {rows} rows'
        if not gone:
            yield f'{uri} is in no complete run; is it written as in the column uri?'


def _verb(is_dry_run: bool) -> str:
    return 'would remove' if is_dry_run else 'removed'


def _chosen(found: Sequence[str], run_ids: Sequence[str], output: str) -> list[str]:
    for run_id in run_ids:
        if run_id not in found:
            names = ', '.join(found) or 'none'
            raise UsageError(f'--run_id {run_id}: {output} has no such work; there is: {names}')
    return list(run_ids)
