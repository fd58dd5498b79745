"""Runners as objects: which one a name means, and what each makes of options and errors."""

import dataclasses

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.subprocess_server import JavaJarServer
from google.api_core.exceptions import Forbidden

from pipeline.job.attempt import explain_error
from pipeline.job.errors import RunnerError, UnexpectedError
from pipeline.options import LabelOptions
from pipeline.runners.base import Runner
from pipeline.runners.choose import runner_for
from pipeline.runners.dataflow.runner import DataflowRunner
from pipeline.runners.flink import FlinkRunner
from pipeline.runners.local import LocalRunner
from pipeline.runners.prism import PrismRunner
from transforms.core.errors import InvalidOption, ModelError, StoreError, UsageError
from transforms.core.resources import cpu_count

ARGS = LabelOptions(input=('gs://photos',), output='gs://labels')


def runner(name: str, *flags: str) -> Runner:
    return runner_for(PipelineOptions([f'--runner={name}', *flags]))


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('FnApiRunner', LocalRunner),
        ('DirectRunner', LocalRunner),
        ('BundleBasedDirectRunner', LocalRunner),
        ('PrismRunner', PrismRunner),
        ('FlinkRunner', FlinkRunner),
        ('apache_beam.runners.DataflowRunner', DataflowRunner),
        ('PortableRunner', Runner),
        ('my.own.LocalRunner', Runner),
    ],
)
def test_a_runner_is_chosen_by_name(name, kind):
    assert type(runner(name)) is kind


def test_only_the_engine_in_this_process_keeps_all_elements_there():
    assert runner('FnApiRunner').is_this_process
    assert not runner('FnApiRunner').starts_workers
    assert not runner('DirectRunner').is_this_process
    several = runner('FnApiRunner', '--direct_running_mode=multi_processing')
    assert (several.is_this_process, several.starts_workers) == (False, True)
    assert not any(runner(name).is_this_process for name in ('PrismRunner', 'FlinkRunner'))


def test_a_runner_returns_changed_copies_of_the_options():
    workers = ('--direct_running_mode=multi_processing', '--direct_num_workers=1')
    found, settings = runner('FnApiRunner', *workers).defaults(ARGS)
    assert found == dataclasses.replace(ARGS, loader_processes=cpu_count())
    assert settings == []
    given = dataclasses.replace(ARGS, loader_processes=3)
    assert runner('FnApiRunner', *workers).defaults(given)[0] is given

    asked = dataclasses.replace(ARGS, accelerator='nvidia-l4')
    found, settings = runner('DataflowRunner').defaults(asked)
    assert (found.require_gpu, found.intra_op_threads) == (True, 8)
    assert (asked.require_gpu, asked.intra_op_threads) == (False, None)
    assert settings[0].option == '--require_gpu'


def test_a_runner_that_beam_does_not_have_is_wrong_usage():
    with pytest.raises(UsageError, match='--runner: '):
        runner('NoSuchRunner').make_pipeline()


def test_an_error_of_the_engine_is_explained_by_the_engine():
    refused = Forbidden('the API is not enabled')
    assert runner('DataflowRunner').explain_error(refused).startswith('Dataflow refuses the job: ')
    # A store may answer like this, too, and no job is to blame.
    assert runner('FnApiRunner').explain_error(refused) is None
    gone = RuntimeError('bundle inst001 failed: SDK worker disconnected')
    assert runner('PrismRunner').explain_error(gone) == str(gone)


@pytest.mark.parametrize('name', ['spark-3', 'flink-2.2'])
def test_a_job_server_that_cannot_be_downloaded_is_named(name, tmp_path):
    kind = name.partition('-')[0]
    jar = f'beam-runners-{name}-job-server-{beam.__version__}'
    with pytest.raises(RuntimeError) as raised:
        JavaJarServer.local_jar(f'http://127.0.0.1:9/maven/{jar}.jar', cache_dir=str(tmp_path))
    found = explain_error(raised.value, runner(f'{kind.title()}Runner'))
    assert type(found) is RunnerError
    assert str(found) == (
        f'--runner={kind.title()}Runner: it needs the job server {jar}.jar, which cannot be '
        'downloaded (<urlopen error [Errno 111] Connection refused>); fetch '
        f'org.apache.beam:beam-runners-{name}-job-server:{beam.__version__} from Maven and name '
        f'the file with --{kind}_job_server_jar, or name a job server that runs already with '
        '--job_endpoint'
    )


@pytest.mark.parametrize(
    ('raised', 'kind'),
    [
        (InvalidOption('model', 'x', 'no such file'), UsageError),
        (UsageError('--x'), UsageError),
        (ModelError('it is gone'), ModelError),
    ],
)
def test_an_error_of_a_worker_is_of_its_kind(raised, kind):
    name = f'{type(raised).__module__}.{type(raised).__name__}'
    wrapped = RuntimeError(f'Traceback (most recent call last):\n{name}: {raised}\n')
    found = explain_error(wrapped, runner('PortableRunner'))
    assert (type(found), str(found)) == (kind, str(raised))


def test_beam_names_the_step_and_people_need_not_know_it():
    step = " [while running 'LabelImages/ParDo']"
    store = StoreError('it is gone' + step)
    option = InvalidOption('require_gpu' + step, '', 'no GPU')
    found = [explain_error(error, runner('FnApiRunner')) for error in (store, option)]
    assert [type(error) for error in found] == [StoreError, InvalidOption]
    assert list(map(str, found)) == ['it is gone', '--require_gpu : no GPU']
    clean = StoreError('it is gone')
    assert explain_error(clean, runner('FnApiRunner')) is clean


def test_what_nobody_expects_is_told_apart_from_what_a_runner_says():
    assert type(explain_error(ZeroDivisionError('x'), runner('FnApiRunner'))) is UnexpectedError
    gone = RuntimeError('SDK worker disconnected')
    assert type(explain_error(gone, runner('PrismRunner'))) is RunnerError
