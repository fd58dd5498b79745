"""Inputs to refs: what is an input, globs, folders, samples."""

import io
import itertools
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms import read
from transforms.chunks import merge
from transforms.core.elements import Known, Ref
from transforms.core.errors import ManifestError, UsageError
from transforms.core.left_out import describe_suffixes, suffixes_of
from transforms.output.dead_letters import dead_letter_schema, dead_letter_tables, version_table
from transforms.output.layout import Layout
from transforms.read import refuse_more
from transforms.sources import snapshot
from transforms.sources.globs import expand_braces, glob_regex
from transforms.sources.inputs import Columns, Input, Kind, Listing, TooMany
from transforms.sources.listing import BEFORE_SINCE, list_input
from transforms.sources.resolve import check_not_empty, resolve
from transforms.storage.registry import store_for

PLAIN = Columns('uri', (), ())
SHARDS = ('s-08a.jpg', 's-8a.jpg', 's-10b.jpg', 's-10c.jpg', 's-11a.jpg')
pure = settings(derandomize=True, max_examples=200, deadline=None)


def matches(pattern, text):
    """A glob without regular expressions: tries every way, one character after the other."""
    if not pattern:
        return not text
    if pattern.startswith('/**/'):
        rest = pattern[3:]
        places = [i for i, char in enumerate(text) if char == '/']
        return text.startswith('/') and any(matches(rest, text[i:]) for i in places)
    if pattern.startswith('**'):
        return any(matches(pattern[2:], text[i:]) for i in range(len(text) + 1))
    if pattern.startswith('*'):
        end = text.find('/') if '/' in text else len(text)
        return any(matches(pattern[1:], text[i:]) for i in range(end + 1))
    if pattern.startswith('?'):
        return text[:1] not in ('', '/') and matches(pattern[1:], text[1:])
    closing = class_end(pattern)
    if closing:
        inner = pattern[1:closing].removeprefix('!')
        is_in = text[:1] in members(inner)
        is_wanted = is_in != pattern.startswith('[!')
        return text[:1] not in ('', '/') and is_wanted and matches(pattern[closing + 1 :], text[1:])
    return text[:1] == pattern[0] and matches(pattern[1:], text[1:])


def class_end(pattern):
    if not pattern.startswith('['):
        return None
    start = 2 if pattern.startswith('[!') else 1
    end = pattern.find(']', start + 1)
    if end < 0 or '/' in pattern[start:end]:
        return None
    return end


def members(inner):
    found = set()
    while inner:
        if len(inner) > 2 and inner[1] == '-':
            found |= {chr(code) for code in range(ord(inner[0]), ord(inner[2]) + 1)}
            inner = inner[3:]
        else:
            found.add(inner[0])
            inner = inner[1:]
    return found


@pure
@given(st.text('ab/*?', max_size=8), st.text('ab/', max_size=6))
@example('/**/**/a', '/a')
@example('/a/**', '/a/')
def test_wildcards_match_what_a_slow_matcher_matches(pattern, text):
    assert bool(glob_regex(pattern).fullmatch(text)) == matches(pattern, text)


@pure
@given(st.text('ab-!^]\\&/[', max_size=7), st.text('ab-!^]\\&/[', max_size=3))
@example(']', 'a')
@example('!]', 'a')
@example('b-a', 'a')
@example('a&&b', '&')
@example('[a]b', '[')
def test_classes_match_what_a_slow_matcher_matches(inner, text):
    pattern = f'[{inner}]'
    assert bool(glob_regex(pattern).fullmatch(text)) == matches(pattern, text)


@pytest.mark.parametrize(
    ('pattern', 'yes', 'no'),
    [
        ('/a/*.jpg', ['/a/.jpg', '/a/b.jpg', '/a/.b.jpg', '/a/b\n.jpg'], ['/a/b/c.jpg', '/a/bjpg']),
        ('/a/**/*.jpg', ['/a/b.jpg', '/a/b/c.jpg', '/a/b/c/d.jpg'], ['/b/c.jpg', '/a.jpg']),
        ('/a/**/**/b', ['/a/b', '/a/x/b', '/a/x/y/b'], ['/ab', '/a/xb']),
        ('/a/**', ['/a/b', '/a/b/c'], ['/a', '/ab']),
        ('/a**b', ['/ab', '/a/b', '/a/x/b'], ['/a']),
        ('/?.jpg', ['/é.jpg', '/?.jpg'], ['/.jpg', '//.jpg', '/ab.jpg']),
        ('/[]x].jpg', ['/].jpg', '/x.jpg'], ['/a.jpg']),
        ('/[!a-c].jpg', ['/d.jpg', '/-.jpg'], ['/b.jpg', '//.jpg']),
        ('/[a-].jpg', ['/a.jpg', '/-.jpg'], ['/b.jpg']),
        ('/[z-a].jpg', [], ['/a.jpg', '/z.jpg', '/-.jpg']),
        ('/[a', ['/[a'], ['/a']),
        ('/100%+.(x)|$', ['/100%+.(x)|$'], ['/100%+-(x)|$']),
    ],
)
def test_glob_regex(pattern, yes, no):
    regex = glob_regex(pattern)
    assert [text for text in [*yes, *no] if regex.fullmatch(text)] == yes


