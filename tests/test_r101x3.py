"""The model this project is for, at full size: BiT-M R101x3 with 21,843 classes, synthetic weights.

Slow: 2 GB of weights are made, exported, loaded and held against the published way of computing.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.verify import verify
from tests import samples, support
from tests.benchmarks.measure import run_python
from tests.data.bit_reference import synthetic_weights
from transforms.decode import decode
from transforms.model.sources import resolve_model

pytestmark = pytest.mark.slow

GB = 1e9


def test_export_load_and_label(tmp_path, capsys):
    npz, folder, output = (tmp_path / name for name in ('BiT-M-R101x3.npz', 'model', 'out'))
    weights = synthetic_weights.make_weights('R101x3', 0)
    np.savez(npz, **weights)
    exported = run_python('-m', 'pipeline', 'export-model', '--weights', npz, '--output', folder)
    limit_bytes = 3 * npz.stat().st_size + 1e9
    assert exported.peak_bytes <= limit_bytes
    npz.unlink()
    size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    labeled = run_python(
        *('-m', 'pipeline', 'label', '--model', folder, '--input', samples.SAMPLE),
        *('--output', output, '--canary', 'finite', '--max_failure_rate', '0.25'),
    )
    with capsys.disabled():
        print(
            f'\nR101x3: SavedModel {size / GB:.2f} GB; export {exported.wall_sec:.0f} s, peak '
            f'{exported.peak_bytes / GB:.2f} GB; labelling 10 photographs {labeled.wall_sec:.0f} '
            f's, peak {labeled.peak_bytes / GB:.2f} GB'
        )
    assert verify(str(output)) == []
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    assert report['balanced']
    assert report['counts']['labeled'] == 10
    assert report['model']['card']['name'] == 'bit-m-r101x3'
    assert report['model']['card']['activation'] == 'sigmoid'
    check_scores(weights, support.rows(output, 'predictions'), resolve_model(str(folder)))


def check_scores(weights, rows, source):
    """The scores are the sigmoid of what the published way of computing gives."""
    support.start_tensorflow()
    from tests.published import PublishedModule

    module = PublishedModule(weights, 101)
    pixels = [decode(Path(row['uri']).read_bytes(), source.card.resize) for row in rows]
    logits = module(np.stack(pixels).astype(np.float32) / 255).numpy().astype(np.float64)
    scores = 1 / (1 + np.exp(-logits))
    for row, expected in zip(rows, scores, strict=True):
        labels = row['labels']
        assert len(labels) == source.card.max_labels
        indices = [label['index'] for label in labels]
        found = [label['score'] for label in labels]
        np.testing.assert_allclose(found, expected[indices], rtol=0, atol=1e-4)
        # Nothing that was left out is better, but for the last digits.
        assert np.delete(expected, indices).max() <= min(found) + 1e-4
        assert [label['name'] for label in labels] == [source.vocabulary.names[i] for i in indices]
