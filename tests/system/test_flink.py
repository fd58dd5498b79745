"""Flink, a JobManager and two TaskManagers, behind Beam's job server: `make test-flink`.

The job server is a jar that FLINK_JOB_SERVER names.  Where this was written, Maven did not have it:
the cluster was seen to restart a job (test_flink_cluster), but what stands here HAS NOT BEEN RUN.

What is not checked here: TaskManagers on machines of their own.
"""

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from tests.environments.flink.cluster import FlinkCluster
from tests.support import engines

pytestmark = pytest.mark.engine


@pytest.fixture(scope='module')
def job_server() -> Path:
    """The jar, of the version of Beam that is installed."""
    named = os.environ.get('FLINK_JOB_SERVER', '')
    if not named or not Path(named).is_file():
        pytest.fail(f'no job server of Flink at {named!r}: `make test-flink` fetches it')
    with zipfile.ZipFile(named) as jar:
        lines = jar.read('org/apache/beam/sdk/sdk.properties').decode().splitlines()
    version = next(line.partition('=')[2] for line in lines if line.startswith('version='))
    assert version == beam.__version__, f'{named} is of Beam {version}'
    return Path(named).absolute()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FlinkCluster]:
    """Two TaskManagers of two slots, so that one can take over what both have worked on."""
    with FlinkCluster(tmp_path / 'cluster') as started:
        yield started


def test_the_same_bytes_and_nothing_to_do_again(job_server, cluster, bucket, tmp_path):
    engines.check_undisturbed(lambda port: _engine(job_server, cluster, port), bucket, tmp_path)


def test_the_same_bytes_when_a_task_manager_is_killed(job_server, cluster, bucket, tmp_path):
    engines.check_disturbed(lambda port: _engine(job_server, cluster, port), bucket, tmp_path)
    (job,) = cluster.get('/jobs/overview')['jobs']
    assert cluster.failures_of(job['jid']), 'what was killed did not work for it'


def test_what_a_worker_refuses_ends_as_locally(job_server, cluster, bucket, tmp_path):
    engines.check_refused(lambda port: _engine(job_server, cluster, port), bucket, tmp_path)


def _engine(job_server: Path, cluster: FlinkCluster, port: int) -> engines.Engine:
    def kill_task_manager(process: subprocess.Popen, workers: list[int]) -> None:
        assert cluster.busy_task_managers() == 2
        assert len(workers) >= 2, workers
        cluster.kill_task_manager()

    flags = [
        '--runner=FlinkRunner',
        f'--flink_master={cluster.address}',
        '--flink_version=1.20',
        f'--flink_job_server_jar={job_server}',
        '--parallelism=2',
        '--environment_type=EXTERNAL',
        f'--environment_config=localhost:{port}',
    ]
    # A chunk under way in each TaskManager: those of the one that is left are restarted as well,
    # and the SDK workers of the killed one may go on for a while.
    return engines.Engine(flags, restarts=True, harms=(kill_task_manager,), at_once=4)
