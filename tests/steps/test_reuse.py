"""Pictures of the same bytes: one is read and labelled, and all have rows."""

import random
from collections import Counter

import apache_beam as beam
import numpy as np
import pytest

from tests.support import app, samples
from transforms.chunks import chunk_id
from transforms.coders import ROWS
from transforms.core.elements import (
    Chunk,
    Failure,
    Image,
    Item,
    LabeledBatch,
    Stage,
    Twin,
    images_of,
)
from transforms.core.reasons import Reason
from transforms.dataset.verify import compare, verify
from transforms.output.results import (
    SAME,
    dead_letters,
    from_ipc,
    join,
    labeled,
    outcome_table,
    to_ipc,
    with_twins,
)
from transforms.output.run_metadata import FEATURES
from transforms.reuse import MOST_TOGETHER, bytes_of, gather
from transforms.sources.inputs import Input, Kind


def item(name, checksum='s3:1', size=5, carried=('[]',)):
    return Item(f's3://b/{name}', f'v-{name}', size, list(carried), checksum=checksum)


def test_the_first_name_is_read_whatever_the_order():
    items = [item(name) for name in 'abc']
    [found] = gather(random.Random(0).sample(items, 3))
    assert (found.uri, found.checksum, images_of(found)) == ('s3://b/a', '', 3)
    assert found.same == [Twin('s3://b/b', 'v-b', ['[]']), Twin('s3://b/c', 'v-c', ['[]'])]
    assert list(gather([items[1]])) == [items[1]._replace(checksum='', same=[])]


def test_so_many_are_one_element_and_no_more():
    items = [item(f'{i:05d}') for i in range(2 * MOST_TOGETHER + 1)]
    found = list(gather(items[::-1]))
    assert [images_of(each) for each in found] == [MOST_TOGETHER, MOST_TOGETHER, 1]
    uris = [each.uri for one in found for each in (one, *one.same)]
    assert uris == [each.uri for each in items]


def test_bytes_are_told_by_checksum_and_size():
    assert bytes_of(item('a')) == bytes_of(item('b'))
    others = [item('a', size=6), item('a', 'gs:1')]
    assert len({bytes_of(each) for each in [item('a'), *others]}) == 3
    assert not any(map(bytes_of, [item('a', ''), item('a', size=0), item('a', size=-1)]))


def test_a_chunk_is_another_one_with_other_twins():
    [one] = gather([item('a'), item('b')])
    others = [
        one._replace(same=[]),
        one._replace(same=[one.same[0]._replace(version='x')]),
        one._replace(same=[one.same[0]._replace(carried=['["x"]'])]),
    ]
    assert len({chunk_id([each]) for each in [one, *others]}) == 4
    assert chunk_id([one._replace(same=[])]) != chunk_id([item('a'), item('b')])


@pytest.mark.parametrize(
    ('kind', 'uri', 'may_tell'),
    [
        *((kind, uri, True) for kind in ('folder', 'glob', 'file') for uri in ('gs://b', 's3://b')),
        *(('folder', uri, False) for uri in ('/a', 'a')),
        *((kind, 'gs://b/x', False) for kind in ('manifest', 'container', 'dead_letters')),
    ],
)
def test_bytes_are_compared_where_a_listing_tells_them(kind, uri, may_tell):
    assert Input(Kind(kind), uri, '').may_tell_bytes == may_tell


def table_of(outcomes, features=0):
    """Of a batch whose images have a twin each, with two sets of carried values."""
    items = [
        next(gather([item(f'{name}'), item(f'{name}{name}', carried=['["x"]', '["y"]'])]))
        for name in 'abcdef'[: len(outcomes)]
    ]
    n = len(outcomes)
    found = (
        np.arange(2 * n, dtype=np.int32).reshape(n, 2),
        np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        np.full(n, 2, np.int32),
        np.arange(n * features, dtype=np.float16).reshape(n, features) if features else None,
    )
    # As it comes out of a shuffle: with the fields of its class, and nothing else.
    coder = beam.coders.registry.get_coder(Chunk)
    chunk = coder.decode(coder.encode(Chunk('c', items)))
    assert [images_of(each) for each in chunk.items] == [2] * n
    return outcome_table([LabeledBatch(chunk, 0, outcomes, *found, {}, '{}')])


@pytest.mark.parametrize('row', [*ROWS, Twin])
def test_what_crosses_a_shuffle_has_fields_alone(row):
    assert {name for name in vars(row) if not name.startswith('_')} == set(row._fields)


def image(name):
    return Image(f'v-{name}', name * 3, 3, 2, 'JPEG', 9)


def failure(name, reason, stage=Stage.FETCH, version=None):
    return Failure(stage, reason, 'why', 7, f'v-{name}' if version is None else version)


@pytest.mark.parametrize('features', [0, 2])
def test_what_is_labelled_is_labelled_for_all(features):
    table = table_of([image('a'), image('b')], features)
    assert len(table) == 2, 'one row an image that was read, which is how parts are counted'
    found, reused = with_twins(from_ipc(to_ipc(table)))
    assert SAME not in found.schema.names
    assert reused == 4
    rows = found.to_pylist()
    assert [(row['uri'][7:], row['object_version'], row['carried']) for row in rows] == [
        ('a', 'v-a', ['[]']),
        ('aa', 'v-aa', ['["x"]', '["y"]']),
        ('b', 'v-b', ['[]']),
        ('bb', 'v-bb', ['["x"]', '["y"]']),
    ]
    assert len(labeled(found)) == 4
    for one, other in (rows[:2], rows[2:]):
        own = {'uri', 'object_version', 'carried'}
        assert {name: one[name] for name in one.keys() - own} == {
            name: other[name] for name in other.keys() - own
        }
        assert (FEATURES in one) == bool(features)


