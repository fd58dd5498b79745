"""Whatever a kill leaves behind, at whichever step: the same command or `clean` removes it.

And until then `verify` cries no wolf where only a publication was interrupted.
"""

import itertools
import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline.main import main
from tests.support.datasets import MODEL, Row, add_run
from tests.support.kills import Killed, killed_behind
from transforms.core.elements import DeadLetter
from transforms.dataset.forget import forget as find_and_forget
from transforms.dataset.forget import is_pending
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.verify import notes, verify
from transforms.output.results import carried_text
from transforms.runs.complete import complete_runs
from transforms.storage.registry import store_for
from transforms.storage.s3 import S3Store

COLUMNS = {'carry': ('split',), 'partition_by': ('split',), 'rows_per_file': 4}
URI = '/in/1.jpg'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole') / 'out'
    rows = [Row(f'/in/{i}.jpg', [(i, 0.5)], ['test' if i % 3 else 'train']) for i in range(6)]
    failed = [DeadLetter(URI, 'decode', 'truncated', 'ends', 5, carried_text(['moon']), 'v')]
    add_run(folder, 'a', rows[:3], **COLUMNS)
    add_run(folder, 'b', rows, failed=failed, **COLUMNS)
    write_latest_sql(str(folder), store_for(str(folder)))
    assert verify(str(folder)) == notes(str(folder)) == []
    return folder


def files_of(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()
    )


# Some steps; in the slow tier all of them, twice: of two commands that must mend it, one has the
# even steps and the other the odd ones.
@pytest.fixture(
    params=[(11, 0), *(pytest.param((1, turn), marks=pytest.mark.slow) for turn in (0, 1))],
    ids='{0[0]}-{0[1]}'.format,
)
def each_kill(request, tmp_path):
    """Kills a command at its steps, each time in a copy of a dataset; yields what it leaves, and
    which of those that must mend it has its turn.
    """
    stride, turn = request.param

    def kill(dataset, command, *mends):
        for step in itertools.count(0, stride):
            root = tmp_path / f'{step}'
            shutil.copytree(dataset, root / 'out')
            write_latest_sql(str(root / 'out'), store_for(str(root)))
            with killed_behind(step, root) as steps:
                assert command(root / 'out') == 0
            yield root / 'out', mends[(step + turn) % len(mends)]
            shutil.rmtree(root)
            if not steps.was_killed:
                break

    return kill


def clean(folder, *arguments):
    # The process that was killed is this one; nobody else would need to say that it is gone.
    return main(['clean', str(folder), '--break_lease', *arguments])


def relabel(folder):
    return main(
        ['relabel', '--output', str(folder), '--run_id', 'r', '--threshold', '0.2', '--break_lease']
    )


def forget(folder):
    return clean(folder, '--forget', URI)


def knows(folder):
    """Whether a run knows of the image, or may not have forgotten it altogether."""
    store = store_for(str(folder))
    runs = complete_runs(str(folder), store)
    is_half = any(is_pending(run.report) for run in runs)
    return is_half or bool(find_and_forget(str(folder), store, URI, is_dry_run=True))


def prune(folder):
    return clean(folder, '--prune_before', 'b')


def check_whole(folder):
    assert verify(str(folder)) == notes(str(folder)) == []
    assert not [path for path in files_of(folder) if path.endswith('.tmp')]
    assert not (folder / '_work').exists()
    # Whoever reads by a pattern sees every row once a run.
    pattern = f'{folder}/predictions/**/*.parquet'
    query = f"select count(*) from read_parquet('{pattern}') group by uri, run, split"
    assert {count for (count,) in duckdb.sql(query).fetchall()} == {1}


def test_a_publication(whole, each_kill):
    before = files_of(whole)
    for folder, mend in each_kill(whole, relabel, relabel, clean):
        assert verify(str(folder)) == []
        is_complete = (folder / 'runs/r/report.json').exists()
        assert mend(folder) == (2 if is_complete and mend is relabel else 0)
        if is_complete and mend is relabel:  # its id is taken; what it left goes with any command
            assert clean(folder) == 0
        check_whole(folder)
        assert is_complete or mend is relabel or files_of(folder) == before


def test_forgetting_an_image(whole, each_kill):
    for folder, mend in each_kill(whole, forget, forget, clean):
        # Each file is what it was or what it is to be, and so are the books.
        assert all('latest.sql' in problem for problem in verify(str(folder)))
        # Once it is in no run, and no report is to be corrected, it is one that is nowhere.
        is_done = not knows(folder)
        assert mend(folder) == (2 if is_done and mend is forget else 0)
        check_whole(folder)
        rows = duckdb.sql((folder / 'latest.sql').read_text()).fetchall()
        assert len(rows) == 6 or (len(rows) == 5 and URI not in {row[0] for row in rows})
        assert mend is clean or len(rows) == 5


