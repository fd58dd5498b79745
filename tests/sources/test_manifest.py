"""Manifests of every kind, whole and broken."""

import csv
import datetime
import gzip
import io
import itertools
import json
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.errors import ManifestError, UsageError
from transforms.sources import manifest
from transforms.sources.manifest import Line, check_columns, is_manifest, read_manifest
from transforms.storage.containers.arrow_text import values_of
from transforms.storage.containers.parquet_pages import Chunk, read_footer, read_pages

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


@pytest.mark.parametrize('gz', ['', '.gz'])
@pytest.mark.parametrize(
    ('kind', 'like'), [('.ndjson', '.jsonl'), ('.json', '.jsonl'), ('.tsv', '.csv')]
)
def test_manifests_of_other_names_are_read_as_their_like(tmp_path, kind, like, gz):
    data = encode(like, URIS, LABELS)
    if kind == '.tsv':
        out = io.StringIO()
        csv.writer(out, delimiter='\t', lineterminator='\n').writerows(
            [('uri', 'label'), *zip(URIS, LABELS, strict=True)]
        )
        data = out.getvalue().encode()
    path = written(tmp_path, kind + gz, gzip.compress(data) if gz else data)
    assert is_manifest(str(path))
    check_columns(str(path), 'uri', ('label',))
    found = read(path, ('label',))
    assert [(line.uri, *line.carried) for line in found] == list(zip(URIS, LABELS, strict=True))


@pytest.mark.parametrize('gz', ['', '.gz'])
@pytest.mark.parametrize(
    'data', [b'[{"uri": "a"}]', b'[\n  {"uri": "a"}\n]\n', b'\xef\xbb\xbf {\n"images": []}\n']
)
def test_json_that_is_no_lines_is_told_before_the_run(tmp_path, data, gz):
    path = written(tmp_path, f'.json{gz}', gzip.compress(data) if gz else data)
    with pytest.raises(UsageError, match=r"one JSON object per line, .*`jq -c '\.\[\]'` turns"):
        check_columns(str(path), 'uri', ())


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
        ('.txt.gz', b'', 'line 1 is missing: an empty file is not a gzip'),
        ('.parquet', b'', 'row 0: not a Parquet file'),
        ('.csv', b'uri,label\na,b\nc', 'line 3 ends early'),
        ('.csv', b'uri,label\na,b\nc,"d\ne\n', 'line 3 is not CSV'),
        ('.csv', b'uri,label\na,b\n"c"d,e\n', 'line 3 is not CSV'),
        ('.csv', b'"uri\n', 'line 1 is not CSV'),
        ('.jsonl', b'{"uri": "a"}\n{"uri": "b', 'line 2 ends early'),
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
    with pytest.raises(ManifestError, match='cannot be read after row 0'):
        read(written(tmp_path, '.parquet', bytes(data)))


def test_a_footer_that_arrow_cannot_be_asked_about_is_a_broken_manifest(tmp_path):
    data = encode('.parquet', ['a.jpg'], ['x'])
    optional, required = b'\x15\x0c\x25\x02', b'\x15\x0c\x25\x00'  # of a column of bytes
    path = written(tmp_path, '.parquet', data.replace(optional, required))
    with pytest.raises(ManifestError, match='cannot be read after row 0'):
        read(path)


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
    with pytest.raises(UsageError, match=r"--uri_column 'url': .* it has uri, label$"):
        read(path, column='url')
    with pytest.raises(UsageError, match=r"--partition_by 'split': .* it has uri, label$"):
        read(path, ('label', 'split'))


@pytest.mark.parametrize(
    ('kind', 'header', 'said'),
    [
        ('.csv', ' uri , split', r"it has ' uri ', ' split'; did you mean ' uri '\?"),
        ('.csv', 'URI,split', r"it has URI, split; did you mean 'URI'\?"),
        ('.csv', 'uri;split', 'separated by semicolons: write commas, or tabs in a .tsv'),
        ('.csv', 'uri\tsplit', 'separated by tabs: name it .tsv'),
        ('.tsv', 'uri,split', 'separated by commas: name it .csv'),
        ('.csv', 'photos/cat.jpg,train', 'the first line must name the columns'),
        ('.csv', 'url,split', 'it has url, split'),
    ],
)
def test_a_header_that_is_nearly_right_is_told_as_such(tmp_path, kind, header, said):
    with pytest.raises(UsageError, match=f'has no such column; .*{said}$'):
        read(written(tmp_path, kind, f'{header}\nx\n'.encode()))


