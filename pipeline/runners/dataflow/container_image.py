"""What a container image says of itself, read from its registry before a job is submitted."""

import re
import sys
from typing import Any

import apache_beam as beam
import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import requests

from pipeline.messages import Messages
from transforms.core import uris
from transforms.core.errors import UsageError

BEAM_LABEL = 'lemmabeam.apache-beam'
PYTHON_LABEL = 'lemmabeam.python'
"""Labels that templates/dataflow/Dockerfile sets."""

_REFERENCE = re.compile(
    r'(?P<host>[^/\s]+\.[^/\s]+|localhost:\d+)/(?P<name>[a-z0-9][a-z0-9._/-]*)'
    r'(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?'
)
_APACHE = re.compile(r'(?:^|/)beam_python(?P<python>\d\.\d+)_sdk:(?P<beam>\d+\.\d+\.\d+)')
_LOOPBACK = re.compile(r'(?:localhost|127\.0\.0\.1)(?::\d+)?')
_GOOGLE = re.compile(r'(?:[a-z0-9-]+\.)?(?:pkg\.dev|gcr\.io)')
_ACCEPT = ', '.join(
    f'application/vnd.{kind}+json'
    for kind in (
        'oci.image.index.v1',
        'oci.image.manifest.v1',
        'docker.distribution.manifest.list.v2',
        'docker.distribution.manifest.v2',
    )
)
_PLATFORM = ('linux', 'amd64')
_TIMEOUT_SEC = 20.0
_ODD_ANSWER = (ValueError, LookupError, TypeError, AttributeError)
_SCOPE = 'https://www.googleapis.com/auth/cloud-platform'


class _RefusedError(OSError):
    def __init__(self, status: int):
        super().__init__(f'the registry answers {status}')
        self.status = status


def check_image(reference: str, messages: Messages) -> None:
    """Refuses an image that has another Beam or Python than this launcher.

    Where the image does not tell, that is told.

    Args:
      reference: the value of --sdk_container_image.
      messages: takes that.

    Raises:
      UsageError: the versions differ, or the registry has no such image.
    """
    flag = f'--sdk_container_image {uris.printable(reference)}'
    try:
        found_beam, found_python = _versions(reference)
    except (*_ODD_ANSWER, OSError, google.auth.exceptions.GoogleAuthError) as e:
        if isinstance(e, _RefusedError) and e.status == 404:
            raise UsageError(f'{flag}: the registry has no such image') from e
        messages.note(f'{flag}: not looked at ({_short(e)}); it must have Beam {beam.__version__}')
        return
    if found_beam is None:
        messages.note(f'{flag}: does not say which Beam it has; it must be {beam.__version__}')
        return
    python = f'{sys.version_info.major}.{sys.version_info.minor}'
    for name, found, ours in (
        ('Beam', found_beam, beam.__version__),
        ('Python', found_python, python),
    ):
        if found is not None and found != ours:
            raise UsageError(
                f'{flag}: it has {name} {found}, this launcher {ours}; build the image from the '
                'same version of Lemmabeam, or launch from within it'
            )


def is_of_apache(reference: str) -> bool:
    """Whether it is one of Beam's own images, which hold nothing else."""
    return _APACHE.search(reference) is not None


def _versions(reference: str) -> tuple[str | None, str | None]:
    apache = _APACHE.search(reference)
    if apache:
        return apache['beam'], apache['python']
    labels = _labels(reference)
    return labels.get(BEAM_LABEL), labels.get(PYTHON_LABEL)


def _labels(reference: str) -> dict[str, str]:
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError('expected HOST/NAME:TAG')
    host, name = found['host'], found['name']
    scheme = 'http' if _LOOPBACK.fullmatch(host) else 'https'
    with requests.Session() as session:
        if _GOOGLE.fullmatch(host):
            credentials, _ = google.auth.default(scopes=[_SCOPE])
            credentials.refresh(google.auth.transport.requests.Request())
            session.headers['Authorization'] = f'Bearer {credentials.token}'

        def get(kind: str, what: str) -> Any:
            response = session.get(
                f'{scheme}://{host}/v2/{name}/{kind}/{what}',
                headers={'Accept': _ACCEPT},
                timeout=_TIMEOUT_SEC,
            )
            if response.status_code != 200:
                raise _RefusedError(response.status_code)
            return response.json()

        manifest = get('manifests', found['digest'] or found['tag'] or 'latest')
        if 'manifests' in manifest:
            chosen = [
                each['digest']
                for each in manifest['manifests']
                if (each['platform']['os'], each['platform']['architecture']) == _PLATFORM
            ]
            if not chosen:
                raise UsageError(
                    f'--sdk_container_image {reference}: it has no image for linux/amd64, which '
                    'the workers are; build it with --platform=linux/amd64'
                )
            manifest = get('manifests', chosen[0])
        config = get('blobs', manifest['config']['digest'])
    return dict(config['config'].get('Labels') or {})


def _short(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, requests.ConnectionError):
        return 'its registry does not answer'
    if isinstance(error, _ODD_ANSWER):
        return f'its registry answers what is none: {uris.printable(str(error))[:80]}'
    return f'{type(error).__name__}: {uris.printable(str(error))[:120]}'
