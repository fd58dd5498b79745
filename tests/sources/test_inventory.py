"""Inventories of S3 and of Storage Insights: what they list, and what is wrong with some.

Not checked here: what the real services write; the forms are those that they document.
"""

import datetime
import gzip
import hashlib
import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import app
from tests.support.inventories import (
    ETAG,
    GCS_FIELDS,
    MANIFEST,
    MD5,
    REPORT,
    S3_FIELDS,
    WRITTEN,
    Object,
    gcs_report,
    s3_inventory,
)
from tests.support.samples import picture
from transforms.core.elements import Ref
from transforms.core.errors import ManifestError, UsageError
from transforms.sources import inventory
from transforms.sources.inputs import Columns, Kind, Listing
from transforms.sources.listing import list_input
from transforms.sources.resolve import check_not_empty, resolve
from transforms.storage.registry import store_for

PLAIN = Columns('uri', (), ())
NAMES = ['a.jpg', 'b c+d%20,"é\'日.png', 'x/y/../z.JPEG', 'e\nf.webp', '😀/?#.jpg']
OTHERS = [Object('notes.txt'), Object('folder/'), Object('README')]
KINDS = {
    'S3, CSV': (s3_inventory, {'kind': 'CSV'}, MANIFEST),
    'S3, Parquet': (s3_inventory, {'kind': 'Parquet'}, MANIFEST),
    'GCS, CSV': (gcs_report, {'kind': 'CSV'}, REPORT),
    'GCS, CSV without a header': (gcs_report, {'has_header': False, 'delimiter': ';'}, REPORT),
    'GCS, Parquet': (gcs_report, {'kind': 'Parquet'}, REPORT),
}


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def made(folder, kind, objects, **options):
    """Writes an inventory; the path of its manifest."""
    make, known, manifest = KINDS[kind]
    write(folder, make(objects, **known, **options))
    return str(folder / manifest)


def listed(path, columns=PLAIN, since=None):
    source = resolve(str(path), columns)
    assert source.kind is Kind.INVENTORY
    return list(list_input(source, columns, since))


def refs(found):
    return {each.uri: each for each in found if isinstance(each, Ref)}


@pytest.mark.parametrize('kind', KINDS)
def test_an_inventory_lists_what_a_listing_would(tmp_path, kind):
    objects = [Object(name, size=i) for i, name in enumerate(NAMES, 1)]
    found = listed(made(tmp_path, kind, [*objects, *OTHERS]))
    version, checksum = (ETAG, f's3:{ETAG}') if 'S3' in kind else ('1790000000000000', f'gs:{MD5}:')
    root = f'{"s3" if "S3" in kind else "gs"}://source/'
    assert refs(found) == {
        root + name: Ref(root + name, version, i, '[]', '', '', checksum=checksum)
        for i, name in enumerate(NAMES, 1)
    }
    left_out = [each for each in found if isinstance(each, str)]
    assert sorted(left_out) == ['skipped_not_image/', 'skipped_not_image/.txt']


@pytest.mark.parametrize('kind', ['S3, CSV', 'S3, Parquet'])
def test_only_the_newest_versions_are_listed(tmp_path, kind):
    objects = [
        Object('a.jpg', version='1' * 32),
        Object('a.jpg', version='2' * 32, is_latest=False),
        Object('deleted.jpg', is_marker=True),
        Object('deleted.jpg', is_latest=False),
        Object('back.jpg', is_latest=False, is_marker=True),
        Object('back.jpg', version='3' * 32 + '-5'),
    ]
    found = refs(listed(made(tmp_path, kind, objects)))
    assert {uri: (ref.version, ref.checksum) for uri, ref in found.items()} == {
        's3://source/a.jpg': ('1' * 32, f's3:{"1" * 32}'),
        's3://source/back.jpg': ('3' * 32 + '-5', ''),
    }


@pytest.mark.parametrize('kind', KINDS)
def test_times_are_those_of_since(tmp_path, kind):
    old = WRITTEN - datetime.timedelta(days=1)
    path = made(tmp_path, kind, [Object('old.jpg', modified=old), Object('new.jpg')])
    found = listed(path, since=WRITTEN.timestamp() - 0.5)
    assert [uri.rpartition('/')[2] for uri in refs(found)] == ['new.jpg']
    assert 'skipped_before_since' in found
    field = 'LastModifiedDate' if 'S3' in kind else 'timeCreated'
    fields = [each for each in (S3_FIELDS if 'S3' in kind else GCS_FIELDS) if each != field]
    path = made(tmp_path / 'other', kind, [Object('a.jpg')], fields=fields)
    with pytest.raises(UsageError, match=f'--since: .*manifest.json has no field {field}: add it'):
        listed(path, since=1.0)


