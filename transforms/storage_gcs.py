"""Google Cloud Storage.

google-cloud-storage gives credentials, listing and conditional writes.  Images are read over one
HTTP pool of our own: one request an object, whose headers carry generation and checksum.
"""

import base64
import os
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import google.auth
import google.auth.exceptions
import google.auth.transport.urllib3
import google_crc32c
import urllib3
from google.api_core import exceptions as api_exceptions
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from transforms import uris
from transforms.errors import ImageError, StoreError, UsageError
from transforms.rows import Entry, Fetched, FetchLimits, Reason

_SCOPE = 'https://www.googleapis.com/auth/devstorage.read_write'
_POOL_SIZE = 64
_READ_BYTES = 256 * 1024
_SOCKET_TIMEOUT_SEC = 20.0
_BACKOFF_SEC = (0.2, 8.0)
_STREAM_BYTES = 8 * 2**20


class _TransientError(Exception):
    """Worth another try; becomes an ImageError when the deadline leaves none."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class GcsStore:
    """Buckets of Google Cloud Storage; see `transforms.storage.Store`.

    An object's version is its generation.  STORAGE_EMULATOR_HOST is honoured.
    """

    def __init__(self) -> None:
        emulator = os.environ.get('STORAGE_EMULATOR_HOST', '')
        try:
            if emulator:
                self._credentials: Any = AnonymousCredentials()
                self._client = storage.Client(project='emulator', credentials=self._credentials)
            else:
                self._credentials, project = google.auth.default(scopes=[_SCOPE])
                self._client = storage.Client(
                    project=project or 'none', credentials=self._credentials
                )
        except google.auth.exceptions.DefaultCredentialsError as e:
            raise StoreError(
                'no Google Cloud credentials: run `gcloud auth application-default login`, or set '
                'GOOGLE_APPLICATION_CREDENTIALS to a key file'
            ) from e
        self._endpoint = (emulator or self._client.api_endpoint).rstrip('/')
        self._pool = urllib3.PoolManager(maxsize=_POOL_SIZE, retries=False)
        self._auth_request = google.auth.transport.urllib3.Request(self._pool)

    def stat(self, uri: str) -> Entry | None:
        bucket, name = uris.split_object(uri)
        if not name or name.endswith('/'):  # a console's marker of an empty folder
            return None
        with _systemic(uri):
            blob = self._client.bucket(bucket).get_blob(name)
        return blob and Entry(uri, str(blob.generation), blob.size or 0)

    def is_folder(self, uri: str) -> bool:
        with _systemic(uri):
            found = any(True for _ in self._blobs(uri, limit=1))
        return found or not uris.split_object(uri)[1]  # an empty bucket is one, too

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,  # noqa: ARG002 (there are no links)
        starts_with: str = '',
    ) -> Iterator[Entry]:
        bucket, _ = uris.split_object(folder)
        with _systemic(folder):
            for blob in self._blobs(folder, starts_with, one_level=max_depth == 1):
                if not blob.name.endswith('/'):
                    yield Entry(f'gs://{bucket}/{blob.name}', str(blob.generation), blob.size or 0)

    def fetch(self, uri: str, limits: FetchLimits, admit: Callable[[int], None]) -> Fetched:
        bucket, name = uris.split_object(uri)
        if name.endswith('/'):
            raise ImageError(Reason.NOT_A_FILE, 'a folder')
        url = (
            f'{self._endpoint}/download/storage/v1/b/{urllib.parse.quote(bucket, safe="")}'
            f'/o/{urllib.parse.quote(name, safe="")}?alt=media'
        )
        ends_at = time.monotonic() + limits.deadline_sec
        initial, maximum = _BACKOFF_SEC
        failures: list[Exception] = []
        retry = Retry(
            predicate=lambda e: isinstance(e, _TransientError),
            initial=initial,
            maximum=maximum,
            timeout=limits.deadline_sec,
            on_error=failures.append,
        )
        try:
            fetched: Fetched = retry(self._fetch_once)(url, limits, ends_at, admit)
        except api_exceptions.RetryError as e:
            if not isinstance(e.cause, _TransientError):
                raise
            # The last try may have had no time left; what the store said before tells more.
            tries = [each for each in failures if isinstance(each, _TransientError)]
            told = [each for each in tries if each.reason is not Reason.DEADLINE]
            last = told[-1] if told else e.cause
            detail = f'{last.detail}, until {limits.deadline_sec:g} s were over'
            raise ImageError(last.reason, detail) from e
        return fetched

    def _fetch_once(
        self, url: str, limits: FetchLimits, ends_at: float, admit: Callable[[int], None]
    ) -> Fetched:
        headers = {'Accept-Encoding': 'gzip'}  # as stored: the checksum is of the stored bytes
        timeout_sec = _seconds_left(ends_at)
        try:
            self._credentials.before_request(self._auth_request, 'GET', url, headers)
            response = self._pool.request(
                'GET', url, headers=headers, preload_content=False, timeout=timeout_sec
            )
        except google.auth.exceptions.GoogleAuthError as e:
            raise StoreError('the Google Cloud credentials were refused: log in again') from e
        except urllib3.exceptions.ReadTimeoutError as e:
            raise _TransientError(Reason.DEADLINE, 'no answer') from e
        except urllib3.exceptions.HTTPError as e:
            raise _TransientError(Reason.STORE_ERROR, 'no connection') from e
        try:
            _check_status(response.status)
            size = response.length_remaining
            _check_size(size or 0, limits)
            is_packed = response.headers.get('Content-Encoding') == 'gzip'
            # A size that is not known is taken for the largest.
            waiting_since = time.monotonic()
            admit(limits.max_bytes if size is None or is_packed else size)
            # Waiting for our own memory is not the store's fault.
            ends_at += time.monotonic() - waiting_since
            data = _read_body(response, limits, ends_at)
        except urllib3.exceptions.ReadTimeoutError as e:
            raise _TransientError(Reason.DEADLINE, 'the object was not read') from e
        except urllib3.exceptions.HTTPError as e:
            raise _TransientError(Reason.STORE_ERROR, 'the connection broke off') from e
        finally:
            if response.closed:
                response.release_conn()
            else:
                response.close()
        _check_crc32c(response.headers, data)
        if is_packed:
            data = _gunzip(data, limits)
        return Fetched(data, response.headers.get('x-goog-generation', ''))

    def open(self, uri: str) -> BinaryIO:
        bucket, name = uris.split_object(uri)
        with _systemic(uri):
            blob = self._client.bucket(bucket).get_blob(name) if name else None
            if blob is None:
                raise UsageError(f'cannot read {uri}: no such object')
            stream: BinaryIO = blob.open('rb', chunk_size=_STREAM_BYTES)
            return stream

    def read(self, uri: str) -> bytes | None:
        bucket, name = uris.split_object(uri)
        try:
            with _systemic(uri):
                data: bytes = self._client.bucket(bucket).blob(name).download_as_bytes()
        except UsageError:
            return None
        return data

    def write(self, uri: str, data: bytes) -> None:
        self._upload(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        try:
            self._upload(uri, data, if_generation_match=0)
        except api_exceptions.PreconditionFailed:
            return False
        return True

    def delete(self, uri: str) -> None:
        bucket, name = uris.split_object(uri)
        try:
            with _systemic(uri):
                self._client.bucket(bucket).blob(name).delete()
        except UsageError:
            return

    def _upload(self, uri: str, data: bytes, **conditions: int) -> None:
        bucket, name = uris.split_object(uri)
        with _systemic(uri):
            # Safe to repeat: the same bytes under the same name.
            self._client.bucket(bucket).blob(name).upload_from_string(
                data,
                content_type='application/octet-stream',
                checksum='crc32c',
                retry=storage.retry.DEFAULT_RETRY,
                **conditions,
            )

    def _blobs(
        self,
        folder: str,
        starts_with: str = '',
        limit: int | None = None,
        one_level: bool = False,
    ) -> Iterator[storage.Blob]:
        bucket, prefix = uris.split_object(folder)
        prefix = (f'{prefix.rstrip("/")}/' if prefix else '') + starts_with
        blobs: Iterator[storage.Blob] = self._client.list_blobs(
            bucket,
            prefix=prefix or None,
            delimiter='/' if one_level else None,
            max_results=limit,
            page_size=1000,
            fields='items(name,size,generation),nextPageToken',
        )
        return blobs


class _systemic:  # noqa: N801 (used as a with statement)
    """Turns what the client library raises into an error about the whole store."""

    def __init__(self, uri: str):
        self._uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case api_exceptions.PreconditionFailed():
                return
            case api_exceptions.NotFound():
                raise UsageError(f'{self._uri}: no such bucket or object') from error
            case api_exceptions.Forbidden() | api_exceptions.Unauthorized():
                raise StoreError(
                    f'{self._uri}: access denied (HTTP {error.code}); the account needs '
                    'storage.objects.list, get, create and delete there'
                ) from error
            case google.auth.exceptions.GoogleAuthError():
                raise StoreError(
                    f'{self._uri}: the Google Cloud credentials were refused: log in again'
                ) from error
            case api_exceptions.GoogleAPICallError() | api_exceptions.RetryError():
                raise StoreError(f'{self._uri}: the store does not answer properly') from error
            case OSError():  # requests' errors among them
                raise StoreError(f'{self._uri}: the store cannot be reached') from error


def _check_status(status: int) -> None:
    if status == 200:
        return
    if status in (408, 429) or status >= 500:
        raise _TransientError(Reason.STORE_ERROR, f'HTTP {status}')
    match status:
        case 401:
            raise StoreError('the Google Cloud credentials were refused (HTTP 401): log in again')
        case 403:
            raise ImageError(Reason.FORBIDDEN, 'HTTP 403')
        case 404:
            raise ImageError(Reason.NOT_FOUND, 'HTTP 404')
        case _:
            raise ImageError(Reason.STORE_ERROR, f'HTTP {status}')


def _check_size(size_bytes: int, limits: FetchLimits) -> None:
    if size_bytes > limits.max_bytes:
        raise ImageError(
            Reason.TOO_MANY_BYTES, f'{size_bytes} bytes, limit {limits.max_bytes}', size_bytes
        )


def _read_body(response: urllib3.BaseHTTPResponse, limits: FetchLimits, ends_at: float) -> bytes:
    """Reads piece by piece: a single read could wait for ever for a server that drips."""
    pieces: list[bytes] = []
    size = 0
    while True:
        socket = getattr(response.connection, 'sock', None)
        if socket is not None:
            socket.settimeout(_seconds_left(ends_at))
        piece = response.read1(_READ_BYTES, decode_content=False)
        if not piece:
            return b''.join(pieces)
        pieces.append(piece)
        size += len(piece)
        _check_size(size, limits)


def _seconds_left(ends_at: float) -> float:
    left = ends_at - time.monotonic()
    if left <= 0:
        raise _TransientError(Reason.DEADLINE, 'the object was not read')
    return min(left, _SOCKET_TIMEOUT_SEC)


def _check_crc32c(headers: Any, data: bytes) -> None:
    for part in ','.join(headers.getlist('x-goog-hash')).split(','):
        name, _, value = part.strip().partition('=')
        if name == 'crc32c':
            actual = base64.b64encode(google_crc32c.value(data).to_bytes(4, 'big')).decode()
            if actual != value:
                raise _TransientError(
                    Reason.CHECKSUM, f'crc32c is {actual}, the store says {value}'
                )


def _gunzip(data: bytes, limits: FetchLimits) -> bytes:
    """Unpacks an object stored with Content-Encoding gzip, no further than the limit."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(data, limits.max_bytes + 1)
    except zlib.error as e:
        raise ImageError(Reason.DECODE_ERROR, 'stored as gzip, but is not', len(data)) from e
    _check_size(len(unpacked), limits)
    if not unpacker.eof:
        raise ImageError(Reason.TRUNCATED, 'stored as gzip, and breaks off', len(data))
    return unpacked
