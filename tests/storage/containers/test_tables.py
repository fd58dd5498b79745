"""Pictures in Parquet files, whole, odd and hostile."""

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.containers import CountedSource, damaged, listed, outcomes, wanted
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.storage.containers import parquet
from transforms.storage.containers.base import Member, Problem
from transforms.storage.containers.parquet import PARQUET

BODIES = [bytes([i]) * (i * 100 + 1) for i in range(50)]
STRUCT = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def parquet_of(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def table_of(kind, bodies=BODIES):
    match kind:
        case 'binary':
            return pa.table({'label': range(len(bodies)), 'jpg': pa.array(bodies, pa.binary())})
        case 'large_binary':
            return pa.table({'jpg': pa.array(bodies, pa.large_binary())})
        case 'struct':
            rows = [{'bytes': each, 'path': f'd/{i}.jpg'} for i, each in enumerate(bodies)]
            return pa.table({'image': pa.array(rows, STRUCT), 'label': range(len(bodies))})


@pytest.mark.parametrize('kind', ['binary', 'large_binary', 'struct'])
@pytest.mark.parametrize(
    'options',
    [
        {},
        {'row_group_size': 7},
        {'compression': 'none', 'use_dictionary': False},
        {'compression': 'zstd', 'data_page_size': 100, 'write_batch_size': 1},
        {'compression': 'gzip', 'data_page_version': '2.0'},
        {'use_dictionary': False, 'column_encoding': 'DELTA_BYTE_ARRAY'},
    ],
)
def test_pictures_of_parquet_are_read(kind, options):
    names = [f'd/{i}.jpg' if kind == 'struct' else str(i) for i in range(len(BODIES))]
    if 'column_encoding' in options:
        column = 'image.bytes' if kind == 'struct' else 'jpg'
        options = {**options, 'column_encoding': {column: options['column_encoding']}}
    data = parquet_of(table_of(kind), **options)
    assert outcomes(PARQUET, data) == dict(zip(names, BODIES, strict=True))


def test_rows_are_read_in_any_order():
    data = parquet_of(table_of('binary'), row_group_size=20)
    found = listed(PARQUET, data)
    reader = PARQUET.open(CountedSource(data))
    for i in [40, 3, 2, 1, 45, 44, 0, 49, 19, 20]:
        assert reader.read(found[i].where, 10**6, lambda _: None) == BODIES[i]


def test_rows_in_order_are_read_once():
    bodies = [bytes([i]) * 100_000 for i in range(200)]
    data = parquet_of(table_of('binary', bodies), compression='none', use_dictionary=False)
    source = CountedSource(data)
    reader = PARQUET.open(source)
    for member in listed(PARQUET, data):
        reader.read(member.where, 10**6, lambda _: None)
    assert source.read_bytes < 1.1 * len(data)
    assert source.requests < 20


def test_listing_reads_no_picture():
    bodies = [bytes([i]) * 100_000 for i in range(100)]
    data = parquet_of(table_of('struct', bodies), compression='none', use_dictionary=False)
    source = CountedSource(data)
    assert len(list(PARQUET.members(source, wanted(carry=('label',))))) == 100
    assert source.read_bytes < 200_000


def test_kept_rows_are_bounded(monkeypatch):
    monkeypatch.setattr(parquet, '_KEPT_BYTES', 1000)
    data = parquet_of(table_of('binary'))
    found = listed(PARQUET, data)
    reader = PARQUET.open(CountedSource(data))
    assert [reader.read(each.where, 10**6, lambda _: None) for each in found] == BODIES
    assert [reader.read(each.where, 10**6, lambda _: None) for each in found] == BODIES


@pytest.mark.parametrize(
    'paths', [['a.jpg'] * 3, ['a.jpg', None, 'b.jpg'], ['a.jpg', '', 'b.jpg'], [None] * 3]
)
def test_paths_that_do_not_tell_rows_apart_are_no_names(paths):
    rows = [{'bytes': b'x', 'path': path} for path in paths]
    data = parquet_of(pa.table({'image': pa.array(rows, STRUCT)}), row_group_size=2)
    assert list(outcomes(PARQUET, data)) == ['0', '1', '2']


def test_nulls_and_empty_ones_have_a_reason():
    rows = [{'bytes': b'x', 'path': 'a'}, {'bytes': None, 'path': 'b'}, None]
    data = parquet_of(pa.table({'image': pa.array(rows, STRUCT)}))
    assert outcomes(PARQUET, data) == {'0': b'x', '1': 'empty', '2': 'empty'}
    data = parquet_of(pa.table({'x': pa.array([b'', None, b'x'], pa.binary())}))
    assert outcomes(PARQUET, data) == {'0': 'empty', '1': 'empty', '2': b'x'}


def test_columns_are_carried():
    table = pa.table(
        {
            'image': pa.array([{'bytes': b'1', 'path': 'a'}, {'bytes': b'2', 'path': 'b'}], STRUCT),
            'label': [3, None],
            'text': ['größe', ''],
            'on': pa.array([0, 10**9], pa.timestamp('ns')),
            'kind': pa.array(['x', 'y']).dictionary_encode(),
            'meta': [{'width': 7}, None],
        }
    )
    carry = ('text', 'label', 'on', 'image.path', 'kind', 'meta.width')
    for options in ({}, {'row_group_size': 1}):
        found = listed(PARQUET, parquet_of(table, **options), wanted(carry=carry))
        assert [(each.name, each.carried) for each in found] == [
            ('a', ('größe', '3', '1970-01-01 00:00:00', 'a', 'x', '7')),
            ('b', ('', None, '1970-01-01 00:00:01', 'b', 'y', None)),
        ]


def test_a_column_that_cannot_be_carried_is_named():
    data = parquet_of(pa.table({'image': [b'x'], 'tags': [['a']]}))
    for column, why in (
        ('labl', 'no such column'),
        ('tags.list.element', 'a list or'),
    ):
        with pytest.raises(UsageError, match=f'--carry {column!r}: gs://b/shard has {why}'):
            listed(PARQUET, data, wanted(carry=(column,)))


@pytest.mark.parametrize(
    ('columns', 'image_column', 'found'),
    [
        ({'a': [b'1'], 'b': ['2'], 'c': [3]}, '', b'1'),
        ({'a': [b'1'], 'b': [b'2']}, 'b', b'2'),
        ({'image': [b'1'], 'mask': [b'2']}, '', b'1'),
        ({'x': [{'bytes': b'1', 'path': 'p'}], 'mask': [b'2']}, '', b'1'),
        ({'x': [{'bytes': b'1', 'path': 'p'}], 'mask': [b'2']}, 'x.bytes', b'1'),
        ({'x': [{'y': {'bytes': b'1'}}]}, 'x.y', b'1'),
        ({'x': [{'y': b'1'}]}, '', b'1'),
        ({'a.b': [b'1']}, '', b'1'),
        ({'a': ['text']}, 'a', b'text'),
        ({'a': ['text']}, '', 'not_an_image'),
        ({'a': [[b'1']]}, '', 'not_an_image'),
    ],
)
def test_the_column_of_pictures_is_found(columns, image_column, found):
    data = parquet_of(pa.table(columns))
    assert list(outcomes(PARQUET, data, wanted(image_column)).values()) == [found]


def test_a_column_of_pictures_that_is_not_there_is_named():
    for columns, name in (({'a': [b'1']}, 'b'), ({'a': [1]}, 'a')):
        data = parquet_of(pa.table(columns))
        message = f"--image_column '{name}': gs://b/shard has no such column of bytes, but: a$"
        with pytest.raises(UsageError, match=message):
            listed(PARQUET, data, wanted(name))


def test_which_column_has_pictures_must_be_clear():
    data = parquet_of(pa.table({'a': [b'1'], 'b': [b'2']}))
    with pytest.raises(UsageError, match='name one with --image_column: a, b'):
        listed(PARQUET, data)


def test_what_the_source_raises_is_not_made_another():
    class Gone(CountedSource):
        def range(self, offset, size):
            if self.requests > 3:
                raise error
            return super().range(offset, size)

    data = parquet_of(table_of('struct'), row_group_size=5)
    for error in (StoreError('gone'), ImageError(Reason.DEADLINE, 'too slow')):
        with pytest.raises(type(error)) as caught:
            list(PARQUET.members(Gone(data), wanted()))
        assert caught.value is error
        reader = PARQUET.open(Gone(data))
        found = listed(PARQUET, data)
        with pytest.raises(type(error)) as caught:
            [reader.read(each.where, 10**6, lambda _: None) for each in found]
        assert caught.value is error


def test_large_pages_are_refused(monkeypatch):
    data = parquet_of(table_of('binary'), use_dictionary=False)
    found = listed(PARQUET, data)
    monkeypatch.setattr(parquet, '_MAX_PAGE_BYTES', 1000)
    with pytest.raises(ImageError, match=r'row group 0 has a page of [0-9]+ bytes, limit 1000'):
        PARQUET.open(CountedSource(data)).read(found[0].where, 10**6, lambda _: None)
    with pytest.raises(ImageError, match='limit 10'):
        parquet.PARQUET.open(CountedSource(data)).read(found[5].where, 10, lambda _: None)


PLAIN = parquet_of(table_of('binary'), compression='none', use_dictionary=False)


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'empty'),
        (b'PAR1', 'truncated'),
        (b'PAR1PAR1', 'truncated'),
        (b'x' * 1000, 'unsupported_format'),
        (b'PARE' + PLAIN[4:-4] + b'PARE', 'unsupported_format'),
        (PLAIN[:-1], 'truncated'),
        (PLAIN[:-8] + struct.pack('<L', 2**31 - 1) + b'PAR1', 'decode_error'),
        (PLAIN[:-8] + struct.pack('<L', 7) + b'PAR1', 'decode_error'),
        (b'PAR1' + PLAIN[-8 - int.from_bytes(PLAIN[-8:-4], 'little') :], 'decode_error'),
    ],
)
def test_what_is_no_parquet_file(data, reason):
    (problem,) = listed(PARQUET, data)
    assert isinstance(problem, Problem)
    assert problem.reason.value == reason


