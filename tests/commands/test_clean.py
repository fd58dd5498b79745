"""What interrupted runs leave, who resumes it, and `lemmabeam clean`."""

import datetime
import itertools
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.job import clean, finish
from pipeline.main import main
from tests.support import app, datasets
from tests.support.app import label, stand_in
from tests.support.datasets import add_run, edit_json
from tests.support.kills import killed_behind
from tests.support.states import Place, begin, known_to, settled
from transforms.core.elements import Chunk, Image, Item, LabeledBatch, Ref
from transforms.core.errors import StoreError, UsageError
from transforms.dataset.verify import verify
from transforms.output import results
from transforms.output.layout import Layout
from transforms.runs import checkpoints, in_progress
from transforms.runs import publish as publishing
from transforms.runs.publish import Commit, discard
from transforms.sources import snapshot
from transforms.storage.local import LocalStore
from transforms.storage.registry import store_for
from transforms.storage.sealed import seal, seal_json, unseal

COUNT = 60  # one more is as many buckets, so that most chunks stay the same
COMMON = ('--chunk_size', '8', '--batch_size', '8')


@pytest.fixture(scope='module', autouse=True)
def no_model_and_no_decoder():
    """Neither what is in a file nor what the model sees in it is looked at here."""
    with stand_in(with_decoder=False):
        yield


def write_files(place):
    (place.root / 'in').mkdir()
    for i in range(COUNT):
        (place.root / f'in/{i:02d}.jpg').write_bytes(b'%d' % i)


def interrupt(place):
    """Two attempts at one run: the second resumes what the first has finished."""
    folder = place.at('files') / 'in'
    for attempt in (1, 2):
        crash(3, *arguments_for(folder))
        assert len(chunks_of(folder)) == 3 * attempt


def complete(place):
    """A complete run; what it was before its last step is kept, too."""
    folder = place.at('files') / 'in'
    make, publish = finish.make_report, finish.publish

    def made(*arguments):
        place.last_step = arguments
        return make(*arguments)

    def published(*arguments):
        place.save('staged')
        return publish(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, 'make_report', made)
        patch.setattr(finish, 'publish', published)
        label(*arguments_for(folder, '--run_id', 'night-1', '--max_bytes', '100'))


def complete_two(place):
    """A second run, of one changed image and one that is too large."""
    folder = place.at('one run') / 'in'
    (folder / '01.jpg').write_bytes(b'changed')
    (folder / '02.jpg').write_bytes(bytes(200))
    torn = place.root / 'out/_work/torn/run.json'
    torn.parent.mkdir(parents=True)
    torn.write_text(TORN)
    label(*arguments_for(folder, '--run_id', 'night-2', '--max_bytes', '100'))
    assert torn.read_text() == TORN, 'what is not its own is left alone'
    shutil.rmtree(torn.parent)
    assert verify(str(place.root / 'out')) == []


def copy_all(place):
    """A copy of the newest rows of both, so that these can go."""
    output = place.at('two runs') / 'out'
    assert main(['relabel', '--output', str(output), '--run_id', 'all']) == 0


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    states = {
        'files': write_files,
        'interrupted': interrupt,
        'one run': complete,
        'two runs': complete_two,
        'copied': copy_all,
    }
    return Place(tmp_path_factory.mktemp('clean'), states)


@pytest.fixture
def folder(place):
    """Files that nothing was done with yet."""
    return place.at('files') / 'in'


@pytest.fixture
def interrupted(place):
    """The folder, and the id of the run of it that was interrupted twice."""
    folder = place.at('interrupted') / 'in'
    (begun,) = (path for path in work_of(folder) if path.endswith('run.json'))
    return folder, begun.split('/')[1]


@pytest.fixture
def two_runs(place):
    """The output of two complete runs; beside it, what they were made of."""
    return place.at('two runs') / 'out'


@pytest.fixture
def copied(place):
    """The output of two complete runs, and of a third that holds all of it."""
    return place.at('copied') / 'out'


class CrashError(Exception):
    """In place of a crash."""


def crash(batches, *arguments):
    """Runs until so many batches have been labelled, and is gone then."""
    with app.crashing_behind(batches), pytest.raises(Exception, match='in place of a crash'):
        label(*arguments)


@pytest.fixture
def paid():
    """How many images each call of the model had."""
    found = []
    with app.before_each_call(found.append):
        yield found


def arguments_for(folder, *more):
    return ('--input', folder, '--output', folder.parent / 'out', *COMMON, *more)


