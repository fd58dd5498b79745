"""The whole graph against itself elsewhere, with the model of without_model.

What is not checked here: what comes out of it (test_plain_loop), the decoder's own results
(test_decode), object stores (test_gcs), the command line and its exit codes (test_cli), whether a
picture that fails moves the last bits of the scores beside it (test_failing_model).
"""

import json

import pytest

from pipeline.verify import compare, verify
from tests import samples, support
from transforms import write
from transforms.model import handler
from transforms.model.predictor import Predictor
from transforms.model.sources import resolve_model

pytestmark = pytest.mark.usefixtures('stand_in')

SMALL = ('--batch_size', '4', '--chunk_size', '8', '--rows_per_file', '10')


@pytest.fixture(scope='module')
def stand_in():
    """As `stand_in_model`, for what is made once here, too."""
    with support.stand_in():
        yield


@pytest.fixture
def real_model(stand_in, monkeypatch):
    monkeypatch.setattr(handler, 'Predictor', Predictor)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(folder, 30)
    return folder


def write_manifest(pictures, path):
    """Every picture once, some again: the same, and with another value to carry."""
    lines = []
    for i, picture in enumerate(sorted(pictures.iterdir())):
        split = ('train', 'test', None)[i % 3]
        lines.append({'uri': str(picture), 'split': split, 'day': f'{i:03d}'})
    lines += lines[:5]
    lines += [line | {'day': 'again'} for line in lines[:7]]
    lines += [{'uri': 'nothere.jpg', 'split': 'train', 'day': '1'}, {'uri': 's3://b/k', 'day': '1'}]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


@pytest.fixture(scope='module')
def manifest(pictures, tmp_path_factory):
    return write_manifest(pictures, tmp_path_factory.mktemp('manifest') / 'list.jsonl')


ENGINES = {
    'three threads': ('--direct_num_workers=3', '--direct_running_mode=multi_threading'),
    'bundles repeated': ('--direct_runner_bundle_repeat=1',),
    'bundle-based': ('--runner=BundleBasedDirectRunner',),
}


PARTITIONED = ('--carry', 'day', '--partition_by', 'split', *SMALL)


def run_partitioned(manifest, folder, *more):
    support.label('--input', manifest, '--output', folder, '--run_id', 'a', *PARTITIONED, *more)
    assert len(list(folder.glob('predictions/**/*.parquet'))) > 3
    assert len(support.rows(folder, 'dead_letters')) == 5
    assert verify(str(folder)) == []
    return folder


@pytest.fixture(scope='module')
def reference(stand_in, manifest, tmp_path_factory):
    return run_partitioned(manifest, tmp_path_factory.mktemp('reference'))


@pytest.mark.parametrize('engine', ENGINES)
def test_every_engine_writes_the_same_bytes(manifest, reference, tmp_path, engine):
    run_partitioned(manifest, tmp_path, *ENGINES[engine])
    assert compare(str(reference), str(tmp_path)) == []


@pytest.mark.slow  # processes of their own have the real model
@pytest.mark.usefixtures('real_model')
def test_two_processes_write_the_same_bytes(manifest, tmp_path):
    flags = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')
    one = run_partitioned(manifest, tmp_path / 'one')
    two = run_partitioned(manifest, tmp_path / 'two', *flags)
    assert compare(str(one), str(two)) == []


def inputs(globs):
    return [flag for value in globs for flag in ('--input', value)]


@pytest.fixture(scope='module')
def whole(stand_in, pictures, tmp_path_factory):
    """A complete run of thirty pictures, its inputs, and its other arguments."""
    globs = [pictures / '00[0-1]*.jpg', pictures / '002*', pictures / '000*']
    arguments = ('--run_id', 'a', *SMALL)
    output = tmp_path_factory.mktemp('whole')
    report = support.label(*inputs(globs), '--output', output, *arguments)
    assert report['counts']['labeled'] == 30
    assert report['counts']['duplicates'] == 10
    return output, globs, arguments


def test_the_order_of_inputs_does_not_matter(whole, tmp_path):
    output, globs, arguments = whole
    report = support.label(*inputs(globs[::-1]), '--output', tmp_path, *arguments)
    assert report['counts']['labeled'] == 30
    assert report['counts']['duplicates'] == 10
    assert compare(str(output), str(tmp_path)) == []


def test_a_failed_image_does_not_move_its_neighbours(whole, pictures, tmp_path):
    output, globs, arguments = whole
    victim = pictures / '0017.jpg'
    data = victim.read_bytes()
    victim.write_bytes(b'no picture any more')
    try:
        support.label(*inputs(globs), '--output', tmp_path, *arguments)
    finally:
        victim.write_bytes(data)
    before = {row['uri']: row['labels'] for row in support.rows(output, 'predictions')}
    after = {row['uri']: row['labels'] for row in support.rows(tmp_path, 'predictions')}
    assert before.pop(str(victim))
    assert before == after
    assert len({str(labels) for labels in before.values()}) > 20, 'they differ'


def test_a_sample_is_always_the_same(pictures, manifest, tmp_path):
    found = []
    for name, sources in (('twice', (pictures, pictures / '*')), ('manifest', (manifest,))):
        output = tmp_path / name
        report = support.label(*inputs(sources), '--output', output, '--sample', '12', *SMALL)
        assert report['counts']['listed'] == 12
        assert report['counts']['duplicates'] == 0
        found.append(
            {
                row['uri']
                for kind in ('predictions', 'dead_letters')
                for row in support.rows(output, kind)
            }
        )
    assert [len(each) for each in found] == [12, 12]
    # The manifest has two more entries to choose from.
    assert len(found[0] & found[1]) >= 10


def test_inputs_of_nothing_give_an_empty_dataset(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'empty.txt').touch()
    output = tmp_path / 'out'
    report = support.label(*inputs([tmp_path / 'in', tmp_path / 'empty.txt']), '--output', output)
    assert report['balanced']
    assert report['counts']['listed'] == 0
    assert verify(str(output)) == []
    (path,) = output.glob('predictions/**/*.parquet')
    assert support.pq.read_table(path).schema.names == write.prediction_schema((), {}).names


def test_an_empty_partitioned_dataset_keeps_its_layout(tmp_path):
    (tmp_path / 'list.csv').write_text('uri,split\n')
    output = tmp_path / 'out'
    support.label('--input', tmp_path / 'list.csv', '--output', output, '--partition_by', 'split')
    (path,) = output.glob('predictions/*/*/*/*.parquet')
    assert path.parent.name == 'split=__HIVE_DEFAULT_PARTITION__'
    assert verify(str(output)) == []


def test_what_a_killed_attempt_left_is_not_published(pictures, tmp_path):
    folder = f'predictions/model={resolve_model("embedded").id}/run=again'
    for name in ('part-00003-of-00009.parquet', 'split=old/part-00000-of-00001.parquet', '.x.tmp'):
        for path in (
            tmp_path / '_work/again/staged/0a1b2c3d' / folder / name,
            tmp_path / folder / name,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'half a file')
    support.label('--input', pictures / '000*', '--output', tmp_path, '--run_id', 'again')
    assert verify(str(tmp_path)) == []
    assert len(support.rows(tmp_path, 'predictions')) == 10
