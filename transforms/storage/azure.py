"""Azure Blob Storage and Data Lake Storage.

azure-storage-blob gives listing and conditional writes.  Images are read over one HTTP pool of our
own for each account: with a deadline that is total, one request a blob.
"""

import base64
import contextlib
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import urllib3
from urllib3.exceptions import NameResolutionError

from transforms.core import uris
from transforms.core.errors import ImageError, LemmabeamError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.core.waiting import alive
from transforms.storage.azure_accounts import (
    LOG_IN,
    Account,
    default_credential,
    find_opener,
    has_variables,
    identity,
    no_credentials,
)
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, Seen, changed
from transforms.storage.http_fetch import (
    NO_SUCH_PART,
    TRIES,
    TransientError,
    Tries,
    heed_retry_after,
    range_of,
    read_error,
    read_object,
    seconds_left,
)
from transforms.storage.ranges import open_ranges

_ANSWERS = (200, 206)
_COPY_SEC = 0.5
_FOLDER = 'hdi_isfolder'
_NO_SUCH_HOST = frozenset(
    getattr(socket, name)
    for name in ('EAI_NONAME', 'EAI_NODATA', 'EAI_ADDRFAMILY')
    if hasattr(socket, name)
)

_REFUSED = frozenset('AuthenticationFailed InvalidAuthenticationInfo'.split())
_NO_CONTAINER = frozenset('ContainerNotFound ContainerBeingDeleted ContainerDisabled'.split())
_OF_THE_ACCOUNT = {
    'AccountIsDisabled': 'the storage account is disabled',
    'KeyBasedAuthenticationNotPermitted': 'this account permits no keys and no SAS tokens made '
    'with one: run `az login`, without the variables AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN '
    'and AZURE_STORAGE_CONNECTION_STRING',
}
_ARCHIVED = {
    'BlobArchived': 'archived: restore it first',
    'BlobBeingRehydrated': 'archived, and being restored: try again when it is',
}
_PERMISSIONS = (
    'access denied; reading needs the role Storage Blob Data Reader, an output needs Storage Blob '
    'Data Contributor (a SAS token: read, list, create, write and delete), and the network rules '
    'of the account must let this machine in'
)
_CONDITIONS = frozenset('ConditionNotMet TargetConditionNotMet BlobAlreadyExists'.split())


