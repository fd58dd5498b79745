"""Only what is new is labelled: by version in the listing, or by a conditional read.

What is not checked here: what a merge of all that is known of a URI comes to (test_chunks), and
the speed with many refs (tests/benchmarks/scale.py).
"""

import contextlib
import dataclasses
import datetime
import os
import sys
from collections import defaultdict
from operator import itemgetter

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from tests.support import app, datasets, samples
from tests.support.app import label, make_config, stand_in
from tests.support.datasets import Row, add_run, edit_json
from tests.support.loopback import Handler, LoopbackServer
from tests.support.states import Place, known_to, settled
from transforms.chunks import merge
from transforms.core.errors import StoreError, UsageError
from transforms.dataset.verify import verify
from transforms.model.predictor import Predictor
from transforms.output import predictions
from transforms.output.layout import Layout
from transforms.runs.complete import CompleteRun
from transforms.runs.history import has_listed, read_history
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve
from transforms.storage.base import FetchLimits, NotModified
from transforms.storage.gcs import GcsStore
from transforms.storage.http import HttpStore
from transforms.storage.local import LocalStore
from transforms.storage.registry import store_for
from transforms.storage.s3 import S3Store

LIMITS = FetchLimits(max_bytes=2**20, deadline_sec=10.0)


@pytest.fixture(scope='module', autouse=True)
def no_model():
    """What the model sees in a picture is not looked at here."""
    with stand_in():
        yield


class Folder:
    """A folder that is filled as buckets are."""

    def __init__(self, path):
        self._path = path

    def uri(self, name=''):
        return str(self._path / name)

    def put(self, name, data):
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)


def place_of(request, tmp_path):
    if request.param == 'local':
        return Folder(tmp_path / 'place')
    return request.getfixturevalue(request.param)


@pytest.fixture(
    params=[
        'bucket',
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('local', 's3_bucket')),
    ]
)
def place(request, tmp_path):
    """A fresh bucket of each kind, and a folder.

    The S3 server takes its time for whole runs; most other runs of these tests are in folders.
    """
    return place_of(request, tmp_path)


