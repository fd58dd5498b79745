"""What interrupted runs leave, who goes on with it, and `lemmabeam clean`."""

import datetime
import json

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline import clean, report
from pipeline.main import main
from pipeline.verify import verify
from tests import without_model
from tests.support import label, make_config
from transforms import finished, frozen, load, work
from transforms.errors import StoreError, UsageError
from transforms.layout import Layout
from transforms.model import handler
from transforms.publish import publish
from transforms.rows import Chunk, Item, Ref, WrittenFile
from transforms.storage import store_for
from transforms.storage_local import LocalStore


@pytest.fixture(autouse=True)
def no_decoder(stand_in_model, monkeypatch):
    """Neither what is in a file nor what the model sees in it is looked at here."""
    monkeypatch.setattr(load.Loader, '_decode', without_model.decode)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'in').mkdir()
    for i in range(64):
        (tmp_path / f'in/{i:02d}.jpg').write_bytes(b'%d' % i)
    return tmp_path / 'in'


class CrashError(Exception):
    """In place of a crash."""


@pytest.fixture
def crash(monkeypatch):
    """Runs until so many batches have been labelled, and is gone then."""

    def run(batches, *arguments):
        predict = handler.predict_or_rescue
        left = [batches]

        def stop(*args):
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            return predict(*args)

        with monkeypatch.context() as patch:
            patch.setattr(handler, 'predict_or_rescue', stop)
            with pytest.raises(Exception, match='CrashError'):
                label(*arguments)

    return run


@pytest.fixture
def paid(monkeypatch):
    """How many images each call of the model had."""
    found = []
    predict = handler.predict_or_rescue

    def counted(predictor, pixels, slots):
        found.append(len(slots))
        return predict(predictor, pixels, slots)

    monkeypatch.setattr(handler, 'predict_or_rescue', counted)
    return found


def arguments_for(folder, *more):
    output = folder.parent / 'out'
    common = ('--input', folder, '--output', output, '--chunk_size', '8', '--batch_size', '8')
    return (*common, *more)


def work_of(folder):
    return sorted(
        path.relative_to(folder.parent / 'out').as_posix()
        for path in (folder.parent / 'out/_work').glob('**/*')
        if path.is_file()
    )


def only_run(folder):
    (path,) = (folder.parent / 'out').glob('runs/*/report.json')
    return json.loads(path.read_text())


def test_the_same_options_go_on_under_the_same_id_and_nothing_is_left(folder, crash, paid, capsys):
    crash(3, *arguments_for(folder))
    (begun,) = (path for path in work_of(folder) if path.endswith('run.json'))
    chunks = len([path for path in work_of(folder) if '/chunks/' in path])
    assert chunks >= 2
    paid.clear()
    report = label(*arguments_for(folder, '--loader_threads', '3', '--fetch_deadline_sec', '9'))
    assert report['run_id'] == begun.split('/')[1]
    assert report['counts']['labeled'] == 64
    assert sum(paid) == 64 - report['labeled_by_earlier_attempts'] < 64
    assert f'going on with run {report["run_id"]}, begun' in capsys.readouterr().err
    assert work_of(folder) == []
    assert verify(str(folder.parent / 'out')) == []


def test_the_listing_stays_what_it_was_until_it_is_asked_for_anew(folder, crash, paid):
    crash(2, *arguments_for(folder))
    (folder / 'new.jpg').write_bytes(b'new')
    (folder / '00.jpg').unlink()
    crash(1, *arguments_for(folder))
    assert len([path for path in work_of(folder) if '/chunks/' in path]) >= 2
    report = label(*arguments_for(folder))
    assert report['counts']['listed'] == 64
    assert report['counts']['dead_lettered_by_reason'].get('not_found', 0) <= 1

    (folder / '01.jpg').write_bytes(b'changed')
    crash(0, *arguments_for(folder))
    (folder / 'newer.jpg').write_bytes(b'newer')
    report = label(*arguments_for(folder, '--relist'))
    assert report['counts']['listed'] == 65
    assert report['sequence'] == 2


def test_a_relisted_run_pays_only_for_chunks_that_are_others(folder, crash, paid):
    crash(4, *arguments_for(folder))
    done = len([path for path in work_of(folder) if '/chunks/' in path])
    paid.clear()
    report = label(*arguments_for(folder, '--relist'))
    assert report['labeled_by_earlier_attempts'] > 0
    assert sum(paid) < 64
    assert done


