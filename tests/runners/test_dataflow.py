"""Jobs of Dataflow: what is refused, what is submitted, and that what is submitted really runs.

Beam's own DataflowRunner stages to the storage emulator and submits to a fake of the REST API on
loopback. What is not checked here: the service itself, and the Flex Template
(test_dataflow_template).
"""

import argparse
import contextlib
import datetime
import json
import re
import sys
import time
import types

import apache_beam as beam
import google.auth
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.portability import stager
from google.auth.exceptions import DefaultCredentialsError

from pipeline.commands import label
from pipeline.config import make_config
from pipeline.job.amount import AmountOf
from pipeline.main import main
from pipeline.messages import StandardStreams
from pipeline.runners.choose import runner_for
from pipeline.runners.dataflow import job, machine_types
from pipeline.runners.dataflow.container_image import BEAM_LABEL, PYTHON_LABEL, check_image
from pipeline.runners.dataflow.job import job_name
from pipeline.runners.dataflow.status import JOBS, Job, has_ended, parse_job
from pipeline.runners.prism import check_prism
from tests.support import app, samples
from tests.support.dataflow_server import DataflowServer, run_staged, staged_pipeline
from tests.support.hub_server import body, status
from tests.support.shuffles import pixel_faults
from transforms.core import resources
from transforms.core.errors import UsageError
from transforms.core.resources import cpu_count
from transforms.dataset.verify import compare, verify
from transforms.load import LoadImages
from transforms.model.download import fetch
from transforms.output.layout import Layout
from transforms.runs import lease
from transforms.sources.listing import list_input

IMAGE = 'europe-west4-docker.pkg.dev/my-project/lemmabeam/lemmabeam:1'
JOB = {
    'input': 'gs://photos',
    'output': 'gs://labels/out',
    'runner': 'DataflowRunner',
    'project': 'my-project',
    'region': 'europe-west4',
    'temp_location': 'gs://temp/lemmabeam',
    'sdk_container_image': IMAGE,
    'max_num_workers': '4',
}


def arguments(**changes):
    """The command line of a job that is accepted, with changes; None leaves one out."""
    given = {**JOB, **changes}
    return [
        f'--{name}' if value is True else f'--{name}={value}'
        for name, value in given.items()
        if value is not None
    ]


def parsed(**changes):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    label.add_arguments(parser)
    return label.parse_label_arguments(parser, arguments(**changes))


def configured(**changes):
    """The options of Beam, the settings and the config of a job as it would be submitted."""
    args, beam_options = parsed(**changes)
    config = make_config(args, datetime.datetime.now(datetime.UTC))
    config, settings = job.fit(args, beam_options, config, AmountOf(config))
    return beam_options, settings, config


@pytest.fixture
def service():
    with contextlib.closing(DataflowServer()) as server:
        yield server


