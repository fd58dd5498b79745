"""Only what is new is labelled: by version in the listing, or by a conditional read.

What is not checked here: what a merge of all that is known of a URI comes to (test_chunks), and
the speed with many refs (tests/benchmarks/scale.py).
"""

import contextlib
import json

import pytest

from pipeline.main import main
from pipeline.verify import verify
from tests import samples
from tests.loopback import Handler, LoopbackServer
from tests.support import label, python
from transforms.errors import StoreError, UsageError
from transforms.rows import FetchLimits, NotModified
from transforms.storage import store_for
from transforms.storage_gcs import GcsStore
from transforms.storage_http import HttpStore
from transforms.storage_local import LocalStore
from transforms.storage_s3 import S3Store

# What the model sees in a picture is not looked at here.
pytestmark = pytest.mark.usefixtures('stand_in_model')

LIMITS = FetchLimits(max_bytes=2**20, deadline_sec=10.0)


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


def test_a_second_run_reads_nothing_and_one_changed_new_and_deleted_object_are_told_apart(
    place, reads, tmp_path
):
    for i in range(12):
        place.put(f'in/{i:02d}.jpg', samples.picture(i))
    for name, data in samples.BAD.items():
        place.put(f'in/{name}', data)
    output = place.uri('out')
    arguments = ('--input', place.uri('in'), '--output', output)
    first = label(*arguments, '--run_id', 'night-1')
    assert numbers(first) == {'labeled': 12, 'unchanged': 0, 'dead_lettered': 3, 'gone': 0}

    reads.clear()
    second = label(*arguments, '--run_id', 'night-2')
    assert numbers(second) == {'labeled': 0, 'unchanged': 15, 'dead_lettered': 0, 'gone': 0}
    assert reads == []
    assert [run['sequence'] for run in (first, second)] == [1, 2]

    changed = place.put('in/03.jpg', samples.picture(103))
    new = place.put('in/new.jpg', samples.picture(104))
    delete(place, 'in/05.jpg')
    third = label(*arguments, '--run_id', 'night-3')
    assert numbers(third) == {'labeled': 2, 'unchanged': 13, 'dead_lettered': 0, 'gone': 1}
    assert sorted(reads) == [(changed, True), (new, True)]
    assert verify(output) == []


def test_what_was_permanently_dead_is_left_alone_until_it_changes_or_is_asked_for(
    place, reads, tmp_path
):
    place.put('in/good.jpg', samples.picture(1))
    bad = place.put('in/bad.jpg', b'no picture')
    arguments = ('--input', place.uri('in'), '--output', place.uri('out'))
    label(*arguments)
    reads.clear()
    assert numbers(label(*arguments, '--retry_dead'))['dead_lettered'] == 1
    assert reads == [(bad, True)]
    place.put('in/bad.jpg', samples.picture(2))
    assert numbers(label(*arguments)) == {
        'labeled': 1,
        'unchanged': 1,
        'dead_lettered': 0,
        'gone': 0,
    }


def test_a_manifest_is_read_conditionally(place, reads, tmp_path):
    uris = [place.put(f'in/{i}.jpg', samples.picture(i)) for i in range(4)]
    manifest = tmp_path / 'list.csv'
    bad_line = 'ftp://x/y.jpg'
    manifest.write_text('uri,split\n' + ''.join(f'{uri},a\n' for uri in [*uris, bad_line]))
    arguments = ('--input', manifest, '--output', place.uri('out'), '--carry', 'split')
    assert numbers(label(*arguments))['labeled'] == 4
    reads.clear()
    place.put('in/2.jpg', samples.picture(12))
    report = label(*arguments)
    assert numbers(report) == {'labeled': 1, 'unchanged': 4, 'dead_lettered': 0, 'gone': 0}
    assert sorted(reads) == [(uri, uri == uris[2]) for uri in uris]
    # The same image under another value is a new row, and must be read for it.
    manifest.write_text(f'uri,split\n{uris[0]},a\n{uris[0]},b\n')
    report = label(*arguments)
    assert numbers(report) == {'labeled': 2, 'unchanged': 0, 'dead_lettered': 0, 'gone': 3}
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


@pytest.fixture
def folder(tmp_path):
    for path in samples.write_pictures(tmp_path / 'in', 5):
        if path.name in samples.BAD:
            path.unlink()
    return tmp_path / 'in'


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['--threshold', '0.2'], '--keep_above or --threshold: stored_floor is 0.2, but 0.05'),
        (['--max_labels', '3'], '--max_labels: max_labels is 3, but 5'),
        (['--min_labels', '1'], '--min_labels: min_labels is 1, but 0'),
        (['--features'], '--features: features is true, but false'),
    ],
)
def test_rows_that_would_mean_something_else_are_refused_unless_forced(
    folder, tmp_path, flags, said
):
    arguments = ('--input', folder, '--output', tmp_path / 'out')
    label(*arguments, '--run_id', 'first')
    with pytest.raises(UsageError, match=said) as error:
        label(*arguments, *flags)
    assert 'run first' in str(error.value)
    assert '--force' in str(error.value)
    assert numbers(label(*arguments, *flags, '--force'))['labeled'] == 5
    # From then on, that is what the dataset has.
    assert numbers(label(*arguments, *flags))['unchanged'] == 5


