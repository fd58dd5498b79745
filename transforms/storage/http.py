"""Images on the web: the http(s) URLs of manifests.

Neither a manifest nor what its hosts answer can be trusted.  So a connection is made to the very
address that was checked (a name looked up twice may change in between), redirects are followed
here, one checked hop at a time, and credentials of this machine are never sent.
"""

import base64
import hashlib
import importlib.metadata
import ipaddress
import logging
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from transforms.core import uris
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.core.stores import HttpOptions
from transforms.core.uris import WebUrl
from transforms.storage import courtesy
from transforms.storage.base import Entry, Fetched, FetchLimits, NotModified, Part, changed
from transforms.storage.courtesy import Courtesy, PausedError, Visit
from transforms.storage.http_fetch import (
    NO_SUCH_PART,
    POOL_SIZE,
    TRIES,
    PlainPool,
    PooledHttpConnection,
    PooledHttpsConnection,
    TlsPool,
    TransientError,
    Tries,
    check_wait,
    deadline,
    range_of,
    read_error,
    read_object,
    seconds_left,
    seconds_to_wait,
)
from transforms.storage.read_only import ReadOnlyStore

_HOSTS = 32  # whose connections are kept, that of the least recently asked goes first
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ANSWERS = frozenset({200, 203})  # the latter from a proxy that has changed something
_PART = 206
_TOO_MUCH = frozenset({429, 503})
_MAX_REDIRECTS = 5
_MAX_LOCATION_CHARS = 8192
_MAX_VERSION_CHARS = 200
# A host that is gone must not hold a thread until the deadline: half of an old list may be gone.
_CONNECT_TRIES = 3
_CONNECT_SEC = 6.0
_MAX_ADDRESSES = 6
_SCHEME = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:')
_STRAY_PERCENT = re.compile(r'%(?![0-9A-Fa-f]{2})')
_NO_SUCH_HOST = frozenset(
    getattr(socket, name)
    for name in ('EAI_NONAME', 'EAI_NODATA', 'EAI_ADDRFAMILY')
    if hasattr(socket, name)
)

ROBOTS_TAG = 'X-Robots-Tag'
_NO_ROBOTS = ('noai', 'noimageai', 'noindex', 'noimageindex', 'none')
# Before a colon stands a robot's name, or else one of these with its value.
_VALUED = frozenset({'unavailable_after', 'max-snippet', 'max-image-preview', 'max-video-preview'})
_ROBOT = re.compile(r'[a-z0-9_.*-]+')
_NAME = 'lemmabeam'

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(text: str) -> list[Any]:
    return [ipaddress.ip_network(each) for each in text.split()]


# Where clouds tell a machine who it is and give it credentials.
_METADATA = _networks(
    '169.254.0.0/16 fe80::/10 '  # link-local: AWS, Google Cloud, Azure and most others
    'fd00:ec2::/32 fd20:ce::/32 fd00:c1::/32 fd00:42::/32 '  # AWS, Google Cloud, Oracle, Scaleway
    '100.100.100.200/32 168.63.129.16/32 192.0.0.192/32'  # Alibaba, Azure, Oracle
)
_PUBLIC_V6 = ipaddress.ip_network('2000::/3')
# Not public either, whatever this version of Python knows: protocol assignments, 6to4 relays,
# documentation.
_SPECIAL = _networks('192.0.0.0/24 192.88.99.0/24 3fff::/20')
# Prefixes before an IPv4 address: compatible, mapped, translated, and NAT64 of both kinds.
_MAPPED = _networks('::ffff:0:0/96 64:ff9b::/96')
_BEFORE_V4 = [*_MAPPED, *_networks('::/96 ::ffff:0:0:0/96 64:ff9b:1::/48')]