class AzureStore:
    """Containers of Azure; see `transforms.storage.base.Store`.

    A blob's version is its ETag.  Snapshots, older versions and what was deleted are not listed; a
    directory of a hierarchical namespace is a folder.

    Args:
      environment: where credentials are looked for, see `find_opener`.
      default: makes the credential for accounts of which it says nothing, None if it cannot.
      anonymous: read without credentials, as is done where there are none; then nothing is written.
      tries: when fetching an image is retried.
      attempts: how often any other request is tried.
      pause_sec: how long it waits before the second try.
      stream_bytes: bytes per request when a blob is read as a stream.
      page_blobs: blobs per page of a listing.

    Attributes:
      lacks_credentials: what to do for some, if they were looked for and there are none; else ''.

    Raises:
      UsageError: azure-storage-blob is not installed.
      StoreError: who gives access tokens cannot be reached.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        default: Callable[[], Any] = default_credential,
        *,
        anonymous: bool = False,
        tries: Tries = TRIES,
        attempts: int = 5,
        pause_sec: float = 0.5,
        stream_bytes: int = 8 * 2**20,
        page_blobs: int = 5000,
    ) -> None:
        try:
            import azure.storage.blob  # noqa: F401
        except ImportError as e:
            raise UsageError(
                "az:// needs azure-storage-blob: pip install 'lemmabeam[azure]'"
            ) from e
        self.tries = tries
        self._environment = environment
        self._default = default
        self._attempts = attempts
        self._pause_sec = pause_sec
        self._stream_bytes = stream_bytes
        self._page_blobs = page_blobs
        # They log whole URLs, and with them what signs them; of missing credentials, a page.
        logging.getLogger('azure').setLevel(logging.ERROR)
        logging.getLogger('urllib3.connectionpool').addFilter(_is_unsigned)
        self._credential: Any = None
        self.lacks_credentials = ''
        if not anonymous and not has_variables(environment):
            self._credential = identity(default)
            self.lacks_credentials = '' if self._credential else f'no Azure credentials: {LOG_IN}'
        self._is_anonymous = anonymous or bool(self.lacks_credentials)
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}

    def close(self) -> None:
        """Closes its connections."""
        with self._lock:
            for account in self._accounts.values():
                account.close()
            self._accounts.clear()

    def stat(self, uri: str) -> Entry | None:
        from azure.core.exceptions import ResourceNotFoundError

        _, _, name = _split(uri)
        if not name or name.endswith('/'):  # a marker of an empty folder
            return None
        with self._systemic(uri):
            try:
                found = self._blob(uri).get_blob_properties()
            except ResourceNotFoundError as e:
                if _code_of(e) in _NO_CONTAINER:
                    raise
                return None
        kind = found.content_settings.content_type
        if _is_folder(found.metadata) or (
            uris.may_mark_folder(found.size, kind) and self.is_folder(uri)
        ):
            return None
        return _entry(uri, found)

    def is_folder(self, uri: str) -> bool:
        account, container, prefix = _split(uri)
        prefix = f'{prefix.rstrip("/")}/' if prefix else ''
        with self._systemic(uri):
            found = self._container(account, container).list_blobs(prefix, results_per_page=1)
            return any(True for _ in found) or not prefix or self._is_directory(uri)

    def _is_directory(self, uri: str) -> bool:
        """Whether it is an empty directory of a hierarchical namespace."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return _is_folder(self._blob(uri).get_blob_properties().metadata)
        except ResourceNotFoundError:
            return False

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,  # noqa: ARG002 (there are no links)
        starts_with: str = '',
    ) -> Iterator[Entry]:
        account, container, prefix = _split(folder)
        prefix = (f'{prefix.rstrip("/")}/' if prefix else '') + starts_with
        options = {'include': ['metadata'], 'results_per_page': self._page_blobs}
        with self._systemic(folder):
            client = self._container(account, container)
            if max_depth == 1:
                found = client.walk_blobs(prefix, delimiter='/', **options)
            else:
                found = client.list_blobs(prefix, **options)
            for page in found.by_page():
                alive()  # markers of folders are not given on
                for blob in page:
                    if not blob.name.endswith('/') and not _is_folder(blob.metadata):
                        yield _entry(f'az://{account}/{container}/{blob.name}', blob)

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        if uri.endswith('/'):
            raise ImageError(Reason.NOT_A_FILE, 'a folder')
        if _is_resolved(uri):
            raise ImageError(Reason.BAD_URI, _DOTS)
        return read_object(
            lambda: self._ask(uri, unless, part),
            _check_md5,
            lambda headers: _version(headers.get('ETag')),
            limits,
            admit,
            tries=self.tries,
            part=part,
        )

    def _ask(self, uri: str, unless: str, part: Part | None) -> urllib3.BaseHTTPResponse:
        account = self._account(_split(uri)[0])
        response = self._get(account, uri, unless, part)
        if response.status == 401 and account.renews:
            read_error(response)
            account.renew()  # revoked before its time, or a clock that is wrong
            response = self._get(account, uri, unless, part)
        if response.status not in _ANSWERS:
            read_error(response)
            if part is not None and response.status in NO_SUCH_PART:
                if self.stat(uri) is None:  # of which it may be said, too
                    raise ImageError(Reason.NOT_FOUND, 'HTTP 404')
                raise changed(part)
            if self._is_anonymous and _is_closed(response.status, response.headers):
                raise ImageError(Reason.FORBIDDEN, f'HTTP {response.status}: {_NOT_PUBLIC}')
            raise _error_of(account, uri, response, unless)
        if response.headers.get(f'x-ms-meta-{_FOLDER}', '').lower() == 'true':
            response.close()
            raise ImageError(Reason.NOT_A_FILE, 'a folder')
        return response

    def _get(
        self, account: Account, uri: str, unless: str, part: Part | None
    ) -> urllib3.BaseHTTPResponse:
        from azure.core.exceptions import AzureError, ServiceRequestError

        name, container, blob = _split(uri)
        # As stored: the checksum is of the stored bytes.
        headers = {'Accept-Encoding': 'identity', **range_of(part)}
        if unless:
            headers['If-None-Match'] = f'"{unless}"'
        if part is not None:
            headers['If-Match'] = f'"{part.version}"'
        try:
            return account.get(container, blob, headers, seconds_left())
        except NameResolutionError as e:
            if _is_unknown_host(e):
                raise StoreError(f'az://{name}: {_NO_ACCOUNT}') from e
            raise
        except ServiceRequestError as e:
            detail = 'no Azure access token: no connection'
            raise TransientError(Reason.STORE_ERROR, detail) from e
        except AzureError as e:
            raise StoreError(no_credentials(name)) from e

    def open(self, uri: str) -> BinaryIO:
        from azure.core import MatchConditions

        entry = self.stat(uri)
        if entry is None:
            raise UsageError(f'cannot read {uri}: no such object')

        def read(start: int, end: int) -> bytes:
            with self._systemic(uri):
                data: bytes = (
                    self._blob(uri)
                    .download_blob(
                        start,
                        end - start,
                        etag=f'"{entry.version}"',
                        match_condition=MatchConditions.IfNotModified,
                    )
                    .readall()
                )
                return data

        return open_ranges(entry.size_bytes, read, self._stream_bytes)

    def read(self, uri: str) -> bytes | None:
        seen = self.look(uri)
        return None if seen is None else seen.data

    def look(self, uri: str) -> Seen | None:
        from azure.core.exceptions import ResourceNotFoundError

        with self._systemic(uri):
            try:
                found = self._blob(uri).download_blob()
                return Seen(found.readall(), _version(found.properties.etag))
            except ResourceNotFoundError as e:
                if _code_of(e) in _NO_CONTAINER:
                    raise
                return None

    def write(self, uri: str, data: bytes) -> None:
        self._check_writable(uri)
        with self._systemic(uri):
            self._put(uri, data, overwrite=True)

    def create(self, uri: str, data: bytes) -> bool:
        self._check_writable(uri)
        with self._systemic(uri):
            return _try(lambda: self._put(uri, data, overwrite=False))

    def place(self, uri: str, target: str) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        self._check_writable(uri)
        account, container, _ = _split(uri)
        query, _ = self._account(account).sign(container)
        with self._systemic(uri):
            copy = self._blob(target)
            try:
                # Within an account it is done at once, as a rule.
                copy.start_copy_from_url(f'{self._blob(uri).url}{f"?{query}" if query else ""}')
            except ResourceNotFoundError as e:
                if _code_of(e) in _NO_CONTAINER:
                    raise
                return False
            while (state := copy.get_blob_properties().copy.status) == 'pending':
                time.sleep(_COPY_SEC)
        if state != 'success':
            raise StoreError(f'{target}: the store did not copy it ({state})')
        return True

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        self._check_writable(uri)
        with self._systemic(uri):
            return _try(lambda: self._put(uri, data, overwrite=True, **_only(seen)))

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        self._check_writable(uri)
        conditions = {} if seen is None else _only(seen)
        with self._systemic(uri):
            try:
                return _try(lambda: self._blob(uri).delete_blob(**conditions))
            except ResourceNotFoundError as e:
                if _code_of(e) in _NO_CONTAINER:
                    raise
                return seen is None

    def _check_writable(self, uri: str) -> None:
        if self._is_anonymous:
            raise StoreError(
                f'{uri}: nothing is written anonymously, and there are no Azure credentials: '
                f'{LOG_IN}'
            )

    def _put(self, uri: str, data: bytes, **conditions: Any) -> None:
        from azure.storage.blob import ContentSettings

        digest = hashlib.md5(data, usedforsecurity=False).digest()
        settings = ContentSettings('application/octet-stream', content_md5=bytearray(digest))
        self._blob(uri).upload_blob(data, content_settings=settings, **conditions)

    def _account(self, name: str) -> Account:
        with self._lock:
            if name not in self._accounts:
                if self._credential is None and not self._is_anonymous:
                    self._credential = self._default()
                opener = find_opener(name, self._environment, self._credential, self._is_anonymous)
                self._accounts[name] = Account(
                    name,
                    opener,
                    self._attempts,
                    self._pause_sec,
                    self._environment.get('REQUESTS_CA_BUNDLE'),
                )
            return self._accounts[name]

    def _container(self, account: str, container: str) -> Any:
        return self._account(account).client.get_container_client(container)

    def _blob(self, uri: str) -> Any:
        if _is_resolved(uri):
            raise UsageError(f'{uri}: {_DOTS}')
        account, container, name = _split(uri)
        return self._account(account).client.get_blob_client(container, name)

    @contextlib.contextmanager
    def _systemic(self, uri: str) -> Iterator[None]:
        """Turns what the client library raises into an error about the whole store.

        Not `from` what it raises, whose text has the URL of the request, and with it a SAS token.
        """
        from azure.core.exceptions import AzureError

        try:
            yield
        except AzureError as e:
            raise self._explain(uri, e) from None
        except OSError:
            raise StoreError(f'{uri}: the store cannot be reached') from None

    def _explain(self, uri: str, error: Any) -> LemmabeamError:
        from azure.core.exceptions import (
            ClientAuthenticationError,
            HttpResponseError,
            ServiceRequestError,
        )

        account, container, _ = _split(uri)
        if isinstance(error, ClientAuthenticationError) and error.response is None:
            return StoreError(no_credentials(account))
        if not isinstance(error, HttpResponseError) or error.status_code is None:
            if _is_unknown_host(error):
                return UsageError(f'az://{account}: {_NO_ACCOUNT}')
            if isinstance(error, ServiceRequestError):
                return StoreError(f'{uri}: the store cannot be reached')
            return StoreError(f'{uri}: the store gave an unexpected answer')
        status, code = error.status_code, _code_of(error)
        if self._is_anonymous and _is_closed(status, {'x-ms-error-code': code}):
            return StoreError(f'{uri}: {_NOT_PUBLIC}')
        if code in _NO_CONTAINER:
            return UsageError(f'{uri}: no such container {container} in the account {account}')
        if found := _systemic_error(self._account(account), uri, status, code):
            return found
        if code in _ARCHIVED:
            return StoreError(f'{uri}: {_ARCHIVED[code]}')
        match status:
            case 401 | 403:
                return StoreError(f'{uri}: {_PERMISSIONS}')
            case 404:
                return UsageError(f'{uri}: no such container or blob')
            case 412 if code in _CONDITIONS:
                return StoreError(f'{uri}: changed while it was read')
        what = f'HTTP {status}{f", {code}" if code.isalnum() else ""}'
        return StoreError(f'{uri}: the store gave an unexpected answer ({what})')