@pytest.fixture(params=['local', 'bucket', 's3_bucket'])
def every_place(request, tmp_path):
    """The same for tests of a few requests."""
    return place_of(request, tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """(URI, whether bytes were moved) of every read of an image, in this process."""
    found = []
    for store in (LocalStore, GcsStore, S3Store, HttpStore):
        original = store.fetch

        def fetch(self, uri, limits, admit, unless='', original=original):
            try:
                fetched = original(self, uri, limits, admit, unless)
            except NotModified:
                found.append((uri, False))
                raise
            found.append((uri, True))
            return fetched

        monkeypatch.setattr(store, 'fetch', fetch)
    return found


def delete(place, name):
    store_for(place.uri(name)).delete(place.uri(name))


def numbers(report):
    counts = report['counts']
    assert report['balanced']
    return {name: counts[name] for name in ('labeled', 'unchanged', 'dead_lettered', 'gone')}


LARGE = samples.picture(1, (640, 480))
WIDE = samples.picture(2, (400, 300), 'WEBP')
LIMIT = len(LARGE) - 1


def test_only_what_is_new_changed_or_may_succeed_now_is_read(place, reads, tmp_path):
    """Of a folder by the versions it lists, of a manifest by a conditional read."""

    def put(folder, name, seed):
        return place.put(f'{folder}/{name}', samples.picture(seed))

    def write_manifest(uris):
        manifest.write_text('\n'.join([*uris, 'ftp://x/y.jpg', '']))

    for i in range(6):
        put('in', f'{i:02d}.jpg', i)
    for name, data in samples.BAD.items():
        place.put(f'in/{name}', data)
    large, _, large_there, wide_there = (
        place.put(f'{folder}/{name}', data)
        for folder in ('in', 'there')
        for name, data in (('large.jpg', LARGE), ('wide.png', WIDE))
    )
    uris = [put('there', f'{i}.jpg', i) for i in range(4)]
    manifest = tmp_path / 'list.txt'
    write_manifest([*uris, large_there, wide_there])
    arguments = ('--input', place.uri('in'), '--input', manifest, '--output', place.uri('out'))
    arguments += ('--max_pixels', 100_000)
    first = label(*arguments, '--run_id', 'night-1', '--max_bytes', LIMIT)
    assert numbers(first) == {'labeled': 10, 'unchanged': 0, 'dead_lettered': 8, 'gone': 0}
    reasons = first['counts']['dead_lettered_by_reason']
    assert (reasons['too_many_bytes'], reasons['too_many_pixels'], reasons['bad_uri']) == (2, 2, 1)

    reads.clear()
    changed = [
        put('in', '03.jpg', 103),
        put('in', 'new.jpg', 104),
        put('in', 'empty.png', 105),
        put('there', '2.jpg', 12),
    ]
    delete(place, 'in/05.jpg')
    write_manifest([*uris[1:], large_there, wide_there])
    second = label(*arguments, '--run_id', 'night-2', '--max_bytes', '1MB')
    assert numbers(second) == {'labeled': 6, 'unchanged': 11, 'dead_lettered': 0, 'gone': 2}
    moved = [*changed, large, large_there]
    asked = [uris[1], uris[3], wide_there]
    assert sorted(reads) == sorted([(uri, uri in moved) for uri in (*moved, *asked)])
    assert [run['sequence'] for run in (first, second)] == [1, 2]
    assert verify(place.uri('out')) == []


def test_an_image_under_another_value_is_a_new_row_and_is_read_for_it(tmp_path):
    manifest = tmp_path / 'list.csv'
    manifest.write_text('uri,split\n/0.jpg,a\n/0.jpg,b\n/1.jpg,a\n')
    arguments = ('--input', manifest, '--output', tmp_path / 'out', '--carry', 'split')
    config, _ = make_config(*arguments)
    metadata = {name: text for name, text in config.metadata.items() if name != 'model_id'}
    rows = [Row(f'/{i}.jpg', carried=('a',), version=f'v{i}') for i in range(2)]
    model_id = config.layout.model_id
    add_run(tmp_path / 'out', 'first', rows, carry=('split',), model_id=model_id, **metadata)
    config = settled(*arguments)
    (source,) = config.listing.inputs
    refs, known = defaultdict(list), defaultdict(list)
    for ref in list_input(source, config.listing.columns):
        refs[ref.uri].append(ref)
    for file in config.history:
        for uri, each in read_history(file, config.layout):
            known[uri].append(each)
    again, same = (merge(refs[uri], known[uri]) for uri in ('/0.jpg', '/1.jpg'))
    assert (again.item.carried, again.item.known) == (['["a"]', '["b"]'], '')
    assert same.item.known == 'v1'


def test_an_object_is_read_unless_it_has_the_version(every_place):
    uri = every_place.put('a.jpg', b'one')
    store = store_for(uri)
    version = store.fetch(uri, LIMITS, lambda _: None).version
    with pytest.raises(NotModified):
        store.fetch(uri, LIMITS, lambda _: None, version)
    assert store.fetch(uri, LIMITS, lambda _: None, '1').data == b'one'
    every_place.put('a.jpg', b'other')
    assert store.fetch(uri, LIMITS, lambda _: None, version).data == b'other'


class ConditionalServer(LoopbackServer):
    """Answers as GCS, and as a web server with an ETag or a date; counts the bytes of bodies."""

    def __init__(self, knows_conditions):
        self.sent = 0
        self.validator = ('ETag', '"v1"')
        outer = self

        class Answering(Handler):
            def respond(self):
                name, value = outer.validator
                asked = {self.headers.get('If-None-Match'), self.headers.get('If-Modified-Since')}
                if f'ifGenerationNotMatch={value}' in self.path:
                    asked.add(value)
                is_known = knows_conditions and value in asked
                data = b'' if is_known else b'an image'
                self.send_response(304 if is_known else 200)
                self.send_header(name, value)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                outer.sent += len(data)
                self.wfile.write(data)

        super().__init__(Answering)


@pytest.mark.parametrize(
    'validator',
    [('ETag', '"v1"'), ('ETag', 'W/"v1"'), ('Last-Modified', 'Tue, 24 Nov 2026 01:02:03 GMT')],
)
def test_a_web_server_is_asked_for_another_version_only(validator):
    with contextlib.closing(ConditionalServer(True)) as server:
        server.validator = validator
        store = HttpStore(allow_private_hosts=True)
        fetched = store.fetch(f'{server.url}/a.jpg', LIMITS, lambda _: None)
        assert fetched.version == validator[1]
        sent = server.sent
        with pytest.raises(NotModified):
            store.fetch(f'{server.url}/a.jpg', LIMITS, lambda _: None, fetched.version)
        assert server.sent == sent


def test_a_web_server_that_knows_no_conditions():
    with contextlib.closing(ConditionalServer(False)) as server:
        store = HttpStore(allow_private_hosts=True)
        with pytest.raises(NotModified):
            store.fetch(f'{server.url}/a.jpg', LIMITS, lambda _: None, '"v1"')
        assert store.fetch(f'{server.url}/a.jpg', LIMITS, lambda _: None, '"v0"').data


def test_gcs_is_asked_for_another_generation_only(monkeypatch):
    with contextlib.closing(ConditionalServer(True)) as server:
        server.validator = ('x-goog-generation', '7')
        monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
        store = GcsStore()
        assert store.fetch('gs://bucket/a.jpg', LIMITS, lambda _: None).version == '7'
        sent = server.sent
        with pytest.raises(NotModified):
            store.fetch('gs://bucket/a.jpg', LIMITS, lambda _: None, '7')
        assert server.sent == sent


def write_files(place):
    samples.write_pictures(place.root / 'in', 5)


def label_files(place):
    folder = place.at('files') / 'in'
    label('--input', folder, '--output', place.root / 'out', '--run_id', 'first')


@pytest.fixture(scope='module')
def local(tmp_path_factory):
    states = {'files': write_files, 'labelled': label_files}
    return Place(tmp_path_factory.mktemp('history'), states)


@pytest.fixture
def folder(local):
    """Five pictures and three bad files that nothing was done with yet."""
    return local.at('files') / 'in'


@pytest.fixture
def labelled(local):
    """The same behind the run `first`; its output is beside it."""
    return local.at('labelled') / 'in'


def arguments_for(folder, *more):
    return ('--input', folder, '--output', folder.parent / 'out', *more)


OTHERS = [
    (
        ('--threshold', '0.2'),
        '--keep_above or --threshold: stored_floor is {}, but {} in',
        ('0.2', '0.05'),
    ),
    (('--max_labels', '3'), '--max_labels: max_labels is {}, but {} in', ('3', '5')),
    (('--min_labels', '1'), '--min_labels: min_labels is {}, but {} in', ('1', '0')),
    (('--features',), '--features: features is {}, but {} in', ('true', 'false')),
]


def test_what_is_unchanged_does_not_make_an_input_too_large(labelled):
    done = app.invoke('label', *arguments_for(labelled, '--max_images', '1'))
    assert done.returncode == 0, done.stderr
    for name in ('new.jpg', 'newer.jpg'):
        (labelled / name).write_bytes(name.encode())
    done = app.invoke('label', *arguments_for(labelled, '--max_images', '1'))
    assert done.returncode == 2
    assert '--max_images 1: more than 9 distinct images are listed' in done.stderr
    assert 'at most 8 of them unchanged' in done.stderr


@pytest.mark.parametrize(('flags', 'said', 'values'), OTHERS)
def test_rows_that_would_mean_something_else_are_refused_unless_forced(
    labelled, flags, said, values
):
    arguments = arguments_for(labelled)
    with pytest.raises(UsageError, match=said.format(*values)) as error:
        settled(*arguments, *flags)
    assert 'run first' in str(error.value)
    assert '--force' in str(error.value)
    assert not list(labelled.parent.glob('out/_work/*'))
    assert settled(*arguments, *flags, '--force').history == ()


def test_what_was_forced_is_what_the_dataset_has_from_then_on(labelled):
    (labelled / '0000.jpg').unlink()
    arguments = arguments_for(labelled)
    every = [flag for flags, _, _ in OTHERS for flag in flags]
    forced = label(*arguments, *every, '--force', '--run_id', 'forced')
    # What was labelled is not read, so that nobody knows what is gone.
    assert numbers(forced) == {'labeled': 4, 'unchanged': 0, 'dead_lettered': 3, 'gone': None}
    assert len(known_to(settled(*arguments, *every))) == 8
    for flags, said, values in OTHERS:
        others = [flag for each, _, _ in OTHERS if each != flags for flag in each]
        with pytest.raises(UsageError, match=f'{said.format(*reversed(values))} run forced'):
            settled(*arguments, *others)


def test_a_higher_threshold_over_the_same_floor_is_no_other_dataset(folder):
    arguments = arguments_for(folder, '--max_labels', '50')
    low = (*arguments, '--keep_above', '0.01')
    config, _ = make_config(*low)
    assert config.metadata['stored_floor'] == '0.01'
    assert config.metadata['threshold'] == '0.05'
    metadata = {name: text for name, text in config.metadata.items() if name != 'model_id'}
    rows = [Row(str(path)) for path in sorted(folder.iterdir())]
    add_run(folder.parent / 'out', 'first', rows, model_id=config.layout.model_id, **metadata)
    assert len(known_to(settled(*low, '--threshold', '0.5'))) == len(rows)
    with pytest.raises(UsageError, match=r'stored_floor is 0\.05, but 0\.01 in run first'):
        settled(*arguments)
    with pytest.raises(UsageError, match=r'--keep_above 0\.6 is above the threshold 0\.05'):
        settled(*arguments, '--keep_above', '0.6')


def test_since_leaves_out_what_is_older(every_place):
    every_place.put('in/a.jpg', b'a')
    source = resolve(every_place.uri('in'), Columns('uri', (), ()))
    now = datetime.datetime.now(datetime.UTC).timestamp()
    (found,) = list_input(source, Columns('uri', (), ()), now - 7200)
    assert found.uri == every_place.uri('in/a.jpg')
    assert list(list_input(source, Columns('uri', (), ()), now + 7200)) == ['skipped_before_since']


def test_dead_ones_are_tried_again_when_asked_for_and_old_ones_left_out(labelled, reads):
    (labelled / '0001.jpg').unlink()
    for name in ('0002.jpg', 'notes.jpg'):
        os.utime(labelled / name, (0, 0))
    report = label(*arguments_for(labelled, '--retry_dead', '--since', '2h'))
    assert report['counts']['skipped_before_since'] == 2
    assert report['counts']['listed'] == 5
    # Of what is left out nobody knows whether it is gone.
    assert numbers(report) == {'labeled': 0, 'unchanged': 3, 'dead_lettered': 2, 'gone': None}
    assert not any(row['gone_since'] for row in latest_rows(labelled.parent / 'out'))
    assert sorted(reads) == [(str(labelled / name), True) for name in ('empty.png', 'half.jpg')]


@pytest.mark.parametrize('since', ['yesterday', '7', '7y', '2026-13-01', ''])
def test_since_must_be_a_time_or_an_age(folder, since):
    with pytest.raises(UsageError, match='--since'):
        make_config(*arguments_for(folder, '--since', since))


def test_since_is_a_time_or_an_age(folder):
    config, _ = make_config(*arguments_for(folder, '--since', '2999-01-01'))
    assert config.listing.since == datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC).timestamp()
    config, _ = make_config(*arguments_for(folder, '--since', '2h'))
    assert config.started_at.timestamp() - config.listing.since == pytest.approx(7200)


