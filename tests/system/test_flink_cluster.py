"""The Flink cluster of the tests: what the test behind Beam's job server relies on.

A job of Flink's own, so that it needs no jar but Flink's.
"""

import time
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.runners.flink import check_flink
from tests.environments.flink.cluster import FlinkCluster
from transforms.core.errors import UsageError

pytestmark = pytest.mark.engine

NUMBERS = Path(__file__).parents[1] / 'environments/flink/Numbers.java'
ROWS = 400


@pytest.fixture
def cluster(tmp_path):
    with FlinkCluster(tmp_path / 'cluster') as started:
        yield started


def test_a_job_outlives_one_of_two_task_managers(cluster, tmp_path):
    process = cluster.run_job(NUMBERS, str(ROWS), str(tmp_path / 'written'))
    try:
        wait_until(lambda: cluster.busy_task_managers() == 2, process)
        (job,) = cluster.get('/jobs')['jobs']
        time.sleep(2)
        cluster.kill_task_manager()
        cluster.wait_for(1)
        assert process.wait(120) == 0, (tmp_path / 'cluster/client/log').read_text()
    finally:
        process.kill()
        process.wait()
    assert cluster.get(f'/jobs/{job["id"]}')['state'] == 'FINISHED'
    failures = cluster.failures_of(job['id'])
    print([(each['exceptionName'], each['taskManagerId']) for each in failures])
    assert failures, 'what was killed did not work for it'
    files = [path for path in (tmp_path / 'written').rglob('*') if path.is_file()]
    numbers = [int(line) for path in files for line in path.read_text().split()]
    assert sorted(numbers) == list(range(1, ROWS + 1))


def test_a_cluster_is_gone_with_its_processes(tmp_path):
    with FlinkCluster(tmp_path, task_managers=1) as cluster:
        cluster.add_task_manager()
        cluster.wait_for(2)
        cluster.kill_task_manager(0)
        cluster.wait_for(1)
        with pytest.raises(UsageError, match=r'pass --flink_version=1\.20'):
            check_flink(
                PipelineOptions(['--runner=FlinkRunner', f'--flink_master={cluster.address}'])
            )
    assert all(each.returncode is not None for each in cluster.task_managers)


def wait_until(is_so, process, timeout_sec=60):
    """Waits for something of a job while the process that sent it lives."""
    ends_at = time.monotonic() + timeout_sec
    while not is_so():
        assert process.poll() is None, f'{process.args} ended'
        assert time.monotonic() < ends_at
        time.sleep(0.1)
