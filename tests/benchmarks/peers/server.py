"""Serves the files of a folder over HTTP on the loopback interface, from memory.

In a process of its own, so that its work counts for nobody: takes the folder, prints its port, and
ends with its standard input.
"""

import http.server
import sys
import threading
from pathlib import Path


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    files: dict[str, bytes]

    def do_GET(self) -> None:
        data = self.files.get(self.path.lstrip('/'))
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Type', 'image/jpeg')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main(folder: Path) -> None:
    _Handler.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
