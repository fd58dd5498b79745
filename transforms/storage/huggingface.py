"""Datasets of the Hugging Face hub: hf://datasets/owner/name, read only.

huggingface-hub lists them.  Images are read over an HTTP pool of our own, from the commit that was
listed; the hub knows a hash of every file, which is its version and is held against its bytes.
"""

import hashlib
import logging
import os
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import urllib3

from transforms.core import uris
from transforms.core.errors import ImageError, LemmabeamError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, changed
from transforms.storage.http_fetch import (
    NO_SUCH_PART,
    TRIES,
    TransientError,
    Tries,
    heed_retry_after,
    make_pool,
    range_of,
    read_error,
    read_object,
    seconds_left,
)
from transforms.storage.ranges import open_ranges
from transforms.storage.read_only import ReadOnlyStore

_PUBLIC = 'https://huggingface.co'
_ANSWERS = (200, 206)
_MOVED = (301, 302, 303, 307, 308)
_MOST_HOPS = 5
_LISTING_SEC = 60.0
# A link to the bytes of a file is signed for an hour.
_LINK_SEC = 600.0
_MOST_LINKS = 10_000
_LOGIN = 'set HF_TOKEN to a token that may read it (or run `hf auth login`)'
_WRONG = {
    'RepoNotFound': f'no such dataset on the hub, or a private one: {_LOGIN}',
    'GatedRepo': f'a gated dataset: accept its terms on its page on the hub, and {_LOGIN}',
    'RevisionNotFound': 'no such revision of this dataset',
    'DisabledRepo': 'the hub has disabled this dataset',
}


class _File(NamedTuple):
    """A file of a commit.

    Attributes:
      repository: 'owner/name'.
      commit: of 40 digits.
      path: in the repository.
    """

    repository: str
    commit: str
    path: str


class _Link(NamedTuple):
    """Where the bytes of a file are, of which version they are, and until when that holds."""

    url: str
    version: str
    until: float


