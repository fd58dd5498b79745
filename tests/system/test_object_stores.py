"""The whole pipeline against servers of GCS, S3, Azure and a hub, with a model of the tests.

What is not checked here: the stores themselves, their faults and retries (tests/storage).
"""

import json
from typing import NamedTuple

import pytest

from tests.conftest import AWS_SECRETS, AZURE_ACCOUNT, AZURE_KEY
from tests.support import app, samples
from tests.support.hub_server import Dataset
from tests.system.test_containers import GOOD, make_containers, tar
from transforms.dataset.verify import compare, verify
from transforms.model.resolve import resolve_model
from transforms.storage.registry import store_for

pytestmark = pytest.mark.usefixtures('stand_in_model')

NAMES = ['a b.jpg', 'x#1?.jpg', '100%25+.jpg', 'o\'x".jpg', 'ä/日本.jpg', '.hidden.jpg', '[x]*.jpg']


def names(uri):
    return {entry.uri.removeprefix(f'{uri}/') for entry in store_for(uri).list(uri)}


def jsonl(uris):
    return ''.join(json.dumps({'uri': uri}) + '\n' for uri in uris).encode()


class Local(NamedTuple):
    """A run over a folder, and over a manifest beside it with relative names.

    Attributes:
      files: what it was made of, by name: difficult ones among them, and bad files.
      output: its folder.
      report: its report.
    """

    files: dict[str, bytes]
    output: str
    report: dict


@pytest.fixture(scope='module')
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp('local')
    files = {f'in/{i:04d}.jpg': samples.picture(i) for i in range(10)}
    files |= {f'in/{name}': data for name, data in samples.BAD.items()}
    files |= {f'in/{name}': samples.picture(100 + i) for i, name in enumerate(NAMES)}
    files['list.jsonl'] = jsonl(f'in/{name}' for name in NAMES)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    output = str(folder / 'out')
    with app.stand_in():
        report = app.label(*inputs(str(folder)), '--output', output)
    return Local(files, output, report)


def inputs(root):
    return ('--input', f'{root}/in', '--input', f'{root}/list.jsonl')


@pytest.fixture
def pages(emulator, monkeypatch):
    """Listings have pages of five objects; where those begin that were asked for."""
    store = store_for('gs://')
    monkeypatch.setattr(store, '_page_objects', 5)
    begun = []
    get = store._session.get

    def asking(url, params, **options):
        begun.append(params.get('pageToken') or params.get('startOffset'))
        return get(url, params=params, **options)

    monkeypatch.setattr(store._session, 'get', asking)
    return begun


def test_bucket_to_bucket_gives_the_rows_of_folder_to_folder(bucket, pages, local):
    """With a manifest in a bucket, too, and in spite of what an interrupted run has left."""
    for name, data in local.files.items():
        bucket.put(name, data)
    folder = f'predictions/model={resolve_model("embedded").id}/run=again'
    bucket.put(f'out/{folder}/part-00002-of-00007.parquet', b'half a file')
    output = bucket.uri('out')
    report = app.label(
        *inputs(bucket.uri().rstrip('/')), '--output', output, '--run_id', 'again',
        '--direct_runner_bundle_repeat=1',
    )  # fmt: skip
    assert len({begun for begun in pages if begun}) >= 3, 'a listing of several pages'
    assert report['counts'] == local.report['counts']
    assert report['counts']['labeled'] == 10 + len(NAMES)
    assert report['counts']['duplicates'] == len(NAMES)
    assert names(bucket.uri(f'out/{folder}')) == {'part-00000-of-00001.parquet'}
    assert verify(output) == []
    assert compare(local.output, output, by_name=True).differences == []
    assert len(compare(local.output, output).differences) > 1, 'without --by_name they differ'
    assert not any(name.startswith('_work/') for name in names(output))


def test_the_same_with_s3_and_a_second_run_over_other_inputs(s3, s3_bucket, local, tmp_path):
    for name, data in local.files.items():
        s3_bucket.put(name, data)
    output = s3_bucket.uri('out')
    report = app.label(
        *(*inputs(s3_bucket.uri().rstrip('/')), '--output', output),
        *('--s3_endpoint_url', s3, '--s3_region_name', 'us-east-1'),
    )
    assert report['counts'] == local.report['counts']
    assert verify(output) == []
    assert compare(local.output, output, by_name=True).differences == []
    # Another manifest beside them, under the same lease and dataset.json.
    uris = [*(f'in/{name}' for name in [*NAMES, 'absent.jpg']), s3_bucket.uri('in/0001.jpg')]
    (tmp_path / 'here.jpg').write_bytes(samples.picture(99))
    uris += ['s3a://bucket/x.jpg', str(tmp_path / 'here.jpg')]
    manifest = s3_bucket.put('other.jsonl', jsonl(uris))
    report = app.label('--input', manifest, '--output', output, '--run_id', 'again')
    assert report['counts']['unchanged'] == len(NAMES) + 1
    assert report['counts']['labeled'] == 1
    assert report['counts']['gone'] == 0, 'other inputs do not tell'
    assert report['counts']['dead_lettered_by_reason'] == {'bad_uri': 1, 'not_found': 1}
    assert verify(output) == []
    store = store_for(output)
    objects = {entry.uri: store.read(entry.uri) for entry in store.list(output)}
    assert not any(uri.startswith(s3_bucket.uri('out/_work/')) for uri in objects)
    assert not any(secret.encode() in data for data in objects.values() for secret in AWS_SECRETS)


