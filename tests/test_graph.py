"""The whole graph against a plain loop over the pure functions, and against itself elsewhere.

What is not checked here: the decoder's own results (test_decode), object stores (test_gcs), the
command line and its exit codes (test_cli).
"""

import json

import pytest

from pipeline.verify import compare, verify
from tests import samples, support
from transforms import chunks, listing, outcomes, write
from transforms.faults import fetch_policy
from transforms.load import Loader, load_chunk
from transforms.model.handler import LazyPredictor, label_batch
from transforms.model.sources import resolve_model
from transforms.process import shared
from transforms.publish import discard
from transforms.rows import Image

SMALL = ('--batch_size', '8', '--chunk_size', '16', '--rows_per_file', '20')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(folder, 60)
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


def test_the_pipeline_equals_a_plain_loop_bit_for_bit(manifest, tmp_path):
    arguments = ('--input', manifest, '--output', tmp_path, '--carry', 'split,day', *SMALL)
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
        'listed': 77,
        'labeled': 67,
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


ENGINES = {
    'three threads': ('--direct_num_workers=3', '--direct_running_mode=multi_threading'),
    'two processes': ('--direct_num_workers=2', '--direct_running_mode=multi_processing'),
    'bundles repeated': ('--direct_runner_bundle_repeat=1',),
    'bundle-based': ('--runner=BundleBasedDirectRunner',),
}


@pytest.fixture(scope='module')
def reference(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp('reference')
    support.label('--input', manifest, '--output', folder, '--run_id', 'a', *PARTITIONED)
    assert len(list(folder.glob('predictions/**/*.parquet'))) > 3
    assert len(support.rows(folder, 'dead_letters')) == 5
    return folder


PARTITIONED = ('--carry', 'day', '--partition_by', 'split', *SMALL)


@pytest.mark.parametrize(
    'engine',
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == 'two processes' else [])
        for name in ENGINES
    ],
)
def test_every_engine_writes_the_same_bytes(manifest, reference, tmp_path, engine):
    support.label(
        '--input', manifest, '--output', tmp_path, '--run_id', 'a', *PARTITIONED, *ENGINES[engine]
    )
    assert verify(str(tmp_path)) == []
    assert compare(str(reference), str(tmp_path)) == []


def test_the_order_of_inputs_does_not_matter(pictures, tmp_path):
    once, twice = tmp_path / 'once', tmp_path / 'twice'
    globs = [pictures / '00[0-3]*.jpg', pictures / '00[4-5]*', pictures / '00[4]*']
    for output, inputs in ((once, globs), (twice, globs[::-1])):
        flags = [flag for value in inputs for flag in ('--input', value)]
        report = support.label(*flags, '--output', output, '--run_id', 'a', *SMALL)
        assert report['counts']['labeled'] == 60
        assert report['counts']['duplicates'] == 10
    assert compare(str(once), str(twice)) == []


def test_a_failed_image_does_not_move_its_neighbours(pictures, tmp_path):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    victim = pictures / '0017.jpg'
    support.label('--input', pictures, '--output', whole, '--run_id', 'a', *SMALL)
    data = victim.read_bytes()
    victim.write_bytes(b'no picture any more')
    try:
        support.label('--input', pictures, '--output', broken, '--run_id', 'a', *SMALL)
    finally:
        victim.write_bytes(data)
    before = {row['uri']: row['labels'] for row in support.rows(whole, 'predictions')}
    after = {row['uri']: row['labels'] for row in support.rows(broken, 'predictions')}
    assert before.pop(str(victim))
    assert before == after


def test_a_sample_is_always_the_same(pictures, manifest, tmp_path):
    samples = []
    for name, source in (('folder', pictures), ('glob', pictures / '*'), ('manifest', manifest)):
        output = tmp_path / name
        report = support.label('--input', source, '--output', output, '--sample', '12', *SMALL)
        assert report['counts']['listed'] == 12
        assert report['counts']['duplicates'] == 0
        samples.append(
            {
                row['uri']
                for kind in ('predictions', 'dead_letters')
                for row in support.rows(output, kind)
            }
        )
    assert samples[0] == samples[1]
    # The manifest has two more entries to choose from.
    assert len(samples[0] & samples[2]) >= 10


def test_an_input_of_nothing_gives_an_empty_dataset(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'empty.txt').touch()
    for name in ('in', 'empty.txt'):
        output = tmp_path / f'out-{name}'
        report = support.label('--input', tmp_path / name, '--output', output)
        assert report['balanced']
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


def test_min_labels_and_thresholds(pictures, tmp_path):
    strict, lenient = tmp_path / 'strict', tmp_path / 'lenient'
    source = ('--input', pictures / '000*', *SMALL)
    support.label(*source, '--output', strict, '--threshold', '1')
    support.label(*source, '--output', lenient, '--threshold', '1', '--min_labels', '2')
    assert [row['labels'] for row in support.rows(strict, 'predictions')] == [[]] * 10
    assert {len(row['labels']) for row in support.rows(lenient, 'predictions')} == {2}


def test_what_a_killed_attempt_left_is_not_published(pictures, tmp_path):
    folder = f'predictions/model={resolve_model("embedded").id}/run=again'
    for name in ('part-00003-of-00009.parquet', 'split=old/part-00000-of-00001.parquet', '.x.tmp'):
        for path in (tmp_path / '_work/again/staged' / folder / name, tmp_path / folder / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'half a file')
    support.label('--input', pictures / '000*', '--output', tmp_path, '--run_id', 'again')
    assert verify(str(tmp_path)) == []
    assert len(support.rows(tmp_path, 'predictions')) == 10


def test_a_run_without_a_report_is_discarded_and_one_with_it_kept(pictures, tmp_path):
    arguments = ('--input', pictures / '000*', '--output', tmp_path, '--run_id', 'a')
    support.label(*arguments)
    layout = support.make_config(*arguments)[0].layout
    discard(layout)
    assert verify(str(tmp_path)) == []
    (tmp_path / layout.report_path).unlink()
    discard(layout)
    assert support.rows(tmp_path, 'predictions') == support.rows(tmp_path, 'dead_letters') == []
