"""The whole graph against a plain loop over the pure functions, and against itself elsewhere.

The plain loop has the real model; what is compared with itself has the one of without_model.

What is not checked here: the decoder's own results (test_decode), object stores (test_gcs), the
command line and its exit codes (test_cli), whether a picture that fails moves the last bits of the
scores beside it (test_rescue).
"""

import json
import shutil

import numpy as np
import pytest

from pipeline.verify import compare, verify
from tests import samples, support, without_model
from transforms import chunks, listing, outcomes, write
from transforms.faults import fetch_policy
from transforms.load import Loader, load_chunk
from transforms.model import handler
from transforms.model.card import Activation
from transforms.model.handler import LazyPredictor, label_batch
from transforms.model.predictor import Predictor
from transforms.model.runtime import import_tensorflow
from transforms.model.sources import resolve_model
from transforms.process import shared
from transforms.publish import discard
from transforms.rows import Image

pytestmark = pytest.mark.usefixtures('stand_in')

SMALL = ('--batch_size', '4', '--chunk_size', '8', '--rows_per_file', '10')
# Some have fewer labels by their scores, some have more than the best.
LABELS = ('--min_labels', '2', '--max_labels', '4', '--threshold', '0.1')


@pytest.fixture(scope='module')
def stand_in():
    """As `stand_in_model`, for what is made once here, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, 'Predictor', without_model.Predictor)
        yield


@pytest.fixture
def real_model(stand_in, monkeypatch):
    monkeypatch.setattr(handler, 'Predictor', Predictor)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(folder, 30)
    return folder


@pytest.fixture(scope='module')
def manifest(pictures, tmp_path_factory):
    """Every picture once, some again: the same, and with another value to carry."""
    lines = []
    for i, path in enumerate(sorted(pictures.iterdir())):
        lines.append({'uri': str(path), 'split': ('train', 'test', None)[i % 3], 'day': f'{i:03d}'})
    lines += lines[:5]
    lines += [line | {'day': 'again'} for line in lines[:7]]
    lines += [{'uri': 'nothere.jpg', 'split': 'train', 'day': '1'}, {'uri': 's3://b/k', 'day': '1'}]
    path = tmp_path_factory.mktemp('manifest') / 'list.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def plain_loop(config):
    """Every image one after the other through the pure functions, without Beam."""
    refs = [
        ref
        for source in config.listing.inputs
        for ref in listing.list_input(source, config.listing.columns)
    ]
    by_uri = {}
    for ref in refs:
        by_uri.setdefault(ref.uri, []).append(ref)
    merged = [chunks.merge(group) for group in by_uri.values()]
    items = [each.item for each in merged if each.item is not None]
    dead = [letter for each in merged for letter in each.dead]
    buckets = chunks.bucket_count(len(items), config.chunk_size)
    by_bucket = {}
    for item in items:
        by_bucket.setdefault(chunks.bucket_of(item.uri, buckets), []).append(item)
    cut = [chunk for group in by_bucket.values() for chunk in chunks.cut(group, config.chunk_size)]
    assert len(cut) > 3, 'too few chunks to prove anything'
    loader = shared(Loader, config.load)
    vocabulary = config.inference.model.vocabulary
    labeled = []
    for chunk in cut:
        batches = [
            label_batch(batch, LazyPredictor(config.inference))
            for batch in load_chunk(chunk, loader, config.load, fetch_policy(config.fail_fast))
        ]
        dead += outcomes.dead_letters(outcomes.outcome_table(batches))
        for batch in batches:
            for slot, outcome in enumerate(batch.outcomes):
                if isinstance(outcome, Image):
                    item = chunk.items[batch.start + slot]
                    count = batch.counts[slot]
                    labels = [
                        (int(index), vocabulary.wnids[index], vocabulary.names[index], float(score))
                        for index, score in zip(
                            batch.indices[slot, :count], batch.scores[slot, :count], strict=True
                        )
                    ]
                    labeled += [
                        (item.uri, carried, outcome.content_sha256, labels)
                        for carried in item.carried
                    ]
    return labeled, dead


@pytest.mark.usefixtures('real_model')
def test_the_pipeline_equals_a_plain_loop_bit_for_bit(manifest, tmp_path):
    arguments = ('--input', manifest, '--output', tmp_path, '--carry', 'split,day', *SMALL, *LABELS)
    report = support.label(*arguments)
    config, _ = support.make_config(*arguments)
    labeled, dead = plain_loop(config)
    assert sorted(labeled) == sorted(
        (
            row['uri'],
            outcomes.carried_text([row['split'], row['day']]),
            row['content_sha256'],
            [(x['index'], x['wnid'], x['name'], x['score']) for x in row['labels']],
        )
        for row in support.rows(tmp_path, 'predictions')
    )
    assert sorted(
        (letter.uri, letter.reason, letter.detail, letter.carried) for letter in dead
    ) == sorted(
        (
            row['uri'],
            row['reason'],
            row['detail'],
            outcomes.carried_text([row['split'], row['day']]),
        )
        for row in support.rows(tmp_path, 'dead_letters')
    )
    assert report['counts'] == {
        'listed': 47,
        'labeled': 37,
        'duplicates': 5,
        'unchanged': 0,
        'dead_lettered': 5,
        'dead_lettered_by_reason': {
            'bad_uri': 1,
            'empty': 1,
            'not_an_image': 1,
            'not_found': 1,
            'truncated': 1,
        },
        'skipped_not_image': 0,
        'skipped_before_since': 0,
        'gone': 0,
    }
    assert report['balanced']
    assert verify(str(tmp_path)) == []
    scores = [[x['score'] for x in row['labels']] for row in support.rows(tmp_path, 'predictions')]
    assert {2, 3} <= {len(each) for each in scores} <= {2, 3, 4}
    assert min(each[1] for each in scores) < 0.1, 'some of the two that each has are below'
    assert all(score >= 0.1 for each in scores for score in each[2:])


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


def test_min_labels_and_thresholds():
    config, _ = support.make_config('--input', samples.SAMPLE, '--output', '/nowhere')
    import_tensorflow(config.inference.intra_op_threads)
    from transforms.model.sparse import sparse_labels

    logits = np.array([[0.25, 0.5, 0.5, 0.125], [0.75, 0.0, 0.0, 1.0]], np.float32)
    for threshold, most, least, counts in (
        (0.5, 4, 0, [2, 2]),
        (0.51, 4, 0, [0, 2]),
        (1.0, 4, 0, [0, 1]),
        (2.0, 4, 0, [0, 0]),
        (2.0, 4, 2, [2, 2]),
        (0.5, 1, 0, [1, 1]),
        (0.0, 9, 9, [4, 4]),
    ):
        found = sparse_labels(logits, Activation.NONE, threshold, most, least, 3)
        indices, scores, labels = (np.asarray(each) for each in found)
        assert labels.tolist() == counts
        assert indices[:, :3].tolist() == [[1, 2, 0], [3, 0, 1]]
        assert scores[:, :3].tolist() == [[0.5, 0.5, 0.25], [1.0, 0.75, 0.0]]
    logits[1, 2] = np.inf
    assert np.asarray(sparse_labels(logits, Activation.NONE, 0.5, 4, 0)[2]).tolist() == [2, -1]


def test_what_a_killed_attempt_left_is_not_published(pictures, tmp_path):
    folder = f'predictions/model={resolve_model("embedded").id}/run=again'
    for name in ('part-00003-of-00009.parquet', 'split=old/part-00000-of-00001.parquet', '.x.tmp'):
        for path in (tmp_path / '_work/again/staged' / folder / name, tmp_path / folder / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'half a file')
    support.label('--input', pictures / '000*', '--output', tmp_path, '--run_id', 'again')
    assert verify(str(tmp_path)) == []
    assert len(support.rows(tmp_path, 'predictions')) == 10


def test_a_run_without_a_report_is_discarded_and_one_with_it_kept(whole, tmp_path):
    output, globs, arguments = whole
    shutil.copytree(output, tmp_path, dirs_exist_ok=True)
    layout = support.make_config(*inputs(globs), '--output', tmp_path, *arguments)[0].layout
    discard(layout)
    assert verify(str(tmp_path)) == []
    assert len(support.rows(tmp_path, 'predictions')) == 30
    (tmp_path / layout.report_path).unlink()
    discard(layout)
    assert support.rows(tmp_path, 'predictions') == support.rows(tmp_path, 'dead_letters') == []
