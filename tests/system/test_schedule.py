"""templates/schedule without the schedulers: what they would be told, and what comes of it.

test_schedule_slow.py runs it in a real Airflow, an emulator of Workflows and systemd's own checks.
"""

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.commands import label, template
from pipeline.options import LabelOptions

TEMPLATES = Path(__file__).parents[2] / 'templates' / 'schedule'
SAMPLE = Path(__file__).parents[2] / 'pipeline' / 'sample'
WORKFLOW = yaml.safe_load((TEMPLATES / 'dataflow' / 'workflow.yaml').read_text())
ARGUMENT = json.loads((TEMPLATES / 'dataflow' / 'arguments.example.json').read_text())
NIGHT = datetime.datetime(2026, 11, 24, 2, tzinfo=datetime.UTC)


def parsed(arguments: Sequence[str]) -> LabelOptions:
    """What `lemmabeam label` makes of the arguments; raises UsageError for unknown ones."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    label.add_arguments(parser)
    return label.parse_label_arguments(parser, arguments)[0]


def parsed_command(words: Sequence[str]) -> LabelOptions:
    """The same of a whole command."""
    assert Path(words[0]).name == 'lemmabeam'
    assert words[1] == 'label'
    return parsed(words[2:])


def check_parameters(parameters: dict[str, str], tmp_path: Path) -> None:
    """Parameters of a Flex Template are options of `lemmabeam label`; the run id is accepted."""
    assert all(type(value) is str for value in parameters.values())
    argv = template.command_line([f'--{name}={value}' for name, value in parameters.items()], {})
    assert argv.pop() == '--no_wait'
    parsed(argv)
    check_run_id(parameters['run_id'], tmp_path)


def check_run_id(run_id: str, tmp_path: Path) -> None:
    args = parsed([f'--input={SAMPLE}', f'--output={tmp_path}/out', f'--run_id={run_id}'])
    assert config.make_config(args, NIGHT).layout.run_id == run_id


def stub(folder: Path, name: str, script: str) -> Path:
    """A program for the PATH that writes its arguments to `name.argv`, a line each."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" "" >>{folder}/{name}.argv\n{script}\n')
    program.chmod(0o755)
    return folder / f'{name}.argv'


def recorded(argv: Path) -> list[list[str]]:
    """The arguments of each call of a stub."""
    return [call.split('\n') for call in argv.read_text().split('\n\n')[:-1]]


# Workflows


class _Map(dict):
    __getattr__ = dict.__getitem__


# What the expressions of the workflow use of Workflows' library.
_LIBRARY = {
    'default': lambda value, other: other if value is None else value,
    'map': types.SimpleNamespace(get=dict.get, merge=lambda first, second: {**first, **second}),
    'text': types.SimpleNamespace(substring=lambda text, start, end: text[start:end]),
    'time': types.SimpleNamespace(
        format=lambda sec: datetime.datetime.fromtimestamp(sec, datetime.UTC).isoformat()
    ),
    'sys': types.SimpleNamespace(
        now=NIGHT.timestamp, get_env={'GOOGLE_CLOUD_PROJECT_ID': 'example-project'}.__getitem__
    ),
}


def evaluated(value: Any, variables: dict[str, Any]) -> Any:
    """`value` with each `${…}` in it computed; of the language just what reads like Python."""
    if isinstance(value, dict):
        return _Map({key: evaluated(each, variables) for key, each in value.items()})
    if isinstance(value, list):
        return [evaluated(each, variables) for each in value]
    if isinstance(value, str) and (match := re.fullmatch(r'\$\{(.*)\}', value)):
        return eval(match[1], {'__builtins__': {}, **_LIBRARY, **variables})
    return value


def launch_request(**argument: Any) -> dict[str, Any]:
    """The request that starts the job, computed from the first step and that one."""
    steps = {name: step for each in WORKFLOW['main']['steps'] for name, step in each.items()}
    variables = {'args': evaluated(ARGUMENT | argument, {})}
    for each in steps['prepare']['assign']:
        for name, value in each.items():
            variables[name] = evaluated(value, variables)
    return evaluated(steps['launch']['try']['args'], variables)


