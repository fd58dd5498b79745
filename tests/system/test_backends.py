"""A whole run on JAX, in a process of its own: `lemmabeam` as people call it."""

import json

import pytest

from tests.support import app, samples
from transforms.dataset.verify import verify

RUN = (
    *('label', '--backend', 'jax', '--input', samples.SAMPLE / 'cat.jpg', '--run_id', 'a'),
    *('--model_size', '64', '--batch_size', '2', '--canary', 'finite', '--min_labels', '1'),
)


@pytest.mark.slow  # two processes that begin from nothing; within one, the contract looks
def test_two_runs_on_jax_write_the_same_bytes(tmp_path):
    outputs = [tmp_path / 'one', tmp_path / 'other']
    for output in outputs:
        done = app.command(*RUN, '--output', output)
        assert done.returncode == 0, done.stderr
    one, other = (
        {path.relative_to(output): path.read_bytes() for path in output.glob('predictions/**/*.p*')}
        for output in outputs
    )
    assert one
    assert one == other


@pytest.mark.slow  # XLA compiles the network; the contract of JAX is slow, too
def test_a_run_on_jax_needs_no_tensorflow(tmp_path):
    output = tmp_path / 'out'
    # What others have told Keras is no obstacle.
    run = ('-X', 'importtime', '-m', 'pipeline', *RUN, '--output', output)
    done = app.python(*run, KERAS_BACKEND='tensorflow')
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
