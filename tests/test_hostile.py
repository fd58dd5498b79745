"""A run over every odd and hostile file of the corpus, in a process of its own."""

from pathlib import Path

from pipeline.verify import verify
from tests import support
from tests.benchmarks.measure import run_python
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
    process = run_python('-m', 'pipeline', 'label', *arguments)
    assert process.errors == '', 'a library talks'
    assert process.peak_bytes < _MAX_PEAK_BYTES
    assert verify(str(output)) == []
    found = {Path(row['uri']).name: 'labeled' for row in support.rows(output, 'predictions')}
    found |= {Path(row['uri']).name: row['reason'] for row in support.rows(output, 'dead_letters')}
    assert found == expected