def work_of(folder):
    return sorted(
        path.relative_to(folder.parent / 'out').as_posix()
        for path in (folder.parent / 'out/_work').glob('**/*')
        if path.is_file()
    )


def chunks_of(folder):
    return sorted(folder.parent.glob('out/_work/*/chunks/*.arrow'))


def names_in(chunk):
    """Names of the files whose rows a finished chunk has."""
    found = results.from_ipc(unseal(chunk.read_bytes()))['uri'].to_pylist()
    return [uri.rpartition('/')[2] for uri in found]


def test_the_same_options_go_on_under_the_same_id_and_nothing_is_left(interrupted, paid, capsys):
    """What is missing or damaged is worked again; the listing stays what it was."""
    folder, run_id = interrupted
    whole, *damaged = chunks_of(folder)[:4]
    flipped = bytearray(damaged[0].read_bytes())
    flipped[-50] ^= 1
    damaged[0].write_bytes(flipped)
    damaged[1].write_bytes(b'')
    damaged[2].write_bytes(whole.read_bytes())
    kept = [name for path in chunks_of(folder) if path not in damaged for name in names_in(path)]
    assert 0 < len(kept) < COUNT
    missing = next(path for path in sorted(folder.iterdir()) if path.name not in kept)
    missing.unlink()
    (folder / kept[0]).unlink()
    (folder / 'new.jpg').write_bytes(b'new')
    report = label(*arguments_for(folder, '--loader_threads', '3', '--fetch_deadline_sec', '9'))
    assert report['run_id'] == run_id
    assert report['counts']['listed'] == COUNT
    assert report['counts']['labeled'] == COUNT - 1
    assert report['counts']['dead_lettered_by_reason'] == {'not_found': 1}
    assert report['labeled_by_earlier_attempts'] == len(kept)
    assert report['damaged_chunks'] == len(damaged)
    assert sum(paid) == COUNT - 1 - len(kept)
    said = capsys.readouterr().err
    assert f'lemmabeam: resuming run {run_id}, started ' in said
    assert '--relist lists the inputs again' in said
    assert 'seconds ago (6 completed chunks, 0.0 MB)' in said
    assert work_of(folder) == []
    assert verify(str(folder.parent / 'out')) == []


def test_a_relisted_run_pays_only_for_chunks_that_are_others(interrupted, paid):
    """Also where the listing it was begun with is damaged."""
    folder, run_id = interrupted
    (folder / '01.jpg').write_bytes(b'changed')
    (folder / 'newer.jpg').write_bytes(b'newer')
    (part,) = folder.parent.glob('out/_work/*/listing/*.arrow')
    part.unlink()
    report = label(*arguments_for(folder, '--relist'))
    assert (report['run_id'], report['sequence']) == (run_id, 1)
    assert report['counts']['labeled'] == report['counts']['listed'] == COUNT + 1
    assert report['labeled_by_earlier_attempts'] > 0
    assert sum(paid) == COUNT + 1 - report['labeled_by_earlier_attempts']


def test_a_run_that_is_listed_anew_keeps_its_place(place):
    folder = place.at('one run') / 'in'
    begun = begin(*arguments_for(folder, '--run_id', 'night-2'))
    assert begun.sequence == 2
    again = settled(*arguments_for(folder, '--relist'))
    assert (again.layout.run_id, again.sequence) == ('night-2', 2)
    assert not [path for path in work_of(folder) if '/listing/' in path]


def test_what_a_run_takes_into_account_is_decided_when_it_begins(place):
    folder = place.at('one run') / 'in'
    arguments = arguments_for(folder, '--run_id', 'night-2', '--max_bytes', '100')
    assert len(known_to(settled(*arguments))) == COUNT
    path = folder.parent / 'out/_work/night-2/run.json'
    assert json.loads(path.read_text())['earlier'] == ['night-1']
    edit_json(path, lambda begun: begun['earlier'].clear())
    assert settled(*arguments).history == ()


def test_of_several_the_one_begun_last_is_resumed(folder):
    for run_id in ('b', 'c', 'a'):
        begin(*arguments_for(folder, '--run_id', run_id))
    config = settled(*arguments_for(folder))
    assert (config.layout.run_id, config.sequence) == ('a', 3)


