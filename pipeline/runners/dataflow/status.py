"""Whether a job of Dataflow has ended, asked of its REST API."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import requests

ENDPOINT = 'https://dataflow.googleapis.com'

_ENDED = frozenset(
    f'JOB_STATE_{name}' for name in ('DONE', 'FAILED', 'CANCELLED', 'DRAINED', 'UPDATED')
)
_PART = re.compile(r'[A-Za-z0-9][A-Za-z0-9_:.-]*')
_GOOGLE = re.compile(r'https://dataflow(?:\.[a-z0-9-]+)*\.googleapis\.com')
_LOOPBACK = re.compile(r'http://(?:localhost|127\.0\.0\.1)(?::\d+)?')
_SCOPE = 'https://www.googleapis.com/auth/cloud-platform'
_TIMEOUT_SEC = 30.0


class Job(NamedTuple):
    """A job of Dataflow.

    Attributes:
      project, region, name: where it runs, and what it is called.
      id: '' where only the service knows it: it submits what a template has staged.
      endpoint: of the API.
    """

    project: str
    region: str
    name: str
    id: str = ''
    endpoint: str = ENDPOINT

    def __str__(self) -> str:
        """Name, id if known, and page for people."""
        page = f'/{self.region}/{self.id}' if self.id else ''
        return (
            f'{self.name}{self.id and f" ({self.id})"}, '
            f'https://console.cloud.google.com/dataflow/jobs{page}?project={self.project}'
        )


def parse_job(value: object) -> Job | None:
    """A job from untrusted JSON, or None.

    Credentials go to Google's endpoints only.  Where stores are emulated, it may be on loopback.
    """
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        return None
    try:
        job = Job(**value)
    except TypeError:
        return None
    is_emulated = 'STORAGE_EMULATOR_HOST' in os.environ and _LOOPBACK.fullmatch(job.endpoint)
    if not (_GOOGLE.fullmatch(job.endpoint) or is_emulated):
        return None
    is_good = all(map(_PART.fullmatch, job[:3])) and (not job.id or _PART.fullmatch(job.id))
    return job if is_good else None


class DataflowJobs:
    """What a lease asks of the jobs that hold it."""

    def describe(self, job: object) -> str:
        """What to call a job for people; '' for what is none of Dataflow."""
        known = parse_job(job)
        return '' if known is None else f'job of Dataflow {known}'

    def has_ended(self, job: object, may_be_none: bool) -> bool:
        """Whether it has; False where nobody can tell."""
        known = parse_job(job)
        if known is None:
            return False
        return has_none_active(known) if may_be_none else has_ended(known)


JOBS = DataflowJobs()


def has_ended(job: Job) -> bool:
    """Whether a job is known to have ended; False where nobody can tell.

    Of one without an id, all jobs of its name must have: the service makes that of a template
    before it starts the launcher.
    """
    states = _states(job) or set()
    return bool(states) and states <= _ENDED


def has_none_active(job: Job) -> bool:
    """Whether no job of this name works, or will: all have ended, or there never was one."""
    states = _states(job._replace(id=''))
    return states is not None and states <= _ENDED


def _states(job: Job) -> set[str] | None:
    """The states of the job, or of all of its name; None where nobody can tell."""
    # Most leases are of no job, and nobody is asked.
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests
    import requests

    jobs = f'{job.endpoint}/v1b3/projects/{job.project}/locations/{job.region}/jobs'
    try:
        session: requests.Session = requests.Session()
        if _GOOGLE.fullmatch(job.endpoint):
            credentials, _ = google.auth.default(scopes=[_SCOPE])
            session = google.auth.transport.requests.AuthorizedSession(credentials)
        with session:
            if job.id:
                found = [_get(session, f'{jobs}/{job.id}')]
            else:
                answer = _get(session, jobs, name=job.name, filter='ALL')
                found = [each for each in answer.get('jobs', []) if each['name'] == job.name]
                if answer.get('nextPageToken'):
                    return None
            return {each['currentState'] for each in found}
    except (OSError, ValueError, LookupError, google.auth.exceptions.GoogleAuthError):
        return None


def _get(session: 'requests.Session', url: str, **query: str) -> dict[str, Any]:
    answer = session.get(url, params=query, timeout=_TIMEOUT_SEC)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