def test_other_options_start_another_run_and_the_old_one_is_named(folder, crash, capsys):
    crash(2, *arguments_for(folder, '--run_id', 'old'))
    report = label(*arguments_for(folder, '--threshold', '0.5'))
    assert report['run_id'] != 'old'
    error = capsys.readouterr().err
    assert 'lemmabeam: run old, begun' in error
    assert 'seconds ago (' in error
    assert 'finished chunk' in error
    assert 'MB), had other options (keep_above 0.05, now 0.5; threshold 0.05, now 0.5)' in error
    assert any('/old/chunks/' in path for path in work_of(folder))
    # Its id is not given to something else.
    with pytest.raises(UsageError, match='--run_id old: this run was begun with other options'):
        label(*arguments_for(folder, '--threshold', '0.5', '--run_id', 'old'))


@pytest.mark.slow
def test_a_run_that_ends_after_one_begun_later_is_older_all_the_same(folder, crash):
    """Its listing is the older one; and nothing is paid for the difference."""
    output = folder.parent / 'out'
    crash(7, *arguments_for(folder, '--run_id', 'night-1'))
    changed = folder / '01.jpg'
    changed.write_bytes(b'changed')
    reports = [
        label(*arguments_for(folder, '--run_id', 'night-2', '--retry_dead')),
        label(*arguments_for(folder, '--run_id', 'night-1')),
    ]
    assert [report['sequence'] for report in reports] == [2, 1]
    found = duckdb.sql((output / 'latest.sql').read_text()).select('uri, object_version').fetchall()
    info = changed.stat()
    assert dict(found)[str(changed)] == f'{info.st_size}-{info.st_mtime_ns}'
    assert label(*arguments_for(folder))['counts']['labeled'] == 0


def test_a_clock_that_went_back(folder, crash, capsys):
    crash(2, *arguments_for(folder, '--run_id', 'old'))
    path = folder.parent / 'out/_work/old/run.json'
    begun = json.loads(path.read_text())
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    path.write_text(json.dumps({**begun, 'started_at': later.isoformat()}))
    label(*arguments_for(folder))
    assert f'going on with run old, begun at {later.isoformat()}' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('{"format": 2, "anything": 1}', 'format 2 of its work, this one has 1'),
        ('{"format": 1, "started', 'is damaged'),
    ],
)
def test_work_of_another_version_or_half_written(folder, crash, capsys, content, said):
    crash(2, *arguments_for(folder, '--run_id', 'old'))
    path = folder.parent / 'out/_work/old/run.json'
    path.write_text(content)
    with pytest.raises((UsageError, StoreError), match=said):
        label(*arguments_for(folder, '--run_id', 'old'))
    before = [each for each in work_of(folder) if '/old/' in each]
    assert label(*arguments_for(folder))['counts']['labeled'] == 64
    error = capsys.readouterr().err
    assert said in error
    assert 'it is left alone (' in error
    assert work_of(folder) == before


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'{"format": 1}', b'null', b'\xff'])
def test_how_a_run_was_begun_may_be_damaged(tmp_path, content):
    layout = Layout(str(tmp_path), 'old', 'model', (), (), 1)
    layout.store.write(layout.uri('_work/old/run.json'), content)
    with pytest.raises(
        StoreError, match=r'run\.json is damaged, so run old cannot be gone on with'
    ):
        work.begun(layout)


def test_a_frozen_listing_that_is_damaged(folder, crash):
    crash(2, *arguments_for(folder))
    (part,) = folder.parent.glob('out/_work/*/listing/*.arrow')
    data = part.read_bytes()
    (index,) = folder.parent.glob('out/_work/*/listing/*.json')
    for path, content in ((part, data[:-30]), (part, b''), (index, b'{"parts": [')):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(Exception, match=f'{path}, of the listing.* --relist lists the inputs'):
            label(*arguments_for(folder))
        path.write_bytes(kept)
    part.unlink()
    assert label(*arguments_for(folder, '--relist'))['counts']['labeled'] == 64


def test_a_finished_chunk_that_is_damaged_is_worked_again(folder, crash, paid):
    crash(6, *arguments_for(folder))
    chunks = sorted(folder.parent.glob('out/_work/*/chunks/*.arrow'))
    assert len(chunks) >= 3
    chunks[0].write_bytes(chunks[0].read_bytes()[:-50])
    chunks[1].write_bytes(b'')
    chunks[2].write_bytes(chunks[3].read_bytes() if len(chunks) > 3 else b'ARROW1')
    report = label(*arguments_for(folder))
    assert report['counts']['labeled'] == 64
    assert verify(str(folder.parent / 'out')) == []


