"""The whole pipeline against a real storage emulator over HTTP, with a model of the tests.

What is not checked here: the store itself, its faults and retries (test_storage_gcs).
"""

import json

import pytest
from google.api_core.page_iterator import HTTPIterator

from pipeline.verify import compare, verify
from tests import samples, support
from transforms.model.sources import resolve_model
from transforms.storage import store_for

pytestmark = pytest.mark.usefixtures('stand_in_model')

NAMES = ['a b.jpg', 'x#1?.jpg', '100%25+.jpg', 'o\'x".jpg', 'ä/日本.jpg', '.hidden.jpg', '[x]*.jpg']


def names(uri):
    return {entry.uri.removeprefix(f'{uri}/') for entry in store_for(uri).list(uri)}


@pytest.fixture
def pictures(bucket, tmp_path):
    """The same files on both stores, with difficult names, and bad ones among them."""
    files = {f'{i:04d}.jpg': samples.picture(i) for i in range(10)} | samples.BAD
    files |= {name: samples.picture(100 + i) for i, name in enumerate(NAMES)}
    for name, data in files.items():
        path = tmp_path / 'in' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        bucket.put(f'in/{name}', data)
    return tmp_path / 'in'


@pytest.fixture
def pages(emulator, monkeypatch):
    """Listings have pages of five objects; the tokens of those that were asked for."""
    monkeypatch.setattr(store_for('gs://'), '_page_objects', 5)
    tokens = []
    ask = HTTPIterator._get_next_page_response

    def asking(listing):
        tokens.append(listing.next_page_token)
        return ask(listing)

    monkeypatch.setattr(HTTPIterator, '_get_next_page_response', asking)
    return tokens


def test_bucket_to_bucket_gives_the_rows_of_folder_to_folder(bucket, pages, pictures, tmp_path):
    ours, theirs = str(tmp_path / 'out'), bucket.uri('out')
    local = support.label('--input', pictures, '--output', ours)
    assert pages == []
    remote = support.label('--input', bucket.uri('in'), '--output', theirs)
    assert len({token for token in pages if token}) >= 3, 'a listing of several pages'
    assert local['counts'] == remote['counts']
    assert remote['counts']['labeled'] == 17
    assert verify(theirs) == []
    assert compare(ours, theirs, by_name=True) == []
    assert len(compare(ours, theirs)) > 1, 'without --by_name they differ'
    assert not any(name.startswith('_work/') for name in names(theirs))


def test_a_manifest_in_a_bucket_and_what_an_interrupted_run_left(bucket, pictures):
    output = bucket.uri('out')
    folder = f'predictions/model={resolve_model("embedded").id}/run=again'
    left = f'out/{folder}/part-00002-of-00007.parquet'
    bucket.put(left, b'half a file')
    lines = [{'uri': f'in/{name}'} for name in NAMES] + [{'uri': str(pictures / '0001.jpg')}]
    manifest = bucket.put('list.jsonl', ''.join(json.dumps(x) + '\n' for x in lines).encode())
    repeat = '--direct_runner_bundle_repeat=1'
    report = support.label('--input', manifest, '--output', output, '--run_id', 'again', repeat)
    assert report['counts']['labeled'] == len(lines)
    assert names(bucket.uri(f'out/{folder}')) == {'part-00000-of-00001.parquet'}
    assert verify(output) == []


def test_buckets_that_are_not_there_are_found_out_first(bucket, tmp_path):
    for arguments, message in (
        (('--input', 'gs://no-such-bucket/x', '--output', tmp_path / 'out'), 'gs://no-such-bucket'),
        (('--input', samples.SAMPLE, '--output', 'gs://no-such-bucket/out'), 'no such bucket'),
        (('--input', bucket.uri('nothing'), '--output', tmp_path / 'out'), 'no such file'),
    ):
        done = support.invoke('label', *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert 'Traceback' not in done.stderr
