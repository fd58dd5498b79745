"""What is told apart: an image's own fault, and a fault of everything.

What is not checked here: servers that misbehave (test_faults), a model that fails (test_rescue).
"""

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from tests.support import app, forks, samples, states
from tests.support.without_model import Predictor
from transforms.core.elements import Chunk, Failure, Item, Stage
from transforms.core.errors import DecodeError, ImageError, StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy, fetch_policy
from transforms.core.reasons import Reason
from transforms.core.resources import shared
from transforms.loading.fetches import Patience
from transforms.loading.loader import Loader
from transforms.loading.threads import ThreadLoader
from transforms.runs.history import read_history
from transforms.sources import preflight
from transforms.storage.base import Fetched
from transforms.storage.local import LocalStore

pytestmark = pytest.mark.usefixtures('stand_in_model')

FORBIDDEN = Failure(Stage.FETCH, Reason.FORBIDDEN, 'HTTP 403', None)
BUSY = Failure(Stage.FETCH, Reason.STORE_ERROR, 'HTTP 503', None)
ARCHIVED = dataclasses.replace(FORBIDDEN, is_its_own=True)
BROKEN = Failure(Stage.DECODE, Reason.TRUNCATED, 'JPEG ends early', 10)


def record(policy, failures):
    for failure in failures:
        policy.record('gs://b/x.jpg', failure)


def make(after=20):
    return FaultPolicy(FailFast(after, 'a'), StoreError)


def test_the_first_ones_failing_alike_stop_the_run():
    policy = make()
    record(policy, [FORBIDDEN] * 19)
    message = (
        r'the first 20 images of this process all failed with forbidden \(HTTP 403\), most recently'
    )
    with pytest.raises(StoreError, match=message) as caught:
        record(policy, [FORBIDDEN])
    assert 'gs://b/x.jpg' in str(caught.value)
    assert '--fail_fast_after 0' in str(caught.value)
    # A runner's second attempt is judged anew.
    record(policy, [FORBIDDEN] * 19)
    with pytest.raises(StoreError, match='the first 20'):
        record(policy, [FORBIDDEN])


def test_the_advice_fits_what_is_forbidden():
    private = dataclasses.replace(FORBIDDEN, detail='a private address: 10.0.0.1')
    with pytest.raises(StoreError, match=': pass --allow_private_hosts if you trust'):
        record(make(1), [private])
    with pytest.raises(StoreError, match=': give the account read access there'):
        record(make(1), [FORBIDDEN])


@pytest.mark.parametrize(
    'failures',
    [
        [None] + [FORBIDDEN] * 300,
        [FORBIDDEN, BUSY] * 200,
        [BROKEN] * 1000,
        [ARCHIVED] * 1000,
        ([None] * 51 + [FORBIDDEN] * 449) * 3,
    ],
    ids=['one was read', 'not alike', 'images at fault', 'archived', 'just below 90 %'],
)
def test_what_does_not_stop_it(failures):
    policy = make()
    record(policy, failures)
    with pytest.raises(StoreError, match='of the last 500 images of this process failed'):
        record(policy, [BUSY] * 500)  # it goes on counting


def test_most_of_the_last_ones_failing_alike_stop_the_run():
    policy = make()
    record(policy, [None] * 10_000 + [FORBIDDEN] * 449)
    with pytest.raises(StoreError, match='450 of the last 500 images of this process failed'):
        record(policy, [FORBIDDEN])


def test_what_failed_alike_the_last_time_says_nothing_of_today():
    policy = make()
    for _ in range(1000):
        policy.record('gs://b/x.jpg', FORBIDDEN, 'forbidden')
    for _ in range(19):
        policy.record('gs://b/x.jpg', BUSY, 'forbidden')
    with pytest.raises(StoreError, match='the first 20 images'):
        policy.record('gs://b/x.jpg', BUSY)