def test_workflow_asks_for_one_job_a_day(tmp_path):
    request = launch_request()
    assert request['url'] == (
        'https://dataflow.googleapis.com/v1b3/projects/example-project/locations/europe-west4'
        '/flexTemplates:launch'
    )
    launched = request['body']['launchParameter']
    assert launched == {
        'jobName': 'lemmabeam-nightly-2026-11-24',
        'containerSpecGcsPath': ARGUMENT['template'],
        'parameters': {**ARGUMENT['parameters'], 'run_id': 'nightly-2026-11-24'},
        'environment': ARGUMENT['environment'],
    }
    check_parameters(launched['parameters'], tmp_path)


def test_workflow_takes_up_another_day_and_keeps_schedules_apart(tmp_path):
    launched = launch_request(name='birds', day='2026-11-20')['body']['launchParameter']
    assert launched['jobName'] == 'lemmabeam-birds-2026-11-20'
    assert re.fullmatch('[a-z]([-a-z0-9]*[a-z0-9])?', launched['jobName'])  # what Dataflow takes
    check_parameters(launched['parameters'], tmp_path)


@pytest.mark.parametrize('is_there', [False, True])
def test_scheduler_script_hands_over_the_arguments(tmp_path, is_there):
    argv = stub(
        tmp_path / 'bin',
        'gcloud',
        f'case "$*" in *describe*) exit {0 if is_there else 1};; esac\n'
        'for a; do case $a in --message-body-from-file=*) '
        f'cp "${{a#*=}}" {tmp_path}/body;; esac; done',
    )
    example = TEMPLATES / 'dataflow' / 'arguments.example.json'
    subprocess.run(
        [TEMPLATES / 'dataflow' / 'scheduler.sh'],
        env={
            'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
            'PROJECT': 'p',
            'LOCATION': 'l',
            'ARGUMENTS': str(example),
        },
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(json.loads((tmp_path / 'body').read_text())['argument']) == ARGUMENT
    deploy, _, schedule = recorded(argv)
    assert deploy[:3] == ['workflows', 'deploy', 'lemmabeam-nightly']
    assert f'--source={TEMPLATES}/dataflow/workflow.yaml' in deploy
    assert schedule[:5] == [
        'scheduler', 'jobs', 'update' if is_there else 'create', 'http', 'lemmabeam-nightly',
    ]  # fmt: skip
    assert '--schedule=0 2 * * *' in schedule
    assert (
        '--uri=https://workflowexecutions.googleapis.com/v1/projects/p/locations/l'
        '/workflows/lemmabeam-nightly/executions'
    ) in schedule
    assert '--oauth-service-account-email=lemmabeam-scheduler@p.iam.gserviceaccount.com' in schedule


# systemd

_KNOWN_KEYS = {
    'Unit': 'Description Wants After StartLimitIntervalSec StartLimitBurst OnFailure',
    'Service': """
        Type User EnvironmentFile Environment ExecStart TimeoutStartSec KillSignal KillMode
        TimeoutStopSec Restart RestartSec RestartPreventExitStatus SuccessExitStatus
        StateDirectory CacheDirectory ReadWritePaths ProtectSystem ProtectHome PrivateTmp
        NoNewPrivileges CapabilityBoundingSet ProtectControlGroups ProtectKernelModules
        ProtectKernelTunables ProtectHostname RestrictSUIDSGID RestrictRealtime
        RestrictNamespaces LockPersonality SystemCallArchitectures RestrictAddressFamilies Nice
    """,
    'Timer': 'OnCalendar RandomizedDelaySec Persistent',
    'Install': 'WantedBy',
}


def unit(name: str) -> dict[str, dict[str, str]]:
    """A unit file, read strictly: no unknown section or key, none twice."""
    sections: dict[str, dict[str, str]] = {}
    for line in (TEMPLATES / 'systemd' / name).read_text().splitlines():
        if not line or line.startswith('#'):
            continue
        if match := re.fullmatch(r'\[(\w+)\]', line):
            keys = sections.setdefault(match[1], {})
            known = _KNOWN_KEYS[match[1]].split()
            continue
        key, equals, value = line.partition('=')
        assert equals, line
        assert key in known, line
        assert key not in keys, line
        assert not line.endswith('\\'), line
        keys[key] = value
    return sections


def environment_example() -> dict[str, str]:
    lines = (TEMPLATES / 'systemd' / 'environment.example').read_text().splitlines()
    return dict(line.split('=', 1) for line in lines if line and not line.startswith('#'))


def exec_words(command: str, environment: dict[str, str]) -> list[str]:
    """As systemd has it: ${X} stays within its word, $X alone becomes several."""
    words: list[str] = []
    for word in command.split():
        if re.fullmatch(r'\$\w+', word):
            words += environment[word[1:]].split()
        else:
            words.append(re.sub(r'\$\{(\w+)\}', lambda match: environment[match[1]], word))
    return words


def test_service_starts_a_command_that_exists():
    environment = environment_example() | {'LEMMABEAM_INPUT': '/srv/my photos'}
    words = exec_words(unit('lemmabeam-label.service')['Service']['ExecStart'], environment)
    args = parsed_command(words)
    assert args.input == ('/srv/my photos',)
    assert args.output == '/var/lib/lemmabeam/labels'
    assert args.max_failure_rate == 0.01
    assert args.run_id is None  # a run is taken up again by its options


def test_service_is_tried_again_only_where_that_helps():
    sections = unit('lemmabeam-label.service')
    service = sections['Service']
    assert service['Type'] == 'oneshot'
    assert service['Restart'] == 'on-failure'
    assert service['RestartPreventExitStatus'] == '2 3'
    assert service['SuccessExitStatus'] == '143'
    assert service['KillSignal'] == 'SIGTERM'
    assert service['User'] == 'lemmabeam'
    # More attempts than the limit allows within one night, none taken from the next one.
    assert sections['Unit'] == sections['Unit'] | {
        'StartLimitIntervalSec': '20h',
        'StartLimitBurst': '3',
    }


def test_timer_starts_the_service_of_its_name():
    sections = unit('lemmabeam-label.timer')
    assert sections['Timer']['OnCalendar'] == '*-*-* 02:00:00'
    assert sections['Timer']['Persistent'] == 'true'
    assert sections['Install'] == {'WantedBy': 'timers.target'}
    assert 'Unit' not in sections['Timer']


# cron


def crontab() -> tuple[dict[str, str], list[str], str, str]:
    """Settings, times, user and command of the only line, with cron's own escape undone."""
    text = (TEMPLATES / 'cron' / 'lemmabeam').read_text()
    assert text.endswith('\n')  # cron ignores a last line without
    lines = [line for line in text.splitlines() if line and not line.startswith('#')]
    settings = dict(line.split('=', 1) for line in lines[:-1])
    assert all(re.fullmatch(r'[A-Z]+', name) for name in settings)
    *times, user, command = lines[-1].split(maxsplit=6)
    assert not re.search(r'(?<!\\)%', command)
    return settings, times, user, command.replace(r'\%', '%')


@pytest.mark.parametrize('code', [0, 1, 2, 3, 143])
def test_cron_line_is_silent_unless_it_failed(tmp_path, code):
    settings, times, user, command = crontab()
    assert times == ['0', '2', '*', '*', '*']
    assert user == 'lemmabeam'
    argv = stub(tmp_path / 'bin', 'lemmabeam', f'echo labelled; echo told >&2; exit {code}')
    logs = tmp_path / 'log'
    logs.mkdir()
    assert '/opt/lemmabeam/bin' in settings['PATH'].split(':')
    done = subprocess.run(
        [settings['SHELL'], '-c', command.replace('/var/log/lemmabeam', str(logs))],
        env={
            'PATH': settings['PATH'].replace('/opt/lemmabeam/bin', f'{tmp_path}/bin'),
            'SHELL': settings['SHELL'],
            'HOME': '/',
            'LOGNAME': user,
        },
        cwd='/',
        capture_output=True,
        text=True,
    )
    (log,) = logs.iterdir()
    assert re.fullmatch(r'\d{4}-\d\d-\d\d\.log', log.name)
    assert log.read_text() == 'labelled\ntold\n'
    assert done.returncode == code
    assert done.stderr == ''
    mailed = f'lemmabeam label ended with exit code {code}, see {log}\nlabelled\ntold\n'
    assert done.stdout == (mailed if code else '')
    (call,) = recorded(argv)
    assert call[0] == 'label'


def test_cron_line_runs_a_command_that_exists():
    command = re.search(r'lemmabeam label .*?(?= >>)', crontab()[3])
    args = parsed_command(shlex.split(command[0]))
    assert args.input == ('/srv/photos',)
    assert args.output == '/var/lib/lemmabeam/labels'
