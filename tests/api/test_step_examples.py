"""Examples of the steps run: the programs in templates/python.

With real models, so that a person reads what they will see.
"""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support import app, samples

TEMPLATES = samples.SAMPLE.parents[1] / 'templates' / 'python'


@pytest.fixture(scope='module', autouse=True)
def started():
    app.start_tensorflow()
    with app.networks_built_once():
        yield


def run_program(name, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(str(TEMPLATES / name), run_name='__main__')


def _lines(paths):
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def check_own_pipeline(folder, run):
    """A stranger's pipeline: all of the sample, its broken pictures included.

    Args:
      folder: for files.
      run: runs the program with arguments.
    """
    lines = [{'uri': str(path), 'place': path.stem} for path in samples.SAMPLE.iterdir()]
    (folder / 'images.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    names = ('images', 'labels', 'failed')
    run(*(f'--{name}={folder / name}.jsonl' for name in names))
    labels, failed = (_lines(folder.glob(f'{name}*')) for name in names[1:])
    assert len(labels) + len(failed) == len(lines)
    by_place = {row['place']: row['labels'] for row in labels}
    assert 'tiger cat' in by_place['cat']
    assert {len(each) for each in by_place.values()} == {3}
    assert {(row['carried']['place'], row['reason']) for row in failed} == {
        ('empty', 'empty'),
        ('half', 'truncated'),
        ('notes', 'not_an_image'),
    }


def test_own_pipeline(tmp_path):
    check_own_pipeline(
        tmp_path, lambda *flags: run_program('own_pipeline.py', *flags, '--runner=FnApiRunner')
    )


def test_the_pipeline_of_own_pipeline_has_15_lines():
    source = (TEMPLATES / 'own_pipeline.py').read_text()
    block = source.partition('    with beam.Pipeline')[2].partition('\n\n\n')[0]
    assert len(block.splitlines()) <= 15


# A network is trained and exported; no part of ours is seen here alone.
@pytest.mark.slow
def test_fine_tuned(tmp_path, capsys):
    """Trained on single colours, it tells reds from blues it has not seen."""
    rng = np.random.default_rng(0)

    def paint(path, place):
        colour = rng.integers(0, 60, 3)
        colour[place] += 180
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (80, 70), tuple(map(int, colour))).save(path)

    for i in range(16):
        for place, name in ((0, 'red'), (2, 'blue')):
            paint(tmp_path / 'pictures' / name / f'{i}.png', place)
    for i in range(4):
        paint(tmp_path / 'images' / f'{"red" if i % 2 else "blue"}-{i}.png', 0 if i % 2 else 2)
    (tmp_path / 'images' / 'broken.png').write_bytes(b'')
    flags = [f'--{name}={tmp_path / name}' for name in ('pictures', 'model', 'images', 'labels')]
    run_program('fine_tuned.py', *flags)

    table = pq.read_table(tmp_path / 'labels')
    assert table.num_rows == 4
    for row in table.to_pylist():
        (label,) = row['labels']
        assert label['name'] == Path(row['uri']).name.partition('-')[0]
        assert label['wnid'] is None
        assert label['score'] > 0.8
    assert table.schema.metadata[b'lemmabeam.model_id'].startswith(b'fine-tuned-')
    assert f'{tmp_path}/images/broken.png: empty, 0 bytes' in capsys.readouterr().out
