"""A web server on 127.0.0.1 in a thread of its own, for tests to give answers to."""

import contextlib
import http.server
import sys
import threading
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps connections alive and says nothing."""

    protocol_version = 'HTTP/1.1'
    timeout = 5
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # a client that has left
            self.respond()

    def respond(self) -> None:
        """Answers one request."""
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


class HttpServer(http.server.ThreadingHTTPServer):
    """Says nothing of clients that have left."""

    daemon_threads = False

    def handle_error(self, *args: Any) -> None:
        # Clients that hang up, and TLS that is refused, are what tests are about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*args)


class LoopbackServer:
    """Starts at once.

    Attributes:
      port: where it listens.
      stopping: set when it is closed; answers that stall wait for it.
    """

    def __init__(self, handler: type[Handler]):
        self.stopping = threading.Event()
        self._server = HttpServer(('127.0.0.1', 0), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        """'http://127.0.0.1:port'."""
        return f'http://127.0.0.1:{self.port}'

    def close(self) -> None:
        """Ends what is under way."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join(5)
        self._server.socket.close()
