"""Pictures in Arrow and Feather files, whole, odd and hostile."""

import io
import struct

import pyarrow as pa
import pyarrow.feather as pf
import pytest

from tests.support.containers import CountedSource, damaged, listed, outcomes, wanted
from transforms.core.errors import ImageError, UsageError
from transforms.core.reasons import Reason
from transforms.storage.containers import arrow
from transforms.storage.containers.arrow import ARROW
from transforms.storage.containers.base import Problem

BODIES = [bytes([i]) * (i * 100 + 1) for i in range(50)]
STRUCT = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
CODECS = [None, 'lz4', 'zstd']


def arrow_of(table, is_file=True, codec=None, rows=None):
    sink = io.BytesIO()
    make = pa.ipc.new_file if is_file else pa.ipc.new_stream
    with make(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def table_of(kind, bodies=BODIES):
    label = range(len(bodies))
    if kind == 'struct':
        rows = [{'bytes': each, 'path': f'd/{i}.jpg'} for i, each in enumerate(bodies)]
        return pa.table({'label': label, 'image': pa.array(rows, STRUCT)})
    return pa.table({'label': label, 'jpg': pa.array(bodies, getattr(pa, kind)())})


@pytest.mark.parametrize('kind', ['binary', 'large_binary', 'struct'])
@pytest.mark.parametrize('is_file', [True, False])
@pytest.mark.parametrize('codec', CODECS)
def test_pictures_are_found_and_read(kind, is_file, codec):
    names = [f'd/{i}.jpg' if kind == 'struct' else str(i) for i in range(len(BODIES))]
    for rows in (None, 7):
        data = arrow_of(table_of(kind), is_file, codec, rows)
        assert outcomes(ARROW, data) == dict(zip(names, BODIES, strict=True))


@pytest.mark.parametrize('codec', ['uncompressed', 'lz4', 'zstd'])
def test_feather_is_read(codec):
    sink = io.BytesIO()
    pf.write_feather(table_of('binary'), sink, compression=codec)
    assert list(outcomes(ARROW, sink.getvalue()).values()) == BODIES


def test_columns_before_and_behind_are_passed_over():
    columns = {
        'null': pa.nulls(3),
        'bool': [True, None, False],
        'list': [[1], None, [2, 3]],
        'lists': [[{'a': 'x', 'b': [1]}], [], None],
        'fixed': pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
        'map': pa.array([[('k', 1)], [], None], pa.map_(pa.string(), pa.int8())),
        'dictionary': pa.array(['a', 'b', 'a']).dictionary_encode(),
        'decimal': pa.array([1, 2, None], pa.decimal128(5)),
        'uuid': pa.array([b'xx', None, b'yy'], pa.binary(2)),
        'struct': [{'x': {'y': 1, 'text': 'ä'}}, None, {'x': None}],
        'image': [b'0', b'1', b'2'],
        'other': ['a', 'b', 'c'],
    }
    for codec in CODECS:
        for is_file in (True, False):
            data = arrow_of(pa.table(columns), is_file, codec)
            assert outcomes(ARROW, data) == {'0': b'0', '1': b'1', '2': b'2'}
            carry = ('bool', 'struct.x.text', 'struct.x.y', 'other', 'null', 'decimal')
            found = listed(ARROW, data, wanted(carry=carry))
            assert [each.carried for each in found] == [
                ('true', 'ä', '1', 'a', None, '1'),
                (None, None, None, 'b', None, '2'),
                ('false', None, None, 'c', None, None),
            ]
    with pytest.raises(UsageError, match='a list or a dictionary there'):
        listed(ARROW, data, wanted(carry=('dictionary',)))


def test_columns_behind_one_that_is_not_known_are_not_read():
    view = pa.array([b'x'], pa.binary()).cast(pa.binary_view())
    data = arrow_of(pa.table({'view': view, 'image': [b'x']}))
    (problem,) = listed(ARROW, data)
    assert problem.reason is Reason.NOT_AN_IMAGE
    data = arrow_of(pa.table({'image': [b'x'], 'view': view}))
    assert outcomes(ARROW, data) == {'0': b'x'}


def test_nulls_and_empty_ones_have_a_reason():
    rows = [{'bytes': b'x', 'path': 'a'}, {'bytes': None, 'path': 'b'}, None]
    masked = pa.StructArray.from_arrays(
        [pa.array([b'x', b'', b'hidden'])], ['bytes'], mask=pa.array([False, False, True])
    )
    for codec in CODECS:
        data = arrow_of(pa.table({'image': pa.array(rows, STRUCT)}), codec=codec)
        assert outcomes(ARROW, data) == {'0': b'x', '1': 'empty', '2': 'empty'}
        data = arrow_of(pa.table({'image': masked}), codec=codec)
        assert outcomes(ARROW, data) == {'0': b'x', '1': 'empty', '2': 'empty'}


def test_a_picture_is_two_ranges_and_listing_reads_none():
    bodies = [bytes([i]) * 100_000 for i in range(100)]
    data = arrow_of(table_of('struct', bodies))
    source = CountedSource(data)
    found = list(ARROW.members(source, wanted(carry=('label',))))
    assert source.read_bytes < 20_000
    source = CountedSource(data)
    reader = ARROW.open(source)
    reader.read(found[0].where, 10**6, lambda _: None)
    before = source.requests, source.read_bytes
    for i, member in enumerate(found[1:], 1):
        assert reader.read(member.where, 10**6, lambda _: None) == bodies[i]
    assert source.requests - before[0] == 2 * 99
    assert source.read_bytes - before[1] == 99 * 100_008


def test_large_buffers_are_refused(monkeypatch):
    data = arrow_of(table_of('binary'), codec='zstd')
    monkeypatch.setattr(arrow, '_MAX_BUFFER_BYTES', 1000)
    assert set(outcomes(ARROW, data).values()) == {'too_many_bytes'}


def test_a_bomb_is_not_unpacked():
    data = bytearray(arrow_of(pa.table({'image': [b'x' * 10**6]}), codec='zstd'))
    place = data.rindex((10**6).to_bytes(8, 'little'))
    for size in (2**62, 2**28 + 1, -2, 5):
        data[place : place + 8] = size.to_bytes(8, 'little', signed=True)
        found = outcomes(ARROW, bytes(data))
        assert list(found.values()) in (['too_many_bytes'], ['decode_error'])


PLAIN = arrow_of(table_of('binary', BODIES[:5]))
STREAM = arrow_of(table_of('binary', BODIES[:5]), is_file=False)


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        (b'', {'': 'empty'}),
        (b'x' * 1000, {'': 'unsupported_format'}),
        (b'FEA1' + bytes(100), {'': 'unsupported_format'}),
        (b'ARROW1', {'': 'unsupported_format'}),
        (PLAIN[:20], {'': 'decode_error'}),
        (STREAM[:20], {'': 'decode_error'}),
        (b'\xff' * 100, {'': 'decode_error'}),
        (PLAIN[:-1], {**{str(i): BODIES[i] for i in range(5)}, '': 'truncated'}),
        (STREAM[:-8], {str(i): BODIES[i] for i in range(5)}),
        (STREAM[:-9], {'': 'truncated'}),
        (STREAM[:-8] + b'x' * 50, {**{str(i): BODIES[i] for i in range(5)}, '': 'decode_error'}),
    ],
)
def test_files_that_are_none_or_break_off(data, found):
    assert outcomes(ARROW, data) == found


