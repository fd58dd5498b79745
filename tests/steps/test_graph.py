"""The whole graph against itself elsewhere, with the model of without_model.

What is not checked here: what comes out of it (test_plain_loop), the decoder's own results
(test_decode), object stores (test_gcs), the command line and its exit codes (test_cli), whether a
picture that fails moves the last bits of the scores beside it (test_failing_model).
"""

import bz2
import json

import pyarrow.parquet as pq
import pytest
from apache_beam.internal import cloudpickle_pickler

from tests.support import app, samples, states
from transforms.core.hashing import content_hash
from transforms.dataset.verify import compare, verify
from transforms.model.predictor import Predictor
from transforms.model.resolve import resolve_model
from transforms.output import predictions
from transforms.sources.inputs import Columns
from transforms.sources.listing import list_input
from transforms.sources.resolve import resolve

pytestmark = pytest.mark.usefixtures('stand_in')

SMALL = ('--batch_size', '4', '--chunk_size', '8', '--rows_per_file', '10')


@pytest.fixture(scope='module')
def stand_in():
    """As `stand_in_model`, for what is made once here, too."""
    with app.stand_in():
        yield


@pytest.fixture
def real_model(stand_in):
    with app.stand_in(Predictor):
        yield


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
# The last one is an older engine of Beam for tests, by which nobody labels.
EACH_ENGINE = [
    *('three threads', 'bundles repeated'),
    pytest.param('bundle-based', marks=pytest.mark.slow),
]


PARTITIONED = ('--carry', 'day', '--partition_by', 'split', *SMALL)


def run_partitioned(manifest, folder, *more):
    app.label('--input', manifest, '--output', folder, '--run_id', 'a', *PARTITIONED, *more)
    assert len(list(folder.glob('predictions/**/*.parquet'))) > 3
    assert len(app.rows(folder, 'dead_letters')) == 5
    assert verify(str(folder)) == []
    return folder


@pytest.fixture(scope='module')
def reference(stand_in, manifest, tmp_path_factory):
    return run_partitioned(manifest, tmp_path_factory.mktemp('reference'))


def leave_files(folder):
    """Files of an attempt at the same run that was killed, published and not."""
    name_of_run = f'predictions/model={resolve_model("embedded").id}/run=a'
    for name in ('part-00003-of-00009.parquet', 'split=old/part-00000-of-00001.parquet', '.x.tmp'):
        for path in (
            folder / '_work/a/staged/0a1b2c3d' / name_of_run / name,
            folder / name_of_run / name,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'half a file')


@pytest.mark.parametrize('engine', EACH_ENGINE)
def test_every_engine_writes_the_same_bytes(manifest, reference, tmp_path, engine):
    """Whatever a killed attempt has left."""
    leave_files(tmp_path)
    run_partitioned(manifest, tmp_path, *ENGINES[engine])
    assert compare(str(reference), str(tmp_path), exact=True).differences == []


@pytest.mark.slow  # processes of their own have the real model
@pytest.mark.usefixtures('real_model')
def test_two_processes_write_the_same_bytes(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(cloudpickle_pickler, 'bz2', bz2)  # theirs, see tests.support.quick_beam
    flags = ('--direct_num_workers=2', '--direct_running_mode=multi_processing')
    one = run_partitioned(manifest, tmp_path / 'one')
    two = run_partitioned(manifest, tmp_path / 'two', *flags)
    assert compare(str(one), str(two), exact=True).differences == []


def inputs(globs):
    return [flag for value in globs for flag in ('--input', value)]


def label_thirty(globs, folder, failed):
    report = app.label(*inputs(globs), '--output', folder, '--run_id', 'a', *SMALL)
    assert report['counts']['labeled'] == 30 - failed
    assert report['counts']['duplicates'] == 10
    paths = folder.glob('predictions/**/*.parquet')
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_the_order_of_inputs_does_not_matter_and_a_failed_image_moves_no_other(pictures, tmp_path):
    """All files stay the same, but for the one in which it was."""
    globs = [pictures / '00[0-1]*.jpg', pictures / '002*', pictures / '000*']
    before, after = tmp_path / 'before', tmp_path / 'after'
    ours = label_thirty(globs, before, failed=0)
    victim = pictures / '0017.jpg'
    data = victim.read_bytes()
    victim.write_bytes(b'no picture any more')
    try:
        theirs = label_thirty(globs[::-1], after, failed=1)
    finally:
        victim.write_bytes(data)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 1
    (other,) = (path for path in ours if ours[path] != theirs[path])
    rows = pq.ParquetFile(before / other).read().to_pylist()
    left = [row for row in rows if row['uri'] != str(victim)]
    assert left == pq.ParquetFile(after / other).read().to_pylist()
    assert len(left) == len(rows) - 1
    labels = {str(row['labels']) for row in app.rows(before, 'predictions')}
    assert len(labels) > 20, 'they differ'


def test_a_sample_is_of_the_images_and_of_nothing_else(pictures, manifest, tmp_path):
    """So it is always the same, however often and in whatever order they are listed."""
    columns = Columns('uri', (), ())
    sources = (manifest, pictures, pictures / '*')
    listed = {
        content_hash(ref.uri, ref.carried): ref.uri
        for source in sources
        for ref in list_input(resolve(str(source), columns), columns)
    }
    assert len(listed) == 35
    report = app.label(*inputs(sources), '--output', tmp_path, '--sample', '12', *SMALL)
    assert report['counts']['listed'] == 12
    assert report['counts']['duplicates'] == 0
    found = {
        row['uri'] for kind in ('predictions', 'dead_letters') for row in app.rows(tmp_path, kind)
    }
    assert found == {listed[key] for key in sorted(listed)[:12]}


def test_inputs_of_nothing_give_an_empty_dataset(tmp_path):
    """Its layout is what it would be; one without partitions is in test_history."""
    (tmp_path / 'list.csv').write_text('uri,split\n')
    output = tmp_path / 'out'
    report = app.label(
        *('--input', tmp_path / 'list.csv', '--output', output, '--partition_by', 'split'),
        '--allow_empty',
    )
    assert report['balanced']
    assert report['counts']['listed'] == 0
    assert verify(str(output)) == []
    (path,) = output.glob('predictions/*/*/*/*.parquet')
    assert path.parent.name == 'split=__HIVE_DEFAULT_PARTITION__'
    assert pq.ParquetFile(path).schema_arrow.names == predictions.prediction_schema((), {}).names
    (tmp_path / 'in').mkdir()
    (tmp_path / 'empty.txt').touch()
    arguments = inputs([tmp_path / 'in', tmp_path / 'empty.txt'])
    arguments += ['--allow_empty']
    listing = states.settled(*arguments, '--output', tmp_path / 'other').listing
    assert [list(list_input(source, listing.columns)) for source in listing.inputs] == [[], []]