def test_what_another_attempt_has_staged_is_left_to_it(interrupted):
    folder, _ = interrupted
    layout = settled(*arguments_for(folder)).layout
    theirs = Path(
        layout.staged_uri(layout.run_folder('predictions')), 'part-00000-of-00001.parquet'
    )
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b'PAR1')
    before = work_of(folder)
    ours = settled(*arguments_for(folder)).layout
    assert ours.attempt != layout.attempt
    discard(ours)
    assert work_of(folder) == before
    discard(layout)
    assert not theirs.exists()


@pytest.mark.parametrize('is_known', [True, False])
def test_a_run_whose_files_are_decided_on_is_not_listed_anew(interrupted, is_known):
    folder, run_id = interrupted
    layout = settled(*arguments_for(folder)).layout
    commit = Commit(layout.attempt, datasets.report_of(layout, [], datasets.metadata_of('m')))
    layout.store.write(layout.uri(layout.commit_path), seal_json(commit.to_json()))
    if not is_known:
        Path(layout.uri(f'{layout.work_folder}/run.json')).unlink()
    before = work_of(folder)
    again = ('--relist',) if is_known else ('--run_id', run_id)
    with pytest.raises(UsageError, match='only its report is missing'):
        settled(*arguments_for(folder, *again))
    assert work_of(folder) == before
    assert main(['clean', str(folder.parent / 'out')]) == 0
    assert not (folder.parent / 'out/_work').exists()


OF_ANOTHER_VERSION = '{"format": 1, "anything": 1}'
TORN = '{"format": 2, "started'


def test_what_cannot_be_resumed_is_named_and_left_alone(interrupted, capsys):
    """Another run starts in its place, and its id is not given to something else."""
    folder, run_id = interrupted
    for name, content in (('older', OF_ANOTHER_VERSION), ('torn', TORN)):
        path = folder.parent / f'out/_work/{name}/run.json'
        path.parent.mkdir()
        path.write_text(content)
    before = work_of(folder)
    config = begin(*arguments_for(folder, '--threshold', '0.5'))
    assert config.layout.run_id not in (run_id, 'older', 'torn')
    assert config.history == ()
    own = f'_work/{config.layout.run_id}/'
    assert [path for path in work_of(folder) if not path.startswith(own)] == before
    assert not [path for path in work_of(folder) if path.startswith(f'{own}chunks/')]
    shutil.rmtree(folder.parent / 'out' / own)
    lines = capsys.readouterr().err.splitlines()
    (other,) = (line for line in lines if f'run {run_id}, started' in line)
    assert other.startswith(f'lemmabeam: run {run_id}, started ')
    assert 'seconds ago (6 completed chunks, ' in other
    assert (
        'MB), was started with other options (keep_above 0.05, now 0.5; threshold 0.05, now 0.5)'
        in other
    )
    saying = {
        run_id: 'this run was started with other options',
        'older': 'its work has format 1, this version uses 2',
        'torn': 'is damaged',
    }
    for name, said in saying.items():
        if name != run_id:
            (line,) = (line for line in lines if f'run {name} ' in line)
            assert said in line
            assert 'it is left alone (0 completed chunks' in line
        with pytest.raises((UsageError, StoreError), match=said):
            settled(*arguments_for(folder, '--threshold', '0.5', '--run_id', name))
    assert work_of(folder) == before


def test_a_run_with_nothing_finished_leaves_nothing(folder, capsys):
    layout = begin(*arguments_for(folder)).layout
    assert work_of(folder) != []
    # Killed before it could tidy up, it is not told to who does something else.
    config = begin(*arguments_for(folder, '--threshold', '0.5'))
    assert config.layout.run_id != layout.run_id
    assert capsys.readouterr().err == ''
    for each in (layout, config.layout):
        assert in_progress.leave_nothing(each)
        assert in_progress.leave_nothing(each)
    assert not any((folder.parent / 'out/_work').iterdir())


def test_an_old_listing_is_told_also_where_nothing_is_finished(folder, capsys):
    settled(*arguments_for(folder))
    config = begin(*arguments_for(folder))
    assert capsys.readouterr().err == '', 'it had no listing before'
    settled(*arguments_for(folder))
    said = capsys.readouterr().err
    assert f'resuming run {config.layout.run_id}, started ' in said
    assert '(0 completed chunks, 0.0 MB), with its original listing (--relist' in said


def test_a_run_with_something_finished_stays(interrupted):
    folder, run_id = interrupted
    before = work_of(folder)
    assert not in_progress.leave_nothing(Layout(str(folder.parent / 'out'), run_id, '', (), (), 1))
    assert work_of(folder) == before