class HfStore(ReadOnlyStore):
    """Datasets of the hub; see `transforms.storage.base.Store`.  Nothing is written.

    A file's version is its hash: the SHA-256 of large files, git's of others.  What is read is the
    commit that a revision had when its files were listed.

    Args:
      tries: when fetching an image is retried.
      pinned_sec: how long a commit that was listed is read; a listing finds the newest one anew.
      stream_bytes: bytes per request when a file is read as a stream.

    Raises:
      UsageError: huggingface-hub is not installed, or HF_ENDPOINT is no URL.
    """

    def __init__(
        self,
        *,
        tries: Tries = TRIES,
        pinned_sec: float = 24 * 3600.0,
        stream_bytes: int = 8 * 2**20,
    ) -> None:
        try:
            import huggingface_hub
        except ImportError as e:
            raise UsageError("hf:// needs huggingface-hub: pip install 'lemmabeam[hf]'") from e
        super().__init__('hf:// is read only; copy it to another store')
        self.tries = tries
        self._pinned_sec = pinned_sec
        self._stream_bytes = stream_bytes
        self._endpoint = (os.environ.get('HF_ENDPOINT') or _PUBLIC).rstrip('/')
        if not self._endpoint.startswith(('https://', 'http://')):
            raise UsageError('HF_ENDPOINT: expected a URL')
        # Both log signed URLs.
        logging.getLogger('huggingface_hub').setLevel(logging.ERROR)
        logging.getLogger('urllib3.connectionpool').addFilter(_is_unsigned)
        self._token = huggingface_hub.get_token() or ''
        self._hub = huggingface_hub.HfApi(self._endpoint, token=self._token or False)
        self._pool = make_pool(self._endpoint)
        self._lock = threading.Lock()
        self._commits: dict[str, tuple[str, float]] = {}
        self._links: dict[_File, _Link] = {}

    def close(self) -> None:
        """Closes the connections that fetch images."""
        self._pool.clear()

    def stat(self, uri: str) -> Entry | None:
        file = self._file(uri, anew=True)
        if not file.path or file.path.endswith('/'):
            return None
        found = self._ask_hub(
            uri,
            lambda: self._hub.get_paths_info(
                file.repository, [file.path], revision=file.commit, repo_type='dataset'
            ),
        )
        return next((_entry(uri, each) for each in found if hasattr(each, 'blob_id')), None)

    def is_folder(self, uri: str) -> bool:
        file = self._file(uri, anew=True)
        return any(True for _ in self._tree(uri, file, recursive=False)) or not file.path

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,  # noqa: ARG002 (links are not followed there)
        starts_with: str = '',
    ) -> Iterator[Entry]:
        bucket, _ = uris.split_object(folder)
        file = self._file(folder, anew=True)
        for found in self._tree(folder, file, recursive=max_depth != 1):
            alive()  # folders are not given on
            uri = f'hf://{bucket}/{found.path}'
            if hasattr(found, 'blob_id') and uri.startswith(uris.join(folder, starts_with)):
                yield _entry(uri, found)

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        version = ''

        def ask() -> urllib3.BaseHTTPResponse:
            nonlocal version
            version, response = self._request(uri, unless, part)
            return response

        return read_object(
            ask,
            lambda _, data: _check(version, data),
            lambda _: version,
            limits,
            admit,
            tries=self.tries,
            part=part,
        )

    def _request(
        self, uri: str, unless: str, part: Part | None
    ) -> tuple[str, urllib3.BaseHTTPResponse]:
        """Version and answer of a file, which the hub sends itself or has another host send."""
        try:
            file = self._file(uri)
        except _HubError as e:
            raise TransientError(Reason.STORE_ERROR, 'the hub does not tell its commit') from e
        link = self._links.get(file)
        if link is None or link.until < time.monotonic():
            path = urllib.parse.quote(file.path)
            url = f'{self._endpoint}/datasets/{file.repository}/resolve/{file.commit}/{path}'
            link = _Link(url, '', 0.0)
        for _ in range(_MOST_HOPS):
            if link.version and link.version == unless:
                raise NotModified
            if part is not None and link.version not in ('', part.version):
                raise changed(part)
            response = self._get(link.url, part)
            version = link.version or _version(response.headers)
            if response.status not in _MOVED:
                break
            read_error(response)
            url = urllib.parse.urljoin(link.url, response.headers.get('Location', ''))
            if self._endpoint.startswith('https:') and not url.startswith('https:'):
                raise ImageError(Reason.STORE_ERROR, 'a redirect that is not https')
            link = _Link(url, version, time.monotonic() + _LINK_SEC)
        if response.status in _ANSWERS:
            if version == unless:
                response.close()
                raise NotModified
            if link.version:
                self._remember(file, link)
            return version, response
        self._links.pop(file, None)  # signed for less time than was thought
        raise _error_of(uri, response, part, is_link=bool(link.version))

    def _remember(self, file: _File, link: _Link) -> None:
        with self._lock:
            if len(self._links) >= _MOST_LINKS:
                self._links.clear()
            self._links[file] = link

    def _get(self, url: str, part: Part | None) -> urllib3.BaseHTTPResponse:
        headers = {'Accept-Encoding': 'identity', **range_of(part)}
        if self._token and url.startswith(f'{self._endpoint}/'):  # to nobody else
            headers['Authorization'] = f'Bearer {self._token}'
        return self._pool.request(
            'GET',
            url,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=seconds_left(),
        )

    def open(self, uri: str) -> BinaryIO:
        entry = self.stat(uri)
        if entry is None:
            raise UsageError(f'cannot read {uri}: no such file')

        def read(start: int, end: int) -> bytes:
            part = Part(start, end - start, entry.version)
            limits = FetchLimits(end - start, _LISTING_SEC)
            try:
                return self.fetch(uri, limits, lambda _: None, part=part).data
            except ImageError as e:
                raise StoreError(f'{uri}: {e}') from e

        return open_ranges(entry.size_bytes, read, self._stream_bytes)

    def _file(self, uri: str, anew: bool = False) -> _File:
        """The file of a URI at the commit that its revision is."""
        bucket, path = uris.split_object(uri)
        repository, _, revision = bucket.removeprefix('datasets/').partition('@')
        commit, until = self._commits.get(bucket, ('', 0.0))
        if anew or until < time.monotonic():
            revision = urllib.parse.unquote(revision)
            found = self._ask_hub(
                uri,
                lambda: self._hub.dataset_info(
                    repository, revision=revision or 'main', expand=['sha'], timeout=_LISTING_SEC
                ),
            )
            commit = found.sha
            self._commits[bucket] = commit, time.monotonic() + self._pinned_sec
        return _File(repository, commit, path)

    def _tree(self, uri: str, file: _File, recursive: bool) -> Iterator[Any]:
        pages = self._hub.list_repo_tree(
            file.repository,
            file.path.rstrip('/') or None,
            recursive=recursive,
            revision=file.commit,
            repo_type='dataset',
        )
        iterator = iter(pages)
        while True:
            found = self._ask_hub(uri, lambda: next(iterator, None), absent=True)
            if found is None:
                return
            yield found

    def _ask_hub(self, uri: str, request: Callable[[], Any], absent: bool = False) -> Any:
        """Turns what the library raises into an error about the whole store.

        Args:
          uri: what is asked about.
          request: by the library.
          absent: whether a path may not be there; then it gives None.
        """
        try:
            return request()
        except Exception as e:  # its HTTP library has changed twice, and with it what it raises
            status, code = _answer_of(e)
            if absent and status == 404 and code not in _WRONG:
                return None
            raise _explain(uri, e) from e


