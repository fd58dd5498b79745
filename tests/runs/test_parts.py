"""Of a chunk that takes long, what is done is kept in parts: a kill costs a minute at most.

That rows put together of parts are those of the whole, byte by byte, is looked at in test_results.
"""

import pytest

from tests.steps.test_label import SLOTS, Make, Model, batches_of, chunk_of
from tests.support import app, samples, states, without_model
from transforms import resume
from transforms.core.errors import ModelError, StoreError
from transforms.core.fail_fast import FailFast
from transforms.core.resources import shared
from transforms.dataset.verify import compare
from transforms.label import ImageModelHandler
from transforms.model.predictor import InferenceOptions
from transforms.model.resolve import resolve_model
from transforms.output import results
from transforms.output.layout import Layout
from transforms.resume import FinishChunksDoFn
from transforms.runs import checkpoints, in_progress

BATCHES = 6
CHUNK = chunk_of(7, BATCHES)


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path), 'r', 'm', (), (), 10)


class Labelling:
    """Labels batches of a chunk, and takes so many seconds for each."""

    def __init__(self, name, layout, batch_sec):
        self.now = 0.0
        self._batch_sec = batch_sec
        make = Make(name)
        options = InferenceOptions(resolve_model('embedded'), SLOTS, 0.05, 2, 0, 1)
        handler = ImageModelHandler(options, FailFast(0, name), make)
        self._handler, self._lazy = handler, handler.load_model()
        self.model = shared(Model, name)
        self._finish = FinishChunksDoFn(layout, lambda: self.now)
        self._finish.setup()
        self._finish.start_bundle()

    def label(self, start=0, end=BATCHES):
        for batch in list(batches_of(CHUNK, range(BATCHES)))[start:end]:
            (late,) = self._handler.run_inference([batch], self._lazy)
            late._future.result(20)
            self.now += self._batch_sec
            list(self._finish.process(late, 'window', 0))

    def die(self):
        self._finish.teardown()

    def end(self):
        list(self._finish.finish_bundle())


@pytest.fixture
def labelling(request, layout):
    """By the seconds that a batch takes."""
    return lambda batch_sec: Labelling(f'{request.node.nodeid}', layout, batch_sec)


def parts_in(layout):
    return sorted(entry.uri.rpartition('/')[2] for entry in layout.store.list(layout.output))


def labels_of(data):
    return [row[0] for row in results.from_ipc(data)['indices'].to_pylist()]


ALL = [number for number in range(BATCHES) for _ in range(SLOTS)]


@pytest.mark.parametrize('batch_sec', [resume.PART_SEC, resume.PART_SEC / 2])
def test_a_kill_costs_what_has_taken_less_than_that(layout, labelling, batch_sec):
    first = labelling(batch_sec)
    first.label(end=4)
    first.die()
    parts = checkpoints.find_parts(layout, CHUNK)
    assert (parts.done, parts.damaged) == (4 * SLOTS, 0)
    assert checkpoints.find(layout, CHUNK) == (None, 0), 'it is not finished'
    again = labelling(batch_sec)
    again.label(start=4)
    again.end()
    assert labels_of(checkpoints.find(layout, CHUNK).data) == ALL
    assert parts_in(layout) == [f'{CHUNK.id}.arrow']


def test_a_chunk_that_is_done_soon_has_none(layout, labelling):
    made = labelling(0.0)
    made.label(end=5)
    made.die()
    assert not layout.store.is_folder(layout.output) or parts_in(layout) == []


def killed_behind(labelling, batches):
    made = labelling(resume.PART_SEC)
    made.label(end=batches)
    made.die()


def test_a_damaged_part_is_worked_again_with_all_behind_it(layout, labelling):
    killed_behind(labelling, 3)
    uri = checkpoints.part_uri(layout, CHUNK, SLOTS)
    whole = layout.store.read(uri)
    for damaged in (whole[:-9], b'', layout.store.read(checkpoints.part_uri(layout, CHUNK, 0))):
        layout.store.write(uri, damaged)
        parts = checkpoints.find_parts(layout, CHUNK)
        assert (parts.done, parts.damaged) == (SLOTS, 1)
        assert layout.store.read(uri) is None, 'so that it can be kept again'
        assert checkpoints.find_parts(layout, CHUNK)[1:] == (0,)
        layout.store.write(uri, whole)
    assert checkpoints.find_parts(layout, CHUNK).done == 3 * SLOTS


def test_what_was_read_and_is_gone_is_not_made_up(layout, labelling):
    killed_behind(labelling, 3)
    layout.store.delete(checkpoints.part_uri(layout, CHUNK, SLOTS))
    made = labelling(0.0)
    made.label(start=3)
    with pytest.raises(
        StoreError, match=r'part-4\.arrow, part of an unfinished chunk, has become missing'
    ):
        made.end()


def test_another_workers_parts_need_not_be_the_same(layout, labelling):
    killed_behind(labelling, 3)
    other = labelling(resume.PART_SEC / 2)
    other.label(end=5)  # of two batches each, where there are those of one
    other.die()
    assert checkpoints.find_parts(layout, CHUNK).done == 3 * SLOTS
    again = labelling(0.0)
    again.label(start=3)
    again.end()
    assert labels_of(checkpoints.find(layout, CHUNK).data) == ALL


class Failing(without_model.Predictor):
    """Fails in its fourth call, the first time."""

    calls = 0

    def __call__(self, pixels):
        Failing.calls += 1
        if Failing.calls == 4:
            raise ModelError('for a test')
        return super().__call__(pixels)


def test_a_resumed_run_pays_for_the_rest_and_its_bytes_are_those_of_a_whole_one(
    tmp_path, monkeypatch
):
    samples.write_pictures(tmp_path / 'in', 25)
    monkeypatch.setattr(resume, 'PART_SEC', 0.0)
    monkeypatch.setattr(Failing, 'calls', 0)
    arguments = ('--input', tmp_path / 'in', '--run_id', 'night-1', '--batch_size', '4')
    arguments += ('--chunk_size', '32')
    disturbed = (*arguments, '--output', tmp_path / 'disturbed')
    with app.stand_in(Failing):
        with pytest.raises(Exception, match='for a test'):
            app.label(*disturbed)
        config = states.settled(*disturbed)
        [left] = in_progress.unfinished(config.layout.output, config.layout.store)
        assert (left.chunks, sum('.part-' in path for path in left.paths)) == (0, 3)
        assert left.has_results
        assert str(left).startswith('parts of a chunk, '), 'and so it is not nothing'
        before = Failing.calls
        report = app.label(*disturbed)
    assert Failing.calls - before == 4, 'three of seven batches were done'
    assert report['balanced']
    assert report['labeled_by_earlier_attempts'] == 12
    left = (tmp_path / 'disturbed/_work').rglob('*')
    assert [path for path in left if path.is_file()] == []
    with app.stand_in():
        app.label(*arguments, '--output', tmp_path / 'whole')
    assert compare(str(tmp_path / 'whole'), str(tmp_path / 'disturbed')).differences == []
