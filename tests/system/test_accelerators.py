"""Several devices of one process: virtual ones, which are cores of this machine.

Slow: each run is a fresh process with a runtime of its own. Which device takes which batch, and one
that fails, are in tests/steps/test_label.py.
"""

import pytest

from tests.support import app, samples

BATCHES = 24
_START = {
    'tensorflow': (
        'import tensorflow as tf\n'
        "[cpu] = tf.config.list_physical_devices('CPU')\n"
        'each = [tf.config.LogicalDeviceConfiguration()] * 4\n'
        'tf.config.set_logical_device_configuration(cpu, each)\n'
    ),
    'jax': "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=4'\n",
}
_RUN = """
import sys
from pipeline.main import main
from transforms.model.predictor import Predictor
numbers, call = set(), Predictor.__call__
def counted(self, pixels):
    numbers.add(self.options.accelerator)
    return call(self, pixels)
Predictor.__call__ = counted
code = main(sys.argv[1:])
print(sorted(numbers))
sys.exit(code)
"""


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    for i in range(4 * BATCHES):
        (folder / f'{i:03}.jpg').write_bytes(samples.picture(i))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('backend', _START)
def test_the_bytes_of_four_devices_are_those_of_one(backend, pictures, tmp_path):
    files = []
    for count, numbers in ((1, [0]), (4, [0, 1, 2, 3])):
        output = tmp_path / str(count)
        where = '--input', pictures, '--output', output, '--run_id', 'a', '--quiet'
        how = '--batch_size', 4, '--intra_op_threads', 1, '--backend', backend
        program = _START[backend] + _RUN
        many = '--accelerators_per_worker', count
        done = app.python('-c', program, 'label', *where, *how, *many)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(numbers)
        found = sorted((output / 'predictions').rglob('*.parquet'))
        files.append({path.relative_to(output): path.read_bytes() for path in found})
    assert files[0]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('backend', 'said'), [('tensorflow', 'TensorFlow sees 4 CPUs'), ('jax', 'JAX sees 4 devices')]
)
def test_more_than_there_are_is_said(backend, said, pictures, tmp_path):
    where = '--input', pictures, '--output', tmp_path, '--quiet', '--backend', backend
    program = _START[backend] + _RUN
    done = app.python('-c', program, 'label', *where, '--accelerators_per_worker', 5)
    assert done.returncode == 1
    assert f'--accelerators_per_worker 5: {said}' in done.stderr
