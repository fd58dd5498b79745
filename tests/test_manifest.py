"""Manifests of every kind, whole and broken."""

import csv
import datetime
import gzip
import io
import itertools
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.arrow_text import values_of
from transforms.errors import ManifestError, UsageError
from transforms.manifest import check_columns, is_manifest, read_manifest

URIS = ['a b.jpg', 'größe/日本.jpg', '100%+#?.jpg', "it's.jpg", '.hidden.png', 'x,y.jpg', 'q"q.jpg']
LABELS = ['train', '', '007', 'a,b', 'line\nbreak', 'größe', '"']
TEXT_KINDS = ['.txt', '.csv', '.jsonl']
pure = settings(derandomize=True, max_examples=60, deadline=None)
texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\x00\r'), max_size=10)
# Not \r: the csv module quotes it only where it ends lines, too.


def encode(kind, names, labels, newline='\n', bom=b''):
    """A manifest with the columns uri and label, as the bytes of a file."""
    pairs = list(zip(names, labels, strict=True))
    match kind.removesuffix('.gz'):
        case '.parquet':
            sink = io.BytesIO()
            pq.write_table(pa.table({'uri': names, 'label': labels}), sink)
            return sink.getvalue()
        case '.txt':
            text = ''.join(f'{name}{newline}' for name, _ in pairs)
        case '.csv':
            out = io.StringIO()
            csv.writer(out, lineterminator=newline).writerows([('uri', 'label'), *pairs])
            text = out.getvalue()
        case '.jsonl':
            rows = [json.dumps({'uri': name, 'label': label}) for name, label in pairs]
            text = ''.join(f'{row}{newline}' for row in rows)
    data = bom + text.encode()
    return gzip.compress(data) if kind.endswith('.gz') else data


def read(path, carry=(), column='uri'):
    return list(read_manifest(str(path), column, carry))


def written(folder, kind, data):
    path = folder / f'list{kind}'
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('gz', ['', '.gz'])
@pytest.mark.parametrize('kind', TEXT_KINDS)
@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize('bom', [b'', b'\xef\xbb\xbf'])
def test_text_manifests_give_back_what_was_written(tmp_path, kind, gz, newline, bom):
    data = encode(kind + gz, URIS, LABELS, newline, bom)
    carry = () if kind == '.txt' else ('label',)
    lines = read(written(tmp_path, kind + gz, data), carry)
    assert [line.uri for line in lines] == URIS
    if carry:
        assert [line.carried[0] for line in lines] == LABELS


def test_parquet_gives_back_what_was_written(tmp_path):
    lines = read(written(tmp_path, '.parquet', encode('.parquet', URIS, LABELS)), ('label', 'uri'))
    assert [(line.uri, *line.carried) for line in lines] == [
        (uri, label, uri) for uri, label in zip(URIS, LABELS, strict=True)
    ]
    assert [line.number for line in lines] == list(range(1, len(URIS) + 1))


