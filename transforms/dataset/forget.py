"""Takes one image out of every run of a dataset, as if it had never been there."""

import dataclasses
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError
from transforms.core.hashing import uri_hash
from transforms.output import dead_letters, predictions
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.runs.report import Counts, PublishedFile, Replacement, RunReport, TopLabel
from transforms.storage.base import Store
from transforms.storage.sealed import seal_json

_PART = re.compile(r'part-(\d{5,})-of-(\d{5,})\.parquet')


def forget(output: str, store: Store, uri: str, is_dry_run: bool = False) -> dict[str, int]:
    """Removes every row of an image: labels, dead letters and what later runs know of it.

    Safe to repeat, also after it was interrupted.

    Args:
      output: absolute URI of the output folder, whose lease the caller holds.
      store: how it is reached.
      uri: as the rows have it.
      is_dry_run: only look.

    Returns:
      How many rows of labels and dead letters were removed, or would be, by run.

    Raises:
      StoreError: a file or report is missing or damaged, or the store fails.
    """
    gone = {}
    for run in complete_runs(output, store):
        if not is_dry_run:
            finish(run, output, store)
        rows = _forget_in(run, output, store, uri, is_dry_run)
        if rows is not None:
            gone[run.id] = rows
    return gone


def is_pending(report: RunReport) -> bool:
    """Whether some of its files were to be replaced when this was interrupted."""
    return any(file.replacement for file in report.files)


def finish(run: CompleteRun, output: str, store: Store) -> None:
    """Corrects the report of a run in which forgetting an image was interrupted.

    Files that were not replaced yet still have the image, until it is forgotten again.

    Raises:
      StoreError: a file is missing or damaged.
    """
    if not is_pending(run.report):
        return

    def sha256_of(file: PublishedFile) -> str:
        return hashlib.sha256(_read(output, file, store)).hexdigest()

    _write_report(output, store, run.id, settle(run.report, sha256_of))


def settle(report: RunReport, sha256_of: Callable[[PublishedFile], str]) -> RunReport:
    """Turns a report with pending replacements into one of the files that are there.

    Args:
      report: the report.
      sha256_of: returns the SHA-256 of what is in the place of a file.
    """
    counts = report.counts
    names = Counter({label.name: label.images for label in report.top_labels})
    files = []
    for file in report.files:
        coming = file.replacement
        kept = dataclasses.replace(file, replacement=None)
        if coming is not None and sha256_of(file) == coming.sha256:
            kept = dataclasses.replace(
                kept, rows=coming.rows, size_bytes=coming.size_bytes, sha256=coming.sha256
            )
            counts = _less(counts, file, coming)
            names -= Counter({name: n for name, n in coming.first_labels.items() if name in names})
        files.append(kept)
    common = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
    top_labels = tuple(TopLabel(*each) for each in common)
    return dataclasses.replace(report, counts=counts, top_labels=top_labels, files=tuple(files))


def _less(counts: Counts, file: PublishedFile, coming: Replacement) -> Counts:
    """Counts without the rows that a file has no more."""
    rows = file.rows - coming.rows
    if file.kind == dead_letters.VERSIONS:
        return counts
    counts = dataclasses.replace(counts, forgotten=counts.forgotten + rows)
    if file.kind == dead_letters.KIND:
        left = Counter(counts.dead_lettered_by_reason) - Counter(coming.reasons)
        return dataclasses.replace(
            counts, dead_lettered=counts.dead_lettered - rows, dead_lettered_by_reason=dict(left)
        )
    without = counts.without_label
    if without is not None:
        without -= rows - sum(coming.first_labels.values())
    labeled = counts.labeled - rows
    reused = min(counts.reused, labeled)  # which rows these were, no file says
    return dataclasses.replace(counts, labeled=labeled, reused=reused, without_label=without)


def _forget_in(
    run: CompleteRun, output: str, store: Store, uri: str, is_dry_run: bool
) -> int | None:
    """The rows that went; None where the run knows nothing of the image."""
    changes = {
        file.path: change
        for file in run.report.files
        if (change := _change(run, file, output, store, uri)) is not None
    }
    removed = sum(change.rows for change in changes.values())
    if not changes or is_dry_run:
        return removed if changes else None
    # It may show the picture.
    store.delete(uris.join(output, f'runs/{run.id}/report.html'))
    # The report first, with what each file is and what it will be: readers take both.
    files = tuple(
        dataclasses.replace(file, replacement=changes[file.path].coming)
        if file.path in changes
        else file
        for file in run.report.files
    )
    report = dataclasses.replace(run.report, files=files)
    _write_report(output, store, run.id, report)
    for path, change in changes.items():
        store.write(uris.join(output, path), change.data)
    finish(run._replace(report=report), output, store)
    return removed


class _Change(NamedTuple):
    """What becomes of a file: its new entry and bytes, and how many labels or failures went."""

    coming: Replacement
    data: bytes
    rows: int


def _change(
    run: CompleteRun, file: PublishedFile, output: str, store: Store, uri: str
) -> _Change | None:
    """A file without an image; None where it has none of it."""
    if not _may_hold(file.path, uri):
        return None
    rest, dropped = _without(output, file, store, uri)
    if not len(dropped):
        return None
    is_dead = file.kind == dead_letters.KIND
    is_labeled = file.kind == predictions.KIND
    data = predictions.to_parquet(rest.schema, _row_groups(rest))
    least = run.report.counted_from
    coming = Replacement(
        rows=len(rest),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        reasons=dict(Counter(dropped['reason'].to_pylist())) if is_dead else {},
        first_labels=predictions.first_names(dropped, least) if is_labeled else {},
    )
    return _Change(coming, data, len(dropped) if is_dead or is_labeled else 0)


def _write_report(output: str, store: Store, run_id: str, report: RunReport) -> None:
    uri = uris.join(output, f'runs/{run_id}/report.json')
    store.write(uri, seal_json(report.to_json()))


def _may_hold(path: str, uri: str) -> bool:
    match = _PART.fullmatch(path.rpartition('/')[2])
    return match is None or uri_hash(uri) % int(match[2]) == int(match[1])


def _without(output: str, file: PublishedFile, store: Store, uri: str) -> tuple[pa.Table, pa.Table]:
    """The rows of other images, and those of this one."""
    data = _read(output, file, store)
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()
        is_it = pc.equal(table['uri'], uri)
    except (pa.ArrowException, OSError, LookupError) as e:
        raise _damaged(output, file) from e
    return table.filter(pc.invert(is_it)), table.filter(is_it)


def _read(output: str, file: PublishedFile, store: Store) -> bytes:
    data = store.read(uris.join(output, file.path)) or b''
    try:
        file.checksum.check(hashlib.sha256(data).hexdigest())
    except DamagedError as e:
        raise _damaged(output, file) from e
    return data


def _damaged(output: str, file: PublishedFile) -> StoreError:
    return StoreError(
        f'{uris.join(output, file.path)} is missing or damaged: run `lemmabeam verify` for '
        'details; nothing was forgotten from this run'
    )


def _row_groups(table: pa.Table) -> list[pa.Table]:
    size = predictions.ROW_GROUP_ROWS
    return [table.slice(start, size) for start in range(0, len(table), size)]