def test_chunks_of_a_run_of_which_the_options_are_lost_are_not_used(folder, crash, paid):
    crash(3, *arguments_for(folder, '--run_id', 'night-1', '--max_labels', '1'))
    # As a `clean` that was killed may leave it.
    (folder.parent / 'out/_work/night-1/run.json').unlink()
    paid.clear()
    label(*arguments_for(folder, '--run_id', 'night-1'))
    assert sum(paid) == 64


def test_of_two_that_finish_a_chunk_the_first_one_counts(tmp_path):
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    chunk = Chunk('0123456789abcdef', [Item('/a.jpg', '1', 5, ['[]'])])
    ours, theirs = (_rows_of_chunk(chunk, score) for score in (0.25, 0.5))
    assert finished.find(layout, chunk) is None
    assert finished.keep(layout, chunk, ours) == ours
    assert finished.keep(layout, chunk, theirs) == ours
    assert finished.find(layout, chunk) == ours


def _rows_of_chunk(chunk, score):
    import numpy as np

    from transforms import outcomes
    from transforms.rows import Image, LabeledBatch

    image = Image('1', 'ab', 10, 10, 'JPEG', 5)
    scores = np.full((1, 1), score, np.float32)
    batch = LabeledBatch(
        chunk, 0, [image], np.zeros((1, 1), np.int32), scores, np.ones(1, np.int32), None, {}, ''
    )
    return outcomes.to_ipc(outcomes.outcome_table([batch]))


def read_all(layout, listing):
    return [ref for part in listing.parts for ref in frozen.read_part(layout, *part)]


def test_of_two_listings_the_first_one_counts_for_both(tmp_path):
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    refs = [Ref(f'/{i}', '1', 5, '[]', '', '', 'https://u:p@h/') for i in range(3)]
    first = frozen.freeze(layout, 0, [*refs, 'skipped_not_image'])
    second = frozen.freeze(layout, 0, refs[:1])
    assert first == second == frozen.find(layout, 0)
    assert read_all(layout, second) == [ref._replace(access='') for ref in refs]
    assert first.left_out == {'skipped_not_image': 1}
    assert first.is_signed
    assert frozen.find(layout, 1) is None


def test_a_listing_of_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, '_PART_REFS', 2)
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    refs = [Ref(f'/{i}', '', -1, '["ä"]', 'bad_uri', 'why') for i in range(5)]
    found = frozen.freeze(layout, 0, refs)
    assert len(found.parts) == 3
    assert read_all(layout, found) == refs
    assert not found.is_signed


