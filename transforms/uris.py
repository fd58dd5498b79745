"""URIs as they are stored and compared: absolute, object names raw, local paths plain."""

import os
import posixpath
import re
import urllib.parse

from transforms.errors import ImageError
from transforms.rows import Reason

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://')
_CONTROL = re.compile(r'[\x00-\x1f\x7f]')
_BUCKET = re.compile(r'[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]')
_MAX_CHARS = 4096

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
    """Bucket and object name of 'gs://bucket/name'; the name may be empty."""
    bucket, _, name = uri.partition('://')[2].partition('/')
    return bucket, name


def join(folder: str, name: str) -> str:
    """`name` below `folder`, which may be a local path or a bucket's prefix."""
    return f'{folder.rstrip("/")}/{name}' if folder.strip('/') else f'/{name}'


def folder_of(uri: str) -> str:
    """The folder or prefix an object lies in, without a slash at its end."""
    return uri.rpartition('/')[0] or '/'


def suffix_of(uri: str) -> str:
    """Suffix of the last part in lower case, with its dot; '.jpg' also for a file named so."""
    return '.' + uri.rpartition('/')[2].rpartition('.')[2].lower()


def absolute(uri: str) -> str:
    """A URI from the command line as it is stored: a local path made absolute, `file://` dropped.

    A slash at the end goes, too, but for that of a bucket.
    """
    if scheme_of(uri) == 'file':
        uri = '/' + uri.partition('://')[2].partition('/')[2]
    if scheme_of(uri):
        return uri
    return os.path.abspath(uri)  # noqa: PTH100 (Path.absolute keeps '..')


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
        case 'gs':
            bucket, name = split_object(raw)
            if not _BUCKET.fullmatch(bucket) or not name:
                raise ImageError(Reason.BAD_URI, 'not of the form gs://bucket/object')
            return f'gs://{bucket}/{name}'
        case 'file':
            host, _, path = raw.partition('://')[2].partition('/')
            if host not in ('', 'localhost') or not path:
                raise ImageError(Reason.BAD_URI, 'not of the form file:///path')
            return posixpath.normpath('/' + path)
        case '':
            if scheme_of(base):
                return _below_prefix(base, raw)
            return os.path.normpath(os.path.join(base, raw))  # noqa: PTH118
        case scheme:
            raise ImageError(Reason.BAD_URI, f'the scheme {scheme}:// is not read')


def _below_prefix(base: str, raw: str) -> str:
    bucket, prefix = split_object(base)
    name = posixpath.join('/', prefix, raw)
    if {'.', '..'} & set(raw.split('/')):
        name = posixpath.normpath(name)
    return f'gs://{bucket}/{name.lstrip("/")}'


def printable(raw: str) -> str:
    """A text that is no valid URI, made fit to be stored in place of one.

    Userinfo and signing parameters of URLs are dropped, bytes that are not UTF-8 and control
    characters are escaped, and the length is bounded.
    """
    if scheme_of(raw) in ('http', 'https'):
        raw = without_secrets(raw)
    text = raw.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    text = _CONTROL.sub(lambda match: f'\\x{ord(match[0]):02x}', text)
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