def begun_before(folder, run_id):
    """Work of a run that began before the complete one did, with its options."""
    begin(*arguments_for(folder, '--run_id', run_id, '--max_bytes', '100'))
    path = folder.parent / f'out/_work/{run_id}/run.json'
    edit_json(path, lambda begun: begun.update(sequence=0, earlier=[]))


def test_what_a_later_run_has_done_is_not_resumed(place, capsys):
    """Its rows would be superseded at once; it is paid for only where somebody asks for it."""
    folder = place.at('one run') / 'in'
    begun_before(folder, 'night-0')
    before = work_of(folder)
    config = settled(*arguments_for(folder, '--max_bytes', '100'))
    assert config.layout.run_id != 'night-0'
    assert config.sequence == 2
    assert len(known_to(config)) == COUNT
    said = capsys.readouterr().err
    assert '(0 completed chunks, 0.0 MB), is not resumed: run night-1 started later' in said
    assert set(before) < set(work_of(folder)), 'what `clean` removes'
    config = settled(*arguments_for(folder, '--max_bytes', '100', '--run_id', 'night-0'))
    assert config.sequence == 0
    assert 'run night-1 began later and is complete' in capsys.readouterr().err


@pytest.mark.parametrize(
    'changes',
    [
        {'options': {'sample': 3}},
        {'options': {'since': '7d'}},
        {'command': 'retry'},
        {'command': 'relabel'},
        {'inputs': [{'kind': 'folder', 'uri': '/elsewhere', 'pattern': ''}]},
        {'model': {'id': 'another-00000000', 'vocabulary': 'x'}},
        {'sequence': 0},
    ],
    ids=str,
)
def test_a_later_run_over_something_else_changes_nothing(place, changes, capsys):
    folder = place.at('one run') / 'in'
    begun_before(folder, 'night-0')
    path = folder.parent / 'out/runs/night-1/report.json'

    def change(report):
        report |= changes | {'options': report['options'] | changes.get('options', {})}

    edit_json(path, change)
    config = settled(*arguments_for(folder, '--max_bytes', '100'))
    assert (config.layout.run_id, config.sequence) == ('night-0', 0)
    assert 'began later' not in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_ends_after_one_begun_later_is_older_all_the_same(folder):
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


def test_a_clock_that_went_back(interrupted, capsys):
    folder, run_id = interrupted
    path = folder.parent / f'out/_work/{run_id}/run.json'
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    edit_json(path, lambda begun: begun.update(started_at=later.isoformat()))
    assert settled(*arguments_for(folder)).layout.run_id == run_id
    assert f'resuming run {run_id}, started at {later.isoformat()}' in capsys.readouterr().err


BEGUN = {'format': 2, 'started_at': '', 'sequence': 1, 'earlier': [], 'options': {}}


@pytest.mark.parametrize(
    'content',
    [
        *(b'', b'[]', b'{}', b'{"format": 2}', b'null', b'\xff'),
        seal_json(BEGUN | {'format': '2'}),
        seal_json(BEGUN | {'sequence': '1'}),
        seal_json(BEGUN | {'earlier': 'abc'}),
        seal_json(BEGUN | {'options': []}),
    ],
)
def test_how_a_run_was_begun_may_be_damaged(tmp_path, content):
    layout = Layout(str(tmp_path), 'old', 'model', (), (), 1)
    layout.store.write(layout.uri('_work/old/run.json'), content)
    with pytest.raises(StoreError, match=r'run\.json is damaged, so run old cannot be resumed'):
        in_progress.begun(layout)


def test_a_frozen_listing_that_is_damaged(interrupted):
    folder, _ = interrupted
    (part,) = folder.parent.glob('out/_work/*/listing/*.arrow')
    (index,) = folder.parent.glob('out/_work/*/listing/*.json')
    layout = settled(*arguments_for(folder)).layout
    (name_and_hash,) = snapshot.find(layout, 0).parts
    data = part.read_bytes()
    said = 'part of the snapshot this run started with, is missing or damaged: pass --relist'
    for content in (data[:-30], b'', None):
        part.unlink() if content is None else part.write_bytes(content)
        with pytest.raises(StoreError, match=f'{part}, {said}'):
            list(snapshot.read_part(layout, *name_and_hash))
    for content in (b'{"parts": [', b'[]', b'{"parts": []}'):
        index.write_bytes(content)
        with pytest.raises(StoreError, match=f'{index}, {said}'):
            snapshot.find(layout, 0)


