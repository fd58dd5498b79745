"""The complete runs of an output folder: those with a report."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from transforms.core import uris
from transforms.core.errors import StoreError
from transforms.core.waiting import LEAST_DEADLINE_SEC, each_within
from transforms.storage.base import Store
from transforms.storage.registry import has_folder
from transforms.storage.sealed import Checksum, open_json

_REPORT = re.compile(r'runs/([^/]+)/report\.json')
_THREADS = 16


class CompleteRun(NamedTuple):
    """A run that has its report.

    Attributes:
      sequence: its place among the runs of its folder, from 1; clocks may go back, this does not.
      finished_at: when it was done, UTC, in ISO 8601.
      id: its run id.
      report: its report.json.
    """

    sequence: int
    finished_at: str
    id: str
    report: dict[str, Any]

    @property
    def model_id(self) -> str:
        """The model whose scores it holds."""
        model_id: str = self.report['model']['id']
        return model_id

    def files(self, kind: str) -> Iterator[dict[str, Any]]:
        """What the report says of its files of a kind: 'predictions', 'dead_letters', …."""
        return (file for file in self.report['files'] if kind_of(file['path']) == kind)


def kind_of(path: str) -> str:
    """What a file of a run holds: 'predictions', 'dead_letters' or 'dead_versions'."""
    parts = path.split('/')
    return parts[2] if parts[0] == 'runs' and len(parts) > 2 else parts[0]


def complete_runs(
    output: str, store: Store, deadline_sec: float = LEAST_DEADLINE_SEC
) -> list[CompleteRun]:
    """The complete runs of an output folder, the oldest first.

    Args:
      output: the folder.
      store: how it is reached.
      deadline_sec: so long it may take until something is heard of it.

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
    """A run of an output folder, or None where it has no report.

    Raises:
      StoreError: its report is damaged.
    """
    uri = uris.join(output, f'runs/{run_id}/report.json')
    data = store.read(uri)
    if data is None:  # removed meanwhile
        return None
    try:
        report, _ = open_json(data)
        run = CompleteRun(int(report.get('sequence', 0)), report['finished_at'], run_id, report)
        _ = (run.model_id, report['counts']['labeled'])
        _ = [(file['path'], Checksum.of(file)) for file in report['files']]
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise StoreError(
            f'{uri} is damaged: restore it from a backup, or remove the run as the README says'
        ) from e
    return run
