"""templates/schedule in what would read it: Airflow, an emulator of Workflows, systemd's checks.

Not checked here: anything of a real cloud, and the units under a running systemd.
"""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_schedule import (
    ARGUMENT,
    NIGHT,
    TEMPLATES,
    check_parameters,
    check_run_id,
    parsed,
    recorded,
    stub,
)

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_DRIVERS = Path(__file__).parents[1] / 'environments' / 'schedule'
_JOB = 'lemmabeam-nightly-2026-11-24'
_SCHEDULED = 'scheduled__2026-11-24T02:00:00+00:00'


def python_of(name: str) -> Path:
    """The Python of an environment that the Makefile sets up."""
    python = _ROOT / '.venvs' / name / 'bin' / 'python'
    if not python.exists():
        pytest.fail(f'no {python}; set it up with: make .venvs/{name}/ready')
    return python


def last_line(done: subprocess.CompletedProcess) -> Any:
    """The JSON that a driver prints in the end."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# Workflows


def execute(**scenario: Any) -> dict[str, Any]:
    """What an execution did, see tests.environments.schedule.workflow_driver."""
    done = subprocess.run(
        [
            python_of('workflows'),
            _DRIVERS / 'workflow_driver.py',
            TEMPLATES / 'dataflow' / 'workflow.yaml',
        ],
        input=json.dumps({'argument': ARGUMENT, 'now': NIGHT.timestamp(), **scenario}),
        capture_output=True,
        text=True,
    )
    result = last_line(done)
    result['launched'] = [
        call['body']['launchParameter'] for call in result['calls'] if call['body']
    ]
    return result


def test_workflow_launches_and_waits(tmp_path):
    result = execute(launches=[['JOB_STATE_QUEUED', 'JOB_STATE_RUNNING', 'JOB_STATE_DONE']])
    assert result['returned'] == 'run nightly-2026-11-24 is done, by job job-1'
    (launched,) = result['launched']
    assert launched['jobName'] == _JOB
    assert launched['environment'] == ARGUMENT['environment']
    check_parameters(launched['parameters'], tmp_path)
    assert result['slept'] == [60, 60]


@pytest.mark.parametrize('name', ['birds', None])
def test_workflow_leaves_jobs_of_others_alone(name):
    argument = ARGUMENT | ({'name': name} if name else {})
    others = ['lemmabeam-nightly', 'lemmabeam-nightly-two-2026-11-23', 'wordcount']
    result = execute(
        argument=argument,
        jobs=[{'id': n, 'name': n, 'states': ['JOB_STATE_RUNNING']} for n in others],
        launches=[['JOB_STATE_DONE']],
    )
    assert result['launched'][0]['jobName'] == f'lemmabeam-{name or "nightly"}-2026-11-24'
    assert result['raised'] is None


def test_workflow_waits_for_the_job_of_an_execution_before():
    running = {'id': 'a', 'name': _JOB, 'states': ['JOB_STATE_RUNNING', 'JOB_STATE_DONE']}
    result = execute(jobs=[running])
    assert result['launched'] == []
    assert result['returned'] == 'run nightly-2026-11-24 is done, by job a'


def test_workflow_launches_nothing_when_the_run_is_done():
    jobs = [
        {'id': 'a', 'name': _JOB, 'states': ['JOB_STATE_FAILED']},
        {'id': 'b', 'name': _JOB, 'states': ['JOB_STATE_DONE']},
    ]
    result = execute(jobs=jobs)
    assert result['launched'] == []
    assert result['returned'] == 'run nightly-2026-11-24 is done already, by job b'


def test_workflow_launches_nothing_beside_the_job_of_the_night_before():
    job = {'id': 'a', 'name': 'lemmabeam-nightly-2026-11-23', 'states': ['JOB_STATE_RUNNING']}
    result = execute(jobs=[job])
    assert result['launched'] == []
    assert 'lemmabeam-nightly-2026-11-23 of another day is still running' in result['raised']


def test_workflow_launches_a_failed_run_once_more():
    failed = ['JOB_STATE_RUNNING', 'JOB_STATE_FAILED']
    result = execute(launches=[failed, ['JOB_STATE_DONE']])
    assert result['returned'] == 'run nightly-2026-11-24 is done, by job job-2'
    first, second = result['launched']
    assert first == second  # the same run, so it goes on from what is finished
    assert result['slept'] == [60, 300]

    result = execute(launches=[failed, ['JOB_STATE_FAILED']])
    assert 'job job-2 of run nightly-2026-11-24 ended as JOB_STATE_FAILED' in result['raised']


def test_workflow_does_not_bring_back_what_a_person_cancelled():
    result = execute(launches=[['JOB_STATE_CANCELLED']])
    assert len(result['launched']) == 1
    assert 'ended as JOB_STATE_CANCELLED' in result['raised']


def test_workflow_leaves_the_job_to_the_execution_that_was_faster():
    result = execute(launches=[409])
    assert 'launched by another execution' in result['returned']


def test_workflow_fails_when_the_launch_is_refused():
    result = execute(launches=[403])
    assert result['returned'] is None
    assert '403' in result['raised']


# Airflow


@dataclasses.dataclass(frozen=True)
class Airflow:
    """A fresh Airflow with a database of its own; `folder` is there for stubs."""

    folder: Path

    def ask(self, command: str, *arguments: Any) -> Any:
        """What tests.environments.schedule.airflow_driver answers."""
        environment = {key: value for key, value in os.environ.items() if 'AIRFLOW' not in key}
        environment |= {
            'AIRFLOW_HOME': str(self.folder / 'home'),
            'AIRFLOW__CORE__LOAD_EXAMPLES': 'False',
            'AIRFLOW__CORE__DAGS_FOLDER': str(TEMPLATES / 'airflow'),
            'AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT': 'google-cloud-platform://',
            'PATH': f'{self.folder / "bin"}:{os.environ["PATH"]}',
            'PYTHONDONTWRITEBYTECODE': '1',  # nothing is left in templates/
        }
        driver = ['-m', 'airflow', 'db', 'migrate']
        if command != 'migrate':
            driver = [str(_DRIVERS / 'airflow_driver.py'), command, str(TEMPLATES / 'airflow')]
        done = subprocess.run(
            [python_of('airflow'), *driver, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
        )
        if command == 'migrate':
            assert done.returncode == 0, done.stdout + done.stderr
            return None
        return last_line(done)

    def run(self, script: str, *arguments: Any) -> tuple[dict[str, Any], list[list[str]]]:
        """Runs the DAG of one machine with a stub; the outcome, and the arguments of each try."""
        argv = stub(self.folder / 'bin', 'lemmabeam', script)
        argv.unlink(missing_ok=True)
        outcome = self.ask('run', 'lemmabeam_nightly', *arguments)
        return outcome, recorded(argv)


@pytest.fixture(scope='module')
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    made = Airflow(tmp_path_factory.mktemp('airflow'))
    made.ask('migrate')
    return made


def test_airflow_takes_the_dags(airflow):
    nightly = {'schedule': '0 2 * * *', 'catchup': False, 'max_active_runs': 1}
    assert airflow.ask('describe') == {
        'import_errors': {},
        'warnings': [],
        'dags': {
            'lemmabeam_nightly': nightly
            | {'tasks': {'label': {'retries': 2, 'timeout_sec': 72000.0}}},
            'lemmabeam_nightly_dataflow': nightly
            | {'tasks': {'label': {'retries': 1, 'timeout_sec': 72000.0}}},
        },
    }


def test_airflow_renders_the_command_of_a_night(airflow):
    rendered = airflow.ask('render', 'lemmabeam_nightly', _SCHEDULED)
    assert rendered['bash_command'] == (
        'exec lemmabeam label --input gs://example-photos --output gs://example-labels '
        '--model bit-m-r101x3 --max_failure_rate 0.01 --wait_for_lease_sec 600 '
        '--run_id nightly-20261124-33aa9875'
    )
    assert airflow.ask('render', 'lemmabeam_nightly', _SCHEDULED) == rendered
    other = airflow.ask('render', 'lemmabeam_nightly', _SCHEDULED.replace('-24', '-25'))
    assert '--run_id nightly-20261125-' in other['bash_command']


@pytest.mark.parametrize(
    ('code', 'state', 'tries'),
    [(0, 'success', 1), (1, 'failed', 3), (2, 'failed', 1), (3, 'failed', 1), (143, 'failed', 3)],
)
def test_airflow_tries_again_only_where_that_helps(airflow, tmp_path, code, state, tries):
    outcome, calls = airflow.run(f'exit {code}', '--date', f'2026-11-24T02:00:00.{code:03}+00:00')
    assert (outcome['state'], outcome['tries']) == (state, tries)
    assert len(calls) == tries
    assert all(call == calls[0] for call in calls)  # each try is the same run
    assert calls[0][:3] == ['label', '--input', 'gs://example-photos']
    check_run_id(calls[0][-1], tmp_path)


def test_airflow_succeeds_at_the_second_try(airflow, tmp_path):
    outcome, calls = airflow.run(f'mkdir {tmp_path}/first && exit 1; exit 0')
    assert (outcome['state'], outcome['tries']) == ('success', 2)
    assert calls[0] == calls[1]


def test_airflow_passes_options_that_exist(airflow):
    _, (call,) = airflow.run('exit 0')
    args = parsed(call[1:])
    assert args.model == 'bit-m-r101x3'
    assert args.wait_for_lease_sec == 600


def test_airflow_stops_by_sigterm_and_without_a_date(airflow, tmp_path):
    outcome, calls = airflow.run(
        f"trap 'echo stopped >>{tmp_path}/told; exit 143' TERM; sleep 60 & wait",
        '--timeout_sec',
        '1',
    )
    assert (outcome['state'], outcome['tries']) == ('failed', 3)
    assert (tmp_path / 'told').read_text() == 'stopped\n' * 3
    assert len({call[-1] for call in calls}) == 1
    check_run_id(calls[0][-1], tmp_path)


def test_airflow_asks_dataflow_for_the_same_job_at_each_try(airflow, tmp_path):
    outcome = airflow.ask('run', 'lemmabeam_nightly_dataflow')
    assert (outcome['state'], outcome['tries']) == ('failed', 2)  # the driver refuses
    first, second = outcome['requests']
    assert first == second
    launched = first['launchParameter']
    assert launched['jobName'] == f'lemmabeam-{launched["parameters"]["run_id"]}'
    check_parameters(launched['parameters'], tmp_path)


# systemd


def systemd_analyze(*arguments: Any) -> subprocess.CompletedProcess:
    if shutil.which('systemd-analyze') is None:
        pytest.fail('no systemd-analyze; install it with: apt-get install systemd')
    return subprocess.run(['systemd-analyze', *arguments], capture_output=True, text=True)


def test_systemd_finds_nothing_to_say_about_the_units(tmp_path):
    for name in ('lemmabeam-label.service', 'lemmabeam-label.timer'):
        text = (TEMPLATES / 'systemd' / name).read_text()
        # What is not installed on this machine.
        text = text.replace('ExecStart=/opt/lemmabeam/bin/lemmabeam ', 'ExecStart=/bin/true ')
        (tmp_path / name).write_text(text)
    done = systemd_analyze('verify', *tmp_path.iterdir())
    # Unknown keys are a warning to it, with exit code 0.
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_systemd_starts_it_at_two(tmp_path):
    timer = (TEMPLATES / 'systemd' / 'lemmabeam-label.timer').read_text()
    (calendar,) = [line for line in timer.splitlines() if line.startswith('OnCalendar=')]
    done = systemd_analyze('calendar', calendar.removeprefix('OnCalendar='))
    assert done.returncode == 0, done.stderr
    assert 'Normalized form: *-*-* 02:00:00' in done.stdout