def test_since_and_manifests(folder, tmp_path):
    manifest = tmp_path / 'list.txt'
    manifest.write_text(f'{folder}/0000.jpg\n')
    with pytest.raises(UsageError, match=r'--since 2h: --input .*list.txt is a manifest'):
        make_config('--input', manifest, '--output', tmp_path / 'out', '--since', '2h')


def test_another_column_of_a_manifest_is_another_input():
    whole = datasets.report_of(Layout('/out', 'night-1', 'm', (), (), 1), [], {})

    def is_same(kind, column):
        inputs = ({'kind': kind, 'uri': '/list.csv', 'pattern': ''},)
        report = dataclasses.replace(whole, inputs=inputs, options={'uri_column': 'uri'})
        return has_listed(CompleteRun.of('night-1', report), inputs, column)

    assert is_same('manifest', 'uri')
    assert not is_same('manifest', 'thumbnail')
    assert is_same('folder', 'thumbnail')


def test_what_other_inputs_had_is_not_gone(labelled):
    def is_same_input(source, *more):
        config = settled('--input', source, '--output', labelled.parent / 'out', *more)
        assert config.is_part == bool(more)
        rows = [row for file in config.history for row in read_history(file, config.layout)]
        assert len(rows) == 8
        (is_same,) = {known.is_same_input for _, known in rows}
        return is_same

    assert is_same_input(labelled)
    assert is_same_input(labelled, '--sample', '2')
    assert is_same_input(f'{labelled.parent}/x/../in/'), 'written otherwise, but the same'
    assert not is_same_input(f'{labelled}/**')
    assert not is_same_input(f'{labelled}/*')