def test_a_damaged_listing_is_listed_anew_and_finished_chunks_are_kept(interrupted, capsys):
    folder, run_id = interrupted
    before = chunks_of(folder)
    for pattern in ('*.arrow', '*.json'):
        (damaged,) = folder.parent.glob(f'out/_work/*/listing/{pattern}')
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 4
        damaged.write_bytes(data)
        capsys.readouterr()
        assert begin(*arguments_for(folder)).layout.run_id == run_id  # and lists anew
        said = capsys.readouterr().err
        assert f'lemmabeam: {damaged}, of the listing this run was started with, is missing' in said
        assert 'the inputs are listed again' in said
        assert chunks_of(folder) == before


def test_chunks_of_a_run_of_which_the_options_are_lost_are_not_used(interrupted):
    folder, run_id = interrupted
    # As a `clean` that was killed may leave it.
    (folder.parent / f'out/_work/{run_id}/run.json').unlink()
    settled(*arguments_for(folder, '--run_id', run_id))
    assert work_of(folder) == [f'_work/{run_id}/run.json']


def test_of_two_that_finish_a_chunk_the_first_one_counts(tmp_path):
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    chunk = Chunk('0123456789abcdef', [Item('/a.jpg', '1', 5, ['[]'])])
    ours, theirs = (_rows_of_chunk(chunk, score) for score in (0.25, 0.5))
    assert checkpoints.find(layout, chunk) == (None, 0)
    assert checkpoints.keep(layout, chunk, ours) == ours
    assert checkpoints.keep(layout, chunk, theirs) == ours
    assert checkpoints.find(layout, chunk) == (ours, 0)
    others = _rows_of_chunk(Chunk('0', [Item('/b.jpg', '1', 5, ['[]'])]), 1)
    sealed = [seal(each) for each in (ours, theirs, others)]
    for count, damaged in enumerate((sealed[0][:-50], b'', sealed[2], ours), 1):
        layout.store.write(checkpoints.chunk_uri(layout, chunk, count - 1), damaged)
        assert checkpoints.find(layout, chunk) == (None, count)
        assert checkpoints.keep(layout, chunk, theirs) == theirs
        # Of two that found it damaged, the first one counts.
        assert checkpoints.keep(layout, chunk, ours) == theirs
        assert checkpoints.find(layout, chunk) == (theirs, count)


def _rows_of_chunk(chunk, score):
    image = Image('1', 'ab', 10, 10, 'JPEG', 5)
    scores = np.full((1, 1), score, np.float32)
    batch = LabeledBatch(
        chunk, 0, [image], np.zeros((1, 1), np.int32), scores, np.ones(1, np.int32), None, {}, ''
    )
    return results.to_ipc(results.outcome_table([batch]))


def read_all(layout, listing):
    return [ref for part in listing.parts for ref in snapshot.read_part(layout, *part)]


def test_of_two_listings_the_first_one_counts_for_both(tmp_path):
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    refs = [Ref(f'/{i}', '1', 5, '[]', '', '', 'https://u:p@h/') for i in range(3)]
    first = snapshot.freeze(layout, 0, [*refs, 'skipped_not_image'])
    second = snapshot.freeze(layout, 0, refs[:1])
    assert first == second == snapshot.find(layout, 0)
    assert read_all(layout, second) == [ref._replace(access='') for ref in refs]
    assert first.left_out == {'skipped_not_image': 1}
    assert first.is_signed
    assert snapshot.find(layout, 1) is None


def test_a_listing_of_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, '_PART_REFS', 2)
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    refs = [Ref(f'/{i}', '', -1, '["ä"]', 'bad_uri', 'why') for i in range(5)]
    found = snapshot.freeze(layout, 0, refs)
    assert len(found.parts) == 3
    assert read_all(layout, found) == refs
    assert not found.is_signed


