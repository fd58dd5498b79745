"""A whole run on JAX, in a process of its own: `lemmabeam` as people call it."""

import json

from tests.support import app, samples
from transforms.dataset.verify import verify


def test_a_run_on_jax_needs_no_tensorflow(tmp_path):
    output = tmp_path / 'out'
    run = (
        *('label', '--backend', 'jax', '--input', samples.SAMPLE / 'cat.jpg', '--output', output),
        *('--model_size', '64', '--batch_size', '2', '--canary', 'finite', '--min_labels', '1'),
    )
    # What others have told Keras is no obstacle.
    done = app.python('-X', 'importtime', '-m', 'pipeline', *run, KERAS_BACKEND='tensorflow')
    assert done.returncode == 0, done.stderr
    assert ', float32 on CPU by JAX\n' in done.stdout
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines()}
    assert {'jax', 'keras'} <= imported
    assert 'tensorflow' not in imported
    assert verify(str(output)) == []
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    (computed,) = report['model']['computed']
    assert (computed['backend'], computed['jit']) == ('jax', True)
    assert report['options']['backend'] == report['metadata']['backend'] == 'jax'
    assert report['metadata']['version.jax'] == computed['versions']['jax']
    (row,) = app.rows(output, 'predictions')
    assert len(row['labels']) >= 1