@pytest.fixture
def submit(service, bucket, stand_in_model, monkeypatch):
    """Runs `lemmabeam label` with the runner of Dataflow; the exit code."""
    # The registry of the image is not asked: that is another test's.
    monkeypatch.setattr(job, 'check_image', lambda reference, messages: None)
    # Beam asks every five seconds how a job is.
    clock = types.SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 100))
    monkeypatch.setattr(dataflow_runner, 'time', clock)
    # Beam stages a list of what is installed here, which takes pip a second.
    freeze = '_create_stage_submission_env_dependencies'
    monkeypatch.setattr(stager.Stager, freeze, staticmethod(lambda folder: []))
    for i in range(5):
        bucket.put(f'in/{i}.jpg', samples.picture(i))
    bucket.put('in/notes.jpg', samples.BAD['notes.jpg'])
    places = {
        'input': bucket.uri('in'),
        'output': bucket.uri('out'),
        'temp_location': bucket.uri('tmp'),
        'dataflow_endpoint': service.endpoint,
        'no_auth': True,
        'max_failure_rate': '0.5',
        'run_id': 'Night-1',
        # As many as of a run on this machine.
        'intra_op_threads': cpu_count(),
    }

    def run(**changes):
        return main(['label', *arguments(**{**places, **changes})])

    return run


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'project': None}, '--project is missing'),
        ({'project': '123456789012'}, '--project.*project id, not its number'),
        ({'region': None}, '--region is missing'),
        ({'region': 'europe-west4-a'}, '--region europe-west4 --worker_zone europe-west4-a'),
        ({'region': 'Frankfurt'}, '--region.*the name of a region, such as'),
        ({'temp_location': None}, '--temp_location is missing'),
        ({'temp_location': '/tmp/x'}, '--temp_location.*expected gs://'),
        ({'sdk_container_image': None}, '--sdk_container_image is missing'),
        ({'max_num_workers': None}, '--max_num_workers is missing'),
        ({'num_workers': '9'}, '--num_workers 9 is above --max_num_workers 4'),
        ({'max_num_workers': '0'}, '--max_num_workers 0: expected'),
        ({'max_num_workers': '99999999999'}, '--max_num_workers 99999999999: expected'),
        ({'disk_size_gb': '5'}, '--disk_size_gb 5: expected a whole number from 30'),
        ({'number_of_worker_harness_threads': '0'}, '--number_of_worker_harness_threads 0'),
        ({'job_name': 'Weird Name'}, "--job_name 'Weird Name': expected a letter"),
        ({'job_name': '9abc'}, '--job_name'),
        ({'worker_zone': 'XX'}, "--worker_zone 'XX': expected a zone"),
        (
            {'worker_zone': 'us-central1-a', 'worker_region': 'us-central1'},
            '--worker_zone and --worker_region exclude each other',
        ),
        ({'setup_file': '/nowhere/setup.py'}, '--setup_file /nowhere/setup.py: no such file'),
        ({'sdk_location': '/nowhere.tar'}, '--sdk_location /nowhere.tar: no such file'),
        ({'streaming': True}, '--streaming: a run is a batch'),
        ({'template_location': '/tmp/x'}, '--template_location.*expected gs://'),
        ({'dataflow_endpoint': 'https://evil.example'}, '--dataflow_endpoint'),
        (
            {'sdk_container_image': 'apache/beam_python3.11_sdk:2.77.0'},
            'the images of Beam have no Lemmabeam',
        ),
        ({'machine_type': 'f1-micro'}, 'f1-micro'),
        (
            {'accelerator': 'nvidia-l4', 'dataflow_service_options': 'enable_prime'},
            'enable_prime: it chooses the machines by hints, which --right_fitting gives',
        ),
        (
            {'accelerator': 'nvidia-l4', 'flexrs_goal': 'COST_OPTIMIZED'},
            '--flexrs_goal: FlexRS has no GPUs',
        ),
        (
            {
                'accelerator': 'nvidia-l4',
                'right_fitting': True,
                'flexrs_goal': 'SPEED_OPTIMIZED',
            },
            '--flexrs_goal: FlexRS has no GPUs',
        ),
        (
            {
                'require_gpu': True,
                'dataflow_service_options': 'worker_accelerator=type:nvidia-l4;count:1',
            },
            'ask for it with --accelerator',
        ),
        ({'input': '/data/photos'}, '--input /data/photos: a path of this machine'),
        ({'output': 'labels'}, '--output labels: a path of this machine'),
        ({'model': str(samples.SAMPLE)}, '--model .*: a path of this machine'),
        ({'accelerator': 'l4'}, "--accelerator 'l4'.*did you mean nvidia-l4"),
        ({'accelerator': 'NVIDIA_L4'}, '--accelerator.*did you mean nvidia-l4'),
        ({'accelerator': 'nvidia-t4'}, '--accelerator.*did you mean nvidia-tesla-t4'),
        ({'accelerator': 'type:nvidia-l4;count:1'}, '--accelerator.*expected the name'),
        ({'accelerator': 'tpu-v5'}, '--accelerator.*expected the name of an NVIDIA GPU'),
        ({'accelerator': 'nvidia-b900'}, '--accelerator nvidia-b900: not known here'),
        (
            {'accelerator': 'nvidia-l4', 'machine_type': 'n1-standard-8'},
            '--machine_type n1-standard-8 takes no nvidia-l4; types that do: g2-standard-4',
        ),
        (
            {'accelerator': 'nvidia-tesla-t4', 'machine_type': 'g2-standard-8'},
            '--machine_type g2-standard-8 takes no nvidia-tesla-t4',
        ),
        (
            {'accelerator': 'nvidia-l4', 'machine_type': 'g2-standard-24'},
            'has 2 GPUs, of which a worker would call 1; take g2-standard-8, or --acc',
        ),
        (
            {'accelerator': 'nvidia-l4', 'experiments': 'use_multiple_sdk_containers'},
            '--experiments=use_multiple_sdk_containers: each process',
        ),
        (
            {
                'accelerator': 'nvidia-l4',
                'dataflow_service_options': 'worker_accelerator=type:nvidia-l4;count:1',
            },
            'say the same: give one',
        ),
        (
            {'dataflow_service_options': 'worker_accelerator=type:nvidia-l4;count:1'},
            'ask for it with --accelerator',
        ),
        ({'batch_size': 'auto'}, '--batch_size auto: it measures on the GPU of this machine, and'),
        ({'require_gpu': True}, '--require_gpu: no worker has a GPU without --accelerator'),
        (
            {'accelerator': 'nvidia-l4', 'accelerators_per_worker': '3'},
            '--accelerators_per_worker 3: a machine has 1 or 2 or 4 or 8 of nvidia-l4',
        ),
        (
            {'accelerators_per_worker': '2'},
            '--accelerators_per_worker: no worker has a GPU without --accelerator',
        ),
        ({'right_fitting': True}, '--right_fitting needs --accelerator'),
        (
            {'accelerator': 'nvidia-l4', 'right_fitting': True, 'machine_type': 'g2-standard-8'},
            '--right_fitting and --machine_type g2-standard-8',
        ),
        ({'runner': 'FnApiRunner', 'accelerator': 'nvidia-l4'}, '--accelerator: only Dataflow'),
        ({'runner': 'FlinkRunner', 'right_fitting': True}, '--right_fitting: only Dataflow'),
        ({'runner': 'FnApiRunner', 'no_wait': True}, '--no_wait: FnApiRunner works only as long'),
    ],
)
def test_what_cannot_become_a_job_is_refused_before_anything_is_fetched(changes, said):
    args, beam_options = parsed(**changes)
    with pytest.raises(UsageError, match=said):
        runner_for(beam_options).check(args)