def test_a_table_of_neither_uris_nor_images_is_told_as_such(tmp_path):
    path = tmp_path / 'a.parquet'
    pq.write_table(pa.table({'text': ['a']}), path)
    message = 'has no such column, nor one of bytes, as images inside it would need; it has text$'
    with pytest.raises(UsageError, match=message):
        read(str(path))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = written(tmp_path, '.csv', b'uri,uri\na,b\n')
    with pytest.raises(UsageError, match="more than one column 'uri'"):
        read(path)


def test_column_names_that_are_not_text_are_printed_all_the_same(tmp_path):
    for kind, data in (('.csv', b'\xff,x\na,b\n'), ('.jsonl', b'{"\\ud800": 1, "x": 2}\n')):
        with pytest.raises(UsageError, match=r'it has \\\S+, x$'):
            read(written(tmp_path, kind, data))


def test_a_message_about_columns_is_short_whatever_they_are_called(tmp_path):
    names = ['x' * 9_000] * 90
    for kind, data in (
        ('.csv', f'{",".join(names)}\n'),
        ('.jsonl', json.dumps({f'{name}{i}': 1 for i, name in enumerate(names)})),
    ):
        with pytest.raises(UsageError, match='no such column') as caught:
            read(written(tmp_path, kind, data.encode()))
        assert len(str(caught.value)) < 3_000


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
    with pytest.raises(ManifestError, match="after row 0: the time zone 'Mars/Olympus' is not"):
        read(tmp_path / 'list.parquet', ('time',))


BEYOND = [
    (pa.date32(), 2**31 - 1),
    (pa.timestamp('s'), 2**40),
    (pa.timestamp('ms', 'UTC'), -(2**62)),
    (pa.timestamp('us', 'Europe/Berlin'), 2**62),
]


@pytest.mark.parametrize(('kind', 'number'), BEYOND, ids=str)
def test_a_time_beyond_all_calendars_costs_its_line(tmp_path, kind, number):
    numbers = pa.array([0, number, None, number], pa.int32() if kind.bit_width == 32 else None)
    times = numbers.view(kind)
    columns = {
        'uri': list('abcd'),
        'time': times,
        'list': pa.ListArray.from_arrays(range(5), times),
    }
    pq.write_table(pa.table(columns), tmp_path / 'list.parquet')
    lines = read(tmp_path / 'list.parquet', ('time', 'list'))
    assert [line.uri for line in lines] == list('abcd')
    why = 'a carried time that is not in the calendar'
    assert [line.problem for line in lines] == ['', why, '', why]
    assert lines[0].carried[0].startswith('1970-01-01')
    assert len({line.carried for line in lines}) == 4, 'the bad ones are told apart, too'


def test_parquet_uris_may_be_bytes_but_not_numbers(tmp_path):
    for column, expected in (
        (pa.array(['ö'.encode(), None]), ['ö', None]),
        (pa.array([1, 2]), [None, None]),
    ):
        pq.write_table(pa.table({'uri': column}), tmp_path / 'list.parquet')
        assert [line.uri for line in read(tmp_path / 'list.parquet')] == expected


@pytest.mark.parametrize(
    'column', [[{'bytes': b'x', 'path': 'a.jpg'}], [['a.jpg']], [[{'x': 'a.jpg'}]]], ids=str
)
def test_a_column_of_structs_or_lists_is_told_from_the_schema(tmp_path, column):
    pq.write_table(pa.table({'uri': column}), tmp_path / 'list.parquet')
    for look in (read, lambda path: check_columns(str(path), 'uri', ())):
        with pytest.raises(UsageError, match=r"--uri_column 'uri': .* has no text there, but "):
            look(tmp_path / 'list.parquet')


def _nested(kind, depth):
    for _ in range(depth):
        kind = pa.list_(kind) if depth % 2 else pa.struct([('x', kind)])
    return kind


def test_columns_of_types_that_are_no_text_are_told_from_the_schema(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ['x', 'x'])
    columns = {'twice': twice}
    columns |= {f'deep{n}': pa.nulls(1, _nested(pa.int64(), n)) for n in (150, 151)}
    path = tmp_path / 'list.parquet'
    for name, message in (
        ('twice', 'two fields of one name among x, x'),
        *((name, 'nested too deeply') for name in ('deep150', 'deep151')),
    ):
        pq.write_table(pa.table({'uri': ['a'], name: columns[name]}), path)
        with pytest.raises((UsageError, ManifestError)) as caught:
            read(path, (name,))
        assert message in str(caught.value) or 'not a Parquet file' in str(caught.value)


