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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, ClassVar, NoReturn

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import google.auth.transport.urllib3
import google_crc32c
import requests.adapters
import urllib3
from google.api_core import exceptions as api_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from transforms.core import uris
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, Seen, changed
from transforms.storage.http_fetch import (
    NO_SUCH_PART,
    POOL_SIZE,
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
from transforms.storage.pages import AT_A_TIME, Page, list_pages

_SCOPE = 'https://www.googleapis.com/auth/devstorage.read_write'
_STREAM_BYTES = 8 * 2**20
_PAGE_OBJECTS = 1000
_FIELDS = 'name,size,generation,timeCreated,md5Hash,contentEncoding'
_LIST_SEC = 60.0
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
      at_a_time: requests in flight of one listing.

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
        at_a_time: int = AT_A_TIME,
    ) -> None:
        self.tries = tries
        self._at_a_time = at_a_time
        self._user_project = user_project
        self._page_objects = page_objects
        emulator = os.environ.get('STORAGE_EMULATOR_HOST', '')
        found, project = (None, None) if emulator or anonymous else find_credentials()
        self.lacks_credentials = '' if emulator or anonymous or found else _NONE
        self._is_anonymous = anonymous or bool(self.lacks_credentials)
        self._is_writable = bool(emulator or found)
        self._credentials: Any = found or AnonymousCredentials()
        self._client = storage.Client(project=project or 'none', credentials=self._credentials)
        # The client makes an object of each name, which takes longer than all else.
        self._session = google.auth.transport.requests.AuthorizedSession(self._credentials)
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=POOL_SIZE)
        for scheme in ('https://', 'http://'):
            self._session.mount(scheme, adapter)
        self._seen: set[str] = set()  # buckets that have given something
        self._endpoint = (emulator or self._client.api_endpoint).rstrip('/')
        pool = make_pool(self._endpoint)
        self._auth_request = google.auth.transport.urllib3.Request(pool)
        # Past the manager, which would parse the URL of every object.
        self._connections = pool.connection_from_url(self._endpoint)

    def close(self) -> None:
        """Closes the connections that list and fetch images."""
        self._session.close()
        self._connections.close()

    def stat(self, uri: str) -> Entry | None:
        bucket, name = uris.split_object(uri)
        if not name or name.endswith('/'):  # a console's marker of an empty folder
            return None
        with self._systemic(uri):
            blob = self._bucket(bucket).get_blob(name)
        if blob and uris.may_mark_folder(blob.size, blob.content_type) and self.is_folder(uri):
            return None
        return blob and _entry(
            uri, blob.generation, blob.size, blob.time_created, blob.md5_hash, blob.content_encoding
        )

    def is_folder(self, uri: str) -> bool:
        bucket, prefix = _folder(uri)
        with self._systemic(uri):
            found = self._client.list_blobs(
                self._bucket(bucket), prefix=prefix or None, max_results=1, fields='items(name)'
            )
            return any(True for _ in found) or not prefix  # an empty bucket is one, too

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,  # noqa: ARG002 (there are no links)
        starts_with: str = '',
    ) -> Iterator[Entry]:
        bucket, prefix = _folder(folder)
        query = {
            'prefix': prefix + starts_with,
            'delimiter': '/' if max_depth == 1 else '',
            'maxResults': str(self._page_objects),
            'fields': f'items({_FIELDS}),prefixes,nextPageToken',
            'prettyPrint': 'false',
            'userProject': self._user_project or '',
        }
        root = f'gs://{bucket}/'

        def ask(after: str, until: str, token: str) -> Page:
            return self._page(bucket, query, after[len(root) :], until[len(root) :], token)

        with self._systemic(folder):
            yield from list_pages(ask, root + query['prefix'], self._at_a_time)

    def _page(
        self, bucket: str, query: Mapping[str, str], after: str, until: str, token: str
    ) -> Page:
        url = f'{self._endpoint}/storage/v1/b/{urllib.parse.quote(bucket, safe="")}/o'
        # From the first one on, and without the second one, where it is the other way about here.
        bounds = {'startOffset': after, 'endOffset': until and f'{until}0', 'pageToken': token}
        params = {name: value for name, value in {**query, **bounds}.items() if value}

        def get() -> dict[str, Any]:
            response = self._session.get(url, params=params, timeout=_LIST_SEC)
            if not response.ok:
                raise api_exceptions.from_http_response(response)
            found: dict[str, Any] = response.json()
            return found

        page = storage.retry.DEFAULT_RETRY(get)()
        items, folders = page.get('items', ()), page.get('prefixes', ())
        last: str = items[-1]['name'] if items else folders[-1] if folders else ''
        entries = [
            _entry_of(f'gs://{bucket}/{item["name"]}', item)
            for item in items  # markers of folders are not given on
            if not item['name'].endswith('/') and item['name'] != after
        ]
        return Page(entries, last and f'gs://{bucket}/{last}', page.get('nextPageToken', ''))

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


def _folder(uri: str) -> tuple[str, str]:
    bucket, prefix = uris.split_object(uri)
    return bucket, f'{prefix.rstrip("/")}/' if prefix else ''


def _entry_of(uri: str, item: Mapping[str, str]) -> Entry:
    """An object of a listing, of which `_FIELDS` are told."""
    created = item.get('timeCreated')
    return _entry(
        uri,
        item['generation'],
        int(item.get('size', 0)),
        datetime.fromisoformat(created) if created else None,
        item.get('md5Hash'),
        item.get('contentEncoding'),
    )


def _entry(
    uri: str,
    generation: str | int,
    size_bytes: int | None,
    created: datetime | None,
    md5: str | None,
    encoding: str | None,
) -> Entry:
    # A generation is created and never changed; metadata may be.
    modified_at = created.timestamp() if created else math.nan
    # Of objects composed of others there is none.  As stored: what is packed is another picture.
    checksum = f'gs:{md5}:{encoding or ""}' if md5 else ''
    return Entry(uri, str(generation), size_bytes or 0, modified_at=modified_at, checksum=checksum)


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