class TestClean:
    def test_it_removes_what_incomplete_runs_left_and_nothing_else(self, folder, crash, capsys):
        output = folder.parent / 'out'
        label(*arguments_for(folder, '--run_id', 'night-1'))
        (folder / '01.jpg').write_bytes(b'changed')
        crash(0, *arguments_for(folder, '--run_id', 'night-2'))
        crash(0, *arguments_for(folder, '--run_id', 'night-3', '--force'))
        # Neither of them is ours.
        notes = [output / '_work/night-2/notes.txt', output / '_work/mine/chunks/a.arrow']
        for note in notes:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text('keep me')
        before = set(work_of(folder))
        assert main(['clean', str(output), '--dry_run']) == 0
        assert set(work_of(folder)) == before
        assert 'would remove the work of run night-2, incomplete: ' in capsys.readouterr().out
        assert main(['clean', str(output), '--run_id', 'night-3']) == 0
        assert capsys.readouterr().out.startswith('removed the work of run night-3, incomplete: ')
        assert not (output / '_work/night-3').exists()
        assert main(['clean', str(output)]) == 0
        assert [output / path for path in work_of(folder)] == sorted(notes)
        assert verify(str(output)) == []
        assert main(['clean', str(output)]) == 0
        assert capsys.readouterr().out.endswith('nothing to remove\n')

    def test_it_removes_what_was_half_published(self, folder, crash):
        output = folder.parent / 'out'
        label(*arguments_for(folder, '--run_id', 'night-1'))
        (folder / '01.jpg').write_bytes(b'changed')
        crash(0, *arguments_for(folder, '--run_id', 'night-2'))
        (complete,) = output.glob('predictions/*/run=night-1')
        half = complete.with_name('run=night-2')
        half.mkdir()
        (half / 'part-00000-of-00001.parquet').write_bytes(b'PAR1')
        assert main(['clean', str(output)]) == 0
        assert complete.exists()
        assert not half.exists()
        assert verify(str(output)) == []

    def test_work_of_another_version_is_removed_too(self, folder, crash):
        output = folder.parent / 'out'
        crash(0, *arguments_for(folder, '--run_id', 'old'))
        (output / '_work/old/run.json').write_text('{"format": 2}')
        assert main(['clean', str(output)]) == 0
        assert work_of(folder) == []

    def test_what_it_refuses(self, folder, crash, capsys):
        output = folder.parent / 'out'
        crash(0, *arguments_for(folder, '--run_id', 'old'))
        assert main(['clean', str(output), '--run_id', 'other']) == 2
        assert 'there is: old' in capsys.readouterr().err
        assert main(['clean', str(folder.parent / 'nothing')]) == 2
        (output / '_work/_lease.json').write_text('{"run_id": "old", "pid": 1}')
        assert main(['clean', str(output)]) == 2
        assert 'run old is writing there' in capsys.readouterr().err
        assert main(['clean', str(output), '--break_lease']) == 0

    def test_in_a_bucket(self, bucket, folder, capsys):
        output = bucket.uri('out')
        bucket.put('out/_work/night-1/run.json', b'{"format": 1}')
        bucket.put('out/_work/night-1/chunks/0123456789abcdef.arrow', b'x')
        bucket.put('out/_work/night-1/probe-0123456789ab', b'')
        kept = bucket.put('out/_work/night-1/chunks/notes.txt', b'x')
        assert main(['clean', output]) == 0
        assert '1 finished chunk, 0.0 MB' in capsys.readouterr().out
        assert [entry.uri for entry in store_for(output).list(output)] == [kept]


def test_thirty_thousand_small_files_are_looked_through_at_once(folder, crash):
    """Bounded by what a listing takes, not by a request a file."""
    output = folder.parent / 'out'
    crash(0, *arguments_for(folder, '--run_id', 'old'))
    chunks = output / '_work/old/chunks'
    chunks.mkdir(exist_ok=True)
    for i in range(30_000):
        (chunks / f'{i:016x}.arrow').touch()
    assert label(*arguments_for(folder))['counts']['labeled'] == 64
    assert work_of(folder) == []


def dataset_of_two_runs(folder):
    """Two runs, the second of one changed image and one that is too large."""
    output = folder.parent / 'out'
    label(*arguments_for(folder, '--run_id', 'night-1', '--max_bytes', '100'))
    (folder / '01.jpg').write_bytes(b'changed')
    (folder / '02.jpg').write_bytes(bytes(200))
    label(*arguments_for(folder, '--run_id', 'night-2', '--max_bytes', '100'))
    assert verify(str(output)) == []
    return output


class TestForget:
    def test_an_image_is_in_no_file_afterwards(self, folder, capsys):
        output = dataset_of_two_runs(folder)
        (output / 'runs/night-1/report.html').write_text('a picture')
        for name, rows in (('01.jpg', [1, 1]), ('02.jpg', [1, 1]), ('03.jpg', [1])):
            assert main(['clean', str(output), '--forget', str(folder / name)]) == 0
            said = capsys.readouterr().out.splitlines()
            assert said == [
                f'removed {folder / name} from run night-{i}: {n} rows'
                for i, n in enumerate(rows, 1)
            ]
            assert verify(str(output)) == []
        for path in output.glob('**/*.parquet'):
            found = pq.read_table(path)
            assert not {'01.jpg', '02.jpg', '03.jpg'} & {
                uri.rpartition('/')[2] for uri in found.to_pydict().get('uri', [])
            }
        assert not (output / 'runs/night-1/report.html').exists()
        counts = json.loads((output / 'runs/night-2/report.json').read_text())['counts']
        assert counts['forgotten'] == 2
        assert counts['dead_lettered_by_reason'] == {}
        # It is labelled again, if it is still there.
        assert label(*arguments_for(folder, '--max_bytes', '100'))['counts']['unchanged'] == 61

    def test_one_that_was_interrupted_is_gone_on_with(self, folder, monkeypatch):
        output = dataset_of_two_runs(folder)
        uri = str(folder / '01.jpg')
        write = LocalStore.write

        def stop(store, path, data):
            if path.endswith('.parquet'):
                raise StoreError('stopped for a test')
            write(store, path, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, 'write', stop)
            assert main(['clean', str(output), '--forget', uri]) == 1
        assert verify(str(output)) != []
        assert main(['clean', str(output), '--forget', uri]) == 0
        assert verify(str(output)) == []

    def test_what_it_does_not_find(self, folder, capsys):
        output = dataset_of_two_runs(folder)
        before = {path: path.read_bytes() for path in output.glob('**/*') if path.is_file()}
        assert main(['clean', str(output), '--forget', '/nowhere.jpg']) == 0
        assert '/nowhere.jpg is in no complete run' in capsys.readouterr().out
        assert main(['clean', str(output), '--forget', str(folder / '01.jpg'), '--dry_run']) == 0
        assert main(['clean', str(output), '--forget', 'x', '--run_id', 'night-1']) == 2
        assert before == {path: path.read_bytes() for path in before}


