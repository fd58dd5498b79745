"""Whether a job of Dataflow has ended, asked of its REST API."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import requests

ENDPOINT = 'https://dataflow.googleapis.com'

_ENDED = frozenset(
    f'JOB_STATE_{name}' for name in ('DONE', 'FAILED', 'CANCELLED', 'DRAINED', 'UPDATED')
)
_PART = re.compile(r'[\w:.-]+')
_LOOPBACK = re.compile(r'http://(?:localhost|127\.0\.0\.1)(?::\d+)?')
_SCOPE = 'https://www.googleapis.com/auth/cloud-platform'
_TIMEOUT_SEC = 30.0


class Job(NamedTuple):
    """A job of Dataflow.

    Attributes:
      project, region, id: what names it.
      endpoint: of the API.
    """

    project: str
    region: str
    id: str
    endpoint: str = ENDPOINT

    @property
    def console(self) -> str:
        """Its page for people."""
        return (
            f'https://console.cloud.google.com/dataflow/jobs/{self.region}/{self.id}'
            f'?project={self.project}'
        )


def parse_job(value: object) -> Job | None:
    """A job from untrusted JSON, or None.

    Credentials go to Google's endpoint only; another one may be on loopback, for tests.
    """
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        return None
    try:
        job = Job(**value)
    except TypeError:
        return None
    if job.endpoint != ENDPOINT and not _LOOPBACK.fullmatch(job.endpoint):
        return None
    return job if all(_PART.fullmatch(part) for part in job[:3]) else None


def has_ended(job: Job) -> bool:
    """Whether a job is known to have ended; False where nobody can tell."""
    try:
        session: requests.Session = requests.Session()
        if job.endpoint == ENDPOINT:
            credentials, _ = google.auth.default(scopes=[_SCOPE])
            session = google.auth.transport.requests.AuthorizedSession(credentials)
        with session:
            answer = session.get(
                f'{job.endpoint}/v1b3/projects/{job.project}/locations/{job.region}/jobs/{job.id}',
                timeout=_TIMEOUT_SEC,
            )
            if answer.status_code != 200:
                return False
            found: dict[str, Any] = answer.json()
    except (OSError, ValueError, google.auth.exceptions.GoogleAuthError):
        return False
    return found.get('currentState') in _ENDED
