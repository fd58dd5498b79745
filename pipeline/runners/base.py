"""The engine that computes a run: in this process, on a cluster, or as a job of Dataflow."""

import argparse
import re
import zipfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from transforms.core.errors import UsageError
from transforms.core.resources import cpu_count

DATAFLOW = 'DataflowRunner'
PRISM = 'PrismRunner'
FN_API = 'FnApiRunner'
_HERE = frozenset('FnApiRunner DirectRunner SwitchingDirectRunner BundleBasedDirectRunner'.split())
_OWN_PROCESSES = ('DOCKER', 'PROCESS', 'EXTERNAL')
_GO_MODULE = re.compile(rb'\n(?:mod|dep)\tgithub\.com/apache/beam/sdks/v2\tv([^\t\n]+)')


def runner_of(options: PipelineOptions) -> str:
    """The class name of the runner, such as 'FnApiRunner'."""
    return str(options.view_as(StandardOptions).runner or 'DirectRunner').rpartition('.')[2]


def is_dataflow(options: PipelineOptions) -> bool:
    """Whether the run is a job of Dataflow."""
    return runner_of(options) == DATAFLOW


def outlives_launcher(options: PipelineOptions) -> bool:
    """Whether somebody goes on working when the process that started the run is gone."""
    runner = runner_of(options)
    environment = (options.view_as(PortableOptions).environment_type or '').upper()
    if runner == PRISM:
        return environment in _OWN_PROCESSES
    return runner not in _HERE and environment != 'LOOPBACK'


def is_this_process(options: PipelineOptions) -> bool:
    """Whether all elements stay in the process that starts the run."""
    mode = options.view_as(DirectOptions).direct_running_mode
    return runner_of(options) == FN_API and mode in (None, 'in_memory')


def divide_loaders(args: argparse.Namespace, options: PipelineOptions) -> None:
    """Where several processes of this machine work, they share its cores for their loaders.

    Args:
      args: of `pipeline.options.add_label_arguments`; `loader_processes` is set.
      options: of Beam.
    """
    direct = options.view_as(DirectOptions)
    if args.loader_processes is None and direct.direct_running_mode == 'multi_processing':
        workers = direct.direct_num_workers or cpu_count()
        args.loader_processes = max(1, cpu_count() // workers)


def check_prism(options: PipelineOptions) -> None:
    """Refuses a Prism of another Beam than this one, before it is started.

    Raises:
      UsageError: that, or --prism_location is no Prism, or nothing.
    """
    path = options.view_as(PrismRunnerOptions).prism_location
    # An address or an archive is Beam's to fetch and unpack.
    if runner_of(options) != PRISM or not path or '://' in path:
        return
    if not Path(path).is_file():
        raise UsageError(
            f'--prism_location {path}: no such file; in a clone of Lemmabeam `make '
            '.venv/bin/prism` builds one there, and without this option Beam downloads one'
        )
    if zipfile.is_zipfile(path):
        return
    found = _GO_MODULE.search(Path(path).read_bytes())
    if found is None:
        raise UsageError(f'--prism_location {path}: nothing in it tells that it is a Prism')
    if found[1].decode() != beam.__version__:
        raise UsageError(
            f'--prism_location {path}: it is of Beam {found[1].decode()}, and this is '
            f'{beam.__version__}; build that one'
        )
