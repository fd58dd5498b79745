"""URIs as they are stored and compared: absolute, object names raw, local paths plain."""

import hashlib
import ipaddress
import os
import posixpath
import re
import urllib.parse
from typing import NamedTuple

import idna

from transforms.core.errors import ImageError, UsageError
from transforms.core.hashing import content_hash
from transforms.core.reasons import Reason
from transforms.core.stores import STORES

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://')
# Where a URL begins, or what somebody has made of the beginning of one, and what belongs to it.
_SPELT = r"""(?:
    (?<! [A-Za-z0-9+.-] ) [A-Za-z][A-Za-z0-9+.-]{1,20} [:;] [/\\]+
  | (?<! [A-Za-z0-9+.-] ) https? (?: [/\\]{2,} | [:;] (?= [^/\\?\#\s]{1,500} @ ) )
  | : [/\\]{2,}
  | (?: \A | (?<= [\s"'<(\[] ) ) [/\\]{2,}
  | (?: \A | (?<= ["'] ) )
    (?= [^/\\?\#\s"'@:]{1,500} : [^/\\?\#\s"'@]{1,500} @ [^/\\?\#\s"'@]{1,500} \. [^/@"']{0,20} / )
)"""
_NOT_BEGUN = r'(?! [A-Za-z][A-Za-z0-9+.-]{0,20} ://) '
_URL_IN_NAME = re.compile(rf'({_SPELT}) ((?: {_NOT_BEGUN} . )*)', re.X | re.I | re.S)
_URL_IN_TEXT = re.compile(rf'({_SPELT}) ((?: {_NOT_BEGUN} [^\s"\'<>] )*)', re.X | re.I | re.S)
_WEB_URL_IN_NAME = re.compile(r'(https?://)(.*)', re.I | re.S)
_WEB_URL_IN_TEXT = re.compile(r'(https?://)([^\s"\'<>]*)', re.I)
_INNER_USERINFO = re.compile(r'://[^/?#&]*@')
_NAME_IN_TEXT = re.compile(r'[^\s"\'<>]+')
_URL_SIGNS = re.compile(r'[:;]|[/\\]{2}')
_AND = re.compile(r'&|\\u0026')  # as JSON may have it
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')
_UNPRINTABLE = re.compile(r'[\x00-\x1f\x7f-\x9f]')
# What names a bucket, by the scheme of its store.
OBJECT_STORES = {scheme: each.bucket for scheme, each in STORES.items() if each.bucket}
_BUCKET_PARTS = {scheme: each.bucket_parts for scheme, each in STORES.items()}
_BUCKET_FORMS = {'az': 'az://account/container', 'hf': 'hf://datasets/owner/name'}
_OTHER_NAMES = {'s3a': 's3', 's3n': 's3'}  # Hadoop's
# Azure's own form of az://account/container/name, which Hadoop and Spark use.
_ABFS = ('abfss', 'abfs')
_ABFS_URI = re.compile(
    r'abfss?://(?P<container>[^/@]*)@(?P<account>[^/@.]*)\.(dfs|blob)\.core\.windows\.net'
    r'(?P<name>/.*)?',
    re.IGNORECASE | re.DOTALL,
)
_ABFS_FORM = 'abfss://container@account.dfs.core.windows.net/name'
_SAS_IN_URI = (
    'a SAS token does not belong into a URI, which is written down: set AZURE_STORAGE_ACCOUNT and '
    'AZURE_STORAGE_SAS_TOKEN'
)
# Revisions of the Hugging Face hub that have slashes.
_HF_REFS = re.compile(r'(hf://datasets/[^/@]+/[^/@]+@refs)/(convert|pr)/([^/]+)', re.IGNORECASE)
_NOT_TEXT = re.compile(r'[\ud800-\udc7f\udd00-\udfff]')
_FILE = re.compile(r'file:/(?!/)', re.IGNORECASE)
# What people write that is no path, though it could be one; './' before it makes it a path.
_NO_PATHS = {
    re.compile(r'data:[\w.+-]*(/[\w.+-]*)?[;,]', re.IGNORECASE): 'a data: URI',
    re.compile(r'https?(?:[:;]|[/\\]{2})', re.IGNORECASE): 'a misspelt http(s)://',
    re.compile(r'[A-Za-z]:[/\\]'): 'a Windows path',
    re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:[/\\]'): 'an unsupported or misspelt scheme',
    re.compile(r'[/\\]{2}'): 'a host without a scheme: write https:// before it, or one slash',
    re.compile(r'~/'): 'a home folder, and ~ is not expanded: write the full path',
    re.compile(r'[^/\\?#\s@:]+:[^/\\?#\s@]+@[^/?#\s@]+\.[^/@]*/'): 'a URL without its scheme',
}
_NO_NAMES = ('', '.', '..')  # as object names refused by the store, or taken for another request
_MAX_CHARS = 4096
_MOST_READ_CHARS = 2 * _MAX_CHARS
_MAX_NAME_BYTES = 1024  # of an object, in all stores

