"""A store that misbehaves: every kind of fault, some and all of the time; and full disks.

Images are read through `tests.support.fault_proxy`, mostly by the loader alone, which needs no
model.  What
a single answer does to a single request is looked at in test_gcs; signals in test_cli.
"""

import dataclasses
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bucket, fresh_bucket
from tests.support import app, samples
from tests.support.fault_proxy import KINDS, Fault
from transforms.core.elements import Chunk, Failure, Image, Item, Stage
from transforms.core.errors import StoreError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.limits import PixelLimits
from transforms.core.reasons import Reason
from transforms.dataset.verify import verify
from transforms.images import decode
from transforms.images.resize import Resize
from transforms.loading.batch import LoadingBatch
from transforms.loading.options import LoadOptions
from transforms.loading.threads import ThreadLoader
from transforms.storage import gcs, registry
from transforms.storage.base import FetchLimits
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import store_for

COUNT = 100
THREADS = 20  # as many as a fifth of them: what must be waited for is waited for at once
RESIZE = Resize(size_px=16, short_side_px=None, filter='bilinear')
# What a fetch may take beyond its deadline on a busy machine; a drip would take half a minute.
SLACK_SEC = 3.0

# By which reasons an object is given up whose every request is spoiled.
REASONS = {
    '429': 'store_error',
    '500': 'store_error',
    '503': 'store_error',
    'reset': 'store_error',
    'truncate': 'store_error',
    'corrupt': 'checksum',
    'stall': 'deadline',
    'stall_within': 'deadline',
    'drip': 'deadline',
    'drip_headers': 'deadline',
}
# All but what only the listing can tell.
SPOILED = tuple(kind for kind in KINDS if kind != 'another')
# Faults that are over at once, or by the time a socket is given up: another try fits in.
PASSING = tuple(kind for kind in SPOILED if not kind.startswith('drip'))
# A drip looks alive: one takes all the time there is.
DRIPPING = tuple(kind for kind in KINDS if kind.startswith('drip'))


@dataclasses.dataclass(frozen=True)
class Objects:
    """Small pictures in a bucket, and what each must become."""

    bucket: Bucket
    data: dict[str, bytes]

    def first(self, count: int) -> 'Objects':
        return Objects(self.bucket, dict(itertools.islice(self.data.items(), count)))

    def items(self) -> list[Item]:
        """As of a manifest, which knows names alone."""
        return [Item(self.bucket.uri(name), '', -1, ('[]',)) for name in self.data]


@pytest.fixture(scope='module')
def objects(emulator):
    kinds = ('JPEG', 'PNG', 'WEBP')
    data = {f'in/{i:03d}.img': samples.picture(i, (40, 30), kinds[i % 3]) for i in range(COUNT)}
    with fresh_bucket(emulator) as bucket:
        for name, body in data.items():
            bucket.put(name, body)
        yield Objects(bucket, data)


@pytest.fixture
def store(proxy, monkeypatch):
    """A store of this test alone, behind the proxy, that tries again soon and gives up soon."""
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', proxy.url)
    made, make = gcs.GcsStore(tries=Tries(0.8, 0.01, 0.05)), registry._make_store
    # Another function, whose stores the process does not have yet.
    monkeypatch.setattr(registry, '_make_store', lambda key: made if 'Gcs' in key[0] else make(key))
    yield made
    made.close()


def load_options(deadline_sec: float) -> LoadOptions:
    return LoadOptions(RESIZE, 8, FetchLimits(100_000, deadline_sec), PixelLimits(), 2**26, THREADS)


