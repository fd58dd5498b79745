"""Two attempts at one run: whatever comes between, the report lists what is there.

Attempts are held up, killed or stopped by an error before each step of theirs, in turn.  What is
not checked here: real processes at once (test_races).
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import attempts
from tests.support.attempts import KilledError, attempt, faults, layout_of, publish_files, stage
from transforms.core.errors import StoreError
from transforms.runs import publish
from transforms.runs.report import RunReport
from transforms.storage.registry import store_for

A = [f'/a/{i}.jpg' for i in range(5)]
# Another attempt may find one image gone.
B = A[:4]


def outputs(request, tmp_path) -> Callable[[], str]:
    """Gives an output that nobody has used."""
    made = iter(range(1000))
    top = tmp_path if request.param == 'local' else request.getfixturevalue(request.param).uri('o')
    return lambda: f'{top}/{next(made)}'


@pytest.fixture(params=['local', 'bucket', 's3_bucket', 'container'])
def fresh(request, tmp_path) -> Callable[[], str]:
    return outputs(request, tmp_path)


# Some thirty outputs a test: over HTTP, it takes many seconds.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ('bucket', 's3_bucket', 'container')]


@pytest.fixture(params=['local', *SLOW])
def many(request, tmp_path) -> Callable[[], str]:
    return outputs(request, tmp_path)


@pytest.fixture(autouse=True)
def watched_renames(monkeypatch):
    """Local folders are renamed past the store."""
    rename = publish._rename

    def watched(layout, kind):
        layout.before('rename')
        rename(layout, kind)

    monkeypatch.setattr(publish, '_rename', watched)


def at(step: int, deed: Callable[[], Any]) -> Callable[[str], None]:
    """Does something before the step of this number."""
    steps = iter(range(10**6))

    def before(_: str) -> None:
        if next(steps) == step:
            deed()

    return before


def steps_of(output: str, uris: list[str]) -> int:
    """How many steps an attempt takes, with nobody beside it."""
    taken: list[str] = []
    attempt(layout_of(output, 'a', taken.append), uris)
    return len(taken)


def killed() -> None:
    raise KilledError


def failed() -> None:
    raise StoreError('the store is gone')


# Ten seconds each; of other rows all goes wrong that does of the same.
BY_ANOTHER = pytest.mark.parametrize(
    'theirs', [pytest.param(A, id='same', marks=pytest.mark.slow), pytest.param(B, id='other')]
)


@BY_ANOTHER
def test_held_up_while_another_one_is_faster(many, theirs):
    for step in range(steps_of(many(), A)):
        output = many()
        said = []
        other = lambda output=output, said=said: said.append(  # noqa: E731
            attempt(layout_of(output, 'b'), theirs)
        )
        said.append(attempt(layout_of(output, 'a', at(step, other)), A))
        assert faults(output, [A, theirs]) == [], step
        written = store_for(output).read(f'{output}/runs/night-1/report.json')
        files = RunReport.from_json(json.loads(written)).files
        assert all(each.files == files for each in said), step


@BY_ANOTHER
# Of a killed run that goes on, some steps are tried by tests.system.test_kills in any case.
@pytest.mark.slow
@pytest.mark.parametrize('end', [killed, failed])
def test_ended_and_another_one_goes_on(many, theirs, end):
    for step in range(steps_of(many(), A)):
        output = many()
        layout = layout_of(output, 'a', at(step, end))
        with pytest.raises((KilledError, StoreError)):
            attempt(layout, A)
        if end is failed:
            publish.discard(layout_of(output, 'a'))
        report = attempt(layout_of(output, 'b'), theirs)
        assert faults(output, [A, theirs]) == [], step
        assert report.balanced
        assert not [
            entry.uri for entry in store_for(output).list(output) if '/_work/' in entry.uri
        ], step


def test_a_step_that_is_done_twice(fresh):
    output = fresh()
    layout = layout_of(output, 'a')
    files = stage(layout, A)
    assert stage(layout, A) != []  # an engine does this one again, too
    first = publish_files(layout, files)
    assert publish_files(layout, files) == first
    assert faults(output, [A]) == []


def test_what_lay_there_before_is_replaced_and_removed(fresh):
    """As an earlier version left it, which was killed while it published."""
    output = fresh()
    store = store_for(output)
    folder = f'{output}/predictions/model={attempts.datasets.MODEL}/run={attempts.RUN}'
    for name in ('part-00000-of-00004.parquet', 'part-00002-of-00007.parquet', '.x.tmp'):
        store.write(f'{folder}/{name}', b'half a file')
    attempt(layout_of(output, 'a'), A)
    assert faults(output, [A]) == []


def test_a_damaged_commit_decides_nothing(fresh):
    output = fresh()
    layout = layout_of(output, 'a')
    for data in (b'', b'{"attempt": "x"', b'[]', b'{"attempt": "x", "report": {}}', b'null'):
        layout.store.write(layout.uri(layout.commit_path), data)
        publish.discard(layout)
    attempt(layout, A)
    assert faults(output, [A]) == []


def test_two_files_of_one_name_are_never_one(fresh):
    layout = layout_of(fresh(), 'a')
    stage(layout, A[:1])
    with pytest.raises(StoreError, match='already exists, with other rows'):
        stage(layout, B[1:2])


def test_rows_that_do_not_lie_there_are_missed(fresh):
    """A file is replaced by another one behind the writer's back."""
    output = fresh()
    layout = layout_of(output, 'a')
    files = stage(layout, A)
    longest = max(files, key=lambda file: file.rows)
    empty = min(files, key=lambda file: file.rows)
    data = layout.store.read(layout.staged_uri(empty.path))
    layout.store.write(layout.staged_uri(longest.path), data)
    lost = longest.rows - empty.rows
    assert lost
    with pytest.raises(publish.BooksError, match=f'{longest.path} with {empty.rows} instead of'):
        publish_files(layout, files)
    report = json.loads(layout.store.read(layout.uri(layout.report_path)))
    assert not report['balanced']
    with pytest.raises(publish.BooksError):  # a step that is done twice fails twice
        publish_files(layout, files)


@pytest.mark.parametrize('counts', [{'labeled': 6}, {'dead_lettered': 1}])
def test_counts_are_held_against_the_files(fresh, monkeypatch, counts):
    made = attempts.datasets.report_of

    def report_of(*args):
        report = made(*args)
        return dataclasses.replace(report, counts=dataclasses.replace(report.counts, **counts))

    monkeypatch.setattr(attempts.datasets, 'report_of', report_of)
    with pytest.raises(publish.BooksError, match='do not balance'):
        attempt(layout_of(fresh(), 'a'), A)


def test_a_file_that_cannot_be_read_back_is_named(fresh):
    layout = layout_of(fresh(), 'a')
    files = stage(layout, A)
    layout.store.write(layout.staged_uri(files[0].path), b'PAR1')
    with pytest.raises(StoreError, match='cannot be read back as Parquet'):
        publish_files(layout, files)
    assert layout.store.read(layout.uri(layout.report_path)) is None