def test_everything_that_is_missing_is_named_at_once(capsys):
    code = main(['label', '--input=gs://a', '--output=gs://b', '--runner=DataflowRunner'])
    said = capsys.readouterr().err
    assert code == 2
    for flag in ('project', 'region', 'temp_location', 'sdk_container_image', 'max_num_workers'):
        assert f'--{flag} is missing' in said


@pytest.mark.parametrize('accelerator', machine_types.ACCELERATORS)
def test_the_machine_of_each_accelerator_takes_it(accelerator):
    found = 0
    for count in range(1, 9):
        problem = machine_types.accelerator_problem(accelerator, None, count)
        if problem:
            assert f'--accelerators_per_worker {count}: a machine has ' in problem
            continue
        machine = machine_types.machine_for(accelerator, count)
        assert machine_types.accelerator_problem(accelerator, machine, count) is None
        assert machine_types.vcpus(machine) >= 8
        found += 1
    assert found


def test_the_cores_of_a_machine_type():
    types = (
        'n1-standard-8',
        'n1-custom-6-30720',
        'a2-highgpu-1g',
        'a3-highgpu-1g',
        'c3-highcpu-22',
    )
    assert [machine_types.vcpus(each) for each in types] == [8, 6, 12, 26, 22]
    for odd in (
        'f1-micro',
        '',
        'ünix-4',
        'zones/a/n1-standard-8',
        'n2-standard-999999',
        'n1-standard-0',
    ):
        with pytest.raises(UsageError, match='virtual cores'):
            machine_types.vcpus(odd)


def test_a_job_with_gpus_asks_for_all_that_belongs_to_them(submit, service, bucket):
    assert submit(accelerator='nvidia-l4', intra_op_threads=None, no_wait=True) == 0
    environment = service.job['environment']
    (pool,) = environment['workerPools']
    assert service.job['name'] == 'lemmabeam-night-1'
    assert environment['serviceOptions'] == [
        'worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx'
    ]
    assert 'no_use_multiple_sdk_containers' in environment['experiments']
    assert 'use_multiple_sdk_containers' not in environment['experiments']
    assert pool['machineType'] == 'g2-standard-8'
    assert pool['numThreadsPerWorker'] == 8
    assert pool['diskSizeGb'] >= 50
    assert pool['numWorkers'] == 1
    assert pool['autoscalingSettings'] == {'algorithm': 1, 'maxNumWorkers': 4}
    assert [image['containerImage'] for image in pool['sdkHarnessContainerImages']] == [IMAGE]
    told = environment['sdkPipelineOptions']['options']
    assert told['sdk_location'] == 'container'
    assert not told['save_main_session']
    # The graph itself: workers refuse to work on a CPU, with all of the machine's cores.
    pipeline = staged_pipeline(service.job)
    assert pixel_faults(pipeline) == []
    begun = json.loads(lease_of(bucket, 'out/_work/Night-1/run.json'))
    assert begun['options']['intra_op_threads'] == 8
    assert begun['options']['batch_size'] == 128


