"""Downloads over HTTP: whole or not at all, continued if interrupted, given up if they stall.

What comes from outside is not trusted.
"""

import os
import re
import secrets
import time
import urllib.parse
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, cast

import requests
import urllib3
from requests.auth import AuthBase

from transforms.core import uris
from transforms.core.errors import ModelError
from transforms.core.resources import TEMPORARIES
from transforms.storage import interim

PIECE_BYTES = 256 * 2**10

_MOST_REDIRECTS = 10
_CONNECT_SEC = 20.0
_PAUSES_SEC = (1.0, 4.0)  # before the second and the third try
_CONTENT_RANGE = re.compile(r'bytes (\d{1,18})-\d+/(?:\d+|\*)', re.ASCII)

# Where a mirror of a site is to be asked instead, if one is named.
_MIRRORS = {
    'https://tfhub.dev/': 'TFHUB_ENDPOINT',
    'https://storage.googleapis.com/bit_models/': 'BIT_MODELS_ENDPOINT',
}

Auth = AuthBase | tuple[str, str] | None
"""Sent only to the host that is asked, not to one that it redirects to."""


class Pace(NamedTuple):
    """When a download counts as stalled.

    Attributes:
      silence_sec: longest time without a byte.
      window_sec, window_bytes: in each such time at least this many bytes must arrive.
    """

    silence_sec: float = 30.0
    window_sec: float = 60.0
    window_bytes: int = 64 * 2**10


PACE = Pace()


class Progress(Protocol):
    """Called with the progress of a download; total_bytes is None if unknown."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None: ...


class Bearer(AuthBase):
    """A token, which takes precedence over what a netrc file has for the host."""

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers['Authorization'] = f'Bearer {self._token}'
        return request


def shown(url: str) -> str:
    """For messages: a query may hold any kind of token, and the path is enough."""
    return uris.printable(url).partition('?')[0]


def compressed(url: str) -> str:
    """The URL for which TF-Hub and Kaggle return the archive of a module, not its page."""
    parts = urllib.parse.urlsplit(url)
    if 'tf-hub-format=' in parts.query:
        return url
    query = f'{parts.query}&' if parts.query else ''
    return parts._replace(query=f'{query}tf-hub-format=compressed').geturl()


def download(
    url: str,
    path: Path,
    on_progress: Progress | None = None,
    *,
    auth: Auth = None,
    message: dict[str, str | int] | None = None,
    pace: Pace = PACE,
) -> None:
    """Saves what a URL returns, as it is sent: whole, or not at all.

    An interrupted download is continued if the server can tell that the file is the same.

    Args:
      url: http or https; redirects are followed. $TFHUB_ENDPOINT and $BIT_MODELS_ENDPOINT, if set,
        replace https://tfhub.dev and the bucket with the BiT checkpoints.
      path: file to create or replace; its folder must exist.
      on_progress: called for each piece; starts again if the download does.
      auth: user and password, or a token; not sent to another host that the first one redirects to.
      message: posted as JSON; None sends a plain GET.
      pace: when it counts as stalled.

    Raises:
      ModelError: there is no or a wrong answer, it stalls or ends early (three times in a row if
        waiting may help), or the file cannot be written.
    """
    for site, variable in _MIRRORS.items():
        if url.startswith(site) and (mirror := os.environ.get(variable)):
            url = f'{mirror.rstrip("/")}/{url.removeprefix(site)}'
    name = f'.{path.name[:100]}.{secrets.token_hex(4)}.tmp'
    with TEMPORARIES.hold(path.with_name(name)) as temporary:
        part = _Part(temporary)
        tries = 0
        try:
            while True:
                before = part.most_bytes
                try:
                    _download_once(url, part, on_progress, auth, message, pace)
                    break
                except _TransientError as e:
                    # Who has sent a good piece more may go on for as long as it takes.
                    tries = 1 if part.most_bytes - before >= pace.window_bytes else tries + 1
                    if tries > len(_PAUSES_SEC):
                        raise ModelError(f'{shown(url)}: {e}, {tries} times') from e
                    time.sleep(_PAUSES_SEC[tries - 1])
            temporary.replace(path)
        except OSError as e:
            raise cannot_write(path, e) from e


def sync(file: BinaryIO) -> None:
    """Syncs a file to disk, before it gets its final name."""
    file.flush()
    os.fsync(file.fileno())


def cannot_write(path: Path, error: OSError) -> ModelError:
    """The error for a file that cannot be written, with the system's reason."""
    return ModelError(f'cannot write {uris.printable(str(path))}: {error.strerror}')


class _TransientError(Exception):
    """Worth another try."""