@pytest.mark.parametrize(
    ('kind', 'lacking', 'told'),
    [
        ('S3, CSV', 'ETag', 'images that have not changed are asked for one by one'),
        ('GCS, Parquet', 'generation', 'images that have not changed are asked for one by one'),
        ('S3, Parquet', 'Size', 'sizes are known only when images are read'),
    ],
)
def test_what_an_inventory_lacks_is_told(tmp_path, caplog, kind, lacking, told):
    fields = [each for each in (S3_FIELDS if 'S3' in kind else GCS_FIELDS) if each != lacking]
    path = made(tmp_path, kind, [Object('a.jpg')], fields=fields)
    with caplog.at_level(logging.WARNING):
        (ref,) = listed(path)
    assert (ref.version == '') == (lacking != 'Size')
    assert (ref.size_bytes == -1) == (lacking == 'Size')
    assert f'the inventory has no field {lacking}, so that {told}' in caplog.text


def test_an_inventory_that_lacks_nothing_is_not_talked_about(tmp_path, caplog):
    for kind in KINDS:
        listed(made(tmp_path / kind, kind, [Object('a.jpg')]))
    assert caplog.text == ''


def test_files_may_lie_beside_a_copied_manifest(tmp_path):
    path = Path(made(tmp_path / 'whole', 'S3, CSV', [Object('a.jpg')]))
    flat = tmp_path / 'flat'
    write(flat, {each.name: each.read_bytes() for each in (tmp_path / 'whole').rglob('*.*')})
    assert refs(listed(flat / path.name)) == refs(listed(path)) != {}


@pytest.mark.parametrize('kind', KINDS)
def test_an_empty_inventory_lists_nothing(tmp_path, kind):
    for files in (0, 2):
        path = made(tmp_path / str(files), kind, [], files=files)
        assert listed(path) == []
        source = resolve(path, PLAIN)
        with pytest.raises(UsageError, match='no images found'):
            check_not_empty(source, Listing((source,), PLAIN))


@pytest.mark.parametrize(
    'text',
    [
        '{"uri": "a.jpg", "sourceBucket": "x", "fileFormat": "CSV"}\n{"uri": "b.jpg"}\n',
        '{"uri": "a.jpg", "files": []}\n',
        '{"uri": "report_shards_file_names"}\n',
    ],
)
def test_lines_are_no_inventory(tmp_path, text):
    path = tmp_path / 'manifest.json'
    path.write_text(text)
    assert resolve(str(path), PLAIN).kind is Kind.MANIFEST


def test_columns_are_not_carried_from_an_inventory(tmp_path):
    path = made(tmp_path, 'S3, CSV', [Object('a.jpg')])
    with pytest.raises(UsageError, match=r'--carry .* is an inventory without columns'):
        resolve(path, Columns('uri', ('ETag',), ()))


# --- what is wrong with some


def edit(path, change):
    """Changes a manifest, and its checksum with it."""
    found = json.loads(Path(path).read_text())
    change(found)
    Path(path).write_text(json.dumps(found))
    checksum = Path(path).with_name('manifest.checksum')
    checksum.write_text(hashlib.md5(Path(path).read_bytes()).hexdigest())


def data_file(path, number=1):
    """A data file of an inventory."""
    folder = Path(path).parents['daily' in path]
    (found,) = (*folder.glob(f'data/{number}-*'), *folder.glob(f'*_{number}.*'))
    return found


def agree(path):
    """Has the manifest say what the data files are."""

    def change(found):
        for number, each in enumerate(found['files']):
            data = data_file(path, number).read_bytes()
            each.update(size=len(data), MD5checksum=hashlib.md5(data).hexdigest())

    if 'daily' in path:
        edit(path, change)


def is_gone(path):
    data_file(path).unlink()


def is_shorter(path):
    data_file(path).write_bytes(data_file(path).read_bytes()[:-30])