class TestPrune:
    def test_runs_whose_rows_are_superseded_go(self, folder, capsys):
        output = dataset_of_two_runs(folder)
        newest = duckdb.sql((output / 'latest.sql').read_text()).order('uri').fetchall()
        assert main(['clean', str(output), '--prune_before', 'night-2']) == 2
        error = capsys.readouterr().err
        assert '63 rows of run night-1 are the newest of their image; `lemmabeam relabel' in error
        assert main(['relabel', '--output', str(output), '--run_id', 'all']) == 0
        assert main(['clean', str(output), '--prune_before', 'all', '--dry_run']) == 0
        assert (output / 'runs/night-1').exists()
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert 'removed run night-1, 64 rows' in capsys.readouterr().out
        assert [path.name for path in output.glob('runs/*')] == ['all']
        assert [path.name for path in output.glob('predictions/*/*')] == ['run=all']
        assert verify(str(output)) == []
        left = duckdb.sql((output / 'latest.sql').read_text()).order('uri').fetchall()
        assert [row[:-1] for row in left] == [row[:-1] for row in newest]
        # Rows of another floor would mean something else, also beside a copy.
        with pytest.raises(UsageError, match=r'stored_floor is 0\.5, but 0\.05 in run all'):
            label(*arguments_for(folder, '--max_bytes', '100', '--threshold', '0.5'))
        # Nothing is paid again, and what is gone is still told.
        (folder / '05.jpg').unlink()
        counts = label(*arguments_for(folder, '--max_bytes', '100'))['counts']
        assert (counts['unchanged'], counts['labeled'], counts['gone']) == (62, 0, 1)

    @pytest.mark.parametrize(
        'calls', [0, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))]
    )
    def test_one_that_was_interrupted_is_gone_on_with(self, folder, monkeypatch, calls):
        output = dataset_of_two_runs(folder)
        assert main(['relabel', '--output', str(output), '--run_id', 'all']) == 0
        left = [calls]

        def stopping(remove):
            def run(*args):
                left[0] -= 1
                if left[0] < 0:
                    raise StoreError('stopped for a test')
                remove(*args)

            return run

        with monkeypatch.context() as patch:
            patch.setattr(clean, 'remove_tree', stopping(clean.remove_tree))
            patch.setattr(clean, 'clean_up', stopping(clean.clean_up))
            assert main(['clean', str(output), '--prune_before', 'all']) == 1
        assert all('latest.sql' in problem for problem in verify(str(output)))
        # Meanwhile the next night need not wait for it.
        counts = label(*arguments_for(folder, '--max_bytes', '100', '--run_id', 'next'))['counts']
        assert (counts['unchanged'] >= 63, counts['labeled']) == (True, 0)
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert {path.name for path in output.glob('runs/*')} == {'all', 'next'}
        assert {path.name for path in output.glob('predictions/*/*')} == {'run=all', 'run=next'}
        assert verify(str(output)) == []
        assert work_of(folder) == []

    def test_what_lies_beside_a_report_is_not_ours(self, folder):
        output = dataset_of_two_runs(folder)
        assert main(['relabel', '--output', str(output), '--run_id', 'all']) == 0
        notes = output / 'runs/night-1/notes.txt'
        notes.write_text('of somebody')
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert list(output.glob('runs/night-*/*')) == [notes]

    def test_what_it_refuses(self, folder, capsys):
        output = dataset_of_two_runs(folder)
        assert main(['clean', str(output), '--prune_before', 'other']) == 2
        assert 'no complete run of this id' in capsys.readouterr().err
        assert main(['clean', str(output), '--prune_before', 'night-1']) == 0
        assert verify(str(output)) == []