class _Part:
    """What has arrived of a file so far.

    Attributes:
      path: where it is.
      etag: a strong one, by which the server recognizes the file; '' if there is none, or nothing
        has arrived.
      done_bytes: from its beginning.
      most_bytes: the most that ever arrived.
    """

    def __init__(self, path: Path):
        self.path = path
        self.etag = ''
        self.done_bytes = 0
        self.most_bytes = 0

    def forget(self) -> None:
        self.etag, self.done_bytes = '', 0

    def grow(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        self.most_bytes = max(self.most_bytes, self.done_bytes)

    @property
    def can_be_continued(self) -> bool:
        """Whether the rest can be requested."""
        return bool(self.etag and self.done_bytes)

    def headers(self) -> dict[str, str]:
        """Headers that ask for the rest, or for all of it if it has changed."""
        if not self.can_be_continued:
            return {}
        return {'Range': f'bytes={self.done_bytes}-', 'If-Range': self.etag}

    def take(self, response: requests.Response) -> None:
        """Continues with what is sent: the rest, or the whole file again."""
        etag = response.headers.get('ETag', '')
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get('Content-Range', ''))
            if found is None or int(found[1]) != self.done_bytes or etag not in ('', self.etag):
                self.forget()
                raise _TransientError('sent a different range than was asked for')
        else:
            self.forget()
            self.etag = etag if etag.startswith('"') else ''  # a weak one tells too little


def _download_once(
    url: str,
    part: _Part,
    on_progress: Progress | None,
    auth: Auth,
    message: dict[str, str | int] | None,
    pace: Pace,
) -> None:
    interim.install()
    asked = part.headers()
    with requests.Session() as session, _ask(session, url, asked, auth, message, pace) as response:
        _check_answer(response, shown(url), part, is_rest=bool(asked))
        part.take(response)
        _save(cast(urllib3.HTTPResponse, response.raw), part, shown(url), on_progress, pace)


def _ask(
    session: requests.Session,
    url: str,
    headers: dict[str, str],
    auth: Auth,
    message: dict[str, str | int] | None,
    pace: Pace,
) -> requests.Response:
    origin = shown(url)
    session.max_redirects = _MOST_REDIRECTS
    try:
        return session.request(
            'GET' if message is None else 'POST',
            url,
            json=message,
            headers={'Accept-Encoding': 'identity', **headers},
            auth=auth,
            stream=True,
            timeout=(_CONNECT_SEC, pace.silence_sec),
        )
    except requests.exceptions.ReadTimeout as e:
        raise ModelError(f'{origin}: stalled: no answer for {pace.silence_sec:g} s') from e
    except requests.exceptions.SSLError as e:
        raise ModelError(f'{origin}: no secure connection (TLS)') from e
    except requests.exceptions.ProxyError as e:
        raise _TransientError('no connection through the proxy') from e
    except requests.exceptions.ConnectionError as e:
        raise _TransientError('no connection') from e
    except requests.exceptions.TooManyRedirects as e:
        raise ModelError(f'{origin}: more than {_MOST_REDIRECTS} redirects') from e
    except (requests.exceptions.RequestException, ValueError) as e:  # some slip through as these
        raise ModelError(f'{origin}: not a valid URL, or it redirects to one that is not') from e


def _check_answer(response: requests.Response, origin: str, part: _Part, is_rest: bool) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        raise _TransientError(f'HTTP {status}')
    if status == 416 and is_rest:
        part.forget()
        raise _TransientError('HTTP 416')
    if status != 200 and not (status == 206 and is_rest):
        raise ModelError(f'{origin}: HTTP {status}')
    if response.headers.get('Content-Type', '').lower().startswith('text/html'):
        raise _web_page(origin)


def _save(
    body: urllib3.HTTPResponse,
    part: _Part,
    origin: str,
    on_progress: Progress | None,
    pace: Pace,
) -> None:
    rest_bytes: int | None = body.length_remaining
    total_bytes = None if rest_bytes is None else part.done_bytes + rest_bytes
    of_total = '' if total_bytes is None else f' of {total_bytes}'
    window_bytes, window_began = part.done_bytes, time.monotonic()
    with part.path.open('r+b' if part.done_bytes else 'wb') as file:
        file.truncate(part.done_bytes)
        file.seek(part.done_bytes)
        while True:
            try:
                # A whole read would wait for as long as something drips.
                piece = body.read1(PIECE_BYTES, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as e:
                stalled = f'stalled after {part.done_bytes}{of_total} bytes: '
                stalled += f'none for {pace.silence_sec:g} s'
                if part.can_be_continued:  # a connection that died costs the rest alone
                    raise _TransientError(stalled) from e
                raise ModelError(f'{origin}: {stalled}') from e
            except urllib3.exceptions.HTTPError as e:
                raise _TransientError(
                    f'the connection was lost after {part.done_bytes}{of_total} bytes'
                ) from e
            if not piece:
                break
            if not part.done_bytes and piece.lstrip().startswith(b'<'):
                raise _web_page(origin)
            file.write(piece)
            part.grow(len(piece))
            if on_progress:
                on_progress(part.done_bytes, total_bytes)
            now = time.monotonic()
            if now - window_began >= pace.window_sec:
                if part.done_bytes - window_bytes < pace.window_bytes:
                    raise ModelError(
                        f'{origin}: stalled after {part.done_bytes}{of_total} bytes: '
                        f'{part.done_bytes - window_bytes} in the last {pace.window_sec:g} s'
                    )
                window_bytes, window_began = part.done_bytes, now
        sync(file)


def _web_page(origin: str) -> ModelError:
    return ModelError(f'{origin}: a web page, not a model')
