"""The complete runs of an output folder: those with a report."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from transforms.core import uris
from transforms.core.errors import DamagedError, StoreError
from transforms.core.waiting import LEAST_DEADLINE_SEC, each_within
from transforms.runs.report import PublishedFile, RunReport
from transforms.storage.base import Store
from transforms.storage.registry import has_folder
from transforms.storage.sealed import open_json

_REPORT = re.compile(r'runs/([^/]+)/report\.json')
_THREADS = 16


class CompleteRun(NamedTuple):
    """A run that has its report.

    Attributes:
      sequence: its place among the runs of its folder, from 1; unlike a clock, it never goes back.
      finished_at: when it was done, UTC, in ISO 8601.
      id: its run id.
      report: what it says of itself.
    """

    sequence: int
    finished_at: str
    id: str
    report: RunReport

    @classmethod
    def of(cls, run_id: str, report: RunReport) -> 'CompleteRun':
        """The run in a folder of this name, with its report."""
        return cls(report.sequence, report.finished_at, run_id, report)

    @property
    def model_id(self) -> str:
        """The model whose scores it holds."""
        return self.report.model.id

    def files(self, kind: str) -> Iterator[PublishedFile]:
        """Its files of a kind, as the report lists them: 'predictions', 'dead_letters', …."""
        return (file for file in self.report.files if file.kind == kind)


def complete_runs(
    output: str, store: Store, deadline_sec: float = LEAST_DEADLINE_SEC
) -> list[CompleteRun]:
    """The complete runs of an output folder, the oldest first.

    Args:
      output: the folder.
      store: how it is reached.
      deadline_sec: longest time without an answer of the store.

    Raises:
      StoreError: a report is damaged, or the store does not answer.
    """
    prefix = len(uris.join(output, ''))
    folder = uris.join(output, 'runs')
    if not has_folder(store, folder, deadline_sec):
        return []
    # Its own folder is listed, and nothing below: only reports and what lies beside them.
    listed = each_within(deadline_sec, uris.printable(folder), store.list(folder))
    found = (_REPORT.fullmatch(entry.uri[prefix:]) for entry in listed)
    ids = [match[1] for match in found if match]
    with ThreadPoolExecutor(_THREADS) as pool:
        runs = pool.map(lambda run_id: read_run(output, run_id, store), ids)
        return sorted((run for run in runs if run is not None), key=lambda run: run[:3])


def read_run(output: str, run_id: str, store: Store) -> CompleteRun | None:
    """A run of an output folder, or None if it has no report.

    Raises:
      StoreError: its report is damaged.
    """
    uri = uris.join(output, f'runs/{run_id}/report.json')
    data = store.read(uri)
    if data is None:  # removed meanwhile
        return None
    try:
        return CompleteRun.of(run_id, RunReport.from_json(open_json(data).value))
    except DamagedError as e:
        raise StoreError(f'{uri} is damaged: {restore_or_remove(run_id)}') from e


def restore_or_remove(run_id: str) -> str:
    """What to do about a damaged file of a run, without which nothing of the run counts."""
    return (
        f'restore it from a backup, or remove runs/{run_id} and the run={run_id} folders by hand, '
        'then run `lemmabeam clean`'
    )
