"""`lemmabeam clean`: removes what interrupted runs have left, old runs, and single images."""

import argparse
from collections.abc import Sequence

from pipeline.job import clean
from pipeline.messages import Messages
from pipeline.options import add_lease_arguments, add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


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
        choices=clean.DROPPABLE,
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


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Removes what is asked for, and says what; the exit code.

    Raises:
      UsageError: DIR is no folder, something cannot be removed, or an image to forget is in no run
        (what else was asked for is done then).
      StoreError: a file or report is damaged, or a store fails.
    """
    wanted = clean.Wanted(
        run_ids=args.run_id,
        prune_before=args.prune_before,
        drop=args.drop,
        forget=args.forget,
        dry_run=args.dry_run,
    )
    done = clean.clean(
        args.folder,
        wanted,
        store_options(args),
        args.break_lease,
        args.wait_for_lease_sec,
        messages,
    )
    for line in done.lines or ['nothing to remove']:
        messages.say(uris.printable(line))
    messages.result(
        {'folder': args.folder, 'is_dry_run': args.dry_run, 'removed': list(done.lines)}
    )
    done.check_found()
    return 0
