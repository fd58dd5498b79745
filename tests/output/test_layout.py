"""Where the files of a run lie."""

import dataclasses
import hashlib
import json
from collections import Counter

import pytest

from transforms.core.errors import StoreError, UsageError
from transforms.output.layout import Layout, check_dataset, dataset_spec
from transforms.storage.registry import store_for

LAYOUT = Layout('/out', 'run-1', 'model-1', ('split', 'day', 'id'), ('day', 'split'), 10)


def test_paths_below_the_output():
    assert LAYOUT.run_folder('predictions') == 'predictions/model=model-1/run=run-1'
    assert LAYOUT.report_path == 'runs/run-1/report.json'
    assert LAYOUT.work_folder == '_work/run-1'
    assert LAYOUT.uri('a/b') == '/out/a/b'
    assert LAYOUT.file_columns == ('id',)


def test_an_attempt_stages_under_names_of_its_own():
    assert LAYOUT.is_local
    layout = dataclasses.replace(LAYOUT, attempt='3f')
    assert layout.staged_uri('predictions/x') == '/out/_work/run-1/staged/3f/predictions/x'
    remote = dataclasses.replace(layout, output='gs://bucket/out')
    assert not remote.is_local
    assert remote.staged_uri('dead_letters/x').endswith('/_work/run-1/staged/3f/dead_letters/x')
    assert dataclasses.replace(LAYOUT, output='gs://bucket').uri('x') == 'gs://bucket/x'


def test_partitions_come_in_the_order_of_partition_by():
    carried = json.dumps(['train', '2026-01-02', 'a/b'])
    assert LAYOUT.partition_folder(carried) == 'day=2026-01-02/split=train/'
    nulls = json.dumps([None, '', None])
    default = '__HIVE_DEFAULT_PARTITION__'
    assert LAYOUT.partition_folder(nulls) == f'day={default}/split={default}/'
    assert dataclasses.replace(LAYOUT, partition_by=()).partition_folder(carried) == ''


@pytest.mark.parametrize(
    ('rows', 'shards'), [(0, 1), (1, 1), (10, 1), (11, 2), (40, 4), (41, 8), (100, 16)]
)
def test_shards(rows, shards):
    assert LAYOUT.shards(rows) == shards


def test_the_file_of_a_row_comes_from_its_uri():
    paths = Counter()
    for i in range(400):
        uri = f'gs://b/{i}.jpg'
        digest = hashlib.sha256(uri.encode()).digest()
        shard = int.from_bytes(digest[:8], 'big') % 4
        path = LAYOUT.path_for('predictions', 'split=x/', uri, 4)
        folder = 'predictions/model=model-1/run=run-1/split=x'
        assert path == f'{folder}/part-{shard:05d}-of-00004.parquet'
        paths[path] += 1
    assert len(paths) == 4
    assert min(paths.values()) > 60


def test_a_run_that_fits_the_dataset_passes(tmp_path):
    layout = dataclasses.replace(LAYOUT, output=str(tmp_path))
    assert not check_dataset(layout)
    pin(layout, dataset_spec(layout))
    assert check_dataset(layout)
    # Another run, model or file size is the same dataset.
    other = dataclasses.replace(layout, run_id='run-2', model_id='model-2', rows_per_file=3)
    assert check_dataset(other)


@pytest.mark.parametrize(
    'change',
    [
        {'partition_by': ('split', 'day')},
        {'partition_by': ()},
        {'carry': ('split', 'day')},
        {'carry': ('day', 'split', 'id')},
    ],
)
def test_a_run_that_does_not_fit_is_told_both_layouts(tmp_path, change):
    layout = dataclasses.replace(LAYOUT, output=str(tmp_path))
    pin(layout, dataset_spec(layout))
    other = dataclasses.replace(layout, **change)
    with pytest.raises(UsageError) as caught:
        check_dataset(other)
    for spec in (dataset_spec(layout), dataset_spec(other)):
        assert json.dumps(spec) in str(caught.value)


@pytest.mark.parametrize('spec', [{}, {'schema_version': 99}])
def test_the_dataset_of_another_tool_does_not_fit(tmp_path, spec):
    layout = dataclasses.replace(LAYOUT, output=str(tmp_path))
    pin(layout, spec)
    with pytest.raises(UsageError, match='does not fit'):
        check_dataset(layout)


@pytest.mark.parametrize('data', [b'', b'[]', b'null', b'{"schema', b'\xff\xfe'])
def test_a_damaged_dataset_is_no_reason_to_overwrite_it(tmp_path, data):
    layout = dataclasses.replace(LAYOUT, output=str(tmp_path))
    (tmp_path / 'dataset.json').write_bytes(data)
    with pytest.raises(StoreError, match=r'dataset\.json is damaged'):
        check_dataset(layout)
    assert (tmp_path / 'dataset.json').read_bytes() == data


def pin(layout, spec):
    store_for(layout.output).write(layout.uri('dataset.json'), json.dumps(spec).encode())
