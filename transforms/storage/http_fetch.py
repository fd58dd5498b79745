"""Whole objects over HTTP: pooled connections, retries, and total deadlines.

Socket timeouts bound each read, not their sum: a server that sends one byte a second would never
hit one.  Here the time left is set before every read, of headers as well as bodies.
"""

import contextlib
import email.utils
import http.client
import io
import random
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.storage import interim
from transforms.storage.base import Fetched, FetchLimits, Part, changed
from transforms.storage.content_coding import check_size, coding_of, unpack

POOL_SIZE = 64

NO_SUCH_PART = (412, 416)
"""Answers that the version is another one, or too short for the part."""

_READ_BYTES = 256 * 1024
_ERROR_BYTES = 64 * 1024
_BUFFER_BYTES = 32 * 1024
_AT_ONCE_BYTES = 1024 * 1024
_FIRST_BYTES = 64 * 1024
_PART = 206
_MOST_BYTES = 2**63 - 1  # a header may claim more than any column of ours can hold


class Tries(NamedTuple):
    """When fetching an object is retried, until its deadline.

    Attributes:
      silence_sec: longest time without any data.
      pause_sec: pauses have a random length, that of the first one up to this.
      most_pause_sec: the limit doubles with each pause, up to this.
    """

    silence_sec: float = 20.0
    pause_sec: float = 0.2
    most_pause_sec: float = 8.0


TRIES = Tries()


class TransientError(Exception):
    """Worth another try; becomes an ImageError when the deadline leaves no time for one.

    Attributes:
      came: how many bytes came, of how many; None if that is not known, or none came.
    """

    def __init__(self, reason: Reason, detail: str, came: tuple[int, int] | None = None):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.came = came


class _Deadline(threading.local):
    ends_at = float('inf')
    silence_sec = TRIES.silence_sec


_deadline = _Deadline()


def seconds_left() -> float:
    """How long the next read of the object that this thread is fetching may take.

    Raises:
      TimeoutError: no time is left.
    """
    left = _deadline.ends_at - time.monotonic()
    if left <= 0:
        raise TimeoutError('the deadline has passed')
    return min(left, _deadline.silence_sec)


def deadline() -> float:
    """When the object that this thread is fetching must have come, by the monotonic clock."""
    return _deadline.ends_at


def heed_retry_after(headers: Mapping[str, str], detail: str) -> None:
    """Waits before the next try as long as the answer asks, in seconds or with a date.

    Args:
      headers: of an answer after which a retry may help.
      detail: what it said.

    Raises:
      ImageError: at once, if the deadline does not leave that long.
    """
    seconds = seconds_to_wait(headers)
    if not seconds:
        return
    check_wait(seconds, detail)
    time.sleep(seconds)


def check_wait(seconds: float, detail: str) -> None:
    """Checks that the deadline leaves so long a wait.

    Raises:
      ImageError: it does not; `detail` is what the answer said.
    """
    if time.monotonic() + seconds >= _deadline.ends_at:
        raise ImageError(
            Reason.STORE_ERROR, f'{detail}, with a request to come back after the deadline'
        )


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """How long an answer asks to wait before the next request; 0 if it does not."""
    after = headers.get('Retry-After', '').strip()
    if re.fullmatch('[0-9]{1,9}', after):
        return float(after)
    until = _timestamp(after)
    if until is None:
        return 0.0
    # By the clock of who says so, where that is known.
    now = _timestamp(headers.get('Date', ''))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(date: str) -> float | None:
    """Seconds since 1970 of an HTTP date."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


class _PatientSocket(io.RawIOBase):
    """Reads from a socket, never longer than the deadline allows."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._raw = sock.makefile('rb', buffering=0)
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._is_over:
            return None
        self._sock.settimeout(seconds_left())
        return self._raw.readinto(buffer)

    def stop(self) -> None:
        """Stops reading: what was read ahead is all there is."""
        self._is_over = True

    def hang_up(self) -> None:
        """Closes the connection, so that it cannot be reused."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PatientFiles:
    """What a response takes of a socket: the file it reads from."""

    def __init__(self, sock: socket.socket):
        self._sock = sock

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_PatientSocket(self._sock), _BUFFER_BYTES)


class _Response(interim.FinalResponse):
    """An answer after which nothing is left of it on its connection, or that has none left.

    urllib3 gives a connection back to its pool as soon as an answer is read to its end.  What is
    there before the next request goes out, it notices; here is what it cannot see.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any):
        super().__init__(cast(socket.socket, _PatientFiles(sock)), *args, **kwargs)

    def begin(self) -> None:
        super().begin()
        announced = self.headers.get('Content-Length', '0').strip() != '0' or self.chunked
        if self.chunked and 'Content-Length' in self.headers:
            self.will_close = True  # which of the two holds is anybody's guess
        elif self.length == 0 and announced:
            # A 304 says so of the picture that it does not send, and some send it nonetheless.
            self.will_close = True
        lengths = ','.join(self.headers.get_all('Content-Length', ())).split(',')
        if len(set(map(str.strip, lengths))) > 1:
            # urllib3 refuses it, too, but leaves the connection open.
            raise http.client.HTTPException('more than one length')

    def _close_conn(self) -> None:
        connection = cast(_PatientSocket, self.fp.raw)
        connection.stop()
        if self.fp.peek(1):
            connection.hang_up()  # more came than the answer
        super()._close_conn()  # type: ignore[misc]


