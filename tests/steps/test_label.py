"""Batches that the device has while others come: order, errors, another try, several bundles.

The device of a test waits for events, so that nothing is a matter of luck. That scores and files
are what they should be is looked at in test_plain_loop and test_graph.
"""

import dataclasses
import gc
import itertools
import pickle
import threading
import time
import weakref

import apache_beam as beam
import numpy as np
import pytest

from tests.support import quick_beam
from transforms import coders
from transforms import label as label_step
from transforms.core.elements import Batch, Chunk, Failure, Image, Item, Stage
from transforms.core.errors import InferenceError, ModelError
from transforms.core.fail_fast import FailFast
from transforms.core.reasons import Reason
from transforms.core.resources import shared
from transforms.label import ImageModelHandler, LabelImages, LazyPredictor, load_soon
from transforms.model.device import Devices
from transforms.model.predictor import InferenceOptions, Prediction
from transforms.model.resolve import resolve_model
from transforms.output import results
from transforms.output.layout import Layout
from transforms.resume import FinishChunksDoFn
from transforms.runs import checkpoints
from transforms.runs.checkpoints import find

SOON = 20
"""Seconds in which a test that would hang fails."""

SLOTS = 4
PIXELS = np.zeros((SLOTS, 2, 2, 3), np.uint8)
quick_beam.install()


@dataclasses.dataclass(frozen=True)
class Make:
    """Makes a model for one test; what comes out of a pickle is equal."""

    test: str
    loads: str = ''

    def __call__(self, options):
        model = shared(Model, self.test)
        model.loaded.append(threading.current_thread().name)
        if model.may_load is not None:
            assert model.may_load.wait(SOON)
        if model.broken:
            raise model.broken.pop()
        return model


class Model:
    """Labels each image with the number that it shows; fails and waits on command."""

    def __init__(self, _):
        self.computed = {'precision': 'none', 'backend': 'none', 'batch_size': SLOTS}
        self.loaded, self.broken, self.may_load = [], [], None
        self.seen, self.lock = [], threading.Lock()
        self.fails = lambda number: None
        self.begun, self.may_go_on = threading.Semaphore(0), None

    def __call__(self, pixels):
        number = int(pixels.max())
        with self.lock:
            self.seen.append(number)
        self.begun.release()
        if self.may_go_on is not None:
            assert self.may_go_on.acquire(timeout=SOON)
        error = self.fails(number)
        if error is not None:
            raise error
        indices = np.repeat(pixels[:, 0, 0, :1].astype(np.int32), 2, axis=1)
        return Prediction(indices, np.ones((SLOTS, 2), np.float32), np.ones(SLOTS, np.int32), None)


@pytest.fixture
def make(request):
    return Make(request.node.nodeid)


@pytest.fixture
def model(make):
    return shared(Model, make.test)


@pytest.fixture(scope='module')
def options():
    return InferenceOptions(resolve_model('embedded'), SLOTS, 0.05, 2, 0, 1)


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path), 'r', 'm', (), (), 10)


@pytest.fixture
def stage(options, make):
    return ImageModelHandler(options, FailFast(0, make.test), make)


def chunk_of(number, batches):
    items = [Item(f'gs://b/{number}-{i}', '', -1, ['[]']) for i in range(batches * SLOTS)]
    return Chunk(f'{number:016x}', items)


def batches_of(chunk, numbers):
    image = Image('1', 'x', 1, 1, 'JPEG', 1)
    for i, number in enumerate(numbers):
        yield Batch(chunk, i * SLOTS, [image] * SLOTS, np.full_like(PIXELS, number), {})


class _GiveDoFn(beam.DoFn):
    """The batches of chunks 10, 20, …: their images show 10, 11, …, 20, 21, …"""

    def __init__(self, batches):
        self._batches = batches

    def process(self, number):
        chunk = chunk_of(number, self._batches)
        yield from batches_of(chunk, range(number, number + self._batches))


