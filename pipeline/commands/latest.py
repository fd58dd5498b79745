"""`lemmabeam latest`: the newest row of every image and model, in one Parquet file."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.messages import Messages
from pipeline.options import add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import StoreOptions
from transforms.core.texts import counted
from transforms.dataset.latest_file import write_latest
from transforms.dataset.reader import open_dataset, runs_of_model
from transforms.runs.complete import complete_runs
from transforms.storage.registry import store_for

# Whoever opens a file of such a name expects something else.
_OTHER_KINDS = frozenset('.csv .tsv .txt .json .jsonl .ndjson .xlsx .html .gz .zip'.split())


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
        help='the Parquet file to write or replace, local, gs:// or s3://, outside DIR; sorted by '
        'model and URI. For an object store it is put together in memory',
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
    dataset = open_dataset(output, store_for(output, stores), 'DIR ')
    target = _target(args.output, output, stores)
    runs = complete_runs(output, dataset.store)
    if args.model_id is not None:
        runs = runs_of_model(dataset, runs, args.model_id)
    counts = write_latest(dataset, runs, target, stores, drop_gone=args.drop_gone)
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
                    'gone_left_out': args.drop_gone,
                }
                for model_id, each in counts.items()
            ],
        }
    )
    return 0


def _target(given: str, folder: str, stores: StoreOptions) -> str:
    target = uris.absolute(given)
    shown = uris.printable(given)
    if uris.scheme_of(target) in ('http', 'https'):
        raise UsageError(f'--output {shown}: http(s) is not written to')
    store_for(target, stores)  # a scheme that cannot be written is found first
    if given.endswith('/') or not target.rpartition('/')[2] or _is_folder(target):
        raise UsageError(f'--output {shown}: expected the name of a file, such as latest.parquet')
    if uris.suffix_of(target) in _OTHER_KINDS:
        raise UsageError(f'--output {shown}: what is written is Parquet; call it .parquet')
    real = [os.path.realpath(x) if uris.scheme_of(x) == '' else x for x in (target, folder)]
    if f'{real[0]}/'.startswith(uris.join(real[1], '')):
        raise UsageError(
            f'--output {shown} lies inside {folder}, where readers would take it for a part of the '
            'dataset: choose a place beside it'
        )
    return target


def _is_folder(target: str) -> bool:
    return uris.scheme_of(target) == '' and Path(target).is_dir()