@pure
@given(
    st.sampled_from(['.csv', '.csv.gz', '.jsonl', '.jsonl.gz', '.parquet']),
    st.lists(st.tuples(texts, texts), max_size=5),
)
def test_any_text_survives(kind, rows):
    names, labels = [row[0] for row in rows], [row[1] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        lines = read(written(Path(folder), kind, encode(kind, names, labels)), ('label',))
    assert [(line.uri, *line.carried) for line in lines] == rows


@pytest.mark.parametrize('kind', TEXT_KINDS)
def test_the_last_line_needs_no_end(tmp_path, kind):
    data = encode(kind, URIS, [*LABELS[:-1], 'z']).rstrip(b'\n')
    assert [line.uri for line in read(written(tmp_path, kind, data))] == URIS


def test_line_numbers_are_those_of_an_editor(tmp_path):
    text = written(tmp_path, '.txt', b'a\n\n\nb\r\n\r\nc')
    assert [(line.number, line.uri) for line in read(text)] == [(1, 'a'), (4, 'b'), (6, 'c')]
    rows = written(tmp_path, '.csv', b'uri\n"a\nb"\n\nc\n')
    assert [(line.number, line.uri) for line in read(rows)] == [(3, 'a\nb'), (5, 'c')]
    objects = written(tmp_path, '.jsonl', b'\n{"uri": "a"}\n \n{"uri": "b"}\n')
    assert [(line.number, line.uri) for line in read(objects)] == [(2, 'a'), (4, 'b')]


@pytest.mark.parametrize(
    ('kind', 'data'),
    [('.txt', b''), ('.txt', b'\xef\xbb\xbf\n\n'), ('.jsonl', b'\n'), ('.csv', b'uri,label\n')],
)
def test_a_manifest_of_nothing_lists_nothing(tmp_path, kind, data):
    assert read(written(tmp_path, kind, data)) == []
    assert read(written(tmp_path, f'{kind}.gz', gzip.compress(data))) == []


def test_an_empty_parquet_table_lists_nothing_but_names_a_wrong_column(tmp_path):
    path = written(tmp_path, '.parquet', encode('.parquet', [], []))
    assert read(path) == []
    with pytest.raises(UsageError, match="--uri_column 'url'"):
        read(path, column='url')


@pytest.mark.parametrize(
    ('kind', 'data', 'message'),
    [
        ('.csv', b'', 'line 1 is missing: a CSV manifest starts with a header'),
        ('.txt.gz', b'', 'line 1 is missing: an empty file is no gzip'),
        ('.parquet', b'', 'row 0: not a Parquet file'),
        ('.csv', b'uri,label\na,b\nc', 'line 3 breaks off'),
        ('.csv', b'uri,label\na,b\nc,"d\ne\n', 'line 3 is no CSV'),
        ('.csv', b'uri,label\na,b\n"c"d,e\n', 'line 3 is no CSV'),
        ('.csv', b'"uri\n', 'line 1 is no CSV'),
        ('.jsonl', b'{"uri": "a"}\n{"uri": "b', 'line 2 breaks off'),
        ('.txt', b'a\nb\x00\n', 'line 2 holds NUL bytes'),
        ('.txt', 'a\nb\n'.encode('utf-16'), 'line 1 holds NUL bytes: a binary file, or UTF-16'),
        ('.csv', b'uri\n\x89PNG\r\n\x1a\n\x00\x00', 'line 4 holds NUL bytes'),
        ('.jsonl', b'\x00', 'line 1 holds NUL bytes'),
        ('.txt', b'a\n' + b'x' * 1_000_001, 'line 2 is longer than 1000000 bytes'),
        ('.txt.gz', b'a\nb\n', 'line 1 is where the gzip file is damaged'),
        ('.parquet', b'uri\na.jpg\n', 'row 0: not a Parquet file, or half-written'),
    ],
)
def test_broken_manifests_stop_the_run_and_name_the_line(tmp_path, kind, data, message):
    path = written(tmp_path, kind, data)
    with pytest.raises(ManifestError) as caught:
        read(path)
    assert str(caught.value).startswith(f'{path}: {message}')


@pytest.mark.parametrize('kind', ['.txt.gz', '.csv.gz', '.jsonl.gz'])
def test_a_gzip_file_that_breaks_off_is_no_end_of_the_list(tmp_path, kind):
    names = [f'{i * 7919 % 10_007}.jpg' for i in range(2000)]
    data = encode(kind, names, names)
    for size in (len(data) - 1, len(data) - 8, len(data) // 2, 15):
        path = written(tmp_path, kind, data[:size])
        with pytest.raises(ManifestError, match=r'line \d+ (is where the gzip|breaks off|is no)'):
            read(path)


def test_a_damaged_gzip_file_names_a_line(tmp_path):
    names = [f'{i * 7919 % 10_007}.jpg' for i in range(2000)]
    data = bytearray(encode('.txt.gz', names, names))
    data[-6] ^= 1  # its checksum
    with pytest.raises(ManifestError, match='line 2001 is where the gzip file is damaged'):
        read(written(tmp_path, '.txt.gz', bytes(data)))


def test_gzip_members_in_a_row_are_one_file(tmp_path):
    data = gzip.compress(b'a\nb') + gzip.compress(b'c\nd\n')
    assert [line.uri for line in read(written(tmp_path, '.txt.gz', data))] == ['a', 'bc', 'd']


def test_half_a_parquet_file_stops_the_run(tmp_path):
    data = encode('.parquet', URIS, LABELS)
    for size in (3, len(data) // 2, len(data) - 1):
        with pytest.raises(ManifestError, match='row 0: not a Parquet file, or half-written'):
            read(written(tmp_path, '.parquet', data[:size]))


def test_a_parquet_file_with_damaged_pages_stops_the_run(tmp_path):
    data = bytearray(encode('.parquet', URIS * 500, LABELS * 500))
    data[4:60] = bytes(56)
    with pytest.raises(ManifestError, match='cannot be read behind row 0'):
        read(written(tmp_path, '.parquet', bytes(data)))


@pytest.mark.parametrize(
    ('kind', 'rubbish', 'problem'),
    [
        ('.csv', b'only,two,too,many', '4 columns, expected 2'),
        ('.csv', b'one', '1 columns, expected 2'),
        ('.jsonl', b'{"uri": "half', 'not JSON'),
        ('.jsonl', b'["a.jpg"]', 'not a JSON object'),
        ('.jsonl', b'null', 'not a JSON object'),
        ('.jsonl', b'{"label": "x"}', "no text in 'uri'"),
        ('.jsonl', b'{"uri": 7}', "no text in 'uri'"),
        ('.jsonl', b'[' * 100_000, 'not JSON'),
        ('.jsonl', b'9' * 10_000, 'not JSON'),
        ('.jsonl', b'\xff\xfe', 'not JSON'),
    ],
)
def test_one_percent_of_rubbish_costs_those_lines_only(tmp_path, kind, rubbish, problem):
    names = [f'{i}.jpg' for i in range(297)]
    good = encode(kind, names, names).splitlines()
    header, rows = (good[:1], good[1:]) if kind == '.csv' else ([], good)
    for place in (50, 150, 250):
        rows.insert(place, rubbish)
    lines = read(written(tmp_path, kind, b'\n'.join([*header, *rows, b''])), ('label',))
    assert [line.uri for line in lines if line.uri is not None] == names
    bad = [line for line in lines if line.uri is None]
    assert [line.number - len(header) for line in bad] == [51, 151, 251]
    assert {line.problem for line in bad} == {problem}


@pytest.mark.parametrize('kind', ['.csv', '.jsonl', '.parquet', '.csv.gz'])
def test_a_wrong_column_is_answered_with_those_there_are(tmp_path, kind):
    path = written(tmp_path, kind, encode(kind, URIS, LABELS))
    with pytest.raises(UsageError, match=r"--uri_column 'url': .* but: uri, label$"):
        read(path, column='url')
    with pytest.raises(UsageError, match=r"--partition_by 'split': .* but: uri, label$"):
        read(path, ('label', 'split'))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = written(tmp_path, '.csv', b'uri,uri\na,b\n')
    with pytest.raises(UsageError, match="more than one column 'uri'"):
        read(path)


def test_column_names_that_are_not_text_are_printed_all_the_same(tmp_path):
    for kind, data in (('.csv', b'\xff,x\na,b\n'), ('.jsonl', b'{"\\ud800": 1, "x": 2}\n')):
        with pytest.raises(UsageError, match=r'but: \\\S+, x$'):
            read(written(tmp_path, kind, data))


def test_text_manifests_have_nothing_to_carry(tmp_path):
    with pytest.raises(UsageError, match='--carry split'):
        read(written(tmp_path, '.txt', b'a\n'), ('split',))


def test_bytes_that_are_no_utf8_stay_in_the_one_line(tmp_path):
    lines = read(written(tmp_path, '.txt', b'a\n\xff.jpg\nb\n'))
    assert [line.uri for line in lines] == ['a', '\udcff.jpg', 'b']


def test_parquet_values_become_text(tmp_path):
    columns = {
        'uri': pa.array(['a', 'b', None, 'd']),
        'int': pa.array([7, None, 0, -1]),
        'float': pa.array([0.5, None, 1e300, -0.0]),
        'bool': pa.array([True, False, None, True]),
        'date': pa.array([datetime.date(2026, 1, 2), None, None, None]),
        'time': pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5), None, None, None]),
        'nested': pa.array([{'x': [1, None], 'y': 'ö'}, None, None, None]),
        'bytes': pa.array(['ö'.encode(), None, b'', b'\xff']),
        'dictionary': pa.array(['x', None, 'y', 'x']).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / 'list.parquet')
    names = tuple(columns)[1:]
    lines = read(tmp_path / 'list.parquet', names)
    assert [line.uri for line in lines] == ['a', 'b', None, 'd']
    assert lines[2].problem == "no text in 'uri'"
    assert [dict(zip(names, line.carried, strict=True)) for line in lines] == [
        {
            'int': '7',
            'float': '0.5',
            'bool': 'true',
            'date': '2026-01-02',
            'time': '2026-01-02 03:04:05',
            'nested': '{"x": [1, null], "y": "ö"}',
            'bytes': 'ö',
            'dictionary': 'x',
        },
        dict.fromkeys(names) | {'bool': 'false'},
        dict.fromkeys(names) | {'int': '0', 'float': '1e+300', 'bytes': '', 'dictionary': 'y'},
        dict.fromkeys(names)
        | {'int': '-1', 'float': '-0.0', 'bool': 'true', 'bytes': '\udcff', 'dictionary': 'x'},
    ]


