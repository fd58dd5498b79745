"""Amazon S3 and what speaks its protocol.

botocore gives credentials, listing and conditional writes.  Images are read over one HTTP pool of
our own, from URLs that it signs: with a deadline that is total, and somewhat less CPU.
"""

import base64
import contextlib
import hashlib
import logging
import re
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import urllib3

from transforms.core import uris
from transforms.core.errors import ImageError, LemmabeamError, StoreError, UsageError
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
from transforms.storage.ranges import open_ranges

# Not shorter: a clock may be a quarter of an hour off before S3 says that it is the clock.
_SIGNED_SEC = 3600
_MD5 = re.compile('[0-9a-f]{32}')
_ANSWERS = (200, 206)
_CONNECT_SEC, _READ_SEC = 10, 60

_CODE = re.compile(rb'<Code>\s*(\w{1,64})\s*</Code>')
_MD5 = re.compile(r'[0-9a-f]{32}')
_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    'crc32c': lambda data: google_crc32c.value(data).to_bytes(4, 'big'),
    'crc32': lambda data: zlib.crc32(data).to_bytes(4, 'big'),
    'sha256': lambda data: hashlib.sha256(data).digest(),
    'sha1': lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
}

_NO_KEYS = (
    'no usable AWS credentials: run `aws sso login` or `aws configure`, or set AWS_PROFILE or '
    'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
)
_EXPIRED = 'the AWS credentials have expired: log in again, or renew AWS_SESSION_TOKEN'
_UNKNOWN_KEY = (
    'the store does not know the AWS access key or session token: check AWS_PROFILE, '
    'AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN'
)
_CLOCK = 'the store rejects the time of this machine: set its clock'
_CREDENTIALS = {
    'ExpiredToken': _EXPIRED,
    'ExpiredTokenException': _EXPIRED,
    'TokenRefreshRequired': _EXPIRED,
    'InvalidAccessKeyId': _UNKNOWN_KEY,
    'InvalidToken': _UNKNOWN_KEY,
    'SignatureDoesNotMatch': 'the AWS secret access key does not belong to the access key: check '
    'AWS_PROFILE or AWS_SECRET_ACCESS_KEY',
    'RequestTimeTooSkewed': _CLOCK,
}
_ELSEWHERE = frozenset(
    'AuthorizationHeaderMalformed AuthorizationQueryParametersError PermanentRedirect '
    'TemporaryRedirect IllegalLocationConstraintException'.split()
)
_MOVED = (301, 302, 307, 308)
_OTHER_REGION = 'the bucket is in another region: name it with --s3_region_name'
_PERMISSIONS = (
    'access denied; the account needs s3:ListBucket, s3:GetObject, s3:PutObject and '
    's3:DeleteObject there'
)
_NOT_PUBLIC = (
    'access denied: not public, and it is read anonymously; for a bucket of yours run `aws sso '
    'login` or `aws configure`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY'
)
_PAYER = 'requester'
_CONTENTS = 'Contents, taken out'
_ENCODED = b'<EncodingType>url</EncodingType>'
_OF_CONTENTS = (
    re.compile(rb'<Key>([^<&]*)</Key>'),
    re.compile(rb'<ETag>(?:"|&quot;|&#34;)?([^<&"]*)(?:"|&quot;|&#34;)?</ETag>'),
    re.compile(rb'<Size>([0-9]+)</Size>'),
    re.compile(rb'<LastModified>([0-9T:.Z-]+)</LastModified>'),
)
_ARCHIVED = 'archived: restore it first'


