"""Prism, Beam's engine in Go: one process beside this one."""

import re
import zipfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PrismRunnerOptions
from apache_beam.runners.runner import PipelineResult

from pipeline.messages import SILENT, Messages
from pipeline.options import LabelOptions
from pipeline.runners.base import Runner, environment_of
from transforms.core.errors import UsageError

_OWN_PROCESSES = ('DOCKER', 'PROCESS', 'EXTERNAL')
_GO_MODULE = re.compile(rb'\n(?:mod|dep)\tgithub\.com/apache/beam/sdks/v2\tv([^\t\n]+)')


class PrismRunner(Runner):
    """A child of this process, whose workers are in this process or outlive it."""

    def __init__(self, options: PipelineOptions, messages: Messages = SILENT):
        super().__init__(options, messages)
        self.outlives_launcher = environment_of(options) in _OWN_PROCESSES

    def check(self, args: LabelOptions) -> None:
        """Also refuses a Prism of another Beam, see `check_prism`."""
        check_prism(self.options)
        super().check(args)

    def has_ended(self, result: PipelineResult) -> bool:
        """It has: this process takes it along."""
        return True


def check_prism(options: PipelineOptions) -> None:
    """Refuses a Prism of another Beam than this one, before it is started.

    Raises:
      UsageError: that, or --prism_location is no Prism, or nothing.
    """
    path = options.view_as(PrismRunnerOptions).prism_location
    # An address or an archive is Beam's to fetch and unpack.
    if not path or '://' in path:
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
