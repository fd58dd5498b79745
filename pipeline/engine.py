"""The engine that computes a run: in this process, on a cluster, or as a job of Dataflow."""

import re
import zipfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from transforms.errors import UsageError

DATAFLOW = 'DataflowRunner'
PRISM = 'PrismRunner'
_HERE = frozenset('FnApiRunner DirectRunner SwitchingDirectRunner BundleBasedDirectRunner'.split())
_OWN_PROCESSES = ('DOCKER', 'PROCESS', 'EXTERNAL')
_SDK_PROPERTIES = 'org/apache/beam/sdk/sdk.properties'
_VERSION = re.compile(r'^version=(\S+)$', re.MULTILINE)
_GO_MODULE = re.compile(rb'\n(?:mod|dep)\tgithub\.com/apache/beam/sdks/v2\tv([^\t\n]+)')


def runner_of(options: PipelineOptions) -> str:
    """The class name of the runner, such as 'FnApiRunner'."""
    name = str(options.view_as(StandardOptions).runner or 'DirectRunner').rpartition('.')[2]
    return name if name.endswith('Runner') else f'{name}Runner'


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


def check_versions(options: PipelineOptions) -> None:
    """Refuses a job server or Prism of another Beam than this one, before it is started.

    One that runs already, behind --job_endpoint, does not tell its version.

    Raises:
      UsageError: that, or the file is none.
    """
    runner = runner_of(options)
    if runner == PRISM:
        path = options.view_as(PrismRunnerOptions).prism_location
        if path and Path(path).is_file() and not zipfile.is_zipfile(path):
            found = _GO_MODULE.search(Path(path).read_bytes())
            _compare('--prism_location', path, found and found[1].decode())
    elif runner == 'FlinkRunner':
        path = options.view_as(FlinkRunnerOptions).flink_job_server_jar
        if path and '://' not in path:
            _compare('--flink_job_server_jar', path, _jar_version(path))


def _jar_version(path: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as jar:
            found = _VERSION.search(jar.read(_SDK_PROPERTIES).decode())
    except FileNotFoundError as e:
        raise UsageError(f'--flink_job_server_jar {path}: no such file') from e
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return None
    return found and found[1]


def _compare(flag: str, path: str, found: str | None) -> None:
    ours = beam.__version__
    if found is None:
        raise UsageError(f'{flag} {path}: nothing in it tells a version of Beam; {ours} is needed')
    if found != ours:
        raise UsageError(
            f'{flag} {path} is of Beam {found}, this is Beam {ours}: take the one of {ours}'
        )
