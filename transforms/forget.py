"""Takes one image out of every run of a dataset, as if it had never been there."""

import copy
import hashlib
import io
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms import dead_letters, uris, write
from transforms.errors import StoreError
from transforms.hashing import uri_hash
from transforms.publish import to_json
from transforms.runs import CompleteRun, complete_runs, kind_of
from transforms.storage import Store

_PART = re.compile(r'part-(\d{5,})-of-(\d{5,})\.parquet')


def forget(output: str, store: Store, uri: str) -> dict[str, int]:
    """Removes every row of an image: labels, dead letters and what later runs know of it.

    Safe to repeat, and to go on with after it was interrupted.

    Args:
      output: absolute URI of the output folder, whose lease the caller holds.
      store: how it is reached.
      uri: as the rows have it.

    Returns:
      How many rows of labels and dead letters went, by run.

    Raises:
      StoreError: a file or report is missing or damaged, or the store fails.
    """
    gone = {}
    for run in complete_runs(output, store):
        rows = _forget_in(run, output, store, uri)
        if rows is not None:
            gone[run.id] = rows
    return gone


def _forget_in(run: CompleteRun, output: str, store: Store, uri: str) -> int | None:
    """The rows that went; None where the run knows nothing of the image."""
    report = copy.deepcopy(run.report)
    contents: dict[str, bytes] = {}
    counts = report['counts']
    removed = 0
    for file in report['files']:
        path = file['path']
        if not _may_hold(path, uri):
            continue
        rest, dropped = _without(uris.join(output, path), store, uri)
        if not len(dropped):
            continue
        data = write.to_parquet(rest.schema, _row_groups(rest))
        contents[path] = data
        sha256 = hashlib.sha256(data).hexdigest()
        if file['sha256'] == sha256:  # an attempt came so far, and no further
            continue
        file |= {'rows': len(rest), 'size_bytes': len(data), 'sha256': sha256}
        if kind_of(path) == dead_letters.VERSIONS:
            continue
        removed += len(dropped)
        counts['forgotten'] = counts.get('forgotten', 0) + len(dropped)
        if kind_of(path) == write.KIND:
            counts['labeled'] -= len(dropped)
        else:
            _count_dead(counts, dropped['reason'].to_pylist())
    if not contents:
        return None
    # It may show the picture.
    store.delete(uris.join(output, f'runs/{run.id}/report.html'))
    # The report first: it tells a second attempt what the files must become.
    store.write(uris.join(output, f'runs/{run.id}/report.json'), to_json(report))
    for path, data in contents.items():
        store.write(uris.join(output, path), data)
    return removed


def _may_hold(path: str, uri: str) -> bool:
    match = _PART.fullmatch(path.rpartition('/')[2])
    return match is None or uri_hash(uri) % int(match[2]) == int(match[1])


def _without(location: str, store: Store, uri: str) -> tuple[pa.Table, pa.Table]:
    """The rows of other images, and those of this one."""
    data = store.read(location)
    try:
        table = pq.ParquetFile(io.BytesIO(data or b'')).read()
        is_it = pc.equal(table['uri'], uri)
    except (pa.ArrowException, OSError, LookupError) as e:
        raise StoreError(
            f'{location} is missing or damaged: `lemmabeam verify` tells more; nothing was '
            'forgotten in this run'
        ) from e
    return table.filter(pc.invert(is_it)), table.filter(is_it)


def _row_groups(table: pa.Table) -> list[pa.Table]:
    size = write.ROW_GROUP_ROWS
    return [table.slice(start, size) for start in range(0, len(table), size)]


def _count_dead(counts: dict[str, Any], reasons: list[str]) -> None:
    by_reason = counts['dead_lettered_by_reason']
    for reason in reasons:
        counts['dead_lettered'] -= 1
        by_reason[reason] -= 1
        if not by_reason[reason]:
            del by_reason[reason]