def test_the_same_with_azure_resumed_and_then_from_a_shard_there(container, local):
    for name, data in local.files.items():
        container.put(name, data)
    output = container.uri('out')
    abfss = f'abfss://{container.name}@{AZURE_ACCOUNT}.dfs.core.windows.net'
    arguments = (*inputs(abfss), '--output', f'{abfss}/out', '--batch_size', '2')
    arguments += ('--chunk_size', '4', '--run_id', 'one')
    with app.crashing_behind(2), pytest.raises(Exception, match='in place of a crash'):
        app.label(*arguments)
    report = app.label(*arguments)
    assert report['labeled_by_earlier_attempts'] > 0
    assert report['counts'] == local.report['counts']
    assert verify(output) == []
    assert compare(local.output, output, by_name=True).differences == []
    shard = container.put('shards/a.tar', tar('w'))
    report = app.label('--input', shard, '--output', f'{output}-2')
    assert report['counts']['labeled'] == GOOD
    assert verify(f'{output}-2') == []
    store = store_for(output)
    blobs = {entry.uri: store.read(entry.uri) for entry in store.list(container.uri('out'))}
    assert not any(uri.startswith(container.uri('out/_work/')) for uri in blobs)
    duckdb = f'az://{AZURE_ACCOUNT}.blob.core.windows.net/{container.name}/out/predictions/'
    assert duckdb.encode() in blobs[container.uri('out/latest.sql')]
    secrets = [AZURE_KEY.encode(), b'sig=']
    assert not any(secret in data for data in blobs.values() for secret in secrets)


def test_a_dataset_of_the_hub_is_read_loose_and_in_shards(server, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setenv('HF_TOKEN', 'hf_s3cr3t')
    dataset = Dataset(server, 'owner/name')
    for i in range(5):
        dataset.put(f'photos/{i}.jpg', samples.picture(i))
    dataset.put('README.md', b'# A dataset')
    for name, data in make_containers().items():
        if name in ('a.tar', 'structs.parquet'):
            dataset.put(f'data/{name}', data)
    root = 'hf://datasets/owner/name'
    arguments = ('--input', root, '--input', f'{root}/data/*.tar')
    arguments += ('--input', f'{root}/data/structs.parquet', '--output', tmp_path / 'out')
    report = app.label(*arguments, '--max_failure_rate', '1')
    assert report['counts']['labeled'] == 5 + 2 * GOOD
    assert report['skipped_suffixes']['.md'] == 1
    assert verify(str(tmp_path / 'out')) == []
    found = {row['uri'] for row in app.rows(tmp_path / 'out', 'predictions')}
    assert f'{root}/photos/0.jpg' in found
    assert any(uri.startswith(f'{root}/data/a.tar!/') for uri in found)
    before = len(server.requests)
    report = app.label(*arguments, '--max_failure_rate', '1', '--run_id', 'again')
    assert report['counts']['labeled'] == 0
    asked = [each.path for each in server.requests[before:] if 'photos' in each.path]
    assert asked == [], 'nothing is read again'
    texts = [path.read_bytes() for path in (tmp_path / 'out').rglob('*') if path.is_file()]
    assert not any(b's3cr3t' in text for text in texts)
    done = app.invoke('label', '--input', samples.SAMPLE, '--output', f'{root}/out')
    assert (done.returncode, 'hf:// is not written to' in done.stderr) == (2, True)


def test_buckets_that_are_not_there_are_found_out_first(bucket, tmp_path):
    for arguments, message in (
        (('--input', 'gs://no-such-bucket/x', '--output', tmp_path / 'out'), 'gs://no-such-bucket'),
        (('--input', samples.SAMPLE, '--output', 'gs://no-such-bucket/out'), 'no such bucket'),
        (('--input', bucket.uri('nothing'), '--output', tmp_path / 'out'), 'no such file'),
    ):
        done = app.invoke('label', *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert 'Traceback' not in done.stderr
