"""Only what is new is labelled: by version in the listing, or by a conditional read.

What is not checked here: what a merge of all that is known of a URI comes to (test_chunks), and
the speed with many refs (tests/benchmarks/scale.py).
"""

import contextlib
import datetime
import json
import os
from operator import itemgetter

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from pipeline.verify import verify
from tests import samples
from tests.datasets import Row, add_run, edit_json
from tests.loopback import Handler, LoopbackServer
from tests.states import Place, known_to, settled
from tests.support import label, make_config, python, stand_in
from transforms.errors import StoreError, UsageError
from transforms.history import has_listed, read_history
from transforms.listing import Columns, list_input, resolve
from transforms.rows import FetchLimits, NotModified
from transforms.runs import CompleteRun
from transforms.storage import store_for
from transforms.storage_gcs import GcsStore
from transforms.storage_http import HttpStore
from transforms.storage_local import LocalStore
from transforms.storage_s3 import S3Store

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


@pytest.fixture(params=['local', 'bucket', pytest.param('s3_bucket', marks=pytest.mark.slow)])
def place(request, tmp_path):
    """A folder, and a fresh bucket of each kind; the S3 server takes its time for whole runs."""
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
LIMIT = len(LARGE) - 1


def test_only_what_is_new_changed_or_may_succeed_now_is_read(place, reads):
    for i in range(6):
        place.put(f'in/{i:02d}.jpg', samples.picture(i))
    for name, data in samples.BAD.items():
        place.put(f'in/{name}', data)
    large = place.put('in/large.jpg', LARGE)
    arguments = ('--input', place.uri('in'), '--output', place.uri('out'))
    first = label(*arguments, '--run_id', 'night-1', '--max_bytes', LIMIT)
    assert numbers(first) == {'labeled': 6, 'unchanged': 0, 'dead_lettered': 4, 'gone': 0}
    assert first['counts']['dead_lettered_by_reason']['too_many_bytes'] == 1

    reads.clear()
    changed = [
        place.put('in/03.jpg', samples.picture(103)),
        place.put('in/new.jpg', samples.picture(104)),
        place.put('in/empty.png', samples.picture(105)),
    ]
    delete(place, 'in/05.jpg')
    second = label(*arguments, '--run_id', 'night-2', '--max_bytes', '1MB')
    assert numbers(second) == {'labeled': 4, 'unchanged': 6, 'dead_lettered': 0, 'gone': 1}
    assert sorted(reads) == sorted((uri, True) for uri in [*changed, large])
    assert [run['sequence'] for run in (first, second)] == [1, 2]
    assert verify(place.uri('out')) == []


def test_a_manifest_is_read_conditionally(place, reads, tmp_path):
    uris = [place.put(f'in/{i}.jpg', samples.picture(i)) for i in range(4)]
    uris.append(place.put('in/large.jpg', LARGE))
    manifest = tmp_path / 'list.csv'
    bad_line = 'ftp://x/y.jpg'
    manifest.write_text('uri,split\n' + ''.join(f'{uri},a\n' for uri in [*uris, bad_line]))
    arguments = ('--input', manifest, '--output', place.uri('out'), '--carry', 'split')
    first = label(*arguments, '--max_bytes', LIMIT)
    assert numbers(first)['labeled'] == 4
    assert first['counts']['dead_lettered_by_reason'] == {'bad_uri': 1, 'too_many_bytes': 1}
    reads.clear()
    place.put('in/2.jpg', samples.picture(12))
    report = label(*arguments, '--max_bytes', LIMIT)
    assert numbers(report) == {'labeled': 1, 'unchanged': 5, 'dead_lettered': 0, 'gone': 0}
    assert sorted(reads) == [(uri, uri == uris[2]) for uri in uris]
    assert verify(place.uri('out')) == []
    if not isinstance(place, Folder):
        return  # the rest does not depend on where images lie
    # The same image under another value is a new row, and must be read for it.
    manifest.write_text(f'uri,split\n{uris[0]},a\n{uris[0]},b\n{uris[-1]},a\n')
    report = label(*arguments, '--max_bytes', '1MB')
    assert numbers(report) == {'labeled': 3, 'unchanged': 0, 'dead_lettered': 0, 'gone': 3}
    assert verify(place.uri('out')) == []


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
    def is_same(kind, column):
        inputs = [{'kind': kind, 'uri': '/list.csv', 'pattern': ''}]
        report = {'command': 'label', 'inputs': inputs, 'options': {'uri_column': 'uri'}}
        return has_listed(CompleteRun(1, '', 'night-1', report), inputs, column)

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


