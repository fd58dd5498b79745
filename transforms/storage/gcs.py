"""Google Cloud Storage.

google-cloud-storage gives credentials, listing and conditional writes.  Images are read over one
HTTP pool of our own: one request an object, whose headers carry generation and checksum.
"""

import base64
import contextlib
import math
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, NoReturn

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import google.auth.transport.urllib3
import google_crc32c
import urllib3
from google.api_core import exceptions as api_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from transforms.core import uris
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, Seen, changed
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

_SCOPE = 'https://www.googleapis.com/auth/devstorage.read_write'
_STREAM_BYTES = 8 * 2**20
_PAGE_OBJECTS = 1000
_ANSWERS = (200, 206)
_NO_BUCKET = re.compile(rb'bucket does not exist', re.IGNORECASE)
_METADATA_SEC = 3.0

_LOG_IN = (
    'run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key '
    'file'
)
_REFUSED = 'the Google Cloud credentials were refused: log in again'
_NONE = f'no Google Cloud credentials: {_LOG_IN}'
_NOT_PUBLIC = f'not public, and it is read anonymously; for a bucket of yours {_LOG_IN}'
_NOT_ALLOWED = 'the account needs storage.objects.list, get, create and delete there'


class GcsStore:
    """Buckets of Google Cloud Storage; see `transforms.storage.base.Store`.

    An object's version is its generation.  STORAGE_EMULATOR_HOST is honoured.

    Args:
      user_project: the project that pays for requests to requester-pays buckets.
      anonymous: read without credentials, as is done where there are none; then nothing is written.
      page_objects: objects per page of a listing.
      tries: when fetching an image is retried.

    Attributes:
      lacks_credentials: what to do for some, if they were looked for and there are none; else ''.

    Raises:
      StoreError: there are credentials, but they cannot be used.
    """

    def __init__(
        self,
        user_project: str | None = None,
        anonymous: bool = False,
        *,
        page_objects: int = _PAGE_OBJECTS,
        tries: Tries = TRIES,
    ) -> None:
        self.tries = tries
        self._user_project = user_project
        self._page_objects = page_objects
        emulator = os.environ.get('STORAGE_EMULATOR_HOST', '')
        found, project = (None, None) if emulator or anonymous else find_credentials()
        self.lacks_credentials = '' if emulator or anonymous or found else _NONE
        self._is_anonymous = anonymous or bool(self.lacks_credentials)
        self._is_writable = bool(emulator or found)
        self._credentials: Any = found or AnonymousCredentials()
        self._client = storage.Client(project=project or 'none', credentials=self._credentials)
        self._seen: set[str] = set()  # buckets that have given something
        self._endpoint = (emulator or self._client.api_endpoint).rstrip('/')
        pool = make_pool(self._endpoint)
        self._auth_request = google.auth.transport.urllib3.Request(pool)
        # Past the manager, which would parse the URL of every object.
        self._connections = pool.connection_from_url(self._endpoint)

    def close(self) -> None:
        """Closes the connections that fetch images."""
        self._connections.close()

    def stat(self, uri: str) -> Entry | None:
        bucket, name = uris.split_object(uri)
        if not name or name.endswith('/'):  # a console's marker of an empty folder
            return None
        with self._systemic(uri):
            blob = self._bucket(bucket).get_blob(name)
        if blob and uris.may_mark_folder(blob.size, blob.content_type) and self.is_folder(uri):
            return None
        return blob and _entry(uri, blob)

    def is_folder(self, uri: str) -> bool:
        with self._systemic(uri):
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
        with self._systemic(folder):
            for blob in self._blobs(folder, starts_with, one_level=max_depth == 1):
                alive()  # markers of folders are not given on
                if not blob.name.endswith('/'):
                    yield _entry(f'gs://{bucket}/{blob.name}', blob)

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        bucket, name = uris.split_object(uri)
        if name.endswith('/'):
            raise ImageError(Reason.NOT_A_FILE, 'a folder')
        path = (
            f'/download/storage/v1/b/{urllib.parse.quote(bucket, safe="")}'
            f'/o/{urllib.parse.quote(name, safe="")}?alt=media'
        )
        if self._user_project:
            path += f'&userProject={urllib.parse.quote(self._user_project, safe="")}'
        if unless:
            path += f'&ifGenerationNotMatch={urllib.parse.quote(unless, safe="")}'
        if part is not None:
            path += f'&ifGenerationMatch={urllib.parse.quote(part.version, safe="")}'
        return read_object(
            lambda: self._ask(bucket, path, unless, part),
            _check_crc32c,
            _version,
            limits,
            admit,
            tries=self.tries,
            part=part,
        )

    def _ask(
        self, bucket: str, path: str, unless: str, part: Part | None
    ) -> urllib3.BaseHTTPResponse:
        response = self._get(path, part)
        if response.status == 401 and not self._is_anonymous:
            # Revoked before its time, or a clock that is wrong: a fresh token may do.
            read_error(response)
            with _authentication():
                self._credentials.refresh(self._auth_request)
            response = self._get(path, part)
        if response.status not in _ANSWERS:
            body = read_error(response)
            if response.status == 404 and bucket in self._seen and _NO_BUCKET.search(body):
                raise StoreError(f'gs://{bucket}: this bucket was deleted during the run')
            if part is not None and response.status in NO_SUCH_PART:
                raise changed(part)
            if self._is_anonymous and response.status in (401, 403):
                # Of an object: others of its bucket may be public.
                raise ImageError(Reason.FORBIDDEN, f'HTTP {response.status}: {_NOT_PUBLIC}')
            _raise_for_status(response, unless)
        self._seen.add(bucket)
        if unless and _version(response.headers) == unless:
            response.close()  # emulators pass over the condition
            raise NotModified
        return response

    def _get(self, path: str, part: Part | None) -> urllib3.BaseHTTPResponse:
        # As stored: the checksum is of the stored bytes, and so are parts.
        headers = {'Accept-Encoding': 'gzip', **range_of(part)}
        with _authentication():
            self._credentials.before_request(
                self._auth_request, 'GET', self._endpoint + path, headers
            )
        return self._connections.urlopen(
            'GET',
            path,
            headers=headers,
            retries=False,
            preload_content=False,
            timeout=seconds_left(),
        )

    def open(self, uri: str) -> BinaryIO:
        bucket, name = uris.split_object(uri)
        with self._systemic(uri):
            blob = self._bucket(bucket).get_blob(name) if name else None
            if blob is None:
                raise UsageError(f'cannot read {uri}: no such object')
            stream: BinaryIO = blob.open('rb', chunk_size=_STREAM_BYTES)
            return stream

    def read(self, uri: str) -> bytes | None:
        seen = self.look(uri)
        return None if seen is None else seen.data

    def look(self, uri: str) -> Seen | None:
        bucket, name = uris.split_object(uri)
        blob = self._bucket(bucket).blob(name)
        try:
            with self._systemic(uri):
                data = blob.download_as_bytes()
        except UsageError:
            return None
        return Seen(data, str(blob.generation))

    def write(self, uri: str, data: bytes) -> None:
        self._upload(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        return self._upload_if(uri, data, 0)

    def place(self, uri: str, target: str) -> bool:
        source, copy = (
            self._bucket(bucket).blob(name)
            for bucket, name in map(uris.split_object, (uri, target))
        )
        token = None
        self._check_writable(uri)
        try:
            with self._systemic(uri):
                while True:
                    token, _, _ = copy.rewrite(source, token, retry=storage.retry.DEFAULT_RETRY)
                    if token is None:
                        return True
        except UsageError:
            return False

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        return self._upload_if(uri, data, int(seen.version))

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        self._check_writable(uri)
        bucket, name = uris.split_object(uri)
        # Both say the same, but for a bucket that keeps old versions, of which the second one lets
        # none be deleted.  Emulators know only the first.
        generation = None if seen is None else int(seen.version)
        blob = self._bucket(bucket).blob(name, generation=generation)
        try:
            with self._systemic(uri):
                blob.delete(if_generation_match=generation, retry=storage.retry.DEFAULT_RETRY)
        except (UsageError, api_exceptions.PreconditionFailed):
            return seen is None
        return True

    def _upload_if(self, uri: str, data: bytes, generation: int) -> bool:
        try:
            self._upload(uri, data, if_generation_match=generation)
        except api_exceptions.PreconditionFailed:
            return False
        return True

    def _bucket(self, name: str) -> storage.Bucket:
        return self._client.bucket(name, user_project=self._user_project)

    def _check_writable(self, uri: str) -> None:
        if not self._is_writable:
            raise StoreError(f'{uri}: nothing is written anonymously, and there are {_NONE}')

    def _systemic(self, uri: str) -> '_Systemic':
        if self._is_anonymous:  # to a 401 the client answers that there is nothing to refresh
            return _Systemic(uri, _NOT_PUBLIC, _NOT_PUBLIC)
        return _Systemic(uri, _NOT_ALLOWED, _REFUSED)

    def _upload(self, uri: str, data: bytes, **conditions: int) -> None:
        self._check_writable(uri)
        bucket, name = uris.split_object(uri)
        with self._systemic(uri):
            # Safe to repeat: the same bytes under the same name.
            self._bucket(bucket).blob(name).upload_from_string(
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
            self._bucket(bucket),
            prefix=prefix or None,
            delimiter='/' if one_level else None,
            max_results=limit,
            page_size=self._page_objects,
            fields='items(name,size,generation,timeCreated,md5Hash,contentEncoding),nextPageToken',
        )
        return blobs


def _entry(uri: str, blob: storage.Blob) -> Entry:
    # A generation is created and never changed; metadata may be.
    created = blob.time_created
    modified_at = created.timestamp() if created else math.nan
    # Of objects composed of others there is none.  As stored: what is packed is another picture.
    checksum = f'gs:{blob.md5_hash}:{blob.content_encoding or ""}' if blob.md5_hash else ''
    version = str(blob.generation)
    return Entry(uri, version, blob.size or 0, modified_at=modified_at, checksum=checksum)


class _Metadata(google.auth.transport.requests.Request):
    """Asks the metadata server, which is there on Google Cloud only; elsewhere it may be silence.

    What was silent for seconds is not asked again.  A refusal is: it comes at once, also from a
    server that is about to start.
    """

    def __init__(self, patience_sec: float):
        super().__init__()
        self._patience_sec = patience_sec

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        begun = time.monotonic()
        options['timeout'] = min(options.get('timeout', math.inf), self._patience_sec)
        try:
            return super().__call__(*arguments, **options)
        except google.auth.exceptions.TransportError:
            if time.monotonic() - begun < options['timeout']:
                raise
            return _Silence()


class _Silence:
    """What google-auth takes for the answer of something that is no metadata server."""

    status = 504
    headers: ClassVar[dict[str, str]] = {}
    data = b''


def find_credentials(metadata_sec: float = _METADATA_SEC) -> tuple[Any, str | None]:
    """The Application Default Credentials and their project; (None, None) if there are none.

    Args:
      metadata_sec: how long silence of the metadata server is waited for.

    Raises:
      StoreError: there are some, but they cannot be used.
    """
    try:
        return google.auth.default(scopes=[_SCOPE], request=_Metadata(metadata_sec))
    except google.auth.exceptions.DefaultCredentialsError as e:
        # A file that is named, or lies where gcloud puts it, is an error where it cannot be used.
        is_named = bool(os.environ.get('GOOGLE_APPLICATION_CREDENTIALS'))
        if not is_named and 'credentials were not found' in str(e):
            return None, None
        raise StoreError(f'the Google Cloud credentials cannot be used: {e}; {_LOG_IN}') from e
    except google.auth.exceptions.GoogleAuthError as e:
        raise StoreError(f'the Google Cloud credentials cannot be used: {e}; {_LOG_IN}') from e


class _Systemic:
    """Turns what the client library raises into an error about the whole store."""

    def __init__(self, uri: str, denied: str, refused: str):
        self._uri = uri
        self._denied = denied
        self._refused = refused

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
                    f'{self._uri}: access denied (HTTP {error.code}); {self._denied}'
                ) from error
            case google.auth.exceptions.GoogleAuthError():
                raise StoreError(f'{self._uri}: {self._refused}') from error
            case api_exceptions.GoogleAPICallError() | api_exceptions.RetryError():
                raise StoreError(f'{self._uri}: the store gave an unexpected answer') from error
            case OSError():  # requests' errors among them
                raise StoreError(f'{self._uri}: the store cannot be reached') from error