def test_what_lies_before_the_break_is_read():
    data = arrow_of(table_of('struct'), rows=10)
    found = outcomes(ARROW, data[: len(data) // 2])
    assert found.pop('') == 'truncated'
    assert found == {f'd/{i}.jpg': BODIES[i] for i in range(len(found))}
    assert len(found) in (20, 30)


def test_offsets_that_lie_have_a_reason():
    data = bytearray(arrow_of(pa.table({'image': [b'first', b'second']})))
    place = data.index(struct.pack('<lll', 0, 5, 11))
    for offsets in ((0, 2**31 - 1, 11), (0, -5, 11), (-5, 5, 11), (0, 5, 9999)):
        data[place : place + 12] = struct.pack('<lll', *offsets)
        assert 'decode_error' in outcomes(ARROW, bytes(data)).values()


def test_more_rows_than_there_is_anything_for_are_refused():
    data = arrow_of(pa.table({'image': pa.nulls(10**6, pa.binary())}), codec='zstd')
    for problem in listed(ARROW, data):
        assert isinstance(problem, Problem)
        assert 'has 1000000 pictures in' in problem.detail


@pytest.mark.parametrize('where', ['5+5', '9:0:1', '0:50:1', '0:0:9', '0:0:0'])
def test_what_is_no_row_is_told(where):
    data = arrow_of(table_of('binary'))
    with pytest.raises(ImageError) as caught:
        ARROW.open(CountedSource(data)).read(where, 10**6, lambda _: None)
    assert caught.value.reason is Reason.CHANGED_WHILE_READING


@pytest.mark.parametrize('kind', ['binary', 'struct'])
@pytest.mark.parametrize('codec', CODECS)
def test_damage_ends_in_reasons(kind, codec):
    for is_file in (True, False):
        data = arrow_of(table_of(kind, BODIES[:9]), is_file, codec, rows=4)
        for each in damaged(data, 150):
            try:
                outcomes(ARROW, each, wanted(carry=('label',)))
            except UsageError:
                continue
