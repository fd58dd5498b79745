"""From the value of --input to an input, and whether there is anything in it."""

import collections
import functools
import re
from concurrent.futures import ThreadPoolExecutor

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.stores import DEFAULT_OPTIONS, StoreOptions
from transforms.core.waiting import LEAST_DEADLINE_SEC, within
from transforms.sources import manifest
from transforms.sources.globs import WILDCARD, expand_braces, literal_head
from transforms.sources.inputs import Columns, Input, Kind, Listing
from transforms.sources.listing import (
    BEFORE_SINCE,
    LONGER,
    SOURCES,
    list_input,
    manifests_of,
)
from transforms.storage.base import Store
from transforms.storage.registry import store_for

_THREADS = 16
_ONE_SLASH = re.compile(r'(gs|s3):/(?!/)')
# What people have lists or many images in, and would be taken for one image that fails.
_NO_IMAGES = frozenset(
    '.7z .arrow .avro .bz2 .db .feather .gz .h5 .hdf5 .npy .npz .ods .orc .pdf .pkl .rar .sqlite '
    '.tar .tfrecord .tgz .xls .xlsx .xml .xz .yaml .yml .zip .zst'.split()
)


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
    found = within(deadline_sec, shown, lambda: _resolve(uri, store), LONGER)
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
    elif columns.carry:
        raise UsageError(
            f'--carry or --partition_by {columns.carry[0]}: --input {value!r} is a {found.kind} '
            'without columns; '
            'carried columns come from a manifest (.csv, .tsv, .jsonl or .parquet)'
        )
    return found


def _meant(value: str) -> str:
    """What may have been meant by a name that is not there."""
    if value.startswith('~'):
        return '; the shell expands ~ only outside quotes'
    if match := _ONE_SLASH.match(value):
        return f'; did you mean {match[1]}://{uris.printable(value[match.end() :])}?'
    return ''


def _resolve(uri: str, store: Store) -> Input | None:
    if store.stat(uri) is not None:
        if manifest.is_manifest(uri):
            return Input(Kind.MANIFEST, uri, '')
        if uris.suffix_of(uri) in _NO_IMAGES:
            lists = ', '.join(manifest.KINDS)
            shown = uris.printable(uri)
            raise UsageError(f'--input {shown!r}: neither an image nor a list of images ({lists})')
        return Input(Kind.FILE, uri, '')
    if store.is_folder(uri.rstrip('/') or '/'):
        return Input(Kind.FOLDER, uri.rstrip('/') or '/', '')
    if WILDCARD.search(uri) or len(expand_braces(uri)) > 1:
        folder = uris.folder_of(literal_head(uri))
        if store.is_folder(folder):
            return Input(Kind.MANIFESTS if manifest.is_manifest(uri) else Kind.GLOB, folder, uri)
    return None


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