def test_a_name_that_exists_wins_over_its_reading_as_a_glob(tmp_path):
    for name in ('a[1].jpg', 'a1.jpg', 'b*.jpg', 'bc.jpg'):
        (tmp_path / name).write_bytes(b'x')
    (tmp_path / 'c?').mkdir()
    (tmp_path / 'cd').mkdir()
    for name in ('a[1].jpg', 'b*.jpg'):
        assert resolve(f'{tmp_path}/{name}', PLAIN)[:3] == ('file', f'{tmp_path}/{name}', '')
    assert resolve(f'{tmp_path}/c?', PLAIN).kind == 'folder'
    (tmp_path / 'a[1].jpg').unlink()
    source = resolve(f'{tmp_path}/a[1].jpg', PLAIN)
    assert source[:3] == ('glob', str(tmp_path), f'{tmp_path}/a[1].jpg')
    assert [ref.uri for ref in list_input(source, PLAIN)] == [f'{tmp_path}/a1.jpg']


def test_inputs_are_recognized(tmp_path):
    (tmp_path / 'x.jpg').write_bytes(b'x')
    (tmp_path / 'x.txt').write_bytes(b'x.jpg\n')
    (tmp_path / 'x.csv').mkdir()
    kinds = {'x.jpg': 'file', 'x.txt': 'manifest', 'x.csv': 'folder', '': 'folder', '*': 'glob'}
    for name, kind in kinds.items():
        assert resolve(f'{tmp_path}/{name}', PLAIN).kind == kind
    assert resolve(f'file://{tmp_path}/x.jpg', PLAIN).uri == f'{tmp_path}/x.jpg'


@pytest.mark.parametrize('name', ['absent', 'absent/*.jpg', 'x.jpg/', 'x.jpg/y', 'absent.csv'])
def test_inputs_that_are_not_there_are_named(tmp_path, name):
    (tmp_path / 'x.jpg').write_bytes(b'x')
    if name == 'x.jpg/':  # a slash too many is forgiven, as everywhere
        assert resolve(f'{tmp_path}/{name}', PLAIN).kind == 'file'
        return
    with pytest.raises(UsageError, match=f'--input .*{name[:6]}'):
        resolve(f'{tmp_path}/{name}', PLAIN)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('ftp://bucket/x', 'expected a local path or one of gs://, s3://'),
        ('http://host/x.jpg', 'put the URL into a manifest'),
        ('https://me:pw@host/x', 'put the URL into a manifest'),
        ('HTTPS://me:pw@host/list.txt', 'put the URL into a manifest'),
    ],
)
def test_other_schemes_are_refused_without_their_secrets(value, message):
    with pytest.raises(UsageError, match=message) as caught:
        resolve(value, PLAIN)
    assert 'pw' not in str(caught.value)


def test_carried_columns_need_a_manifest(tmp_path):
    columns = Columns('uri', ('split',), ())
    (tmp_path / 'x.jpg').write_bytes(b'x')
    for name in ('', 'x.jpg', '*.jpg'):
        with pytest.raises(UsageError, match='--carry or --partition_by split'):
            resolve(f'{tmp_path}/{name}', columns)


def test_a_manifest_is_looked_into_before_the_run_starts(tmp_path):
    (tmp_path / 'x.csv').write_text('url\na.jpg\n')
    with pytest.raises(UsageError, match="--uri_column 'uri'"):
        resolve(f'{tmp_path}/x.csv', PLAIN)
    (tmp_path / 'x.parquet').write_bytes(b'PAR1')
    with pytest.raises(ManifestError, match='row 0'):
        resolve(f'{tmp_path}/x.parquet', PLAIN)


