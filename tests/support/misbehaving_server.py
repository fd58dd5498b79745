"""An HTTP server that misbehaves, and ways of doing so.

Its answers carry the headers of both object stores: generation and crc32c, and an ETag.
"""

import base64
import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterable

import google_crc32c

from tests.support.loopback import Handler, LoopbackServer

BODY = random.Random(0).randbytes(5000)

Answer = Callable[[Handler, threading.Event], None]
"""Answers a request; given what is set when the server is closed."""


class Server(LoopbackServer):
    """An HTTP server whose answers are given: one a request, the last one for all that follow."""

    _MOST_REQUESTS = 300

    def __init__(self, answers: Iterable[Answer]):
        self.answers = list(answers)
        self.requests = 0
        self.connections = 0
        lock = threading.Lock()
        outer = self

        class Answering(Handler):
            def setup(self) -> None:
                super().setup()
                with lock:
                    outer.connections += 1

            def respond(self) -> None:
                with lock:
                    outer.requests += 1
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if outer.requests > outer._MOST_REQUESTS:
                    answer = status(404)
                answer(self, outer.stopping)

        super().__init__(Answering)
        # Lets `reset` reset.
        self._server.shutdown_request = self._server.close_request  # type: ignore[method-assign]


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, 'big')).decode()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def head(
    handler: Handler,
    code: int = 200,
    length: int | str | None = 5000,
    data: bytes = BODY,
    **headers: str,
) -> None:
    handler.send_response(code)
    if length is not None:
        handler.send_header('Content-Length', str(length))
    handler.send_header('x-goog-hash', f'crc32c={crc32c(data)}')
    handler.send_header('x-goog-hash', 'md5=AAAA')
    handler.send_header('ETag', f'"{md5(data)}"')
    handler.send_header('x-goog-generation', '7')
    for name, value in headers.items():
        handler.send_header(name.replace('_', '-'), value)
    handler.end_headers()


def good(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    handler.wfile.write(BODY)


def status(code: int, text: bytes = b'', **headers: str) -> Answer:
    def answer(handler: Handler, stopping: threading.Event) -> None:
        head(handler, code, len(text), text, **headers)
        handler.wfile.write(text)

    return answer


def stored(data: bytes, length: int | None = None, **headers: str) -> Answer:
    def answer(handler: Handler, stopping: threading.Event) -> None:
        head(handler, 200, len(data) if length is None else length, data, **headers)
        handler.wfile.write(data)

    return answer


def reset(handler: Handler, stopping: threading.Event) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    handler.close_connection = True


def hang_up(handler: Handler, stopping: threading.Event) -> None:
    handler.close_connection = True


def reset_within(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    handler.wfile.write(BODY[:1000])
    handler.wfile.flush()
    reset(handler, stopping)


def truncated(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    handler.wfile.write(BODY[:-1])
    handler.close_connection = True


def truncated_chunks(handler: Handler, stopping: threading.Event) -> None:
    head(handler, length=None, Transfer_Encoding='chunked')
    handler.wfile.write(b'5\r\nabcde\r\n5\r\nab')
    handler.close_connection = True


def chunked(handler: Handler, stopping: threading.Event) -> None:
    head(handler, length=None, Transfer_Encoding='chunked')
    for start in range(0, len(BODY), 1000):
        handler.wfile.write(b'3E8\r\n' + BODY[start : start + 1000] + b'\r\n')
    handler.wfile.write(b'0\r\n\r\n')


def until_close(handler: Handler, stopping: threading.Event) -> None:
    head(handler, length=None)
    handler.wfile.write(BODY)
    handler.close_connection = True


def wrong_bytes(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    handler.wfile.write(BODY[::-1])


def rubbish(handler: Handler, stopping: threading.Event) -> None:
    handler.wfile.write(b'\x16\x03\x01 this is no HTTP\r\n\r\n')
    handler.close_connection = True


def odd_length(handler: Handler, stopping: threading.Event) -> None:
    head(handler, length='many')
    handler.wfile.write(BODY)
    handler.close_connection = True


def stall(handler: Handler, stopping: threading.Event) -> None:
    stopping.wait(5)


def stall_within(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    handler.wfile.write(BODY[:1000])
    handler.wfile.flush()
    stopping.wait(5)


def drip(handler: Handler, stopping: threading.Event) -> None:
    head(handler)
    for i in range(len(BODY)):
        if stopping.wait(0.02):
            return
        handler.wfile.write(BODY[i : i + 1])
        handler.wfile.flush()


def drip_headers(handler: Handler, stopping: threading.Event) -> None:
    handler.send_response(200)
    for _ in range(500):
        if stopping.wait(0.02):
            return
        handler.send_header('X-Padding', 'x')
        handler.flush_headers()
