"""A hub on 127.0.0.1: speaks the protocols of TF-Hub and Kaggle, and can break each promise."""

import threading
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.fault_proxy import HINT
from tests.loopback import Handler, LoopbackServer

_PIECE_BYTES = 1000


class Request(NamedTuple):
    """What was asked for."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


class HubServer(LoopbackServer):
    """Answers as told, path by path; others are 404.

    Attributes:
      requests: what was asked so far.
      sent: set as soon as an answer that stalls has sent its part.
      other_name: the same server under another host name.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.sent = threading.Event()
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        outer = self

        class Answering(Handler):
            def respond(self):
                self.hub = outer
                self.asked = outer._record(self.path, dict(self.headers))
                outer._next_answer(self.asked.path)(self)

        super().__init__(Answering)
        self.other_name = f'http://localhost:{self.port}'

    def put(self, path: str, *answers: 'Answer') -> str:
        """Sets the answers of a path, one a request, the last for all that follow; its URL."""
        self._answers[path] = list(answers)
        return self.url + path

    def _record(self, path: str, headers: dict[str, str]) -> Request:
        parts = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
        request = Request(urllib.parse.unquote(parts.path), query, headers)
        with self._lock:
            self.requests.append(request)
        return request

    def _next_answer(self, path: str) -> 'Answer':
        with self._lock:
            answers = self._answers.get(path, [status(404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]


Answer = Callable[[Any], None]


def _head(handler, code: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(code)
    # An exception that a test keeps would keep a connection, too, and its thread would wait.
    handler.send_header('Connection', 'close')
    for name, value in headers.items():
        handler.send_header(name.replace('_', '-'), value)
    if length is not None:
        handler.send_header('Content-Length', str(length))
    handler.end_headers()


def body(data: bytes, content_type: str = 'application/x-tar') -> Answer:
    """These bytes, whatever is asked."""

    def answer(handler):
        _head(handler, length=len(data), Content_Type=content_type)
        handler.wfile.write(data)

    return answer


def module(data: bytes) -> Answer:
    """An archive as TF-Hub gives it: only to those who ask for it; a page about it to others."""

    def answer(handler):
        is_asked = handler.asked.query.get('tf-hub-format') == ['compressed']
        (body(data, 'application/gzip') if is_asked else PAGE)(handler)

    return answer


PAGE = body(b'<!DOCTYPE html><title>A model</title>', 'text/html; charset=utf-8')


def hinted(answer: Answer) -> Answer:
    """The same behind an interim answer, as content delivery networks send them."""

    def hint_and_answer(handler):
        handler.wfile.write(HINT)
        answer(handler)

    return hint_and_answer


def status(code: int, text: bytes = b'') -> Answer:
    def answer(handler):
        _head(handler, code, len(text))
        handler.wfile.write(text)

    return answer


def redirect(url: str, code: int = 302) -> Answer:
    def answer(handler):
        _head(handler, code, 0, Location=url)

    return answer


def chunked(data: bytes) -> Answer:
    """Of unknown length."""

    def answer(handler):
        _head(handler, Transfer_Encoding='chunked')
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            handler.wfile.write(b'%x\r\n%s\r\n' % (len(piece), piece))
        handler.wfile.write(b'0\r\n\r\n')

    return answer


def cut(data: bytes, size_bytes: int) -> Answer:
    """Promises all of the data, sends so many bytes and hangs up."""

    def answer(handler):
        _head(handler, length=len(data))
        handler.wfile.write(data[:size_bytes])

    return answer


def stall(data: bytes, size_bytes: int) -> Answer:
    """Sends so many bytes and then nothing, until the server is closed."""

    def answer(handler):
        _head(handler, length=len(data))
        handler.wfile.write(data[:size_bytes])
        handler.wfile.flush()
        handler.hub.sent.set()
        handler.hub.stopping.wait(20)

    return answer


def silence(handler) -> None:
    """Not even a status line, until the server is closed."""
    handler.hub.stopping.wait(20)
    handler.close_connection = True


def drip(data: bytes, every_sec: float) -> Answer:
    """A byte at a time."""

    def answer(handler):
        _head(handler, length=len(data))
        for i in range(len(data)):
            if handler.hub.stopping.wait(every_sec):
                break
            handler.wfile.write(data[i : i + 1])
            handler.wfile.flush()

    return answer


def hang_up(handler) -> None:
    handler.close_connection = True