def load_all(objects: Objects, deadline_sec: float) -> dict[str, Image | Failure]:
    """Loads the objects; the books, the deadlines and each slot are checked on the way."""
    count = len(objects.data)
    loader = ThreadLoader(load_options(deadline_sec))
    pixels = np.full((count, RESIZE.size_px, RESIZE.size_px, 3), 7, np.uint8)
    going_on = FaultPolicy(FailFast(0, ''), StoreError)  # each image's own end is looked at
    most_sec = count / THREADS * deadline_sec + 15
    batch = LoadingBatch(Chunk('all', objects.items()), 0, pixels)
    try:
        loader.start(batch, going_on)
        assert batch.wait(most_sec), f'fetches are not over after {most_sec:g} s'
    finally:
        loader.close()
    loaded = batch.result()
    assert len(loaded) == count
    slowest_sec = max(each.fetch_sec for each in loaded)
    assert slowest_sec < deadline_sec + SLACK_SEC
    for (name, data), each, slot in zip(objects.data.items(), loaded, pixels, strict=True):
        match each.outcome:
            case Image() as image:
                assert image.content_sha256 == hashlib.sha256(data).hexdigest(), name
                np.testing.assert_array_equal(slot, decode.decode(data, RESIZE), name)
            case Failure() as failure:
                assert failure.stage is Stage.FETCH
                assert failure.reason.retryable
                assert not slot.any(), 'a failed image leaves its slot empty'
    assert loader.is_idle
    return {name: each.outcome for name, each in zip(objects.data, loaded, strict=True)}


def failures(outcomes: dict[str, Image | Failure]) -> dict[str, str]:
    return {
        name: outcome.reason.value
        for name, outcome in outcomes.items()
        if isinstance(outcome, Failure)
    }


def parts(*values: float, quick: tuple[str, ...], kinds: tuple[str, ...] = SPOILED):
    """Every kind with every share; in `make test` only the quick kinds, and a fifth spoiled."""
    return pytest.mark.parametrize(
        ('kind', 'part'),
        [
            pytest.param(
                kind,
                part,
                marks=[] if kind in quick and part >= 0.2 else pytest.mark.slow,
                id=f'{kind}-{part:.0%}',
            )
            for kind in kinds
            for part in values
        ],
    )


def is_about(count: int, part: float) -> bool:
    """Whether so many of all requests are the share that was meant to be chosen."""
    return 0.4 * part * COUNT <= count <= 2.5 * part * COUNT


@parts(0.01, 0.2, quick=PASSING, kinds=PASSING)
def test_passing_faults_cost_no_image(kind, part, proxy, store, objects, monkeypatch):
    # Where nothing stalls, a busy machine is no reason to ask again.
    store.tries = store.tries._replace(silence_sec=1.5 if 'stall' in kind else 8.0)
    proxy.set(Fault(kind, part, seed=4))
    assert failures(load_all(objects, 20.0)) == {}
    spoiled = sum(proxy.spoiled.values())
    assert is_about(spoiled, part)
    assert sum(proxy.attempts.values()) == COUNT + spoiled, 'nothing is asked for twice in vain'


def test_an_answer_that_is_anothers_costs_another_request(proxy, store, objects):
    listed = {entry.uri: entry for entry in store.list(objects.bucket.uri('in'))}
    loader = ThreadLoader(load_options(8.0))
    slot = np.zeros((RESIZE.size_px, RESIZE.size_px, 3), np.uint8)

    def load(item, **changes):
        entry = listed[item.uri]
        known = item._replace(version=entry.version, size_bytes=entry.size_bytes)
        return loader.load(known._replace(**changes), slot)

    proxy.set(Fault('another', 0.2, seed=4))
    for item, data in zip(objects.items(), objects.data.values(), strict=True):
        loaded = load(item)
        name = item.uri.removeprefix(objects.bucket.uri())
        if not proxy.spoiled[name]:
            assert loaded.retries == 0
        if proxy.spoiled[name] < 2:
            assert loaded.outcome.content_sha256 == hashlib.sha256(data).hexdigest()
            assert loaded.retries == proxy.spoiled[name]
    assert is_about(sum(proxy.spoiled.values()), 0.2)

    proxy.set(None)
    item, data = objects.items()[0], next(iter(objects.data.values()))
    # What was written since then comes twice.
    loaded = load(item, version='1', size_bytes=7)
    assert (loaded.outcome.object_version, loaded.retries) == (listed[item.uri].version, 1)
    assert load(item, size_bytes=7).outcome == Failure(
        Stage.FETCH,
        Reason.CHECKSUM,
        f'{len(data)} bytes, but the listing says 7',
        len(data),
        listed[item.uri].version,
    )


