"""`lemmabeam relabel`: labels anew from the stored scores, as a run of its own.

Without thresholds it is a snapshot: the newest rows with the labels that they have, and beside
these the scores that further relabellings need.
"""

import argparse
from collections.abc import Sequence

from pipeline.flags import positive
from pipeline.job import relabel
from pipeline.messages import Messages
from pipeline.options import (
    FOR_EVERY_COMMAND,
    add_lease_arguments,
    add_store_arguments,
    store_options,
)
from pipeline.parser import Parser
from pipeline.report.html.charts import percent
from pipeline.report.look_lower import look_lower
from transforms.core import uris
from transforms.core.texts import counted

# What is for the command line, not for the run.
_NO_OPTION = frozenset(option.name for option in FOR_EVERY_COMMAND)


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam relabel`."""
    parser.add_argument(
        '--output',
        required=True,
        metavar='DIR',
        help='the output of `lemmabeam label`; the labels are written there as a run of their own',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='SCORE',
        help='a class whose score reaches it is a label; not below the floor of the runs whose '
        'scores are read, because lower ones are not stored (default: that of the newest run; '
        'without --thresholds and --max_labels, too, the newest rows are copied into one run, '
        'with their labels as they are and all scores that are stored)',
    )
    parser.add_argument(
        '--thresholds',
        metavar='FILE',
        help='CSV with the header class,threshold for single classes, local, gs://, s3:// or '
        'az://. A class is a wnid, else a name, else an index; the others have --threshold',
    )
    parser.add_argument(
        '--max_labels',
        type=positive,
        metavar='N',
        help='at most N labels an image (default: that of the newest run)',
    )
    parser.add_argument(
        '--model_id',
        metavar='ID',
        help='the model whose scores are meant, such as efficientnet-lite0-30581518 (default: the '
        'only one)',
    )
    parser.add_argument(
        '--run_id',
        metavar='ID',
        help='name of this run, starting with a letter (default: the UTC time and four random hex '
        'digits)',
    )
    add_lease_arguments(parser)
    add_store_arguments(parser)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Writes the run and tells its counts.

    Args:
      args: of `add_arguments`.

    Raises:
      UsageError: DIR is no output, or a value cannot be used.
      StoreError: a file or report is damaged, or a store fails; nothing is published then.
    """
    output = uris.absolute(args.output).rstrip('/') or '/'
    options = {name: value for name, value in vars(args).items() if name not in _NO_OPTION}
    done = relabel.relabel_output(output, options, store_options(args), messages)
    _tell_what_is_missing(done, messages)
    _tell_counts(done, output, messages)
    messages.result(done.report.to_json())
    return 0


def _tell_what_is_missing(done: relabel.Relabelled, messages: Messages) -> None:
    if done.lost_features:
        messages.note(
            f'some rows have no features, so run {done.report.run_id} has none; those of '
            f'{", ".join(done.lost_features)} are nowhere else: keep these runs if you need them'
        )
    if cut_rows := done.report.cut_rows:
        messages.note(
            f'{counted(cut_rows, "row")} {"was" if cut_rows == 1 else "were"} stored with as many '
            'labels as the --max_labels of the run allowed: of these, labels that reach the '
            'threshold may be missing'
        )


def _tell_counts(done: relabel.Relabelled, output: str, messages: Messages) -> None:
    report = done.report
    counts = report.counts
    what = 'copied with their labels' if report.options['keeps_labels'] else 'relabelled'
    rows = counted(counts.labeled, 'row')
    messages.say(f'Run {report.run_id}: {rows} of {report.model.id} {what}')
    if report.scores_from is not None:
        floor = f'{report.scores_from:g}'
        messages.say(f'Scores from {floor} on are kept beside them, for other thresholds')
    without = counts.without_label or 0
    messages.say(f'Without a label: {without:,} ({percent(without, counts.labeled)})')
    if line := look_lower(without, counts.labeled, report.metadata, output):
        messages.say(uris.printable(line))
    top = ', '.join(f'{label.name} ({label.images:,})' for label in report.top_labels)
    if top:
        messages.say(uris.printable(f'Commonest first labels: {top}'))
    messages.say(f'Report: {uris.printable(done.report_uri)}')