_WEB = ('http', 'https')
_PORTS = {'http': 80, 'https': 443}
_AUTHORITY_END = re.compile(r'[/?#]')
_MISSPELT_AUTHORITY_END = re.compile(r'[/\\?#]')
_HOST_PORT = re.compile(r'(\[[0-9A-Fa-f:.]*\]|[^:\[\]]*)(?::([0-9]{0,5}))?')
_HOST_NAME = re.compile(r'(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?')

# Query parameters by which S3, GCS (with its CDN), CloudFront and Azure sign a URL, in lower case.
# The x-amz- and x-goog- families go as a whole, and these always:
_SIGNATURES = frozenset('signature sig awsaccesskeyid googleaccessid access_token'.split())
_SIGNED = frozenset({'x-amz-signature', 'x-goog-signature'})
_MAY_SIGN = re.compile('sig|amz|goog|access', re.IGNORECASE)
# These go only beside their signature: alone they may tell one image from another.
_BESIDE = {
    'signature': frozenset('expires policy key-pair-id hash-algorithm keyname urlprefix'.split()),
    'sig': frozenset(
        'sv ss srt sr sp st se sip spr si sdd ses saoid suoid scid '
        'skoid sktid skt ske sks skv skdutid sduoid rscc rscd rsce rscl rsct'.split()
    ),
}


class WebUrl(NamedTuple):
    """The parts of an http(s) URL.

    Attributes:
      scheme: 'http' or 'https'.
      userinfo: 'user:password' as written, '' if there is none.
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
        """Scheme, host and port, for which a credential is valid."""
        return self.scheme, self.host, self.port

    def __str__(self) -> str:
        at = '@' if self.userinfo else ''
        port = '' if self.port == _PORTS[self.scheme] else f':{self.port}'
        return f'{self.scheme}://{self.userinfo}{at}{self.host}{port}{self.target}'


def scheme_of(uri: str) -> str:
    """The scheme in lower case; '' for a local path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ''


LOCAL = ''


def host_of(uri: str) -> str:
    """Who serves a URI: host and port of a URL, the scheme of a store, `LOCAL` for a path."""
    scheme = scheme_of(uri)
    if scheme not in ('http', 'https'):
        return scheme
    return uri.split('/', 3)[2].rpartition('@')[2].lower()


def split_object(uri: str) -> tuple[str, str]:
    """Bucket and object name of 'gs://bucket/name' or 's3://bucket/name'; the name may be empty.

    Of 'az://account/container/name' the bucket is 'account/container'.
    """
    scheme, _, rest = uri.partition('://')
    bucket, _, name = rest.partition('/')
    for _ in range(_BUCKET_PARTS.get(scheme, 1) - 1):
        more, _, name = name.partition('/')
        bucket = f'{bucket}/{more}'
    return bucket, name


def _in_one_form(uri: str) -> str:
    """An abfss:// URI as the az:// one that it stands for, a revision of a dataset as one part."""
    if found := _ABFS_URI.fullmatch(uri):
        return f'az://{found["account"]}/{found["container"]}{found["name"] or ""}'
    return _HF_REFS.sub(r'\1%2F\2%2F\3', uri)


def read_only(uri: str) -> str:
    """What is never written to, if a URI is of it: 'http(s)' or 'hf://'; '' otherwise."""
    scheme = scheme_of(uri)
    if scheme not in STORES or STORES[scheme].is_written:
        return ''
    return 'http(s)' if scheme in _WEB else f'{scheme}://'


