"""moto's S3 server: `python -m tests.support.s3_server PORT`.

Conditional writes and deletes are one step, as S3 has them: moto looks first and acts then, and of
two requests at once both may find what they ask for.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

from tests.support import garbage


class _OneWriteAtATime:
    def __init__(self, application: Callable[..., Iterable[bytes]]):
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ['REQUEST_METHOD'] not in ('PUT', 'DELETE'):
            return self._application(environ, start_response)
        with self._lock:
            return self._application(environ, start_response)


if __name__ == '__main__':
    garbage.look_rarely()
    run_simple(
        '127.0.0.1',
        int(sys.argv[1]),
        _OneWriteAtATime(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
