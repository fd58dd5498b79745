"""Which engine computes a run."""

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.messages import SILENT, Messages
from pipeline.runners.base import Runner, runner_name
from pipeline.runners.dataflow.runner import DataflowRunner
from pipeline.runners.flink import FlinkRunner
from pipeline.runners.local import LocalRunner
from pipeline.runners.prism import PrismRunner

_LOCAL = ('FnApiRunner', 'DirectRunner', 'SwitchingDirectRunner', 'BundleBasedDirectRunner')
_BY_NAME: dict[str, type[Runner]] = {
    **dict.fromkeys(_LOCAL, LocalRunner),
    'PrismRunner': PrismRunner,
    'FlinkRunner': FlinkRunner,
    'DataflowRunner': DataflowRunner,
}


def runner_for(options: PipelineOptions, messages: Messages = SILENT) -> Runner:
    """The engine that the options of Beam name; any that nobody knows here is taken as it is."""
    return _BY_NAME.get(runner_name(options), Runner)(options, messages)