# Micro- and nanoseconds, before 1970, a zone with seconds, and years that Python has not.
TIMES = [
    (pa.timestamp('s'), 1_700_000_000, '2023-11-14 22:13:20'),
    (pa.timestamp('ms'), 1, '1970-01-01 00:00:00.001000'),
    (pa.timestamp('us'), -1, '1969-12-31 23:59:59.999999'),
    (pa.timestamp('ns'), 1000, '1970-01-01 00:00:00.000001'),
    (pa.timestamp('ns'), 1, '1970-01-01 00:00:00.000000001'),
    (pa.timestamp('ns'), -1, '1969-12-31 23:59:59.999999999'),
    (pa.timestamp('us', 'UTC'), 0, '1970-01-01 00:00:00+00:00'),
    (pa.timestamp('us', '+05:30'), 0, '1970-01-01 05:30:00+05:30'),
    (pa.timestamp('ns', 'Europe/Berlin'), 1, '1970-01-01 01:00:00.000000001+01:00'),
    (pa.timestamp('us', 'Europe/Berlin'), -(3 * 10**15), '1874-12-07 19:33:28+00:53:28'),
    (pa.timestamp('us'), 253_402_300_800 * 10**6, '10000-01-01 00:00:00'),
    (pa.timestamp('us', '+05:30'), 253_402_300_799 * 10**6, '10000-01-01 05:29:59+05:30'),
    (pa.timestamp('us'), -62_135_596_800 * 10**6 - 1, '0000-12-31 23:59:59.999999'),
    (pa.duration('s'), -1, '-1 day, 23:59:59'),
    (pa.duration('ms'), 1, '0:00:00.001000'),
    (pa.duration('us'), 90_000 * 10**6, '1 day, 1:00:00'),
    (pa.duration('ns'), 172_800 * 10**9, '2 days, 0:00:00'),
    (pa.duration('ns'), 1, '0:00:00.000000001'),
    (pa.duration('s'), 2**62, '53375995583650 days, 7:45:04'),
    (pa.date32(), -719_163, '0000-12-31'),
    (pa.date64(), 86_400_000, '1970-01-02'),
    (pa.time32('ms'), 1, '00:00:00.001000'),
    (pa.time64('us'), 86_399 * 10**6, '23:59:59'),
    (pa.time64('ns'), 1001, '00:00:00.000001001'),
]