def _repeated(text, rows):
    """A column of one text in all rows, which takes hardly more than the text."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def _bombs():
    """Files of a few kB, by name, that hold hundreds of MB."""
    big, rows = 'x' * 200_000, 1_500
    names = [f'{i}.jpg' for i in range(rows)]
    texts = _repeated(big, rows)
    lists = pa.ListArray.from_arrays(range(0, rows + 1, 10), texts)
    return {
        'uri': ({'uri': texts}, {}),
        'dictionary': ({'uri': names, 'c': texts}, {}),
        'plain': ({'uri': names, 'c': texts}, {'use_dictionary': False, 'write_batch_size': 64}),
        'delta': (
            {'uri': names, 'c': texts},
            {'use_dictionary': False, 'column_encoding': {'c': 'DELTA_BYTE_ARRAY'}},
        ),
        'struct': ({'uri': names, 'c': pa.StructArray.from_arrays([texts], ['x'])}, {}),
        'lists': ({'uri': names[: len(lists)], 'c': lists}, {}),
        'one_list': (
            {'uri': ['a'], 'c': pa.ListArray.from_arrays([0, rows], texts)},
            {},
        ),
    }


@pytest.mark.parametrize('name', _bombs())
def test_what_repeats_a_text_takes_little_memory(tmp_path, name):
    columns, options = _bombs()[name]
    path = tmp_path / 'list.parquet'
    pq.write_table(pa.table(columns), path, compression='zstd', store_schema=False, **options)
    assert path.stat().st_size < 100_000
    carry = tuple(columns)[1:]
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        rows = problems = 0
        for line in read_manifest(str(path), 'uri', carry):
            rows += 1
            problems += bool(line.problem)
    finally:
        pa.set_memory_pool(before)
    assert rows == len(columns['uri'])
    assert pool.max_memory() < 200 * 2**20
    if name in ('lists', 'one_list'):
        assert problems == rows


@pytest.mark.parametrize(
    ('name', 'limit', 'names', 'message'),
    [
        ('_MAX_PAGE_BYTES', 50_000, [None], "a page of 1000.. bytes in 'uri', limit 50000: write"),
        (
            '_MAX_LISTS_BYTES',
            400_000,
            ['b', 'x' * 100_000],
            "may hold 12000.. bytes of lists in 'c.list.element', limit 400000: write smaller",
        ),
    ],
)
def test_pages_and_lists_that_do_not_fit_into_memory_are_bad_lines(
    name, limit, names, message, tmp_path, monkeypatch
):
    path = tmp_path / 'list.parquet'
    table = pa.table({'uri': ['a', 'b', 'x' * 100_000], 'c': [[], [1] * 100_000, []]})
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table.slice(0, 1))
        writer.write_table(table.slice(1))
    monkeypatch.setattr(manifest, name, limit)
    first, *bad = read(path, ('c',))
    assert first == Line(1, 'a', ('[]',))
    assert [line.uri for line in bad] == names * (2 // len(names))
    assert [line.number for line in bad] == [2, 3]
    for line in bad:
        assert re.match(f'row group 1 .*{message}', line.problem)


def test_a_page_of_a_carried_column_that_does_not_fit_leaves_the_uris(tmp_path, monkeypatch):
    path = tmp_path / 'list.parquet'
    pq.write_table(pa.table({'uri': ['a', 'b'], 'c': ['x' * 100_000, None], 'd': [1, 2]}), path)
    monkeypatch.setattr(manifest, '_MAX_PAGE_BYTES', 50_000)
    for line, (uri, value) in zip(read(path, ('c', 'd')), ('a1', 'b2'), strict=True):
        assert line.uri == uri
        assert line.carried == (f'… ({line.number})', value)
        assert 'a page of 1000' in line.problem
    assert [line.problem for line in read(path, ('d',))] == ['', '']
    monkeypatch.setattr(manifest, '_MAX_PAGE_BYTES', 1)
    monkeypatch.setattr(manifest, '_MAX_BATCH_ROWS', 1)
    lines = read(path, ('c', 'd'))
    assert [(line.number, line.uri) for line in lines] == [(1, None), (2, None)]


@pytest.mark.parametrize('version', ['1.0', '2.0'])
@pytest.mark.parametrize('dictionary', [False, True])
def test_headers_tell_what_the_pages_hold(version, dictionary):
    lists = [[i] * (i % 4) for i in range(5_000)]
    texts = [f'{i:09}' for i in range(5_000)]
    large = ['x' if i % 50 else 'x' * 90_000 for i in range(5_000)]
    sink = io.BytesIO()
    pq.write_table(
        pa.table({'l': lists, 't': texts, 'b': large}),
        sink,
        use_dictionary=dictionary,
        data_page_version=version,
        data_page_size=10_000,
        row_group_size=2_500,
        write_page_checksum=True,
    )
    metadata = pq.ParquetFile(sink).metadata
    groups = read_footer(sink)
    for group in range(2):
        chunks = metadata.row_group(group)
        pages = [read_pages(sink, chunk) for chunk in groups[group].chunks]
        assert [each.values for each in pages] == [chunks.column(i).num_values for i in range(3)]
        assert pages[2].largest_bytes >= 90_004
        for each, i in zip(pages, range(3), strict=True):
            assert each.largest_bytes <= chunks.column(i).total_uncompressed_size


def test_what_is_no_page_has_no_headers():
    for data in (
        *(
            b'',
            b'\x00',
            b'\x15',
            b'\xff' * 99,
            b'\x1c' * 99,
            b'\x25\x01\x15\x02\x00',
            b'\x2c\x00\x00',
        ),
        bytes((0x15, 0, 0x15, 2, 0x15, 2, 0x4C, 0x15, 99, 0, 0)),  # 50 values in a byte
    ):
        with pytest.raises(ValueError, match=r'page|header|field|number|values'):
            read_pages(io.BytesIO(data), Chunk(0, 100, 10, is_delta=False))


def test_lines_that_are_nested_deeply_are_bad_ones_whoever_reads_them(tmp_path):
    depths = (499, 500, 501, 800, 970)
    texts = [f'{"[" * depth}{"]" * depth}' for depth in depths]
    texts.append('{"a":' * 600 + '1' + '}' * 600)
    data = ''.join(f'{{"uri": "{i}", "c": {text}}}\n' for i, text in enumerate(texts))
    path = written(tmp_path, '.jsonl', data.encode())
    lines = read(path, ('c',))
    assert [line.uri for line in lines[:2]] == ['0', '1']
    assert [line.carried[0] for line in lines[:2]] == texts[:2]
    assert {line.problem for line in lines[2:]} <= {
        'a carried value is nested deeper than 500',
        'not JSON',
    }
    assert [line.problem for line in read(path)[:4]] == [''] * 4, 'what is not carried is no matter'


def test_a_value_of_a_csv_may_be_as_long_as_a_line(tmp_path):
    long, lines = 'x' * 900_000, 'y\n' * 100_000
    rows = [('uri', 'c'), ('a', long), ('b', 'z'), ('c', lines), ('d', '')]
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerows(rows)
    found = read(written(tmp_path, '.csv', out.getvalue().encode()), ('c',))
    assert [(line.uri, *line.carried) for line in found] == rows[1:]


def test_a_row_of_a_csv_has_an_end(tmp_path):
    data = b'uri,c\na,b\n' + b'"c\n",' * 1_000_000
    with pytest.raises(ManifestError, match='line 3 starts a row of more than 4000000 characters'):
        read(written(tmp_path, '.csv', data))


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
            "--carry .*'y'.*it has uri, x, z$",
        ),
        (b'{"url": "a"}\n{"link": "b"}\n', (), "--uri_column 'uri': .*it has url, link$"),
        (b'{}\n7\n', (), "--uri_column 'uri': .*it has $"),
        (
            b''.join(b'{"%d": 1}\n' % i for i in range(50)),
            (),
            "'uri': .*it has 0, 1, 2, .*, 19$",
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
    with pytest.raises(ManifestError, match='line 3 ends early'):
        check_columns(str(path), 'uri', ('x', 'y'))


def test_what_cannot_be_opened_is_wrong_usage(tmp_path):
    (tmp_path / 'folder.txt').mkdir()
    for name in ('absent.txt', 'folder.txt', 'folder.txt/a.csv'):
        with pytest.raises(UsageError, match='cannot read'):
            read(tmp_path / name)
    (tmp_path / 'zero.txt').symlink_to('/dev/zero')
    with pytest.raises(UsageError, match=r'cannot read .*zero\.txt: a device'):
        read(tmp_path / 'zero.txt')


@pytest.mark.parametrize(
    'name',
    [
        'a.txt',
        'a.CSV',
        'a.jsonl.gz',
        'a.json',
        'a.ndjson.gz',
        'a.TSV',
        'gs://b/a.parquet',
        '/a/.csv',
    ],
)
def test_manifests_are_known_by_their_suffix(name):
    assert is_manifest(name)


@pytest.mark.parametrize('name', ['a.jpg', 'a.gz', 'a.parquet.gz', 'txt', 'a.csv/b.jpg'])
def test_nothing_else_is_a_manifest(name):
    assert not is_manifest(name)