def test_nothing_stops_it_with_0():
    failures = [FORBIDDEN] * 2000
    record(make(0), failures)
    with pytest.raises(StoreError):  # as any other number would
        record(make(len(failures)), failures)


def test_another_number():
    with pytest.raises(StoreError, match='the first 3 images'):
        record(make(3), [BUSY] * 3)
    record(make(700), [None] + [BUSY] * 400)


def test_a_run_over_a_store_that_refuses_everything_stops(tmp_path, monkeypatch):
    samples.write_pictures(tmp_path / 'in', 20)

    def refuse(*_):
        raise ImageError(Reason.FORBIDDEN, 'permission denied')

    monkeypatch.setattr(LocalStore, 'fetch', refuse)
    monkeypatch.setattr(preflight, '_read_one', lambda *_: None)  # which would stop it sooner
    arguments = ('--input', tmp_path / 'in', '--output', tmp_path / 'out')
    with pytest.raises(Exception, match='the first 20 images of this process all failed'):
        app.label(*arguments, '--run_id', 'stopping')
    assert not (tmp_path / 'out/runs/stopping').exists()
    # Without a run: that one goes on regardless is seen of a model in test_failing_model.
    config, _ = app.make_config(*arguments, '--fail_fast_after', '0')
    items = [Item(str(path), '', -1, ('[]',)) for path in (tmp_path / 'in').iterdir()]
    batches = app.load_chunk(Chunk('c', items), config, fetch_policy(config.fail_fast))
    found = [outcome for batch in batches for outcome in batch.outcomes]
    assert [outcome.reason for outcome in found if outcome] == [Reason.FORBIDDEN] * 23


def test_some_that_fail_every_night_stop_none(tmp_path, monkeypatch):
    samples.write_pictures(tmp_path / 'in', 4)
    for i in range(3):
        (tmp_path / f'in/archived-{i}.jpg').write_bytes(samples.picture(10 + i))
    fetch = LocalStore.fetch

    def some(store, uri, limits, admit, unless=''):
        if 'archived' in uri:
            raise ImageError(Reason.FORBIDDEN, 'for a test')
        return fetch(store, uri, limits, admit, unless)

    monkeypatch.setattr(LocalStore, 'fetch', some)
    arguments = ('--input', tmp_path / 'in', '--output', tmp_path / 'out')
    arguments += ('--fail_fast_after', '3', '--loader_threads', '1')
    assert app.label(*arguments)['counts']['dead_lettered'] == 6
    (tmp_path / 'in/new.jpg').write_bytes(samples.picture(20))
    counts = app.label(*arguments)['counts']
    assert (counts['labeled'], counts['dead_lettered']) == (1, 3)
    config = states.settled(*arguments)
    assert not config.preflight.inputs, 'who has labelled here can read'
    hints = [file for file in config.history if file.is_hint]
    assert [[known.reason for _, known in read_history(each, config.layout)] for each in hints] == [
        ['forbidden'] * 3
    ]
    config.layout.store.delete(config.layout.uri(hints[0].path))
    assert list(read_history(hints[0], config.layout)) == [], 'nothing is lost without it'


