"""Interim answers of web servers, which Python's client takes for the answer itself.

Any number of answers 1xx may come before the one that counts (RFC 9110, 15.2): content delivery
networks send 103, whose headers let a browser begin early.  `http.client` passes over 100 alone.
It would give a 103 to whoever asked, without a body, and the real answer, when it comes, to
whoever asks next over the same connection: a picture of another name, or an empty listing.
"""

import http.client

from urllib3.connection import HTTPConnection


class FinalResponse(http.client.HTTPResponse):
    """An answer, whatever interim ones came before it."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                # Nobody asked for it, and what follows is no HTTP.
                raise http.client.HTTPException('another protocol')
            http.client.parse_headers(self.fp)  # and nothing else: it has no body


def install() -> None:
    """Passes over interim answers in all clients of this process that build on urllib3.

    Those of Google Cloud Storage, S3 and model hubs among them; once is enough.
    """
    HTTPConnection.response_class = FinalResponse