def test_a_higher_threshold_over_the_same_floor_is_no_other_dataset(folder, tmp_path):
    arguments = ('--input', folder, '--output', tmp_path / 'out', '--keep_above', '0.01')
    first = label(*arguments, '--max_labels', '50')
    assert first['metadata']['stored_floor'] == '0.01'
    assert first['metadata']['threshold'] == '0.05'
    second = label(*arguments, '--max_labels', '50', '--threshold', '0.5')
    assert numbers(second)['unchanged'] == 5
    with pytest.raises(UsageError, match=r'--keep_above 0\.6 is above the threshold 0\.05'):
        label('--input', folder, '--output', tmp_path / 'out', '--keep_above', '0.6')


def test_since_leaves_out_what_is_older(place):
    place.put('in/a.jpg', samples.picture(1))
    arguments = ('--input', place.uri('in'), '--output', place.uri('out'))
    report = label(*arguments, '--since', '2h')
    assert numbers(report) == {'labeled': 1, 'unchanged': 0, 'dead_lettered': 0, 'gone': None}
    report = label(*arguments, '--since', '2999-01-01')
    assert report['counts']['listed'] == 0
    assert report['counts']['skipped_before_since'] == 1


@pytest.mark.parametrize('since', ['yesterday', '7', '7y', '2026-13-01', ''])
def test_since_must_be_a_time_or_an_age(folder, tmp_path, since):
    with pytest.raises(UsageError, match='--since'):
        label('--input', folder, '--output', tmp_path / 'out', '--since', since)


def test_since_and_manifests(folder, tmp_path):
    manifest = tmp_path / 'list.txt'
    manifest.write_text(f'{folder}/0000.jpg\n')
    with pytest.raises(UsageError, match=r'--since 2h: --input .*list.txt is a manifest'):
        label('--input', manifest, '--output', tmp_path / 'out', '--since', '2h')


def test_what_other_inputs_had_is_not_gone(folder, tmp_path):
    output = tmp_path / 'out'
    label('--input', folder, '--output', output)
    (folder / '0000.jpg').unlink()
    for inputs in (['--input', f'{folder}/**'], ['--input', folder, '--sample', '2']):
        assert not label(*inputs, '--output', output)['counts']['gone']
    forced = label('--input', folder, '--output', output, '--force')
    assert forced['counts']['gone'] is None, 'what was labelled is not read'
    # Written otherwise, but the same.
    report = label('--input', f'{folder.parent}/x/../in/', '--output', output)
    assert numbers(report) == {'labeled': 0, 'unchanged': 4, 'dead_lettered': 0, 'gone': 1}


def test_another_model_and_other_preprocessing_label_everything(folder, tmp_path):
    arguments = ('--input', folder, '--output', tmp_path / 'out')
    label(*arguments)
    report = label(*arguments, '--model_size', '192')
    assert numbers(report)['labeled'] == 5


def test_nothing_to_do_imports_no_tensorflow(folder, tmp_path):
    arguments = ['label', '--input', str(folder), '--output', str(tmp_path / 'out')]
    label(*arguments[1:])
    code = (
        'import sys; from pipeline.main import main; '
        f'assert main({arguments!r}) == 0; '
        'assert not {"tensorflow", "keras"} & set(sys.modules)'
    )
    process = python('-c', code)
    assert process.returncode == 0, process.stderr


def test_an_earlier_run_that_is_damaged_stops_this_one(folder, tmp_path, capsys):
    output = tmp_path / 'out'
    label('--input', folder, '--output', output, '--run_id', 'first')
    (part,) = output.glob('predictions/*/run=first/*.parquet')
    data = part.read_bytes()
    before = sorted(output.glob('**/*'))
    for damaged in (data[:-100], b''):
        part.write_bytes(damaged)
        with pytest.raises(Exception, match=f'{part}, of a complete run, is missing or damaged'):
            label('--input', folder, '--output', output)
    part.unlink()
    assert main(['label', '--input', str(folder), '--output', str(output)]) == 1
    assert '--force labels everything again' in capsys.readouterr().err
    part.write_bytes(data)
    report = output / 'runs/first/report.json'
    report.write_text('{')
    with pytest.raises(StoreError, match=r'report\.json is damaged'):
        label('--input', folder, '--output', output)
    assert [path for path in before if not path.exists()] == []


def test_a_dataset_of_another_schema_version_is_refused(folder, tmp_path):
    output = tmp_path / 'out'
    label('--input', folder, '--output', output)
    spec = json.loads((output / 'dataset.json').read_text())
    (output / 'dataset.json').write_text(json.dumps({**spec, 'schema_version': 2}))
    with pytest.raises(UsageError, match='"schema_version": 2'):
        label('--input', folder, '--output', output)
    assert not list(output.glob('_work/*'))


def test_what_is_too_large_is_left_alone_until_the_limit_is_another(place, tmp_path):
    uri = place.put('in/large.jpg', samples.picture(1))
    manifest = tmp_path / 'list.txt'
    manifest.write_text(f'{uri}\n')
    for i, source in enumerate((manifest, place.uri('in'))):
        output = place.uri(f'out-{i}')
        arguments = ('--input', source, '--output', output)
        first = label(*arguments, '--max_bytes', '100')
        assert first['counts']['dead_lettered_by_reason'] == {'too_many_bytes': 1}
        assert numbers(label(*arguments, '--max_bytes', '100'))['unchanged'] == 1
        assert numbers(label(*arguments, '--max_bytes', '1MB'))['labeled'] == 1