@parts(0.01, 0.2, quick=('drip',), kinds=DRIPPING)
def test_a_drip_costs_the_image_that_drips(kind, part, proxy, store, objects):
    proxy.set(Fault(kind, part, seed=4))
    # Long enough for those that do not drip, also where the machine is busy.
    found = failures(load_all(objects, 2.0))
    assert found == dict.fromkeys(proxy.spoiled, 'deadline')
    assert is_about(len(found), part)


@parts(0.01, 0.2, quick=('stall_within', 'drip_headers'))
def test_lasting_faults_cost_those_images_and_no_other(kind, part, proxy, store, objects):
    fault = Fault(kind, part, is_lasting=True, seed=4)
    proxy.set(fault)
    found = failures(load_all(objects, 2.0))
    chosen = {name for name in objects.data if fault.hits(name, 1)}
    assert found == dict.fromkeys(chosen, REASONS[kind])
    assert is_about(len(chosen), part)


@parts(1.0, quick=('503', 'corrupt'))
def test_faults_everywhere_end_each_image_by_its_deadline(
    kind, part, proxy, store, objects, monkeypatch
):
    # A few tries are as good as a hundred, which would keep the machine busy until the deadline.
    store.tries = store.tries._replace(pause_sec=0.1, most_pause_sec=0.4)
    proxy.set(Fault(kind, part))
    outcomes = load_all(objects.first(THREADS), 1.5)
    found = Counter(failures(outcomes).values())
    assert found.total() == THREADS
    # On a busy machine the first answer may be late.
    assert set(found) <= {REASONS[kind], 'deadline'}
    assert found[REASONS[kind]] >= 0.9 * THREADS
    details = {outcome.detail for outcome in outcomes.values()}
    assert all(detail.endswith(', until 1.5 s had passed') for detail in details)
    if kind.isdigit():
        assert f'HTTP {kind}, until 1.5 s had passed' in details


@pytest.mark.parametrize(
    ('kind', 'said'), [('503', 'HTTP 503, until'), ('corrupt', None), ('stall', 'no answer')]
)
def test_faults_everywhere_stop_a_run_that_is_to_stop(
    kind, said, proxy, store, objects, monkeypatch
):
    store.tries = store.tries._replace(pause_sec=0.1, most_pause_sec=0.4)
    proxy.set(Fault(kind, 1.0))
    loader = ThreadLoader(load_options(0.8))  # so long that the first answers are in time
    policy = FaultPolicy(FailFast(20, 'run'), StoreError)
    items = objects.items()[:20]
    pixels = np.zeros((20, RESIZE.size_px, RESIZE.size_px, 3), np.uint8)
    batch = LoadingBatch(Chunk('first', items), 0, pixels)
    loader.start(batch, policy)
    assert batch.wait(15)
    loader.close()
    if said is None:  # an object whose bytes are wrong is that object's fault
        assert len(batch.result()) == 20
        return
    with pytest.raises(StoreError) as error:
        batch.result()
    message = str(error.value)
    assert 'the first 20 images of this process all failed with ' + REASONS[kind] in message
    assert said in message
    assert any(item.uri in message for item in items)


# --- through the whole pipeline


def label_through(proxy, objects, pattern, output, *arguments):
    """Runs the command in a process of its own, whose store is the proxy."""
    source = ('--input', objects.bucket.uri(pattern), '--output', output)
    return app.command('label', *source, *arguments, STORAGE_EMULATOR_HOST=proxy.url)


def test_a_run_through_a_store_that_often_fails_labels_every_image(
    proxy, store, objects, stand_in_model, tmp_path
):
    proxy.set(Fault('503', 0.2, seed=8))
    source = ('--input', objects.bucket.uri('in/0[0-5]*'), '--output', tmp_path / 'out')
    done = app.invoke('label', *source, '--max_failure_rate', '0')
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert proxy.spoiled.total() >= 6
    assert verify(str(tmp_path / 'out')) == []
    found = {row['uri'] for row in app.rows(tmp_path / 'out', 'predictions')}
    assert found == {item.uri for item in objects.items()[:60]}


