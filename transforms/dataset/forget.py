"""Takes one image out of every run of a dataset, as if it had never been there."""

import copy
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError
from transforms.core.hashing import uri_hash
from transforms.output import dead_letters, predictions
from transforms.runs.complete import CompleteRun, complete_runs, kind_of
from transforms.storage.base import Store
from transforms.storage.sealed import REPLACEMENT, Checksum, seal_json

_PART = re.compile(r'part-(\d{5,})-of-(\d{5,})\.parquet')


def forget(output: str, store: Store, uri: str, is_dry_run: bool = False) -> dict[str, int]:
    """Removes every row of an image: labels, dead letters and what later runs know of it.

    Safe to repeat, and to go on with after it was interrupted.

    Args:
      output: absolute URI of the output folder, whose lease the caller holds.
      store: how it is reached.
      uri: as the rows have it.
      is_dry_run: only look.

    Returns:
      How many rows of labels and dead letters went, or would go, by run.

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


def is_pending(report: Mapping[str, Any]) -> bool:
    """Whether some of its files were to be replaced when this was interrupted."""
    return any(REPLACEMENT in file for file in report['files'])


def finish(run: CompleteRun, output: str, store: Store) -> None:
    """Corrects the report of a run in which forgetting an image was interrupted.

    Files that were not replaced yet still have the image, until it is forgotten again.

    Raises:
      StoreError: a file is missing or damaged.
    """
    if not is_pending(run.report):
        return
    files = {file['path']: file for file in run.report['files']}
    settle(run.report, lambda path: hashlib.sha256(_read(output, files[path], store)).hexdigest())
    store.write(uris.join(output, f'runs/{run.id}/report.json'), seal_json(run.report))


def settle(report: dict[str, Any], sha256_of: Callable[[str], str]) -> None:
    """Makes a report of files that were to be replaced one of those that are there.

    Args:
      report: changed in place.
      sha256_of: gives the SHA-256 of what is there at a path.
    """
    counts = report['counts']
    names = Counter({label['name']: label['images'] for label in report.get('top_labels', [])})
    for file in report['files']:
        if REPLACEMENT not in file:
            continue
        is_there = sha256_of(file['path']) == file[REPLACEMENT]['sha256']
        replacement = file.pop(REPLACEMENT)
        if not is_there:
            continue
        rows = file['rows'] - replacement['rows']
        reasons, first_labels = replacement.pop('reasons'), replacement.pop('first_labels')
        file |= replacement
        if kind_of(file['path']) == dead_letters.VERSIONS:
            continue
        counts['forgotten'] = counts.get('forgotten', 0) + rows
        if kind_of(file['path']) == predictions.KIND:
            counts['labeled'] -= rows
            if counts.get(predictions.WITHOUT_LABEL) is not None:
                counts[predictions.WITHOUT_LABEL] -= rows - sum(first_labels.values())
        else:
            counts['dead_lettered'] -= rows
        left = Counter(counts['dead_lettered_by_reason']) - Counter(reasons)
        counts['dead_lettered_by_reason'] = dict(left)
        names -= Counter({name: n for name, n in first_labels.items() if name in names})
    if 'share_without_label' in report:
        report['share_without_label'] = predictions.share_without_label(counts)
    if 'top_labels' in report:
        report['top_labels'] = [
            {'name': name, 'images': n}
            for name, n in sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
        ]


def _forget_in(
    run: CompleteRun, output: str, store: Store, uri: str, is_dry_run: bool
) -> int | None:
    """The rows that went; None where the run knows nothing of the image."""
    report = copy.deepcopy(run.report)
    contents: dict[str, bytes] = {}
    removed = 0
    least = predictions.counted_from(report)
    for file in report['files']:
        path = file['path']
        if not _may_hold(path, uri):
            continue
        rest, dropped = _without(output, file, store, uri)
        if not len(dropped):
            continue
        is_dead = kind_of(path) == dead_letters.KIND
        is_labeled = kind_of(path) == predictions.KIND
        removed += len(dropped) if is_dead or is_labeled else 0
        data = predictions.to_parquet(rest.schema, _row_groups(rest))
        contents[path] = data
        file[REPLACEMENT] = {
            'rows': len(rest),
            'size_bytes': len(data),
            'sha256': hashlib.sha256(data).hexdigest(),
            'reasons': dict(Counter(dropped['reason'].to_pylist())) if is_dead else {},
            'first_labels': predictions.first_names(dropped, least) if is_labeled else {},
        }
    if not contents or is_dry_run:
        return removed if contents else None
    # It may show the picture.
    store.delete(uris.join(output, f'runs/{run.id}/report.html'))
    # The report first, with what each file is and what it will be: readers take both.
    store.write(uris.join(output, f'runs/{run.id}/report.json'), seal_json(report))
    for path, data in contents.items():
        store.write(uris.join(output, path), data)
    finish(run._replace(report=report), output, store)
    return removed


def _may_hold(path: str, uri: str) -> bool:
    match = _PART.fullmatch(path.rpartition('/')[2])
    return match is None or uri_hash(uri) % int(match[2]) == int(match[1])


def _without(
    output: str, file: Mapping[str, Any], store: Store, uri: str
) -> tuple[pa.Table, pa.Table]:
    """The rows of other images, and those of this one."""
    data = _read(output, file, store)
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()
        is_it = pc.equal(table['uri'], uri)
    except (pa.ArrowException, OSError, LookupError) as e:
        raise _damaged(output, file) from e
    return table.filter(pc.invert(is_it)), table.filter(is_it)


def _read(output: str, file: Mapping[str, Any], store: Store) -> bytes:
    data = store.read(uris.join(output, file['path'])) or b''
    try:
        Checksum.of(file).check(hashlib.sha256(data).hexdigest())
    except DamagedError as e:
        raise _damaged(output, file) from e
    return data


def _damaged(output: str, file: Mapping[str, Any]) -> StoreError:
    return StoreError(
        f'{uris.join(output, file["path"])} is missing or damaged: `lemmabeam verify` tells more; '
        'nothing was forgotten in this run'
    )


def _row_groups(table: pa.Table) -> list[pa.Table]:
    size = predictions.ROW_GROUP_ROWS
    return [table.slice(start, size) for start in range(0, len(table), size)]