def test_removing_old_runs(whole, each_kill):
    for folder, mend in each_kill(whole, prune, prune, clean):
        assert all('latest.sql' in problem for problem in verify(str(folder)))
        assert mend(folder) == 0
        check_whole(folder)
        rows = duckdb.sql((folder / 'latest.sql').read_text()).fetchall()
        assert len(rows) == 6
        assert mend is clean or list(folder.glob('runs/*')) == [folder / 'runs/b']


def test_cleaning_up(whole, tmp_path, each_kill):
    """Of a run that has published half of its files, and lost the file that says how it began."""
    half = tmp_path / 'half'
    shutil.copytree(whole, half)
    published = f'predictions/model={MODEL}/run=c'
    shutil.copytree(half / f'predictions/model={MODEL}/run=b', half / published)
    shutil.copytree(half / 'runs/b/dead_versions', half / 'runs/c/dead_versions')
    (half / '_work/c/chunks').mkdir(parents=True)
    (half / '_work/c/chunks/0123456789abcdef.arrow').write_bytes(b'x')
    (half / published / 'split=test/.part-00000-of-00001.parquet.0a1b2c3d.tmp').write_bytes(b'x')
    before = files_of(whole)
    for folder, _ in each_kill(half, clean, clean):
        for problem in verify(str(folder)):
            assert problem.endswith('belongs to no complete run; `lemmabeam clean` removes it')
        assert clean(folder) == 0
        check_whole(folder)
        assert files_of(folder) == before


def test_one_file_of_the_newest_rows(whole, each_kill):
    def latest(folder):
        return main(['latest', str(folder), '--output', str(folder.parent / 'latest.parquet')])

    for folder, _ in each_kill(whole, latest, latest):
        assert latest(folder) == 0
        found = {path.name for path in folder.parent.iterdir()}
        assert found == {'out', 'latest.parquet'}
        assert verify(str(folder)) == []


def test_what_another_process_is_writing_stays(whole, tmp_path):
    import fcntl

    target = tmp_path / 'latest.parquet'
    theirs = tmp_path / '.latest.parquet.0a1b2c3d.tmp'
    others = [tmp_path / '.latest.parquet.notes.tmp', tmp_path / '.other.parquet.0a1b2c3d.tmp']
    for path in others:
        path.touch()
    with theirs.open('wb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(['latest', str(whole), '--output', str(target)]) == 0
        assert theirs.exists()
    assert main(['latest', str(whole), '--output', str(target)]) == 0
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_which_run_is_named_can_be_chosen(whole, tmp_path, capsys):
    folder = tmp_path / 'out'
    shutil.copytree(whole, folder)
    for run_id in 'cd':
        shutil.copytree(folder / 'runs/b/dead_versions', folder / f'runs/{run_id}/dead_versions')
    assert clean(folder, '--dry_run') == 0
    assert 'would remove what run c had half published' in capsys.readouterr().out
    assert clean(folder, '--run_id', 'd') == 0
    assert capsys.readouterr().out == 'removed what run d had half published\n'
    assert [Path(problem).parts[1] for problem in verify(str(folder))] == ['c']


@pytest.mark.slow  # minutes of requests
@pytest.mark.parametrize('command', [relabel, forget, prune])
@pytest.mark.parametrize('turn', [0, 1])
def test_in_a_bucket(whole, s3_bucket, monkeypatch, command, turn):
    """Nothing is renamed there: files are in their place before the report is."""
    left = [0]

    def stopping(change):
        def run(store, *args):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(store, *args)

        return run

    for name in ('write', 'create', 'delete'):
        monkeypatch.setattr(S3Store, name, stopping(getattr(S3Store, name)))
    for step in itertools.count():
        folder = s3_bucket.uri(f'{step}')
        for path in files_of(whole):
            s3_bucket.put(f'{step}/{path}', (whole / path).read_bytes())
        left[0] = 1
        write_latest_sql(folder, store_for(folder))
        left[0] = step
        was_killed = False
        try:
            assert command(folder) == 0
        except Killed:
            was_killed = True
        left[0] = 1000
        problems = verify(folder)
        assert all('latest.sql' in problem for problem in problems)
        assert problems == [] or command is not relabel
        mend = (command, clean)[(step + turn) % 2]
        is_complete = store_for(folder).stat(f'{folder}/runs/r/report.json') is not None
        is_done = is_complete if mend is relabel else mend is forget and not knows(folder)
        assert mend(folder) == (2 if is_done else 0)
        if mend is relabel:
            assert clean(folder) == 0
        assert verify(folder) == notes(folder) == []
        assert not store_for(folder).is_folder(f'{folder}/_work')
        if not was_killed:
            break