class S3Store:
    """Buckets of S3; see `transforms.storage.base.Store`.

    An object's version is its ETag.  Credentials, region, profile, AWS_ENDPOINT_URL_S3 and
    AWS_CA_BUNDLE are found as botocore finds them.

    Args:
      endpoint_url: an address other than Amazon's.
      region_name: region of the buckets; that of a bucket elsewhere is looked up once.
      is_payer: pay for requests to requester-pays buckets.
      anonymous: read without credentials, as is done where there are none; then nothing is written.
      tries: when fetching an image is retried.
      at_a_time: requests in flight of one listing; by default several where it is known that names
        are listed in their order: of Amazon's.
      attempts: how often any other request is tried.
      conflict_sec: pauses after each write that conflicted with another one.
      stream_bytes: bytes per request when an object is read as a stream.

    Attributes:
      lacks_credentials: what to do for some, if they were looked for and there are none; else ''.

    Raises:
      UsageError: boto3 is not installed, or region, endpoint or profile cannot be used.
      StoreError: there are credentials, but they cannot be used.
    """

    def __init__(
        self,
        endpoint_url: str | None = None,
        region_name: str | None = None,
        is_payer: bool = False,
        anonymous: bool = False,
        *,
        tries: Tries = TRIES,
        at_a_time: int | None = None,
        attempts: int = 5,
        conflict_sec: Sequence[float] = (0.1, 0.3, 1.0, 2.0),
        stream_bytes: int = 8 * 2**20,
    ) -> None:
        self.tries = tries
        self._attempts = attempts
        self._conflict_sec = conflict_sec
        self._stream_bytes = stream_bytes
        try:
            import botocore.session
        except ImportError as e:
            raise UsageError("s3:// needs boto3: pip install 'lemmabeam[aws]'") from e
        session = botocore.session.Session()
        with _systemic('s3://'):
            is_lacking = not anonymous and session.get_credentials() is None
            self.lacks_credentials = _NO_KEYS if is_lacking else ''
            self._is_anonymous = anonymous or is_lacking
            self._client = _make_client(
                session, endpoint_url, region_name, attempts, self._is_anonymous
            )
            ca_certs = session.get_config_variable('ca_bundle')
        several = AT_A_TIME if _is_amazons(self._client) else 1
        self._at_a_time = several if at_a_time is None else at_a_time
        # By this name it comes before one that parses a whole listing to see that it is no error.
        self._client.meta.events.register_first('before-parse.*.ListObjectsV2', _take_contents)
        # As stored: the checksum is of the stored bytes.
        self._headers = {'Accept-Encoding': 'identity', 'x-amz-checksum-mode': 'ENABLED'}
        if is_payer:
            self._client.meta.events.register('provide-client-params.s3', _pay)
            self._headers['x-amz-request-payer'] = _PAYER
        self._pool = make_pool(self._client.meta.endpoint_url, ca_certs)
        # At DEBUG they log signed URLs, which are as good as a password for an hour, and tokens.
        logging.getLogger('urllib3.connectionpool').addFilter(_is_unsigned)
        logging.getLogger('botocore').setLevel(logging.INFO)
        self._lock = threading.Lock()
        self._located: set[str] = set()

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()
        self._pool.clear()

    def stat(self, uri: str) -> Entry | None:
        from botocore.exceptions import ClientError

        bucket, key = uris.split_object(uri)
        if not key or key.endswith('/'):  # a console's marker of an empty folder
            return None
        with self._systemic(uri):
            try:
                found = self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as e:
                if _status_of(e) == 404:
                    return None
                self.is_folder(uri)  # says why: the answer to HEAD has no body that could
                raise
        if uris.may_mark_folder(found['ContentLength'], found.get('ContentType')) and (
            self.is_folder(uri)
        ):
            return None
        return _entry(uri, found.get('ETag'), found['ContentLength'], found['LastModified'])

    def is_folder(self, uri: str) -> bool:
        bucket, prefix = _folder(uri)
        with self._systemic(uri):
            page = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return bool(_listed(page).found) or not prefix  # an empty bucket is one, too

    def list(
        self,
        folder: str,
        max_depth: int | None = None,
        by_every_name: bool = False,  # noqa: ARG002 (there are no links)
        starts_with: str = '',
    ) -> Iterator[Entry]:
        bucket, prefix = _folder(folder)
        options = {'Bucket': bucket, 'Prefix': prefix + starts_with}
        if max_depth == 1:
            options['Delimiter'] = '/'
        root = f's3://{bucket}/'

        def ask(after: str, until: str, token: str) -> Page:  # noqa: ARG001 (it tells no end)
            bounds = {'StartAfter': after[len(root) :], 'ContinuationToken': token}
            wanted = {name: value for name, value in bounds.items() if value}
            page = _listed(self._client.list_objects_v2(**options, **wanted))
            last = page.found[-1][0] if page.found else page.last_folder
            entries = [
                _entry(root + key, etag, size, written)
                for key, etag, size, written in page.found  # markers of folders are not given on
                if not key.endswith('/')
            ]
            return Page(entries, last and root + last, page.token)

        # Buckets of one availability zone are not listed in the order of the names.
        at_a_time = 1 if bucket.endswith('--x-s3') else self._at_a_time
        with self._systemic(folder):
            yield from list_pages(ask, root + options['Prefix'], at_a_time)

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        bucket, key = uris.split_object(uri)
        if key.endswith('/'):
            raise ImageError(Reason.NOT_A_FILE, 'a folder')
        return read_object(
            lambda: self._ask(bucket, key, unless, part),
            _check,
            lambda headers: _version(headers.get('ETag')),
            limits,
            admit,
            tries=self.tries,
            part=part,
        )

    def _ask(
        self, bucket: str, key: str, unless: str, part: Part | None
    ) -> urllib3.BaseHTTPResponse:
        response = self._get(bucket, key, unless, part)
        if response.status in _ANSWERS:
            return response
        error = self._error_of(bucket, response, unless)
        if isinstance(error, _ElsewhereError):
            self._locate(bucket)
            response = self._get(bucket, key, unless, part)
            if response.status in _ANSWERS:
                return response
            error = self._error_of(bucket, response, unless)
        if part is not None and response.status in NO_SUCH_PART:
            raise changed(part)
        raise error

    def _get(
        self, bucket: str, key: str, unless: str = '', part: Part | None = None
    ) -> urllib3.BaseHTTPResponse:
        with _signing():
            url = self._client.generate_presigned_url(
                'get_object',
                Params={'Bucket': bucket, 'Key': key, 'ChecksumMode': 'ENABLED'},
                ExpiresIn=_SIGNED_SEC,
            )
        headers = {**self._headers, **range_of(part)}
        if unless:
            headers['If-None-Match'] = f'"{unless}"'
        if part is not None:
            headers['If-Match'] = f'"{part.version}"'
        return self._pool.request(
            'GET', _keep_dots(url), headers=headers, preload_content=False, timeout=seconds_left()
        )

    def _error_of(self, bucket: str, response: urllib3.BaseHTTPResponse, unless: str) -> Exception:
        error = _error_of(bucket, response, unless)
        is_refused = self._is_anonymous and response.status in (401, 403)
        if is_refused and isinstance(error, ImageError) and not error.is_its_own:
            # Of an object: others of its bucket may be public.
            return ImageError(Reason.FORBIDDEN, f'HTTP {response.status}: {_NOT_PUBLIC}')
        return error

    def _systemic(self, uri: str) -> contextlib.AbstractContextManager[None]:
        return _systemic(uri, _NOT_PUBLIC if self._is_anonymous else _PERMISSIONS)

    def _locate(self, bucket: str) -> None:
        """Has the client look up the region of a bucket, for which it signs from then on."""
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            if bucket not in self._located:
                # Whatever else is wrong, the next request tells it.
                with contextlib.suppress(BotoCoreError, ClientError):
                    self._client.head_bucket(Bucket=bucket)
                self._located.add(bucket)

    def open(self, uri: str) -> BinaryIO:
        entry = self.stat(uri)
        if entry is None:
            raise UsageError(f'cannot read {uri}: no such object')
        return self._stream(entry)

    def _stream(self, entry: Entry) -> BinaryIO:
        def read(start: int, end: int) -> bytes:
            options = {'Range': f'bytes={start}-{end - 1}', 'IfMatch': entry.version}
            with self._systemic(entry.uri):
                return _read(self._client, entry.uri, self._attempts, **options).data

        return open_ranges(entry.size_bytes, read, self._stream_bytes)

    def read(self, uri: str) -> bytes | None:
        seen = self.look(uri)
        return None if seen is None else seen.data

    def look(self, uri: str) -> Seen | None:
        from botocore.exceptions import ClientError

        with self._systemic(uri):
            try:
                return _read(self._client, uri, self._attempts)
            except ClientError as e:
                if _code_of(e) == 'NoSuchKey':
                    return None
                raise

    def write(self, uri: str, data: bytes) -> None:
        with self._systemic(uri):
            self._put(uri, data)

    def create(self, uri: str, data: bytes) -> bool:
        with self._systemic(uri):
            # Gone again: a delete of this name at the same time.
            return self._try(lambda: self._put(uri, data, IfNoneMatch='*'), 'NoSuchKey')

    def place(self, uri: str, target: str) -> bool:
        self._check_writable(uri)
        source, copy = map(uris.split_object, (uri, target))
        with self._systemic(uri):
            return self._try(
                lambda: self._client.copy_object(
                    Bucket=copy[0],
                    Key=copy[1],
                    CopySource=dict(zip(('Bucket', 'Key'), source, strict=True)),
                )
            )

    def replace(self, uri: str, data: bytes, seen: Seen) -> bool:
        with self._systemic(uri):
            return self._try(lambda: self._put(uri, data, IfMatch=f'"{seen.version}"'))

    def delete(self, uri: str, seen: Seen | None = None) -> bool:
        from botocore.exceptions import ClientError

        self._check_writable(uri)
        bucket, key = uris.split_object(uri)
        conditions = {} if seen is None else {'IfMatch': f'"{seen.version}"'}
        with self._systemic(uri):
            try:
                return self._try(
                    lambda: self._client.delete_object(Bucket=bucket, Key=key, **conditions)
                )
            except ClientError as e:
                # Amazon's has conditions for it since 2025, others not yet.
                if seen is None or _status_of(e) != 501:
                    raise
                return False

    def _check_writable(self, uri: str) -> None:
        if self._is_anonymous:
            raise StoreError(f'{uri}: nothing is written anonymously, and there are {_NO_KEYS}')

    def _try(self, request: Callable[[], object], another_try: str = '') -> bool:
        """Sends a request that the store may refuse for its condition; whether it was accepted.

        Args:
          request: to be sent.
          another_try: the code of an error that only means a race that nobody has won yet.
        """
        from botocore.exceptions import ClientError

        for delay_sec in (*self._conflict_sec, None):
            try:
                request()
                return True
            except ClientError as e:
                code = _code_of(e)
                is_race = _status_of(e) == 409 or code == another_try
                if not is_race and (_status_of(e) == 412 or code == 'NoSuchKey'):
                    return False
                if not is_race or delay_sec is None:
                    raise
            time.sleep(delay_sec)
        raise AssertionError('unreachable')

    def _put(self, uri: str, data: bytes, **conditions: str) -> None:
        self._check_writable(uri)
        bucket, key = uris.split_object(uri)
        self._client.put_object(
            Bucket=bucket, Key=key, Body=data, ContentType='application/octet-stream', **conditions
        )