def refusal(address: str, allow_private: bool) -> str:
    """Why an address may not be connected to, or ''.

    Args:
      address: an IPv4 or IPv6 address as the system gives it, perhaps with a zone.
      allow_private: also allow addresses that are not public, but never those of metadata.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 'an address of an unknown kind'
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = ipaddress.IPv6Address(int(parsed))  # without its zone
    meant = [parsed, *_embedded(parsed)]
    if any(_is_in(each, _METADATA) for each in meant):
        return 'a metadata address'
    if _is_in(parsed, _MAPPED):
        meant = meant[1:]
    return '' if allow_private or all(map(_is_public, meant)) else 'a private address'


def _embedded(address: _Address) -> list[_Address]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[_Address] = []
    if _is_in(address, _BEFORE_V4):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    return found + list(address.teredo or ())


def _is_in(address: _Address, networks: list[Any]) -> bool:
    return any(address in network for network in networks)


def _is_public(address: _Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not _is_in(address, _SPECIAL)
        and (address.version == 4 or address in _PUBLIC_V6)
    )


class _CheckedConnection(HTTPConnection):
    """Connects to an address only after checking it; everything else uses the host's name."""

    allow_private = False

    def _new_conn(self) -> socket.socket:
        ends_at = time.monotonic() + min(_CONNECT_SEC, seconds_left())
        addresses = self._addresses()
        for i, (family, where) in enumerate(addresses):
            # Each of those that are left has its share of the time.
            left = (ends_at - time.monotonic()) / (len(addresses) - i)
            if left <= 0:
                break
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(left)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(where)
                sock.settimeout(seconds_left())
            except OSError:
                sock.close()
            else:
                return sock
        raise NewConnectionError(self, 'no address answers')

    def _addresses(self) -> Sequence[tuple[int, Any]]:
        host = self._dns_host.strip('[]')
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as e:
            if e.errno in _NO_SUCH_HOST:
                raise ImageError(Reason.NOT_FOUND, 'no such host') from e
            raise NameResolutionError(self.host, self, e) from e
        except (UnicodeError, OSError) as e:
            raise ImageError(Reason.NOT_FOUND, 'no such host') from e
        for *_, where in found:
            # One bad address among good ones is how a name is made to be believed.
            if kind := refusal(str(where[0]), self.allow_private):
                raise ImageError(Reason.FORBIDDEN, kind)
        return [(family, where) for family, *_, where in found][:_MAX_ADDRESSES]


def _pool_class(
    pool: type[HTTPConnectionPool], connection: type[HTTPConnection], allow_private: bool
) -> type[HTTPConnectionPool]:
    checked = type('Connection', (_CheckedConnection, connection), {'allow_private': allow_private})
    return type('Pool', (pool,), {'ConnectionCls': checked})


