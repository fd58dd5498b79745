"""Inventories in the form in which S3 and Storage Insights document them."""

import csv
import dataclasses
import datetime
import gzip
import hashlib
import io
import json
import urllib.parse
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ETAG = 'acbd18db4cc2f85cedef654fccc4a4d8'
MD5 = 'rL0Y20zC+Fzt72VPzMSk2A=='
WRITTEN = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, datetime.UTC)
S3_FIELDS = (
    *('Bucket', 'Key', 'VersionId', 'IsLatest', 'IsDeleteMarker', 'Size', 'LastModifiedDate'),
    *('ETag', 'StorageClass', 'IsMultipartUploaded'),
)
GCS_FIELDS = (
    *('project', 'bucket', 'name', 'size', 'timeCreated', 'storageClass', 'md5Hash'),
    *('generation', 'contentType', 'contentEncoding'),
)
_S3_PARQUET = {
    'Bucket': ('bucket', pa.string()),
    'Key': ('key', pa.string()),
    'VersionId': ('version_id', pa.string()),
    'IsLatest': ('is_latest', pa.bool_()),
    'IsDeleteMarker': ('is_delete_marker', pa.bool_()),
    'Size': ('size', pa.int64()),
    'LastModifiedDate': ('last_modified_date', pa.timestamp('ms', 'UTC')),
    'ETag': ('e_tag', pa.string()),
    'StorageClass': ('storage_class', pa.string()),
    'IsMultipartUploaded': ('is_multipart_uploaded', pa.bool_()),
}
_GCS_PARQUET = {
    name: {'size': pa.int64(), 'generation': pa.int64(), 'timeCreated': pa.timestamp('us', 'UTC')}
    .get(name, pa.string())
    for name in GCS_FIELDS
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Object:
    """What an inventory tells of an object; `version` is the ETag or the generation."""

    name: str
    size: int = 123
    version: str = ''
    is_latest: bool = True
    is_marker: bool = False
    md5: str = MD5
    modified: datetime.datetime = WRITTEN

    def s3(self, bucket: str) -> dict[str, Any]:
        """By the names of its fields; of a delete marker there are neither size nor ETag."""
        return {
            'Bucket': bucket,
            'Key': self.name,
            'VersionId': 'v1',
            'IsLatest': self.is_latest,
            'IsDeleteMarker': self.is_marker,
            'Size': None if self.is_marker else self.size,
            'LastModifiedDate': self.modified,
            'ETag': None if self.is_marker else self.version or ETAG,
            'StorageClass': 'STANDARD',
            'IsMultipartUploaded': False,
        }

    def gcs(self, bucket: str) -> dict[str, Any]:
        """By the names of its fields."""
        return {
            'project': '12345',
            'bucket': bucket,
            'name': self.name,
            'size': self.size,
            'timeCreated': self.modified,
            'storageClass': 'STANDARD',
            'md5Hash': self.md5,
            'generation': int(self.version or 1790000000000000),
            'contentType': 'image/jpeg',
            'contentEncoding': '',
        }


Files = dict[str, bytes]
MANIFEST = 'source/daily/2026-01-03T01-00Z/manifest.json'
"""Of an inventory of S3, in its bucket."""


def s3_inventory(
    objects: Sequence[Object],
    bucket: str = 'source',
    destination: str = 'inventories',
    kind: str = 'CSV',
    fields: Sequence[str] = S3_FIELDS,
    files: int = 2,
) -> Files:
    """Files by their names in the bucket of inventories; `MANIFEST` is the manifest."""
    made: Files = {}
    told = []
    for number in range(files):
        rows = [each.s3(bucket) for each in objects[number::files]]
        if kind == 'CSV':
            name = f'source/daily/data/{number}-f00d.csv.gz'
            made[name] = gzip.compress(_s3_csv(rows, fields))
        else:
            name = f'source/daily/data/{number}-f00d.parquet'
            made[name] = _parquet(rows, dict(_S3_PARQUET[field] for field in fields), fields)
        md5 = hashlib.md5(made[name]).hexdigest()
        told.append({'key': name, 'size': len(made[name]), 'MD5checksum': md5})
    schema = ', '.join(fields) if kind == 'CSV' else 'message s3.inventory { }'
    manifest = {
        'sourceBucket': bucket,
        'destinationBucket': f'arn:aws:s3:::{destination}',
        'version': '2016-11-30',
        'creationTimestamp': '1767402000000',
        'fileFormat': kind,
        'fileSchema': schema,
        'files': told,
    }
    made[MANIFEST] = json.dumps(manifest, indent=2).encode()
    checksum = hashlib.md5(made[MANIFEST]).hexdigest()
    made[f'{MANIFEST.rpartition("/")[0]}/manifest.checksum'] = checksum.encode()
    return made


REPORT = 'reports/f00d-beef_2026-01-03T01:00_manifest.json'
"""The manifest of a report of Storage Insights, in its bucket."""


def gcs_report(
    objects: Sequence[Object],
    bucket: str = 'source',
    kind: str = 'CSV',
    fields: Sequence[str] = GCS_FIELDS,
    files: int = 2,
    has_header: bool = True,
    delimiter: str = ',',
) -> Files:
    """Files by their names in the bucket of reports; `REPORT` is the manifest."""
    made: Files = {}
    head = REPORT.removesuffix('_manifest.json')
    for number in range(files):
        rows = [each.gcs(bucket) for each in objects[number::files]]
        if kind == 'CSV':
            made[f'{head}_{number}.csv'] = _gcs_csv(rows, fields, has_header, delimiter)
        else:
            made[f'{head}_{number}.parquet'] = _parquet(
                rows, {field: _GCS_PARQUET[field] for field in fields}, fields
            )
    options = {
        'metadata_fields': list(fields),
        'storage_filters': {'bucket': bucket},
        'storage_destination_options': {'bucket': 'inventories', 'destination_path': 'reports'},
    }
    written: dict[str, Any] = {'parquet_options': {}}
    if kind == 'CSV':
        text = {'delimiter': delimiter, 'header_required': has_header, 'record_separator': '\n'}
        written = {'csv_options': text}
    manifest = {
        'report_config': {'object_metadata_report_options': options, **written},
        'records_processed': len(objects),
        'snapshot_time': '2026-01-03T00:00:00Z',
        'shard_count': files,
        'report_shards_file_names': [name.rpartition('/')[2] for name in made],
    }
    made[REPORT] = json.dumps(manifest).encode()
    return made


def _s3_csv(rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator='\n')
    for row in rows:
        row['Key'] = urllib.parse.quote_plus(row['Key'], safe='/*')
        writer.writerow([_s3_text(row[field]) for field in fields])
    return text.getvalue().encode()


def _s3_text(value: object) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec='milliseconds').replace('+00:00', 'Z')
    return str(value).lower() if isinstance(value, bool) else '' if value is None else str(value)


def _gcs_csv(
    rows: Sequence[dict[str, Any]], fields: Sequence[str], has_header: bool, delimiter: str
) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator='\n')
    if has_header:
        writer.writerow(fields)
    for row in rows:
        writer.writerow([_s3_text(row[field]) for field in fields])
    return text.getvalue().encode()


def _parquet(
    rows: Sequence[dict[str, Any]], columns: dict[str, pa.DataType], fields: Sequence[str]
) -> bytes:
    arrays = [
        pa.array([row[field] for row in rows], kind)
        for field, kind in zip(fields, columns.values(), strict=True)
    ]
    data = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(columns)), data)
    return data.getvalue()