def _make_client(
    session: Any,
    endpoint_url: str | None,
    region_name: str | None,
    attempts: int,
    is_anonymous: bool,
) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        signature_version=UNSIGNED if is_anonymous else 's3v4',
        retries={'mode': 'standard', 'total_max_attempts': attempts},
        connect_timeout=_CONNECT_SEC,
        read_timeout=_READ_SEC,
        max_pool_connections=POOL_SIZE,
    )

    def make(config: Any) -> Any:
        return session.create_client(
            's3', region_name=region_name, endpoint_url=endpoint_url, config=config
        )

    try:
        client = make(config)
    except ValueError as e:
        if isinstance(e, BotoCoreError):  # about something else, of which `_systemic` knows
            raise
        raise UsageError('--s3_endpoint_url or AWS_ENDPOINT_URL_S3: not a URL') from e
    ours = client.meta.config.s3 or {}
    if _is_amazons(client) and ours.get('addressing_style') != 'path':
        # Otherwise URLs are signed for the global host, which is slower and redirects new buckets.
        client = make(config.merge(Config(s3={**ours, 'addressing_style': 'virtual'})))
    return client


def _is_amazons(client: Any) -> bool:
    return '.amazonaws.' in (urllib.parse.urlsplit(client.meta.endpoint_url).hostname or '')