class _HubError(StoreError):
    """The hub is not there, perhaps for a moment."""


def _entry(uri: str, found: Any) -> Entry:
    version = found.lfs.sha256 if found.lfs else found.blob_id
    return Entry(uri, version, found.size, checksum=f'hf:{version}')


def _version(headers: Any) -> str:
    etag: str = headers.get('X-Linked-Etag') or headers.get('ETag', '')
    return etag.removeprefix('W/').strip('"')


def _check(version: str, data: bytes) -> None:
    """Holds the bytes of a file against its hash."""
    if len(version) == 64:
        actual = hashlib.sha256(data).hexdigest()
    elif len(version) == 40:
        header = b'blob %d\0' % len(data)
        actual = hashlib.sha1(header + data, usedforsecurity=False).hexdigest()
    else:
        return
    if actual != version:
        raise TransientError(Reason.CHECKSUM, f'the hash is {actual}, the hub says {version}')


def _error_of(
    uri: str, response: urllib3.BaseHTTPResponse, part: Part | None, is_link: bool
) -> Exception:
    status = response.status
    read_error(response)
    detail = f'HTTP {status}'
    if part is not None and status in NO_SUCH_PART:
        return changed(part)
    code = response.headers.get('X-Error-Code', '')
    if code in _WRONG:
        return StoreError(f'hf://{uris.split_object(uri)[0]}: {_WRONG[code]}')
    if status in (408, 429) or status >= 500:
        heed_retry_after(response.headers, detail)
        return TransientError(Reason.STORE_ERROR, detail)
    if is_link and status in (401, 403):
        return TransientError(Reason.FORBIDDEN, detail)  # the next try asks for another link
    reasons = {401: Reason.FORBIDDEN, 403: Reason.FORBIDDEN, 404: Reason.NOT_FOUND}
    return ImageError(reasons.get(status, Reason.STORE_ERROR), detail)


def _answer_of(error: BaseException) -> tuple[int | None, str]:
    """Status and code of the answer that the library has made an error of, if there was one."""
    response = getattr(error, 'response', None)
    headers = getattr(response, 'headers', {})
    return getattr(response, 'status_code', None), headers.get('X-Error-Code', '')


def _explain(uri: str, error: BaseException) -> LemmabeamError:
    status, code = _answer_of(error)
    if code in _WRONG:
        return UsageError(f'{uri}: {_WRONG[code]}')
    if status in (401, 403, 404):
        return UsageError(f'{uri}: no such dataset, revision or file, or no access: {_LOGIN}')
    if status is not None:
        return _HubError(f'{uri}: the hub gave an unexpected answer (HTTP {status})')
    if isinstance(error, ValueError):
        return UsageError(f'{uri}: not a name that the hub allows')
    return _HubError(f'{uri}: the hub cannot be reached')


def _is_unsigned(record: logging.LogRecord) -> bool:
    return 'Signature=' not in record.getMessage()
