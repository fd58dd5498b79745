"""Inventories: what a store writes down of a bucket once a day or week, instead of a listing.

S3 Inventory, and the inventory reports of Google Cloud's Storage Insights.  A `manifest.json` names
files of rows, one an object.  It lists what the bucket held then: what has been deleted or written
since is found out when it is read, as for any listing.
"""

import hashlib
import json
import logging
import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core import uris
from transforms.core.errors import ManifestError, UsageError
from transforms.core.left_out import NOT_IMAGE
from transforms.core.reasons import Reason
from transforms.core.suffixes import IMAGE_SUFFIXES
from transforms.core.waiting import alive
from transforms.sources.inventory_files import DataFile, Form, columns_of, plain, read_rows
from transforms.storage.base import Entry, Store

_LOGGER = logging.getLogger(__name__)
_HEAD_BYTES = 64 * 2**10
_MOST_BYTES = 256 * 2**20
_THREADS = 16
_MD5 = re.compile('[0-9a-f]{32}')
_ARN = 'arn:aws:s3:::'


class _Kind(NamedTuple):
    """The columns of a kind of inventory, by their `plain` names."""

    shown: str
    scheme: str
    name: str
    version: str
    size: str
    modified: str
    md5: str
    encoding: str


_S3 = _Kind('S3 Inventory', 's3', 'key', 'etag', 'size', 'lastmodifieddate', 'etag', '')
_GCS = _Kind(
    'Storage Insights',
    'gs',
    *('name', 'generation', 'size', 'timecreated', 'md5hash', 'contentencoding'),
)
_FIELDS = {
    'etag': 'ETag',
    'size': 'Size',
    'lastmodifieddate': 'LastModifiedDate',
    'generation': 'generation',
    'timecreated': 'timeCreated',
    'islatest': 'IsLatest',
    'bucket': 'bucket',
    'key': 'Key',
    'name': 'name',
}


class Inventory(NamedTuple):
    """What a manifest tells.

    Attributes:
      uri: of the manifest.
      kind: whose it is.
      bucket: of which it is; '' if it does not tell.
      files: of its rows.
      form: how they are written.
      columns: of the files, by their `plain` names, as they spell them.
      rows: how many there are in all; -1 if it does not tell.
    """

    uri: str
    kind: _Kind
    bucket: str
    files: tuple[DataFile, ...]
    form: Form
    columns: Mapping[str, str]
    rows: int


def is_inventory(uri: str, store: Store) -> bool:
    """Whether a `.json` is the manifest of an inventory, and not of lines."""
    if not uri.lower().endswith('.json'):
        return False
    with store.open(uri) as stream:
        head = stream.read(_HEAD_BYTES)
        if not any(all(each in head for each in names) for names in _MARKS):
            return False
        data = head + stream.read(_MOST_BYTES)
    try:
        found = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and ('files' in found or _SHARDS in found)


_SHARDS = 'report_shards_file_names'
_MARKS = (
    (b'"sourceBucket"', b'"fileFormat"'),
    (f'"{_SHARDS}"'.encode(),),
    (b'"report_config"', b'"snapshot_time"'),
)


def read_manifest(uri: str, store: Store) -> Inventory:
    """Reads the manifest of an inventory, and looks for its files.

    Raises:
      UsageError: its format is not read, or a field is lacking.
      ManifestError: the manifest or a file is damaged, or not there.
    """
    with store.open(uri) as stream:
        data = stream.read(_MOST_BYTES)
    shown = uris.printable(uri)
    try:
        found = json.loads(data)
        read = _read_gcs if _SHARDS in found else _read_s3
        inventory = read(uri, store, data, found)
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise ManifestError(
            f'{shown}: damaged, or not the manifest of an inventory as S3 or Storage Insights '
            f'write it ({type(e).__name__})'
        ) from e
    _look_for(inventory, store)
    if inventory.files:
        names = columns_of(store, inventory.files[0], inventory.form)
        inventory = inventory._replace(columns={plain(name): name for name in names})
    _check_columns(inventory)
    return inventory