def test_a_folder_gives_its_images_and_counts_the_rest(tmp_path):
    images = ['a.jpg', 'b.JPEG', 'sub/c.png', 'sub/deep/d.webp', '.e.gif', '.jpg']
    for name in [*images, 'notes.txt', 'jpg', 'sub/x.jpg.part', 'Thumbs.db']:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'abc')
    refs = list(list_input(resolve(str(tmp_path), PLAIN), PLAIN))
    found = [ref for ref in refs if isinstance(ref, Ref)]
    assert sorted(ref.uri for ref in found) == sorted(f'{tmp_path}/{name}' for name in images)
    left_out = Counter(ref for ref in refs if isinstance(ref, str))
    suffixes = {'.txt': 1, '': 1, '.part': 1, '.db': 1}
    assert left_out == {f'skipped_not_image/{suffix}': n for suffix, n in suffixes.items()}
    assert all(ref.size_bytes == 3 and ref.version and ref.carried == '[]' for ref in found)


@pytest.mark.parametrize('kind', ['local', 'bucket'])
def test_a_glob_of_manifests_lists_what_each_of_them_does(request, tmp_path, kind):
    top = str(tmp_path) if kind == 'local' else request.getfixturevalue('bucket').uri('data')
    store = store_for(top)
    columns = Columns('uri', ('n',), ())
    for i in (1, 0):
        sink = io.BytesIO()
        pq.write_table(pa.table({'uri': [f'{i}.jpg', 'gs://'], 'n': [i, None]}), sink)
        store.write(f'{top}/list/part-{i}.parquet', sink.getvalue())
    store.write(f'{top}/list/_SUCCESS', b'')
    with pytest.raises(UsageError, match='--carry or --partition_by n'):
        resolve(f'{top}/list', columns)
    folder = resolve(f'{top}/list', PLAIN)
    message = (
        r"2 \.parquet, 1 without .*/list/\*\*/\*\.parquet' reads them as manifests, "
        "and '.*takes all"
    )
    with pytest.raises(UsageError, match=message):
        check_not_empty(folder, Listing((folder,), PLAIN))
    source = resolve(f'{top}/list/*.parquet', columns)
    assert source.kind == 'manifests'
    assert [(ref.uri, ref.carried, ref.reason) for ref in list_input(source, columns)] == [
        (f'{top}/list/0.jpg', '["0"]', ''),
        ('gs://', '[null]', 'bad_uri'),
        (f'{top}/list/1.jpg', '["1"]', ''),
        ('gs://', '[null]', 'bad_uri'),
    ]
    store.write(f'{top}/list/part-2.parquet', b'PAR1')
    with pytest.raises(ManifestError, match=r'part-2\.parquet: row 0'):
        resolve(f'{top}/list/*.parquet', columns)


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        ('', "--input '': expected a path or a URI"),
        ('gs://', "--input 'gs://': expected gs://bucket"),
        ('gs:/bucket/photos', r'did you mean gs://bucket/photos\?'),
        ('~/Pictures', 'the shell expands ~ only outside quotes'),
        ('https://example.com/list.csv', 'a manifest itself must be local'),
    ],
)
def test_an_input_that_is_none_names_itself_and_what_may_be_meant(value, said):
    with pytest.raises(UsageError, match=said):
        resolve(value, PLAIN)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('empty', 'no images found: the folder is empty'),
        ('odd', r"no images found: 2 \.jpg:large, 1 without a suffix; '.*/odd/\*\*' takes all"),
        ('odd/*.png', 'nothing matches'),
        ('empty.txt', 'lists nothing'),
        ('*.tar', 'nothing matches'),
        ('*.csv', 'none of the manifests lists anything'),
        ('*.tsv', 'none of the manifests lists anything'),
    ],
)
def test_an_input_of_nothing_is_refused_with_what_was_passed_over(tmp_path, name, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'odd').mkdir()
    for odd in ('a.jpg:large', 'b.jpg:large', 'c'):
        (tmp_path / 'odd' / odd).touch()
    (tmp_path / 'empty.txt').write_text('\n')
    (tmp_path / 'empty.csv').write_text('uri\n')
    source = resolve(f'{tmp_path}/{name}', PLAIN)
    with pytest.raises(UsageError, match=f'--input .*{message} .--allow_empty'):
        check_not_empty(source, Listing((source,), PLAIN))


def test_what_is_left_out_by_its_time_or_bad_is_something(tmp_path):
    (tmp_path / 'a.jpg').touch()
    (tmp_path / 'bad.txt').write_text('gs://\n')
    for name, since, listed in (
        ('', None, f'{tmp_path}/a.jpg'),
        ('', 4e9, BEFORE_SINCE),
        ('bad.txt', None, 'gs://'),
    ):
        source = resolve(f'{tmp_path}/{name}', PLAIN)
        check_not_empty(source, Listing((source,), PLAIN, since=since))
        found = list_input(source, PLAIN, since)
        assert listed in [ref if isinstance(ref, str) else ref.uri for ref in found]