def test_a_damaged_picture_costs_those_behind_it_in_its_group():
    table = table_of('binary')
    data = parquet_of(table, row_group_size=10, compression='none', use_dictionary=False)
    data = bytearray(data)
    place = data.index(bytes([15]) * 1501) - 4
    data[place : place + 4] = b'\xff' * 4  # its length
    found = list(outcomes(PARQUET, bytes(data)).values())
    assert found[:15] == BODIES[:15]
    assert set(found[15:20]) == {'decode_error'}
    assert found[20:] == BODIES[20:]


def test_more_rows_than_there_is_anything_for_are_refused():
    data = parquet_of(pa.table({'image': pa.nulls(10**6, pa.binary())}))
    (problem,) = listed(PARQUET, data)
    assert problem.reason is Reason.DECODE_ERROR
    assert 'has 1000000 pictures in' in problem.detail


@pytest.mark.parametrize('where', ['5+5', '9:0:1', '0:50:1', '0:0:9', '0:-1:1', '0:0:0'])
def test_what_is_no_row_is_told(where):
    data = parquet_of(table_of('binary'))
    with pytest.raises(ImageError) as caught:
        PARQUET.open(CountedSource(data)).read(where, 10**6, lambda _: None)
    assert caught.value.reason in (Reason.CHANGED_WHILE_READING, Reason.DECODE_ERROR)


@pytest.mark.parametrize('kind', ['binary', 'struct'])
def test_damage_ends_in_reasons(kind):
    data = parquet_of(table_of(kind, BODIES[:9]), row_group_size=4)
    carry = ('label',)
    for each in damaged(data, 300):
        try:
            outcomes(PARQUET, each, wanted(carry=carry))
        except UsageError:
            continue
        assert all(isinstance(found, Member | Problem) for found in listed(PARQUET, each))