def _read_s3(uri: str, store: Store, data: bytes, found: Mapping[str, Any]) -> Inventory:
    _check_manifest(uri, store, data)
    kind = found['fileFormat'].upper()
    if kind not in ('CSV', 'PARQUET'):
        raise UsageError(
            f'{uris.printable(uri)}: an inventory in {uris.printable(found["fileFormat"])}: have '
            'it written in Parquet or CSV'
        )
    form = Form(kind == 'PARQUET')
    if not form.is_parquet:
        form = form._replace(columns=tuple(map(str.strip, found['fileSchema'].split(','))))
    bucket = found.get('destinationBucket', '').removeprefix(_ARN)
    keys = [str(each['key']) for each in found['files']]
    if uri.startswith(f's3://{bucket}/'):
        places = [f's3://{bucket}/{key}' for key in keys]
    else:  # a copy: as they lay, or all in the folder of the manifest
        names = [key.rpartition('/')[2] for key in keys]
        folder = uris.folder_of(uri)
        beside = uris.join(uris.folder_of(folder), 'data')
        if names and store.stat(uris.join(beside, names[0])) is not None:
            folder = beside
        places = [uris.join(folder, name) for name in names]
    files = [
        DataFile(place, int(each.get('size', -1)), each.get('MD5checksum', '').lower())
        for place, each in zip(places, found['files'], strict=True)
    ]
    return Inventory(uri, _S3, found['sourceBucket'], tuple(files), form, {}, -1)


def _read_gcs(uri: str, store: Store, data: bytes, found: Mapping[str, Any]) -> Inventory:
    del store, data  # nothing is said of its bytes
    names = [str(name).rpartition('/')[2] for name in found[_SHARDS]]
    if found.get('shard_count', len(names)) != len(names):
        raise ManifestError(
            f'{uris.printable(uri)}: {found["shard_count"]} shards, but {len(names)} are named'
        )
    config = found.get('report_config', {})
    text = config.get('csv_options') or {}
    form = Form(names[:1] != [] and names[0].lower().endswith('.parquet'))
    if not form.is_parquet:
        form = form._replace(delimiter=text.get('delimiter') or ',')
        options = config.get('object_metadata_report_options', {})
        if text and not text.get('header_required', False):
            form = form._replace(columns=tuple(options['metadata_fields']))
    filters = config.get('object_metadata_report_options', {}).get('storage_filters', {})
    folder = uris.folder_of(uri)
    files = tuple(DataFile(uris.join(folder, name), -1, '') for name in names)
    rows = int(found.get('records_processed', -1))
    return Inventory(uri, _GCS, filters.get('bucket', ''), files, form, {}, rows)


def _check_manifest(uri: str, store: Store, data: bytes) -> None:
    """Holds a manifest against the checksum beside it, if that was copied, too."""
    beside = uris.join(uris.folder_of(uri), 'manifest.checksum')
    expected = store.read(beside) if uri.endswith('/manifest.json') else None
    actual = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if expected is not None and expected.decode('ascii', 'replace').strip().lower() != actual:
        raise ManifestError(
            f'{uris.printable(uri)}: its MD5 is {actual}, its manifest.checksum says otherwise: is '
            'one of them of another day?'
        )


def _look_for(inventory: Inventory, store: Store) -> None:
    """Looks whether all files are there, before the first one is read."""
    shown = uris.printable(inventory.uri)
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, found in zip(
            inventory.files,
            pool.map(lambda file: store.stat(file.uri), inventory.files),
            strict=True,
        ):
            alive()
            where = uris.printable(file.uri)
            if found is None:
                raise ManifestError(
                    f'{shown}: {where}, one of the {len(inventory.files)} files of this inventory, '
                    'is not there; take an inventory that is whole'
                )
            if file.size_bytes not in (-1, found.size_bytes):
                raise ManifestError(
                    f'{where}: {found.size_bytes:,} bytes, the inventory says '
                    f'{file.size_bytes:,}; what it lists is not known'
                )


