"""URIs as they are stored and compared: absolute, object names raw, local paths plain."""

import os
import posixpath
import re
import urllib.parse

from transforms.errors import ImageError, UsageError
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

# Query parameters by which S3, GCS and Azure sign a URL (lower case); the x-amz- and x-goog-
# families go as a whole.
_SIGNING = frozenset(
    'signature expires googleaccessid awsaccesskeyid policy key-pair-id '
    'sig se sp sv sr st spr ss srt sip si skoid sktid skt ske sks skv'.split()
)


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
        case '':
            if '://' in raw:  # behind a space or a quote; a path it would only be by accident
                raise ImageError(Reason.BAD_URI, 'something before the scheme')
            if scheme_of(base) and not raw.startswith('/'):
                return _below_prefix(base, raw)
            return _one_root(os.path.normpath(os.path.join(base, raw)))  # noqa: PTH118
        case scheme:
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read')


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
    return text if len(text) <= _MAX_CHARS else f'{text[: _MAX_CHARS - 1]}…'


def without_secrets(url: str) -> str:
    """A URL without userinfo, signing parameters and fragment."""
    head, _, query = url.partition('#')[0].partition('?')
    scheme, _, rest = head.partition('://')
    host, slash, path = rest.partition('/')
    kept = [part for part in query.split('&') if part and not _is_signing(part)]
    return (
        f'{scheme}://{host.rpartition("@")[2]}{slash}{path}'
        + ('?' if kept else '')
        + '&'.join(kept)
    )


def _is_signing(parameter: str) -> bool:
    name = urllib.parse.unquote(parameter.partition('=')[0]).lower()
    return name in _SIGNING or name.startswith(('x-amz-', 'x-goog-'))
