"""The last steps of a run: its files become visible, then its report makes it complete.

Several attempts at one run may get here at once: a step that a service runs twice, a process that
was thought to be dead, a lease that was broken.  What they wrote may differ, for an image may be
gone by now.  So that the run has one attempt's files and no others, each attempt

1. writes its files under its own names (`Layout.staging_folder`), and never overwrites one;
2. commits: creates `_work/<run>/commit.json`, which names the attempt and holds the report to be.
   Only the first one can, and its files are those of the run from then on;
3. looks for the report.  If there is one, it is that of an attempt that was faster and has removed
   its commit: nothing is left to do, and what this one has just committed means nothing;
4. puts the files of the *committed* attempt, mostly its own, in their places: a local folder is
   renamed as a whole, objects are copied by their store.  Then it removes what lies beside them,
   which no report can list any longer, and reads back how many rows there are;
5. creates the report.  Of two, the second finds that of the first, which says the same.

Before its report is there, a run never removes anything of a run but what is staged, and no commit.
So whoever was held up, at whichever step and for however long, finds when it continues:

- before 2: the commit of another, or the report;
- between 2 and 3: its own commit, with the report already there (3 stops it), or not (then no other
  attempt has got further than it);
- in 4: a staged file that is still there, whose bytes are those that are meant to be in its place,
  so that putting them there changes nothing; or none, as the run is complete and `_work` is gone,
  and then nothing is put anywhere;
- before 5: the report.

An attempt that fails removes what it has staged, unless it has committed; `lemmabeam clean`, which
somebody calls who knows that nobody is at work, removes all of an incomplete run.
"""

import contextlib
import dataclasses
import errno
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.errors import BooksError, DamagedError, StoreError, UsageError
from transforms.core.json_object import JsonObject
from transforms.core.waiting import alive
from transforms.model.vocabulary import Vocabulary
from transforms.output import dead_letters, predictions
from transforms.output.layout import Layout, RunPaths, check_dataset, dataset_spec
from transforms.output.partitions import fold
from transforms.runs.report import RunReport, kind_of
from transforms.runs.vocabularies import keep_vocabulary
from transforms.storage.base import Entry, Store
from transforms.storage.sealed import open_json, seal_json

_THREADS = 16
_DELETE_BATCH = 1000
# Each time somebody else has changed the commit meanwhile.
_TRIES = 10

KINDS = (predictions.KIND, dead_letters.KIND, dead_letters.VERSIONS)
"""What a run publishes."""


class Commit(NamedTuple):
    """What the files of a run will be.

    Attributes:
      attempt: whose files.
      report: as it was before they were in their places.
    """

    attempt: str
    report: RunReport

    def to_json(self) -> dict[str, Any]:
        """The content of commit.json, without its checksum."""
        return {'attempt': self.attempt, 'report': self.report.to_json()}


def publish(
    layout: Layout, make_report: Callable[[float], RunReport], vocabulary: Vocabulary
) -> RunReport:
    """Makes the files of a run visible and the run complete; safe to repeat, also at the same time.

    Args:
      layout: the output, the run and the attempt.
      make_report: makes this attempt's report, given the seconds that publishing took.
      vocabulary: names of the labels.

    Returns:
      The report of the run, which may be another attempt's.

    Raises:
      BooksError: the counts do not balance, or the files hold other rows than were counted; the
        report is written anyway.
      StoreError: a file is missing or damaged, or the store fails.
      UsageError: another run has meanwhile pinned a different layout.
    """
    report = _read_report(layout) or _publish(layout, make_report, vocabulary)
    if not report.balanced:
        counts = report.counts.to_json()
        raise BooksError(
            f'the books of run {layout.run_id} do not balance: {counts}{_found(report)}; '
            f'its files and {layout.uri(layout.report_path)} are kept'
        )
    return report


