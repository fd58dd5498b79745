"""Executes the workflow of templates/schedule/dataflow in an emulator, before a made-up Dataflow.

Run by the Python of .venvs/workflows, with a scenario as JSON on standard input:

    argument  the argument of the execution
    now       seconds since 1970
    jobs      jobs that are there already: {id, name, states}
    launches  the states of each job that is launched, or the HTTP status that refuses it

A job takes its next state each time it is looked at. The last line of standard output is JSON. The
requests are checked against the messages of google-cloud-dataflow-client, which know every field.
"""

import json
import os
import sys

import requests
from google.cloud import dataflow_v1beta3 as dataflow
from workflows_emulator import main, render

_TERMINAL = {'JOB_STATE_DONE', 'JOB_STATE_FAILED', 'JOB_STATE_CANCELLED'}
_HOME = 'https://dataflow.googleapis.com/v1b3/projects/example-project/locations/europe-west4'


class Dataflow:
    def __init__(self, jobs, launches):
        self.jobs = {job['id']: job for job in jobs}
        self.launches = launches
        self.calls = []

    def request(self, method, url, body=None, query=None, auth=None):
        assert auth == {'type': 'OAuth2'}
        assert url.startswith(_HOME)
        path = url.removeprefix(_HOME)
        self.calls.append({'call': f'{method} {path}', 'query': query, 'body': body})
        if method == 'POST':
            assert path == '/flexTemplates:launch'
            answer = self._launch(body)
        elif path == '/jobs':
            answer = self._list(query)
        else:
            job = self.jobs[path.removeprefix('/jobs/')]
            answer = {**job, 'currentState': job['states'][0]}
            if len(job['states']) > 1:
                job['states'].pop(0)
        return {'code': 200, 'headers': {}, 'body': answer}

    def _launch(self, body):
        dataflow.LaunchFlexTemplateRequest.from_json(json.dumps(body))
        states = self.launches.pop(0)
        if isinstance(states, int):
            response = requests.Response()
            response.status_code = states
            raise requests.HTTPError(f'{states}', response=response)
        name = body['launchParameter']['jobName']
        job = {'id': f'job-{len(self.jobs) + 1}', 'name': name, 'states': states}
        self.jobs[job['id']] = job
        return {'job': {'id': job['id'], 'name': name}}

    def _list(self, query):
        dataflow.ListJobsRequest.from_json(json.dumps(query))
        found = [
            {'id': job['id'], 'name': job['name'], 'currentState': job['states'][0]}
            for job in self.jobs.values()
            if query.get('name') in (None, job['name'])
            and (job['states'][0] in _TERMINAL) == (query['filter'] == 'TERMINATED')
        ]
        return {'jobs': found} if found else {}


def execute(path, scenario):
    service = Dataflow(scenario.get('jobs', []), scenario.get('launches', []))
    slept = []
    http, system = render.STANDARD_LIBRARY['http'], render.STANDARD_LIBRARY['sys']
    http.request = service.request
    system.sleep = lambda seconds: slept.append(seconds)
    system.now = lambda: scenario['now']
    os.environ['GOOGLE_CLOUD_PROJECT_ID'] = 'example-project'
    result = {'returned': None, 'raised': None}
    try:
        workflow = main.load_workflow(path)  # against the emulator's schema of the language
        result['returned'] = main.execute_workflow(workflow, {'args': scenario['argument']})
    except main.WorkflowError as e:
        result['raised'] = str(e.payload)
    return {**result, 'calls': service.calls, 'slept': slept}


if __name__ == '__main__':
    print(json.dumps(execute(sys.argv[1], json.load(sys.stdin))))
