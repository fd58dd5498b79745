"""Official checkpoints: their layout, and files that are none."""

import io
import math
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.data.bit_reference import synthetic_weights
from transforms.core.errors import ModelError
from transforms.model.families.bit import checkpoint
from transforms.model.families.bit.checkpoint import Architecture, identify
from transforms.model.tensor_files import NpzCheckpoint

CLASSES = 100
ARCHITECTURE = Architecture(14, 1)
BETA = 'resnet/block1/unit01/a/group_norm/beta'


@pytest.fixture(scope='module')
def weights():
    return synthetic_weights.make_weights('R14x1', 0, CLASSES)


@pytest.fixture(scope='module')
def npz(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'r14x1.npz'
    np.savez(path, **weights)
    return path


@pytest.mark.parametrize(
    'name', ['R14x1', 'R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x2', 'R152x4']
)
@pytest.mark.parametrize('classes', [synthetic_weights.CLASSES_21K, 10])
def test_the_layout_is_that_of_the_official_checkpoints(name, classes):
    layout = checkpoint.layout(Architecture.parse(name), classes)
    assert list(layout.items()) == list(synthetic_weights.layout(name, classes).items())
    assert identify(layout) == (Architecture.parse(name), classes)


def test_a_checkpoint_without_a_head_is_one_of_features():
    assert identify(checkpoint.layout(ARCHITECTURE, None)) == (ARCHITECTURE, None)


def test_the_largest_networks_have_the_published_size():
    for name, parameters in (('R50x1', 68_256_659), ('R101x3', 516_015_123)):
        assert checkpoint.parameters(Architecture.parse(name), 21843) == parameters
    assert len(checkpoint.layout(Architecture(101, 3), 21843)) == 306


def test_multiply_adds_are_counted_layer_by_layer():
    # One unit a block at 32 px: 16 px after the root, 8 after the pool, then 8, 4, 2, 1.
    expected = 16**2 * 7 * 7 * 3 * 64
    channels, side = 64, 8
    for block, inner in enumerate((64, 128, 256, 512)):
        out = side if block == 0 else side // 2
        expected += side**2 * channels * inner  # a
        expected += out**2 * 9 * inner * inner  # b
        expected += out**2 * inner * 4 * inner  # c
        expected += out**2 * channels * 4 * inner  # projection
        channels, side = 4 * inner, out
    assert checkpoint.multiply_adds(ARCHITECTURE, 10, 32) == expected + 2048 * 10


def test_no_other_architecture_is_known():
    for name in ('R20x1', 'R50', 'R50x0', 'x', 'R50x1 '):
        with pytest.raises(ModelError, match='unknown BiT architecture'):
            Architecture.parse(name)


def test_tensors_are_read_one_by_one(npz, weights):
    with NpzCheckpoint(npz) as tensors:
        assert identify(tensors.shapes) == (ARCHITECTURE, CLASSES)
        assert set(tensors) == set(weights)
        assert len(tensors) == len(weights)
        for name, value in weights.items():
            np.testing.assert_array_equal(tensors[name], value)
        with pytest.raises(KeyError):
            tensors['resnet/moon']


def test_wrong_weights_are_named_tensor_by_tensor(weights):
    shapes = {name: value.shape for name, value in weights.items()}
    last = {name: shape for name, shape in shapes.items() if not name.startswith('resnet/block4')}
    for wrong, message in (
        ({k: v for k, v in shapes.items() if k != BETA}, f"lacks the tensor '{BETA}'$"),
        (shapes | {BETA: (3,)}, rf"'{BETA}' has shape \(3,\), expected \(64,\)$"),
        (shapes | {'resnet/moon': (3,)}, "unknown tensor 'resnet/moon'$"),
        (shapes | {BETA: (3,), 'a': ()}, rf"BiT-R14x1: '{BETA}' .*; unknown tensor 'a'$"),
        (last, r"block4/unit01/a/group_norm/beta'; .* and \d+ more$"),
        ({'a': (1,), 'b': (2,)}, "lacks the tensor 'resnet/root_block/.*holds a; b$"),
        ({checkpoint.kernel_name('root_block'): ()}, 'lacks the tensor .* and 35 more'),
        ({}, 'holds nothing'),
    ):
        with pytest.raises(ModelError, match=message):
            identify(wrong)


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


DAMAGED = {
    'empty': (lambda _: b'', 'a truncated one, at 0 bytes'),
    'cut off': (cut, r'a truncated one, at \d+ bytes'),
    'no zip': (lambda _: b'<!DOCTYPE html><title>404</title>' * 99, 'not an .npz file'),
    'a pickle': (lambda _: pickle.dumps({'a': 1}), 'not an .npz file'),
}


@pytest.mark.parametrize('case', DAMAGED)
def test_a_file_that_is_no_npz_is_refused(npz, tmp_path, case):
    damage, message = DAMAGED[case]
    path = tmp_path / 'x.npz'
    path.write_bytes(damage(npz.read_bytes()))
    with pytest.raises(ModelError, match=message):
        NpzCheckpoint(path)


def test_damage_inside_is_found_in_its_tensor(npz, tmp_path):
    path = tmp_path / 'x.npz'
    path.write_bytes(flip(npz.read_bytes()))
    with NpzCheckpoint(path) as tensors, pytest.raises(ModelError, match='is damaged'):
        dict(tensors)


class _Bomb:
    def __reduce__(self):
        return pytest.fail, ('an object of the file was unpickled',)


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / 'x.npz'
    value = np.empty(1, object)
    value[0] = _Bomb()
    np.savez(path, **{BETA: value})
    with pytest.raises(ModelError, match='holds Python objects, which are never loaded'):
        NpzCheckpoint(path)


def test_other_members_and_types_are_refused(tmp_path):
    path = tmp_path / 'x.npz'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('notes.txt', 'hello')
    with pytest.raises(ModelError, match=r'holds notes\.txt'):
        NpzCheckpoint(path)
    np.savez(path, a=np.zeros(3, int))
    with NpzCheckpoint(path) as tensors:
        assert (tensors.shapes, tensors.others) == ({}, {'a': 'int64'})
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a.npy', b'no array')
    with pytest.raises(ModelError, match="the tensor 'a' is damaged"):
        NpzCheckpoint(path)
    with pytest.raises(ModelError, match='cannot be read: No such file'):
        NpzCheckpoint(tmp_path / 'nothere.npz')
    os.mkfifo(tmp_path / 'fifo.npz')
    with pytest.raises(ModelError, match='not a file'):
        NpzCheckpoint(tmp_path / 'fifo.npz')


HEADERS = [
    b"{'descr': '<f4', (",
    b"  {'descr': '<f4'}\n x",
    b'-' * 9000 + b'1',
    b"{1: 2, 'shape': (1,)}",
    b"{'descr': ('<f4',), 'fortran_order': False, 'shape': (1,)}",
]


@pytest.mark.parametrize('header', HEADERS)
def test_headers_of_arrays_are_not_trusted(tmp_path, header):
    path = tmp_path / 'x.npz'
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a.npy', b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header)
    with pytest.raises(ModelError, match="the tensor 'a' is damaged"):
        NpzCheckpoint(path)


@pytest.mark.parametrize('classes', [0, 10**12])
def test_heads_of_no_size_are_refused(classes):
    shapes = checkpoint.layout(ARCHITECTURE, 10)
    shapes[checkpoint.HEAD_KERNEL] = (1, 1, 2048, classes)
    with pytest.raises(ModelError, match=f'a head of {classes} classes; expected 1 to 1000000'):
        identify(shapes)


def test_standardized_kernels_have_mean_0_and_variance_1_with_the_authors_epsilon():
    rng = np.random.default_rng(0)
    kernel = rng.normal(3, 2, (3, 3, 8, 5)).astype(np.float32)
    kernel[..., 0] *= 1e-5
    found = checkpoint.standardize(kernel)
    assert found.dtype == np.float32
    for channel in range(5):
        values = kernel[..., channel].astype(np.float64)
        expected = (values - values.mean()) / math.sqrt(values.var() + 1e-10)
        np.testing.assert_allclose(found[..., channel], expected, rtol=1e-5, atol=1e-6)


def test_compressed_files_are_read_too(weights, tmp_path):
    data = io.BytesIO()
    np.savez_compressed(data, **{name: np.zeros_like(value) for name, value in weights.items()})
    (tmp_path / 'x.npz').write_bytes(data.getvalue())
    with NpzCheckpoint(tmp_path / 'x.npz') as tensors:
        assert tensors[BETA].sum() == 0
