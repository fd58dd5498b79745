"""The local engine with two SDK workers, each a process, one of which is killed.

Of the engines here the only one with several SDK workers; that the bytes do not depend on their
number is in test_graph.
"""

import json
import os
import signal
import subprocess

import pytest

from tests.support import engines

pytestmark = pytest.mark.engine


def kill_one_of_two(process: subprocess.Popen, workers: list[int]) -> None:
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)


def test_the_same_bytes_when_one_of_two_workers_is_killed(bucket, tmp_path, monkeypatch):
    # On its command line the local engine takes plugins, and does not tell its workers.
    options = tmp_path / 'options.json'
    options.write_text(json.dumps({'options': {'beam_plugins': ['tests.support.engine_plugin']}}))
    monkeypatch.setenv('PIPELINE_OPTIONS_FILE', str(options))
    flags = ['--direct_running_mode=multi_processing', '--direct_num_workers=2']
    engine = engines.Engine(flags, False, (kill_one_of_two, kill_one_of_two), at_once=2)
    engines.check_disturbed(lambda _: engine, bucket, tmp_path)
