"""What comes out of a whole run with the real model, against plain loops."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from tests.steps.test_graph import SMALL, write_manifest
from tests.support import app, samples
from transforms import chunks
from transforms.core.elements import Image
from transforms.core.fail_fast import fetch_policy
from transforms.dataset.verify import verify
from transforms.images.decode import decode
from transforms.label import LazyPredictor, label_batch
from transforms.output import results
from transforms.sources import listing

# Some have fewer labels by their scores, some have more than the best.
LABELS = ('--min_labels', '2', '--max_labels', '4', '--threshold', '0.1')


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
    vocabulary = config.inference.model.vocabulary
    labeled = []
    for chunk in cut:
        batches = [
            label_batch(batch, LazyPredictor(config.inference))
            for batch in app.load_chunk(chunk, config, fetch_policy(config.fail_fast))
        ]
        dead += results.dead_letters(results.outcome_table(batches))
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


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """Report, output and options of a run over the photographs and ten crops of them."""
    folder = tmp_path_factory.mktemp('labelled')
    samples.write_pictures(folder / 'in', 10)
    for path in samples.PHOTOGRAPHS:
        (folder / 'in' / path.name).hardlink_to(path)
    manifest = write_manifest(folder / 'in', folder / 'list.jsonl')
    output = folder / 'out'
    arguments = ('--input', manifest, '--output', output, '--carry', 'split,day', *SMALL, *LABELS)
    app.start_tensorflow()
    with app.networks_built_once():
        report = app.label(*arguments)
    config, _ = app.make_config(*arguments)
    return report, output, config


def test_the_pipeline_equals_a_plain_loop_bit_for_bit(labelled):
    report, output, config = labelled
    labeled, dead = plain_loop(config)
    assert sorted(labeled) == sorted(
        (
            row['uri'],
            results.carried_text([row['split'], row['day']]),
            row['content_sha256'],
            [(x['index'], x['wnid'], x['name'], x['score']) for x in row['labels']],
        )
        for row in app.rows(output, 'predictions')
    )
    assert sorted(
        (letter.uri, letter.reason, letter.detail, letter.carried) for letter in dead
    ) == sorted(
        (
            row['uri'],
            row['reason'],
            row['detail'],
            results.carried_text([row['split'], row['day']]),
        )
        for row in app.rows(output, 'dead_letters')
    )
    assert report['counts'] == {
        'listed': 37,
        'labeled': 27,
        'without_label': 0,
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
    assert verify(str(output)) == []
    scores = [[x['score'] for x in row['labels']] for row in app.rows(output, 'predictions')]
    assert {2, 3} <= {len(each) for each in scores} <= {2, 3, 4}
    assert min(each[1] for each in scores) < 0.1, 'some of the two that each has are below'
    assert all(score >= 0.1 for each in scores for score in each[2:])


def test_the_photographs_scores_equal_a_plain_float32_loop(labelled):
    """Full decode, resize and crop by Pillow, no graph, softmax by numpy."""
    _, output, config = labelled
    source = config.inference.model
    network = app.predictor(config).network
    names = source.vocabulary.names
    rows = {Path(row['uri']).name: row for row in app.rows(output, 'predictions')}
    pixels = []
    for path in samples.PHOTOGRAPHS:
        with PillowImage.open(path) as image:
            scale = 256 / min(image.size)
            size = [round(side * scale) for side in image.size]
            image = image.convert('RGB').resize(size, PillowImage.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in size)
        plain = np.asarray(image.crop((left, top, left + 224, top + 224)))
        ours = decode(path.read_bytes(), source.card.resize)
        # One resize instead of a resize and a crop rounds a few samples the other way.
        assert np.abs(plain.astype(int) - ours).max() <= 1
        pixels += [plain, ours]
    # All in one call, where the run made calls of four; one picture a call takes as many seconds.
    images = (np.stack(pixels).astype(np.float32) - 127) / 128
    logits = np.asarray(network.call(images)[0]).astype(np.float64)
    assert len(logits) == 20
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    for number, path in enumerate(samples.PHOTOGRAPHS):
        labels = rows[path.name]['labels']
        found = [label['score'] for label in labels]
        for each, tolerance in zip(scores[2 * number :], (1e-3, 1e-5), strict=False):
            order = np.argsort(-each)[:4]
            best = [i for n, i in enumerate(order) if n < 2 or each[i] >= 0.1]
            assert [label['name'] for label in labels] == [names[i] for i in best]
            np.testing.assert_allclose(found, each[best], rtol=0, atol=tolerance)