def test_another_model_and_other_preprocessing_label_everything(labelled):
    same, other = (settled(*arguments_for(labelled, *more)) for more in ((), ('--model_size', 192)))
    assert len(known_to(same)) == 8
    assert other.layout.model_id != same.layout.model_id
    assert other.history == ()


def test_nothing_to_do_reads_nothing_and_imports_no_tensorflow(labelled, reads, monkeypatch):
    """What is imported with a module would be seen by the first test: see `tests.support.tiers`."""
    (labelled / '0000.jpg').unlink()
    for name in ('tensorflow', 'keras'):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    source = f'{labelled.parent}/x/../in/'  # written otherwise, but the same
    with app.stand_in(Predictor):
        report = label('--input', source, '--output', labelled.parent / 'out', '--run_id', 'second')
    assert report['sequence'] == 2
    assert numbers(report) == {'labeled': 0, 'unchanged': 7, 'dead_lettered': 0, 'gone': 1}
    assert reads == []


def test_an_earlier_run_that_is_damaged_stops_this_one(labelled, capsys):
    output = labelled.parent / 'out'
    (part,) = output.glob('predictions/*/run=first/*.parquet')
    data = part.read_bytes()
    before = sorted(path for path in output.glob('**/*') if path.is_file())
    config = settled(*arguments_for(labelled))
    (file,) = (each for each in config.history if output / each.path == part)
    for damaged in (data[:-100], b'', None):
        part.unlink() if damaged is None else part.write_bytes(damaged)
        with pytest.raises(
            StoreError, match=f'{part}, part of a complete run, is missing or damaged'
        ):
            list(read_history(file, config.layout))
    assert main(['label', *map(str, arguments_for(labelled))]) == 1
    error = capsys.readouterr().err
    assert f'{part}, part of a complete run, is missing or damaged' in error
    assert '--force labels everything again' in error
    part.write_bytes(data)
    report = output / 'runs/first/report.json'
    report.write_text('{')
    with pytest.raises(StoreError, match=r'report\.json is damaged'):
        settled(*arguments_for(labelled))
    assert [path for path in before if not path.exists()] == []