class TestClean:
    def test_it_removes_what_incomplete_runs_left_and_nothing_else(self, two_runs, capsys):
        output, folder = two_runs, two_runs.parent / 'in'
        (folder / '03.jpg').write_bytes(b'changed')
        begin(*arguments_for(folder, '--run_id', 'night-3'))
        begin(*arguments_for(folder, '--run_id', 'night-4', '--force'))
        # Neither of them is ours.
        notes = [output / '_work/night-3/notes.txt', output / '_work/mine/chunks/a.arrow']
        for note in notes:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text('keep me')
        before = set(work_of(folder))
        capsys.readouterr()
        assert main(['clean', str(output), '--dry_run']) == 0
        assert set(work_of(folder)) == before
        assert 'would remove the work of run night-3, incomplete: ' in capsys.readouterr().out
        assert main(['clean', str(output), '--run_id', 'night-4']) == 0
        assert capsys.readouterr().out.startswith('removed the work of run night-4, incomplete: ')
        assert not (output / '_work/night-4').exists()
        assert main(['clean', str(output)]) == 0
        assert [output / path for path in work_of(folder)] == sorted(notes)
        assert verify(str(output)) == []
        assert main(['clean', str(output)]) == 0
        assert capsys.readouterr().out.endswith('nothing to remove\n')

    def test_it_removes_what_was_half_published(self, two_runs):
        output, folder = two_runs, two_runs.parent / 'in'
        begin(*arguments_for(folder, '--run_id', 'night-3'))
        (complete,) = output.glob('predictions/*/run=night-1')
        half = complete.with_name('run=night-3')
        half.mkdir()
        (half / 'part-00000-of-00001.parquet').write_bytes(b'PAR1')
        assert main(['clean', str(output)]) == 0
        assert complete.exists()
        assert not half.exists()
        assert verify(str(output)) == []

    def test_finished_chunks_and_work_of_another_version_are_removed_too(self, interrupted):
        folder, run_id = interrupted
        (folder.parent / f'out/_work/{run_id}/run.json').write_text('{"format": 1}')
        assert main(['clean', str(folder.parent / 'out')]) == 0
        assert work_of(folder) == []

    def test_what_it_refuses(self, folder, capsys):
        output = folder.parent / 'out'
        begin(*arguments_for(folder, '--run_id', 'old'))
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
        assert '1 completed chunk, 0.0 MB' in capsys.readouterr().out
        assert [entry.uri for entry in store_for(output).list(output)] == [kept]


def test_many_small_files_are_looked_through_at_once(folder, monkeypatch, capsys):
    """Bounded by what a listing takes, not by a request a file."""
    begin(*arguments_for(folder, '--run_id', 'old'))
    asked = []
    for name in ('read', 'stat', 'open', 'is_folder', 'list'):
        original = getattr(LocalStore, name)

        def counted(store, uri, *rest, original=original, **named):
            asked.append(uri)
            return original(store, uri, *rest, **named)

        monkeypatch.setattr(LocalStore, name, counted)
    settled(*arguments_for(folder))
    without = len(asked)
    chunks = folder.parent / 'out/_work/old/chunks'
    chunks.mkdir()
    for i in range(300):
        (chunks / f'{i:016x}.arrow').touch()
    asked.clear()
    capsys.readouterr()
    settled(*arguments_for(folder))
    assert len(asked) == without > 0
    assert '(300 completed chunks, 0.0 MB)' in capsys.readouterr().err
    asked.clear()
    assert main(['clean', str(folder.parent / 'out')]) == 0
    assert 0 < len(asked) < 30
    assert work_of(folder) == []


class TestForget:
    def test_an_image_is_in_no_file_afterwards(self, two_runs, capsys):
        output, folder = two_runs, two_runs.parent / 'in'
        (output / 'runs/night-1/report.html').write_text('a picture')
        for name, rows in (('01.jpg', [1, 1]), ('02.jpg', [1, 1]), ('03.jpg', [1])):
            assert main(['clean', str(output), '--forget', str(folder / name)]) == 0
            said = capsys.readouterr().out.splitlines()
            assert said == [
                f'removed {folder / name} from run night-{i}: {n} row'
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
        forgotten = {str(folder / f'{i:02d}.jpg') for i in (1, 2, 3)}
        known = known_to(settled(*arguments_for(folder, '--max_bytes', '100')))
        assert {str(path) for path in folder.iterdir()} - known.keys() == forgotten

    def test_one_that_was_interrupted_is_resumed(self, two_runs, monkeypatch):
        output = two_runs
        uri = str(output.parent / 'in/01.jpg')
        write = LocalStore.write

        def stop(store, path, data):
            if path.endswith('.parquet'):
                raise StoreError('stopped for a test')
            write(store, path, data)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, 'write', stop)
            assert main(['clean', str(output), '--forget', uri]) == 1
        # Meanwhile the runs are what they were, for whoever reads them.
        assert verify(str(output)) == []
        assert uri in known_to(settled(*arguments_for(output.parent / 'in', '--max_bytes', '100')))
        assert main(['clean', str(output), '--forget', uri]) == 0
        assert verify(str(output)) == []

    def test_what_it_does_not_find(self, two_runs, capsys):
        output, folder = two_runs, two_runs.parent / 'in'
        before = {path: path.read_bytes() for path in output.glob('**/*') if path.is_file()}
        for dry in ([], ['--dry_run']):
            assert main(['clean', str(output), '--forget', '/nowhere.jpg', *dry]) == 2
            assert "no complete run has '/nowhere.jpg'" in capsys.readouterr().err
        uri = str(folder / '01.jpg')
        arguments = ['--forget', uri, '--forget', ' ', '--dry_run']
        assert main(['clean', str(output), *arguments]) == 2
        said = capsys.readouterr()
        assert f'would remove {uri} from run night-1: 1 row\n' in f'{said.out}\n'
        assert "no complete run has ' '" in said.err
        assert main(['clean', str(output), *arguments[:2], '--dry_run']) == 0
        assert main(['clean', str(output), '--forget', 'x', '--run_id', 'night-1']) == 2
        assert before == {path: path.read_bytes() for path in before}


