"""A table of tamperings: each is noticed by `lemmabeam verify`, and its file named.

What a dataset cannot vouch for itself stands in `BEYOND` and in transforms/dataset/VERIFY.md.
"""

import hashlib
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from tests.support.datasets import MODEL, VOCABULARY, Row, add_run, edit_json, edit_rows, edit_table
from transforms.core.elements import DeadLetter
from transforms.core.hashing import uri_hash
from transforms.core.reasons import Reason
from transforms.dataset.latest_sql import write_latest_sql
from transforms.dataset.verify import notes, verify
from transforms.output.results import carried_text
from transforms.storage.registry import store_for
from transforms.storage.sealed import open_json, to_json

REPORT = 'runs/b/report.json'
OLDER = 'runs/a/report.json'
QUERY = 'latest.sql'
CLASSES = f'vocabularies/{VOCABULARY.file_name}'
FOLDER = f'predictions/model={MODEL}/run=b'
PART = f'{FOLDER}/split=train/part-00000-of-00002.parquet'
OTHER_PART = f'{FOLDER}/split=train/part-00001-of-00002.parquet'
LETTERS = f'dead_letters/model={MODEL}/run=b/part-00000-of-00001.parquet'
MORE = f'{FOLDER}/split=train/part-00009-of-00010.parquet'
VERSIONS = 'runs/b/dead_versions/part-00000-of-00001.parquet'