def test_a_dead_letter_of_one_is_one_of_each():
    outcomes = [
        failure('a', Reason.DECODE_ERROR, Stage.DECODE),
        failure('b', Reason.TOO_MANY_BYTES),
        failure('c', Reason.STORE_ERROR),
        failure('d', Reason.MODEL_ERROR, Stage.INFER),
    ]
    found, reused = with_twins(table_of(outcomes))
    assert reused == 0
    letters = dead_letters(found)
    assert Counter(letter.reason for letter in letters) == {
        each.reason.value: 3 for each in outcomes
    }
    assert {(letter.detail, letter.size_bytes) for letter in letters} == {('why', 7)}
    assert all(letter.version == f'v-{letter.uri[7:]}' for letter in letters)


def test_what_happens_to_the_object_alone_says_nothing_of_the_others():
    """It was deleted, or overwritten, after the listing."""
    outcomes = [
        failure('a', Reason.NOT_FOUND),
        failure('b', Reason.FORBIDDEN, version=''),
        failure('c', Reason.DECODE_ERROR, Stage.DECODE, 'v-2'),
        Image('v-2', 'ab', 3, 2, 'JPEG', 9),
    ]
    found, reused = with_twins(table_of(outcomes))
    assert reused == 0
    assert labeled(found)['uri'].to_pylist() == ['s3://b/d']
    letters = {letter.uri[7:]: letter for letter in dead_letters(found)}
    assert {name: letter.reason for name, letter in letters.items()} == {
        'a': 'not_found', 'b': 'forbidden', 'c': 'decode_error',
        **dict.fromkeys(['aa', 'bb', 'cc', 'dd'], 'changed_while_reading'),
    }  # fmt: skip
    assert letters['dd'].version == 'v-dd'
    assert 'of the same bytes' in letters['dd'].detail
    assert Reason.CHANGED_WHILE_READING.retryable


@pytest.mark.parametrize('features', [0, 2])
def test_parts_of_a_chunk_are_joined(features):
    one = table_of([image('a')], features)
    alone = outcome_table(
        [
            LabeledBatch(
                Chunk('c', [item('x', '')]), 0, [failure('x', Reason.EMPTY)],
                np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32), np.zeros(0, np.int32),
                None, {}, '',
            )
        ]
    )  # fmt: skip
    assert SAME not in alone.schema.names
    for parts in ([one, alone], [alone, one]):
        found, reused = with_twins(join(parts))
        assert (len(found), reused) == (3, 2)
    assert with_twins(alone) == (alone, 0)


# Four runs each; what the listing of S3 tells is tested with its store.
@pytest.fixture(params=['gs', pytest.param('s3', marks=pytest.mark.slow)])
def filled(request):
    """A bucket in which a third of the pictures, and a damaged one, lie twice or more."""
    bucket = request.getfixturevalue({'gs': 'bucket', 's3': 's3_bucket'}[request.param])
    for i in range(12):
        bucket.put(f'in/{i:02d}.jpg', samples.picture(i % 8))
    for name in ('x', 'y', 'z'):
        bucket.put(f'in/{name}.jpg', samples.BAD['half.jpg'])
    return bucket


@pytest.mark.usefixtures('stand_in_model')
def test_a_bucket_with_the_same_pictures_twice(filled):
    output = filled.uri('out')
    arguments = ('--input', filled.uri('in'), '--batch_size', '4', '--max_failure_rate', '1')
    report = app.label(*arguments, '--run_id', 'r', '--output', output)
    counts = report['counts']
    assert (counts['listed'], counts['labeled'], counts['reused']) == (15, 12, 4)
    assert (counts['dead_lettered'], counts['duplicates'], report['balanced']) == (3, 0, True)
    assert verify(output) == []
    # In batches of four: 8 pictures and the damaged one, instead of all 15.
    every = app.label(*arguments, '--no_reuse', '--output', filled.uri('all'), '--run_id', 'r')
    assert 'reused' not in every['counts']
    assert (report['batches'], every['batches']) == (3, 4)
    assert {**counts, 'reused': 0} == {**every['counts'], 'reused': 0}
    differences = compare(output, filled.uri('all'), by_name=True, tolerance=1e-3).differences
    assert differences == []
    # The same bytes also where every bundle is worked twice.
    repeated = ('--output', filled.uri('twice'), '--direct_runner_bundle_repeat=1')
    twice = app.label(*arguments, '--run_id', 'r', *repeated)
    assert [(file['path'], file['sha256']) for file in twice['files']] == [
        (file['path'], file['sha256']) for file in report['files']
    ]
    # Each with its own version, and so nothing is left to do.
    second = app.label(*arguments, '--output', output, '--run_id', 'again')
    assert (second['counts']['labeled'], second['counts']['unchanged']) == (0, 15)
    assert 'reused' not in second['counts']
