"""A server on loopback of which nothing can be had but listings, as slow as a distant store.

It speaks as Google Cloud Storage and as S3 do, of objects that are nothing but their names:
`python -m tests.support.listing_server NAMES` for those that a file has, one a line.
"""

import bisect
import collections
import html
import json
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.loopback import Handler, LoopbackServer

MD5 = 'rL0Y20zC+Fzt72VPzMSk2A=='
_ETAG = '&quot;acbd18db4cc2f85cedef654fccc4a4d8&quot;'


class ListingServer:
    """One bucket, whatever its name.

    Args:
      names: of its objects, in their order.
      pause_sec: before each answer.
      page: names in one at most.
      is_encoding: whether S3's names are percent-encoded, as they are asked for.

    Attributes:
      url: 'http://127.0.0.1:port'.
      asked: the queries so far.
      refusals: statuses of the next answers, before it answers properly again.
    """

    def __init__(
        self,
        names: Sequence[str],
        pause_sec: float = 0.0,
        page: int = 1000,
        is_encoding: bool = True,
    ):
        self._names = names
        self._pause_sec = pause_sec
        self._page = page
        self._is_encoding = is_encoding
        self.asked: list[dict[str, str]] = []
        self.refusals: collections.deque[int] = collections.deque()
        outer = self

        class Answering(Handler):
            def respond(self) -> None:
                status, data = outer._answer(self.path)
                self.send_response(status)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = LoopbackServer(Answering)
        self.url = self._server.url

    def close(self) -> None:
        """Ends it."""
        self._server.close()

    def _answer(self, path: str) -> tuple[int, bytes]:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        self.asked.append(query)
        time.sleep(self._pause_sec)
        if self.refusals:
            return self.refusals.popleft(), b''
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
        if 'list-type' in query:
            after = query.get('continuation-token') or query.get('start-after', '')
            start = bisect.bisect_right(self._names, after) if after else 0
            found = self._list(start, prefix, delimiter, int(query.get('max-keys', self._page)))
            return 200, _as_s3(*found, self._is_encoding)
        first = query.get('pageToken') or query.get('startOffset', '')
        start = bisect.bisect_left(self._names, first)
        end = query.get('endOffset', '')
        found = self._list(start, prefix, delimiter, int(query['maxResults']), end)
        return 200, _as_gcs(self._names, *found)

    def _list(
        self, start: int, prefix: str, delimiter: str, most: int, end: str = ''
    ) -> tuple[list[str], list[str], int]:
        """Names, folders, and where the next page begins; -1 if there is none."""
        names: list[str] = []
        folders: list[str] = []
        most = min(most, self._page)
        number = max(start, bisect.bisect_left(self._names, prefix))
        while number < len(self._names):
            name = self._names[number]
            if not name.startswith(prefix) or (end and name >= end):
                break
            if len(names) + len(folders) == most:
                return names, folders, number
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                names.append(name)
                number += 1
            else:
                folders.append(name[: cut + 1])
                number = bisect.bisect_left(self._names, f'{name[:cut]}0', lo=number)
        return names, folders, -1


def _as_gcs(every: Sequence[str], names: list[str], folders: list[str], following: int) -> bytes:
    page: dict[str, Any] = {
        'items': [
            {
                'name': name,
                'size': '123456',
                'generation': '1790000000000000',
                'timeCreated': '2026-01-02T03:04:05.678Z',
                'md5Hash': MD5,
            }
            for name in names
        ],
        'prefixes': folders,
    }
    if following >= 0:
        page['nextPageToken'] = every[following]
    return json.dumps(page).encode()


def _as_s3(names: list[str], folders: list[str], following: int, is_encoding: bool) -> bytes:
    def written(name: str) -> str:
        return html.escape(urllib.parse.quote_plus(name, safe='/') if is_encoding else name)

    contents = ''.join(
        f'<Contents><Key>{written(name)}</Key><LastModified>2026-01-02T03:04:05.678Z'
        f'</LastModified><ETag>{_ETAG}</ETag><Size>123456</Size>'
        '<StorageClass>STANDARD</StorageClass></Contents>'
        for name in names
    )
    prefixes = ''.join(
        f'<CommonPrefixes><Prefix>{written(each)}</Prefix></CommonPrefixes>' for each in folders
    )
    token = ''
    if following >= 0:
        last = max(*names[-1:], *(f'{each[:-1]}/\U0010ffff' for each in folders[-1:]), '')
        token = f'<NextContinuationToken>{html.escape(last)}</NextContinuationToken>'
    encoding = '<EncodingType>url</EncodingType>' if is_encoding else ''
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f'{encoding}<IsTruncated>{str(following >= 0).lower()}</IsTruncated>'
        f'{token}{contents}{prefixes}</ListBucketResult>'
    ).encode()


if __name__ == '__main__':
    server = ListingServer(Path(sys.argv[1]).read_text().splitlines(), float(sys.argv[2]))
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()
