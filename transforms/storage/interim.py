"""Interim answers of web servers, which Python's client mistakes for the answer itself.

Any number of 1xx answers may come before the final one (RFC 9110, 15.2): content delivery networks
send 103, whose headers let a browser start early.  `http.client` skips only 100.  It would return a
103, without a body, to whoever asked, and the real answer, once it comes, to whoever asks next over
the same connection: the image of another name, or an empty listing.
"""

import http.client

from urllib3.connection import HTTPConnection


class FinalResponse(http.client.HTTPResponse):
    """The final answer, whatever interim ones came before it."""

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
    """Makes all clients of this process that build on urllib3 skip interim answers.

    Those of Google Cloud Storage, S3 and model hubs are among them; calling it once is enough.
    """
    HTTPConnection.response_class = FinalResponse