class TestPrune:
    def test_runs_whose_rows_are_superseded_go(self, two_runs, capsys):
        output, folder = two_runs, two_runs.parent / 'in'
        newest = duckdb.sql((output / 'latest.sql').read_text()).order('uri').fetchall()
        assert main(['clean', str(output), '--prune_before', 'night-2']) == 2
        error = capsys.readouterr().err
        assert f'{COUNT - 1} rows of run night-1 are the newest of their image; `lemmabeam' in error
        assert '`lemmabeam relabel' in error
        assert main(['relabel', '--output', str(output), '--run_id', 'all']) == 0
        assert main(['clean', str(output), '--prune_before', 'all', '--dry_run']) == 0
        assert (output / 'runs/night-1').exists()
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert f'removed run night-1, {COUNT} rows' in capsys.readouterr().out
        assert [path.name for path in output.glob('runs/*')] == ['all']
        assert [path.name for path in output.glob('predictions/*/*')] == ['run=all']
        assert verify(str(output)) == []
        left = duckdb.sql((output / 'latest.sql').read_text()).order('uri').fetchall()
        assert [row[:-2] for row in left] == [row[:-2] for row in newest]
        # Rows of another floor would mean something else, also beside a copy.
        with pytest.raises(UsageError, match=r'stored_floor is 0\.5, but 0\.05 in run all'):
            settled(*arguments_for(folder, '--max_bytes', '100', '--threshold', '0.5'))
        # Nothing is paid again; that what is gone is still told, is in test_history.
        versions = {str(path): LocalStore().stat(str(path)).version for path in folder.iterdir()}
        known = known_to(settled(*arguments_for(folder, '--max_bytes', '100')))
        # Of the one that is too large now, only its older row is left.
        too_large = str(folder / '02.jpg')
        assert known.pop(too_large) != versions.pop(too_large)
        assert known == versions

    @pytest.mark.parametrize('calls', range(9))
    def test_one_that_was_interrupted_is_resumed(self, copied, monkeypatch, calls):
        output, folder = copied, copied.parent / 'in'
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
            # Three folders and the work of each of two runs.
            assert main(['clean', str(output), '--prune_before', 'all']) == (calls < 8)
        assert all('latest.sql' in problem for problem in verify(str(output)))
        # Meanwhile the next night need not wait for it.
        arguments = arguments_for(folder, '--max_bytes', '100', '--run_id', 'next')
        config = settled(*arguments)
        assert len(known_to(config)) == COUNT
        left = {'all'}
        if calls == 0:
            add_run(output, 'next', [], sequence=config.sequence, model_id=config.layout.model_id)
            left.add('next')
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert {path.name for path in output.glob('runs/*')} == left
        assert {path.name for path in output.glob('predictions/*/*')} == {
            f'run={run_id}' for run_id in left
        }
        assert verify(str(output)) == []
        assert work_of(folder) == []

    def test_what_lies_beside_a_report_is_not_ours(self, copied):
        output = copied
        notes = output / 'runs/night-1/notes.txt'
        notes.write_text('of somebody')
        assert main(['clean', str(output), '--prune_before', 'all']) == 0
        assert list(output.glob('runs/night-*/*')) == [notes]

    def test_what_it_refuses(self, two_runs, capsys):
        output = two_runs
        assert main(['clean', str(output), '--prune_before', 'other']) == 2
        assert 'no complete run of this id' in capsys.readouterr().err
        assert main(['clean', str(output), '--prune_before', 'night-1']) == 0
        assert verify(str(output)) == []


