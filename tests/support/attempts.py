"""Attempts at one run that only publish, each held up or ended at any of its steps."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support import datasets
from tests.support.datasets import Row
from transforms.core.elements import WrittenFile
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.verify import verify
from transforms.output import predictions
from transforms.output.layout import Layout
from transforms.runs import publish
from transforms.runs.report import RunReport

METADATA = datasets.metadata_of(datasets.MODEL)
RUN = 'night-1'


class KilledError(BaseException):
    """In place of SIGKILL."""


@dataclasses.dataclass(frozen=True)
class Watched(Layout):
    """A layout whose store says before everything that it does what it is going to do."""

    before: Callable[[str], None] = lambda _: None

    @property
    def store(self) -> Any:
        return _WatchedStore(super().store, self.before)


class _WatchedStore:
    def __init__(self, store: Any, before: Callable[[str], None]):
        self._store = store
        self._before = before

    def __getattr__(self, name: str) -> Callable[..., Any]:
        deed = getattr(self._store, name)

        def do(*args: Any) -> Any:
            self._before(name)
            return deed(*args)

        return do


def layout_of(output: object, attempt: str, before: Callable[[str], None] | None = None) -> Layout:
    """The layout of an attempt at `RUN`; two rows a file."""
    layout = Watched(str(output), RUN, datasets.MODEL, (), (), 2, attempt=attempt)
    return layout if before is None else dataclasses.replace(layout, before=before)


def stage(layout: Layout, uris: Sequence[str]) -> list[WrittenFile]:
    """Writes files with a row for each URI."""
    schema = predictions.prediction_schema((), METADATA)
    shards = layout.shards(len(uris))
    members: dict[str, list[Row]] = {
        path: [] for path in predictions.expected_paths(layout, {'': shards})
    }
    for uri in uris:
        members[layout.path_for(predictions.KIND, '', uri, shards)].append(Row(uri))
    return [
        predictions.write_file(path, layout, schema, [datasets.table_of(rows, layout, schema)])
        for path, rows in members.items()
    ]


def publish_files(layout: Layout, files: Sequence[WrittenFile]) -> RunReport:
    """What the last step of a run does, but for the lease."""
    report = publish.publish(
        layout,
        lambda _: datasets.report_of(layout, files, METADATA),
        datasets.VOCABULARY,
    )
    write_latest_sql(layout.output, layout.store)
    publish.clean_up(layout)
    return report


def attempt(layout: Layout, uris: Sequence[str]) -> RunReport:
    """A whole attempt; its report."""
    return publish_files(layout, stage(layout, uris))


def faults(output: object, uris_of: Sequence[Sequence[str]]) -> list[str]:
    """What is wrong with a run that is said to be complete, with one of these sets of rows."""
    layout = layout_of(output, 'any')
    report = json.loads(layout.store.read(layout.uri(layout.report_path)) or b'null')
    if report is None:
        return ['no report']
    found = verify(str(output))
    if report['counts']['labeled'] not in {len(uris) for uris in uris_of}:
        found.append(f'{report["counts"]["labeled"]} rows')
    return found