def rows_of(version, count):
    return [
        Row(
            f'/in/{i:02d}.jpg',
            [(i % 3, 0.5), (7, 0.25)][: i % 4],
            ['train' if i % 4 else 'test', f'{i:03d}'],
            version,
        )
        for i in range(count)
    ]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole') / 'out'
    columns = {'carry': ('split', 'id'), 'partition_by': ('split',), 'rows_per_file': 8}
    carried = carried_text(['train', None])
    failed = [
        DeadLetter('/in/98.jpg', 'decode', 'truncated', 'JPEG ends early', 5, carried, 'v1'),
        DeadLetter('/in/99.jpg', 'fetch', 'not_found', 'not there', -1, carried, ''),
    ]
    add_run(folder, 'a', rows_of('v1', 16), **columns)
    add_run(folder, 'b', rows_of('v2', 16), failed=failed, **columns)
    write_latest_sql(str(folder), store_for(str(folder)))
    assert verify(str(folder)) == notes(str(folder)) == []
    return folder, {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def copy(whole):
    """What was written, at the place that it names."""
    folder, files = whole
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def names(problems, path):
    return any(problem.startswith((f'{path}:', f'{path} is damaged')) for problem in problems)


# Values in JSON: what is edited, how, and which file says so when the checksum is made to fit.
def entry(report, path):
    (file,) = (file for file in report['files'] if file['path'] == path)
    return file


def counting(**changes):
    return lambda report: report['counts'].update(changes)


VALUES = {
    'the id of the run': (REPORT, lambda x: x.update(run_id='a'), REPORT),
    'an id that is no text': (REPORT, lambda x: x.update(run_id=5), REPORT),
    'no id': (REPORT, lambda x: x.pop('run_id'), REPORT),
    'books that say yes': (REPORT, lambda x: x.update(balanced='yes'), REPORT),
    'books that do not balance': (REPORT, lambda x: x.update(balanced=False), REPORT),
    'no books': (REPORT, lambda x: x.pop('counts'), REPORT),
    'more listed': (REPORT, counting(listed=19), REPORT),
    'fewer labelled': (REPORT, counting(labeled=15), REPORT),
    'fewer without a label': (REPORT, counting(without_label=3), REPORT),
    'without a label by text': (REPORT, counting(without_label='4'), REPORT),
    'more reused than labelled': (REPORT, counting(reused=99), REPORT),
    'labelled and listed': (REPORT, counting(labeled=15, listed=17), REPORT),
    'a count below zero': (REPORT, counting(duplicates=-1, listed=17), REPORT),
    'a count that is text': (REPORT, counting(listed='18'), REPORT),
    'a count that is true': (REPORT, counting(duplicates=True, listed=19), REPORT),
    'a total that is not that of its reasons': (
        REPORT, counting(dead_lettered=3, listed=19), REPORT,
    ),
    'reasons that are not those of the total': (
        REPORT, counting(dead_lettered_by_reason={'truncated': 2, 'not_found': 1}), REPORT,
    ),
    'other reasons': (
        REPORT, counting(dead_lettered_by_reason={'truncated': 1, 'empty': 1}), REPORT,
    ),
    'no reasons': (REPORT, lambda x: x['counts'].pop('dead_lettered_by_reason'), REPORT),
    'an earlier place': (REPORT, lambda x: x.update(sequence=0), QUERY),
    'a place that is no number': (REPORT, lambda x: x.update(sequence='2'), REPORT),
    'another commonest label': (
        REPORT, lambda x: x['top_labels'][0].update(name='moon'), REPORT,
    ),
    'a commonest label more often': (
        REPORT, lambda x: x['top_labels'][0].update(images=99), REPORT,
    ),
    'a commonest label less': (REPORT, lambda x: x['top_labels'].pop(), REPORT),
    'commonest labels of another kind': (REPORT, lambda x: x.update(top_labels='tench'), REPORT),
    'another model': (REPORT, lambda x: x['model'].update(id='n-11111111'), REPORT),
    'a model that is no text': (REPORT, lambda x: x['model'].update(id=None), REPORT),
    'no model': (REPORT, lambda x: x.pop('model'), REPORT),
    'another model in the metadata': (
        REPORT, lambda x: x['metadata'].update(model_id='n-11111111'), REPORT,
    ),
    'another vocabulary': (
        REPORT, lambda x: x['model'].update(vocabulary='moon-00000000.parquet'), REPORT,
    ),
    'another vocabulary in the metadata': (
        REPORT, lambda x: x['metadata'].update(vocabulary='moon'), REPORT,
    ),
    'another checksum of the vocabulary': (
        REPORT, lambda x: x['model'].update(vocabulary_sha256='0' * 64), None,
    ),
    'another activation': (REPORT, lambda x: x['metadata'].update(activation='sigmoid'), PART),
    'an activation that is none': (
        REPORT, lambda x: x['metadata'].update(activation='moon'), REPORT,
    ),
    'another threshold': (REPORT, lambda x: x['metadata'].update(threshold='0.2'), PART),
    'a limit that is no number': (REPORT, lambda x: x['metadata'].update(max_labels='x'), REPORT),
    'no metadata': (REPORT, lambda x: x.pop('metadata'), REPORT),
    'features that are none': (REPORT, lambda x: x['metadata'].update(features='2'), PART),
    'the size of a file': (REPORT, lambda x: entry(x, PART).update(size_bytes=1), PART),
    'a size that is no number': (
        REPORT, lambda x: entry(x, PART).update(size_bytes='many'), REPORT,
    ),
    'the checksum of a file': (REPORT, lambda x: entry(x, PART).update(sha256='0' * 64), PART),
    'the rows of a file': (REPORT, lambda x: entry(x, PART).update(rows=99), PART),
    'rows that are no number': (REPORT, lambda x: entry(x, PART).update(rows=None), REPORT),
    'no rows of a file': (REPORT, lambda x: entry(x, PART).pop('rows'), REPORT),
    'the path of a file': (
        REPORT, lambda x: entry(x, PART).update(path=PART.replace('train', 'moon')), REPORT,
    ),
    'a file of another run': (
        REPORT, lambda x: entry(x, PART).update(path=PART.replace('run=b', 'run=a')), REPORT,
    ),
    'a file outside': (
        REPORT, lambda x: entry(x, PART).update(path='../../x.parquet'), REPORT,
    ),
    'a path that is none': (REPORT, lambda x: entry(x, PART).update(path='runs'), REPORT),
    'a file less': (REPORT, lambda x: x['files'].remove(entry(x, PART)), REPORT),
    'a file twice': (REPORT, lambda x: x['files'].append(entry(x, PART)), REPORT),
    'all files of a kind less': (
        REPORT, lambda x: x['files'].remove(entry(x, VERSIONS)), VERSIONS,
    ),
    'no files': (REPORT, lambda x: x.pop('files'), REPORT),
    'files of another kind': (REPORT, lambda x: x.update(files=['x']), REPORT),
    'the options': (REPORT, lambda x: x['options'].update(rows_per_file=9), None),
    'the command': (REPORT, lambda x: x.update(command='retry'), None),
    'when it was done': (REPORT, lambda x: x.update(finished_at='2020-01-01T00:00:00'), None),
    'no time': (REPORT, lambda x: x.pop('finished_at'), REPORT),
    'what is beside the books': (REPORT, counting(skipped_not_image=7), None),
    'another schema version': (
        'dataset.json', lambda x: x.update(schema_version=99), 'dataset.json',
    ),
    'no schema version': ('dataset.json', lambda x: x.pop('schema_version'), 'dataset.json'),
    'other carried columns': ('dataset.json', lambda x: x.update(carry=['split']), PART),
    'carried columns of another kind': (
        'dataset.json', lambda x: x.update(carry=7), 'dataset.json',
    ),
    'other partitions': ('dataset.json', lambda x: x.update(partition_by=[]), REPORT),
    'partitions that are not carried': (
        'dataset.json', lambda x: x.update(partition_by=['moon']), 'dataset.json',
    ),
}  # fmt: skip
BEYOND = {
    'another checksum of the vocabulary', 'the options', 'the command', 'when it was done',
    'what is beside the books',
}  # fmt: skip


@pytest.mark.parametrize('name', VALUES)
def test_a_value_is_edited(copy, name):
    """By its checksum; and where that fits, or is gone, by what else there is."""
    path, change, named = VALUES[name]
    data = (copy / path).read_bytes()
    value = json.loads(data)
    change(value)
    (copy / path).write_bytes(to_json(value))
    assert verify(str(copy))[0].startswith(f'{path} is damaged: its values are not those that')
    assert (named is None) == (name in BEYOND)
    for seal in (True, False):
        (copy / path).write_bytes(data)
        edit_json(copy / path, change, seal=seal)
        problems = verify(str(copy))
        assert names(problems, named) if named else problems == [], problems
    if named is None:
        assert notes(str(copy))[0].startswith(f'{path} has no checksum of its own')


# Files: what is done, and which one is named.
def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def edit_classes(change):
    def act(root):
        table = pq.read_table(root / CLASSES)
        pq.write_table(
            pa.Table.from_pylist(change(table.to_pylist()), table.schema), root / CLASSES
        )

    return act


def set_in(place, **changes):
    def change(rows):
        rows[place] |= changes
        return rows

    return change


def replace_in(path, one, other, count=-1):
    def act(root):
        text = (root / path).read_text()
        assert one in text
        (root / path).write_text(text.replace(one, other, count))

    return act


def exchange(one, other):
    def act(root):
        (root / one).rename(root / 'x')
        (root / other).rename(root / one)
        (root / 'x').rename(root / other)

    return act


def write(path, data):
    def act(root):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)

    return act