_DOTS = "a name with '.' or '..' between slashes, which Azure resolves: it would be another blob"
_NOT_PUBLIC = f'not public, and it is read anonymously; for a container of yours {LOG_IN}'
_NO_ACCOUNT = (
    'no such storage account, or no network; the form is az://account/container/name, and the '
    'endpoint of another cloud comes from AZURE_STORAGE_CONNECTION_STRING'
)


def _split(uri: str) -> tuple[str, str, str]:
    bucket, name = uris.split_object(uri)
    account, _, container = bucket.partition('/')
    return account, container, name


def _is_closed(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer to somebody without credentials is that they need some."""
    code = headers.get('x-ms-error-code', '')
    return status in (401, 403) or code in ('PublicAccessNotPermitted', 'ResourceNotFound')


def _is_resolved(uri: str) -> bool:
    return not {'.', '..'}.isdisjoint(uri.split('/'))


def _entry(uri: str, blob: Any) -> Entry:
    return Entry(uri, _version(blob.etag), blob.size, modified_at=blob.last_modified.timestamp())


def _version(etag: str | None) -> str:
    return (etag or '').strip('"')


def _is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Whether a blob is a directory, as hierarchical namespaces and Hadoop mark them."""
    return any(
        name.lower() == _FOLDER and value.lower() == 'true'
        for name, value in (metadata or {}).items()
    )


def _only(seen: Seen) -> dict[str, Any]:
    from azure.core import MatchConditions

    return {'etag': f'"{seen.version}"', 'match_condition': MatchConditions.IfNotModified}


def _try(request: Callable[[], object]) -> bool:
    """Sends a request that the store may refuse for its condition; whether it was accepted."""
    from azure.core.exceptions import HttpResponseError

    try:
        request()
    except HttpResponseError as e:
        if _code_of(e) not in _CONDITIONS:
            raise
        return False
    return True


def _code_of(error: Any) -> str:
    code = getattr(error, 'error_code', None)
    if code is None and error.response is not None:
        code = error.response.headers.get('x-ms-error-code')
    return str(getattr(code, 'value', code) or '')


def _error_of(
    account: Account, uri: str, response: urllib3.BaseHTTPResponse, unless: str
) -> Exception:
    status = response.status
    code = response.headers.get('x-ms-error-code', '')
    if status == 304 and unless:
        return NotModified()
    where = f'az://{uris.split_object(uri)[0]}'
    if code in _NO_CONTAINER:
        return StoreError(f'{where}: no such container')
    if error := _systemic_error(account, where, status, code):
        return error
    if code in _ARCHIVED:
        archived = ImageError(Reason.FORBIDDEN, _ARCHIVED[code])
        archived.is_its_own = True  # told to those only who may read it
        return archived
    if code == 'BlobUsesCustomerSpecifiedEncryption':
        return ImageError(Reason.FORBIDDEN, 'encrypted with a key that only its owner has')
    if status in (408, 429) or status >= 500:
        heed_retry_after(response.headers, f'HTTP {status}')
        return TransientError(Reason.STORE_ERROR, f'HTTP {status}')
    reasons = {403: Reason.FORBIDDEN, 404: Reason.NOT_FOUND}
    return ImageError(reasons.get(status, Reason.STORE_ERROR), f'HTTP {status}')


def _systemic_error(account: Account, uri: str, status: int, code: str) -> StoreError | None:
    """What is wrong with credentials or account, by a status and an error code; None if nothing."""
    if code in _OF_THE_ACCOUNT:
        return StoreError(f'{uri}: {_OF_THE_ACCOUNT[code]}')
    if code in _REFUSED or status == 401 or (status == 403 and account.has_expired()):
        return StoreError(f'{uri}: {account.why_refused()}')
    return None


def _is_unknown_host(error: BaseException | None) -> bool:
    """Whether there is no such name, and not only no answer about it, behind an error."""
    for _ in range(10):
        if error is None:
            return False
        if isinstance(error, socket.gaierror):
            return error.errno in _NO_SUCH_HOST
        inner = getattr(error, 'inner_exception', None) or getattr(error, 'reason', None)
        first = error.args[0] if error.args else None
        causes = (inner, first, error.__cause__, error.__context__)
        error = next((each for each in causes if isinstance(each, BaseException)), None)
    return False


def _is_unsigned(record: logging.LogRecord) -> bool:
    return 'sig=' not in record.getMessage()


def _check_md5(headers: Any, data: bytes) -> None:
    if expected := headers.get('Content-MD5', ''):
        actual = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        if actual != expected:
            raise TransientError(
                Reason.CHECKSUM, f'md5 is {actual}, the store says {expected[:50]}'
            )