class HttpStore(ReadOnlyStore):
    """Web servers; see `transforms.storage.base.Store`.  Only `fetch` works.

    An object's version is its ETag, or else its Last-Modified, or else ''.

    Args:
      allow_private_hosts: connect to addresses that are not public, too.
      requests_per_host, user_agent, ignore_robots_tag: see `transforms.core.stores.HttpOptions`.
      tries: when fetching an image is retried.
      shared: what is known of hosts; by default what this process shares with others.
    """

    def __init__(
        self,
        allow_private_hosts: bool = False,
        requests_per_host: int = HttpOptions().requests_per_host,
        user_agent: str = '',
        ignore_robots_tag: bool = False,
        tries: Tries = TRIES,
        shared: Courtesy | None = None,
    ) -> None:
        super().__init__(
            'only images that a manifest lists are read from http(s); put the URL into a manifest '
            '(.txt, one a line) and give that as --input; a manifest itself must be local, gs://, '
            's3:// or az://'
        )
        self.tries = tries
        self._requests_per_host = requests_per_host
        self._shared = shared
        agent = user_agent or f'{_NAME}/{importlib.metadata.version("lemmabeam")}'
        self._robots = frozenset({'*', _NAME, re.split('[/ ]', agent, maxsplit=1)[0].lower()})
        self._heeds_robots_tag = not ignore_robots_tag
        # urllib3 logs whole URLs when headers are odd, and with them what signs them.
        for name in ('urllib3.connection', 'urllib3.connectionpool', 'urllib3.response'):
            logging.getLogger(name).setLevel(logging.ERROR)
        # No proxy of the environment: the address that is checked would be the proxy's.
        self._pool = urllib3.PoolManager(
            num_pools=_HOSTS,
            maxsize=POOL_SIZE,
            retries=False,
            ssl_context=ssl.create_default_context(),  # once: it reads all authorities
        )
        self._pool.pool_classes_by_scheme = {
            'http': _pool_class(PlainPool, PooledHttpConnection, allow_private_hosts),
            'https': _pool_class(TlsPool, PooledHttpsConnection, allow_private_hosts),
        }
        self._headers = {
            'User-Agent': agent,
            'Accept': '*/*',
            'Accept-Encoding': 'identity',
        }

    def close(self) -> None:
        """Closes its connections; new ones are opened when needed."""
        self._pool.clear()

    def fetch(
        self,
        uri: str,
        limits: FetchLimits,
        admit: Callable[[int], None],
        unless: str = '',
        part: Part | None = None,
    ) -> Fetched:
        url = uris.split_url(uri)
        condition = _condition(unless)
        known = self._shared or courtesy.current()
        visit = known.visit(self._requests_per_host, deadline)
        tries = 0

        def ask() -> urllib3.BaseHTTPResponse:
            nonlocal tries
            try:
                response = self._follow(url, condition, part, visit)
            except ReadTimeoutError:
                raise
            except HTTPError as e:
                tries += 1
                detail = _describe(e)
                if _is_bad_certificate(e):
                    raise ImageError(Reason.STORE_ERROR, detail) from e
                if tries == _CONNECT_TRIES:
                    raise ImageError(Reason.STORE_ERROR, f'{detail}, {tries} times') from e
                raise TransientError(Reason.STORE_ERROR, detail) from e
            if condition and _version(response.headers) == unless:
                response.close()  # not every server knows conditions
                raise NotModified
            return response

        return read_object(
            ask,
            _check_md5,
            _version,
            limits,
            admit,
            doubts_length=True,
            tries=self.tries,
            part=part,
            when_read=visit.leave,
        )

    def _follow(
        self, url: WebUrl, condition: Mapping[str, str], part: Part | None, visit: Visit
    ) -> urllib3.BaseHTTPResponse:
        """The answer at the end of the redirects."""
        headers = {**condition, **range_of(part)}
        for _ in range(_MAX_REDIRECTS + 1):
            _begin(visit, url)
            response = self._get(url, headers)
            if response.status not in _REDIRECTS:
                self._heed(response, visit)
                return _checked(response, bool(condition), part)
            location = response.headers.get('Location', '')
            _drop(response)
            url = _redirected(url, location)
        raise ImageError(Reason.STORE_ERROR, f'more than {_MAX_REDIRECTS} redirects')

    def _heed(self, response: urllib3.BaseHTTPResponse, visit: Visit) -> None:
        """Does what an answer asks of whoever asks, whatever else it is.

        Raises:
          ImageError: it forbids machines to use the image.
        """
        status = response.status
        if _is_transient(status):
            seconds = seconds_to_wait(response.headers)
            if seconds or status in _TOO_MUCH:
                visit.heed(seconds, self.tries)
            return
        visit.went_well()
        if status not in _ANSWERS and status != _PART:
            return
        if self._heeds_robots_tag and (said := self._forbidden_by(response.headers)):
            _drop(response)
            error = ImageError(Reason.FORBIDDEN, f'{ROBOTS_TAG}: {said}')
            error.is_its_own = True
            raise error

    def _forbidden_by(self, headers: Any) -> str:
        """What X-Robots-Tag says to us that forbids the use of an image; '' if nothing does."""
        for line in headers.getlist(ROBOTS_TAG):
            is_ours = True
            for part in line.lower().split(','):
                before, colon, after = map(str.strip, part.partition(':'))
                if before in _VALUED:
                    continue
                if colon and _ROBOT.fullmatch(before):
                    is_ours = before in self._robots  # up to the next one
                if is_ours and (after if colon else before) in _NO_ROBOTS:
                    return after if colon else before
        return ''

    def _get(self, url: WebUrl, more: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, **more}
        if url.userinfo:
            user, _, password = url.userinfo.partition(':')
            plain = b':'.join(urllib.parse.unquote_to_bytes(part) for part in (user, password))
            headers['Authorization'] = f'Basic {base64.b64encode(plain).decode()}'
        # Escapes stay as they are; a percent sign that begins none is one itself.
        target = urllib.parse.quote(
            _STRAY_PERCENT.sub('%25', url.target), safe="/?%:@!$&'()*+,;=-._~[]"
        )
        return self._pool.connection_from_host(url.host, url.port, url.scheme).urlopen(
            'GET',
            target,
            headers=headers,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            timeout=seconds_left(),
        )

    def stat(self, uri: str) -> Entry | None:
        self.refuse(uri)

    def is_folder(self, uri: str) -> bool:
        self.refuse(uri)

    def list(
        self,
        folder: str,
        max_depth: int | None = None,  # noqa: ARG002
        by_every_name: bool = False,  # noqa: ARG002
        starts_with: str = '',  # noqa: ARG002
    ) -> Iterator[Entry]:
        self.refuse(folder)

    def open(self, uri: str) -> BinaryIO:
        self.refuse(uri)