def test_several_gpus_a_worker(submit, service):
    assert submit(accelerator='nvidia-l4', accelerators_per_worker='4', no_wait=True) == 0
    environment = service.job['environment']
    assert environment['serviceOptions'] == [
        'worker_accelerator=type:nvidia-l4;count:4;install-nvidia-driver:5xx'
    ]
    (pool,) = environment['workerPools']
    assert (pool['machineType'], pool['numThreadsPerWorker']) == ('g2-standard-48', 48)


def lease_of(bucket, name='out/_work/_lease.json'):
    return Layout(bucket.uri('out'), '', '', (), (), 1).store.read(bucket.uri(name))


def test_right_fitting_gives_gpus_to_loading_and_labelling_only(submit, service):
    assert submit(accelerator='nvidia-l4', right_fitting=True, no_wait=True) == 0
    environment = service.job['environment']
    assert not environment.get('serviceOptions')
    (pool,) = environment['workerPools']
    assert (pool['machineType'], pool['numThreadsPerWorker']) == ('n2-standard-4', 8)
    asked = 'type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver:5xx'
    assert steps_with(service.job, asked) == {'LoadImages', 'LabelImages'}
    assert pixel_faults(staged_pipeline(service.job)) == []


def steps_with(submitted, accelerator):
    components = staged_pipeline(submitted).components
    return {
        step.unique_name.partition('/')[0]
        for step in components.transforms.values()
        if step.environment_id
        and accelerator.encode()
        in components.environments[step.environment_id].resource_hints.values()
    }


def test_dataflow_prime_chooses_the_machines_where_it_is_asked_for(submit, service):
    prime = {'dataflow_service_options': 'enable_prime', 'right_fitting': True}
    assert submit(accelerator='nvidia-tesla-t4', no_wait=True, **prime) == 0
    environment = service.job['environment']
    assert environment['serviceOptions'] == ['enable_prime']
    assert 'machineType' not in environment['workerPools'][0]
    asked = 'type:nvidia-tesla-t4;count:1;install-nvidia-driver:5xx'
    assert steps_with(service.job, asked) == {'LoadImages', 'LabelImages'}


def test_a_job_that_failed_is_resumed_and_gives_the_bytes_of_the_local_engine(
    submit, service, bucket, capsys, monkeypatch
):
    expand = LoadImages.expand

    def shuffled(self, chunks):
        return expand(self, chunks) | 'Spread' >> beam.Reshuffle()

    service.state = 'JOB_STATE_FAILED'
    service.errors = [
        'Traceback (most recent call last):\n  File "x.py", line 1\n'
        'transforms.core.errors.ModelError: --require_gpu: TensorFlow sees no GPU '
        '[while running Infer]'
    ]
    with monkeypatch.context() as patch:
        patch.setattr(LoadImages, 'expand', shuffled)
        assert submit() == 1
    said = capsys.readouterr().err
    assert 'lemmabeam: --require_gpu: TensorFlow sees no GPU\n' in said
    assert 'run Night-1 did not finish' in said
    assert lease_of(bucket) is None
    faults = pixel_faults(staged_pipeline(service.job))
    assert any('shuffles pixels' in fault for fault in faults), 'it would be seen'

    service.state = 'JOB_STATE_DONE'
    service.on_create = run_staged
    assert submit() == 0
    out, err = capsys.readouterr()
    assert 'resuming' not in err, 'nothing was finished'
    assert 'Job: lemmabeam-night-1 (job-2), https://console.cloud.google.com/dataflow/jobs/' in out
    assert 'not_an_image' in out
    assert lease_of(bucket) is None
    local = bucket.uri('local')
    app.label('--input', bucket.uri('in'), '--output', local, '--run_id', 'Night-1')
    assert verify(bucket.uri('out')) == []
    assert compare(bucket.uri('out'), local, exact=True).differences == []
    # What an earlier run has done needs no worker.
    changes = {'input': bucket.uri('in'), 'output': local, 'images_per_worker': '1'}
    beam_options, settings, _ = configured(**changes)
    assert beam_options.view_as(WorkerOptions).num_workers == 1
    assert any('5 of them done by earlier runs' in setting.why for setting in settings)