def may_mark_folder(size_bytes: int | None, content_type: str | None) -> bool:
    """Whether an object is what Hadoop and consoles create for a folder, if others lie below it."""
    return not size_bytes or 'directory' in (content_type or '')


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

    A trailing slash is dropped, too, except for an object store.

    Raises:
      UsageError: it is empty, or not of the form its scheme needs.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as e:
        raise UsageError(f'{printable(uri)}: the name is not valid UTF-8') from e
    uri = _in_one_form(uri)
    match scheme_of(uri):
        case scheme if scheme in OBJECT_STORES:
            uri = f'{scheme}://{uri.partition("://")[2]}'
            if scheme == 'az' and _is_signed(uri):
                raise UsageError(f'{printable(uri)!r}: {_SAS_IN_URI}')
            if not OBJECT_STORES[scheme].fullmatch(split_object(uri)[0]):
                form = _bucket_form(scheme)
                raise UsageError(f'{printable(uri)!r}: expected {form} or {form}/name')
            return uri
        case scheme if scheme in _ABFS:
            raise UsageError(f'{printable(uri)!r}: expected {_ABFS_FORM}')
        case scheme if scheme in _OTHER_NAMES:
            raise UsageError(f'{printable(uri)!r}: write {_OTHER_NAMES[scheme]}://bucket/name')
        case 'file':
            return _local_path(uri, UsageError(f'{printable(uri)!r}: expected file:///path'))
        case '':
            if not uri:
                raise UsageError("'': expected a path or a URI")  # an unset shell variable
            return _one_root(os.path.abspath(uri))  # noqa: PTH100 (Path.absolute keeps '..')
    return uri


def _bucket_form(scheme: str) -> str:
    return _BUCKET_FORMS.get(scheme, f'{scheme}://bucket')


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
    raw = _in_one_form(raw)
    scheme = scheme_of(raw)
    if scheme not in _WEB and _is_signed(raw):
        raise ImageError(Reason.BAD_URI, 'signing parameters on what is not an http(s) URL')
    match scheme:
        case _ if scheme in OBJECT_STORES:
            bucket, name = split_object(f'{scheme}://{raw.partition("://")[2]}')
            if not OBJECT_STORES[scheme].fullmatch(bucket) or name in _NO_NAMES:
                raise ImageError(Reason.BAD_URI, f'not of the form {_bucket_form(scheme)}/object')
            return _object_uri(scheme, bucket, name)
        case _ if scheme in _ABFS:
            raise ImageError(Reason.BAD_URI, f'not of the form {_ABFS_FORM}')
        case _ if scheme in _OTHER_NAMES:
            hint = f'write {_OTHER_NAMES[scheme]}://'
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read: {hint}')
        case 'file':
            return _local_path(raw, ImageError(Reason.BAD_URI, 'not of the form file:///path'))
        case 'http' | 'https':
            return without_secrets(str(split_url(raw)))
        case '':
            if '://' in raw:  # behind a space or a quote; a path it would only be by accident
                raise ImageError(Reason.BAD_URI, 'text before the scheme')
            if _FILE.match(raw):
                return _one_root(posixpath.normpath(raw.partition(':')[2]))
            for pattern, what in _NO_PATHS.items():
                if pattern.match(raw):
                    raise ImageError(Reason.BAD_URI, what)
            if scheme_of(base) and not raw.startswith('/'):
                return _below_prefix(base, raw)
            return _one_root(os.path.normpath(os.path.join(base, raw)))  # noqa: PTH118
        case _:
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read')