@pytest.mark.slow
def test_a_run_keeps_what_a_few_lasting_faults_leave(proxy, objects, tmp_path):
    fault = Fault('reset', 0.03, is_lasting=True, seed=4)
    proxy.set(fault)
    limits = ('--fetch_deadline_sec', 3, '--max_failure_rate', '0.1')
    done = label_through(proxy, objects, 'in/**', tmp_path / 'out', *limits)
    assert done.returncode == 0, done.stderr
    assert verify(str(tmp_path / 'out')) == []
    chosen = {objects.bucket.uri(name) for name in objects.data if fault.hits(name, 1)}
    dead = app.rows(tmp_path / 'out', 'dead_letters')
    assert 2 <= len(chosen) < 15
    assert {row['uri'] for row in dead} == chosen
    for row in dead:
        assert (row['stage'], row['reason'], row['retryable']) == ('fetch', 'store_error', True)
    assert len(app.rows(tmp_path / 'out', 'predictions')) == COUNT - len(chosen)


def test_a_run_through_a_store_that_never_answers_stops_soon(proxy, store, objects, tmp_path):
    proxy.set(Fault('503', 1.0))
    source = ('--input', objects.bucket.uri('in/**'), '--output', tmp_path / 'out')
    done = app.invoke('label', *source, '--fetch_deadline_sec', '0.5')
    assert done.returncode == 1, done.stderr
    assert 'HTTP 503' in done.stderr
    assert objects.bucket.uri('in/') in done.stderr
    assert 'Traceback' not in done.stderr
    assert 1 <= sum(name in proxy.spoiled for name in objects.data) <= 3, 'not every one was tried'
    assert not list((tmp_path / 'out').glob('**/*.parquet'))
    assert not (tmp_path / 'out' / 'runs').exists()


def test_what_is_overwritten_or_deleted_after_the_listing(
    bucket, tmp_path, monkeypatch, stand_in_model
):
    before, after = samples.picture(1), samples.picture(2, (90, 70), 'PNG')
    # Each of its own bytes: of others of the same bytes one is read for all.
    for name, data in (
        ('changed.jpg', samples.picture(3)),
        ('gone.jpg', samples.picture(4)),
        ('same.jpg', before),
    ):
        bucket.put(f'in/{name}', data)
    listed = {}
    lists = gcs.GcsStore.list

    def list_then_change(store, folder, *arguments, **options):
        for entry in list(lists(store, folder, *arguments, **options)):
            listed[entry.uri] = entry.version
            yield entry
        if folder == bucket.uri('in'):
            bucket.put('in/changed.jpg', after)
            store.delete(bucket.uri('in/gone.jpg'))

    monkeypatch.setattr(gcs.GcsStore, 'list', list_then_change)
    output = tmp_path / 'out'
    # Nothing is tried first, which would list, too.
    once = ('--fail_fast_after', '0', '--allow_empty')
    report = app.label('--input', bucket.uri('in'), '--output', output, *once)
    assert len(listed) == 3
    assert report['balanced']
    assert verify(str(output)) == []
    rows = {row['uri']: row for row in app.rows(output, 'predictions')}
    assert set(rows) == {bucket.uri('in/changed.jpg'), bucket.uri('in/same.jpg')}
    for name, data, size in (('same.jpg', before, (160, 120)), ('changed.jpg', after, (90, 70))):
        row = rows[bucket.uri(f'in/{name}')]
        now = store_for(row['uri']).stat(row['uri'])
        assert row['object_version'] == now.version
        assert row['content_sha256'] == hashlib.sha256(data).hexdigest()
        assert (row['width'], row['height']) == size
        assert (row['object_version'] == listed[row['uri']]) == (name == 'same.jpg')
    (dead,) = app.rows(output, 'dead_letters')
    assert (dead['uri'], dead['reason']) == (bucket.uri('in/gone.jpg'), 'not_found')
    assert not dead['retryable']


# --- full disks

# A mount of its own, which nobody else sees and which goes with its last process.
FULL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 77
head -c "$3" /dev/zero > "$2/filler"
shift 3
exec "$@"
"""


# Both runs are processes of their own, forked where Beam is imported already.
TWO_RUNS = """
import contextlib, logging, os, subprocess, sys
logging.basicConfig(level=logging.ERROR)
from apache_beam.runners.portability.fn_api_runner import fn_runner
from pipeline.job import finish, labelling
from tests.support import quick_beam, without_model

