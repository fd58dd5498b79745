"""The Parquet sink: our schema, the same bytes for the same rows, and no file over another."""

from pathlib import Path

import apache_beam as beam
import lemmabeam as lb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from tests.support.collected import collect, taken
from transforms.output.predictions import prediction_schema

ROWS = [
    lb.LabeledImage(
        f'/photos/{i}.jpg',
        [lb.Label(i, None if i % 3 else 'n02123045', f'class {i}', i / 64)][: i % 4],
        '1-1',
        'ab' * 32,
        500 + i,
        375,
        'JPEG',
        [i / 2, 0.25],
        {'split': 'train' if i % 2 else None, 'secret': 's'},
    )
    for i in range(20)
]


def write(rows, folder, **options):
    with beam.Pipeline('FnApiRunner') as pipeline:
        collect(pipeline | beam.Create(rows) | lb.WriteLabels(folder, **options), 'files')
    return sorted(taken('files'))


def test_rows_come_back_in_our_schema(tmp_path):
    metadata = {'model_id': 'm-1'}
    files = write(ROWS, tmp_path, carry=['split'], features=2, rows_per_file=6, metadata=metadata)
    assert files == [f'{tmp_path}/part-{i:05d}-of-00004.parquet' for i in range(4)]
    table = pyarrow.dataset.dataset(files).to_table()
    assert table.schema.metadata == {b'lemmabeam.model_id': b'm-1', b'lemmabeam.features': b'2'}
    # Of the vectors only the name of what is in them differs, as Parquet has it.
    assert table.drop_columns(['features']).schema.equals(prediction_schema(['split'], {}))
    assert table.schema.field('features').type.equals(pa.list_(pa.float16(), 2))
    found = sorted(table.to_pylist(), key=lambda row: row['width'])
    expected = [
        {
            **{k: v for k, v in row._asdict().items() if k != 'carried'},
            'labels': [label._asdict() for label in row.labels],
            'split': row.carried['split'],
        }
        for row in ROWS
    ]
    assert found == expected
    for file in files:
        uris = pq.read_table(file)['uri'].to_pylist()
        assert uris == sorted(uris)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    one, other = (
        [Path(file).read_bytes() for file in write(rows, tmp_path / name, rows_per_file=9)]
        for name, rows in (('one', ROWS), ('other', ROWS[::-1]))
    )
    assert one == other


def test_no_rows_are_a_file_with_a_schema(tmp_path):
    (file,) = write([], tmp_path / 'new')
    assert pq.read_table(file).num_rows == 0
    assert pq.read_schema(file).names[:2] == ['uri', 'object_version']


def test_rows_of_another_kind(tmp_path):
    label = beam.Row(index=1, wnid=None, name='cat', score=0.5)
    (file,) = write([beam.Row(uri='/a.jpg', labels=[label])], tmp_path)
    (row,) = pq.read_table(file).to_pylist()
    assert row['labels'] == [{'index': 1, 'wnid': None, 'name': 'cat', 'score': 0.5}]
    assert row['width'] is None
    with pytest.raises(Exception, match='takes rows with the fields of LabeledImage'):
        write(['/a.jpg'], tmp_path / 'other')


def test_features_of_another_length_are_refused(tmp_path):
    for rows in (ROWS[:1], [ROWS[0]._replace(features=None)]):
        with pytest.raises(lb.errors.UsageError, match='and WriteLabels was told features=3'):
            write(rows, tmp_path, features=3)


def test_a_folder_that_has_files_is_refused(tmp_path):
    (file,) = write(ROWS, tmp_path)
    with pytest.raises(lb.errors.UsageError, match=r'it holds .*part-00000-of-00001\.parquet'):
        write(ROWS[:3], tmp_path)
    assert pq.read_table(file).num_rows == len(ROWS)


@pytest.mark.parametrize('name', ['model', 'labels', 'uri'])
def test_a_column_of_ours_is_not_carried(name):
    with pytest.raises(lb.errors.UsageError, match=f'carry {name!r}: the output has a column'):
        lb.WriteLabels('/nowhere', carry=[name])


def test_http_is_not_written_to():
    with pytest.raises(lb.errors.UsageError, match=r'http\(s\) is not written to'):
        lb.WriteLabels('https://example.com/labels')
