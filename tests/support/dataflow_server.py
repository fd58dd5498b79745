"""A fake of Dataflow's REST API on loopback, which really runs the jobs it is given if told to."""

import json
import re
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from tests.support.loopback import Handler, LoopbackServer
from transforms.storage.registry import store_for

_PATH = re.compile(
    r'/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs(?P<rest>.*)'
)


class DataflowServer(LoopbackServer):
    """Takes every job and has it end in a state.

    Attributes:
      jobs: the jobs that were created, as JSON, by id.
      state: the state of every job.
      on_create: called with each job before the answer.
      errors: messages of jobs that fail.
      endpoint: what --dataflow_endpoint takes; Beam speaks REST with a localhost only.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.state = 'JOB_STATE_DONE'
        self.on_create: Callable[[dict[str, Any]], object] = lambda job: None
        self.errors: list[str] = []
        outer = self

        class Answering(Handler):
            def do_POST(self) -> None:  # noqa: N802 (as http.server has it)
                self.do_GET()

            def respond(self) -> None:
                length = int(self.headers.get('Content-Length') or 0)
                status, answer = outer._answer(self.command, self.path, self.rfile.read(length))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(Answering)
        self.endpoint = f'http://localhost:{self.port}'

    @property
    def job(self) -> dict[str, Any]:
        """The only job that was created."""
        (job,) = self.jobs.values()
        return job

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        found = _PATH.match(path.partition('?')[0])
        if found is None:
            return 404, {}
        rest = found['rest'].split('/')[1:]
        if method == 'POST' and not rest:
            job = json.loads(body)
            job |= {
                'id': f'job-{len(self.jobs) + 1}',
                'projectId': found['project'],
                'location': found['region'],
            }
            self.jobs[job['id']] = job
            self.on_create(job)
            return 200, self._told(job) | {'currentState': 'JOB_STATE_PENDING'}
        if not rest:
            return 200, {'jobs': [self._told(job) for job in self.jobs.values()]}
        job = self.jobs.get(rest[0])
        if job is None:
            return 404, {'error': {'code': 404, 'message': f'no job {rest}'}}
        if rest[1:] == ['messages']:
            return 200, {
                'jobMessages': [
                    {
                        'id': str(i),
                        'time': f'2026-11-24T00:00:{i:02d}Z',
                        'messageText': text,
                        'messageImportance': 'JOB_MESSAGE_ERROR',
                    }
                    for i, text in enumerate(self.errors)
                ]
            }
        return 200, self._told(job)

    def _told(self, job: dict[str, Any]) -> dict[str, Any]:
        names = ('id', 'projectId', 'location', 'name', 'clientRequestId')
        return {name: job.get(name, '') for name in names} | {'currentState': self.state}


def staged_pipeline(job: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """The graph of a job, as it was staged."""
    uri = job['environment']['sdkPipelineOptions']['options']['pipelineUrl']
    data = store_for(uri).read(uri)
    return beam_runner_api_pb2.Pipeline.FromString(data)


def run_staged(job: dict[str, Any]) -> None:
    """Runs the graph of a job in this process, as workers would: from what was staged alone."""
    pipeline = staged_pipeline(job)
    for environment in pipeline.components.environments.values():
        environment.urn = python_urns.EMBEDDED_PYTHON
        environment.ClearField('payload')
        environment.ClearField('dependencies')
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