quick_beam.install()
disk, fills_at = os.environ['disk'], int(os.environ['fills_at'])
make_report = finish.make_report
made = 0

def make_report_late(*arguments):
    # It is made before the files are put in their places, and when they are.
    global made
    made += 1
    if made != fills_at:
        return make_report(*arguments)
    # The disk is filled by somebody else meanwhile.
    with contextlib.suppress(OSError), open(f'{disk}/filler', 'ab', 0) as filler:
        while True:
            filler.write(bytes(4096))
    return make_report(*arguments)

def run(name, make):
    child = os.fork()
    if not child:
        for number, kind in ((1, 'out'), (2, 'err')):
            os.dup2(os.open(f'{name}.{kind}', os.O_WRONLY | os.O_CREAT), number)
        finish.make_report = make
        try:
            code = without_model.run()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    with open(f'{name}.code', 'w') as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))

run('first', make_report_late)
left = subprocess.check_output(['find', disk, '-mindepth', '1', '-not', '-name', 'filler'])
with open('first.left', 'wb') as file:
    file.write(left)
if os.path.exists(f'{disk}/filler'):
    os.remove(f'{disk}/filler')
subprocess.check_call(['mount', '-o', 'remount,size=50m', disk])
run('second', make_report)
subprocess.check_call(['cp', '-r', f'{disk}/out', 'kept'])
"""


# A disk, a process and two whole runs for each; what a store says of a full disk is in test_local.
@pytest.mark.parametrize(
    ('size', 'filler_bytes', 'fills_at', 'what'),
    [
        pytest.param('4k', 4096, 0, '_work/_lease.json', marks=pytest.mark.slow),
        pytest.param('64k', 0, 0, '_work/full/listing/', marks=pytest.mark.slow),
        pytest.param('128k', 0, 0, '_work/full/chunks/', marks=pytest.mark.slow),
        pytest.param('224k', 0, 0, 'part-0', marks=pytest.mark.slow),
        pytest.param('320k', 0, 0, 'vocabularies/', marks=pytest.mark.slow),
        pytest.param('1m', 0, 1, '_work/full/commit.json', marks=pytest.mark.slow),
        pytest.param('1m', 0, 2, 'runs/full/report.json', marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(
    size, filler_bytes, fills_at, what, tmp_path
):
    if shutil.which('unshare') is None:
        pytest.skip('no disk can be mounted here: there is no unshare')
    lines = [f'/photos/{i:04d}.jpg,{random.Random(i).randbytes(90).hex()}' for i in range(600)]
    (tmp_path / 'list.csv').write_text('\n'.join(['uri,note', *lines, '']))
    disk = tmp_path / 'disk'
    disk.mkdir()
    script = ('unshare', '-Urm', 'sh', '-c', FULL_DISK, 'sh', size, disk, str(filler_bytes))
    run = (sys.executable, '-c', TWO_RUNS, 'label')
    run += ('--input', tmp_path / 'list.csv', '--carry', 'note', '--run_id', 'full')
    environment = {'disk': str(disk), 'fills_at': str(fills_at)}
    environment |= {'PYTHONPATH': str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*script, *run, '--output', disk / 'out'],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0 and not (tmp_path / 'first.code').exists():
        pytest.skip(f'no disk can be mounted here: {done.stderr.strip() or done.returncode}')

    def said(name):
        return (tmp_path / name).read_text()

    assert said('first.code') == '1', said('first.err')
    lines = said('first.err').splitlines()
    assert lines[0].startswith(f'lemmabeam: cannot write {disk}/out/')
    assert what in lines[0]
    assert lines[0].endswith(': No space left on device')
    assert len(lines) <= 2, 'and that the run did not finish'
    left = said('first.left')
    for name in ('report.json', '_lease.json', '.tmp'):
        assert name not in left
    if what != 'runs/full/report.json':  # else they are decided on, and in their places
        assert '.parquet' not in left.replace('/vocabularies/ilsvrc2012-c106702a.parquet', '')
        assert 'run=full' not in left
    assert done.returncode == 0, done.stderr
    assert said('second.code') == '0', said('second.err')
    assert verify(str(tmp_path / 'kept')) == []
    assert len(app.rows(tmp_path / 'kept', 'predictions')) == 600