def test_suffixes_are_counted_up_to_a_number_of_them(tmp_path):
    layout = Layout(str(tmp_path), 'run', 'model', (), (), 1)
    found = snapshot.freeze(layout, 0, [f'skipped_not_image/.{i % 1000}' for i in range(3000)])
    assert len(found.left_out) <= 101
    assert sum(found.left_out.values()) == 3000
    text = describe_suffixes(suffixes_of(found.left_out), 3000)
    assert text.startswith('3 .0, 3 .1, ')
    assert text.endswith(', 2,970 others')


@pytest.mark.parametrize(
    ('pattern', 'patterns'),
    [
        ('a', ['a']),
        ('{a,b}', ['a', 'b']),
        ('x/{a,b}/{c,d}.jpg', ['x/a/c.jpg', 'x/a/d.jpg', 'x/b/c.jpg', 'x/b/d.jpg']),
        ('{a,{b,c}d}', ['a', 'bd', 'cd']),
        ('{,a}b', ['b', 'ab']),
        ('{a}{b', ['{a}{b']),
        ('{x{a,b}}}', ['{xa}}', '{xb}}']),
        ('{a{b,c}', ['{ab', '{ac']),
        ('{1..c},{}', ['{1..c},{}']),
    ],
)
def test_braces_are_those_of_a_shell(pattern, patterns):
    assert expand_braces(pattern) == patterns
    regex = glob_regex(pattern)
    assert all(regex.fullmatch(each) for each in patterns)
    assert not regex.fullmatch('nothing of the kind')


@pytest.mark.parametrize(
    ('text', 'first', 'last', 'width'),
    [
        ('{000..127}', 0, 127, 3),
        ('{0..127}', 0, 127, 1),
        ('{7..7}', 7, 7, 1),
        ('{007..1023}', 7, 1023, 4),
        ('{98..105}', 98, 105, 1),
        ('{120..095}', 95, 120, 3),
        ('{99..1001}', 99, 1001, 1),
        ('{00..09}', 0, 9, 2),
    ],
)
def test_ranges_of_numbers_are_those_of_a_shell(text, first, last, width):
    regex = glob_regex(f'x-{text}.tar')
    names = [f'x-{i:0{digits}}.tar' for digits in range(1, 6) for i in range(1500)]
    wanted = {f'x-{i:0{width}}.tar' for i in range(first, last + 1)}
    assert {name for name in names if regex.fullmatch(name)} == wanted


def test_a_range_of_many_numbers_is_not_counted_out():
    regex = glob_regex('{train,val}-{0..999999999999999999}-of-{000..127}.tar')
    assert regex.fullmatch('val-123456789012345678-of-099.tar')
    assert not regex.fullmatch('val-1-of-128.tar')
    assert len(regex.pattern) < 5000


def test_braces_for_too_many_patterns_are_refused(tmp_path):
    for pattern, what in (
        ('{a,b}' * 12, '1000 patterns'),
        ('{a,b}' * 2_000, '50 braces'),
        ('{' * 2_000 + '*', '50 braces'),
    ):
        with pytest.raises(UsageError, match=f'more than {what}'):
            expand_braces(pattern)


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('{train,val}/*.jpg', ['train/a.jpg', 'val/b.jpg']),
        ('t{rain/a,est/x/c}.jpg', ['train/a.jpg', 'test/x/c.jpg']),
        ('{train/a.jpg,val/b.jpg}', ['train/a.jpg', 'val/b.jpg']),
        ('{train,test/**}/*.jpg', ['train/a.jpg', 'test/x/c.jpg']),
        ('s-{08..10}{a,b}.jpg', ['s-08a.jpg', 's-10b.jpg']),
    ],
)
@pytest.mark.parametrize('kind', ['local', 'bucket'])
def test_globs_with_braces(request, tmp_path, kind, pattern, names):
    top = str(tmp_path) if kind == 'local' else request.getfixturevalue('bucket').uri('data')
    for name in ('train/a.jpg', 'train/n.txt', 'val/b.jpg', 'test/x/c.jpg', 'other/d.jpg', *SHARDS):
        store_for(top).write(f'{top}/{name}', b'x')
    source = resolve(f'{top}/{pattern}', PLAIN)
    assert source.kind == 'glob'
    found = [ref.uri for ref in list_input(source, PLAIN)]
    assert sorted(found) == sorted(f'{top}/{name}' for name in names)


