"""A run over every odd and hostile file of the corpus, in a process of its own."""

import re
from pathlib import Path

import pytest

from pipeline.verify import verify
from tests import support
from tests.benchmarks.measure import run_python
from tests.corpus import cases

# What a long run says of how far it is, and nothing else.
_PROGRESS = re.compile(r'lemmabeam: (working|[0-9,]+ (listed|images|of) ).*')

# Reading, decoding and writing as they are, and no network: TensorFlow sees squares of pixels only.
_WITHOUT_NETWORK = """
import sys
from pipeline.main import main
from tests import without_model
from transforms.model import handler
handler.Predictor = without_model.Predictor
sys.exit(main())
"""


@pytest.mark.parametrize(
    ('program', 'most_bytes'),
    [
        pytest.param(('-c', _WITHOUT_NETWORK), 600 * 10**6, id='without the network'),
        pytest.param(('-m', 'pipeline'), 2 * 10**9, id='with it', marks=pytest.mark.slow),
    ],
)
def test_every_file_ends_where_it_should_and_memory_is_bounded(program, most_bytes, tmp_path):
    expected = {}
    (tmp_path / 'in').mkdir()
    for case in cases():
        (tmp_path / 'in' / case.name).write_bytes(case.data)
        expected[case.name] = case.expected
    assert len(expected) >= 300
    output = tmp_path / 'out'
    # A glob takes whatever it matches; a folder would leave out what is not named as an image.
    arguments = ('--input', f'{tmp_path}/in/*', '--output', output, '--max_failure_rate', '1')
    process = run_python(*program, 'label', *arguments)
    said = [line for line in process.errors.splitlines() if not _PROGRESS.fullmatch(line)]
    assert said == [], 'a library talks'
    assert process.peak_bytes < most_bytes
    assert verify(str(output)) == []
    found = {Path(row['uri']).name: 'labeled' for row in support.rows(output, 'predictions')}
    found |= {Path(row['uri']).name: row['reason'] for row in support.rows(output, 'dead_letters')}
    assert found == expected
