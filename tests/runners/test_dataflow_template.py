"""templates/dataflow without Docker and without a cloud: what must agree with what does.

Not checked here: that the image can be built, and what Dataflow makes of the template.
"""

import argparse
import ast
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions
from google.cloud.dataflow_v1beta3.types import templates as messages
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pipeline
from pipeline import flex_template
from pipeline.commands import label, template
from pipeline.commands.template_metadata import METADATA, as_json
from pipeline.options import OPTIONS as DECLARED
from pipeline.options import LabelOptions
from pipeline.runners.dataflow import job
from tests.system.test_schedule import TEMPLATES as SCHEDULE
from tests.system.test_schedule import launch_request
from transforms.core.errors import UsageError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'templates' / 'dataflow'
PARAMETERS = {each['name']: each for each in json.loads(METADATA.read_text())['parameters']}
OPTIONS = {option.name: option for option in DECLARED if option.in_template}
LAUNCHER_ONLY = {option.name for option in DECLARED if not option.in_template}
IMAGE = 'europe-west4-docker.pkg.dev/example-project/lemmabeam/lemmabeam:1'

# What Google's launcher adds to the parameters.
ADDED = [
    '--runner=DataflowRunner',
    '--project=example-project',
    '--region=europe-west4',
    '--job_name=lemmabeam-nightly-2026-11-24',
    '--template_location=gs://example-temp/staging/template_launches/1/job_object',
    '--temp_location=gs://example-temp/lemmabeam',
    '--staging_location=gs://example-temp/staging',
    '--service_account_email=lemmabeam-worker@example-project.iam.gserviceaccount.com',
    '--num_workers=1',
    '--max_num_workers=4',
    '--machine_type=n1-standard-8',
    '--experiments=use_runner_v2',
    '--labels={"job": "lemmabeam-nightly", "goog-dataflow-x": ""}',
]
NEEDED = ['--input=gs://b/photos', '--output=gs://b/labels']