def _describe(error: HTTPError) -> str:
    """In our own words: those of the library contain host names and memory addresses."""
    if isinstance(error, NameResolutionError):
        return 'the name of the host cannot be looked up'
    if _is_bad_certificate(error):
        return 'the TLS certificate is not valid'
    return 'no TLS connection' if isinstance(error, SSLError) else 'no connection'


def _is_bad_certificate(error: HTTPError) -> bool:
    return isinstance(error, SSLError) and any(
        isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args
    )


def _redirected(url: WebUrl, location: str) -> WebUrl:
    """Where a Location leads; userinfo is dropped if that is another origin."""
    bad = ImageError(Reason.STORE_ERROR, 'a redirect to nowhere')
    try:
        location = location.encode('latin-1').decode()  # headers are read byte for byte
    except UnicodeError as e:
        raise bad from e
    if not location or len(location) > _MAX_LOCATION_CHARS or not location.isprintable():
        raise bad
    if _SCHEME.match(location):
        if uris.scheme_of(location) not in ('http', 'https'):
            raise ImageError(Reason.STORE_ERROR, 'a redirect to another scheme')
        absolute = location
    elif location.startswith('//'):
        absolute = f'{url.scheme}:{location}'
    else:
        try:
            target = urllib.parse.urljoin(url.target, location)
        except ValueError as e:
            raise bad from e
        return url._replace(target=uris.split_url(f'http://host{target}').target)
    try:
        found = uris.split_url(absolute)
    except ImageError as e:
        raise bad from e
    return found._replace(userinfo=url.userinfo if found.origin == url.origin else '')


def _checked(
    response: urllib3.BaseHTTPResponse, is_conditional: bool, part: Part | None
) -> urllib3.BaseHTTPResponse:
    """An answer that brings an image, or the part that was asked for.

    Raises:
      ImageError: it brings none, and a retry would not help.
      TransientError: a retry may help.
    """
    status = response.status
    if status in _ANSWERS or (part is not None and status == _PART):
        return response
    _drop(response)
    if part is not None and status in NO_SUCH_PART:
        raise changed(part)
    detail = f'HTTP {status}'
    if _is_transient(status):
        check_wait(seconds_to_wait(response.headers), detail)
        raise TransientError(Reason.STORE_ERROR, detail)
    match status:
        case 304 if is_conditional:
            raise NotModified
        case 404 | 410:
            raise ImageError(Reason.NOT_FOUND, detail)
        case 401 | 403 | 451:
            raise ImageError(Reason.FORBIDDEN, detail)
        case _:
            raise ImageError(Reason.STORE_ERROR, detail)


def _is_transient(status: int) -> bool:
    return status in (408, 429) or 500 <= status < 600


def _begin(visit: Visit, url: WebUrl) -> None:
    """Waits for a turn at the host of a URL, kept by the names that its pictures have.

    Raises:
      ImageError: it has asked for no request before the deadline.
      TransientError: its pause is ours.
    """
    try:
        visit.begin(uris.host_of(str(url._replace(target='/'))))
    except PausedError as e:
        if not e.has_asked:
            raise TransientError(Reason.DEADLINE, 'its host refuses so many requests') from e
        raise ImageError(
            Reason.STORE_ERROR,
            'not asked for: its host wants no request (Retry-After) before the deadline',
        ) from e


def _drop(response: urllib3.BaseHTTPResponse) -> None:
    """Leaves an answer whose status says it all; how its body fares does not matter."""
    try:
        read_error(response)
    except (HTTPError, TimeoutError):
        response.close()


def _condition(unless: str) -> dict[str, str]:
    """The header that asks for another version than one of `_version`."""
    if not unless or len(unless) == _MAX_VERSION_CHARS or not unless.isascii():
        return {}
    is_etag = unless.startswith(('"', 'W/'))
    return {'If-None-Match' if is_etag else 'If-Modified-Since': unless}


def _version(headers: Any) -> str:
    for name in ('ETag', 'Last-Modified'):
        text = ''.join(filter(str.isprintable, headers.get(name, '').strip()))
        if text:
            return text[:_MAX_VERSION_CHARS]
    return ''


def _check_md5(headers: Any, data: bytes) -> None:
    try:
        said = base64.b64decode(headers.get('Content-MD5', ''), validate=True)
    except ValueError:
        return
    if len(said) == 16 and said != hashlib.md5(data, usedforsecurity=False).digest():
        raise TransientError(Reason.CHECKSUM, 'the MD5 does not match the one the server gives')
