"""Our steps in Beam YAML: the example runs, with a model that takes no time."""

import json

import pyarrow.parquet as pq
import pytest

from tests.support import samples

# Beam's YAML imports all that it may ever need, TensorFlow among it, and much of that warns.
pytestmark = pytest.mark.filterwarnings('ignore')
EXAMPLE = samples.SAMPLE.parents[1] / 'templates' / 'python' / 'labels.yaml'


@pytest.fixture(scope='module')
def beam_yaml():
    from apache_beam.yaml import main

    return main


@pytest.fixture
def images(tmp_path):
    path = tmp_path / 'images.txt'
    path.write_text(''.join(f'{image}\n' for image in sorted(samples.SAMPLE.iterdir())))
    return path


@pytest.fixture(autouse=True)
def in_threads(stand_in_model):
    """The model is another one in this process only."""


def run(beam_yaml, file, images, folder):
    places = {'images': images, 'output': folder / 'labels', 'failed': folder / 'failed.txt'}
    variables = json.dumps({name: str(path) for name, path in places.items()})
    beam_yaml.run(
        [
            f'--yaml_pipeline_file={file}',
            f'--jinja_variables={variables}',
            '--runner=FnApiRunner',
        ]
    )
    failed = ''.join(path.read_text() for path in folder.glob('failed.txt*'))
    return pq.read_table(folder / 'labels').to_pylist(), failed


def test_the_example(beam_yaml, images, tmp_path):
    rows, failed = run(beam_yaml, EXAMPLE, images, tmp_path)
    assert [row['uri'] for row in rows] == [str(path) for path in samples.PHOTOGRAPHS]
    assert {len(row['labels']) for row in rows} == {3}, 'as many as this model has'
    assert f'{samples.SAMPLE}/half.jpg: truncated, JPEG ends early, at 31000 bytes' in failed
    assert len(failed.splitlines()) == 3


def test_errors_as_other_transforms_of_yaml_have_them(beam_yaml, images, tmp_path):
    """Then the labels go on in a chain."""
    text = EXAMPLE.read_text().replace('input: LabelImages.labels', 'input: LabelImages')
    text = text.replace('LabelImages.dead_letters', 'LabelImages.without')
    text = text.replace('        top_k: 5\n', '        error_handling: {output: without}\n')
    (tmp_path / 'chain.yaml').write_text(text)
    rows, failed = run(beam_yaml, tmp_path / 'chain.yaml', images, tmp_path)
    assert len(rows) == len(samples.PHOTOGRAPHS)
    assert len(failed.splitlines()) == 3


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('threshold: 2', 'threshold 2: expected a number from 0 to 1'),
        ('treshold: 0.1', "did you mean 'threshold'?"),
    ],
)
def test_a_wrong_option_is_told_with_its_line(beam_yaml, images, tmp_path, config, message):
    (tmp_path / 'wrong.yaml').write_text(EXAMPLE.read_text().replace('top_k: 5', config))
    with pytest.raises(ValueError, match='at line') as found:
        run(beam_yaml, tmp_path / 'wrong.yaml', images, tmp_path)
    assert message in str(found.value)
