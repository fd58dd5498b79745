"""What a run writes, byte for byte: code may move, files may not change by it.

Where they change on purpose (another schema, another version of pyarrow), say why, delete
`data/golden.json` and run this file twice: the first time writes it, and fails.
"""

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from tests.support.app import crashing_behind, label, stand_in
from transforms.storage.registry import store_for

GOLDEN = Path(__file__).parents[1] / 'data/golden.json'
BUCKET = 'golden'  # names take part in the order of rows
COUNT = 60


@pytest.fixture(scope='module')
def bucket(s3):
    """Its versions are made of what is in it, not of the time."""
    import boto3

    client = boto3.client('s3', endpoint_url=s3, region_name='us-east-1')
    client.create_bucket(Bucket=BUCKET)
    for i in range(COUNT):
        if i % 20 != 3:
            data = b'%d' % i * (100 if i % 20 == 11 else 1)
            client.put_object(Bucket=BUCKET, Key=f'in/{i:02d} ä.jpg', Body=data)
    names = [f'in/{i:02d} ä.jpg' for i in range(COUNT)]
    notes = [f'note {i}' * (i % 3) for i in range(COUNT)]
    places = ['ab/c'[i % 4] for i in range(COUNT)]
    lists = {
        'first.csv': [*zip(names, places, notes, strict=True), (names[0], 'a', 'twice')],
        'second.csv': [(name, 'a', 'again') for name in names[30:]],
    }
    for name, rows in lists.items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(('uri', 'place', 'note'))
        writer.writerows((f's3://{BUCKET}/{key}', *more) for key, *more in rows)
        writer.writerow(('ftp://nowhere/x.jpg', '', ''))
        client.put_object(Bucket=BUCKET, Key=name, Body=text.getvalue().encode())
    return f's3://{BUCKET}'


def files_of(output):
    """SHA-256 of every Parquet file by its name."""
    store = store_for(output)
    return {
        entry.uri.removeprefix(f'{output}/'): hashlib.sha256(store.read(entry.uri)).hexdigest()
        for entry in store.list(output)
        if entry.uri.endswith('.parquet')
    }


def test_files_are_what_they_were(bucket, s3, monkeypatch):
    output = f'{bucket}/out'
    options = ('--s3_endpoint_url', s3, '--s3_region_name', 'us-east-1', '--output', output)
    options += ('--chunk_size', '8', '--batch_size', '4', '--max_bytes', '100')
    options += ('--carry', 'note', '--partition_by', 'place', '--rows_per_file', '10')
    first = ('--input', f'{bucket}/first.csv', '--run_id', 'first', *options)
    with stand_in(with_decoder=False):
        with crashing_behind(5), pytest.raises(Exception, match='in place of a crash'):
            label(*first)
        report = label(*first)
        dead = report['counts']['dead_lettered_by_reason']
        assert dead == {'bad_uri': 1, 'not_found': 3, 'too_many_bytes': 3}
        label('--input', f'{bucket}/second.csv', '--run_id', 'second', '--force', *options)
    found = files_of(output)
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')
        pytest.fail(f'{GOLDEN.name} was written anew')
    assert found == json.loads(GOLDEN.read_text())