@pytest.mark.parametrize('kind', ['local', 'bucket'])
def test_what_a_mac_leaves_beside_a_file_is_no_image(request, tmp_path, kind):
    top = str(tmp_path) if kind == 'local' else request.getfixturevalue('bucket').uri('data')
    images = ['a.jpg', 'x/-b.jpg', 'x/c.jpg', '._d.jpg', 'x/._a.jpg', '._.jpg']
    companions = ['._a.jpg', 'x/._-b.jpg', 'x/._c.jpg']
    for name in [*images, *companions, 'x/n.txt', 'x/._n.txt']:
        store_for(top).write(f'{top}/{name}', b'x')
    for value in (top, f'{top}/**'):
        refs = list(list_input(resolve(value, PLAIN), PLAIN))
        found = sorted(ref.uri for ref in refs if isinstance(ref, Ref) and '.jpg' in ref.uri)
        assert found == sorted(f'{top}/{name}' for name in images)
        assert refs.count('skipped_not_image/._*') == 4
    refs = list(list_input(resolve(f'{top}/x/*.jpg', PLAIN), PLAIN))
    assert refs.count('skipped_not_image/._*') == 2
    assert sorted(ref.uri for ref in refs if isinstance(ref, Ref)) == sorted(
        f'{top}/{name}' for name in images if name.startswith('x/')
    )