@pytest.mark.parametrize(('kind', 'number', 'text'), TIMES, ids=lambda value: str(value))
def test_times_are_text_whatever_else_is_installed(tmp_path, kind, number, text):
    numbers = pa.array([number, None], pa.int32() if kind.bit_width == 32 else pa.int64())
    times = numbers.view(kind)
    columns = {
        'uri': ['a', 'b'],
        'time': times,
        'list': pa.ListArray.from_arrays([0, 1, 2], times),
        'struct': pa.StructArray.from_arrays([times], ['x']),
        'map': pa.MapArray.from_arrays([0, 1, 2], ['k', 'k'], times),
    }
    pq.write_table(pa.table(columns), tmp_path / 'list.parquet')
    lines = read(tmp_path / 'list.parquet', tuple(columns)[1:])
    quoted = json.dumps(text)
    assert [line.carried for line in lines] == [
        (text, f'[{quoted}]', f'{{"x": {quoted}}}', f'[["k", {quoted}]]'),
        (None, '[null]', '{"x": null}', '[["k", null]]'),
    ]
    names = read(tmp_path / 'list.parquet', column='time')
    assert {line.uri for line in names} == {None}, 'a time is no name'


@pure
@given(
    st.sampled_from(['s', 'ms', 'us']),
    st.sampled_from([None, 'UTC', 'Europe/Berlin', 'Australia/Lord_Howe', '-03:00']),
    st.lists(st.integers(-62_135_400_000, 253_402_100_000)),
)
def test_times_are_as_python_writes_them(unit, zone, seconds):
    per_sec = {'s': 1, 'ms': 10**3, 'us': 10**6}[unit]
    numbers = [second * per_sec + second % per_sec for second in seconds]
    for kind in (pa.timestamp(unit, zone), pa.duration(unit)):
        times = pa.array(numbers, pa.int64()).view(kind)
        assert values_of(times) == [str(time) for time in times.to_pylist()]


def test_a_zone_that_nobody_knows_is_named(tmp_path):
    times = pa.array([0], pa.int64()).view(pa.timestamp('us', 'Mars/Olympus'))
    pq.write_table(pa.table({'uri': ['a'], 'time': times}), tmp_path / 'list.parquet')
    with pytest.raises(ManifestError, match="behind row 0: the time zone 'Mars/Olympus' is not"):
        read(tmp_path / 'list.parquet', ('time',))