def label_parser() -> argparse.ArgumentParser:
    """That of `lemmabeam label`; what it refuses raises."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    label.add_arguments(parser)
    return parser


def parsed(parameters: list[str], **environment: str) -> tuple[LabelOptions, Any]:
    """What `lemmabeam label` understands when a template is launched with the parameters."""
    argv = template.command_line(parameters, environment)
    assert argv.pop() == '--no_wait'
    return label.parse_label_arguments(label_parser(), argv)


# The parameters on their way to the command line


def test_parameters_become_options():
    args, beam_options = parsed(
        [
            '--input=gs://b/photos/**\n\n  gs://b/more.csv\r\n',
            '--output=gs://b/labels',
            '--carry=split,customer_id',
            '--require_gpu=true',
            '--jit=false',
            '--force=True',
            '--model=',
            '--run_id= ',
            '--threshold=0.25',
            *ADDED,
        ],
        LEMMABEAM_IMAGE=IMAGE,
    )
    assert args.input == ('gs://b/photos/**', 'gs://b/more.csv')
    assert args.carry == ('split', 'customer_id')
    assert (args.require_gpu, args.jit, args.force, args.relist) == (True, False, True, False)
    assert (args.model, args.run_id, args.threshold) == ('embedded', None, 0.25)
    cloud = beam_options.view_as(GoogleCloudOptions)
    assert cloud.template_location.endswith('/job_object')
    assert json.loads(cloud.labels[0])['job'] == 'lemmabeam-nightly'
    workers = beam_options.view_as(WorkerOptions)
    assert workers.max_num_workers == 4
    assert workers.sdk_container_image == IMAGE


def test_flags_of_beam_come_as_true_and_false():
    _, beam_options = parsed(
        [*NEEDED, '--use_public_ips=false', '--no_auth=true', '--update=false']
    )
    assert beam_options.view_as(WorkerOptions).use_public_ips is False
    assert beam_options.view_as(GoogleCloudOptions).no_auth is True
    assert beam_options.view_as(GoogleCloudOptions).update is False


def test_what_has_no_value_passes_as_it_is():
    argv = template.command_line(['--force', '--input', 'gs://b/a=b', '--no_use_public_ips'], {})
    assert argv[:4] == ['--force', '--input', 'gs://b/a=b', '--no_use_public_ips']


def test_every_flag_takes_true_and_false():
    flags = [name for name, option in OPTIONS.items() if option.is_switch]
    assert 'require_gpu' in flags
    for value in (True, False):
        words = [f'--{name}={str(value).lower()}' for name in flags]
        args, _ = parsed([*NEEDED, *words])
        assert {getattr(args, name) for name in flags} == {value}


@pytest.mark.parametrize('value', ['yes', '1', 'truefalse', 'true,false'])
def test_flag_that_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(UsageError, match=f"--jit '{value}': expected true or false"):
        template.command_line([*NEEDED, f'--jit={value}'], {})


def test_template_always_submits_to_dataflow():
    argv = template.command_line(NEEDED, {})
    assert argv == [*NEEDED, '--runner=DataflowRunner', '--no_wait']
    for name in ('explain', 'no_wait'):
        with pytest.raises(UsageError, match=f'--{name}'):
            template.command_line([*NEEDED, f'--{name}=true'], {})


def test_image_that_is_named_wins():
    given = '--sdk_container_image=other:1'
    argv = template.command_line([*NEEDED, given], {'LEMMABEAM_IMAGE': IMAGE})
    assert [word for word in argv if 'container' in word] == [given]
    assert not any('container' in word for word in template.command_line(NEEDED, {}))


def launched(monkeypatch: pytest.MonkeyPatch, parameters: list[str]) -> list[list[str]]:
    """Runs launch.py; the command lines that it would have run."""
    calls: list[list[str]] = []
    monkeypatch.setattr(flex_template, 'console', calls.append)
    monkeypatch.setattr(sys, 'argv', ['launch.py', *parameters])
    monkeypatch.setenv('LEMMABEAM_IMAGE', IMAGE)
    runpy.run_path(str(FOLDER / 'launch.py'), run_name='__main__')
    return calls


def test_launch_runs_the_command(monkeypatch):
    (argv,) = launched(monkeypatch, [*NEEDED, '--runner=DataflowRunner'])
    image = f'--sdk_container_image={IMAGE}'
    assert argv == ['label', *NEEDED, '--runner=DataflowRunner', image, '--no_wait']


def test_launch_refuses_wrong_usage(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        launched(monkeypatch, [*NEEDED, '--force=maybe'])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "lemmabeam: --force 'maybe': expected true or false\n"


def test_launch_defines_nothing():
    body = ast.parse((FOLDER / 'launch.py').read_text()).body
    assert {type(each) for each in body} == {ast.Expr, ast.ImportFrom}


# metadata.json


def test_metadata_is_what_the_parser_says():
    assert METADATA.read_text() == as_json(), (
        'write it anew: python -m pipeline.commands.template_metadata'
    )


def test_every_option_is_a_parameter():
    assert list(PARAMETERS) == list(OPTIONS)
    assert not set(PARAMETERS) & LAUNCHER_ONLY


def test_parameters_are_told_about():
    for name, parameter in PARAMETERS.items():
        assert set(parameter) >= {'label', 'helpText', 'isOptional', 'groupName', 'paramType'}, name
        assert len(parameter['helpText']) > 20, name
        assert '%%' not in parameter['helpText'], name
    assert len({each['label'] for each in PARAMETERS.values()}) == len(PARAMETERS)


def test_parameters_without_which_nothing_runs():
    required = {name for name, each in PARAMETERS.items() if not each['isOptional']}
    for word in NEEDED:
        name = word.partition('=')[0]
        with pytest.raises(UsageError, match=f'{name} is missing'):
            parsed([each for each in NEEDED if each != word])
        required.remove(name.removeprefix('--'))
    assert required == set()
    parsed(NEEDED)


def test_defaults_are_those_of_the_parser():
    args, _ = parsed(NEEDED)
    for name, parameter in PARAMETERS.items():
        if name in ('input', 'output'):
            assert 'defaultValue' not in parameter
            continue
        default = parameter.get('defaultValue', '')
        given, _ = parsed([*NEEDED, f'--{name}={default}'])
        assert getattr(given, name) == getattr(args, name) == OPTIONS[name].default, name
        assert not default or matches(name, default), name
        assert default or getattr(args, name) in (None, ()), name


def test_choices_are_those_of_the_parser():
    choices = {
        name: list(option.type.choices) for name, option in OPTIONS.items() if option.type.choices
    }
    assert choices == {
        name: [option['value'] for option in each['enumOptions']]
        for name, each in PARAMETERS.items()
        if each['paramType'] == 'ENUM'
    }
    for name, values in choices.items():
        assert all(matches(name, value) for value in values)


def matches(name: str, value: str) -> bool:
    """Whether Dataflow would accept the value: where it stands in the text is up to the regexes."""
    return all(re.search(regex, value) for regex in PARAMETERS[name].get('regexes', ()))


PROBES = [
    *"""
    x -1 0 00 1 2 0.0 0.3 .5 1.0 1.5 2.5 5 7 60 99 100 199 200 201 999 1000 1e-3 1e3 inf nan 0x1F
    99999 123456 999999999999999999 1000000000000000000 50000000 123456789012345 1234567890123456
    64MiB 64mib 64KB 64K 0MiB 1TB 5B 5TiB 64.5MiB a,b a,,b ,a a, true false True yes -a
    2026-11-24 2026-11-24T01:02:03Z 2026-13 20261124 20261124T010203Z-00ff nightly-2026-11-24 36h 5y
    http://localhost:9000 https://s3.example/x https://u:p@h/ ftp://h auto float16 strict off
    gs://b/photos gs://b/photos/** gs:// s3://b/x file:///x /photos photos https://h/x.jpg
    """.split(),
    'a b',
    '64 MiB',
    '1\n2',
    'true\n',
    'gs://b/x\ngs://b/y',
    'gs://b/x\n\n',
    'gs://b/x\nphotos',
    'a' * 64,
    'A' * 64,
    'a' * 101,
]


@pytest.mark.parametrize('name', PARAMETERS)
def test_what_dataflow_accepts_the_parser_takes(name):
    accepted = [value for value in PROBES if matches(name, value)]
    assert accepted, 'no probe is of this kind: add one'
    parser = label_parser()
    for value in accepted:
        if OPTIONS[name].is_switch:
            assert value.strip() in ('true', 'false')
        else:
            parser.parse_args([f'--{name}={value}'])
    if PARAMETERS[name]['paramType'] != 'TEXT':
        assert 'x' not in accepted
        assert len(accepted) < len(PROBES)


@pytest.mark.parametrize(
    ('name', 'right', 'wrong'),
    [
        ('input', 'gs://b/x\n s3://b/y\n', 'photos'),
        ('output', 'gs://b/labels', '/labels'),
        ('max_images', '1000', '1,000'),
        ('min_labels', '0', '-1'),
        ('threshold', '0.3', '1.5'),
        ('fetch_deadline_sec', '0.5', '0'),
        ('wait_for_lease_sec', '0', '-1'),
        ('max_bytes', '64MiB', '64M'),
        ('carry', 'split,customer_id', 'split,,x'),
        ('precision', 'bfloat16', 'half'),
        ('jit', 'true', 'yes'),
        ('model_sha256', 'a' * 64, 'a' * 63),
        ('run_id', 'nightly-2026-11-24', '2026-11-24'),
        ('s3_endpoint_url', 'http://localhost:9000', 'localhost:9000'),
        ('since', '36h', 'yesterday'),
        ('report_thumbnails', '200', '201'),
    ],
)
def test_regexes_know_a_wrong_type(name, right, wrong):
    assert matches(name, right)
    assert not matches(name, wrong)


def test_spec_is_what_dataflow_takes():
    spec = {
        'image': IMAGE,
        'sdkInfo': {'language': 'PYTHON'},
        'metadata': json.loads(METADATA.read_text()),
    }
    # Unknown fields and unknown types raise.
    message = messages.ContainerSpec.from_json(json.dumps(spec), ignore_unknown_fields=False)
    kinds = {each.name: each.param_type.name for each in message.metadata.parameters}
    assert kinds == {name: each['paramType'] for name, each in PARAMETERS.items()}
    assert kinds['output'] == 'GCS_WRITE_FOLDER'


# The image


def instructions() -> list[tuple[str, str]]:
    """Name and value of each instruction of the Dockerfile."""
    text = re.sub(r'^ *#.*\n', '', (FOLDER / 'Dockerfile').read_text(), flags=re.MULTILINE)
    lines = re.sub(r'\\\n\s*', '', text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]  # type: ignore[misc]


def values(kind: str) -> list[str]:
    return [value for name, value in instructions() if name == kind]


def image_arguments() -> dict[str, str]:
    """Arguments of the build with a default; those without are ''."""
    pairs = [value.partition('=') for value in values('ARG')]
    return {name: default for name, equals, default in reversed(pairs) if equals or default == ''}


def filled_in(text: str) -> str:
    arguments = {name: value for name, value in image_arguments().items() if value}
    arguments |= dict(value.split('=', 1) for value in values('ARG') if value.count('=') == 1)
    return re.sub(r'\$\{(\w+)\}', lambda match: arguments[match[1]], text)


def variables() -> dict[str, str]:
    words = [word for value in values('ENV') for word in shlex.split(value)]
    return dict(word.split('=', 1) for word in words)


def locked(path: Path) -> dict[str, str]:
    """Versions by package, for the Python of the image; each must have a hash."""
    entries = re.findall(r'^([\w.-]+)==(\S+)( ;[^\\\n]*)? \\\n    --hash=', path.read_text(), re.M)
    pinned = re.findall(r'^[\w.-]+(?:\[.*\])?==', path.read_text(), re.MULTILINE)
    assert len(entries) == len(pinned) > 50
    python = {'python_version': '3.11', 'python_full_version': '3.11.0'}
    return {
        name: version
        for name, version, marker in entries
        if not marker or Marker(marker.lstrip(' ;')).evaluate(python)
    }


LOCK = FOLDER / 'requirements.lock'


def requirements(*extras: str) -> Iterator[Requirement]:
    """Those of setup.py."""
    (call,) = [
        node
        for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'setup'
    ]
    keywords = {each.arg: each.value for each in call.keywords}
    texts = list(ast.literal_eval(keywords['install_requires']))
    for extra in extras:
        texts += ast.literal_eval(keywords['extras_require'])[extra]
    return map(Requirement, texts)


def test_beam_is_one_version_everywhere():
    beam = locked(LOCK)['apache-beam']
    assert beam == locked(ROOT / 'requirements.lock')['apache-beam']
    froms = [filled_in(value) for value in values('FROM')]
    assert froms[0] == f'apache/beam_python3.11_sdk:{beam} AS beam'
    assert froms[1].startswith('gcr.io/dataflow-templates-base/python311-template-launcher-base:')
    assert re.fullmatch(r'python:3\.11-slim-\w+', froms[2])
    smoke = [value for value in values('RUN') if 'smoke.py' in value]
    assert smoke == ['python /template/smoke.py --beam_version="${BEAM_VERSION}"']


def test_lock_of_the_image_is_that_of_setup_py():
    image, here = locked(LOCK), locked(ROOT / 'requirements.lock')
    for requirement in requirements('gpu', 'jax-cuda', 'gcp', 'aws', 'azure', 'heif', 'hf'):
        version = image[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    differing = {name for name in image.keys() & here.keys() if image[name] != here[name]}
    assert differing == set(), 'make lock writes both'
    assert {'nvidia-cudnn-cu12', 'google-cloud-dataflow-client'} <= image.keys()
    assert 'pytest' not in image
    assert '://' not in LOCK.read_text()
    lock = re.search(r'^\tuv pip compile .* -o templates/dataflow/\S+$', makefile(), re.MULTILINE)
    assert re.findall(r'--extra ([\w-]+)', lock[0]) == [
        'gpu',
        'jax-cuda',
        'gcp',
        'aws',
        'azure',
        'heif',
        'hf',
    ]


def makefile() -> str:
    return (ROOT / 'Makefile').read_text()


def test_image_says_its_versions():
    labels = dict(word.split('=', 1) for word in shlex.split(values('LABEL')[0]))
    assert labels['org.opencontainers.image.version'] == pipeline.__version__
    assert filled_in(labels['lemmabeam.apache-beam']) == locked(LOCK)['apache-beam']
    assert labels['lemmabeam.tensorflow'] == locked(LOCK)['tensorflow']


def test_what_is_copied_is_there_and_not_ignored():
    kept = {
        line[1:]
        for line in (FOLDER / 'Dockerfile.dockerignore').read_text().splitlines()
        if line.startswith('!')
    }
    copied = set()
    for value in values('COPY'):
        *sources, _ = [word for word in value.split() if not word.startswith('--')]
        if '--from=' in value:
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept or str(Path(source).parent) in kept, source
            copied.add(source)
    assert all(any(each.startswith(name) for each in copied) for name in kept)
    # setup.py reads these while the package is installed.
    assert {'README.md', 'LICENSE', 'NOTICE', 'pipeline', 'transforms'} <= copied


def test_programs_of_dataflow_are_where_they_belong():
    copied = dict(re.findall(r'--from=(\w+) (\S+) ', '\n'.join(values('COPY'))))
    assert copied == {
        'beam': '/opt/apache/beam',
        'launcher': '/opt/google/dataflow/python_template_launcher',
    }
    for value in values('COPY')[:2]:
        assert value.split()[1] == value.split()[2]  # at the same place
    assert instructions()[-1] == ('ENTRYPOINT', '["/opt/apache/beam/boot"]')
    assert values('USER') == ['root']
    assert variables()['FLEX_TEMPLATE_PYTHON_PY_FILE'] == '/template/launch.py'
    assert variables()[template.IMAGE_VARIABLE] == '${IMAGE}'
    # With these set, the launcher would install something.
    assert not {'FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE', 'FLEX_TEMPLATE_PYTHON_SETUP_FILE'} & set(
        variables()
    )


def test_commands_of_the_image_are_shell_and_check_it():
    runs = [re.sub(r'^(--mount=\S+ ?)+', '', value) for value in values('RUN')]
    for run in runs:
        subprocess.run(['sh', '-n', '-c', run], check=True)
    installs = [run for run in runs if 'pip install' in run]
    assert all('--require-hashes' in run or '--no-deps' in run for run in installs)
    assert any('pip check' in run for run in runs)
    (check,) = [run for run in runs if run.startswith('lemmabeam ')]
    assert shlex.split(check) == ['lemmabeam', 'models', '--check', '${MODEL}']
    # Nothing is installed after what tries the image.
    assert runs[-1].startswith('python /template/smoke.py')


def test_no_secret_is_kept_in_the_image():
    names = [*image_arguments(), *variables()]
    assert not [name for name in names if re.search('KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL', name)]
    assert all('type=secret' in each for each in values('RUN') if 'kaggle' in each)


def smoke() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location('smoke', FOLDER / 'smoke.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke_finds_what_is_missing(tmp_path, monkeypatch):
    tried = smoke()
    monkeypatch.setattr(tried.os, 'getuid', lambda: 0)
    for name in tried.PROGRAMS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('#!/bin/sh\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'template').mkdir()
    (tmp_path / 'template' / 'launch.py').touch()
    environment = {'FLEX_TEMPLATE_PYTHON_PY_FILE': '/template/launch.py'}
    assert list(tried.wrong_programs(tmp_path, environment)) == []

    (tmp_path / tried.PROGRAMS[0]).chmod(0o644)
    (tmp_path / tried.PROGRAMS[1]).unlink()
    monkeypatch.setattr(tried.os, 'getuid', lambda: 1000)
    boot, launcher, entry, root = tried.wrong_programs(tmp_path, {})
    assert '/opt/apache/beam/boot' in boot
    assert 'python_template_launcher' in launcher
    assert 'FLEX_TEMPLATE_PYTHON_PY_FILE' in entry
    assert 'not root' in root


def test_smoke_finds_another_beam(monkeypatch):
    tried = smoke()
    assert list(tried.wrong_versions(locked(LOCK)['apache-beam'])) == []
    (problem,) = tried.wrong_versions('2.76.0')
    assert 'boot is that of Beam 2.76.0' in problem
    monkeypatch.setattr(tried, 'MODULES', ('pipeline.flex_template', 'no_such_module'))
    (problem,) = tried.wrong_modules()
    assert 'no_such_module' in problem


def test_smoke_names_photographs_that_are_there():
    assert all((ROOT / 'pipeline' / 'sample' / name).is_file() for name in smoke().SEEN)


def test_cloud_build_builds_pushes_and_describes_one_image():
    build = yaml.safe_load((FOLDER / 'cloudbuild.yaml').read_text())
    steps = {step['id']: step for step in build['steps']}
    assert list(steps) == ['build', 'push', 'spec']
    arguments = steps['build']['args']
    named = {each.split('=')[1] for each in arguments if each.startswith('--build-arg=')}
    assert named == image_arguments().keys() - {'BEAM_VERSION'}
    files = [each.partition('=')[2] for each in arguments if each.startswith('--file=')]
    files += [
        each.partition('=')[2]
        for each in steps['spec']['args']
        if each.startswith('--metadata-file=')
    ]
    assert [ROOT / file for file in files] == [FOLDER / 'Dockerfile', METADATA]
    assert '--build-arg=IMAGE=${_IMAGE}' in arguments
    assert '--tag=${_IMAGE}' in arguments
    assert steps['push']['args'] == ['push', '${_IMAGE}']
    assert '--image=${_IMAGE}' in steps['spec']['args']
    assert '--sdk-language=PYTHON' in steps['spec']['args']
    assert steps['build']['env'] == ['DOCKER_BUILDKIT=1']  # RUN --mount, Dockerfile.dockerignore
    substitutions = build['substitutions']
    used = set(re.findall(r'\$\{(_\w+)\}', json.dumps(build)))
    assert used == set(substitutions)
    assert build['options']['dynamicSubstitutions'] is True
    defaults = image_arguments()
    assert substitutions['_MODEL'] == defaults['MODEL']
    assert substitutions['_LAUNCHER_TAG'] == defaults['LAUNCHER_TAG']
    assert int(build['timeout'].removesuffix('s')) > 600


# Who launches it


def check_launch(body: dict[str, Any]) -> None:
    """A request that Dataflow would take, for this template."""
    request = {'projectId': 'example-project', 'location': 'europe-west4', **body}
    # Unknown fields and values of the wrong type raise.
    message = messages.LaunchFlexTemplateRequest.from_json(
        json.dumps(request), ignore_unknown_fields=False
    )
    assert message.launch_parameter.container_spec_gcs_path.endswith('/flex_template.json')
    check_parameters(dict(message.launch_parameter.parameters))


def check_parameters(parameters: dict[str, str]) -> None:
    for name, value in parameters.items():
        assert name in PARAMETERS
        assert matches(name, value), (name, value)
    assert {name for name, each in PARAMETERS.items() if not each['isOptional']} <= set(parameters)
    parsed([f'--{name}={value}' for name, value in parameters.items()] + ADDED)


def dag_constants() -> dict[str, Any]:
    """What the Airflow DAG sets in capitals."""
    text = (SCHEDULE / 'airflow' / 'lemmabeam_nightly_dataflow.py').read_text()
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }


def test_workflow_launches_this_template():
    check_launch(launch_request()['body'])


def test_dag_launches_this_template():
    constants = dag_constants()
    launched = launch_request()['body']['launchParameter']
    parameters = {**constants['PARAMETERS'], 'run_id': launched['parameters']['run_id']}
    check_launch(
        {
            'launchParameter': {
                'jobName': 'lemmabeam-nightly-20261124-0123abcd',
                'containerSpecGcsPath': constants['TEMPLATE'],
                'parameters': parameters,
                'environment': constants['ENVIRONMENT'],
            }
        }
    )
    # Both are the same job.
    assert parameters == launched['parameters']
    assert constants['TEMPLATE'] == launched['containerSpecGcsPath']
    assert constants['ENVIRONMENT'].items() <= launched['environment'].items()


README = (FOLDER / 'README.md').read_text()


def commands(start: str) -> list[list[str]]:
    """The words of the commands in the README that start so."""
    joined = re.sub(r' \\\n *', ' ', README)
    found = re.findall(rf'^    ({re.escape(start)} .*)$', joined, re.MULTILINE)
    assert found
    return [shlex.split(command)[len(start.split()) :] for command in found]


def test_readme_has_the_request_of_the_workflow():
    (body,) = re.findall(r'```json\n(.*?)```', README, re.DOTALL)
    assert json.loads(body) == launch_request()['body']


def gcloud_parameters(words: list[str]) -> dict[str, str]:
    """As gcloud reads --parameters: with commas, or what stands between two ^."""
    found = {}
    for word in words:
        if not word.startswith('--parameters='):
            continue
        text = word.partition('=')[2]
        separator = ','
        if text.startswith('^'):
            _, separator, text = text.split('^', 2)
        found |= dict(each.split('=', 1) for each in text.split(separator))
    return found


def test_readme_launches_with_parameters_that_exist():
    launches = [gcloud_parameters(words) for words in commands('gcloud dataflow flex-template run')]
    assert [each.get('accelerator') for each in launches] == [None, 'nvidia-l4', 'nvidia-tesla-t4']
    for parameters in launches:
        check_parameters(parameters)
    # The same job without a template.
    (words,) = commands('lemmabeam label')
    args, beam_options = label.parse_label_arguments(label_parser(), words)
    job.check(args, beam_options)
    same, _ = parsed([f'--{name}={value}' for name, value in launches[1].items()])
    assert vars(args) == vars(same)
    assert beam_options.view_as(WorkerOptions).sdk_container_image == IMAGE


def test_readme_builds_what_is_here():
    (submit,) = commands('gcloud builds submit')
    (build,) = commands('docker build')
    (spec,) = commands('gcloud dataflow flex-template build')
    given = dict(
        word.removeprefix('--').split('=', 1) for word in (*submit, *build, *spec) if '=' in word
    )
    for name in ('config', 'file', 'metadata-file'):
        assert (ROOT / given[name]).is_file()
    substitutions = yaml.safe_load((FOLDER / 'cloudbuild.yaml').read_text())['substitutions']
    assert set(re.findall(r'(_\w+)=', given['substitutions'])) <= set(substitutions)
    assert given['build-arg'].partition('=')[0] in image_arguments()


def test_readme_names_every_file():
    named = set(re.findall(r'^\| \[(\S+)\]\(\1\)', README, re.MULTILINE))
    assert named == {path.name for path in FOLDER.iterdir() if path.is_file()} - {
        'README.md',
        'Dockerfile.dockerignore',
    }
