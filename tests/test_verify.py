"""`lemmabeam verify` finds each kind of damage; a check that finds nothing proves nothing."""

import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.main import main
from pipeline.verify import compare, verify
from tests import samples, support
from tests.datasets import edit_rows
from transforms.hashing import uri_hash


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    pictures = tmp_path_factory.mktemp('pictures')
    samples.write_pictures(pictures, 12)
    output = tmp_path_factory.mktemp('whole')
    with support.stand_in():
        support.label(
            '--input', pictures, '--output', output, '--run_id', 'a', '--rows_per_file', '8'
        )
    assert verify(str(output)) == []
    return output


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'copy')
    return tmp_path / 'copy'


def part(folder, kind='predictions'):
    return next(
        path
        for path in sorted(folder.glob(f'{kind}/**/*.parquet'))
        if pq.read_metadata(path).num_rows > 1
    )


def swap_labels(rows):
    row = next(row for row in rows if len(row['labels']) > 1)
    row['labels'].reverse()
    return rows


def into_another_part(rows):
    other = next(uri for uri in ('/a', '/b', '/c', '/d', '/e') if uri_hash(uri) % 2 == 1)
    return [rows[0] | {'uri': other}, *rows[1:]]


def rename_label(rows):
    next(row for row in rows if row['labels'])['labels'][0]['name'] = 'moon'
    return rows


def damage_score(rows):
    next(row for row in rows if row['labels'])['labels'][0]['score'] = 1.5
    return rows


DAMAGE = {
    'a missing file': (lambda root: part(root).unlink(), 'is missing'),
    'a flipped byte': (
        lambda root: part(root).write_bytes(part(root).read_bytes()[:-9] + b'x' * 9),
        'cannot be read as Parquet',
    ),
    'a stray file': (
        lambda root: shutil.copy(part(root), part(root).with_name('part-00009-of-00010.parquet')),
        'belongs to no complete run',
    ),
    'a lost row': (lambda root: edit_rows(part(root), lambda rows: rows[1:]), 'labelled rows'),
    'a row twice': (
        lambda root: edit_rows(part(root), lambda rows: [rows[0], *rows]),
        'is there 2 times',
    ),
    'labels out of order': (
        lambda root: edit_rows(part(root), swap_labels),
        'labels are not by falling score',
    ),
    'an impossible score': (
        lambda root: edit_rows(part(root), damage_score),
        'a score is not from 0 to 1',
    ),
    'an unknown reason': (
        lambda root: edit_rows(
            part(root, 'dead_letters'), lambda rows: [row | {'reason': 'moon'} for row in rows]
        ),
        'unknown reason',
    ),
    'no vocabulary': (
        lambda root: shutil.rmtree(root / 'vocabularies'),
        'vocabularies/ilsvrc2012',
    ),
    'a damaged vocabulary': (
        lambda root: next(root.glob('vocabularies/*')).write_bytes(b'PAR1'),
        'cannot be read',
    ),
    'a wrong name': (
        lambda root: edit_rows(part(root), rename_label),
        'not named as in the vocabulary',
    ),
    'rows out of order': (
        lambda root: edit_rows(part(root), lambda rows: rows[::-1]),
        'is not in the order of URIs',
    ),
    'a row in another part': (
        lambda root: edit_rows(part(root), into_another_part),
        'belongs to another part',
    ),
    'a report of another kind': (
        lambda root: (root / 'runs/a/report.json').write_text('{"files": []}'),
        'damaged',
    ),
    'no report': (
        lambda root: (root / 'runs/a/report.json').unlink(),
        'belongs to no complete run',
    ),
    'a report that is cut off': (
        lambda root: (root / 'runs/a/report.json').write_text('{"run_id"'),
        'damaged',
    ),
    'a dataset.json that is cut off': (
        lambda root: (root / 'dataset.json').write_text('{'),
        'dataset.json is damaged: it is not JSON',
    ),
    'another schema version': (
        lambda root: (root / 'dataset.json').write_text('{"schema_version": 99}'),
        'schema version 99',
    ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_verify_finds(copy, damage, capsys):
    act, message = DAMAGE[damage]
    act(copy)
    assert any(message in problem for problem in verify(str(copy))), verify(str(copy))
    assert main(['verify', str(copy)]) == 1
    assert message in capsys.readouterr().out


def test_compare_names_the_first_differences(whole, copy):
    assert compare(str(whole), str(copy)) == []

    def change(rows):
        rows[0]['labels'][0]['score'] += 1e-6
        rows[1]['width'] = 7
        return rows

    edit_rows(part(copy), change)
    differences = compare(str(whole), str(copy))
    assert len(differences) == 2
    assert any('width' in line and '7' in line for line in differences)
    assert len(compare(str(whole), str(copy), tolerance=1e-5)) == 1
    assert len(compare(str(whole), str(copy), by_name=True)) == 2


def test_other_bytes_of_the_same_rows_are_a_difference(whole, copy):
    edit_rows(part(copy), lambda rows: rows)
    (difference,) = compare(str(whole), str(copy))
    assert 'the same rows, but other bytes' in difference