def _check_columns(inventory: Inventory) -> None:
    if not inventory.files:
        return
    kind, columns = inventory.kind, inventory.columns
    shown = uris.printable(inventory.uri)
    needed = ['bucket', kind.name]
    if 'versionid' in columns:
        needed.append('islatest')  # or which version is it?
    for column in needed:
        if column not in columns:
            raise UsageError(
                f'{shown}: the inventory has no field {_FIELDS[column]}, without which it does not '
                'tell what there is; it has '
                f'{", ".join(uris.printable(each) for each in columns.values()) or "none"}'
            )


def tell_lacking(inventory: Inventory) -> None:
    """Says what an inventory does not tell that a listing would, and what that costs."""
    kind, columns = inventory.kind, inventory.columns
    costs = {
        kind.version: 'images that have not changed are asked for one by one in later runs',
        kind.size: 'sizes are known only when images are read',
    }
    for column, cost in costs.items():
        if inventory.files and column not in columns:
            _LOGGER.warning(
                '%s: the inventory has no field %s, so that %s: add it where the inventory is '
                'set up',
                uris.printable(inventory.uri),
                _FIELDS[column],
                cost,
            )


def list_objects(inventory: Inventory, store: Store, has_times: bool) -> Iterator[Entry | str]:
    """Yields the images of an inventory, in the order of its files.

    A string stands for an object that is no image, 'skipped_not_image/<suffix>'.  Versions that are
    not the newest, delete markers and markers of folders are passed over, as in a listing.

    Args:
      inventory: of `read_manifest`.
      store: where it is.
      has_times: whether it is needed when objects were written.

    Raises:
      UsageError: no times are told.
      ManifestError: a file is damaged, or of another inventory.
    """
    kind = inventory.kind
    if has_times and inventory.files and kind.modified not in inventory.columns:
        raise UsageError(
            f'--since: {uris.printable(inventory.uri)} has no field {_FIELDS[kind.modified]}: add '
            'it where the inventory is set up, or leave --since out'
        )
    wanted = {'bucket', kind.name, kind.version, kind.size, kind.md5, kind.encoding}
    wanted |= {'islatest', 'isdeletemarker', 'timedeleted'}
    if has_times:
        wanted.add(kind.modified)
    columns = [name for known, name in inventory.columns.items() if known in wanted]
    rows = 0
    for file in inventory.files:
        for batch in read_rows(store, file, inventory.form, columns):
            rows += len(batch)
            names = [plain(name) for name in batch.schema.names]
            yield from _entries(inventory, file, batch.rename_columns(names))
    if inventory.rows not in (-1, rows):
        raise ManifestError(
            f'{uris.printable(inventory.uri)}: {rows:,} records in its files, but it says '
            f'{inventory.rows:,}; what is missing is not known'
        )


def _entries(inventory: Inventory, file: DataFile, batch: pa.RecordBatch) -> Iterator[Entry | str]:
    if not len(batch):
        return
    kind = inventory.kind
    try:
        root = f'{kind.scheme}://{_bucket_of(inventory, file, batch)}/'
        rows = _rows(inventory, batch.filter(_is_current(batch)))
    except (pa.ArrowException, ValueError) as e:
        what = uris.printable(str(e))
        raise ManifestError(f'{uris.printable(file.uri)}: a row that cannot be read: {what}') from e
    for name, version, size, modified_at, md5, encoding in rows:
        if name.endswith('/'):
            continue
        uri = root + name
        suffix = uris.suffix_of(uri)
        if suffix not in IMAGE_SUFFIXES:
            yield f'{NOT_IMAGE}/{suffix}'
            continue
        known = version.strip('"')
        if not name.isascii() and _is_broken(name):
            what = 'the name is not valid UTF-8'
            yield Entry(uris.printable(uri), known, size, Reason.BAD_NAME.value, what, modified_at)
            continue
        yield Entry(uri, known, size, '', '', modified_at, _checksum(kind, md5, encoding))