def run(transform, chunks=3, batches=3, *flags):
    root = beam.Pipeline(
        runner='FnApiRunner', options=beam.options.pipeline_options.PipelineOptions(flags)
    )
    given = (
        root
        | beam.Create([10 * (i + 1) for i in range(chunks)])
        | beam.ParDo(_GiveDoFn(batches)).with_output_types(Batch)
    )
    _ = given | 'LabelImages' >> transform
    root.run().wait_until_finish()


def labels_of(layout, chunk):
    table = results.from_ipc(find(layout, chunk).data)
    return [row[0] for row in table['indices'].to_pylist()]


def check_labels(layout, chunks=3, batches=3):
    for number in (10 * (i + 1) for i in range(chunks)):
        wanted = [number + i for i in range(batches) for _ in range(SLOTS)]
        assert labels_of(layout, chunk_of(number, batches)) == wanted


@pytest.mark.parametrize(
    'flags',
    [(), ('--direct_num_workers=4', '--direct_running_mode=multi_threading')],
    ids=['one bundle', 'four bundles'],
)
def test_each_chunk_gets_its_own_labels_in_order(make, model, options, layout, flags):
    run(LabelImages(options, FailFast(0, make.test), layout, make), 8, 3, *flags)
    check_labels(layout, 8)
    assert len(model.loaded) == 1
    assert sorted(model.seen) == [10 * (i + 1) + j for i in range(8) for j in range(3)]


def test_the_next_batch_is_handed_in_while_the_device_computes(make, model, stage):
    model.may_go_on = threading.Semaphore(0)
    lazy = stage.load_model()
    given = list(batches_of(chunk_of(1, 2), [1, 2]))
    late = [stage.run_inference([batch], lazy)[0] for batch in given]
    assert not any(each.is_done for each in late)
    assert model.begun.acquire(timeout=SOON)
    model.may_go_on.release(2)
    assert [each.result().indices[0, 0] for each in late] == [1, 2]
    assert all(each.is_done for each in late)


def test_pixels_go_when_the_device_is_done_with_them(model, stage):
    lazy = stage.load_model()
    (batch,) = batches_of(chunk_of(1, 1), [1])
    gone = threading.Event()
    weakref.finalize(batch.pixels, gone.set)
    (late,) = stage.run_inference([batch], lazy)
    del batch
    late.result()
    gc.collect()
    assert gone.wait(SOON)


def test_a_batch_without_any_image_is_not_given_to_the_device(model, stage):
    (batch,) = batches_of(chunk_of(1, 1), [1])
    dead = Failure(Stage.FETCH, Reason.EMPTY, '', 0)
    empty = dataclasses.replace(batch, outcomes=[dead] * SLOTS)
    (late,) = stage.run_inference([empty], stage.load_model())
    assert late.is_done
    assert late.result().outcomes == [dead] * SLOTS
    assert model.loaded == []


def test_only_a_wait_in_which_the_device_had_nothing_to_do_counts(model, stage):
    lazy = stage.load_model()
    waits = {'fetch': 9.0, 'fetch_wait': 6000.0, 'decode_wait': 2000.0}
    (batch,) = batches_of(chunk_of(1, 1), [1])
    stage.run_inference([batch], lazy)[0].result()
    (late,) = stage.run_inference([dataclasses.replace(batch, timings=waits)], lazy)
    timings = late.result().timings
    assert timings['fetch'] == 9.0
    assert timings['fetch_wait'] == pytest.approx(3 * timings['decode_wait'])
    assert 0 < timings['fetch_wait'] + timings['decode_wait'] <= SOON
    (late,) = stage.run_inference([dataclasses.replace(batch, timings={'fetch_wait': 0.0})], lazy)
    assert late.result().timings['fetch_wait'] == 0


def test_a_late_batch_that_leaves_its_process_is_waited_for(model, stage):
    (batch,) = batches_of(chunk_of(1, 1), [7])
    (late,) = stage.run_inference([batch], stage.load_model())
    there = pickle.loads(pickle.dumps(late))
    assert there.is_done
    assert there.result().indices[0, 0] == 7