def access_url(raw: str) -> str:
    """The URL to fetch a normalized line by, if that differs from it; otherwise ''.

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
        raise ImageError(Reason.BAD_URI, 'a port outside 1 to 65535')
    return WebUrl(
        scheme, userinfo, _host(match[1]), port, target if target[:1] == '/' else f'/{target}'
    )


def _host(text: str) -> str:
    try:
        if text.startswith('['):
            return f'[{ipaddress.IPv6Address(text[1:-1]).compressed}]'
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
    except ValueError as e:  # idna.IDNAError is one
        raise ImageError(Reason.BAD_URI, 'an invalid host name') from e
    if not _HOST_NAME.fullmatch(name):
        raise ImageError(Reason.BAD_URI, 'an invalid host name')
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
    """A text that is not a valid URI, made fit to be stored as one.

    Userinfo and signing parameters of URLs are dropped, misspelt ones too, bytes that are not UTF-8
    and control characters are escaped, and the length is bounded.
    """
    if len(raw) > _MOST_READ_CHARS:
        return _shortened(raw)
    text = _storable(_clean(raw, _URL_IN_NAME, _WEB_URL_IN_NAME))
    if len(text) <= _MAX_CHARS:
        return text
    # Others that begin alike are still others.
    return f'{text[: _MAX_CHARS - 17]}…{content_hash(text).hex()[:16]}'


def named(name: str) -> str:
    """A name for people: `printable`, in quotes if blanks at its ends would not be seen."""
    shown = printable(name)
    return repr(shown) if shown != shown.strip() or not shown else shown


def _shortened(raw: str) -> str:
    """The start of a very long text, with the hash of all of it."""
    start = raw[:_MAX_CHARS]
    digest = hashlib.sha256(raw.encode('utf-8', 'surrogatepass')).hexdigest()[:16]
    if '@' in raw[_MAX_CHARS:]:
        start = _URL_SIGNS.split(start, maxsplit=1)[0]  # what follows may be a password
    text = _storable(_clean(start, _URL_IN_NAME, _WEB_URL_IN_NAME))
    return f'{text[: _MAX_CHARS - 17]}…{digest}'


def _storable(raw: str) -> str:
    if raw.isascii() and raw.isprintable():  # as nearly all are
        return raw
    # JSON can hold halves of surrogate pairs; only some of them stand for bytes of a file name.
    text = _NOT_TEXT.sub(lambda match: f'\\u{ord(match[0]):04x}', raw)
    text = text.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    return _UNPRINTABLE.sub(lambda match: f'\\x{ord(match[0]):02x}', text)


def without_secrets_in(text: str) -> str:
    """A text without the userinfo and signing parameters of its URLs, otherwise unchanged."""
    return _clean(text, _URL_IN_TEXT, _WEB_URL_IN_TEXT)


def _clean(text: str, urls: re.Pattern[str], web_urls: re.Pattern[str]) -> str:
    if '@' not in text and '=' not in text:
        return text
    text = urls.sub(_clean_match, text)
    # Of a URL in another one's query, the parameters behind it are those of the outer one.
    text = web_urls.sub(lambda found: found[1] + _without_signature(found[2]), text)
    return _NAME_IN_TEXT.sub(_clean_name, text) if _is_signed(text) else text


def _clean_name(found: re.Match[str]) -> str:
    return _without_signature(found[0]) if _is_signed(found[0]) else found[0]


def _clean_match(found: re.Match[str]) -> str:
    head = found[1]
    ends = _AUTHORITY_END if '://' in head else _MISSPELT_AUTHORITY_END
    rest = _without_userinfo(found[2], ends)
    return head + (_without_signature(rest) if 'http' in head.lower() else rest)


def without_secrets(url: str) -> str:
    """A URL without userinfo, also of one in its query, signing parameters and fragment."""
    scheme, _, rest = url.partition('://')
    rest = _INNER_USERINFO.sub('://', _without_userinfo(rest, _AUTHORITY_END))
    return f'{scheme}://{_without_signature(rest).partition("#")[0]}'


def _without_userinfo(rest: str, ends: re.Pattern[str]) -> str:
    """What follows the scheme of a URL, from its host on."""
    authority = ends.split(rest, maxsplit=1)[0]
    if '@' in authority:
        return rest[authority.rindex('@') + 1 :]
    if not _HOST_PORT.fullmatch(authority):
        # A password with a raw slash ends the authority too early; what is left of it is no port.
        return rest.rpartition('@')[2]
    return rest


def _without_signature(rest: str) -> str:
    """A URL without its fragment if it has signing parameters, and without these."""
    head, _, query = rest.partition('#')[0].partition('?')
    if '%' not in query and not _MAY_SIGN.search(query):
        return rest
    parts = _AND.split(query)
    names = {_name_of(part) for part in parts}
    kept = [part for part in parts if not _is_signing(_name_of(part), names)]
    if len(kept) == len(parts):
        return rest
    kept = [part for part in kept if part]
    return f'{head}{"?" if kept else ""}{"&".join(kept)}'


def _is_signed(text: str) -> bool:
    """Whether a name ends in parameters that only a signed URL has."""
    query = text.partition('?')[2]
    names = set(map(_name_of, _AND.split(query))) if '=' in query else set()
    return not _SIGNED.isdisjoint(names) or any(
        name in names and not names.isdisjoint(beside) for name, beside in _BESIDE.items()
    )


def _name_of(parameter: str) -> str:
    # '&amp;' stands in what was copied out of a page.
    return urllib.parse.unquote(parameter.partition('=')[0]).lower().removeprefix('amp;')


def _is_signing(name: str, names: set[str]) -> bool:
    return (
        name in _SIGNATURES
        or name.startswith(('x-amz-', 'x-goog-'))
        or any(name in _BESIDE[signature] for signature in _BESIDE.keys() & names)
    )