def _publish(
    layout: Layout, make_report: Callable[[float], RunReport], vocabulary: Vocabulary
) -> RunReport:
    store = layout.store
    store.create(layout.uri('dataset.json'), seal_json(dataset_spec(layout)))
    check_dataset(layout)
    vocabulary_sha256 = keep_vocabulary(layout.output, store, vocabulary)

    def make(publish_sec: float) -> RunReport:
        report = make_report(publish_sec)
        model = dataclasses.replace(report.model, vocabulary_sha256=vocabulary_sha256)
        return dataclasses.replace(report, model=model)

    started = time.perf_counter()
    commit = _commit(layout, make(0.0))
    done = _read_report(layout)
    if done is not None:
        return done
    paths = [file.path for file in commit.report.files]
    _place(dataclasses.replace(layout, attempt=commit.attempt), paths)
    _remove_others(layout, paths)
    rows = _read_back(layout, paths)
    is_ours = commit.attempt == layout.attempt
    report = make(time.perf_counter() - started) if is_ours else commit.report
    report = _held_against(report, rows)
    if store.create(layout.uri(layout.report_path), seal_json(report.to_json())):
        return report
    done = _read_report(layout)
    if done is None:
        raise StoreError(
            f'{layout.uri(layout.report_path)} was written by another process, and '
            'is gone; start the run again'
        )
    return done


def find_commit(layout: RunPaths) -> Commit | None:
    """What an attempt at an incomplete run has committed.

    Raises:
      StoreError: it is damaged.
    """
    uri = layout.uri(layout.commit_path)
    data = layout.store.read(uri)
    if data is None:
        return None
    commit = _parse_commit(data)
    if commit is None:
        raise StoreError(
            f'{uri} is damaged: remove the work of run {layout.run_id} with '
            f'`lemmabeam clean {layout.output}`'
        )
    return commit


def clean_up(layout: RunPaths) -> None:
    """Removes the work of a run that has its report."""
    remove_tree(layout, layout.work_folder)


def discard(layout: RunPaths) -> None:
    """Removes what an attempt has staged, unless it is committed."""
    data = layout.store.read(layout.uri(layout.commit_path))
    commit = None if data is None else _parse_commit(data)
    if commit is None or commit.attempt != layout.attempt:
        remove_tree(layout, layout.staging_folder)


def remove_tree(layout: RunPaths, path: str) -> None:
    """Removes everything below a path of the output, if anything is there."""
    if layout.is_local:
        folder = layout.uri(path)
        layout.store.within('deleting', folder, lambda: _remove_folder(folder))
        return
    _delete(layout.store, layout.store.list(layout.uri(path)))


def _remove_folder(folder: str) -> None:
    """Removes a local folder, as far as that goes; what is gone is a sign of life."""
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            alive()
            with contextlib.suppress(OSError):
                Path(above, name).unlink()
        with contextlib.suppress(OSError):
            Path(above).rmdir()


def _read_report(layout: RunPaths) -> RunReport | None:
    uri = layout.uri(layout.report_path)
    data = layout.store.read(uri)
    if data is None:
        return None
    try:
        report = RunReport.from_json(open_json(data).value)
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: restore it from a backup') from e
    if report.run_id != layout.run_id:
        raise StoreError(
            f'{uri} belongs to run {report.run_id}: the file system cannot tell its name from '
            f'that of run {layout.run_id}; choose another --run_id'
        )
    return report


def _commit(layout: RunPaths, report: RunReport) -> Commit:
    """Decides which attempt's files are those of the run: ours, unless another was faster."""
    uri = layout.uri(layout.commit_path)
    store = layout.store
    ours = Commit(layout.attempt, report)
    data = seal_json(ours.to_json())
    for _ in range(_TRIES):
        if store.create(uri, data):
            return ours
        seen = store.look(uri)
        if seen is None:  # that of a run which has become complete
            continue
        theirs = _parse_commit(seen.data)
        if theirs is not None:
            return theirs
        if store.replace(uri, data, seen):  # a damaged one decides nothing
            return ours
    raise StoreError(f'cannot write {uri}: other processes keep changing it')