def _pay(params: dict[str, Any], model: Any, **_: object) -> None:
    """Makes the requester pay, in each kind of request that supports it."""
    if 'RequestPayer' in model.input_shape.members:
        params['RequestPayer'] = _PAYER


class _Listed(NamedTuple):
    """A page of a listing.

    Attributes:
      found: of each object key, ETag, size, and when it was written.
      last_folder: the last of the folders, where these are not entered.
      token: of the next page.
    """

    found: list[tuple[str, str, int, datetime]]
    last_folder: str
    token: str


def _take_contents(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Takes the objects out of a listing before botocore parses it, at 90 us each.

    What is not of the usual form is left to it.
    """
    body = response_dict['body']
    count = body.count(b'<Contents>')
    if response_dict['status_code'] != 200 or not count or _ENCODED not in body:
        return
    columns = [each.findall(body) for each in _OF_CONTENTS]
    if any(len(column) != count for column in columns):
        return
    decode = urllib.parse.unquote_plus
    with contextlib.suppress(ValueError):
        customized_response_dict[_CONTENTS] = [
            (decode(key.decode()), tag.decode(), int(size), datetime.fromisoformat(at.decode()))
            for key, tag, size, at in zip(*columns, strict=True)
        ]
        start, end = body.index(b'<Contents>'), body.rindex(b'</Contents>')
        response_dict['body'] = body[:start] + body[end + len(b'</Contents>') :]


def _listed(answer: Mapping[str, Any]) -> _Listed:
    found = answer.get(_CONTENTS)
    if found is None:
        found = [
            (each['Key'], each.get('ETag', ''), each['Size'], each['LastModified'])
            for each in answer.get('Contents', ())
        ]
    folders = answer.get('CommonPrefixes', ())
    last_folder = folders[-1]['Prefix'] if folders else ''
    return _Listed(found, last_folder, answer.get('NextContinuationToken', ''))


def _folder(uri: str) -> tuple[str, str]:
    bucket, prefix = uris.split_object(uri)
    return bucket, f'{prefix.rstrip("/")}/' if prefix else ''


def _read(client: Any, uri: str, attempts: int, **options: str) -> Seen:
    """Reads an object or a range of it; a body that breaks off is read again."""
    from botocore.exceptions import BotoCoreError

    bucket, key = uris.split_object(uri)
    for attempt in range(attempts):
        answer = client.get_object(Bucket=bucket, Key=key, **options)
        with contextlib.closing(answer['Body']) as body:
            try:
                return Seen(body.read(), _version(answer.get('ETag')))
            except BotoCoreError:
                if attempt == attempts - 1:
                    raise
    raise AssertionError('unreachable')


def _entry(uri: str, etag: str | None, size_bytes: int, modified: datetime) -> Entry:
    version = _version(etag)
    # Of an object uploaded in parts it says how many; of an encrypted one it is like no other's.
    checksum = f's3:{version}' if _MD5.fullmatch(version) else ''
    return Entry(uri, version, size_bytes, modified_at=modified.timestamp(), checksum=checksum)


def _version(etag: str | None) -> str:
    return (etag or '').strip('"')


def _keep_dots(url: str) -> str:
    """Percent-encodes parts '.' and '..' of the path, which a client would resolve."""
    head, mark, query = url.partition('?')
    parts = [part.replace('.', '%2E') if part in ('.', '..') else part for part in head.split('/')]
    return '/'.join(parts) + mark + query


def _is_unsigned(record: logging.LogRecord) -> bool:
    return 'X-Amz-Signature' not in record.getMessage()


def _check(headers: Any, data: bytes) -> None:
    if headers.get('x-amz-checksum-type', '').upper() != 'COMPOSITE':
        for name, digest in _CHECKSUMS.items():
            expected = headers.get(f'x-amz-checksum-{name}', '')
            if expected and '-' not in expected:  # else of the parts' checksums
                _compare(name, base64.b64encode(digest(data)).decode(), expected)
                return
    etag = _version(headers.get('ETag'))
    # Encrypted with a key of one's own, the ETag is of something else.
    has_own_key = 'kms' in headers.get('x-amz-server-side-encryption', '') or (
        'x-amz-server-side-encryption-customer-algorithm' in headers
    )
    if _MD5.fullmatch(etag) and not has_own_key:
        _compare('md5', hashlib.md5(data, usedforsecurity=False).hexdigest(), etag)


def _compare(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise TransientError(Reason.CHECKSUM, f'{name} is {actual}, the store says otherwise')


class _ElsewhereError(StoreError):
    """The bucket is in another region than the request was made for."""


def _error_of(bucket: str, response: urllib3.BaseHTTPResponse, unless: str) -> Exception:
    body = read_error(response)
    match = _CODE.search(body)
    code = match[1].decode('ascii', 'replace') if match else ''
    status = response.status
    if status == 304 and unless:
        return NotModified()
    error = _systemic_error(f's3://{bucket}', code, status)
    if error is not None:
        return error
    if code == 'InvalidObjectState':
        archived = ImageError(Reason.FORBIDDEN, _ARCHIVED)
        archived.is_its_own = True  # told to those only who may read it
        return archived
    if code in ('RequestTimeout', 'SlowDown') or status in (408, 429) or status >= 500:
        heed_retry_after(response.headers, f'HTTP {status}')
        return TransientError(Reason.STORE_ERROR, f'HTTP {status}')
    if status == 403 and b'<ServerTime>' in body:  # 'expired' or 'not yet valid': neither is ours
        return StoreError(f's3://{bucket}: {_CLOCK}')
    reasons = {401: Reason.FORBIDDEN, 403: Reason.FORBIDDEN, 404: Reason.NOT_FOUND}
    return ImageError(reasons.get(status, Reason.STORE_ERROR), f'HTTP {status}')


def _systemic_error(uri: str, code: str, status: int) -> LemmabeamError | None:
    """What is wrong with credentials, region or bucket, by an S3 error code; None if nothing is."""
    if code in _CREDENTIALS:
        return StoreError(f'{uri}: {_CREDENTIALS[code]}')
    if code == 'NoSuchBucket':
        return StoreError(f'{uri}: no such bucket')
    if code in _ELSEWHERE or status in _MOVED:
        return _ElsewhereError(f'{uri}: {_OTHER_REGION}')
    return None


def _status_of(error: Any) -> int:
    return int(error.response.get('ResponseMetadata', {}).get('HTTPStatusCode', 0))


def _code_of(error: Any) -> str:
    return str(error.response.get('Error', {}).get('Code', ''))


@contextlib.contextmanager
def _systemic(uri: str, denied: str = _PERMISSIONS) -> Iterator[None]:
    """Turns what the client library raises into an error about the whole store."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except exceptions.ClientError as e:
        raise _explain(uri, _code_of(e), _status_of(e), denied) from e
    except (exceptions.ProfileNotFound, exceptions.ConfigParseError) as e:
        raise UsageError('AWS_PROFILE: no such profile, or ~/.aws/config is damaged') from e
    except exceptions.InvalidRegionError as e:
        raise UsageError('--s3_region_name or AWS_REGION: not the name of a region') from e
    except exceptions.ParamValidationError as e:
        raise UsageError(f'{uris.printable(uri)}: not a name that S3 allows') from e
    except (exceptions.HTTPClientError, exceptions.ConnectionError, OSError) as e:
        raise StoreError(f'{uri}: the store cannot be reached') from e
    except (exceptions.BotoCoreError, ResponseParserError, RuntimeError) as e:
        if _is_about_credentials(e):
            raise StoreError(f'{uri}: {_NO_KEYS}') from e
        raise StoreError(f'{uri}: the store gave an unexpected answer') from e


def _explain(uri: str, code: str, status: int, denied: str) -> LemmabeamError:
    if code == 'NoSuchBucket':
        return UsageError(f'{uri}: no such bucket {uris.split_object(uri)[0]}')
    if error := _systemic_error(uri, code, status):
        return error
    if code == 'InvalidObjectState':
        return StoreError(f'{uri}: {_ARCHIVED}')
    match status:
        case 401 | 403:
            return StoreError(f'{uri}: {denied}')
        case 404:
            return UsageError(f'{uri}: no such bucket or object')
        case 412:
            return StoreError(f'{uri}: changed while it was read')
        case 501:
            return StoreError(
                f'{uri}: the store does not support conditional writes, or '
                'something else that is needed'
            )
    return StoreError(f'{uri}: the store gave an unexpected answer (HTTP {status})')


def _is_about_credentials(error: Exception) -> bool:
    # RuntimeError: refreshed, and expired all the same.
    name = type(error).__name__
    return isinstance(error, RuntimeError) or any(
        word in name for word in ('Credential', 'Token', 'SSO', 'Login', 'MFA')
    )


@contextlib.contextmanager
def _signing() -> Iterator[None]:
    """Explains what fails while a URL is signed: missing credentials, or an endpoint's region."""
    from botocore import exceptions

    try:
        yield
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as e:
        raise TransientError(Reason.STORE_ERROR, 'no AWS credentials: no connection') from e
    except exceptions.ParamValidationError as e:
        raise ImageError(Reason.BAD_URI, 'not a name that S3 allows') from e
    except (exceptions.BotoCoreError, exceptions.ClientError, RuntimeError) as e:
        raise StoreError(_NO_KEYS) from e