def is_flipped(path):
    data = bytearray(data_file(path).read_bytes())
    data[len(data) // 2] ^= 1
    data_file(path).write_bytes(data)


def is_cut_off(path):
    is_shorter(path)
    agree(path)


def is_flipped_and_agreed(path):
    is_flipped(path)
    agree(path)


def names_a_column_that_is_no_text(path):
    data = data_file(path, 0).read_bytes()
    data_file(path, 0).write_bytes(data.replace(b'contentType', b'content\xffype'))


def is_of_another_bucket(path):
    edit(path, lambda found: found.update(sourceBucket='other'))


def has_no_key(path):
    edit(path, lambda found: found.update(fileSchema=found['fileSchema'].replace('Key', 'Kei')))


def has_another_schema(path):
    edit(path, lambda found: found.update(fileSchema='Bucket, Key, Size'))


def has_no_latest(path):
    schema = ', '.join(S3_FIELDS).replace('IsLatest', 'X')
    edit(path, lambda found: found.update(fileSchema=schema))


def is_orc(path):
    edit(path, lambda found: found.update(fileFormat='ORC'))


def is_not_what_its_checksum_says(path):
    Path(path).with_name('manifest.checksum').write_text('0' * 32)


def names_no_format(path):
    edit(path, lambda found: found.pop('files') and found.update(files=[{}]))


def has_fewer_rows(path):
    edit(path, lambda found: found.update(records_processed=7))


def has_more_shards(path):
    edit(path, lambda found: found.update(shard_count=3))


def has_rubbish_for_a_size(path):
    data_file(path).write_bytes(data_file(path).read_bytes().replace(b',123,', b',12x,'))


def is_of_another_filter(path):
    def change(found):
        options = found['report_config']['object_metadata_report_options']
        options['storage_filters']['bucket'] = 'other'

    edit(path, change)


def has_another_column(path):
    data = pq.read_table(data_file(path)).rename_columns(
        [name.replace('size', 'bytes') for name in pq.read_schema(data_file(path)).names]
    )
    pq.write_table(data, data_file(path))


def test_files_may_have_their_columns_in_another_order(tmp_path):
    path = made(tmp_path, 'GCS, Parquet', [Object('a.jpg', size=1), Object('b.jpg', size=2)])
    before = listed(path)
    table = pq.read_table(data_file(path))
    pq.write_table(table.select(table.column_names[::-1]), data_file(path))
    assert listed(path) == before


@pytest.mark.parametrize(
    ('kind', 'spoil', 'told'),
    [
        ('S3, CSV', is_gone, r'1-f00d.csv.gz, one of the 2 files of this inventory, is not there'),
        (
            'GCS, Parquet',
            is_gone,
            r'_1.parquet, one of the 2 files of this inventory, is not there',
        ),
        ('S3, CSV', is_shorter, r'1-f00d.csv.gz: \d+ bytes, the inventory says \d+; what it lists'),
        (
            'S3, CSV',
            is_flipped,
            r'csv.gz: its MD5 is [0-9a-f]{32}, the inventory says [0-9a-f]{32}',
        ),
        ('S3, Parquet', is_flipped, r'parquet: its MD5 is .*; what it lists is not known'),
        ('S3, CSV', is_cut_off, r'1-f00d.csv.gz: it ends early or is damaged; what it lists'),
        ('S3, CSV', is_flipped_and_agreed, r'1-f00d.csv.gz: it ends early or is damaged; what'),
        ('S3, Parquet', is_cut_off, r'1-f00d.parquet: (it ends early or is damaged|not Parquet)'),
        ('GCS, Parquet', is_shorter, r'_1.parquet: (it ends early or is damaged|not Parquet)'),
        ('S3, CSV', is_of_another_bucket, 'csv.gz: a row of the bucket source, .* of other'),
        ('GCS, CSV', is_of_another_filter, 'csv: a row of the bucket source, .* is of other'),
        ('S3, CSV', has_no_key, 'no field Key, without which it does not tell .* Bucket, Kei, Ver'),
        (
            'S3, CSV',
            has_another_schema,
            r'0-f00d.csv.gz: not CSV with the columns Bucket, Key, Size',
        ),
        ('S3, CSV', has_no_latest, 'no field IsLatest, without which it does not tell'),
        (
            'S3, CSV',
            is_orc,
            r'manifest.json: an inventory in ORC: have it written in Parquet or CSV',
        ),
        ('S3, CSV', is_not_what_its_checksum_says, 'its manifest.checksum says otherwise'),
        ('S3, CSV', names_no_format, r'damaged, or not the manifest of an inventory .*KeyError'),
        (
            'GCS, Parquet',
            has_another_column,
            r'_1.parquet: not Parquet with the columns bucket, na',
        ),
        ('GCS, CSV', has_fewer_rows, r'2 records in its files, but it says 7; what is missing'),
        ('GCS, CSV', has_more_shards, '3 shards, but 2 are named'),
        ('GCS, CSV', has_rubbish_for_a_size, "_1.csv: a row that cannot be read: .*'12x'"),
    ],
)
def test_a_wrong_inventory_stops_the_run(tmp_path, kind, spoil, told):
    path = made(tmp_path, kind, [Object('a.jpg'), Object('b.jpg')])
    assert len(listed(path)) == 2
    spoil(path)
    with pytest.raises((ManifestError, UsageError), match=told):
        listed(path)


def test_a_name_that_is_not_utf_8_is_a_bad_one(tmp_path):
    path = made(tmp_path, 'S3, CSV', [Object('a.jpg'), Object('b.jpg')])
    text = gzip.decompress(data_file(path).read_bytes()).replace(b'"b.jpg"', b'"%FF%E9.jpg"')
    data_file(path).write_bytes(gzip.compress(text))
    agree(path)
    good, bad = listed(path)
    assert good.uri == 's3://source/a.jpg'
    assert (bad.reason, bad.detail) == ('bad_name', 'the name is not valid UTF-8')


# --- of buckets that are there


def pictures(bucket):
    # Without those that the S3 server of tests cannot take.
    names = [name for name in NAMES if '..' not in name and '\n' not in name]
    bucket.put('._a.jpg', b'what a Mac keeps beside it')
    return [bucket.put(name, picture(i)) for i, name in enumerate(names)]


def entries_of(bucket):
    return list(store_for(bucket.uri()).list(bucket.uri()))


def s3_objects(bucket):
    client = bucket.client
    return [
        Object(
            each['Key'],
            size=each['Size'],
            version=each['ETag'].strip('"'),
            modified=each['LastModified'],
        )
        for each in client.list_objects_v2(Bucket=bucket.name)['Contents']
    ]


def test_an_inventory_in_s3_is_the_listing_of_its_bucket(s3_bucket):
    pictures(s3_bucket)
    folder = refs(list_input(resolve(s3_bucket.uri(), PLAIN), PLAIN))
    made = s3_inventory(s3_objects(s3_bucket), s3_bucket.name, s3_bucket.name, 'Parquet')
    for name, data in made.items():
        s3_bucket.put(f'{name}', data)
    assert refs(listed(s3_bucket.uri(MANIFEST))) == folder
    assert len(folder) == 3


def gcs_objects(bucket):
    return [
        Object(
            entry.uri.removeprefix(bucket.uri()),
            size=entry.size_bytes,
            version=entry.version,
            md5=entry.checksum.split(':')[1],
        )
        for entry in entries_of(bucket)
    ]


def test_a_report_in_a_bucket_is_its_listing(bucket):
    pictures(bucket)
    folder = refs(list_input(resolve(bucket.uri(), PLAIN), PLAIN))
    for name, data in gcs_report(gcs_objects(bucket), bucket.name).items():
        bucket.put(name, data)
    assert refs(listed(bucket.uri(REPORT))) == folder
    assert len(folder) == 3


def test_what_is_gone_or_changed_since_is_found_out_when_it_is_read(
    bucket, tmp_path, stand_in_model
):
    uris = pictures(bucket)
    objects = gcs_objects(bucket)
    write(tmp_path / 'report', gcs_report([*objects, Object('gone.jpg')], bucket.name))
    changed = bucket.put(NAMES[0], picture(77))
    arguments = ['--input', str(tmp_path / 'report' / REPORT), '--output', str(tmp_path / 'out')]
    report = app.label(*arguments, '--max_failure_rate', '1')
    assert report['balanced']
    assert report['counts']['labeled'] == 3
    (dead,) = app.rows(tmp_path / 'out', 'dead_letters')
    assert (dead['uri'], dead['reason']) == (bucket.uri('gone.jpg'), 'not_found')
    rows = {row['uri']: row['object_version'] for row in app.rows(tmp_path / 'out', 'predictions')}
    now = {entry.uri: entry.version for entry in entries_of(bucket) if entry.uri in uris}
    assert changed in uris
    assert rows == now
    again = app.label(*arguments, '--max_failure_rate', '1')
    assert again['counts']['unchanged'] == 2, 'the inventory still has the older version'


def test_it_is_known_which_images_have_the_same_bytes(tmp_path):
    path = made(tmp_path, 'S3, CSV', [Object('a.jpg')])
    assert resolve(path, PLAIN).may_tell_bytes


def test_the_name_of_a_field_is_known_however_it_is_spelt():
    assert inventory.plain('LastModifiedDate') == inventory.plain(' last_modified_date')
