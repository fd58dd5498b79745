"""Folder names of partitions."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core.errors import ImageError
from transforms.output import partitions

ODD_VALUES = ['a b', 'a/b', '..', '.', '%', '%2F', 'x=y', '007', 'größe', '日本', '#?+&', '\n', '"']
values = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=20).filter(
    lambda value: value != partitions.DEFAULT_PARTITION
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(values)
def test_unescape_gives_back_what_was_escaped(value):
    name = partitions.escape(value)
    assert partitions.unescape(name) == value
    assert not set(name) & set('/\\=*?:"\x00\n')


@settings(derandomize=True, max_examples=300, deadline=None)
@given(values, values)
def test_different_values_have_different_folders(one, other):
    assert (one == other) == (partitions.escape(one) == partitions.escape(other))


@pytest.mark.parametrize('value', [None, ''])
def test_null_and_empty_are_hives_default(value):
    assert partitions.escape(value) == '__HIVE_DEFAULT_PARTITION__'
    assert partitions.unescape('__HIVE_DEFAULT_PARTITION__') is None


def test_folder_of_values():
    assert partitions.folder_of_values((), ()) == ''
    folder = partitions.folder_of_values(('split', 'day'), ('a/b', None))
    assert folder == 'split=a%2Fb/day=__HIVE_DEFAULT_PARTITION__/'


def test_too_long_a_folder_is_refused_by_its_bytes():
    assert partitions.folder_of_values(('c',), ('x' * 253,))
    for value in ('x' * 254, 'é' * 127, '/' * 85):
        with pytest.raises(ImageError, match=r'bad_name: a partition folder of \d+ bytes'):
            partitions.folder_of_values(('c',), (value,))


def test_pyarrow_reads_every_value_back(tmp_path):
    for i, value in enumerate(ODD_VALUES):
        folder = tmp_path / partitions.folder_of_values(('c',), (value,))
        folder.mkdir()
        pq.write_table(pa.table({'i': [i]}), folder / 'part.parquet')
    schema = pa.schema([('i', pa.int64()), ('c', pa.string())])
    partitioning = ds.partitioning(pa.schema([('c', pa.string())]), flavor='hive')
    table = ds.dataset(tmp_path, schema, partitioning=partitioning).to_table().sort_by('i')
    assert table['c'].to_pylist() == ODD_VALUES