def test_to_ask_for_the_size_of_a_batch_pickles_nothing():
    (batch,) = batches_of(chunk_of(1, 1), [1])
    coder = beam.coders.registry.get_coder(Batch)
    assert isinstance(coder, coders.InProcessCoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coders.pickle, 'dumps', None)
        assert coder.get_impl().estimate_size(batch) == batch.pixels.nbytes
    there = coder.decode(coder.encode(batch))
    assert (there.pixels == batch.pixels).all()


def test_a_failing_model_ends_the_run_and_another_try_works(make, model, options, layout):
    transform = LabelImages(options, FailFast(0, make.test), layout, make)
    model.fails = lambda number: None if 10 <= number < 21 else InferenceError('lost')
    with pytest.raises(Exception, match='the model fails even without any image: lost'):
        run(transform)
    assert not find(layout, chunk_of(20, 3)).data
    model.fails = lambda number: None
    run(transform)
    check_labels(layout)


def test_a_model_that_fails_on_all_pictures_ends_the_run(make, model, options, layout):
    model.fails = lambda number: InferenceError('x') if number else None
    with pytest.raises(Exception, match='the first 8 images of this process all failed'):
        run(LabelImages(options, FailFast(8, make.test), layout, make))


def test_a_store_that_keeps_nothing_ends_the_run(make, model, options, layout, monkeypatch):
    def fail(*_):
        raise OSError('no room')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, 'keep', fail)
        with pytest.raises(Exception, match='no room'):
            run(LabelImages(options, FailFast(0, make.test), layout, make))
    run(LabelImages(options, FailFast(0, make.test), layout, make))
    check_labels(layout)


def test_of_a_bundle_that_fails_nothing_more_is_begun(model, stage, layout):
    model.may_go_on = threading.Semaphore(0)
    lazy = stage.load_model()
    finish = FinishChunksDoFn(layout)
    finish.setup()
    finish.start_bundle()
    for batch in batches_of(chunk_of(1, 3), [1, 2]):
        assert list(finish.process(*stage.run_inference([batch], lazy), None, None)) == []
    assert model.begun.acquire(timeout=SOON)
    finish.teardown()
    model.may_go_on.release(9)
    (batch,) = batches_of(chunk_of(2, 1), [3])
    assert stage.run_inference([batch], lazy)[0].result().indices[0, 0] == 3
    assert model.seen == [1, 3]


def test_of_a_bundle_that_fails_the_chunk_on_its_way_to_the_store_is_kept(
    make, model, options, layout, monkeypatch
):
    """It is paid for, and a run that says that it has failed writes no more."""
    failed, keep = threading.Event(), checkpoints.keep

    def slow(*given):
        assert failed.wait(SOON)
        time.sleep(0.1)  # long enough for a bundle that does not wait
        return keep(*given)

    def fails(number):
        if 10 <= number < 20:
            return None
        failed.set()
        return InferenceError('lost')

    monkeypatch.setattr(checkpoints, 'keep', slow)
    model.fails = fails
    with pytest.raises(Exception, match='lost'):
        run(LabelImages(options, FailFast(0, make.test), layout, make))
    assert labels_of(layout, chunk_of(10, 3)) == [i for i in (10, 11, 12) for _ in range(SLOTS)]
    assert not find(layout, chunk_of(20, 3)).data


def test_one_chunk_is_on_its_way_to_the_store_while_the_next_is_labelled(
    model, stage, layout, monkeypatch
):
    may_keep, keeps = threading.Semaphore(0), []

    def keep(_, chunk, data):
        keeps.append(chunk.id)
        assert may_keep.acquire(timeout=SOON)
        return chunk.id.encode()

    monkeypatch.setattr(checkpoints, 'keep', keep)
    lazy = stage.load_model()
    finish = FinishChunksDoFn(layout)
    finish.setup()
    finish.start_bundle()
    chunks = [chunk_of(number, 1) for number in (1, 2, 3)]
    late = [stage.run_inference([*batches_of(chunk, [1])], lazy)[0] for chunk in chunks]
    for each in late:
        each._future.result(SOON)

    def emitted(batch):
        found = finish.process(batch, 'window', 0)
        return [each for each in found if isinstance(each, bytes)]

    assert emitted(late[0]) == []
    may_keep.release()
    assert emitted(late[1]) == [chunks[0].id.encode()], 'the first is waited for'
    may_keep.release(2)
    assert emitted(late[2])[:1] == [chunks[1].id.encode()]
    rest = [each.value for each in finish.finish_bundle() if not hasattr(each, 'tag')]
    assert keeps == [chunk.id for chunk in chunks]
    assert rest in ([chunks[2].id.encode()], []), 'at once, or at the end'


