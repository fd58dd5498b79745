"""A large manifest with rubbish among its lines, through the whole graph.

No network, no decoder and no store of images (tests.support.without_model): what is looked at is
that every line ends once, where it should.
"""

import json
import random
import re
from pathlib import Path

import pytest

from tests.support import app, without_model
from transforms.dataset.verify import verify

# Bytes that a line of a CSV may hold without ending a field, the line or the file's being text.
_PLAIN = bytes(set(range(1, 256)) - set(b'\r\n,"'))

CONTROL = re.compile('[\x00-\x1f\x7f-\x9f]')
PROGRESS = re.compile(r'lemmabeam: (working|[0-9,]+ (listed|images|of) )')

# A line for a number, and the reason it must be given up for.
RUBBISH = {
    'not UTF-8': (lambda i, _: b'/photos/\xff\xfe-%d.jpg,a' % i, 'bad_name'),
    'Latin-1': (lambda i, _: 'caf\xe9-%d.jpg,a'.encode('latin-1') % i, 'bad_name'),
    'carried value not UTF-8': (lambda i, _: b'/photos/%d.jpg,\xff' % i, 'bad_name'),
    'the same of one image': (lambda i, _: b'/photos/one.jpg,\xff%d' % i, 'bad_name'),
    'binary': (lambda i, c: bytes(c.choices(_PLAIN, k=400)) + b'\xff,a', 'bad_name'),
    'bell': (lambda i, _: b'/photos/\x07%d.jpg,a' % i, 'bad_uri'),
    'delete': (lambda i, _: b'/photos/%d.jpg\x7f,a' % i, 'bad_uri'),
    'tab within quotes': (lambda i, _: b'"/photos/\t%d.jpg",a' % i, 'bad_uri'),
    'empty': (lambda i, _: b',a', 'bad_uri'),
    'unknown scheme': (lambda i, _: b'ftp://host/%d.jpg,a' % i, 'bad_uri'),
    'script': (lambda i, _: b'javascript://alert(%d),a' % i, 'bad_uri'),
    'space before the scheme': (lambda i, _: b' gs://bucket/%d.jpg,a' % i, 'bad_uri'),
    'no bucket': (lambda i, _: b'gs:///%d.jpg,a' % i, 'bad_uri'),
    'no object': (lambda i, _: b'gs://bucket-%d,a' % i, 'bad_uri'),
    'another host': (lambda i, _: b'file://host/%d.jpg,a' % i, 'bad_uri'),
    'overlong': (lambda i, _: b'/%d' % i + b'x' * 5000 + b',a', 'bad_uri'),
    'overlong from one beginning': (lambda i, _: b'/x' + b'x' * 5000 + b'%d,a' % i, 'bad_uri'),
    'missing column': (lambda i, _: b'/photos/%d.jpg' % i, 'bad_uri'),
    'too many columns': (lambda i, _: b'/photos/%d.jpg,a,b' % i, 'bad_uri'),
}


def write_manifest(path: Path, count: int) -> tuple[set[str], dict[int, tuple[str, str]]]:
    """A CSV of so many lines, some of them rubbish; good URIs, and kind and reason by line."""
    chance = random.Random(count)
    bad_lines = set(chance.sample(range(2, count + 2), max(count // 100, 5 * len(RUBBISH))))
    kinds = list(RUBBISH)
    good: set[str] = set()
    bad: dict[int, tuple[str, str]] = {}
    with path.open('wb') as file:
        file.write(b'uri,note\n')
        for number in range(2, count + 2):
            if number in bad_lines:
                kind = kinds[len(bad) % len(kinds)]
                make, reason = RUBBISH[kind]
                line = make(number, chance)
                bad[number] = (kind, reason)
            else:
                uri = f'/photos/2026/{number % 97:02d}/größe {number:08d}.jpg'
                good.add(uri)
                line = f'{uri},{number % 3}'.encode()
            file.write(line + b'\n')
    return good, bad


@pytest.fixture
def any_image(stand_in_model):
    """Every image can be read, and its bytes need be no picture."""
    with app.stand_in(with_decoder=False, store=without_model.Store(0)):
        yield


@pytest.mark.parametrize('count', [2000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_each_rubbish_line_is_one_dead_letter_and_every_other_one_is_labelled(
    count, any_image, tmp_path
):
    good, bad = write_manifest(tmp_path / 'list.csv', count)
    assert len(good) + len(bad) == count
    assert {kind for kind, _ in bad.values()} == set(RUBBISH)
    output = tmp_path / 'out'
    source = ('--input', tmp_path / 'list.csv', '--carry', 'note')
    done = app.invoke('label', *source, '--output', output, '--run_id', 'rubbish')
    assert done.returncode == 0, done.stderr
    # A run that takes half a minute says how far it is, and nothing else.
    assert all(PROGRESS.match(line) for line in done.stderr.splitlines()), done.stderr
    report = json.loads((output / 'runs' / 'rubbish' / 'report.json').read_text())
    counts = report['counts']
    assert report['balanced']
    assert (counts['listed'], counts['labeled']) == (count, len(good))
    assert (counts['duplicates'], counts['unchanged']) == (0, 0)
    dead = app.rows(output, 'dead_letters')
    assert len(dead) == counts['dead_lettered'] == len(bad)
    found = {}
    for row in dead:
        number = int(row['detail'].removeprefix('line ').partition(':')[0])
        found[number] = row['reason']
        assert row['stage'] == 'list'
        assert not CONTROL.search(row['uri'] + row['detail'])
        assert len(row['uri']) <= 4096
        assert not row['retryable']
    assert found == {number: reason for number, (_, reason) in bad.items()}
    labeled = [row['uri'] for row in app.rows(output, 'predictions')]
    assert len(labeled) == len(good)
    assert set(labeled) == good
    assert verify(str(output)) == []