def elsewhere(root):
    # The first file is read from another dataset.
    replace_in(QUERY, f"'{root}/{PART}'", f"'/elsewhere/{PART}'")(root)


FILES = {
    **{
        f'{what} {kind}': (act, path)
        for kind, path in {
            'predictions': PART, 'dead letters': LETTERS, 'dead versions': VERSIONS,
            'classes': CLASSES,
        }.items()
        for what, act in {
            'no': lambda root, path=path: (root / path).unlink(),
            'empty': lambda root, path=path: (root / path).write_bytes(b''),
            'cut off': lambda root, path=path: os.truncate(root / path, 100),
            'longer': lambda root, path=path: (
                (root / path).write_bytes((root / path).read_bytes() + b'x')
            ),
            'a flipped bit in': lambda root, path=path: flip(root / path),
            'a flipped bit in the footer of': lambda root, path=path: flip(root / path, -40),
            'a file of another kind in place of': (
                lambda root, path=path: (root / path).write_bytes(b'PAR1 but no more PAR1')
            ),
        }.items()
    },
    'no report': (lambda root: (root / REPORT).unlink(), PART),
    'an empty report': (lambda root: (root / REPORT).write_bytes(b''), REPORT),
    'a report that is cut off': (lambda root: os.truncate(root / REPORT, 200), REPORT),
    'a report that is a list': (lambda root: (root / REPORT).write_bytes(b'[]'), REPORT),
    'a flipped bit in the report': (lambda root: flip(root / REPORT), REPORT),
    'the report of another run': (
        lambda root: shutil.copy(root / OLDER, root / REPORT), REPORT
    ),
    'a report for which there is no run': (
        write('runs/c/report.json', b'{"files": []}'), 'runs/c/report.json'
    ),
    'a copy of a report as another run': (
        lambda root: shutil.copytree(root / 'runs/b', root / 'runs/c'), 'runs/c/report.json'
    ),
    'an empty dataset.json': (write('dataset.json', b''), 'dataset.json'),
    'a flipped bit in dataset.json': (lambda root: flip(root / 'dataset.json'), 'dataset.json'),
    'a file more': (
        lambda root: shutil.copy(root / PART, root / MORE), MORE
    ),
    'a partition more': (
        lambda root: shutil.copytree(root / FOLDER / 'split=train', root / FOLDER / 'split=moon'),
        f'{FOLDER}/split=moon/part-00000-of-00002.parquet',
    ),
    'a run more': (
        lambda root: shutil.copytree(root / FOLDER, root / FOLDER.replace('run=b', 'run=c')),
        PART.replace('run=b', 'run=c'),
    ),
    'a model more': (
        lambda root: shutil.copytree(
            root / f'predictions/model={MODEL}', root / 'predictions/model=n-11111111'
        ),
        PART.replace(MODEL, 'n-11111111'),
    ),
    'a file of somebody': (write('notes.txt', b'x'), 'notes.txt'),
    'a file of somebody among the classes': (
        write('vocabularies/notes.txt', b'x'), 'vocabularies/notes.txt'
    ),
    'a renamed part': (
        lambda root: (root / PART).rename(root / FOLDER / 'split=train/part-0.parquet'), PART
    ),
    'two parts exchanged': (exchange(PART, OTHER_PART), PART),
    'two runs exchanged': (exchange(PART, PART.replace('run=b', 'run=a')), PART),
    'another definition': (edit_classes(set_in(5, definition='a moon')), CLASSES),
    'another name': (edit_classes(set_in(5, name='moon')), CLASSES),
    'another synset': (edit_classes(set_in(5, wnid='n00000000')), CLASSES),
    'other lemmas': (edit_classes(set_in(5, lemmas=['moon'])), CLASSES),
    'other parents': (edit_classes(set_in(5, hypernyms=['n00000000'])), CLASSES),
    'classes in another order': (edit_classes(lambda rows: rows[::-1]), CLASSES),
    'fewer classes': (edit_classes(lambda rows: rows[:5]), CLASSES),
    'a class more': (edit_classes(lambda rows: [*rows, rows[0]]), CLASSES),
    'the same classes in other bytes': (edit_classes(lambda rows: rows), CLASSES),
    'no query': (lambda root: (root / QUERY).unlink(), QUERY),
    'an empty query': (write(QUERY, b''), QUERY),
    'a query that is cut off': (lambda root: os.truncate(root / QUERY, 900), QUERY),
    'a query of another run': (replace_in(QUERY, 'run=b', 'run=c'), QUERY),
    'a query without a run': (replace_in(QUERY, "(2, 'm-00000000', 'b')", "(2, 'm', 'x')"), QUERY),
    'a query that points elsewhere for one file': (elsewhere, QUERY),
    'a query with runs in another order': (
        replace_in(QUERY, "(1, 'm-00000000', 'a')", "(3, 'm-00000000', 'a')"), QUERY,
    ),
    'a query that leaves rows out': (
        replace_in(QUERY, 'join newest as n', "join (from newest where uri > '/x') as n"), QUERY
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', FILES)
def test_a_file_is_tampered_with(copy, name):
    act, path = FILES[name]
    act(copy)
    assert names(verify(str(copy)), path)


# Rows, where the checksums of file and report fit.
def swap_labels(rows):
    next(row for row in rows if len(row['labels']) > 1)['labels'].reverse()
    return rows


def first_label(**changes):
    def change(rows):
        next(row for row in rows if row['labels'])['labels'][0] |= changes
        return rows

    return change


def into_another_part(rows):
    shard = uri_hash(rows[0]['uri']) % 2
    other = next(f'/{i}' for i in range(9) if uri_hash(f'/{i}') % 2 != shard)
    return [rows[0] | {'uri': other}, *rows[1:]]


def too_many_labels(rows):
    row = next(row for row in rows if row['labels'])
    row['labels'] = [
        {'index': i, 'wnid': VOCABULARY.wnids[i], 'name': VOCABULARY.names[i], 'score': 0.5}
        for i in range(6)
    ]
    return rows


def the_same_class_twice(rows):
    row = next(row for row in rows if row['labels'])
    row['labels'] = [row['labels'][0]] * 2
    return rows


ROWS = {
    'a lost row': (PART, lambda rows: rows[1:], REPORT),
    'a row twice': (PART, lambda rows: [rows[0], *rows], REPORT),
    'rows out of order': (PART, lambda rows: rows[::-1], PART),
    'a row in another part': (PART, into_another_part, PART),
    'labels out of order': (PART, swap_labels, PART),
    'too many labels': (PART, too_many_labels, PART),
    'a class twice': (PART, the_same_class_twice, PART),
    'an impossible score': (PART, first_label(score=1.5), PART),
    'no score': (PART, first_label(score=float('nan')), PART),
    'another name of a label': (PART, first_label(name='moon'), PART),
    'another synset of a label': (PART, first_label(wnid='n00000000'), PART),
    'a label that there is not': (PART, first_label(index=1000), PART),
    'a label below all': (PART, first_label(index=-1), PART),
    'an unknown reason': (LETTERS, set_in(0, reason='moon'), LETTERS),
    'an unknown stage': (LETTERS, set_in(0, stage='moon'), LETTERS),
    'a reason that may be retried': (LETTERS, set_in(0, retryable=True), LETTERS),
    'another reason': (
        LETTERS, set_in(0, reason=Reason.EMPTY.value, retryable=Reason.EMPTY.retryable), REPORT,
    ),
    'a lost dead letter': (LETTERS, lambda rows: rows[1:], REPORT),
    'another score': (PART, first_label(score=0.75), None),
    'another version of an object': (PART, set_in(0, object_version='v9'), None),
    'another carried value': (PART, set_in(0, id='999'), None),
    'another detail': (LETTERS, set_in(0, detail='moon'), None),
    'another version that failed': (VERSIONS, set_in(0, object_version='v9'), None),
}  # fmt: skip
BEYOND_ROWS = {
    'another score', 'another version of an object', 'another carried value', 'another detail',
    'another version that failed',
}  # fmt: skip


@pytest.mark.parametrize('name', ROWS)
def test_rows_are_edited(copy, name):
    """Noticed by the checksum; and where all checksums fit, by what else there is."""
    path, change, named = ROWS[name]
    report = (copy / REPORT).read_bytes()
    edit_rows(copy / path, change)
    problems = verify(str(copy))
    assert (named is None) == (name in BEYOND_ROWS)
    assert names(problems, named) if named else problems == [], problems
    (copy / REPORT).write_bytes(report)
    assert names(verify(str(copy)), path)


def test_other_columns_and_metadata(copy):
    table = pq.ParquetFile(copy / PART).read()
    for changed in (
        table.drop_columns(['width']),
        table.replace_schema_metadata({}),
        table.replace_schema_metadata(table.schema.metadata | {b'lemmabeam.threshold': b'0.2'}),
    ):
        edit_table(copy / PART, changed)
        assert names(verify(str(copy)), PART)


def test_classes_of_which_no_report_has_the_bytes(copy):
    """Of an earlier version: names are in the name of the file, definitions are beyond it."""
    for report in (REPORT, OLDER):
        edit_json(copy / report, lambda x: x['model'].pop('vocabulary_sha256'), seal=False)
    whole = (copy / CLASSES).read_bytes()
    for name, is_noticed in {
        'another name': True,
        'another synset': True,
        'other lemmas': True,
        'fewer classes': True,
        'classes in another order': True,
        'cut off classes': True,
        'another definition': False,
        'other parents': False,
    }.items():
        (copy / CLASSES).write_bytes(whole)
        FILES[name][0](copy)
        assert names(verify(str(copy)), CLASSES) == is_noticed, name


def test_the_command_names_what_it_finds(copy, capsys):
    flip(copy / PART)
    (copy / LETTERS).unlink()
    assert main(['verify', str(copy)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(': ')[0] for line in said] == [PART, LETTERS]


def test_one_damaged_report_hides_nothing_of_the_others(copy):
    flip(copy / REPORT)
    flip(copy / PART.replace('run=b', 'run=a'))
    problems = verify(str(copy))
    assert [problem.partition(':')[0] for problem in problems] == [
        f'{REPORT} is damaged', PART.replace('run=b', 'run=a'),
    ]  # fmt: skip


def test_a_dataset_that_was_moved(copy, tmp_path):
    moved = copy.rename(tmp_path / "it's moved")
    assert verify(str(moved)) == []
    assert ['latest.sql points to another place' in note for note in notes(str(moved))] == [True]


def test_the_report_is_what_was_written(copy):
    value, is_sealed = open_json((copy / REPORT).read_bytes())
    assert is_sealed
    assert entry(value, PART)['sha256'] == hashlib.sha256((copy / PART).read_bytes()).hexdigest()


def test_there_are_enough_of_them():
    assert len(VALUES) + len(FILES) + len(ROWS) >= 60
