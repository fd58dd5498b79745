"""A proxy on loopback before a storage emulator that spoils what images are read with.

It passes everything on, and does one kind of harm to a share of the requests for the bytes of
objects.  Which ones depends on the seed, the name and how often it was asked for, never on timing.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import select
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import google_crc32c
import urllib3

from tests.support.loopback import HttpServer

_DRIP_SEC = 0.1
# Between a proxy and its peers alone (RFC 9110), or made anew here.
_HOP_BY_HOP = frozenset('connection keep-alive transfer-encoding te trailer upgrade host'.split())


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to which requests for images.

    Attributes:
      kind: a key of `KINDS`.
      share: of the requests, or of the objects, from 0 to 1.
      is_lasting: the chosen objects always fail; otherwise every request is chosen for itself.
      prefix: of the object names that may be chosen.
      seed: other ones are chosen for another seed.
    """

    kind: str
    share: float
    is_lasting: bool = False
    prefix: str = ''
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'{self.kind!r}: expected one of {", ".join(KINDS)}')

    def hits(self, name: str, attempt: int) -> bool:
        """Whether this request, the `attempt`th for its object, is spoiled."""
        if not name.startswith(self.prefix):
            return False
        chosen_by = f'{self.seed}:{name}' if self.is_lasting else f'{self.seed}:{name}:{attempt}'
        digest = hashlib.sha256(chosen_by.encode()).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


HINT = b'HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n'


