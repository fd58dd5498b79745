"""What every runner answers alike; whoever adds one adds a class with its flags.

What is not checked here: that it computes a run (`make test-engines`, test_dataflow).
"""

import dataclasses

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.options import LabelOptions
from pipeline.runners.base import Runner
from pipeline.runners.choose import runner_for
from transforms.core.errors import UsageError


class Lost(Exception):  # noqa: N818
    """As gRPC has it."""

    def details(self) -> str:
        return 'connection refused'


class RunnerContract:
    """For a runner whose `flags`, of Beam, are accepted."""

    flags: tuple[str, ...]
    outlives_launcher = True

    @property
    def args(self) -> LabelOptions:
        return LabelOptions(input=('gs://photos',), output='gs://labels')

    def make(self) -> Runner:
        return runner_for(PipelineOptions(list(self.flags)))

    def test_what_can_be_run_is_accepted(self) -> None:
        given = self.args
        self.make().check(given)
        assert given == self.args, 'what is checked stays as it is'

    def test_what_means_nothing_here_is_refused(self) -> None:
        wrong = dataclasses.replace(self.args, right_fitting=True)
        with pytest.raises(UsageError, match='--right_fitting'):
            self.make().check(wrong)

    def test_nobody_need_wait_for_what_outlives_the_launcher(self) -> None:
        runner = self.make()
        assert runner.outlives_launcher == self.outlives_launcher
        unattended = dataclasses.replace(self.args, no_wait=True)
        if self.outlives_launcher:
            runner.check(unattended)
        else:
            with pytest.raises(UsageError, match=f'--no_wait: {runner.name} works only as long'):
                runner.check(unattended)

    def test_options_are_completed_in_a_copy_once(self) -> None:
        runner, given = self.make(), self.args
        completed, _ = runner.defaults(given)
        assert given == self.args
        assert runner.defaults(completed)[0] == completed

    def test_the_pipeline_has_the_options_of_the_runner(self) -> None:
        runner = self.make()
        root = runner.make_pipeline()
        assert runner.options is root.options
        assert root.options.get_all_options()['runner'] == self.flags[0].partition('=')[2]

    def test_nothing_is_said_of_a_job_before_there_is_one(self) -> None:
        runner = self.make()
        assert (runner.advice(), runner.lease_job) == ('', None)

    def test_people_are_told_where_it_runs(self) -> None:
        title = self.make().title
        assert title.startswith('job ' if self.outlives_launcher else 'run on this machine, by ')

    def test_errors_are_explained_only_where_the_engine_is_to_blame(self) -> None:
        runner = self.make()
        assert runner.explain_error(ValueError('of a step')) is None
        said = runner.explain_error(Lost())
        assert said == 'the engine does not answer: connection refused'


class TestFnApi(RunnerContract):
    flags = ('--runner=FnApiRunner',)
    outlives_launcher = False


class TestSeveralProcesses(RunnerContract):
    flags = ('--runner=FnApiRunner', '--direct_running_mode=multi_processing')
    outlives_launcher = False


class TestDirect(RunnerContract):
    flags = ('--runner=BundleBasedDirectRunner',)
    outlives_launcher = False


class TestPrism(RunnerContract):
    flags = ('--runner=PrismRunner',)
    outlives_launcher = False


class TestPrismWithWorkers(RunnerContract):
    flags = (
        *('--runner=PrismRunner', '--environment_type=PROCESS'),
        '--environment_config={"command": "boot"}',
    )


class TestFlink(RunnerContract):
    flags = ('--runner=FlinkRunner',)


class TestJobServer(RunnerContract):
    flags = ('--runner=PortableRunner', '--job_endpoint=localhost:1')


class TestWorkersInTheLauncher(RunnerContract):
    flags = ('--runner=PortableRunner', '--environment_type=LOOPBACK')
    outlives_launcher = False


class TestDataflow(RunnerContract):
    flags = (
        *('--runner=DataflowRunner', '--project=my-project', '--region=europe-west4'),
        *('--temp_location=gs://temp/lemmabeam', '--max_num_workers=4', '--no_auth'),
        '--sdk_container_image=europe-west4-docker.pkg.dev/my-project/lemmabeam/lemmabeam:1',
    )
    # Beam would ask the bucket about its deleted objects; test_dataflow has one.
    test_the_pipeline_has_the_options_of_the_runner = None  # type: ignore[assignment]