def test_a_date_beyond_all_calendars_stops_the_run(tmp_path):
    dates = pa.array([2**31 - 1], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({'uri': ['a'], 'date': dates}), tmp_path / 'list.parquet')
    with pytest.raises(ManifestError, match='behind row 0'):
        read(tmp_path / 'list.parquet', ('date',))


def test_parquet_uris_may_be_bytes_but_not_numbers_or_structs(tmp_path):
    for column, expected in (
        (pa.array(['ö'.encode(), None]), ['ö', None]),
        (pa.array([1, 2]), [None, None]),
        (pa.array([{'uri': 'a'}, None]), [None, None]),
    ):
        pq.write_table(pa.table({'uri': column}), tmp_path / 'list.parquet')
        assert [line.uri for line in read(tmp_path / 'list.parquet')] == expected


def test_jsonl_values_become_text(tmp_path):
    data = b'{"uri": "a", "x": 1, "y": null}\n{"uri": "b", "x": {"k": [true]}}\n'
    lines = read(written(tmp_path, '.jsonl', data), ('x', 'y'))
    assert [line.carried for line in lines] == [('1', None), ('{"k": [true]}', None)]


ROWS = [{'uri': 'a'}, {'uri': 'b', 'x': 1}, {'y': 'z', 'uri': 'c', 'x': None}, {'x': 2}]


@pytest.mark.parametrize('gz', ['', '.gz'])
@pytest.mark.parametrize('rows', list(itertools.permutations(ROWS)), ids=repr)
def test_an_absent_key_is_null_in_whatever_order_lines_come(tmp_path, rows, gz):
    data = ''.join(f'{json.dumps(row)}\n' for row in rows).encode()
    path = written(tmp_path, f'.jsonl{gz}', gzip.compress(data) if gz else data)
    check_columns(str(path), 'uri', ('x', 'y'))
    lines = read(path, ('x', 'y'))
    text = {None: None, 1: '1', 2: '2', 'z': 'z'}
    assert [(line.uri, *line.carried) for line in lines] == [
        (row.get('uri'), text[row.get('x')], text[row.get('y')]) for row in rows
    ]


@pytest.mark.parametrize(
    ('data', 'carry', 'message'),
    [
        (
            b'{"uri": "a", "x": 1}\n{"uri": "b", "z": 1}\n',
            ('x', 'y'),
            "--carry .*'y'.*: uri, x, z$",
        ),
        (b'{"url": "a"}\n{"link": "b"}\n', (), "--uri_column 'uri': .*: url, link$"),
        (b'{}\n7\n', (), "--uri_column 'uri': .*: $"),
        (
            b''.join(b'{"%d": 1}\n' % i for i in range(50)),
            (),
            "'uri': .*: 0, 1, 2, .*, 19$",
        ),
    ],
)
def test_a_column_that_no_line_has_is_a_mistake(tmp_path, data, carry, message):
    path = written(tmp_path, '.jsonl', data)
    for look in (read, lambda path, carry: check_columns(str(path), 'uri', carry)):
        with pytest.raises(UsageError, match=message):
            look(path, carry)


def test_columns_are_looked_for_no_further_than_they_must_be(tmp_path):
    data = b'{"uri": "a"}\n{"uri": "b", "x": 1}\n{"uri": "half'
    path = written(tmp_path, '.jsonl', data)
    check_columns(str(path), 'uri', ('x',))
    with pytest.raises(ManifestError, match='line 3 breaks off'):
        check_columns(str(path), 'uri', ('x', 'y'))


def test_what_cannot_be_opened_is_wrong_usage(tmp_path):
    (tmp_path / 'folder.txt').mkdir()
    for name in ('absent.txt', 'folder.txt', 'folder.txt/a.csv'):
        with pytest.raises(UsageError, match='cannot read'):
            read(tmp_path / name)
    (tmp_path / 'zero.txt').symlink_to('/dev/zero')
    with pytest.raises(UsageError, match=r'cannot read .*zero\.txt: a device'):
        read(tmp_path / 'zero.txt')


@pytest.mark.parametrize('name', ['a.txt', 'a.CSV', 'a.jsonl.gz', 'gs://b/a.parquet', '/a/.csv'])
def test_manifests_are_known_by_their_suffix(name):
    assert is_manifest(name)


@pytest.mark.parametrize('name', ['a.jpg', 'a.gz', 'a.parquet.gz', 'txt', 'a.csv/b.jpg'])
def test_nothing_else_is_a_manifest(name):
    assert not is_manifest(name)