class PooledHttpConnection(HTTPConnection):
    """A connection whose answers obey the deadline of the thread that asks."""

    response_class = _Response


class PooledHttpsConnection(HTTPSConnection):
    """The same over TLS."""

    response_class = _Response


class PlainPool(HTTPConnectionPool):
    """Connections to one host."""

    ConnectionCls = PooledHttpConnection


class TlsPool(HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = PooledHttpsConnection


def make_pool(endpoint: str, ca_certs: str | None = None) -> urllib3.PoolManager:
    """Connections to one endpoint; with TLS, through the proxy that the environment names.

    Args:
      endpoint: its URL.
      ca_certs: file of the certificates to trust, instead of the system's.
    """
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get('https') if url.scheme == 'https' else None
    options: dict[str, Any] = {'maxsize': POOL_SIZE, 'retries': False, 'ca_certs': ca_certs}
    if proxy and not urllib.request.proxy_bypass(url.hostname or ''):
        pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
    else:
        pool = urllib3.PoolManager(**options)
    interim.install()  # for the other requests of the store, through its own client
    pool.pool_classes_by_scheme = {'http': PlainPool, 'https': TlsPool}
    return pool


class _Room:
    """Memory reserved for the bytes of one object, as they arrive.

    A server that announces much and sends little, or does not say how much, reserves little.
    """

    def __init__(self, admit: Callable[[int], None], most_bytes: int):
        self._admit = admit
        self._most_bytes = most_bytes
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Waits until this many bytes in total, or somewhat more, are reserved."""
        if min(size_bytes, self._most_bytes) <= self.held_bytes:
            return
        self.held_bytes = min(max(size_bytes, 2 * self.held_bytes), self._most_bytes)
        since = time.monotonic()
        self._admit(self.held_bytes)
        # Waiting for our own memory is not the store's fault.
        _deadline.ends_at += time.monotonic() - since

    def give_back(self) -> None:
        """All of it."""
        self.held_bytes = 0
        self._admit(0)


def read_object(
    ask: Callable[[], urllib3.BaseHTTPResponse],
    check: Callable[[Any, bytes], None],
    version_of: Callable[[Any], str],
    limits: FetchLimits,
    admit: Callable[[int], None],
    doubts_length: bool = False,
    tries: Tries = TRIES,
    part: Part | None = None,
    when_read: Callable[[], None] = lambda: None,
) -> Fetched:
    """Reads an object, with retries until it is whole or its time is up.

    Args:
      ask: sends one request, through a pool of connections of this module and with
        `preload_content=False`; returns the answer whose body is the object.
      check: called with headers and body of an answer that came whole.
      version_of: the version of the object, by the headers of its answer.
      limits: refuse larger objects, give up later.
      admit: see `transforms.storage.base.Store.fetch`.
      doubts_length: whether a Content-Length may be wrong: it is if two answers end early, at the
        same byte.
      tries: when it is retried.
      part: what was asked for, if not the whole: then `check` is not called.
      when_read: called after each try, whatever came of it.

    Raises:
      ImageError: deadline, store_error, checksum, too_many_bytes, a body that is not as packed as
        it claims to be, or that is `truncated` by its length, and what `ask` and `check` raise.
      StoreError: what `ask` raises.
    """
    _deadline.ends_at = time.monotonic() + limits.deadline_sec
    _deadline.silence_sec = tries.silence_sec
    room = _Room(admit, limits.max_bytes)

    def read() -> Fetched:
        try:
            return _read_once(ask, check, version_of, limits, room, part)
        except TransientError:
            room.give_back()  # the next try may be long in coming
            raise
        finally:
            when_read()

    try:
        return read()
    except TransientError as e:
        # Most objects come at once and do without this machinery, which takes CPU.
        return _read_again(read, e, limits.deadline_sec, doubts_length, tries)
    finally:
        _deadline.ends_at = float('inf')
        _deadline.silence_sec = TRIES.silence_sec


def _read_again(
    read: Callable[[], Fetched],
    first: TransientError,
    deadline_sec: float,
    doubts_length: bool,
    tries: Tries,
) -> Fetched:
    """Tries again after pauses of random length, which may get longer each time.

    Done here, as the clients of Google and S3 that could do it take half a second to import.
    """
    failures = [first]
    longest_sec = tries.pause_sec
    ends_at = _deadline.ends_at
    while time.monotonic() + (pause_sec := random.uniform(0.0, longest_sec)) <= ends_at:
        time.sleep(pause_sec)
        longest_sec = min(2 * longest_sec, tries.most_pause_sec)
        try:
            return read()._replace(retries=len(failures))
        except TransientError as e:
            if doubts_length and e.came is not None and e.came == failures[-1].came:
                came, said = e.came
                detail = f'{came} bytes, twice, but Content-Length is {said}'
                raise ImageError(Reason.TRUNCATED, detail, came) from e
            failures.append(e)
    # The last try may have had no time left; what the store said before tells more.
    told = [each for each in failures if each.reason is not Reason.DEADLINE]
    last = (told or failures)[-1]
    detail = f'{last.detail}, until {deadline_sec:g} s had passed'
    raise ImageError(last.reason, detail) from failures[-1]


def _read_once(
    ask: Callable[[], urllib3.BaseHTTPResponse],
    check: Callable[[Any, bytes], None],
    version_of: Callable[[Any], str],
    limits: FetchLimits,
    room: _Room,
    part: Part | None,
) -> Fetched:
    response: urllib3.BaseHTTPResponse | None = None
    version = ''
    size: int | None = None
    pieces: list[bytes] = []
    try:
        response = ask()
        version = version_of(response.headers)
        if part is not None and response.status != _PART:
            raise ImageError(Reason.STORE_ERROR, 'the server sends no parts of objects (no 206)')
        coding = coding_of(response.headers.get('Content-Encoding', ''))
        size = response.length_remaining
        if size is not None:
            size = min(size, _MOST_BYTES)
            check_size(size, limits.max_bytes)
        _read_body(response, size, limits.max_bytes, room, pieces)
    except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as e:
        what = 'no answer' if response is None else 'the object was not read'
        raise TransientError(Reason.DEADLINE, what, _came(pieces, size)) from e
    except urllib3.exceptions.HTTPError as e:
        what = 'no connection' if response is None else 'the connection was lost'
        raise TransientError(Reason.STORE_ERROR, what, _came(pieces, size)) from e
    except ImageError as e:
        e.version = version
        raise
    finally:
        if response is not None:
            _let_go(response)
    data = b''.join(pieces)
    if part is not None:
        _check_part(part, version, response.headers, data)
        return Fetched(data, version, len(data))
    check(response.headers, data)
    if coding:
        return Fetched(unpack(data, coding, limits.max_bytes, room.hold), version, len(data))
    return Fetched(data, version, len(data))


def _came(pieces: list[bytes], size: int | None) -> tuple[int, int] | None:
    came = sum(map(len, pieces))
    return (came, size) if came and size is not None else None


def _read_body(
    response: urllib3.BaseHTTPResponse,
    size: int | None,
    max_bytes: int,
    room: _Room,
    pieces: list[bytes],
) -> None:
    room.hold(size if size is not None and size <= _AT_ONCE_BYTES else _FIRST_BYTES)
    came = 0
    while True:
        if came != size:
            room.hold(came + 1)
        # At its end and at the limit, the one byte tells that there is no more, or too much.
        most = max(1, min(_READ_BYTES, room.held_bytes - came))
        piece = response.read1(most, decode_content=False)
        if not piece:
            return
        pieces.append(piece)
        came += len(piece)
        check_size(came, max_bytes)


def _let_go(response: urllib3.BaseHTTPResponse) -> None:
    """Returns a connection to its pool if its answer was read to the end; closes it otherwise."""
    if response.closed:
        response.release_conn()
    else:
        response.close()


def range_of(part: Part | None) -> dict[str, str]:
    """The header that asks for a part of an object; none for the whole."""
    if part is None:
        return {}
    return {'Range': f'bytes={part.offset}-{part.offset + part.size_bytes - 1}'}


def _check_part(part: Part, version: str, headers: Mapping[str, str], data: bytes) -> None:
    """Looks whether an answer is the part that was asked for.

    Raises:
      ImageError: changed_while_reading, unsupported_format.
      TransientError: it is another part.
    """
    if version != part.version:
        raise changed(part)
    said = headers.get('Content-Range', '')
    if coding := coding_of(headers.get('Content-Encoding', '')):
        detail = f'stored with Content-Encoding {coding}, of which no part can be read'
        raise ImageError(Reason.UNSUPPORTED_FORMAT, detail)
    first, last = part.offset, part.offset + part.size_bytes - 1
    if not said.startswith(f'bytes {first}-{last}/') or len(data) != part.size_bytes:
        detail = f'{len(data)} bytes as {said[:50]!r}, not {part.size_bytes} from {first} on'
        raise TransientError(Reason.STORE_ERROR, detail)


def read_error(response: urllib3.BaseHTTPResponse) -> bytes:
    """The start of an answer's body that is not an object; its connection can then be reused."""
    pieces: list[bytes] = []
    try:
        while sum(map(len, pieces)) < _ERROR_BYTES:
            piece = response.read1(_ERROR_BYTES, decode_content=False)
            if not piece:
                break
            pieces.append(piece)
    finally:
        _let_go(response)
    return b''.join(pieces)