class TestSeveralAccelerators:
    COUNT = 4

    @pytest.fixture
    def options(self, options):
        return options._replace(accelerators=self.COUNT)

    @pytest.fixture
    def models(self):
        """One model each, which all work at the same time."""
        together = threading.Barrier(self.COUNT, timeout=SOON)

        def wait(_):
            together.wait()

        models = [Model(None) for _ in range(self.COUNT)]
        for model in models:
            model.fails = wait
        return models

    @pytest.fixture
    def lazy(self, options, models):
        devices = Devices('mine-1234', self.COUNT)
        return LazyPredictor(options, devices, lambda options: models[options.accelerator])

    def test_each_takes_its_share_and_the_order_is_kept(self, lazy, models, stage):
        count = 6 * self.COUNT
        late = [
            stage.run_inference([batch], lazy)[0]
            for batch in batches_of(chunk_of(1, count), range(count))
        ]
        assert [each.result().indices[0, 0] for each in late] == list(range(count))
        assert [len(model.seen) for model in models] == [6] * self.COUNT

    def test_one_that_fails_stops_the_run_with_its_name(self, lazy, models, stage):
        def lost(_):
            return InferenceError('the device is lost')

        models[2].fails = lost
        for model in (models[0], models[1], models[3]):
            model.fails = lambda _: None

        def label_on():
            for _ in itertools.count():
                (batch,) = batches_of(chunk_of(1, 1), [1])
                stage.run_inference([batch], lazy)[0].result()

        with pytest.raises(ModelError, match=r'^accelerator 3 of 4: .*the device is lost'):
            label_on()


class TestLoadSoon:
    def test_the_model_loads_once_and_nobody_waits(self, make, model, options, stage):
        model.may_load = threading.Event()
        load_soon(options, make)
        load_soon(options, pickle.loads(pickle.dumps(make)))
        (batch,) = batches_of(chunk_of(1, 1), [5])
        (late,) = stage.run_inference([batch], stage.load_model())
        assert not late.is_done
        model.may_load.set()
        assert late.result().indices[0, 0] == 5
        load_soon(options, make)
        assert model.loaded == ['device']

    def test_an_error_is_raised_by_the_first_batch_and_then_it_is_tried_again(
        self, make, model, options, stage, capsys
    ):
        model.broken = [ModelError('no GPU')]
        load_soon(options, make)
        lazy = stage.load_model()
        late = [
            stage.run_inference([batch], lazy)[0] for batch in batches_of(chunk_of(1, 2), [1, 2])
        ]
        with pytest.raises(ModelError, match='no GPU'):
            late[0].result()
        assert late[1].result().indices[0, 0] == 2
        assert model.loaded == ['device'] * 2
        assert capsys.readouterr().err == ''

    def test_an_error_that_no_batch_has_asked_for_is_none_of_the_next_run(
        self, make, model, options, stage
    ):
        model.broken = [ModelError('no GPU')]
        load_soon(options, make)
        lazy = stage.load_model()
        lazy._soon.result(SOON)
        load_soon(options, make)
        (batch,) = batches_of(chunk_of(1, 1), [1])
        assert stage.run_inference([batch], lazy)[0].result().indices[0, 0] == 1

    def test_by_default_it_is_the_real_one(self, options, monkeypatch, model):
        monkeypatch.setattr(label_step, 'Predictor', Make('default'))
        load_soon(options)
        lazy = label_step.lazy_predictor(options)
        lazy._soon.result(SOON)
        assert lazy.get(lazy.devices.each[0]) is shared(Model, 'default')
        assert isinstance(lazy, LazyPredictor)