def test_while_a_job_works_nobody_else_does(submit, service, bucket, capsys, monkeypatch):
    """Also while nobody looks at it."""
    service.state = 'JOB_STATE_RUNNING'
    assert submit(no_wait=True) == 0
    assert 'is complete once there is' in capsys.readouterr().out
    assert json.loads(lease_of(bucket))['job']['id'] == 'job-1'
    assert submit(no_wait=True, run_id='Other') == 2
    assert (
        'run Night-1 is writing there (job of Dataflow lemmabeam-night-1 (job-1)'
        in capsys.readouterr().err
    )
    assert len(service.jobs) == 1
    service.state = 'JOB_STATE_CANCELLED'

    def lost(self, duration=None):
        service.state = 'JOB_STATE_RUNNING'
        raise ConnectionError('no network')

    monkeypatch.setattr(dataflow_runner.DataflowPipelineResult, 'wait_until_finish', lost)
    assert submit(run_id='Other') == 1
    said = capsys.readouterr().err
    assert 'lost contact with the job; the job is still running; to end it: ' in said
    assert 'gcloud dataflow jobs cancel job-2' in said
    assert 'did not finish' not in said
    held = json.loads(lease_of(bucket))
    assert (held['run_id'], held['job']['id']) == ('Other', 'job-2')


def test_the_launcher_of_a_template_stages_the_job_and_knows_no_id(submit, service, bucket, capsys):
    template = bucket.uri('tmp/job_object')
    assert submit(template_location=template, no_wait=True, job_name='nightly') == 0
    assert service.jobs == {}
    assert 'Job: nightly, https://console' in capsys.readouterr().out
    staged = json.loads(lease_of(bucket, 'tmp/job_object'))
    assert staged['name'] == 'nightly'
    held = json.loads(lease_of(bucket))['job']
    assert (held['name'], held['id']) == ('nightly', '')
    # Not known yet: the service has not told of it.
    assert submit(run_id='Other') == 2
    service.jobs['1'] = staged | {'id': '1', 'projectId': 'my-project', 'location': 'europe-west4'}
    service.state = 'JOB_STATE_RUNNING'
    assert submit(run_id='Other') == 2
    assert 'run Night-1 is writing there (job of Dataflow nightly,' in capsys.readouterr().err
    service.state = 'JOB_STATE_FAILED'
    other = Layout(bucket.uri('out'), 'Other', '', (), (), 1)
    lease.acquire(other, break_lease=False, jobs=JOBS)
    assert json.loads(lease_of(bucket))['run_id'] == 'Other'


def test_explain_submits_nothing(submit, service, bucket, capsys):
    assert submit(accelerator='nvidia-l4', explain=True) == 0
    said = capsys.readouterr().out
    assert service.jobs == {}
    assert lease_of(bucket) is None
    assert re.search(r'--machine_type=g2-standard-8 +takes one nvidia-l4', said)
    assert re.search(r'--num_workers=1 +6 images listed; one for each 100,000', said)
    assert re.search(r'--require_gpu +a worker whose GPU', said)
    assert re.search(r'--batch_size=128 +images a call', said)
    assert 'memory of a worker process: about 2.6 GB' in said
    assert re.search(
        r' TensorFlow and Beam 1\.2, .* ahead 0\.7, 8 loader processes .* 0\.7\n', said
    )


def test_explain_of_a_local_run_starts_nothing(tmp_path, capsys):
    arguments = ['--input', str(samples.SAMPLE), '--output', str(tmp_path / 'out'), '--explain']
    assert main(['label', *arguments]) == 0
    said = capsys.readouterr().out
    assert said.startswith('run on this machine, by FnApiRunner:\n')
    assert re.search(r'--batch_size=32 +images a call', said)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('model', ['bit-m-r101x3', 'google/bit/m-r50x1/1'])