class FaultProxy:
    """A server on loopback.

    Attributes:
      url: 'http://127.0.0.1:port', for STORAGE_EMULATOR_HOST.
      fault: what it does now; None passes everything on.
      interim: what it sends before every answer, as content delivery networks do.
      pause_sec: so long it waits before it passes a request on, as a distant store does.
      attempts: how often the bytes of each object were asked for, by name.
      spoiled: how many of those requests were spoiled.
      connections: how many were made to it.
    """

    def __init__(self, upstream: str):
        self.fault: Fault | None = None
        self.interim = b''
        self.pause_sec = 0.0
        self.attempts: Counter[str] = Counter()
        self.spoiled: Counter[str] = Counter()
        self.connections = 0
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._pool = urllib3.PoolManager(maxsize=64, retries=False)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with outer._lock:
                    outer.connections += 1
                    outer._open.add(self.connection)

            def finish(self) -> None:
                with outer._lock:
                    outer._open.discard(self.connection)
                super().finish()

            def log_message(self, *args: object) -> None:
                pass

            def pass_on(self) -> None:
                with contextlib.suppress(OSError):
                    outer._answer(self, upstream)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = pass_on  # noqa: N815

        self._server = _Server(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def set(self, fault: Fault | None) -> None:
        """Changes what it does, and forgets what was asked for."""
        with self._lock:
            self.fault = fault
            self.attempts.clear()
            self.spoiled.clear()

    def close(self) -> None:
        """Ends every answer that is under way, and waits for the threads."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join(5)
        with self._lock:
            for connection in self._open:  # kept alive, or waiting for their peer
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._pool.clear()

    def _answer(self, handler: Any, upstream: str) -> None:
        body = handler.rfile.read(int(handler.headers.get('Content-Length', 0)))
        kind = self._chosen(handler)
        self.stopping.wait(self.pause_sec)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP_BY_HOP}
        response = self._pool.request(
            handler.command,
            upstream + handler.path,
            body=body or None,
            headers=headers,
            redirect=False,
            decode_content=False,
        )
        data = response.data
        kept = [
            (name, value)
            for name, value in response.headers.items()
            if name.lower() not in _HOP_BY_HOP | {'content-length'}
        ]
        if handler.command == 'HEAD':
            length = response.headers.get('Content-Length', '0')
        else:
            length = str(len(data))
        answer = Answer(response.status, [*kept, ('Content-Length', length)], data)
        _send(handler, self.interim)
        if kind is None or response.status != 200:
            _send(handler, answer.head() + data)
        else:
            KINDS[kind](handler, answer, self.stopping)

    def _chosen(self, handler: Any) -> str | None:
        parts = urllib.parse.urlsplit(handler.path)
        is_media = parts.path.startswith('/download/storage/v1/b/') and 'alt=media' in parts.query
        if handler.command != 'GET' or not is_media:
            return None
        name = urllib.parse.unquote(parts.path.partition('/o/')[2])
        with self._lock:
            self.attempts[name] += 1
            fault = self.fault
            if fault is None or not fault.hits(name, self.attempts[name]):
                return None
            self.spoiled[name] += 1
            return fault.kind


class _Server(HttpServer):
    # Connections that wait to be accepted: over five of them, the kernel lets one wait a second.
    request_queue_size = 128

    def shutdown_request(self, request: Any) -> None:
        """Closes without a shutdown, which would end before a reset what is to be reset."""
        self.close_request(request)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the emulator said."""

    code: int
    headers: list[tuple[str, str]]
    data: bytes

    def head(self) -> bytes:
        """Status line and headers, as they are sent."""
        lines = [
            f'HTTP/1.1 {self.code} {http.server.BaseHTTPRequestHandler.responses[self.code][0]}'
        ]
        lines += [f'{name}: {value}' for name, value in self.headers]
        return '\r\n'.join([*lines, '', '']).encode('latin-1')


Harm = Callable[[Any, Answer, threading.Event], None]


def _send(handler: Any, data: bytes) -> None:
    handler.wfile.write(data)
    handler.wfile.flush()


def _wait_for_peer(handler: Any) -> None:
    """Says nothing until the other side has had enough, or `close` shuts the connection."""
    handler.close_connection = True
    select.select([handler.connection], [], [])


def _drip(handler: Any, data: Iterable[int], stopping: threading.Event) -> None:
    for byte in data:
        if stopping.wait(_DRIP_SEC):
            handler.close_connection = True
            return
        _send(handler, bytes([byte]))


def _status(code: int) -> Harm:
    def harm(handler: Any, answer: Answer, stopping: threading.Event) -> None:
        text = b'{"error": {"message": "try again"}}'
        _send(handler, Answer(code, [('Content-Length', str(len(text)))], b'').head() + text)

    return harm


def _half(handler: Any, answer: Answer) -> None:
    _send(handler, answer.head() + answer.data[: len(answer.data) // 2])


def _reset(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _half(handler, answer)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    handler.close_connection = True


def _truncate(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _half(handler, answer)
    handler.close_connection = True


def _corrupt(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    data = bytearray(answer.data)
    data[len(data) // 2] ^= 1
    _send(handler, answer.head() + data)


def _stall(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _wait_for_peer(handler)


def _stall_within(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _half(handler, answer)
    _wait_for_peer(handler)


def _drip_body(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _send(handler, answer.head())
    _drip(handler, answer.data, stopping)


def _drip_headers(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    _drip(handler, answer.head(), stopping)
    if not handler.close_connection:
        _send(handler, answer.data)


def _another(handler: Any, answer: Answer, stopping: threading.Event) -> None:
    """What another object would have been answered, whole and with headers that fit."""
    data = answer.data[::-1]
    crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, 'big')).decode()
    told = {'x-goog-generation': '1', 'x-goog-hash': f'crc32c={crc32c}'}
    kept = [(name, value) for name, value in answer.headers if name.lower() not in told]
    _send(handler, Answer(answer.code, [*kept, *told.items()], b'').head() + data)


KINDS: dict[str, Harm] = {
    '429': _status(429),
    '500': _status(500),
    '503': _status(503),
    'reset': _reset,
    'truncate': _truncate,
    'corrupt': _corrupt,
    'stall': _stall,
    'stall_within': _stall_within,
    'drip': _drip_body,
    'drip_headers': _drip_headers,
    'another': _another,
}
