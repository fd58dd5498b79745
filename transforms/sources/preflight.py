"""What must work before images are blamed: list one, read one, write and delete one.

The launcher does this, and each worker, which may run elsewhere, under another account.
"""

import itertools
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

from transforms.core import uris
from transforms.core.elements import Ref
from transforms.core.errors import ImageError, StoreError
from transforms.core.reasons import Reason
from transforms.core.resources import LIVE, shared
from transforms.core.stores import StoreOptions
from transforms.output.layout import Layout
from transforms.sources.inputs import Columns, Input
from transforms.sources.listing import list_input
from transforms.storage.base import FetchLimits
from transforms.storage.registry import lacks_credentials, place_of, store_for, told_anonymous

_LOGGER = logging.getLogger(__name__)
_TRIED = 3
_SPREAD = 50
_LISTED = 1000
_DEADLINE_SEC = 20.0
_GRACE_SEC = 2.0
_SYSTEMIC = {Reason.FORBIDDEN, *(reason for reason in Reason if reason.about.of_store)}
# Each host of the web stands for itself alone.
_MANY_STORES = ('http', 'https')


class Preflight(NamedTuple):
    """What is tried.

    Attributes:
      inputs: one image of each is read.
      columns: what is read of manifests.
      limits: of one fetch.
      layout: the output, where something is written.
      is_remote: whether local paths in manifests are bad lines.
    """

    inputs: tuple[Input, ...]
    columns: Columns
    limits: FetchLimits
    layout: Layout
    is_remote: bool = False


def check(preflight: Preflight) -> bool:
    """Tries every input and the output; once a process with `transforms.core.resources.shared`.

    Returns:
      True.

    Raises:
      StoreError: something cannot be listed, read, written or deleted.
      UsageError: a bucket does not exist.
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
      UsageError: the bucket does not exist.
    """
    probe = uris.join(folder, f'probe-{uuid.uuid4().hex[:12]}')
    store = store_for(probe, stores)
    store.write(probe, b'')
    store.delete(probe)


def _read_one(source: Input, preflight: Preflight) -> None:
    """Reads one image: the first, or others if that fails, which may be its own fault."""
    found = list_input(source, preflight.columns, is_remote=preflight.is_remote)
    listed = itertools.islice(found, _LISTED)
    refs = (ref for ref in listed if isinstance(ref, Ref) and not ref.reason)
    good = (ref for ref in refs if uris.scheme_of(ref.uri) not in _MANY_STORES)
    limits = preflight.limits
    limits = limits._replace(deadline_sec=min(limits.deadline_sec, _DEADLINE_SEC))
    failed: list[ImageError] = []
    for ref in itertools.chain(itertools.islice(good, _TRIED), _spread(good)):
        try:
            _read(ref.uri, source, limits)
        except ImageError as e:
            if e.reason in _SYSTEMIC and not e.is_its_own:
                failed.append(e)
                uri = ref.uri
                # Whoever refuses does so at once; of a store that is down three are enough.
                if sum(each.reason is not Reason.FORBIDDEN for each in failed) == _TRIED:
                    break
                continue
        return
    if failed:
        more = len(failed) - 1
        others = f', nor can {more} others of the first {_LISTED:,} listed' if more else ''
        raise StoreError(
            f'{uri} cannot be read{others}: {failed[-1]}; nothing was labelled '
            '(--fail_fast_after 0 continues anyway)'
        ) from failed[-1]


def _read(uri: str, source: Input, limits: FetchLimits) -> None:
    """Reads an image; in a thread, as one that is stuck in the system cannot be ended."""
    read: Future[object] = Future()

    def run() -> None:
        try:
            store = store_for(uri, source.stores)
            if lacks_credentials(store):
                shared(_tell, told_anonymous(place_of(uri)))
            read.set_result(store.fetch(uri, limits, lambda _: None))
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits)
            read.set_exception(e)

    threading.Thread(target=run, name='preflight', daemon=True).start()
    LIVE.wait_for(uris.printable(uri))
    try:
        read.result(limits.deadline_sec + _GRACE_SEC)
    except TimeoutError as e:
        if read.done():  # it is what the store raised
            raise
        detail = f'no answer within {limits.deadline_sec:g} s'
        raise ImageError(Reason.DEADLINE, detail) from e
    finally:
        LIVE.wait_for('')


def _tell(text: str) -> None:
    _LOGGER.warning('%s', text)


def _spread(refs: Iterable[Ref]) -> Iterator[Ref]:
    """Some of them, from everywhere: neighbours have more in common than a store."""
    rest = list(refs)
    yield from rest[:: -(-len(rest) // _SPREAD) or 1]