def _parse_commit(data: bytes) -> Commit | None:
    try:
        content, is_sealed = open_json(data)
        if not is_sealed:
            raise DamagedError('its checksum is missing')
        report = RunReport.from_json(content.get('report'))
        return Commit(JsonObject(content).text('attempt'), report)
    except DamagedError:
        return None


def _place(layout: RunPaths, paths: Collection[str]) -> None:
    """Puts what an attempt has staged in its places, as far as that was not done yet."""
    if layout.is_local:
        for kind in KINDS:
            _rename(layout, kind)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(
            pool.map(
                lambda path: layout.store.place(layout.staged_uri(path), layout.uri(path)), paths
            )
        )


def _rename(layout: RunPaths, kind: str) -> None:
    """Makes all files of a kind visible at once, where there is no folder yet."""
    staged = Path(layout.staged_uri(layout.run_folder(kind)))
    final = Path(layout.uri(layout.run_folder(kind)))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        layout.store.within('moving something to', str(final), lambda: staged.rename(final))
    except FileNotFoundError:  # done, or there is none
        return
    except OSError as e:
        # Else of an attempt that was interrupted right here, by this version or an earlier one; or
        # on another disk, to which file by file is moved.
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EXDEV):
            raise StoreError(f'cannot publish {final}: {e.strerror}') from e


def _remove_others(layout: RunPaths, paths: Collection[str]) -> None:
    """Removes from the folders of a run what its commit does not list."""
    store = layout.store
    # Some file systems list a name in another spelling than the one it was given.
    key = fold if layout.is_local else str
    listed = {key(layout.uri(path)) for path in paths}
    for kind in KINDS:
        folder = layout.uri(layout.run_folder(kind))
        if store.is_folder(folder):
            _delete(store, (each for each in store.list(folder) if key(each.uri) not in listed))


def _read_back(layout: RunPaths, paths: Collection[str]) -> dict[str, int]:
    """How many rows lie in each file, by what stands at its end."""
    store = layout.store

    def rows(path: str) -> int:
        uri = layout.uri(path)
        try:
            with store.open(uri) as stream:
                found: int = pq.ParquetFile(stream).metadata.num_rows
        except UsageError as e:
            raise StoreError(f'{uri} was written, but is not there') from e
        except (pa.ArrowException, OSError) as e:
            raise StoreError(f'{uri} was written, but cannot be read back as Parquet') from e
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(paths, pool.map(rows, paths), strict=True))


def _held_against(report: RunReport, rows: dict[str, int]) -> RunReport:
    """The report, balanced only if its files hold the rows that were counted."""
    files = tuple(
        file
        if rows[file.path] == file.rows
        else dataclasses.replace(file, rows_found=rows[file.path])
        for file in report.files
    )
    sums: Counter[str] = Counter()
    for path, found in rows.items():
        sums[kind_of(path)] += found
    is_so = (
        files == report.files
        and sums[predictions.KIND] == report.counts.labeled
        and sums[dead_letters.KIND] == report.counts.dead_lettered
    )
    return dataclasses.replace(report, balanced=report.balanced and is_so, files=files)


def _found(report: RunReport) -> str:
    """Which files hold other rows than were written, for a message."""
    others = [file for file in report.files if file.rows_found is not None]
    if not others:
        return ''
    first = others[0]
    return (
        f'; {len(others)} files hold other rows than were written, such as {first.path} with '
        f'{first.rows_found} instead of {first.rows}'
    )


def _delete(store: Store, entries: Iterable[Entry]) -> None:
    """Deletes objects, several at a time: a run of a billion images has kept a million chunks."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = iter(entries)
        while batch := [entry.uri for entry in itertools.islice(found, _DELETE_BATCH)]:
            list(pool.map(store.delete, batch))