class TestVerify:
    @pytest.mark.parametrize('step', ['publish', 'clean_up'])
    def test_a_first_run_that_was_stopped_in_its_last_step(self, place, monkeypatch, capsys, step):
        place.at('one run')
        output = place.at('staged') / 'out'

        def stopped(*args):
            raise CrashError

        if step == 'publish':  # all is in its place, but for the report
            monkeypatch.setattr(publishing, '_read_back', stopped)
        else:
            monkeypatch.setattr(finish, step, stopped)
        config, files, counts, stats, top_labels, computed, *_ = place.last_step
        with pytest.raises(CrashError):
            finish._ReportDoFn(config).process(None, files, counts, stats, top_labels, computed)
        assert main(['verify', str(output)]) == 0
        said = {'publish': 'or was interrupted (', 'clean_up': 'its work files are still there ('}
        assert said[step] in capsys.readouterr().out
        monkeypatch.undo()
        assert main(['clean', str(output)]) == 0
        assert verify(str(output)) == []

    @pytest.mark.parametrize('stride', [11, pytest.param(1, marks=pytest.mark.slow)])
    @pytest.mark.parametrize('mend', ['clean', 'label'])
    def test_a_first_run_that_was_killed_at_any_step_of_its_last_one(self, place, stride, mend):
        place.at('one run')
        config, files, counts, stats, top_labels, computed, *_ = place.last_step
        last = (files, counts, stats, top_labels, computed)
        arguments = arguments_for(place.root / 'in', '--run_id', 'night-1', '--max_bytes', '100')
        for step in itertools.count(0, stride):
            output = place.at('staged') / 'out'
            with killed_behind(step, output) as steps:
                finish._ReportDoFn(config).process(None, *last)
            is_complete = (output / 'runs/night-1/report.json').exists()
            if (output / 'dataset.json').exists():
                assert verify(str(output)) == []
            if mend == 'clean':
                assert main(['clean', str(output)]) == 0
            elif is_complete:  # by the next run, as its own id is taken
                with pytest.raises(UsageError, match='this run is complete'):
                    settled(*arguments)
            else:
                settled(*arguments)
                finish._ReportDoFn(config).process(None, *last)  # what was not done yet
                is_complete = True
            left = [path.name for path in output.rglob('*') if path.name.endswith('.tmp')]
            assert left == []
            if is_complete:
                assert verify(str(output)) == []
                assert work_of(place.root / 'in') == []
            if not steps.was_killed:
                break

    def test_runs_under_way_are_noted_and_no_fault(self, two_runs, capsys):
        output, folder = two_runs, two_runs.parent / 'in'
        begin(*arguments_for(folder, '--run_id', 'night-3'))
        half = next(output.glob('predictions/*')) / 'run=night-3/part-00000-of-00001.parquet'
        half.parent.mkdir()
        half.write_bytes(b'PAR1')
        capsys.readouterr()
        assert main(['verify', str(output)]) == 0
        said = capsys.readouterr().out
        assert said.startswith('note: run night-3 is in progress or was interrupted (0 completed')
        assert said.endswith('whole and consistent\n')

    def test_the_latest_view(self, two_runs, tmp_path, capsys):
        output = two_runs
        query = output / 'latest.sql'
        text = query.read_text()
        for damaged in (text.replace('night-2', 'night-9'), '', text[:-20]):
            query.write_text(damaged)
            assert main(['verify', str(output)]) == 1
            assert 'latest.sql: ' in capsys.readouterr().out
        assert main(['clean', str(output)]) == 0
        assert query.read_text() == text
        moved = output.rename(tmp_path / 'moved')
        assert main(['verify', str(moved)]) == 0
        assert 'note: latest.sql points to another place' in capsys.readouterr().out
        assert main(['clean', str(moved)]) == 0
        assert main(['verify', str(moved)]) == 0
        assert 'note' not in capsys.readouterr().out


def test_what_a_kill_left_in_the_last_steps_is_tidied_up(two_runs):
    """Killed behind its report, a run is complete; what it could not do is done by the next."""
    output, folder = two_runs, two_runs.parent / 'in'
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
        settled(*arguments_for(folder, '--run_id', 'night-2', '--max_bytes', '100'))
    assert not any(path.exists() for path in left)
    assert mine.exists()
    mine.unlink()
    assert (output / 'latest.sql').read_text() == query
    assert verify(str(output)) == []
