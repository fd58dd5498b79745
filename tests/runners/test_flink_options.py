"""What is refused before a job goes to Flink; a cluster is a server of the tests here."""

import contextlib
import json
import zipfile
from typing import ClassVar

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.options import LabelOptions
from pipeline.runners.choose import runner_for
from pipeline.runners.flink import check_flink
from tests.support import app, samples
from tests.support.loopback import Handler, LoopbackServer
from transforms.core.errors import UsageError


class Flink(Handler):
    """The REST interface of a JobManager of 1.20.5."""

    asked: ClassVar[list[str]] = []

    def respond(self):
        self.asked.append(self.path)
        data = json.dumps({'flink-version': '1.20.5'}).encode()
        self.send_response(200 if self.path == '/config' else 404)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def master():
    Flink.asked.clear()
    with contextlib.closing(LoopbackServer(Flink)) as server:
        yield f'127.0.0.1:{server.port}'


def write_jar(path, version):
    with zipfile.ZipFile(path, 'w') as jar:
        text = f'# of Apache\nversion={version}\nsdk_version={version}\n'
        jar.writestr('org/apache/beam/sdk/sdk.properties', text)
    return path


def check(*flags):
    check_flink(PipelineOptions(['--runner=FlinkRunner', *map(str, flags)]))


def refusal(*flags):
    with pytest.raises(UsageError) as refused:
        check(*flags)
    return str(refused.value)


def test_what_fits_is_not_refused(master, tmp_path):
    jar = write_jar(tmp_path / 'a.jar', beam.__version__)
    check(f'--flink_master={master}', '--flink_version=1.20', f'--flink_job_server_jar={jar}')
    check(f'--flink_master=http://{master}', '--flink_version=1.20')
    check(f'--flink_job_server_jar={jar}')
    check('--flink_master=nowhere:1', '--job_endpoint=localhost:8099')
    other = runner_for(PipelineOptions(['--runner=FnApiRunner', '--flink_master=nowhere:1']))
    other.check(LabelOptions(input=('in',), output='out'))
    assert Flink.asked == ['/config'] * 2, 'no other cluster is asked'


def test_a_jar_of_another_beam_or_none_is_refused(tmp_path):
    old = write_jar(tmp_path / 'old.jar', '2.43.0')
    said = refusal(f'--flink_job_server_jar={old}', '--flink_version=1.20')
    assert f'{old}: it is of Beam 2.43.0, and this is {beam.__version__}' in said
    assert f'beam-runners-flink-1.20-job-server:{beam.__version__}' in said
    assert 'no such file' in refusal(f'--flink_job_server_jar={tmp_path}/none.jar')
    (tmp_path / 'text.jar').write_text('text')
    assert 'no jar that can be read' in refusal(f'--flink_job_server_jar={tmp_path}/text.jar')


def test_a_cluster_of_another_flink_or_none_is_refused(master):
    said = refusal(f'--flink_master={master}')
    assert f'--flink_version 2.2: the cluster at {master} is Flink 1.20.5' in said
    assert 'pass --flink_version=1.20' in said
    assert 'there is no JobManager' in refusal('--flink_master=127.0.0.1:1')


def test_it_is_refused_before_the_output_is_touched(tmp_path):
    done = app.invoke(
        *('label', '--input', samples.SAMPLE, '--output', tmp_path / 'out'),
        *('--runner=FlinkRunner', '--flink_master=127.0.0.1:1'),
    )
    assert done.returncode == 2
    assert 'lemmabeam: --flink_master 127.0.0.1:1: there is no JobManager' in done.stderr
    assert not (tmp_path / 'out').exists()
