"""A run over every odd and hostile file of the corpus, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.verify import verify
from tests import support
from tests.corpus import corpus

_MAX_PEAK_BYTES = 2 * 10**9


def test_every_file_ends_where_it_should_and_memory_is_bounded(tmp_path):
    expected = {}
    (tmp_path / 'in').mkdir()
    for case in corpus():
        (tmp_path / 'in' / case.name).write_bytes(case.data)
        expected[case.name] = case.expected
    assert len(expected) >= 300
    output = tmp_path / 'out'
    # A glob takes whatever it matches; a folder would leave out what is not named as an image.
    arguments = ('--input', f'{tmp_path}/in/*', '--output', output, '--max_failure_rate', '1')
    with (tmp_path / 'errors').open('w') as errors:
        process = subprocess.Popen(
            [sys.executable, '-m', 'pipeline', 'label', *map(str, arguments)], stderr=errors
        )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert (tmp_path / 'errors').read_text() == '', 'a library talks'
    assert usage.ru_maxrss * 1024 < _MAX_PEAK_BYTES
    assert verify(str(output)) == []
    found = {Path(row['uri']).name: 'labeled' for row in support.rows(output, 'predictions')}
    found |= {Path(row['uri']).name: row['reason'] for row in support.rows(output, 'dead_letters')}
    assert found == expected