class TestPreflight:
    def label(self, tmp_path):
        return app.label('--input', tmp_path / 'in', '--output', tmp_path / 'out')

    def check(self, tmp_path, name='in'):
        """Without a run: that each begins with it is what the others show."""
        arguments = ('--input', tmp_path / name, '--output', tmp_path / 'out')
        return preflight.check(app.make_config(*arguments)[0].preflight)

    def refuse(self, monkeypatch, refused, reason=Reason.FORBIDDEN):
        fetch = LocalStore.fetch

        def some(store, uri, limits, admit, unless=''):
            if any(name in uri for name in refused):
                raise ImageError(reason, 'for a test')
            return fetch(store, uri, limits, admit, unless)

        monkeypatch.setattr(LocalStore, 'fetch', some)

    def test_what_cannot_be_read_is_found_out_first(self, tmp_path, monkeypatch):
        samples.write_pictures(tmp_path / 'in', 10)
        self.refuse(monkeypatch, ['/in/'])
        message = r'cannot be read, nor can 12 others of .*forbidden: for a test'
        with pytest.raises(Exception, match=message):
            self.label(tmp_path)

    def test_one_that_cannot_be_read_is_one_dead_letter(self, tmp_path, monkeypatch):
        samples.write_pictures(tmp_path / 'in', 10)
        self.refuse(monkeypatch, ['0000', '0001'])
        report = self.label(tmp_path)
        assert report['counts']['dead_lettered_by_reason']['forbidden'] == 2

    def write_list(self, tmp_path, count):
        paths = samples.write_pictures(tmp_path / 'in', count)[:count]
        (tmp_path / 'list.txt').write_text(''.join(f'{path}\n' for path in paths))

    def test_others_are_tried_before_the_store_is_blamed(self, tmp_path, monkeypatch):
        self.write_list(tmp_path, 5)
        self.refuse(monkeypatch, ['0000', '0001', '0002', '0003'])
        assert self.check(tmp_path, 'list.txt')
        self.refuse(monkeypatch, ['0004'])
        message = r'0004\.jpg cannot be read, nor can 4 others of the first 1,000 listed'
        with pytest.raises(StoreError, match=message):
            self.check(tmp_path, 'list.txt')

    def test_of_a_store_that_is_down_three_are_tried(self, tmp_path, monkeypatch):
        self.write_list(tmp_path, 5)
        self.refuse(monkeypatch, ['/in/'], Reason.DEADLINE)
        message = r'0002\.jpg cannot be read, nor can 2 others'
        with pytest.raises(StoreError, match=message):
            self.check(tmp_path, 'list.txt')

    def test_the_others_are_from_everywhere(self):
        refs = list(range(997))
        tried = list(preflight._spread(iter(refs)))
        assert len(tried) == 50
        assert tried == refs[::20]
        assert list(preflight._spread(iter([]))) == []

    def test_who_is_told_that_it_is_archived_may_read(self, tmp_path, monkeypatch):
        self.write_list(tmp_path, 2)

        def archived(*_):
            error = ImageError(Reason.FORBIDDEN, 'archived')
            error.is_its_own = True
            raise error

        monkeypatch.setattr(LocalStore, 'fetch', archived)
        assert self.check(tmp_path, 'list.txt')

    def test_images_that_are_bad_in_themselves_do_not_stop_it(self, tmp_path):
        (tmp_path / 'in').mkdir()
        for i in range(5):
            (tmp_path / 'in' / f'{i}.jpg').write_bytes(b'')
        assert self.check(tmp_path)

    def test_an_output_that_cannot_be_written_or_deleted(self, tmp_path, monkeypatch):
        samples.write_pictures(tmp_path / 'in', 2)

        def denied(self, uri):
            raise StoreError(f'{uri}: denied')

        monkeypatch.setattr(LocalStore, 'delete', denied)
        with pytest.raises(StoreError, match=r'out/_work/.*/probe-.*: denied'):
            self.check(tmp_path)


def read(path):
    data = Path(path).read_bytes()
    return Fetched(data, '1', len(data))


