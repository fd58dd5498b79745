"""The precision receipt of a run: in its report, in what it prints, on its page; or it stops."""

import re

import pytest

from tests.support import app, samples, without_model

FLAGS = ('--batch_size', '8', '--chunk_size', '16', '--max_failure_rate', '0.5')


class Reduced(without_model.Predictor):
    """Computes in bfloat16, unless it is told to use float32."""

    def __init__(self, options):
        super().__init__(options)
        self.computed['precision'] = 'float32' if options.precision == 'float32' else 'bfloat16'


class Damaged(Reduced):
    """Sees something else in bfloat16."""

    def __call__(self, pixels):
        found = super().__call__(pixels)
        if self.computed['precision'] == 'bfloat16':
            found = found._replace(indices=(found.indices + 1) % self._classes)
        return found


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    return samples.write_pictures(tmp_path_factory.mktemp('pictures') / 'in', 20)[0].parent


def test_a_sound_precision_is_told_of(pictures, tmp_path):
    output = tmp_path / 'out'
    with app.stand_in(Reduced):
        done = app.invoke('label', '--input', pictures, '--output', output, *FLAGS)
    assert done.returncode == 0, done.stderr
    said = '100.0% of 20 images have the same best class as in float32, labels overlap by 100.0%, '
    assert f'Precision: {said}scores differ by 0 at most' in done.stdout
    (page,) = output.glob('runs/*/report.html')
    assert said in re.sub(r'\s+', ' ', page.read_text())


def test_a_damaged_precision_stops_the_run_and_float32_does_not(pictures, tmp_path):
    run = ('--input', pictures, *FLAGS, '--precision_receipt', '10', '--output')
    with app.stand_in(Damaged):
        done = app.invoke('label', *run, tmp_path / 'out')
        assert done.returncode == 1
        said = r'--precision bfloat16: 0\.0% of \d+ images .* \(--min_agreement\)'
        assert re.search(said, done.stderr)
        assert not [*(tmp_path / 'out').glob('predictions/**/*.parquet')]
        report = app.label(*run, tmp_path / 'other', '--min_agreement', '0')
        assert report['receipt']['same_best'] == 0
        # Whole batches are compared: how full they are is decided by the names of the files.
        assert 10 <= report['receipt']['images'] < 10 + 8
        report = app.label(*run, tmp_path / 'exact', '--precision', 'float32')
        assert 'receipt' not in report
        report = app.label(*run, tmp_path / 'none', '--precision_receipt', '0')
        assert 'receipt' not in report
