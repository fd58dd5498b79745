"""The model this project is for, at full size: BiT-M R101x3 with 21,843 classes, synthetic weights.

Slow: 2 GB of weights are made, exported, loaded and held against the published way of computing.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.measure import run_python
from tests.data.bit_reference import synthetic_weights
from tests.support import app, samples
from transforms.dataset.verify import verify
from transforms.images.decode import decode
from transforms.model.resolve import resolve_model

pytestmark = pytest.mark.slow

GB = 1e9


def test_export_load_and_label(tmp_path, capsys):
    npz, folder, output = (tmp_path / name for name in ('BiT-M-R101x3.npz', 'model', 'out'))
    weights = synthetic_weights.make_weights('R101x3', 0)
    np.savez(npz, **weights)
    exported = run_python('-m', 'pipeline', 'export-model', '--weights', npz, '--output', folder)
    limit_bytes = 3 * npz.stat().st_size + 1e9
    assert exported.largest_bytes <= limit_bytes
    npz.unlink()
    size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    labeled = run_python(
        *('-m', 'pipeline', 'label', '--model', folder, '--input', samples.SAMPLE),
        *('--output', output, '--canary', 'finite', '--max_failure_rate', '0.25'),
    )
    with capsys.disabled():
        print(
            f'\nR101x3: SavedModel {size / GB:.2f} GB; export {exported.wall_sec:.0f} s, peak '
            f'{exported.largest_bytes / GB:.2f} GB; labelling 10 photographs '
            f'{labeled.wall_sec:.0f} s, peak {labeled.peak_bytes / GB:.2f} GB'
        )
    assert verify(str(output)) == []
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    assert report['balanced']
    assert report['counts']['labeled'] == 10
    assert report['model']['card']['name'] == 'bit-m-r101x3'
    assert report['model']['card']['activation'] == 'sigmoid'
    check_scores(weights, app.rows(output, 'predictions'), resolve_model(str(folder)))


SAVE_MODULE = """
import sys
from transforms.model.runtimes.on_tensorflow import import_tensorflow
from transforms.core.resources import cpu_count
import_tensorflow(cpu_count())
from tests.data.bit_reference import synthetic_weights
from tests.support.published import PublishedModule, dense, save
weights = dense(synthetic_weights.make_weights('R101x3', 0))
rename = lambda name: name.replace('head/conv2d', 'head/dense')
save(PublishedModule(weights, 101, rename=rename), sys.argv[1])
"""
# What recognition costs: all of `load_network`, and loading alone, in turns in one process.
RECOGNIZE = """
import json, sys, time
from pathlib import Path
from transforms.model.runtimes.on_tensorflow import TensorFlow
from transforms.core.resources import cpu_count
runtime = TensorFlow(cpu_count(), require_gpu=False)
from transforms.model import load as network, saved_model
from transforms.model.resolve import resolve_model
source = resolve_model(sys.argv[1], card='bit-m-r101x3', cache=sys.argv[2])
started = time.perf_counter()
saved_model.load(Path(sys.argv[1]), source.card, (1, 64, 64, 3))
loaded = time.perf_counter()
found = network.load_network(source, 'float32', 1, False, runtime)
done = time.perf_counter()
assert found.route == network.BUILT, found.why_saved
print(json.dumps([loaded - started, done - loaded]), file=sys.stderr)
"""


def test_a_module_whose_head_is_dense(tmp_path, capsys):
    """As the published ones most likely are: recognized, and computed in bfloat16 with features."""
    folder, output = tmp_path / 'module', tmp_path / 'out'
    run_python('-c', SAVE_MODULE, folder)
    recognized = run_python('-c', RECOGNIZE, folder, tmp_path / 'cache')
    load_sec, all_sec = json.loads(recognized.errors.splitlines()[-1])
    labeled = run_python(
        *('-m', 'pipeline', 'label', '--model', folder, '--model_card', 'bit-m-r101x3'),
        *('--input', samples.SAMPLE, '--output', output, '--canary', 'finite'),
        *('--precision', 'bfloat16', '--features', '--max_failure_rate', '0.25'),
    )
    with capsys.disabled():
        print(
            f'\nR101x3 from a module: loading alone {load_sec:.1f} s, recognized and built '
            f'{all_sec:.1f} s, peak {recognized.peak_bytes / GB:.2f} GB; labelling 10 photographs '
            f'in bfloat16 {labeled.wall_sec:.0f} s, peak {labeled.peak_bytes / GB:.2f} GB'
        )
    assert verify(str(output)) == []
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    (computed,) = report['model']['computed']
    assert computed['network'] == 'built from its weights'
    assert (computed['precision'], computed['features']) == ('bfloat16', 6144)
    assert {len(row['features']) for row in app.rows(output, 'predictions')} == {6144}


def check_scores(weights, rows, source):
    """The scores are the sigmoid of what the published way of computing gives."""
    app.start_tensorflow()
    from tests.support.published import PublishedModule

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