class TestDecoderThatHangs:
    def options(self, tmp_path, *more):
        arguments = (
            '--input',
            samples.SAMPLE,
            '--output',
            tmp_path,
            '--decode_deadline_sec',
            '0.1',
        )
        return app.make_config(*arguments, *more)[0].load

    def test_its_image_is_named_whichever_is_waited_for(self, tmp_path):
        at_work, let_go = threading.Event(), threading.Event()

        def hang(*_):
            at_work.set()
            let_go.wait(20)
            raise ImageError(Reason.DECODE_ERROR, 'let go')

        options = self.options(tmp_path)._replace(
            open_image=hang, patience=Patience(watch_sec=0.05)
        )
        loading = Loader(options, ThreadLoader(options, cores=1))
        started = time.monotonic()
        try:
            for name in ['cat.jpg', 'coffee.jpg']:
                chunk = Chunk('c', [Item(str(samples.SAMPLE / name), '', -1, ['[]'])])
                batch = loading.begin(chunk, 0, make())
                at_work.wait(20)  # the second one waits for the core that the first one holds
            with pytest.raises(DecodeError, match=r'cat\.jpg: decoding takes longer than 1 s'):
                loading.result(batch)
        finally:
            let_go.set()
        assert time.monotonic() - started < 10

    def test_the_command_ends_nonetheless(self, tmp_path):
        code = (
            'import sys, time; from tests.support import without_model\n'
            'from transforms.images import decode; from transforms.loading import threads\n'
            'from transforms import label as handler\n'
            'handler.Predictor = without_model.Predictor\n'
            'threads._DECODE_DEADLINES = 2\n'
            'render = decode.render\n'
            'def hang(opened, resize):\n'
            '    time.sleep(3600 * (opened.width == 750))\n'
            '    return render(opened, resize)\n'
            'decode.render = hang\n'
            'from pipeline.main import console; console()'
        )
        images = tmp_path / 'in'
        images.mkdir()
        (images / 'fine.jpg').write_bytes(samples.picture(1))
        (images / 'hostile.jpg').write_bytes(samples.picture(2, (750, 500)))
        done = forks.run(
            code, 'label', '--input', images, '--output', tmp_path / 'out',
            '--decode_deadline_sec', '1', '--loader_processes', '0',
        )  # fmt: skip
        assert done.returncode == 1
        assert 'hostile.jpg: decoding takes longer than 2 s' in done.stderr
        assert 'remove the image from the input and resume with --relist' in done.stderr
        assert 'Traceback' not in done.stderr
        assert not list((tmp_path / 'out').glob('predictions/**/*.parquet'))


class TestOneProcessWithManyThreads:
    """As service runners have it: several bundles at a time in one process."""

    def test_all_share_one_loader_and_one_model_and_try_once(self, tmp_path, monkeypatch):
        samples.write_pictures(tmp_path / 'in', 10)
        tried = []
        read_one = preflight._read_one
        monkeypatch.setattr(
            preflight, '_read_one', lambda *a: tried.append(threading.get_ident()) or read_one(*a)
        )
        made = []

        def count(cls):
            init = cls.__init__

            def counting(instance, options):
                made.append(cls)
                init(instance, options)

            monkeypatch.setattr(cls, '__init__', counting)

        count(Loader)
        count(Predictor)
        threads = ('--direct_num_workers=4', '--direct_running_mode=multi_threading')
        # A budget and a threshold that no other test has, so that neither was made before.
        flags = ('--memory_budget', '321MiB', '--threshold', '0.0321')
        flags += ('--batch_size', '2', '--chunk_size', '2')
        report = app.label(
            '--input', tmp_path / 'in', '--output', tmp_path / 'out', *threads, *flags
        )
        assert report['counts']['labeled'] == 10
        assert len(tried) == 1
        assert sorted(each.__name__ for each in made) == ['Loader', 'Predictor']

    def test_their_look_ahead_is_bounded_together(self, tmp_path):
        arguments = ('--input', samples.SAMPLE, '--output', tmp_path, '--batch_size', '8')
        limits = ('--memory_budget', '8MiB', '--max_bytes', '8MiB')
        options = app.make_config(*arguments, *limits)[0].load
        loader = shared(Loader, options)
        batch_bytes = 8 * 224 * 224 * 3
        batches = []
        while loader.may_look_ahead:
            batches.append(loader.begin(Chunk('c', []), 0, make()))
        assert len(batches) == -(-(2 * 2**20) // batch_bytes)
        batches.clear()
        assert loader.may_look_ahead, 'batches that are gone count no more'