def test_nothing_to_do_reads_nothing_and_imports_no_tensorflow(labelled):
    (labelled / '0000.jpg').unlink()
    source = f'{labelled.parent}/x/../in/'
    arguments = ['label', *map(str, arguments_for(labelled)), '--run_id', 'second']
    arguments[2] = source  # written otherwise, but the same
    code = (
        'import sys; from pipeline.main import main; '
        'from transforms.storage_local import LocalStore; LocalStore.fetch = None; '
        f'assert main({arguments!r}) == 0; '
        'assert not {"tensorflow", "keras"} & set(sys.modules)'
    )
    process = python('-c', code)
    assert process.returncode == 0, process.stderr
    report = json.loads((labelled.parent / 'out/runs/second/report.json').read_text())
    assert report['sequence'] == 2
    assert numbers(report) == {'labeled': 0, 'unchanged': 7, 'dead_lettered': 0, 'gone': 1}


def test_an_earlier_run_that_is_damaged_stops_this_one(labelled, capsys):
    output = labelled.parent / 'out'
    (part,) = output.glob('predictions/*/run=first/*.parquet')
    data = part.read_bytes()
    before = sorted(output.glob('**/*'))
    config = settled(*arguments_for(labelled))
    (file,) = (each for each in config.history if output / each.path == part)
    for damaged in (data[:-100], b'', None):
        part.unlink() if damaged is None else part.write_bytes(damaged)
        with pytest.raises(StoreError, match=f'{part}, of a complete run, is missing or damaged'):
            list(read_history(file, config.layout))
    assert main(['label', *map(str, arguments_for(labelled))]) == 1
    error = capsys.readouterr().err
    assert f'{part}, of a complete run, is missing or damaged' in error
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


def test_a_row_is_gone_from_the_first_run_that_did_not_find_it_until_it_is_back(local):
    folder = local.at('labelled') / 'in'
    output, name, apart = folder.parent / 'out', '0002.jpg', folder.parent / 'apart.jpg'

    def run(*more, source=folder):
        report = label('--input', source, '--output', output, *more)
        assert verify(str(output)) == []
        return report

    def since():
        rows = duckdb.sql((output / 'latest.sql').read_text()).to_arrow_table().to_pylist()
        assert len(rows) == 5
        target = folder.parent / 'latest.parquet'
        assert main(['latest', str(output), '--output', str(target)]) == 0
        key = itemgetter('uri')
        assert sorted(pq.read_table(target).to_pylist(), key=key) == sorted(rows, key=key)
        gone = {row['uri']: row['gone_since'] for row in rows if row['gone_since']}
        assert gone.keys() <= {str(folder / name)}
        return gone.get(str(folder / name))

    assert since() is None
    (folder / name).rename(apart)
    run('--sample', '3')
    run(source=f'{folder}/**')
    assert since() is None, 'neither a part nor other inputs tell'
    second = run()
    assert second['counts']['gone'] == 1
    when = datetime.datetime.fromisoformat(second['started_at'])
    assert since() == when
    assert run()['counts']['gone'] == 1
    assert since() == when, 'since the first of them'
    # A copy keeps it, whatever becomes of the runs that found it out.
    assert main(['relabel', '--output', str(output), '--run_id', 'copy']) == 0
    assert since() == when
    assert main(['clean', str(output), '--prune_before', 'copy']) == 0
    assert verify(str(output)) == []
    assert since() == when
    third = run()
    assert (third['counts']['gone'], third['counts']['unchanged']) == (1, 4)
    assert since() == when
    apart.rename(folder / name)
    fourth = run()
    assert (fourth['counts']['gone'], fourth['counts']['labeled']) == (0, 0)
    assert since() is None, 'it is back, as it was, and nothing is paid for it'
