"""What a person sees at the end of a run."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.bottleneck import describe
from pipeline.report.html.charts import percent
from pipeline.report.look_lower import look_lower
from transforms.core import members, uris
from transforms.core.left_out import advise_containers, describe_suffixes
from transforms.core.reasons import Reason
from transforms.output import dead_letters, predictions
from transforms.output.layout import Layout
from transforms.output.parquet import read_rows
from transforms.runs.report import Counts, RunReport

_SHOWN_IMAGES = 20
_SHOWN_LABELS = 3
_SHOWN_CRASHES = 5
_COLUMNS = {
    predictions.KIND: ('uri', 'labels'),
    dead_letters.KIND: ('uri', 'reason', 'detail'),
}


def print_summary(report: RunReport, layout: Layout, console: Console) -> None:
    """Prints counts, reasons, the commonest labels and where the output is.

    A small run also has its labels and its dead letters printed.
    """
    counts = report.counts
    if 0 < counts.labeled + counts.dead_lettered <= _SHOWN_IMAGES:
        _print_images(report, layout, console)
    else:
        top = ', '.join(f'{label.name} ({label.images:,})' for label in report.top_labels)
        if top:
            console.print(f'Commonest first labels: {top}', highlight=False, markup=False)
    _print_counts(report, console)
    if suffixes := report.skipped_suffixes:
        found = describe_suffixes(suffixes, counts.skipped_not_image)
        holders = advise_containers('FOLDER', suffixes, ' and ')
        line = f"Files without an image suffix: {found}; as --input, {holders}'FOLDER/**' takes all"
        console.print(_plain(line), soft_wrap=True, highlight=False)
    lower = look_lower(counts.without_label, counts.labeled, report.metadata, layout.output)
    for line in (lower, describe(report.verdict)):
        if line:
            console.print(_plain(line), soft_wrap=True, highlight=False)
    for way in report.model.computed:
        line = f'Model: {report.model.id}, {way}'
        console.print(line, soft_wrap=True, highlight=False, markup=False)
        is_slow = report.verdict is not None and report.verdict.bounded_by == 'inference'
        for line in (way.slower(report.model.id), way.faster if is_slow else ''):
            if line:
                console.print(line, soft_wrap=True, highlight=False, markup=False)
    if receipt := report.receipt:
        console.print(f'Precision: {receipt}', soft_wrap=True, highlight=False, markup=False)
    folder = layout.uri(layout.run_folder(predictions.KIND))
    console.print(f'Predictions: {folder}', soft_wrap=True, highlight=False, markup=False)
    if counts.dead_lettered:
        folder = layout.uri(layout.run_folder(dead_letters.KIND))
        console.print(f'Dead letters: {folder}', soft_wrap=True, highlight=False, markup=False)
    _print_crashes(report, layout, console)
    uri = layout.uri(layout.report_path)
    console.print(f'Report: {uri}', soft_wrap=True, highlight=False, markup=False)


def describe_nothing(counts: Counts, since: str | None) -> str:
    """Why a run has listed no image."""
    if before := counts.skipped_before_since:
        return f'all {before:,} files are older than --since {since}'
    return 'no images found in the inputs'


def _print_counts(report: RunReport, console: Console) -> None:
    counts = report.counts
    table = Table(title=f'Run {report.run_id}', show_header=False)
    table.add_column()
    table.add_column(justify='right')

    def add(name: str, count: int | None) -> None:
        if count:
            table.add_row(name, f'{count:,}')

    table.add_row('listed', f'{counts.listed:,}')
    table.add_row('labelled', f'{counts.labeled:,}')
    if (without := counts.without_label) is not None:
        share = percent(without, counts.labeled)
        table.add_row('  without a label', f'{without:,} ({share})')
    add('  reused for the same bytes', counts.reused)
    add('duplicates', counts.duplicates)
    add('unchanged', counts.unchanged)
    table.add_row('dead letters', f'{counts.dead_lettered:,}')
    for reason, n in counts.dead_lettered_by_reason.items():
        table.add_row(f'  {reason}', f'{n:,}')
    add('rows of earlier runs, no longer listed', counts.gone)
    add('files without an image suffix', counts.skipped_not_image)
    add('files older than --since', counts.skipped_before_since)
    add('labelled by earlier attempts', report.labeled_by_earlier_attempts)
    add('damaged chunks, redone', report.damaged_chunks)
    table.add_row('books', 'balanced' if report.balanced else 'NOT BALANCED')
    table.add_row('seconds', f'{report.wall_sec:,.1f}')
    if rate := report.images_per_sec:
        table.add_row('labelled images/s, overall', f'{rate:,.1f}')
    console.print(table)


def _print_images(report: RunReport, layout: Layout, console: Console) -> None:
    table = Table()
    table.add_column('image', overflow='fold')  # a long name leaves room for its labels
    table.add_column('labels')
    least = np.float32(report.counted_from)
    for row in _rows(report, layout, predictions.KIND):
        labels = [label for label in row['labels'][:_SHOWN_LABELS] if label['score'] >= least]
        text = ', '.join(f'{label["name"]} {label["score"]:.2f}' for label in labels)
        table.add_row(_name(row['uri']), _plain(text or '(none above the threshold)'))
    for row in _rows(report, layout, dead_letters.KIND):
        table.add_row(_name(row['uri']), _plain(f'DEAD LETTER {row["reason"]}: {row["detail"]}'))
    console.print(table, highlight=False)


def _print_crashes(report: RunReport, layout: Layout, console: Console) -> None:
    """Names pictures that did worse than fail, for whoever looks at where they come from."""
    by_reason = report.counts.dead_lettered_by_reason
    crashes = {reason.value for reason in Reason if reason.about.crashed}
    count = sum(by_reason.get(reason, 0) for reason in crashes)
    if not count:
        return
    found = (row for row in _rows(report, layout, dead_letters.KIND) if row['reason'] in crashes)
    for row in itertools.islice(found, _SHOWN_CRASHES):
        line = f'{row["reason"]}: {row["uri"]} ({row["detail"]})'
        console.print(_plain(line), soft_wrap=True, highlight=False)
    if count > _SHOWN_CRASHES:
        console.print(f'and {count - _SHOWN_CRASHES:,} more like these', highlight=False)


def _rows(report: RunReport, layout: Layout, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of a kind, as far as they are shown; who needs few reads no more."""
    for file in report.files:
        if file.kind == kind and file.rows:
            uri = layout.uri(file.path)
            yield from read_rows(layout.store, uri, file.checksum, _COLUMNS[kind])


def _name(uri: str) -> Text:
    if found := members.split(uri):  # whose name alone may be '0', and that of another file's, too
        file = found.container.rpartition('/')[2]
        return Text(uris.named(members.join(file, found.name)))
    return Text(uris.named(uri.rpartition('/')[2] or uri))  # a URL may end in a slash


def _plain(text: str) -> Text:
    """Text in which brackets are no markup and control characters do nothing."""
    return Text(uris.printable(text))
