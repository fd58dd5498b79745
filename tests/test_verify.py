"""Two outputs of `lemmabeam label` are compared; what `verify` finds is in tests.test_tampering."""

import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.verify import compare, verify
from tests import samples, support
from tests.datasets import edit_rows


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
