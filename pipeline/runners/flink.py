"""Whether what the options say of Flink fits: found out before anything is listed or submitted."""

import json
import re
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
)

from pipeline.options import LabelOptions
from pipeline.runners.base import Runner
from transforms.core.errors import UsageError

_ANSWER_SEC = 10.0
_PROPERTIES = 'org/apache/beam/sdk/sdk.properties'
_VERSION = re.compile(r'^version=(\S+)$', re.MULTILINE)
# Not addresses: Flink within the job server itself.
_WITHIN = ('[auto]', '[local]')


class FlinkRunner(Runner):
    """A cluster of Flink, or the one within Beam's job server."""

    def check(self, args: LabelOptions) -> None:
        """Also refuses a cluster or job server of another version, see `check_flink`."""
        check_flink(self.options)
        super().check(args)


def check_flink(options: PipelineOptions) -> None:
    """Holds the versions of Beam, its job server and the cluster together.

    A job server that runs already (--job_endpoint) does not tell its version, and is not asked.

    Raises:
      UsageError: the jar is missing or of another Beam, or the cluster does not answer or is of
        another Flink than --flink_version.
    """
    if options.view_as(PortableOptions).job_endpoint:
        return
    flink = options.view_as(FlinkRunnerOptions)
    if flink.flink_job_server_jar:
        _check_jar(flink.flink_job_server_jar, flink.flink_version)
    if flink.flink_master.strip() not in _WITHIN:
        _check_cluster(flink.flink_master.strip(), flink.flink_version)


def _check_jar(jar: str, flink_version: str) -> None:
    if urllib.parse.urlparse(jar).scheme:  # fetched later, by Beam
        return
    fix = f'take org.apache.beam:beam-runners-flink-{flink_version}-job-server:{beam.__version__}'
    flag = f'--flink_job_server_jar {jar}'
    if not Path(jar).is_file():
        raise UsageError(f'{flag}: no such file; {fix} from Maven')
    try:
        with zipfile.ZipFile(jar) as archive:
            properties = archive.read(_PROPERTIES).decode(errors='replace')
    except KeyError:
        return
    except (zipfile.BadZipFile, OSError) as e:
        raise UsageError(f'{flag}: this is no jar that can be read; {fix} from Maven') from e
    found = _VERSION.search(properties)
    if found and found[1] != beam.__version__:
        raise UsageError(f'{flag}: it is of Beam {found[1]}, and this is {beam.__version__}; {fix}')


def _check_cluster(master: str, flink_version: str) -> None:
    url = master if re.match('https?://', master) else f'http://{master}'
    try:
        with urllib.request.urlopen(f'{url.rstrip("/")}/config', timeout=_ANSWER_SEC) as answer:
            found = str(json.load(answer)['flink-version'])
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise UsageError(
            f'--flink_master {master}: there is no JobManager of Flink; the host and port of its '
            'REST interface are meant'
        ) from e
    if not f'{found}.'.startswith(f'{flink_version}.'):
        release = '.'.join(found.split('.')[:2])
        raise UsageError(
            f'--flink_version {flink_version}: the cluster at {master} is Flink {found}; pass '
            f'--flink_version={release}, and with --flink_job_server_jar the jar for it'
        )
