"""`lemmabeam latest`: the newest row of every image and model, in one Parquet file."""

import argparse
from collections.abc import Sequence

from pipeline.messages import Messages
from pipeline.options import add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.texts import counted
from transforms.dataset.latest_file import write_latest_to
from transforms.dataset.reader import dataset_at


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam latest`."""
    parser.add_argument('folder', metavar='DIR', help='the --output of `lemmabeam label`')
    parser.add_argument(
        '--output',
        required=True,
        metavar='FILE',
        help='the Parquet file to write or replace, local, gs://, s3:// or az://, outside DIR; '
        'sorted by model and URI. For an object store it is put together in memory',
    )
    parser.add_argument(
        '--model_id',
        metavar='ID',
        help='only the rows of this model, such as efficientnet-lite0-30581518 (default: those of '
        'all models)',
    )
    parser.add_argument(
        '--drop_gone',
        action='store_true',
        help='leave out rows whose image the inputs of their run do not list any more: those with '
        'a gone_since (default: all are kept)',
    )
    add_store_arguments(parser)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Writes the file and tells its counts.

    Above a million rows a temporary folder ($TMPDIR) takes about 300 bytes a row.

    Raises:
      UsageError: DIR is no output, FILE cannot lie there, or there is no such model.
      StoreError: a file or report is damaged, or a store fails.
    """
    stores = store_options(args)
    output = uris.absolute(args.folder).rstrip('/') or '/'
    dataset = dataset_at(output, stores, 'DIR ')
    target, counts = write_latest_to(args.output, dataset, args.model_id, stores, args.drop_gone)
    for model_id, (rows, superseded, gone_rows) in counts.items():
        line = f'{model_id}: {counted(rows, "row")}, '
        line += f'{counted(superseded, "superseded one")} left out'
        if gone_rows and args.drop_gone:
            line += f'; {counted(gone_rows, "row")} of images that are gone left out'
        elif gone_rows:
            line += f'; {gone_rows:,} of the rows {"is" if gone_rows == 1 else "are"} gone'
        messages.say(line)
    total = sum(each.rows for each in counts.values())
    messages.say(f'{uris.printable(target)}: {counted(total, "row")}')
    messages.result(
        {
            'file': target,
            'rows': total,
            'models': [
                {
                    'model_id': model_id,
                    'rows': each.rows,
                    'superseded': each.superseded,
                    'gone': each.gone,
                    'is_gone_left_out': args.drop_gone,
                }
                for model_id, each in counts.items()
            ],
        }
    )
    return 0
