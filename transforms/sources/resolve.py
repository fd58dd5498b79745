"""From the value of --input to an input, and whether there is anything in it."""

import collections
import functools
import re
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core import members, uris
from transforms.core.errors import UsageError
from transforms.core.left_out import BEFORE_SINCE
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC, within
from transforms.sources import inventory, manifest
from transforms.sources.globs import WILDCARD, expand_braces, literal_head
from transforms.sources.inputs import Columns, Input, Kind, Listing
from transforms.sources.listing import (
    LONGER,
    SOURCES,
    list_input,
    manifests_of,
)
from transforms.sources.matching import matching
from transforms.storage.base import Entry, Store
from transforms.storage.registry import store_for

_THREADS = 16
_ONE_SLASH = re.compile(r'(gs|s3|az|abfss):/(?!/)')
_RANGE = re.compile(r'\{[^{},/]+\.\.[^{},/]+\}')
# What people have lists or many images in, and would be taken for one image that fails.
_NO_IMAGES = frozenset(
    '.7z .avro .bz2 .db .gz .h5 .hdf5 .npy .npz .ods .orc .pdf .pkl .rar .sqlite .xls .xlsx .xml '
    '.xz .yaml .yml .zst'.split()
)
_HOLDERS = ', '.join(members.SUFFIXES)


def resolve(
    value: str,
    columns: Columns,
    stores: StoreOptions = DEFAULT_OPTIONS,
    deadline_sec: float = LEAST_DEADLINE_SEC,
) -> Input:
    """Finds out what an --input is; a name that exists is taken literally, not as a glob.

    Checks the columns of a manifest, so that a missing one is found before the run starts.

    Args:
      value: of --input.
      columns: what is read of manifests.
      stores: how it is reached.
      deadline_sec: see `Input`.

    Raises:
      UsageError: there is no such file, folder or prefix, or it cannot give the carried columns.
      StoreError: no answer within the deadline.
      ManifestError: it is a broken manifest.
    """
    try:
        uri = uris.absolute(value)
    except UsageError as e:
        raise UsageError(f'--input {e}') from e
    store = store_for(uri, stores)
    shown = uris.printable(value)
    found = within(deadline_sec, shown, lambda: _resolve(uri, store, columns), LONGER)
    if found is None:
        raise UsageError(f'--input {shown!r}: no such file, folder or prefix{_meant(value)}')
    found = found._replace(stores=stores, deadline_sec=deadline_sec)
    if found.kind.has_columns:
        with ThreadPoolExecutor(_THREADS) as pool:
            check = functools.partial(
                manifest.check_columns,
                uri_column=columns.uri,
                carry=columns.carry,
                stores=stores,
                deadline_sec=deadline_sec,
            )
            collections.deque(pool.map(check, manifests_of(found)), maxlen=0)
    elif columns.carry and not found.kind.is_of_containers:
        raise UsageError(
            f'--carry or --partition_by {columns.carry[0]}: --input {value!r} is '
            f'{found.kind.shown} without columns; carried columns come from a manifest (.csv, '
            '.tsv, .jsonl or '
            f'.parquet), or from files with images inside ({_HOLDERS})'
        )
    return found


def _meant(value: str) -> str:
    """What may have been meant by a name that is not there."""
    if value.startswith('~'):
        return '; the shell expands ~ only outside quotes'
    for found in _RANGE.findall(value):
        if not WILDCARD.search(found):
            return f'; {found} is no glob, as {{000..127}}, [0-9] and * are'
    if members.split(value):
        return '; name an image inside a file in a line of a manifest, or the whole file here'
    if match := _ONE_SLASH.match(value):
        return f'; did you mean {match[1]}://{uris.printable(value[match.end() :])}?'
    return ''


def _resolve(uri: str, store: Store, columns: Columns) -> Input | None:
    if store.stat(uri) is not None:
        if members.is_container(uri) and not _lists_uris(uri, store, columns):
            return Input(Kind.CONTAINER, uri, '')
        if inventory.is_inventory(uri, store):
            inventory.tell_lacking(inventory.read_manifest(uri, store))
            return Input(Kind.INVENTORY, uri, '')
        if manifest.is_manifest(uri):
            return Input(Kind.MANIFEST, uri, '')
        if uris.suffix_of(uri) in _NO_IMAGES:
            lists = ', '.join(manifest.KINDS)
            shown = uris.printable(uri)
            raise UsageError(
                f'--input {shown!r}: neither an image nor a list of images ({lists}) nor a file '
                f'with images inside ({_HOLDERS})'
            )
        return Input(Kind.FILE, uri, '')
    if store.is_folder(uri.rstrip('/') or '/'):
        return Input(Kind.FOLDER, uri.rstrip('/') or '/', '')
    if WILDCARD.search(uri) or len(expand_braces(uri)) > 1:
        folder = uris.folder_of(literal_head(uri))
        if store.is_folder(folder):
            return _resolve_glob(Input(Kind.GLOB, folder, uri), store, columns)
    return None


def _resolve_glob(source: Input, store: Store, columns: Columns) -> Input:
    """What matches a glob is what the suffix of the glob says; of tables the first one tells."""
    patterns = expand_braces(source.pattern)
    if all(map(members.is_container, patterns)):
        first = next((each for each in matching(source, store) if isinstance(each, Entry)), None)
        if first is None or not _lists_uris(first.uri, store, columns):
            return source._replace(kind=Kind.CONTAINERS)
    if all(map(manifest.is_manifest, patterns)):
        return source._replace(kind=Kind.MANIFESTS)
    return source


def _lists_uris(uri: str, store: Store, columns: Columns) -> bool:
    """Whether a file that may hold pictures is a manifest: a table with the column of URIs."""
    if columns.image or not manifest.is_manifest(uri):
        return False
    with store.open(uri) as file:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError):
            return True  # a broken manifest, which is told as such
    return columns.uri in schema.names or not any(_holds_pictures(each.type) for each in schema)


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(each.name == 'bytes' and _holds_pictures(each.type) for each in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def check_not_empty(source: Input, listing: Listing) -> None:
    """Lists an input until something is found in it.

    Raises:
      UsageError: there is nothing.
    """
    left_out: collections.Counter[str] = collections.Counter()
    for ref in list_input(source, listing.columns, listing.since, listing.is_remote):
        if not isinstance(ref, str) or ref == BEFORE_SINCE:
            return
        left_out[ref] += 1
    what = SOURCES[source.kind].why_empty(source, left_out)
    raise UsageError(f'--input {source.shown}: {what} (--allow_empty runs anyway)')