class TestVerify:
    @pytest.mark.parametrize('step', ['publish', 'clean_up'])
    def test_a_first_run_that_was_stopped_in_its_last_step(self, folder, monkeypatch, capsys, step):
        output = folder.parent / 'out'
        original = getattr(report, step)

        def stopped(*args):
            if step == 'publish':
                original(*args)
            raise CrashError

        monkeypatch.setattr(report, step, stopped)
        with pytest.raises(Exception, match='CrashError'):
            label(*arguments_for(folder, '--run_id', 'night-1'))
        assert main(['verify', str(output)]) == 0
        said = {'publish': 'or was interrupted (', 'clean_up': 'its work is still there ('}
        assert said[step] in capsys.readouterr().out
        monkeypatch.undo()
        assert main(['clean', str(output)]) == 0
        assert verify(str(output)) == []

    def test_runs_under_way_are_noted_and_no_fault(self, folder, crash, capsys):
        output = dataset_of_two_runs(folder)
        (folder / '07.jpg').write_bytes(b'changed, too')
        crash(0, *arguments_for(folder, '--run_id', 'night-3'))
        half = next(output.glob('predictions/*')) / 'run=night-3/part-00000-of-00001.parquet'
        half.parent.mkdir()
        half.write_bytes(b'PAR1')
        capsys.readouterr()
        assert main(['verify', str(output)]) == 0
        said = capsys.readouterr().out
        assert said.startswith('note: run night-3 is under way, or was interrupted (0 finished')
        assert said.endswith('whole and consistent\n')

    def test_the_latest_view(self, folder, tmp_path, capsys):
        output = dataset_of_two_runs(folder)
        query = output / 'latest.sql'
        text = query.read_text()
        for damaged in (text.replace('night-2', 'night-9'), '', text[:-20]):
            query.write_text(damaged)
            assert main(['verify', str(output)]) == 1
            assert 'latest.sql: is ' in capsys.readouterr().out
        assert main(['clean', str(output)]) == 0
        assert query.read_text() == text
        moved = output.rename(tmp_path / 'moved')
        assert main(['verify', str(moved)]) == 0
        assert 'note: latest.sql names another place' in capsys.readouterr().out
        assert main(['clean', str(moved)]) == 0
        assert main(['verify', str(moved)]) == 0
        assert 'note' not in capsys.readouterr().out


def test_what_a_kill_left_in_the_last_steps_is_tidied_up(folder, capsys):
    """Killed behind its report, a run is complete; what it could not do is done by the next."""
    output = dataset_of_two_runs(folder)
    left = [
        output / '_work/night-2/chunks/0123456789abcdef.arrow',
        output / '.latest.sql.0a1b2c3d.tmp',
        output / 'runs/night-2/.report.json.0a1b2c3d.tmp',
    ]
    mine = output / 'runs/.notes.0a1b2c3d.tmp'
    query = (output / 'latest.sql').read_text()
    for path in [*left, mine]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x')
    (output / 'latest.sql').write_text(query.replace('night-2', 'night-0'))
    with pytest.raises(UsageError, match='--run_id night-2: this run is complete'):
        label(*arguments_for(folder, '--run_id', 'night-2', '--max_bytes', '100'))
    assert not any(path.exists() for path in left)
    assert mine.exists()
    mine.unlink()
    assert (output / 'latest.sql').read_text() == query
    assert verify(str(output)) == []


def test_a_second_attempt_leaves_what_a_first_one_has_published(folder):
    output = folder.parent / 'out'
    report = label(*arguments_for(folder, '--run_id', 'night-1'))
    config, _ = make_config(*arguments_for(folder, '--run_id', 'night-1'))
    staged = output / '_work/night-1/staged'
    # The first one has removed what the second had staged, but for folders.
    (staged / config.layout.run_folder('predictions')).mkdir(parents=True)
    files = [WrittenFile(**file) for file in report['files']]
    publish(config.layout, files, config.inference.model.vocabulary)
    assert verify(str(output)) == []
