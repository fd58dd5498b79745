"""URIs as they are stored and compared: absolute, object names raw, local paths plain."""

import ipaddress
import os
import posixpath
import re
import urllib.parse
from typing import NamedTuple

import idna

from transforms.errors import ImageError, UsageError
from transforms.hashing import content_hash
from transforms.rows import Reason

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://')
_URL = re.compile(r'https?://', re.IGNORECASE)
_USERINFO = re.compile(r'://[^/?#]*@')
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')
_UNPRINTABLE = re.compile(r'[\x00-\x1f\x7f-\x9f]')
# What names a bucket, by the scheme of its store.
OBJECT_STORES = {
    'gs': re.compile(r'[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]'),
    's3': re.compile(r'[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]'),
}
_OTHER_NAMES = {'s3a': 's3', 's3n': 's3'}  # Hadoop's
_NOT_TEXT = re.compile(r'[\ud800-\udc7f\udd00-\udfff]')
_NO_NAMES = ('', '.', '..')  # as object names refused by the store, or taken for another request
_MAX_CHARS = 4096
_MAX_NAME_BYTES = 1024  # of an object, in all stores

_WEB = ('http', 'https')
_PORTS = {'http': 80, 'https': 443}
_AUTHORITY_END = re.compile(r'[/?#]')
_HOST_PORT = re.compile(r'(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?')
_HOST_NAME = re.compile(r'(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?')

# Query parameters by which S3, GCS (with its CDN), CloudFront and Azure sign a URL, in lower case.
# The x-amz- and x-goog- families go as a whole, and these always:
_SIGNATURES = frozenset('signature sig awsaccesskeyid googleaccessid access_token'.split())
# These go only beside their signature: alone they may tell one image from another.
_BESIDE = {
    'signature': frozenset('expires policy key-pair-id hash-algorithm keyname urlprefix'.split()),
    'sig': frozenset(
        'sv ss srt sr sp st se sip spr si sdd ses saoid suoid scid '
        'skoid sktid skt ske sks skv skdutid sduoid rscc rscd rsce rscl rsct'.split()
    ),
}


class WebUrl(NamedTuple):
    """An http(s) URL in its parts.

    Attributes:
      scheme: 'http' or 'https'.
      userinfo: 'user:password' as it stands, '' without.
      host: lower case, IDNA names as A-labels, an IPv6 address in brackets.
      port: 1 to 65535.
      target: path and query, literally.
    """

    scheme: str
    userinfo: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What a credential is good for."""
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        at = '@' if self.userinfo else ''
        port = '' if self.port == _PORTS[self.scheme] else f':{self.port}'
        return f'{self.scheme}://{self.userinfo}{at}{self.host}{port}{self.target}'


def scheme_of(uri: str) -> str:
    """The scheme in lower case; '' for a local path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ''


def split_object(uri: str) -> tuple[str, str]:
    """Bucket and object name of 'gs://bucket/name' or 's3://bucket/name'; the name may be empty."""
    bucket, _, name = uri.partition('://')[2].partition('/')
    return bucket, name


def join(folder: str, name: str) -> str:
    """`name` below `folder`, which may be a local path or a bucket's prefix."""
    return f'{folder.rstrip("/")}/{name}' if folder.strip('/') else f'/{name}'


def folder_of(uri: str) -> str:
    """The folder or prefix an object lies in, without a slash at its end."""
    return uri.rpartition('/')[0] or '/'


def suffix_of(uri: str) -> str:
    """Suffix of the last part in lower case, with its dot, or ''; that of '.jpg' is '.jpg'."""
    _, dot, suffix = uri.rpartition('/')[2].rpartition('.')
    return dot and f'.{suffix.lower()}'