def test_an_empty_folder_and_a_glob_without_a_match_give_nothing(tmp_path):
    for value in (str(tmp_path), f'{tmp_path}/*.jpg', f'{tmp_path}/**'):
        assert list(list_input(resolve(value, PLAIN), PLAIN)) == []


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('*.jpg', ['a.jpg', '.h.jpg']),
        ('**/*.jpg', ['a.jpg', '.h.jpg', 'x/b.jpg', 'x/y/c.jpg', 'w/b.jpg']),
        ('*/*.jpg', ['x/b.jpg', 'w/b.jpg']),
        ('[!w]/*.jpg', ['x/b.jpg']),
        ('x/**', ['x/b.jpg', 'x/y/c.jpg', 'x/y/d.txt']),
        ('**/y/*', ['x/y/c.jpg', 'x/y/d.txt']),
    ],
)
def test_globs_of_folders(tmp_path, pattern, names):
    for name in ('a.jpg', '.h.jpg', 'x/b.jpg', 'x/y/c.jpg', 'x/y/d.txt', 'w/b.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'x')
    refs = list(list_input(resolve(f'{tmp_path}/{pattern}', PLAIN), PLAIN))
    assert sorted(ref.uri for ref in refs) == sorted(f'{tmp_path}/{name}' for name in names)


def test_a_glob_reaches_a_folder_by_the_name_that_matches(tmp_path):
    (tmp_path / 'm').mkdir()
    (tmp_path / 'm' / 'x.jpg').write_bytes(b'x')
    (tmp_path / 'a').symlink_to('m')
    (tmp_path / 'z').symlink_to('m')
    for pattern, names in (('a*/x.jpg', 'a'), ('[k-z]*/**', 'mz'), ('**/x.jpg', 'amz')):
        refs = list_input(resolve(f'{tmp_path}/{pattern}', PLAIN), PLAIN)
        assert sorted(ref.uri for ref in refs) == [f'{tmp_path}/{name}/x.jpg' for name in names]


def test_a_name_that_is_no_text_is_a_dead_letter_and_no_input(tmp_path):
    path = f'{tmp_path}/\udcff.jpg'
    with open(path, 'wb'):  # noqa: PTH123 (the name is no text)
        pass
    with pytest.raises(UsageError, match='not valid UTF-8'):
        resolve(path, PLAIN)
    for value in (str(tmp_path), f'{tmp_path}/*.jpg'):
        (ref,) = list_input(resolve(value, PLAIN), PLAIN)
        assert (ref.uri, ref.reason) == (f'{tmp_path}/\\xff.jpg', 'bad_name')


def test_lines_of_a_manifest_are_refs_or_dead_letters(tmp_path):
    columns = Columns('uri', ('split', 'n'), ('split',))
    rows = [
        {'uri': 'a b.jpg', 'split': 'x', 'n': 1},
        {'uri': '', 'split': 'x', 'n': None},
        {'uri': 'https://me:pw@host/x.jpg?sig=s', 'split': '', 'n': 2},
        {'uri': 'b.jpg', 'split': 'y' * 300, 'n': 3},
        {'uri': '\ud800.jpg', 'split': None, 'n': 4},
        {'uri': 'c.jpg', 'split': 'x', 'n': '\udfff'},
        {'uri': 5, 'split': 'x', 'n': 6},
        {'uri': 'https://me:pw@host:x/x.jpg?sig=s', 'split': 'x', 'n': 7},
    ]
    path = tmp_path / 'list.jsonl'
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    refs = list(list_input(resolve(str(path), columns), columns))
    assert [(ref.uri, ref.reason, ref.carried) for ref in refs] == [
        (f'{tmp_path}/a b.jpg', '', '["x", "1"]'),
        (f'{path}:2', 'bad_uri', '["x", null]'),
        ('https://host/x.jpg', '', '[null, "2"]'),
        ('b.jpg', 'bad_name', f'["{"y" * 300}", "3"]'),
        ('\\ud800.jpg', 'bad_name', '[null, "4"]'),
        ('c.jpg', 'bad_name', '["x", "\\udfff"]'),
        (f'{path}:7', 'bad_uri', '["x", "6"]'),
        ('https://host:x/x.jpg', 'bad_uri', '["x", "7"]'),
    ]
    assert [ref.access for ref in refs if ref.access] == ['https://me:pw@host/x.jpg?sig=s']
    assert 'pw' not in repr(refs)
    assert all(ref.detail.startswith(f'line {i}: ') for i, ref in enumerate(refs, 1) if ref.reason)


def test_lines_with_unusable_values_are_dead_letters_of_their_own(tmp_path):
    columns = Columns('uri', ('split', 'n'), ('split',))
    path = tmp_path / 'list.csv'
    lines = [b'x,\xfe', b'x,\xff', b'%s,1' % (b'y' * 300), b'%s,1' % (b'z' * 300), b'x,\xfe']
    path.write_bytes(b'uri,split,n\n' + b''.join(b'a.jpg,%s\n' % line for line in lines))
    refs = list(list_input(resolve(str(path), columns), columns))
    assert {(ref.uri, ref.reason) for ref in refs} == {('a.jpg', 'bad_name')}
    merged = merge(refs)
    assert (len(merged.dead), merged.duplicates) == (4, 1), 'the last line is the first again'
    schema = dead_letter_schema(columns.carry, {})
    (table,) = dead_letter_tables(merged.dead, columns.carry, schema)
    # What is no text cannot be stored.
    assert sorted((row['split'], row['n'] or '') for row in table.to_pylist()) == [
        ('x', ''),
        ('x', ''),
        ('y' * 300, '1'),
        ('z' * 300, '1'),
    ]
    known = [
        Known(1, row['object_version'], row['carried'], row['reason'], True)
        for row in version_table(merged.dead).to_pylist()
    ]
    assert merge(refs, known).unchanged == 4
    later = merge(refs, known[1:])
    assert ([letter.carried for letter in later.dead], later.unchanged) == ([known[0].carried], 3)


def test_urls_that_are_carried_lose_their_secrets(tmp_path):
    columns = Columns('url', ('url', 'note'), ('note',))
    signed = 'https://me:secret@h/x.jpg?v=1&X-Amz-Signature=secret'
    rows = [
        {'url': signed, 'note': 'https://me:secret@h'},
        {'url': 'http:/me:secret@h/x.jpg', 'note': 'a'},
        {'url': signed, 'note': {'of': [signed]}},
        {'url': 7, 'note': f'\ud800 {signed}'},
    ]
    path = tmp_path / 'list.jsonl'
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    refs = list(list_input(resolve(str(path), columns), columns))
    assert [(ref.uri, ref.reason, json.loads(ref.carried)) for ref in refs] == [
        ('https://h/x.jpg?v=1', '', ['https://h/x.jpg?v=1', 'https://h']),
        ('http:/h/x.jpg', 'bad_uri', ['http:/h/x.jpg', 'a']),
        ('https://h/x.jpg?v=1', '', ['https://h/x.jpg?v=1', '{"of": ["https://h/x.jpg?v=1"]}']),
        (f'{path}:4', 'bad_name', ['7', '\ud800 https://h/x.jpg?v=1']),
    ]
    assert 'secret' not in repr(refs)
    assert [ref.access for ref in refs] == [signed, '', signed, '']


def test_values_that_are_too_long_cost_their_line_and_are_told_apart(tmp_path):
    columns = Columns('uri', ('c',), ())
    path = tmp_path / 'list.jsonl'
    values = ['x' * 65_536, 'x' * 65_537, 'x' * 65_537 + 'y', 'x' * 65_537, 'z']
    path.write_text(''.join(f'{{"uri": "a.jpg", "c": "{value}"}}\n' for value in values))
    refs = list(list_input(resolve(str(path), columns), columns))
    assert [ref.reason for ref in refs] == ['', 'bad_name', 'bad_name', 'bad_name', '']
    assert refs[2].detail == 'line 3: a carried value of 65538 characters, limit 65536'
    assert all(len(ref.carried) < 5_000 for ref in refs[1:])
    merged = merge(refs)
    assert (len(merged.dead), merged.duplicates, len(merged.item.carried)) == (2, 1, 2)


def test_names_that_are_too_long_are_told_apart(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_text(''.join(f'{"x" * 9_000}{i % 3}\n' for i in range(4)))
    refs = list(list_input(resolve(str(path), PLAIN), PLAIN))
    assert {(ref.reason, len(ref.uri)) for ref in refs} == {('bad_uri', 4096)}
    assert len({ref.uri for ref in refs}) == 3


def test_a_frozen_listing_has_all_but_what_is_secret(tmp_path):
    layout = Layout(str(tmp_path), 'r', 'm', (), (), 1)
    refs = [
        Ref('gs://b/a', '7', 5, '[]', '', '', '', 'gs:1'),
        Ref('https://h/b', '', -1, '["x"]', '', '', 'https://me:pw@h/b'),
        Ref('/c', '', -1, '[]', 'bad_name', 'why'),
    ]
    found = snapshot.freeze(layout, 0, iter(refs))
    assert found.is_signed
    read = [ref for part in found.parts for ref in snapshot.read_part(layout, *part)]
    assert read == [ref._replace(access='') for ref in refs]


def test_parts_of_a_frozen_listing_are_bounded_by_rows_and_by_bytes(monkeypatch):
    refs = [
        Ref(f'/{i}', '', -1, f'["{"x" * (100 if i in (2, 6) else 1)}"]', '', '') for i in range(9)
    ]
    monkeypatch.setattr(snapshot, '_PART_REFS', 4)
    monkeypatch.setattr(snapshot, '_PART_CHARS', 100)
    parts = list(snapshot._parts(iter(refs)))
    assert [len(part) for part in parts] == [3, 4, 2]
    assert list(itertools.chain(*parts)) == refs


@pytest.mark.parametrize(('max_images', 'known'), [(3, 0), (1, 2)])
def test_more_images_than_allowed_end_the_listing(max_images, known):
    taken = []

    def listed():
        for i in itertools.count():
            ref = Ref(f'/{i // 2}.jpg', '', -1, '[]', 'bad_uri' if i < 100 else '', '')
            taken.append(ref)
            yield ref if i % 3 else 'skipped_not_image/.txt'

    refs = refuse_more(listed(), TooMany(max_images, known), Input(Kind.MANIFEST, '/x.txt', ''))
    with pytest.raises(UsageError) as caught:
        list(refs)
    assert len(taken) < 110
    assert f'--max_images {max_images}: more than 3 distinct images' in str(caught.value)
    assert ('2 of them unchanged' in str(caught.value)) == bool(known)


def test_as_many_images_as_allowed_are_listed_whatever_else_there_is():
    bad, good = Ref('/b', '', -1, '[]', 'bad_uri', ''), Ref('/a.jpg', '', -1, '[]', '', '')
    refs = [*(bad._replace(uri=f'/{i}') for i in range(9)), good, good, '.txt']
    assert list(refuse_more(refs, TooMany(1, 0), Input(Kind.FOLDER, '/x', ''))) == refs


def test_names_in_a_bucket_are_listed_and_matched(bucket):
    names = ['a b.jpg', 'x#y?.jpg', '100%+.jpg', '%2F.jpg', 'q\'".jpg', 'é/日.jpg', '.h.jpg']
    names += ['[1].jpg', 'a//b.jpg', '/lead.jpg']
    for name in [*names, 'notes.txt', 'photos/']:
        bucket.put(name, b'x')
    refs = list(list_input(resolve(f'gs://{bucket.name}', PLAIN), PLAIN))
    assert sorted(ref.uri for ref in refs if isinstance(ref, Ref)) == sorted(
        bucket.uri(name) for name in names
    )
    assert refs.count('skipped_not_image/.txt') == 1
    for pattern, matched in (
        ('*.jpg', [name for name in names if '/' not in name]),
        ('**/*.jpg', names),
        ('?1[]].jpg', ['[1].jpg']),
        ('*/日.jpg', ['é/日.jpg']),
        ('**%*', ['100%+.jpg', '%2F.jpg']),
    ):
        found = list_input(resolve(bucket.uri(pattern), PLAIN), PLAIN)
        assert sorted(ref.uri for ref in found) == sorted(bucket.uri(name) for name in matched)
    for name in names:
        assert resolve(bucket.uri(name), PLAIN)[:3] == ('file', bucket.uri(name), '')


def test_a_manifest_in_a_bucket_is_relative_to_itself(bucket):
    bucket.put('lists/day.txt', b'a b.jpg\n../c.jpg\n')
    refs = list_input(resolve(bucket.uri('lists/day.txt'), PLAIN), PLAIN)
    names = ['lists/a b.jpg', 'c.jpg']
    assert [ref.uri for ref in refs] == [bucket.uri(name) for name in names]


def test_prefixes_of_a_bucket_are_folders(bucket):
    assert resolve(bucket.uri(), PLAIN).kind == 'folder'  # an empty bucket
    bucket.put('photos/', b'')  # the marker a console leaves
    bucket.put('photos/a.jpg', b'x')
    bucket.put('photos2/b.jpg', b'x')
    for value in ('photos', 'photos/'):
        source = resolve(bucket.uri(value), PLAIN)
        assert source.kind == 'folder'
        refs = list_input(source, PLAIN)
        assert [ref.uri for ref in refs] == [bucket.uri('photos/a.jpg')]
    with pytest.raises(UsageError, match='no such file, folder or prefix'):
        resolve(bucket.uri('phot'), PLAIN)
    with pytest.raises(UsageError, match='no such bucket or object'):
        resolve('gs://b-absent/x', PLAIN)


def test_files_with_images_inside_are_named_where_something_else_was_expected(tmp_path):
    (tmp_path / 'a.tar.bz2').touch()
    (tmp_path / 'a.tar').touch()
    for value, columns, message in (
        ('a.tar.bz2', PLAIN, r'nor a file with images inside \(\.tar, \.tar\.gz, '),
        ('.', Columns('uri', ('x',), ()), r'or from files with images inside \(\.tar, '),
        ('a.tar!/1.jpg', PLAIN, 'no such .*; name an image inside a file in a line of a manifest'),
        ('x-{a..c}.tar', PLAIN, r'no such .*; \{a\.\.c\} is no glob, as \{000\.\.127\}, \[0-9\]'),
        ('x-{0..8..2}', PLAIN, r'no such .*; \{0\.\.8\.\.2\} is no glob'),
    ):
        with pytest.raises(UsageError, match=message):
            resolve(f'{tmp_path}/{value}', columns)


def test_braces_may_name_several_kinds_of_files_with_images_inside(tmp_path):
    for name in ('a.tar', 'b.zip', 'c.jpg', 'd.csv', 'e.txt'):
        (tmp_path / name).touch()
    assert resolve(f'{tmp_path}/*.{{tar,zip}}', PLAIN).kind is Kind.CONTAINERS
    assert resolve(f'{tmp_path}/*.{{txt,csv.gz}}', PLAIN).kind is Kind.MANIFESTS
    assert resolve(f'{tmp_path}/*.{{tar,jpg}}', PLAIN).kind is Kind.GLOB


@pytest.mark.parametrize('name', ['list.xlsx', 'LIST.ODS', 'photos.7z', 'list.csv.bz2', 'a.gz'])
def test_a_file_that_is_no_list_is_not_taken_for_an_image(name, tmp_path):
    (tmp_path / name).write_bytes(b'x')
    with pytest.raises(UsageError, match=r'neither an image nor a list of images \(\.txt, \.csv'):
        resolve(str(tmp_path / name), PLAIN)


def test_a_file_of_any_other_name_is_an_image(tmp_path):
    for name in ('photo', 'photo.dat', 'photo.JPG:large'):
        (tmp_path / name).write_bytes(b'x')
        assert resolve(str(tmp_path / name), PLAIN).kind == 'file'


refs = st.builds(
    Ref,
    st.sampled_from(['/a', '/b', '/c', '/d', '/e']),
    st.sampled_from(['', 'v1', 'v2']),
    st.sampled_from([-1, 3]),
    st.sampled_from(['[]', '["x"]']),
    st.sampled_from(['', 'bad_uri']),
    st.just(''),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(refs, max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_sample_depends_on_what_is_listed_not_on_its_order(listed, size, random):
    def sample(parts):
        combine = read._SampleFn(size)
        accumulators = []
        for part in parts:
            accumulator = combine.create_accumulator()
            for ref in part:
                accumulator = combine.add_input(accumulator, ref)
            accumulators.append(accumulator)
        return combine.extract_output(combine.merge_accumulators(accumulators))

    whole = sample([listed])
    shuffled = random.sample(listed, len(listed))
    place = random.randint(0, len(listed))
    assert sample([shuffled[:place], shuffled[place:]]) == whole
    assert len(whole) == min(size, len({(ref.uri, ref.carried) for ref in listed}))


def test_a_folder_of_archives_says_how_to_label_what_is_in_them(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'train-0.tar').write_bytes(b'')
    source = resolve(str(tmp_path), PLAIN)
    message = rf"1 \.tar; '{tmp_path}/\*\*/\*\.tar' labels the images inside them, and '"
    with pytest.raises(UsageError, match=message):
        check_not_empty(source, Listing((source,), PLAIN))
    (tmp_path / 'b.zip').write_bytes(b'')
    with pytest.raises(UsageError, match=r"/\*\.tar' and .*\*\.zip' label the images inside"):
        check_not_empty(source, Listing((source,), PLAIN))
