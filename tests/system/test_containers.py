"""Pictures inside files, from the input to the reading of the output, as loose files are."""

import collections
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from tests.storage.containers.test_tfrecord import pictures
from tests.support import app, samples
from tests.support.samples import SAMPLE
from transforms.core import members

NAMES = sorted(path.name for path in SAMPLE.glob('*.jpg'))
DATA = {name: (SAMPLE / name).read_bytes() for name in NAMES}
GOOD = 10


def tar(mode, contents=DATA):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f'photos/{name}')
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def zipped(method):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', method) as archive:
        for name, content in DATA.items():
            archive.writestr(f'photos/{name}', content)
    return data.getvalue()


def table(column):
    return pa.table({'image': column, 'split': ['train'] * len(NAMES)})


def written(write, *arguments, **options):
    data = io.BytesIO()
    write(*arguments, data, **options)
    return data.getvalue()


def make_containers():
    """Files of the same pictures, by name."""
    structs = [{'bytes': content, 'path': name} for name, content in DATA.items()]
    rows = table(list(DATA.values()))
    return {
        'a.tar': tar('w'),
        'a.tar.gz': tar('w:gz'),
        'a.zip': zipped(zipfile.ZIP_DEFLATED),
        'stored.zip': zipped(zipfile.ZIP_STORED),
        'bytes.parquet': written(pq.write_table, rows, row_group_size=5),
        'structs.parquet': written(pq.write_table, table(structs), row_group_size=5),
        'a.feather': written(pyarrow.feather.write_feather, rows),
        'a.tfrecord': pictures(*DATA.values()),
    }


CONTAINERS = make_containers()


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """The output of a run over loose files and over containers of the same, and its inputs."""
    folder = tmp_path_factory.mktemp('containers')
    for name, data in CONTAINERS.items():
        (folder / name).write_bytes(data)
    inputs = ['--input', SAMPLE]
    for name in CONTAINERS:
        inputs += ['--input', folder / name]
    output = folder / 'out'
    with app.stand_in():
        app.label(*inputs, '--output', output)
    return output, inputs


def test_the_same_bytes_have_the_same_labels_wherever_they_lie(labelled):
    output, _ = labelled
    found = collections.defaultdict(list)
    for row in app.rows(output, 'predictions'):
        found[row['content_sha256']].append((row['labels'], row['width'], row['format']))
    assert len(found) == GOOD
    for each in found.values():
        assert len(each) == 1 + len(CONTAINERS)
        assert each.count(each[0]) == len(each)


def test_the_books_balance_and_each_damaged_one_has_its_reason(labelled):
    output, _ = labelled
    reasons = collections.Counter()
    for row in app.rows(output, 'dead_letters'):
        found = members.split(row['uri'])
        reasons[Path(found.container).name if found else '', row['reason']] += 1
    places = ('', *CONTAINERS)
    assert reasons == {
        (place, reason): 1 for place in places for reason in ('empty', 'not_an_image', 'truncated')
    }


def test_a_name_tells_the_member_and_a_version_the_place(labelled):
    output, _ = labelled
    rows = {row['uri'].partition('/out')[0]: row for row in app.rows(output, 'predictions')}
    names = {str(members.split(uri).name) for uri in rows if members.split(uri)}
    assert {'photos/cat.jpg', 'cat.jpg', str(NAMES.index('cat.jpg'))} <= names
    for uri, row in rows.items():
        if found := members.split(uri):
            version = members.split_version(row['object_version'])
            info = Path(found.container).stat()
            assert version.container == f'{info.st_size}-{info.st_mtime_ns}'


def test_nothing_is_read_again_but_what_has_changed(labelled, tmp_path):
    output, inputs = labelled
    with app.stand_in():
        again = app.label(*inputs, '--output', output)
    images = (1 + len(CONTAINERS)) * len(NAMES)
    assert again['counts']['unchanged'] == images
    assert again['counts']['listed'] == images


