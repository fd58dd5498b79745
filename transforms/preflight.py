"""What must work before images are blamed: list one, read one, write and delete one.

The launcher does it, and each worker: it may run elsewhere, under another account.
"""

import itertools
import uuid
from typing import NamedTuple

from transforms import uris
from transforms.errors import ImageError, StoreError
from transforms.layout import Layout
from transforms.listing import Columns, Input, list_input
from transforms.rows import FetchLimits, Reason, Ref
from transforms.storage import StoreOptions, store_for

_TRIED = 3
_LISTED = 1000
_DEADLINE_SEC = 20.0
_SYSTEMIC = (Reason.FORBIDDEN, Reason.STORE_ERROR, Reason.DEADLINE)
# Each host of the web stands for itself alone.
_MANY_STORES = ('http', 'https')


class Preflight(NamedTuple):
    """What is tried.

    Attributes:
      inputs: of each of which one image is read.
      columns: what is read of manifests.
      limits: of one fetch.
      layout: where something is written.
      is_remote: whether local paths in manifests are bad lines.
    """

    inputs: tuple[Input, ...]
    columns: Columns
    limits: FetchLimits
    layout: Layout
    is_remote: bool = False


def check(preflight: Preflight) -> bool:
    """Tries every input and the output; once a process with `transforms.process.shared`.

    Returns:
      True.

    Raises:
      StoreError: something cannot be listed, read, written or deleted.
      UsageError: a bucket is not there.
      ManifestError: a manifest is broken.
    """
    for source in preflight.inputs:
        _read_one(source, preflight)
    layout = preflight.layout
    check_writable(layout.uri(layout.work_folder), layout.stores)
    return True


def check_writable(folder: str, stores: StoreOptions) -> None:
    """Writes something into a folder, and deletes it.

    Raises:
      StoreError: either fails.
      UsageError: the bucket is not there.
    """
    probe = uris.join(folder, f'probe-{uuid.uuid4().hex[:12]}')
    store = store_for(probe, stores)
    store.write(probe, b'')
    store.delete(probe)


def _read_one(source: Input, preflight: Preflight) -> None:
    """Reads one of the first images; what is wrong with three of them is not their fault."""
    found = list_input(source, preflight.columns, is_remote=preflight.is_remote)
    listed = itertools.islice(found, _LISTED)
    refs = (ref for ref in listed if isinstance(ref, Ref) and not ref.reason)
    good = (ref for ref in refs if uris.scheme_of(ref.uri) not in _MANY_STORES)
    limits = preflight.limits
    limits = limits._replace(deadline_sec=min(limits.deadline_sec, _DEADLINE_SEC))
    failed: ImageError | None = None
    for ref in itertools.islice(good, _TRIED):
        try:
            store_for(ref.uri, source.stores).fetch(ref.uri, limits, lambda _: None)
        except ImageError as e:
            if e.reason in _SYSTEMIC:
                failed = e
                uri = ref.uri
                continue
        return
    if failed is not None:
        raise StoreError(
            f'{uri} cannot be read, nor what is listed before it: {failed}; nothing was labelled '
            '(--fail_fast_after 0 goes on nonetheless)'
        ) from failed
