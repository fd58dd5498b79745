"""Whole runs over what is odd and hostile: files of the corpus, and manifests."""

import gzip
import json
import random
import re
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.measure import run_python
from tests.core.test_uris import MISSPELT
from tests.support import app, samples
from tests.support.corpus import cases
from transforms.dataset.verify import verify

# What a long run says of how far it is, and nothing else.
_PROGRESS = re.compile(r'lemmabeam: (working|[0-9,]+ (listed|images|of) ).*')

# Reading, decoding and writing as they are, and no network: TensorFlow sees squares of pixels only.
_WITHOUT_NETWORK = """
import sys
from pipeline.main import main
from tests.support import without_model
from transforms import label as handler
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
    found = {Path(row['uri']).name: 'labeled' for row in app.rows(output, 'predictions')}
    found |= {Path(row['uri']).name: row['reason'] for row in app.rows(output, 'dead_letters')}
    assert found == expected


def test_passwords_of_misspelt_and_carried_urls_are_in_nothing_that_is_written(tmp_path):
    good = {'url': str(samples.PHOTOGRAPHS[0]), 'of': 'https://user:secret@h/?sig=secret'}
    misspelt = [raw for raw in MISSPELT if not raw.startswith('https://h/')]
    rows = [good, *({'url': raw, 'of': [raw]} for raw in misspelt)]
    (tmp_path / 'list.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    output = tmp_path / 'out'
    flags = ('--uri_column', 'url', '--carry', 'url,of', '--max_failure_rate', '1')
    with app.stand_in():
        done = app.invoke('label', '--input', tmp_path / 'list.jsonl', '--output', output, *flags)
    assert done.returncode == 0, done.stderr
    (labelled,) = app.rows(output, 'predictions')
    assert labelled['of'] == 'https://h/'
    failed = app.rows(output, 'dead_letters')
    assert {row['reason'] for row in failed} == {'bad_uri'}
    texts = [done.stdout, done.stderr, repr(labelled), repr(failed)]
    texts += [path.read_text() for path in output.rglob('*.*') if path.suffix in ('.json', '.html')]
    assert len(texts) >= 6
    for secret in ('secret', 'user:', 'user@'):
        assert not [text for text in texts if secret in text]


def _repeated_uri(path):
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0] * 10_000, pa.int32()), pa.array(['x' * 10**6])
    )
    pq.write_table(pa.table({'uri': texts}), path)


def _carried_text(path):
    with gzip.open(path, 'wt', 1) as file:
        for i in range(3_000):
            file.write(json.dumps({'uri': f'{i}.jpg', 'uri2': 'x' * 900_000}) + '\n')


def _pictures_with_long_texts(path):
    text = ''.join(random.Random(1).choices(string.ascii_letters, k=200_000))
    photograph = samples.PHOTOGRAPHS[0].read_bytes()
    with path.open('w') as file:
        file.write('uri,note\n')
        for i in range(3_000):
            picture = path.with_name(f'{i}.jpg')
            if i % 1_000:  # more links than that some file systems do not make
                picture.hardlink_to(path.with_name(f'{i - i % 1_000}.jpg'))
            else:
                picture.write_bytes(photograph)
            file.write(f'{picture.name},{text[20 * i : 20 * i + 65_000]}\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'write', 'flags', 'counts'),
    [
        ('list.parquet', _repeated_uri, (), {'bad_uri': 1}),
        ('list.jsonl.gz', _carried_text, ('--carry', 'uri2'), {'bad_name': 3_000}),
        ('list.csv', _pictures_with_long_texts, ('--carry', 'note'), {}),
    ],
)
def test_manifests_that_hold_far_more_than_their_size_take_little_memory(
    name, write, flags, counts, tmp_path
):
    write(tmp_path / name)
    arguments = (
        '--input',
        tmp_path / name,
        '--output',
        tmp_path / 'out',
        '--max_failure_rate',
        '1',
    )
    program = ('-c', _WITHOUT_NETWORK, 'label', *arguments, *flags)
    process = run_python(*program)
    assert process.peak_bytes < 10**9
    report = json.loads(next((tmp_path / 'out').glob('runs/*/report.json')).read_text())
    report = report.get('value', report)
    assert report['counts']['dead_lettered_by_reason'] == counts