def _bucket_of(inventory: Inventory, file: DataFile, batch: pa.RecordBatch) -> str:
    buckets = pc.unique(batch['bucket']).to_pylist()
    expected = inventory.bucket or str(buckets[0])
    if buckets != [expected]:
        other = next(str(each) for each in buckets if each != expected)
        raise ManifestError(
            f'{uris.printable(file.uri)}: a row of the bucket {uris.printable(other)}, but the '
            f'inventory is of {uris.printable(expected)}'
        )
    return expected


def _rows(inventory: Inventory, batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Of each row name, version, size, time, MD5 and encoding, as far as they are told."""
    kind = inventory.kind
    text = pa.string()
    versions = _column(batch, kind.version, text, '')
    return zip(
        _names(batch[kind.name], is_quoted=kind is _S3 and not inventory.form.is_parquet),
        versions,
        _column(batch, kind.size, pa.int64(), -1),
        _times(batch, kind.modified),
        versions if kind.md5 == kind.version else _column(batch, kind.md5, text, ''),
        _column(batch, kind.encoding, text, '' if kind.encoding in batch.schema.names else None),
        strict=True,
    )


def _is_current(batch: pa.RecordBatch) -> pa.Array:
    """Which rows are objects that a listing has."""
    found = pa.array([True] * len(batch))
    if 'islatest' in batch.schema.names:
        found = pc.and_(found, _is_true(batch['islatest'], True))
    if 'isdeletemarker' in batch.schema.names:
        found = pc.and_(found, pc.invert(_is_true(batch['isdeletemarker'], False)))
    if 'timedeleted' in batch.schema.names:
        deleted = batch['timedeleted']
        is_there = pc.is_null(deleted)
        if pa.types.is_string(deleted.type):
            is_there = pc.or_(is_there, pc.equal(deleted, ''))
        found = pc.and_(found, pc.fill_null(is_there, True))
    return found


def _is_true(column: pa.Array, default: bool) -> pa.Array:
    if pa.types.is_boolean(column.type):
        return pc.fill_null(column, default)
    text = pc.utf8_lower(pc.cast(column, pa.string()))
    return pc.fill_null(pc.if_else(pc.equal(text, ''), default, pc.equal(text, 'true')), default)


def _names(column: pa.Array, is_quoted: bool) -> list[str]:
    names: list[str] = pc.cast(column, pa.string()).to_pylist()
    if None in names:
        raise ValueError('no name')
    if not is_quoted:
        return names
    unquote = urllib.parse.unquote_plus
    return [
        unquote(name, errors='surrogateescape') if '%' in name or '+' in name else name
        for name in names
    ]


def _column(rows: pa.RecordBatch, name: str, kind: pa.DataType, default: object) -> list[Any]:
    """The values of a column; the default where there is none."""
    if name not in rows.schema.names:
        return [default] * len(rows)
    column = rows[name]
    if pa.types.is_string(column.type) and pa.types.is_integer(kind):
        column = pc.if_else(pc.equal(column, ''), None, column)
    found: list[Any] = pc.fill_null(pc.cast(column, kind), default).to_pylist()
    return found


def _times(rows: pa.RecordBatch, name: str) -> list[float]:
    """Seconds since 1970."""
    if name not in rows.schema.names:
        return [math.nan] * len(rows)
    column = rows[name]
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ''), None, column)
    usec = pc.cast(pc.cast(column, pa.timestamp('us', 'UTC')), pa.int64())
    return [math.nan if each is None else each / 1e6 for each in usec.to_pylist()]


def _checksum(kind: _Kind, md5: str, encoding: str | None) -> str:
    """As the listing of a store tells which objects have the same bytes."""
    if kind is _S3:
        version = md5.strip('"')
        return f's3:{version}' if _MD5.fullmatch(version) else ''
    return f'gs:{md5}:{encoding}' if md5 and encoding is not None else ''


def _is_broken(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False
