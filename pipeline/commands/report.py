"""`lemmabeam report`: the report of a run for people."""

import argparse
from collections.abc import Sequence

from pipeline.messages import Messages
from pipeline.options import add_store_arguments, add_thumbnail_argument, store_options
from pipeline.parser import Parser
from transforms.core import uris


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam report`."""
    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument('--run_id', metavar='ID', help='the run (default: the latest complete one)')
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='where to write it, local, gs://, s3:// or az:// (default: '
        'DIR/runs/<run_id>/report.html)',
    )
    add_thumbnail_argument(parser)
    add_store_arguments(parser)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Writes the page and tells where it lies.

    Raises:
      UsageError: there is no such output or run, or --output cannot be used.
      StoreError: a file of the run is damaged, or the store does not answer.
    """
    # What runs is imported when nothing is wrong with the command line.
    from pipeline.report.html.report import write_html_report

    output = uris.absolute(args.folder).rstrip('/')
    written = write_html_report(
        output, args.run_id, store_options(args), args.report_thumbnails, args.output
    )
    messages.say(uris.printable(written))
    messages.result({'file': written})
    return 0