def test_explain_fetches_no_model(submit, service, capsys, tmp_path, monkeypatch, model):
    monkeypatch.setattr(fetch, 'cached', None)
    assert submit(explain=True, model=model, model_cache=str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert re.search(rf'--model={model} +not looked at: it is not on this machine', said)
    assert '--chunk_size=1024' in said
    assert re.search(r'--machine_type=n2-standard-4 ', said)
    assert service.jobs == {}


def test_explain_needs_no_credentials(tmp_path, capsys, monkeypatch):
    for name in ('STORAGE_EMULATOR_HOST', 'GOOGLE_APPLICATION_CREDENTIALS'):
        monkeypatch.delenv(name, raising=False)

    def none(*_, **__):
        raise DefaultCredentialsError('Your default credentials were not found.')

    monkeypatch.setattr(google.auth, 'default', none)
    monkeypatch.setattr(resources, '_shared', {})
    arguments = ['--input', 'gs://photos', '--output', 'gs://labels', '--explain']
    assert main(['label', *arguments]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r'--input, --output +not looked at: --output .*no Google Cloud credentials', said
    )
    assert re.search(r'--batch_size=32 +images a call', said)


def test_nothing_is_submitted_where_it_cannot_be_staged(submit, service, capsys):
    assert submit(temp_location='gs://no-such-bucket-here/tmp') == 2
    assert 'no-such-bucket-here' in capsys.readouterr().err
    assert service.jobs == {}


@pytest.mark.parametrize(
    ('changes', 'workers'),
    [
        ({'images_per_worker': '2'}, 3),
        ({'images_per_worker': '1'}, 4),
        ({'images_per_worker': '1', 'sample': '2'}, 2),
        ({'images_per_worker': '1', 'num_workers': '2'}, 4),
        ({'images_per_worker': '100', 'num_workers': '2'}, 2),
        ({'images_per_worker': '1', 'num_workers': '2', 'max_num_workers': None}, 2),
    ],
)
def test_workers_are_set_from_the_listing(submit, bucket, changes, workers):
    beam_options, _, _ = configured(input=bucket.uri('in'), output=bucket.uri('out'), **changes)
    assert beam_options.view_as(WorkerOptions).num_workers == workers


def test_paths_of_one_machine_in_a_manifest_are_bad_lines(submit, bucket):
    lines = [bucket.uri('in/0.jpg'), '/etc/hostname', '0.jpg']
    manifest = bucket.put('in/list.txt', '\n'.join(lines).encode())
    listing = configured(input=manifest, output=bucket.uri('out'))[2].listing
    (source,) = listing.inputs
    reasons = [ref.reason for ref in list_input(source, listing.columns, None, listing.is_remote)]
    assert reasons == ['', 'bad_uri', '']


def test_a_lease_cannot_send_credentials_elsewhere(monkeypatch):
    monkeypatch.delenv('STORAGE_EMULATOR_HOST', raising=False)
    job = {'project': 'p', 'region': 'r', 'name': 'n', 'id': 'j'}
    assert parse_job(job) == Job('p', 'r', 'n', 'j')
    regional = 'https://dataflow.europe-west4.rep.googleapis.com'
    assert parse_job({**job, 'endpoint': regional}) == Job('p', 'r', 'n', 'j', regional)
    for hostile in (
        {**job, 'endpoint': 'https://evil.example'},
        {**job, 'endpoint': 'https://dataflow.googleapis.com.evil.example'},
        {**job, 'endpoint': 'https://dataflow.evil.example/.googleapis.com'},
        {**job, 'endpoint': 'http://localhost:80@evil.example'},
        {**job, 'id': '../../x?y'},
        {**job, 'id': '..'},
        {**job, 'endpoint': 'http://localhost:80'},
        {**job, 'more': 'x'},
        {**job, 'id': 7},
        {'id': 'j'},
        'job',
        None,
    ):
        assert parse_job(hostile) is None


def test_a_job_that_nobody_can_ask_for_may_be_alive(service):
    assert not has_ended(Job('p', 'r', 'n', 'no-such-job', service.endpoint))
    assert not has_ended(Job('p', 'r', 'no-such-name', '', service.endpoint))
    assert not has_ended(Job('p', 'r', 'n', 'j', 'http://127.0.0.1:9'))


def test_a_launcher_that_died_while_it_submitted_may_have_left_a_job(
    service, tmp_path, monkeypatch
):
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', service.url)
    job = Job('my-project', 'europe-west4', 'nightly', '', service.endpoint)
    layout = Layout(str(tmp_path), 'a', 'm', (), (), 1)
    lease.acquire(layout, break_lease=False, jobs=JOBS)
    lease.hand_over(layout, job._asdict(), is_submitted=False)
    with pytest.raises(UsageError):  # it is alive: this process
        lease.acquire(layout, break_lease=False, jobs=JOBS)
    path = tmp_path / '_work/_lease.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'started': 'before'}))
    service.jobs['1'] = {'id': '1', 'name': 'nightly'}
    service.state = 'JOB_STATE_RUNNING'
    with pytest.raises(UsageError, match='job of Dataflow nightly'):
        lease.acquire(layout, break_lease=False, jobs=JOBS)
    service.jobs.clear()
    lease.acquire(layout, break_lease=False, jobs=JOBS)


def test_a_launcher_gives_back_the_lease_of_its_own_job_only(tmp_path):
    layout = Layout(str(tmp_path), 'a', 'm', (), (), 1)
    first, second = (Job('p', 'r', 'n', job_id) for job_id in ('job-1', 'job-2'))
    lease.acquire(layout, break_lease=False, jobs=JOBS)
    lease.hand_over(layout, second._asdict())
    lease.release_handed_over(layout, first._asdict())
    assert (tmp_path / '_work/_lease.json').exists()
    lease.release_handed_over(layout, second._asdict())
    assert not (tmp_path / '_work/_lease.json').exists()


@pytest.mark.parametrize(
    'runner', ['dataflow', 'DATAFLOWRUNNER', 'apache_beam.runners.DataflowRunner']
)
def test_a_runner_is_known_by_every_name_that_beam_takes(runner):
    args, beam_options = parsed(runner=runner, project=None)
    with pytest.raises(UsageError, match='--project is missing'):
        runner_for(beam_options).check(args)
    assert runner_for(parsed(runner='direct')[1]).name == 'DirectRunner'
    assert runner_for(parsed(runner='my.own.DataflowRunner2')[1]).name == 'DataflowRunner2'


def test_files_of_the_job_do_not_lie_where_images_are_listed(submit, bucket, capsys):
    assert submit(temp_location=bucket.uri('in/tmp')) == 2
    assert '--temp_location' in capsys.readouterr().err


def test_a_value_of_the_wrong_type_is_told_in_a_line(capsys):
    assert main(['label', *arguments(num_workers='x')]) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_a_lease_on_a_cluster_is_never_taken_over(tmp_path):
    layout = Layout(str(tmp_path), 'a', 'm', (), (), 1)
    lease.acquire(layout, break_lease=False, jobs=JOBS)
    lease.hand_over(layout, None)
    lease.release(layout)  # of the launcher: no longer its own
    with pytest.raises(UsageError, match=r'run a is writing there \(on a cluster\)'):
        lease.acquire(layout, break_lease=False, jobs=JOBS)
    lease.release_handed_over(Layout(str(tmp_path), 'b', 'm', (), (), 1))
    with pytest.raises(UsageError):
        lease.acquire(layout, break_lease=False, jobs=JOBS)
    lease.release_handed_over(layout)
    lease.acquire(layout, break_lease=False, jobs=JOBS)


def image_of(server, labels):
    """Puts an image into a registry, as an index of two platforms; its reference."""
    config = server.put(
        '/v2/a/b/blobs/c', body(json.dumps({'config': {'Labels': labels}}).encode())
    )
    assert config
    manifest = {'config': {'digest': 'c'}}
    server.put('/v2/a/b/manifests/m', body(json.dumps(manifest).encode()))
    index = {
        'manifests': [
            {'digest': 'arm', 'platform': {'os': 'linux', 'architecture': 'arm64'}},
            {'digest': 'm', 'platform': {'os': 'linux', 'architecture': 'amd64'}},
        ]
    }
    server.put('/v2/a/b/manifests/1.0', body(json.dumps(index).encode()))
    return f'localhost:{server.port}/a/b:1.0'


def test_the_image_must_have_the_beam_and_python_of_the_launcher(server, capsys):
    python = f'{sys.version_info.major}.{sys.version_info.minor}'
    check_image(
        image_of(server, {BEAM_LABEL: beam.__version__, PYTHON_LABEL: python}), StandardStreams()
    )
    assert capsys.readouterr().err == ''
    with pytest.raises(UsageError, match=f'it has Beam 2.76.0, this launcher {beam.__version__}'):
        check_image(
            image_of(server, {BEAM_LABEL: '2.76.0', PYTHON_LABEL: python}), StandardStreams()
        )
    with pytest.raises(UsageError, match=r'it has Python 3\.9, this launcher'):
        check_image(
            image_of(server, {BEAM_LABEL: beam.__version__, PYTHON_LABEL: '3.9'}), StandardStreams()
        )
    with pytest.raises(UsageError, match='no such image'):
        check_image(f'localhost:{server.port}/a/b:2.0', StandardStreams())
    with pytest.raises(UsageError, match=r'it has Beam 2\.76\.0'):
        check_image('apache/beam_python3.11_sdk:2.76.0', StandardStreams())


def test_an_image_that_does_not_tell_is_said(server, capsys):
    check_image(image_of(server, None), StandardStreams())
    assert 'does not say which Beam it has' in capsys.readouterr().err
    server.put('/v2/a/b/manifests/1.0', status(403))
    check_image(f'localhost:{server.port}/a/b:1.0', StandardStreams())
    assert 'not looked at (the registry answers 403)' in capsys.readouterr().err
    check_image('just-a-name', StandardStreams())
    assert 'not looked at' in capsys.readouterr().err
    for odd in (b'[]', b'null', b'{"config": null}', b'{"manifests": [{"platform": null}]}', b'<'):
        server.put('/v2/a/b/manifests/1.0', body(odd))
        check_image(f'localhost:{server.port}/a/b:1.0', StandardStreams())
        assert 'not looked at (its registry answers what is none' in capsys.readouterr().err
    arm = [{'digest': 'x', 'platform': {'os': 'linux', 'architecture': 'arm64'}}]
    server.put('/v2/a/b/manifests/1.0', body(json.dumps({'manifests': arm}).encode()))
    with pytest.raises(UsageError, match='no image for linux/amd64'):
        check_image(f'localhost:{server.port}/a/b:1.0', StandardStreams())


def test_a_prism_of_another_version_is_refused(tmp_path):
    binary = tmp_path / 'prism'
    options = PipelineOptions(['--runner=PrismRunner', f'--prism_location={binary}'])
    with pytest.raises(UsageError, match=r'no such file; .* `make \.venv/bin/prism` builds one'):
        check_prism(options)
    check_prism(PipelineOptions(['--runner=PrismRunner', '--prism_location=https://x/y']))
    built = '\x7fELF\npath\tx\nmod\tgithub.com/apache/beam/sdks/v2\tv{}\th1:x\n'
    binary.write_text(built.format(beam.__version__))
    check_prism(options)
    binary.write_text(built.format('2.70.0'))
    with pytest.raises(UsageError, match=r'--prism_location .*: it is of Beam 2\.70\.0'):
        check_prism(options)
    binary.write_bytes(b'something else')
    with pytest.raises(UsageError, match='nothing in it tells that it is a Prism'):
        check_prism(options)


@pytest.mark.parametrize(
    ('flags', 'outlives'),
    [
        ([], False),
        (['--runner=FnApiRunner'], False),
        (['--runner=PrismRunner'], False),
        (['--runner=PrismRunner', '--environment_type=PROCESS'], True),
        (['--runner=FlinkRunner'], True),
        (['--runner=FlinkRunner', '--environment_type=LOOPBACK'], False),
        (['--runner=PortableRunner', '--job_endpoint=localhost:1'], True),
        (['--runner=apache_beam.runners.DataflowRunner'], True),
    ],
)
def test_which_engines_go_on_without_the_launcher(flags, outlives):
    assert runner_for(PipelineOptions(flags)).outlives_launcher == outlives


def test_the_name_of_a_job():
    assert job_name('20261124T010203Z-ab12') == 'lemmabeam-20261124t010203z-ab12'
    names = {job_name(run_id) for run_id in ('A' + '_.' * 49, 'A' + '_.' * 48, 'A.b', 'a-b', 'Ünï')}
    assert len(names) == 5
    for name in names:
        assert re.fullmatch('[a-z]([-a-z0-9]*[a-z0-9])?', name)
        assert len(name) <= 63