@contextlib.contextmanager
def _authentication() -> Iterator[None]:
    try:
        yield
    except google.auth.exceptions.TransportError as e:
        raise TransientError(Reason.STORE_ERROR, 'no access token: no connection') from e
    except google.auth.exceptions.GoogleAuthError as e:
        raise StoreError(_REFUSED) from e


def _raise_for_status(response: urllib3.BaseHTTPResponse, unless: str) -> NoReturn:
    status = response.status
    if status in (408, 429) or status >= 500:
        heed_retry_after(response.headers, f'HTTP {status}')
        raise TransientError(Reason.STORE_ERROR, f'HTTP {status}')
    match status:
        case 304 if unless:
            raise NotModified
        case 401:
            raise StoreError('the Google Cloud credentials were refused (HTTP 401): log in again')
        case 403:
            raise ImageError(Reason.FORBIDDEN, 'HTTP 403')
        case 404:
            raise ImageError(Reason.NOT_FOUND, 'HTTP 404')
        case _:
            raise ImageError(Reason.STORE_ERROR, f'HTTP {status}')


def _version(headers: Any) -> str:
    version: str = headers.get('x-goog-generation', '')
    return version


def _check_crc32c(headers: Any, data: bytes) -> None:
    for part in ','.join(headers.getlist('x-goog-hash')).split(','):
        name, _, value = part.strip().partition('=')
        if name == 'crc32c':
            actual = base64.b64encode(google_crc32c.value(data).to_bytes(4, 'big')).decode()
            if actual != value:
                raise TransientError(Reason.CHECKSUM, f'crc32c is {actual}, the store says {value}')
