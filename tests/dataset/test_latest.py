"""The newest rows: the file that DuckDB takes, the command, and what both stand on."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.main import main
from tests.support import app, samples
from tests.support.datasets import (
    MODEL,
    VOCABULARY,
    Row,
    add_run,
    edit_json,
    edit_rows,
    edit_table,
    started_at,
)
from transforms.core.elements import Note
from transforms.core.errors import StoreError, UsageError
from transforms.core.stores import DEFAULT_OPTIONS
from transforms.dataset import latest_file, newest
from transforms.dataset.latest_sql import latest_sql, write_latest_sql
from transforms.dataset.reader import open_dataset
from transforms.dataset.verify import verify
from transforms.model.vocabulary import hypernyms, is_under
from transforms.runs.complete import complete_runs
from transforms.runs.vocabularies import keep_vocabulary
from transforms.storage.registry import store_for

COLUMNS = 'uri object_version content_sha256 width height format labels'.split()
OTHER = 'n-11111111'


def store(folder):
    return store_for(str(folder))


def dataset_of(folder):
    return open_dataset(str(folder), store(folder))


def runs_of(folder):
    return complete_runs(str(folder), store(folder))


def query(folder):
    """What DuckDB makes of latest.sql, as rows."""
    write_latest_sql(str(folder), store(folder))
    relation = duckdb.sql((folder / 'latest.sql').read_text())
    return relation.columns, sorted(relation.to_arrow_table().to_pylist(), key=order)


def order(row):
    return tuple((value is None, value or '') for value in map(row.get, ('model', 'uri', 'c', 'd')))


@pytest.mark.parametrize('was_there', [True, False])
def test_a_run_that_is_completed_meanwhile_is_in_it(tmp_path, was_there):
    add_run(tmp_path, 'a', [Row('/a')])
    if was_there:
        write_latest_sql(str(tmp_path), store(tmp_path))
    asked = []

    def slow(*args):
        found = complete_runs(*args)
        asked.append(len(found))
        if len(asked) == 1:
            add_run(tmp_path, 'b', [Row('/b')])
            write_latest_sql(str(tmp_path), store(tmp_path))
        return found

    write_latest_sql(str(tmp_path), store(tmp_path), find_runs=slow)
    assert asked == [1, 2]
    assert 'run=b' in (tmp_path / 'latest.sql').read_text()
    assert verify(str(tmp_path)) == []


def latest(folder, **options):
    """What `lemmabeam latest` writes, as rows."""
    target = folder.parent / f'{folder.name}.parquet'
    latest_file.write_latest(
        dataset_of(folder), runs_of(folder), str(target), DEFAULT_OPTIONS, **options
    )
    table = pq.read_table(target)
    return table.column_names, table.to_pylist()


def oracle(runs):
    """{(model, uri, carried): (version, run)} by a plain loop over (run, model, rows)."""
    found = {}
    for run_id, model_id, rows in runs:
        for row in rows:
            found[model_id, row.uri, tuple(value or None for value in row.carried)] = (
                row.version, run_id,
            )  # fmt: skip
    return found


def summary(rows, carry=()):
    return {
        (row['model'], row['uri'], tuple(row[name] for name in carry)): (
            row['object_version'], row['run'],
        )
        for row in rows
    }  # fmt: skip


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """A real run, and one as it would be of fewer pictures, one of which has changed."""
    folder = tmp_path_factory.mktemp('labelled')
    output = folder / 'out'
    paths = samples.write_pictures(folder / 'in', 6)
    carried = [(f'{i % 2:03d}', ('007', 'a/b', None)[i % 3]) for i in range(len(paths))]
    manifest = folder / 'list.jsonl'
    lines = [
        {'uri': str(path), 'day': day, 'customer id': customer}
        for path, (customer, day) in zip(paths, carried, strict=True)
    ]
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    with app.stand_in():
        report = app.label(
            '--input', manifest, '--output', output, '--run_id', 'b',
            '--carry', 'customer id', '--partition_by', 'day',
        )  # fmt: skip
    metadata = {name: text for name, text in report['metadata'].items() if name != 'model_id'}
    rows = [Row(str(paths[i]), ((i, 0.5),), carried[i], f'v{i}') for i in range(3)]
    add_run(
        output, 'a', rows, carry=('customer id', 'day'), partition_by=('day',),
        model_id=report['model']['id'], **metadata,
    )  # fmt: skip
    return output


def test_query_and_command_agree_on_real_runs(labelled):
    columns, rows = query(labelled)
    assert columns == [*COLUMNS, 'customer id', 'day', 'model', 'run', 'gone_since']
    assert [row['run'] for row in rows] == ['a', 'a', 'a', 'b', 'b', 'b']
    assert {row['day'] for row in rows} == {'007', 'a/b', None}
    assert {row['customer id'] for row in rows} == {'000', '001'}
    assert all(row['labels'] for row in rows)
    assert latest(labelled) == (columns, rows)
    assert verify(str(labelled)) == [], 'latest.sql is no stray file'


def test_a_run_without_its_report_is_not_seen(labelled, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(labelled, copy)
    (copy / 'runs/a/report.json').unlink()
    _, rows = query(copy)
    assert {row['run'] for row in rows} == {'b'}
    assert latest(copy)[1] == rows


def test_the_command_prints_its_counts(labelled, tmp_path):
    target = tmp_path / 'new' / 'x.parquet'
    done = app.invoke('latest', labelled, '--output', target)
    assert done.returncode == 0, done.stderr
    assert re.search(r'efficientnet-lite0-\w{8}: 6 rows, 3 superseded ones left out', done.stdout)
    assert pq.read_metadata(target).num_rows == 6
    assert [path.name for path in target.parent.iterdir()] == ['x.parquet']


VALUES = st.sampled_from([None, '007', 'a/b', "o'x", 'ä=%'])


@st.composite
def histories(draw):
    """Runs of two models, with rows of a few URIs and carried values."""
    keys = st.tuples(st.sampled_from(['/a', '/b', '/ä', "/c'*[?]"]), VALUES, VALUES)
    runs = []
    for i in range(draw(st.integers(1, 4))):
        found = draw(st.sets(keys, max_size=6))
        rows = [Row(uri, ((i, 0.5),), (c, d), f'v{i}') for uri, c, d in sorted(found, key=str)]
        runs.append((f'r{-i % 10}', draw(st.sampled_from([MODEL, OTHER])), rows))
    return runs


@settings(max_examples=6, deadline=None, derandomize=True)
@given(history=histories())
def test_all_agree_with_a_plain_loop(history, tmp_path_factory):
    folder = tmp_path_factory.mktemp('any')
    for run_id, model_id, rows in history:
        add_run(
            folder, run_id, rows, carry=('c', 'd'), partition_by=('d',), model_id=model_id,
            rows_per_file=3,
        )  # fmt: skip
    expected = oracle(history)
    columns, rows = query(folder)
    assert columns == [*COLUMNS, 'c', 'd', 'model', 'run', 'gone_since']
    assert summary(rows, ('c', 'd')) == expected
    assert len(rows) == len(expected)
    for rows_at_once in (1000, 2):
        assert latest(folder, rows_at_once=rows_at_once) == (columns, rows)


@st.composite
def noted_histories(draw):
    """Runs with rows and notes of so few images that most are in several of them."""
    keys = st.tuples(
        st.sampled_from(['/a', '/ä']), st.sampled_from([None, 'a/b']), st.sampled_from([None, 'x'])
    )
    what = st.sampled_from(['row', *Note])
    return draw(st.lists(st.dictionaries(keys, what, min_size=3), min_size=2, max_size=5))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(history=noted_histories())
def test_rows_are_gone_since_the_first_run_that_did_not_find_them(history, tmp_path_factory):
    check_gone(history, tmp_path_factory.mktemp('gone'))


@pytest.mark.slow  # the same of more histories
@settings(max_examples=100, deadline=None, derandomize=True)
@given(history=noted_histories())
def test_rows_are_gone_since_the_first_run_in_many_histories(history, tmp_path_factory):
    check_gone(history, tmp_path_factory.mktemp('gone'))


def check_gone(history, folder):
    """Query and command against a plain loop."""
    expected = {}
    for place, run in enumerate(history, 1):
        found = {kind: [key for key in run if run[key] == kind] for kind in ('row', *Note)}
        add_run(
            folder, f'r{place}', [Row(uri, (), (c, d)) for uri, c, d in found['row']],
            carry=('since', 'd'), partition_by=('d',), rows_per_file=2,
            notes=[(Row(*key[:1], (), key[1:]), note) for note in Note for key in found[note]],
        )  # fmt: skip
        expected |= dict.fromkeys(found['row'])
        expected |= {key: None for key in found[Note.LISTED] if key in expected}
        for key in found[Note.GONE]:
            if key in expected:
                expected[key] = expected[key] or started_at(place)
    _, rows = query(folder)
    assert {(row['uri'], row['since'], row['d']): row['gone_since'] for row in rows} == expected
    for rows_at_once in (1000, 2):
        assert sorted_rows(latest(folder, rows_at_once=rows_at_once)[1]) == sorted_rows(rows)
    rest = [row for row in rows if row['gone_since'] is None]
    assert sorted_rows(latest(folder, drop_gone=True)[1]) == sorted_rows(rest)


def sorted_rows(rows):
    """By all that tells them apart; a time may be in one zone and in another name of it."""
    return sorted(rows, key=lambda row: str([row['uri'], row['since'], row['d']]))


def test_notes_are_of_one_model_and_of_runs_whose_books_balance(tmp_path):
    folder = tmp_path / 'out'
    images = [Row('/a'), Row('/b')]
    add_run(folder, 'a', images)
    add_run(folder, 'b', images, model_id=OTHER)
    add_run(folder, 'c', [], notes=[(images[0], Note.GONE)])
    add_run(folder, 'd', [], notes=[(images[1], Note.GONE)])
    path = folder / 'runs/d/report.json'
    edit_json(path, lambda report: report.update(balanced=False))
    _, rows = query(folder)
    assert latest(folder)[1] == rows
    assert {(row['model'], row['uri']) for row in rows if row['gone_since']} == {(MODEL, '/a')}


def test_the_command_tells_of_gone_rows_and_leaves_them_out(tmp_path, capsys):
    folder, target = tmp_path / 'out', tmp_path / 'x.parquet'
    add_run(folder, 'a', [Row('/a'), Row('/b')])
    add_run(folder, 'b', [], notes=[(Row('/a'), Note.GONE)])
    assert main(['latest', str(folder), '--output', str(target)]) == 0
    assert f'{MODEL}: 2 rows, 0 superseded ones left out; 1 of the rows is gone' in (
        capsys.readouterr().out
    )
    assert pq.read_table(target)['gone_since'].to_pylist() == [started_at(2), None]
    assert main(['latest', str(folder), '--output', str(target), '--drop_gone']) == 0
    assert 'left out; 1 row of images that are gone left out' in capsys.readouterr().out
    assert pq.read_table(target)['uri'].to_pylist() == ['/b']


DAMAGED_NOTES = {
    'missing': lambda path: path.unlink(),
    'rubbish': lambda path: path.write_bytes(b'PAR1'),
    'one less': lambda path: pq.write_table(pq.ParquetFile(path).read().slice(1), path),
}


@pytest.mark.parametrize('kind', DAMAGED_NOTES)
def test_damaged_notes_are_named(tmp_path, kind):
    folder = tmp_path / 'out'
    add_run(folder, 'a', [Row('/a')])
    add_run(folder, 'b', [], notes=[(Row('/a'), Note.GONE)])
    (path,) = folder.glob('runs/b/dead_versions/*')
    DAMAGED_NOTES[kind](path)
    with pytest.raises(StoreError, match=r'dead_versions/part-.*missing or damaged'):
        latest(folder)


@pytest.fixture
def many(tmp_path):
    """Three runs of 500 images each, that overlap."""
    runs = []
    for i in range(3):
        numbers = range(200 * i, 200 * i + 500)
        rows = [Row(f'/{n:04d}', ((n, 0.5),), (), f'v{i}') for n in numbers]
        runs.append((f'r{i}', MODEL, rows))
    for run_id, _, rows in runs:
        add_run(tmp_path / 'out', run_id, rows)
    return tmp_path / 'out', runs


def test_spilled_rows_are_the_same_and_in_order(many, monkeypatch):
    folder, runs = many
    spill = folder.parent / 'spill'
    made = []

    def make(**_):
        made.append(spill)
        spill.mkdir()
        return str(spill)

    monkeypatch.setattr('tempfile.mkdtemp', make)
    columns, rows = latest(folder, rows_at_once=100)
    assert made, 'this is to test the spilling'
    assert not spill.exists()
    assert [row['uri'] for row in rows] == [f'/{n:04d}' for n in range(900)]
    assert summary(rows) == oracle(runs)
    assert latest(folder) == (columns, rows)
    monkeypatch.undo()
    with newest.newest_rows(dataset_of(folder), runs_of(folder), 100, 400) as found:
        assert len(found.shards) == 15
        assert found.rows_by_run == [200, 200, 500]
        assert max(found.table(shard).num_rows for shard in found.shards) < 120
        assert max(part.num_rows for part in found.in_order()) < 300


def test_features_of_some_runs_and_of_several_lengths(tmp_path):
    folder = tmp_path / 'out'
    add_run(folder, 'a', [Row('/a'), Row('/b')], features=True)
    add_run(folder, 'b', [Row('/b')])
    columns, rows = latest(folder)
    assert columns == [*COLUMNS, 'features', 'model', 'run', 'gone_since']
    assert [row['features'] for row in rows] == [[0.0, 0.0], None]
    assert query(folder) == (columns, rows)
    add_run(folder, 'c', [Row('/c')], model_id=OTHER, features=True)
    assert len(latest(folder)[1]) == 3


@pytest.mark.parametrize('rows', [None, []])
def test_without_rows_the_columns_are_the_same(tmp_path, rows):
    folder = tmp_path / 'out'
    add_run(folder, 'a', rows or [], carry=('c', 'd'), partition_by=('d',))
    if rows is None:
        (folder / 'runs/a/report.json').unlink()
    assert (
        query(folder) == latest(folder) == ([*COLUMNS, 'c', 'd', 'model', 'run', 'gone_since'], [])
    )
    add_run(
        folder, 'b', [Row('/a', ((1, 0.5),), ('1', '2'))], carry=('c', 'd'), partition_by=('d',)
    )
    full = duckdb.sql((folder / 'latest.sql').read_text()).types
    query(folder)
    assert duckdb.sql((folder / 'latest.sql').read_text()).types == full


ODD = [
    "it's",
    'a*b',
    'x[1]?',
    'a /* b */ c',
    'model=zz',
    'c=7',
    'back\\slash',
    '" `',
    'ü ä',
    '-- x',
]


@pytest.mark.parametrize('name', ODD)
def test_folders_of_any_name(tmp_path, name):
    for decoy in ('axb', 'x1z', 'x1', 'x[1]z'):
        add_run(tmp_path / decoy, 'a', [Row('/decoy', carried=('1',))], carry=('c',))
    folder = tmp_path.joinpath(*name.split('/')) / 'out'
    folder.parent.mkdir(parents=True, exist_ok=True)
    add_run(folder, 'a', [Row('/a', carried=('1',)), Row('/b', carried=('2',))], carry=('c',))
    _, rows = query(folder)
    assert summary(rows, ('c',)) == {
        (MODEL, '/a', ('1',)): ('1', 'a'), (MODEL, '/b', ('2',)): ('1', 'a')
    }  # fmt: skip


def test_columns_of_any_name(tmp_path):
    names = [
        'say "x"',
        'a*/b',
        '/*',
        'location',
        'filename',
        'scores',
        'place',
        'line\nbreak',
        "o'x",
    ]
    folder = tmp_path / 'out'
    names += ['file', 'value0', 'r']
    values = [str(i) for i in range(len(names))]
    add_run(folder, 'a', [Row('/a', carried=values)], carry=names, partition_by=names[-3:])
    columns, rows = query(folder)
    assert [rows[0][name] for name in names] == values
    assert latest(folder) == (columns, rows)


def bigquery(text):
    comment = text[text.index('/*') :]
    assert comment.endswith('*/\n')
    inside = comment[2:-3]
    assert '*/' not in inside
    assert '/*' not in inside, 'comments are nested in DuckDB'
    return inside


def test_bigquery_has_the_runs_and_the_columns(tmp_path):
    folder = tmp_path / 'a*/b' / "it's"
    for run_id in 'ab':
        row = Row('/a', carried=('1', '2'))
        add_run(folder, run_id, [row], carry=('c`d', 'e'), partition_by=('e',))
    text = bigquery(latest_sql(dataset_of(folder), runs_of(folder)))
    assert 'with partition columns (model string, run string, `e` string)' in text
    assert f"(1, '{MODEL}', 'a'),\n    (2, '{MODEL}', 'b')" in text
    assert 'partition by p.`model`' not in text
    assert 'partition by p.model, p.uri, p.`c\\x60d`, p.`e` order by r.place desc' in text
    assert 'gs://BUCKET/FOLDER/predictions/\\x2A' in text
    there = dataset_of(folder)._replace(output="gs://bucket/it's*")
    text = bigquery(latest_sql(there, runs_of(folder)))
    assert "uris = ['gs://bucket/it\\x27s\\x2A/predictions/\\x2A']" in text
    assert 'BUCKET' not in text


def test_a_file_in_an_object_store(bucket, tmp_path):
    add_run(tmp_path / 'out', 'a', [Row('/a')])
    for path in (tmp_path / 'out').rglob('*'):
        if path.is_file():
            bucket.put(f'data/{path.relative_to(tmp_path / "out")}', path.read_bytes())
    assert main(['latest', bucket.uri('data'), '--output', bucket.uri('x/latest.parquet')]) == 0
    with store_for(bucket.uri()).open(bucket.uri('x/latest.parquet')) as file:
        assert pq.read_table(file)['uri'].to_pylist() == ['/a']
    write_latest_sql(bucket.uri('data'), store_for(bucket.uri()))
    text = store_for(bucket.uri()).read(bucket.uri('data/latest.sql')).decode()
    assert f"'{bucket.uri('data/predictions/')}model={MODEL}/run=a/part-00000" in text


@pytest.fixture
def small(tmp_path):
    add_run(tmp_path / 'out', 'a', [Row('/a', ((1, 0.5),)), Row('/b')])
    add_run(tmp_path / 'out', 'b', [Row('/a')], model_id=OTHER)
    return tmp_path / 'out'


def failing(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    'name', ['x.parquet', 'predictions/x.parquet', 'new/../x.parquet', 'link/x']
)
def test_a_file_inside_the_dataset_is_refused(small, capsys, name):
    (small.parent / 'link').symlink_to(small)
    target = small.parent / name if name.startswith('link') else small / name
    assert f'lies inside {small}' in failing(capsys, 'latest', small, '--output', target)


@pytest.mark.parametrize('target', ['', '.', 'sub/', 'https://example.com/x.parquet'])
def test_what_is_no_place_for_a_file_is_refused(small, capsys, target, monkeypatch):
    monkeypatch.chdir(small.parent)
    assert failing(capsys, 'latest', small, '--output', target)


def test_one_model_and_one_that_is_not_there(small, capsys):
    target = small.parent / 'x.parquet'
    assert main(['latest', str(small), '--output', str(target), '--model_id', OTHER]) == 0
    assert pq.read_table(target)['model'].to_pylist() == [OTHER]
    capsys.readouterr()
    message = failing(capsys, 'latest', small, '--output', target, '--model_id', 'moon')
    assert f'--model_id moon: no complete run of this model in {small}' in message
    assert f'{MODEL}, {OTHER}' in message


def first_file(folder):
    return next(folder.glob(f'predictions/model={MODEL}/run=a/*.parquet'))


def edit_report(folder, **changes):
    path = folder / 'runs/a/report.json'
    edit_json(path, lambda report: report.update(changes))


def other_columns(folder):
    table = pq.ParquetFile(first_file(folder)).read()
    edit_table(first_file(folder), table.drop_columns(['width']))


def another_class(folder):
    def change(rows):
        rows[0]['labels'][0]['index'] = 1000
        return rows

    edit_rows(first_file(folder), change)


def another_count(folder):
    def change(report):
        report['files'][0]['rows'] += 1

    edit_json(folder / 'runs/a/report.json', change)


def lost_row(folder):
    table = pq.ParquetFile(first_file(folder)).read()
    pq.write_table(table.slice(1), first_file(folder))


def no_parquet(folder):
    first_file(folder).write_bytes(b'PAR1')
    sha256 = hashlib.sha256(b'PAR1').hexdigest()
    edit_json(
        folder / 'runs/a/report.json', lambda report: report['files'][0].update(sha256=sha256)
    )


DAMAGE = {
    'no folder': (shutil.rmtree, 'no such folder'),
    'no dataset': (lambda folder: (folder / 'dataset.json').unlink(), 'no dataset.json there'),
    'another version': (
        lambda folder: (folder / 'dataset.json').write_text(
            '{"schema_version": 2, "columns": ["a"]}'
        ),
        'the dataset has schema version 2, but this version of Lemmabeam reads 1',
    ),
    'a dataset of another kind': (
        lambda folder: (folder / 'dataset.json').write_text('[]'), 'dataset.json is damaged'
    ),
    'a dataset of numbers': (
        lambda folder: (folder / 'dataset.json').write_text(
            '{"schema_version": 1, "carry": [1], "partition_by": []}'
        ),
        'dataset.json is damaged',
    ),
    'a report that is cut off': (
        lambda folder: (folder / 'runs/a/report.json').write_text('{'), 'report.json is damaged'
    ),
    'a report without metadata': (
        lambda folder: edit_report(folder, metadata=None), 'report.json is damaged'
    ),
    'a file outside the run': (
        lambda folder: edit_report(
            folder, files=[{'path': 'predictions/../../x.parquet', 'rows': 1}]
        ),
        'report.json is damaged',
    ),
    'a file of another folder': (
        lambda folder: edit_report(
            folder, files=[{'path': f'predictions/model={MODEL}/run=a/d=1/x.parquet', 'rows': 1}]
        ),
        'report.json is damaged',
    ),
    'a missing file': (lambda folder: first_file(folder).unlink(), 'No such file'),
    'no Parquet': (no_parquet, 'cannot be read as Parquet'),
    'an empty file': (lambda folder: first_file(folder).write_bytes(b''), 'is damaged: its bytes'),
    'a flipped byte': (
        lambda folder: first_file(folder).write_bytes(
            b'PAR1' + b'x' * 40 + first_file(folder).read_bytes()[44:]
        ),
        'is damaged: its bytes do not match the checksum in its report',
    ),
    'other columns': (other_columns, 'but its run has'),
    'a lost row': (lost_row, 'is damaged: its bytes do not match the checksum in its report'),
    'another count': (another_count, 'has 2 rows, but its report lists 3'),
    'a class that is none': (another_class, 'stored labels are of class 1000 to 1000'),
    'no vocabulary': (lambda folder: shutil.rmtree(folder / 'vocabularies'), 'is missing'),
    'no Parquet of classes': (
        lambda folder: next(folder.glob('vocabularies/*')).write_bytes(b''), 'is damaged'
    ),
}  # fmt: skip


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('name', ['latest', 'relabel'])
def test_damage_is_named_and_nothing_is_written(small, capsys, damage, name):
    act, message = DAMAGE[damage]
    act(small)
    before = sorted(small.parent.rglob('*'))
    arguments = {
        'latest': (small, '--output', small.parent / 'x.parquet'),
        'relabel': ('--output', small, '--model_id', MODEL),
    }
    assert message in failing(capsys, name, *arguments[name])
    assert sorted(small.parent.rglob('*')) == before


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class TestVocabulary:
    """Runs share it, and each says in its report what its bytes are."""

    def test_a_run_writes_a_damaged_one_anew(self, small):
        path = small / 'vocabularies' / VOCABULARY.file_name
        whole = path.read_bytes()
        for damage in (flip, lambda path: path.write_bytes(b''), Path.unlink):
            damage(path)
            sha256 = keep_vocabulary(str(small), store(small), VOCABULARY)
            assert sha256 == hashlib.sha256(whole).hexdigest()
            assert path.read_bytes() == whole

    def test_that_of_another_version_of_arrow_stays(self, small):
        path = small / 'vocabularies' / VOCABULARY.file_name
        pq.write_table(pq.read_table(path), path, compression='snappy')
        theirs = path.read_bytes()
        sha256 = hashlib.sha256(theirs).hexdigest()
        for run_id in 'ab':
            edit_json(
                small / f'runs/{run_id}/report.json',
                lambda report: report['model'].update(vocabulary_sha256=sha256),
            )
        assert keep_vocabulary(str(small), store(small), VOCABULARY) == sha256
        assert path.read_bytes() == theirs
        # Once it is damaged, that of the next run takes its place, and is as good for all.
        flip(path)
        keep_vocabulary(str(small), store(small), VOCABULARY)
        assert path.read_bytes() == VOCABULARY.to_parquet()
        assert latest(small)

    def test_one_without_ancestors_is_written_anew(self, small):
        path = small / 'vocabularies' / VOCABULARY.file_name
        whole = path.read_bytes()
        pq.write_table(pq.read_table(path).drop_columns(['ancestors']), path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        for run_id in 'ab':
            edit_json(
                small / f'runs/{run_id}/report.json',
                lambda report: report['model'].update(vocabulary_sha256=sha256),
            )
        assert latest(small)
        keep_vocabulary(str(small), store(small), VOCABULARY)
        assert path.read_bytes() == whole
        # Also where the run that did so was killed before its report.
        assert latest(small)
        write_latest_sql(str(small), store(small))
        assert verify(str(small)) == []

    def test_a_report_of_an_earlier_version_does_not_tell(self, small):
        path = small / 'vocabularies' / VOCABULARY.file_name
        pq.write_table(pq.read_table(path), path, compression='snappy')
        for run_id in 'ab':
            edit_json(
                small / f'runs/{run_id}/report.json',
                lambda report: report['model'].pop('vocabulary_sha256'),
                seal=False,
            )
        assert latest(small)


def test_a_dataset_without_a_folder_of_its_own(tmp_path):
    with pytest.raises(UsageError, match='no such folder'):
        write_latest_sql(str(tmp_path / 'moon'), store(tmp_path))


def test_a_full_disk_is_named(many, monkeypatch):
    folder, _ = many

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pa.ipc, 'new_stream', full)
    with pytest.raises(StoreError, match='TMPDIR'):
        latest(folder, rows_at_once=100)
    assert not (folder.parent / 'out.parquet').exists()


def test_all_pictures_with_a_dog_are_one_query(tmp_path):
    dogs = [i for i, wnid in enumerate(VOCABULARY.wnids) if is_under(wnid, 'n02084071')]
    direct = [i for i in dogs if 'n02084071' in hypernyms()[VOCABULARY.wnids[i]]]
    assert (len(dogs), len(direct)) == (118, 7)
    rows = [Row(f'/{i}', [(i, 0.9)]) for i in range(1000)]
    add_run(tmp_path, 'a', rows, rows_per_file=1000)
    found = duckdb.sql(f"""
        select distinct p.uri
        from read_parquet('{tmp_path}/predictions/**/*.parquet') as p,
             unnest(p.labels) as t(label)
        join read_parquet('{tmp_path}/vocabularies/*.parquet') as v on v.wnid = label.wnid
        where 'dog' in (select unnest(v.ancestors).name union all select v.name)
    """).fetchall()
    assert {uri for (uri,) in found} == {f'/{i}' for i in dogs}