def absolute(uri: str) -> str:
    """A URI from the command line as it is stored: a local path made absolute, `file://` dropped.

    A slash at the end goes, too, but for that of an object store.

    Raises:
      UsageError: it names nothing, or not what its scheme needs.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as e:
        raise UsageError(f'{printable(uri)}: the name is not valid UTF-8') from e
    match scheme_of(uri):
        case scheme if scheme in OBJECT_STORES:
            if not OBJECT_STORES[scheme].fullmatch(split_object(uri)[0]):
                form = f'{scheme}://bucket'
                raise UsageError(f'{printable(uri)!r}: expected {form} or {form}/name')
            return f'{scheme}://{uri.partition("://")[2]}'
        case scheme if scheme in _OTHER_NAMES:
            raise UsageError(f'{printable(uri)!r}: write {_OTHER_NAMES[scheme]}://bucket/name')
        case 'file':
            return _local_path(uri, UsageError(f'{printable(uri)!r}: expected file:///path'))
        case '':
            if not uri:
                raise UsageError("'': expected a path or a URI")  # an unset shell variable
            return _one_root(os.path.abspath(uri))  # noqa: PTH100 (Path.absolute keeps '..')
    return uri


def _local_path(uri: str, error: Exception) -> str:
    host, _, path = uri.partition('://')[2].partition('/')
    if host not in ('', 'localhost') or not path:
        raise error
    return _one_root(posixpath.normpath(f'/{path}'))


def _one_root(path: str) -> str:
    """POSIX keeps two slashes at the start, and with them a second name for every file."""
    return path[1:] if path.startswith('//') else path


def normalize(raw: str, base: str) -> str:
    """A line of a manifest as an absolute URI.

    Args:
      raw: what the manifest says, taken literally: nothing is percent-decoded.
      base: folder of the manifest, for relative names.

    Raises:
      ImageError: bad_uri or bad_name.
    """
    if len(raw) > _MAX_CHARS:
        raise ImageError(Reason.BAD_URI, f'{len(raw)} characters, limit {_MAX_CHARS}')
    try:
        raw.encode()
    except UnicodeEncodeError as e:
        raise ImageError(Reason.BAD_NAME, 'the name is not valid UTF-8') from e
    if _CONTROL.search(raw):
        raise ImageError(Reason.BAD_URI, 'a control character in the URI')
    match scheme_of(raw):
        case scheme if scheme in OBJECT_STORES:
            bucket, name = split_object(raw)
            if not OBJECT_STORES[scheme].fullmatch(bucket) or name in _NO_NAMES:
                raise ImageError(Reason.BAD_URI, f'not of the form {scheme}://bucket/object')
            return _object_uri(scheme, bucket, name)
        case scheme if scheme in _OTHER_NAMES:
            hint = f'write {_OTHER_NAMES[scheme]}://'
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read: {hint}')
        case 'file':
            return _local_path(raw, ImageError(Reason.BAD_URI, 'not of the form file:///path'))
        case 'http' | 'https':
            return without_secrets(str(split_url(raw)))
        case '':
            if '://' in raw:  # behind a space or a quote; a path it would only be by accident
                raise ImageError(Reason.BAD_URI, 'something before the scheme')
            if scheme_of(base) and not raw.startswith('/'):
                return _below_prefix(base, raw)
            return _one_root(os.path.normpath(os.path.join(base, raw)))  # noqa: PTH118
        case scheme:
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read')


def access_url(raw: str) -> str:
    """The URL by which a normalized line is fetched where that is another one; otherwise ''.

    It holds what must never be written anywhere: userinfo and signing parameters.
    """
    if scheme_of(raw) not in _WEB:
        return ''
    url = str(split_url(raw))
    return url if url != without_secrets(url) else ''


def split_url(raw: str) -> WebUrl:
    """The parts of an http(s) URL, read so that no other reader could see another host in it.

    Raises:
      ImageError: bad_uri.
    """
    scheme, _, rest = raw.partition('://')
    scheme = scheme.lower()
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    target = rest[len(authority) :].partition('#')[0]
    userinfo, _, host_port = authority.rpartition('@')
    match = _HOST_PORT.fullmatch(host_port)
    # Browsers take a backslash for a slash, and see the host before it.
    if scheme not in _WEB or not match or '@' in userinfo or re.search(r'[\\\s]', userinfo):
        raise ImageError(Reason.BAD_URI, 'not of the form https://host/path')
    port = int(match[2] or _PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ImageError(Reason.BAD_URI, 'a port that does not exist')
    return WebUrl(
        scheme, userinfo, _host(match[1]), port, target if target[:1] == '/' else f'/{target}'
    )


def _host(text: str) -> str:
    try:
        if text.startswith('['):
            return f'[{ipaddress.IPv6Address(text[1:-1]).compressed}]'
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
    except ValueError as e:  # idna.IDNAError is one
        raise ImageError(Reason.BAD_URI, 'a host that cannot be') from e
    if not _HOST_NAME.fullmatch(name):
        raise ImageError(Reason.BAD_URI, 'a host that cannot be')
    return name


def _below_prefix(base: str, raw: str) -> str:
    bucket, prefix = split_object(base)
    name = f'/{prefix}/{raw}'
    if {'.', '..'} & set(raw.split('/')):
        name = posixpath.normpath(name)
    name = name.lstrip('/')
    if name in _NO_NAMES:
        raise ImageError(Reason.BAD_URI, 'a bucket, not an object')
    return _object_uri(scheme_of(base), bucket, name)


def _object_uri(scheme: str, bucket: str, name: str) -> str:
    if (size := len(name.encode())) > _MAX_NAME_BYTES:
        raise ImageError(Reason.BAD_URI, f'a name of {size} bytes, limit {_MAX_NAME_BYTES}')
    return f'{scheme}://{bucket}/{name}'


def printable(raw: str) -> str:
    """A text that is no valid URI, made fit to be stored in place of one.

    Userinfo and signing parameters of URLs are dropped, bytes that are not UTF-8 and control
    characters are escaped, and the length is bounded.
    """
    if _URL.search(raw):
        raw = without_secrets(raw)
    raw = _USERINFO.sub('://', raw, count=1)
    # JSON can hold halves of surrogate pairs; only some of them stand for bytes of a file name.
    text = _NOT_TEXT.sub(lambda match: f'\\u{ord(match[0]):04x}', raw)
    text = text.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    text = _UNPRINTABLE.sub(lambda match: f'\\x{ord(match[0]):02x}', text)
    if len(text) <= _MAX_CHARS:
        return text
    # Others that begin alike are still others.
    return f'{text[: _MAX_CHARS - 17]}…{content_hash(text).hex()[:16]}'


def without_secrets(url: str) -> str:
    """A URL without userinfo, signing parameters and fragment."""
    scheme, _, rest = url.partition('://')
    authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]
    if '@' not in authority and not _HOST_PORT.fullmatch(authority):
        # A password with a raw slash ends the authority too early; what is left of it is no port.
        rest = rest.rpartition('@')[2]
    head, mark, query = rest.partition('#')[0].partition('?')
    host, slash, path = head.partition('/')
    parts = query.split('&')
    names = {_name_of(part) for part in parts}
    kept = [part for part in parts if not _is_signing(_name_of(part), names)]
    if len(kept) < len(parts):
        kept = [part for part in kept if part]
        mark = '?' if kept else ''
    return f'{scheme}://{host.rpartition("@")[2]}{slash}{path}{mark}{"&".join(kept)}'


def _name_of(parameter: str) -> str:
    return urllib.parse.unquote(parameter.partition('=')[0]).lower()


def _is_signing(name: str, names: set[str]) -> bool:
    return (
        name in _SIGNATURES
        or name.startswith(('x-amz-', 'x-goog-'))
        or any(name in _BESIDE[signature] for signature in _BESIDE.keys() & names)
    )