def test_a_dataset_of_another_schema_version_is_refused(labelled):
    output = labelled.parent / 'out'
    edit_json(output / 'dataset.json', lambda spec: spec.update(schema_version=2))
    with pytest.raises(UsageError, match='"schema_version": 2'):
        settled(*arguments_for(labelled))
    assert not list(output.glob('_work/*'))


def latest_rows(output):
    """By `latest.sql`, which the command agrees with."""
    rows = duckdb.sql((output / 'latest.sql').read_text()).to_arrow_table().to_pylist()
    target = output.parent / 'latest.parquet'
    assert main(['latest', str(output), '--output', str(target)]) == 0
    key = itemgetter('uri')
    assert sorted(pq.read_table(target).to_pylist(), key=key) == sorted(rows, key=key)
    return rows


def test_a_row_is_gone_from_the_first_run_that_did_not_find_it_until_it_is_back(local):
    """Neither a part nor other inputs tell: above, and what is noted of them in test_chunks."""
    folder = local.at('labelled') / 'in'
    output, name, apart = folder.parent / 'out', '0002.jpg', folder.parent / 'apart.jpg'

    def run():
        report = label('--input', folder, '--output', output)
        assert verify(str(output)) == []
        return report

    def since():
        rows = latest_rows(output)
        assert len(rows) == 5
        gone = {row['uri']: row['gone_since'] for row in rows if row['gone_since']}
        assert gone.keys() <= {str(folder / name)}
        return gone.get(str(folder / name))

    assert since() is None
    (folder / name).rename(apart)
    second = run()
    assert second['counts']['gone'] == 1
    when = datetime.datetime.fromisoformat(second['started_at'])
    assert since() == when
    # A copy keeps it, whatever becomes of the runs that found it out.
    assert main(['relabel', '--output', str(output), '--run_id', 'copy']) == 0
    assert since() == when
    assert main(['clean', str(output), '--prune_before', 'copy']) == 0
    assert verify(str(output)) == []
    assert since() == when
    third = run()
    assert (third['counts']['gone'], third['counts']['unchanged']) == (1, 4)
    assert since() == when, 'since the first of them'
    apart.rename(folder / name)
    fourth = run()
    assert (fourth['counts']['gone'], fourth['counts']['labeled']) == (0, 0)
    (path,) = output.glob(f'predictions/*/run={fourth["run_id"]}/*.parquet')
    assert pq.read_table(path).num_rows == 0
    assert pq.ParquetFile(path).schema_arrow.names == predictions.prediction_schema((), {}).names
    assert since() is None, 'it is back, as it was, and nothing is paid for it'
