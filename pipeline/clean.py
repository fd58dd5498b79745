"""`lemmabeam clean`: removes what interrupted runs have left in an output."""

import argparse
from collections.abc import Sequence

from pipeline.options import add_lease_arguments, add_store_arguments, store_options
from pipeline.progress import tell_waiting
from transforms import lease, uris, work
from transforms.errors import LemmabeamError, UsageError
from transforms.layout import Layout
from transforms.publish import KINDS, remove_tree
from transforms.runs import complete_runs
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
    parser.add_argument('--dry_run', action='store_true', help='only say what would be removed')
    add_lease_arguments(parser)
    add_store_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Removes what incomplete runs have left, and says what; the exit code."""
    output = uris.absolute(args.folder).rstrip('/')
    layout = Layout(output, 'clean', '', (), (), 1, store_options(args))
    if not layout.store.is_folder(output):
        raise UsageError(f'{args.folder}: no such folder')
    lease.acquire(layout, args.break_lease, args.wait_for_lease_sec, tell_waiting)
    try:
        found = work.unfinished(output, layout.store)
        if args.run_id is not None:
            found = _chosen(found, args.run_id, output)
        done = {each.id for each in complete_runs(output, layout.store)}
        for each in found:
            state = 'left by a complete run' if each.run_id in done else 'incomplete'
            verb = 'would remove' if args.dry_run else 'removed'
            if not args.dry_run:
                _remove(each, layout, each.run_id in done)
            print(f'{verb} the work of run {each.run_id}, {state}: {each}')
        if not found:
            print('nothing to remove')
    finally:
        lease.release(layout)
    return 0


def _chosen(found: Sequence[Unfinished], run_ids: Sequence[str], output: str) -> list[Unfinished]:
    there = {each.run_id: each for each in found}
    for run_id in run_ids:
        if run_id not in there:
            names = ', '.join(there) or 'none'
            raise UsageError(f'--run_id {run_id}: {output} has no such work; there is: {names}')
    return [there[run_id] for run_id in run_ids]


def _remove(each: Unfinished, layout: Layout, is_complete: bool) -> None:
    """Removes the files that we have written, and no others."""
    run = Layout(layout.output, each.run_id, _model_of(each, layout), (), (), 1, layout.stores)
    if not is_complete and run.model_id:
        for kind in KINDS:
            remove_tree(run, run.run_folder(kind))
    for path in each.paths:
        layout.store.delete(layout.uri(path))
    work.remove_empty_folders(run)


def _model_of(each: Unfinished, layout: Layout) -> str:
    """The model of a run, by which half-published files of it are found; '' if it had none yet."""
    run = Layout(layout.output, each.run_id, '', (), (), 1, layout.stores)
    try:
        begun = work.begun(run)
    except LemmabeamError:  # of another version, or damaged: its work goes, but nothing else
        return ''
    return str(begun.options.get('model', '')) if begun else ''
