"""`lemmabeam verify`: whether an output is whole and consistent, or the same as another one."""

import argparse
from collections.abc import Sequence

from pipeline.flags import number_not_negative
from pipeline.messages import Messages
from pipeline.options import add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.errors import UsageError


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam verify`."""
    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument(
        'other',
        metavar='OTHER',
        nargs='?',
        help='another one to compare it with: the newest row of each image and model, whatever '
        'the runs are called',
    )
    parser.add_argument(
        '--by_name',
        action='store_true',
        help='compare by object name below the common folder of each dataset, leaving out uri and '
        'object_version: for the same images in two places',
    )
    parser.add_argument(
        '--exact',
        action='store_true',
        help='compare run by run, by their ids, and the bytes of the files',
    )
    parser.add_argument(
        '--tolerance',
        type=number_not_negative,
        default=0.0,
        metavar='T',
        help='largest difference of two scores that still counts as equal (default: 0)',
    )
    add_store_arguments(parser)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Tells what is wrong, or what differs; 1 if there is anything, otherwise 0.

    Raises:
      UsageError: there is no such output, or it is one of another version.
      StoreError: the store does not answer.
    """
    # What runs is imported when nothing is wrong with the command line.
    from transforms.dataset.verify import notes, verify, verify_and_compare

    compares = [name for name in ('by_name', 'exact', 'tolerance') if getattr(args, name)]
    if args.other is None and compares:
        raise UsageError(f'--{compares[0]} goes with OTHER, what DIR is compared with')
    stores = store_options(args)
    if args.other is None:
        found, totals = verify(args.folder, stores), ''
        said = '' if found else 'whole and consistent'
    else:
        found, totals = verify_and_compare(
            args.folder,
            args.other,
            by_name=args.by_name,
            exact=args.exact,
            tolerance=args.tolerance,
            stores=stores,
        )
        said = totals if found else f'the same: {totals}'
    noted = notes(args.folder, stores)
    for line in (*found, *(f'note: {note}' for note in noted), *filter(None, [said])):
        messages.say(uris.printable(line))
    messages.result(
        {
            'folder': args.folder,
            'other': args.other,
            'is_fine': not found,
            'problems': [] if totals else found,
            'differences': found if totals else [],
            'notes': noted,
        }
    )
    return 1 if found else 0
