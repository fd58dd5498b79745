"""An attempt at a run: what is left behind by a job that somebody else worked on."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState

from pipeline.job.attempt import Attempt
from pipeline.messages import SILENT
from pipeline.runners.choose import runner_for
from pipeline.runners.dataflow.status import JOBS
from tests.support import app
from transforms.runs import lease


class Ended(PipelineRunner):
    """An engine whose job has ended, and has not given the lease back itself."""

    def run_pipeline(self, pipeline, options):
        return Result(PipelineState.DONE)


class Result(PipelineResult):
    def wait_until_finish(self, duration=None):
        return self.state


def test_whoever_waited_for_a_job_gives_its_lease_back(tmp_path):
    (tmp_path / 'in').mkdir()
    config, _ = app.make_config('--input', tmp_path / 'in', '--output', tmp_path / 'out')
    for wait, is_kept in ((False, True), (True, False)):
        lease.acquire(config.layout, break_lease=False, jobs=JOBS)
        runner = runner_for(PipelineOptions(['--runner=FlinkRunner']))
        Attempt(beam.Pipeline(runner=Ended()), config, runner, SILENT).run(wait, is_verbose=True)
        path = tmp_path / 'out/_work/_lease.json'
        assert path.exists() == is_kept
        path.unlink(missing_ok=True)