def test_of_a_changed_file_only_other_bytes_are_labelled(tmp_path):
    shard, output = tmp_path / 'a.tar', tmp_path / 'out'
    data = {f'{i}.jpg': samples.picture(i) for i in range(4)}

    def run(**changes):
        """What is counted, and which members the run says to have the bytes that were labelled."""
        if changes:
            data.update(changes)
            shard.write_bytes(tar('w', dict(sorted(data.items()))))
        report = app.label('--input', shard, '--output', output)
        found = output.glob(f'runs/{report["run_id"]}/dead_versions/*.parquet')
        rows = [row for path in found for row in pq.ParquetFile(path).read().to_pylist()]
        assert {row['reason'] for row in rows} <= {'same'}
        names = {members.split(row['uri']).name for row in rows}
        return report['counts']['labeled'], report['counts']['unchanged'], names

    with app.stand_in():
        assert run(**data) == (4, 0, set())
        # In front of the others, which lie elsewhere now; one of them is another picture.
        same = {f'photos/{i}.jpg' for i in range(3)}
        assert run(**{'-.jpg': samples.picture(4), '3.jpg': samples.picture(5)}) == (2, 3, same)
        assert run(**{',.jpg': samples.picture(6)}) == (
            1,
            5,
            same | {'photos/-.jpg', 'photos/3.jpg'},
        )
        assert run() == (0, 6, set()), 'their versions are known'
        assert app.invoke('verify', output).returncode == 0
    target = tmp_path / 'latest.parquet'
    assert app.invoke('latest', output, '--output', target).returncode == 0
    digests = {members.split(row['uri']).name: row['content_sha256'] for row in rows_of(target)}
    assert digests == {f'photos/{k}': hashlib.sha256(v).hexdigest() for k, v in data.items()}


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_other_commands_know_members_by_their_names(labelled, tmp_path):
    output, _ = labelled
    container = next(
        found.container
        for row in app.rows(output, 'predictions')
        if (found := members.split(row['uri'])) and found.container.endswith('/a.tar')
    )
    cat, half = f'{container}!/photos/cat.jpg', f'{container}!/photos/half.jpg'
    assert app.invoke('verify', output).returncode == 0
    with app.stand_in():
        done = app.invoke('retry', '--output', output, '--reasons', 'truncated')
    assert done.returncode in (0, 3), done.stderr
    [retried] = {row['uri'] for row in app.rows(output, 'dead_letters')} & {half}
    assert retried
    target = tmp_path / 'latest.parquet'
    assert app.invoke('latest', output, '--output', target).returncode == 0
    assert cat in pq.read_table(target)['uri'].to_pylist()
    done = app.invoke('clean', output, '--forget', cat)
    assert done.returncode == 0, done.stderr
    assert cat not in {row['uri'] for row in app.rows(output, 'predictions')}


def test_columns_and_sidecars_are_carried_along(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as archive:
        for name, content in {'1.jpg': DATA['cat.jpg'], '1.cls': b'7', '2.jpg': b''}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / 'a.tar').write_bytes(data.getvalue())
    with app.stand_in():
        app.label('--input', tmp_path / 'a.tar', '--output', tmp_path / 'tar', '--carry', 'cls')
        source = ('--input', tmp_path / 'a.parquet', '--partition_by', 'split')
        (tmp_path / 'a.parquet').write_bytes(CONTAINERS['bytes.parquet'])
        app.label(*source, '--output', tmp_path / 'table')
    [row] = app.rows(tmp_path / 'tar', 'predictions')
    assert row['cls'] == '7'
    [dead] = app.rows(tmp_path / 'tar', 'dead_letters')
    assert (dead['reason'], dead['cls']) == ('empty', None)
    assert list((tmp_path / 'table').glob('predictions/*/*/split=train/*.parquet'))


def test_members_in_a_bucket(bucket, tmp_path, stand_in_model):
    for name in ('a.tar', 'a.tar.gz', 'a.zip', 'bytes.parquet'):
        bucket.put(f'in/{name}', CONTAINERS[name])
    patterns = ('*.tar', '*.tar.gz', '*.zip', '*.parquet')
    inputs = [text for each in patterns for text in ('--input', f'{bucket.uri("in")}/{each}')]
    report = app.label(*inputs, '--output', tmp_path)
    assert report['counts']['labeled'] == GOOD * len(patterns)
    assert report['balanced']


def test_what_is_replaced_after_the_listing_is_no_other_picture(tmp_path, stand_in_model):
    path = tmp_path / 'a.tar'
    path.write_bytes(CONTAINERS['a.tar'])
    config, _ = app.make_config('--input', path, '--output', tmp_path / 'out')
    from transforms.sources.listing import list_input

    refs = list(list_input(config.listing.inputs[0], config.listing.columns))
    path.write_bytes(CONTAINERS['a.tar'][::-1])
    from transforms.core.elements import Chunk, Failure, Item
    from transforms.core.fail_fast import FailFast, FaultPolicy

    items = [Item(ref.uri, ref.version, ref.size_bytes, ['[]']) for ref in refs]
    policy = FaultPolicy(FailFast(0, ''), Exception)
    outcomes = [
        outcome
        for batch in app.load_chunk(Chunk('c', items), config, policy)
        for outcome in batch.outcomes
    ]
    reasons = {each.reason.value for each in outcomes if isinstance(each, Failure)}
    assert len(outcomes) == len(refs)
    assert reasons == {'changed_while_reading', 'empty'}
