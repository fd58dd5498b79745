"""Runners as objects: which one a name means, and what each makes of options and errors."""

import dataclasses

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core.exceptions import Forbidden

from pipeline.job.attempt import tell_error
from pipeline.messages import StandardStreams
from pipeline.options import LabelOptions
from pipeline.runners.base import Runner
from pipeline.runners.choose import runner_for
from pipeline.runners.dataflow.runner import DataflowRunner
from pipeline.runners.flink import FlinkRunner
from pipeline.runners.local import LocalRunner
from pipeline.runners.prism import PrismRunner
from transforms.core.errors import InvalidOption, ModelError, UsageError
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


@pytest.mark.parametrize(
    ('raised', 'code'),
    [(InvalidOption('model', 'x', 'no such file'), 2), (UsageError('--x'), 2), (ModelError(''), 1)],
)
def test_an_error_of_a_worker_has_the_exit_code_of_its_kind(raised, code, capsys):
    kind = f'{type(raised).__module__}.{type(raised).__name__}'
    wrapped = RuntimeError(f'Traceback (most recent call last):\n{kind}: {raised}\n')
    assert tell_error(wrapped, False, runner('PortableRunner'), StandardStreams())[0] == code
    assert capsys.readouterr().err == f'lemmabeam: {raised}\n'
