"""Files of weights: the same tensors whoever wrote them, and no harm from those who mean it.

What networks compute with them is in tests/model/test_saved_models.py.
"""

import json
import os
import struct
import zipfile

import numpy as np
import pytest

from tests.data.bit_reference import synthetic_weights
from tests.support import layouts
from tests.support.layouts import WRITERS, with_header
from transforms.core.errors import ModelError
from transforms.model import registry, tensor_files
from transforms.model.families.bit.checkpoint import HEAD_KERNEL, Architecture, layout
from transforms.model.families.bit.weights import Weights
from transforms.model.tensor_files import Kind, kind_of

CLASSES = 10
ARCHITECTURE = Architecture(14, 1)
ROOT = 'resnet/root_block/standardized_conv2d/kernel'
BETA = 'resnet/block1/unit01/a/group_norm/beta'


@pytest.fixture(scope='module')
def weights():
    return synthetic_weights.make_weights('R14x1', 0, CLASSES)


@pytest.fixture(scope='module')
def zeros():
    return {
        name: np.zeros(shape, np.float32) for name, shape in layout(ARCHITECTURE, CLASSES).items()
    }


def refusal(path):
    """The message of a file that cannot be used."""
    with pytest.raises(ModelError) as caught, Weights(path) as tensors:
        dict(tensors)
    return str(caught.value)


@pytest.fixture
def bytes_of(tmp_path):
    """Writes a file with this content."""

    def write(data, name='x.safetensors'):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize('suffix', WRITERS)
def test_every_layout_holds_the_same_tensors(weights, tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    WRITERS[suffix](weights, path)
    assert kind_of(path).value == suffix
    with Weights(path) as tensors:
        assert (tensors.architecture, tensors.classes) == (ARCHITECTURE, CLASSES)
        assert set(tensors) == set(weights)
        assert len(tensors) == len(weights)
        for name, value in weights.items():
            assert tensors[name].dtype == np.float32
            np.testing.assert_array_equal(tensors[name], value)
        digests = tensors.digests
        with pytest.raises(KeyError):
            tensors['resnet/moon']
    # Exports of all of them are one model; those of .npz files were so from the first version on.
    plain = tmp_path / 'plain.npz'
    layouts.write_npz(weights, plain)
    with Weights(plain) as tensors:
        dict(tensors)
        assert tensors.digests == digests


def test_what_is_in_a_file_counts_and_not_its_name(zeros, tmp_path):
    for suffix, write in WRITERS.items():
        for other in WRITERS:
            path = tmp_path / f'x{other}'
            write(zeros, path)
            assert kind_of(path).value == suffix
            registry.recognize(path, 'x')
            path.unlink()
    assert kind_of(tmp_path) is Kind.SAVED_MODEL
    assert 'not a file' in refusal(tmp_path)
    assert 'cannot be read: No such file' in refusal(tmp_path / 'absent.h5')
    os.mkfifo(tmp_path / 'fifo.safetensors')
    assert 'not a file' in refusal(tmp_path / 'fifo.safetensors')


def numbered(name):
    return name.replace('conv2d/', 'conv2d_17/').replace('norm/', 'norm_3/')


@pytest.mark.parametrize(
    'rename',
    [
        lambda name: name.replace('head/conv2d', 'head/dense'),
        lambda name: name.replace('resnet/', 'resnet_1/'),
        lambda name: name.removeprefix('resnet/'),
        lambda name: f'module/{name}:0',
        numbered,
    ],
    ids=['dense head', 'second model', 'without scope', 'module', 'numbered'],
)
def test_names_by_which_others_have_saved_it(zeros, tmp_path, rename):
    path = tmp_path / 'x.npz'
    others = {'global_step': np.int64(7), 'step': np.float32(7), 'optimizer/beta_1': np.zeros(3)}
    head = zeros[HEAD_KERNEL][0, 0]
    np.savez(
        path,
        **{rename(name): value for name, value in zeros.items()}
        | {rename(HEAD_KERNEL): head}
        | others,
    )
    with Weights(path) as tensors:
        assert tensors.shapes == layout(ARCHITECTURE, CLASSES)
        assert tensors[HEAD_KERNEL].shape == (1, 1, *head.shape)


def test_of_two_networks_the_first_is_taken(zeros, tmp_path):
    path = tmp_path / 'x.npz'
    average = {f'average/{name}': value + 1 for name, value in zeros.items()}
    np.savez(path, **zeros, **average)
    with Weights(path) as tensors:
        assert not tensors[BETA].any()
    np.savez(path, **{**zeros, f'{BETA}:0': zeros[BETA]})
    assert refusal(path) == f'{path}: {BETA!r} appears 2 times'


def test_heads_may_be_missing(zeros, tmp_path):
    body = {name: value for name, value in zeros.items() if '/head/' not in name}
    for suffix, write in WRITERS.items():
        write(body, tmp_path / f'x{suffix}')
        with Weights(tmp_path / f'x{suffix}') as tensors:
            assert (tensors.architecture, tensors.classes) == (ARCHITECTURE, None)
            tensors.check(ARCHITECTURE, None, 'm')
            with pytest.raises(ModelError, match='has a head of no classes, but m has 10'):
                tensors.check(ARCHITECTURE, 10, 'm')


def test_another_network_than_the_name_says(zeros, tmp_path):
    layouts.write_h5(zeros, tmp_path / 'BiT-S-R50x3.h5')
    with Weights(tmp_path / 'BiT-S-R50x3.h5', 'shown') as tensors:
        tensors.check(ARCHITECTURE, CLASSES, 'm')
        with pytest.raises(ModelError, match=r'^shown: holds a BiT-R14x1, but m is a BiT-R50x3; '):
            tensors.check(Architecture(50, 3), CLASSES, 'm')
        with pytest.raises(ModelError, match='has a head of 10 classes, but m has 11'):
            tensors.check(ARCHITECTURE, 11, 'm')


@pytest.mark.parametrize('suffix', WRITERS)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_values_that_are_no_numbers(zeros, tmp_path, suffix, value):
    path = tmp_path / f'x{suffix}'
    broken = np.zeros_like(zeros[BETA])
    broken[3] = value
    WRITERS[suffix]({**zeros, BETA: broken}, path)
    assert refusal(path).startswith(f'{path}: the tensor {BETA!r} holds NaN or infinity')


@pytest.mark.parametrize('suffix', WRITERS)
def test_types_that_are_no_floats(zeros, tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    WRITERS[suffix]({**zeros, BETA: zeros[BETA].astype(np.int64)}, path)
    message = refusal(path)
    assert 'has the type' in message
    assert message.endswith('expected float16, 32 or 64')


@pytest.mark.parametrize('suffix', WRITERS)
def test_files_that_break_off(zeros, tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    WRITERS[suffix](zeros, path)
    whole = path.read_bytes()
    for size_bytes in (0, 1, 7, 8, 9, 20, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size_bytes])
        assert refusal(path).startswith(f'{path}: ')
    path.write_bytes(b'<!DOCTYPE html><title>404</title>' * 99)
    assert f'{suffix} file, or a truncated one' in refusal(path)


@pytest.mark.parametrize('suffix', WRITERS)
def test_a_file_of_something_else(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    if suffix == '.safetensors':
        path.write_bytes(layouts.safetensors({'moon.weight': np.zeros(3, np.float32)}))
    elif suffix == '.npz':
        np.savez(path, moon=np.zeros(3, np.float32))
    else:
        import h5py

        with h5py.File(path, 'w') as file:
            file['moon'] = np.zeros(3, np.float32)
    assert refusal(path).startswith(
        f'{path}: not a BiT checkpoint: it lacks the tensor {ROOT!r} and '
    )


def entry(start, end, dtype='F32', shape=(2,)):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [start, end]}


HOSTILE = {
    'longer than the file': with_header({'a': entry(0, 8)}, bytes(8), length=2**40),
    'gigabytes': with_header({'a': entry(0, 8)}, bytes(8), length=3 * 2**30),
    'the whole range': with_header({}, length=2**64 - 1),
    'beyond the end': with_header({'a': entry(0, 80, shape=(20,))}, bytes(8)),
    'overlapping': with_header({'a': entry(0, 8), 'b': entry(4, 12)}, bytes(12)),
    'with a gap': with_header({'a': entry(0, 8), 'b': entry(12, 20)}, bytes(20)),
    'negative': with_header({'a': entry(-4, 4)}, bytes(8)),
    'reversed': with_header({'a': entry(8, 0)}, bytes(8)),
    'another type': with_header({'a': entry(0, 8, 'F64')}, bytes(8)),
    'no type': with_header({'a': entry(0, 8, 'F31')}, bytes(8)),
    'a shape that overflows': with_header({'a': entry(0, 8, shape=(2**40, 2**40))}, bytes(8)),
    'fractions': with_header({'a': entry(0.5, 8)}, bytes(8)),
    'a list': with_header([1]),
    'no JSON': struct.pack('<Q', 9) + b'{"a": nul',
    'no text': struct.pack('<Q', 9) + b'{"\xff\xff": 1}',
    'nested': struct.pack('<Q', 60_005) + b'{"a":' + b'[' * 60_000,
    'more behind': with_header({'a': entry(0, 8)}, bytes(80)),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_headers_of_safetensors_are_not_trusted(bytes_of, case):
    path = bytes_of(HOSTILE[case])
    message = refusal(path)
    assert message.startswith(f'{path}: not a .safetensors file, or a truncated one')
    assert message.isprintable()


def test_a_header_of_gigabytes_is_not_read(bytes_of):
    """That are really there, as a hole in the file."""
    path = bytes_of(struct.pack('<Q', 2 * 2**30) + b'{')
    os.truncate(path, 3 * 2**30)
    assert f'a header of {2 * 2**30} bytes' in refusal(path)


@pytest.mark.parametrize('dtype', ['BF16', 'F8_E4M3', 'BOOL'])
def test_types_that_numpy_does_not_know(zeros, bytes_of, dtype):
    whole = layouts.safetensors(layouts.timm(zeros))
    size = int.from_bytes(whole[:8], 'little')
    header = json.loads(whole[8 : 8 + size])
    name = layouts.timm_name(BETA)
    # In as many bytes as they were.
    length = (header[name]['data_offsets'][1] - header[name]['data_offsets'][0]) // (
        2 if dtype == 'BF16' else 1
    )
    header[name] |= {'dtype': dtype, 'shape': [length]}
    message = refusal(bytes_of(with_header(header, whole[8 + size :])))
    assert f'{name!r} has the type {dtype}, expected float16, 32 or 64' in message


def test_hdf5_reads_nothing_from_other_files(zeros, tmp_path):
    import h5py

    path, other = tmp_path / 'x.h5', tmp_path / 'other.h5'
    layouts.write_h5(zeros, other)
    rest = {name: value for name, value in zeros.items() if name != BETA}
    secret = tmp_path / 'secret'
    secret.write_bytes(b'pass' * 64)
    place = f'block1/{BETA}:0'
    cases = {
        'an external link': lambda file: file.__setitem__(
            place, h5py.ExternalLink(str(other), place)
        ),
        'external values': lambda file: file.create_dataset(
            place, (64,), np.float32, external=[(str(secret), 0, 256)]
        ),
        'a virtual dataset': lambda file: file.create_virtual_dataset(
            place, _virtual(h5py, other, place)
        ),
    }
    for name, add in cases.items():
        path.unlink(missing_ok=True)
        layouts.write_h5(rest, path)
        with h5py.File(path, 'a') as file:
            add(file)
        message = refusal(path)
        assert f'lacks the tensor {BETA!r}' in message or 'has the type external' in message, name


def _virtual(h5py, path, name):
    made = h5py.VirtualLayout((64,), np.float32)
    made[:] = h5py.VirtualSource(str(path), name, (64,))
    return made


def test_hdf5_with_groups_without_end_is_left_soon(zeros, tmp_path, monkeypatch):
    import h5py

    path = tmp_path / 'x.h5'
    layouts.write_h5(zeros, path)
    with h5py.File(path, 'a') as file:
        file.create_group('a/' * 3000)
    assert refusal(path) == f'{path}: more than 100 levels of groups'
    layouts.write_h5(zeros, path)
    monkeypatch.setattr(tensor_files, '_MOST_OBJECTS', 10)
    assert refusal(path) == f'{path}: more than 10 objects'


def test_an_npz_that_lists_millions_is_not_read(tmp_path):
    path = tmp_path / 'x.npz'
    with zipfile.ZipFile(path, 'w') as file:
        for i in range(1200):
            file.writestr(f'{i:04}{"x" * 7000}.npy', b'')
    assert refusal(path).startswith(f'{path}: not an .npz file, or a truncated one')


def test_rubbish_in_hdf5_is_no_traceback(zeros, tmp_path):
    path = tmp_path / 'x.h5'
    layouts.write_h5({name: zeros[name] for name in (ROOT, BETA)}, path)
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(50):
        data = bytearray(whole)
        for at in chance.integers(8, 4096, 20):
            data[at] ^= int(chance.integers(1, 256))
        path.write_bytes(bytes(data))
        assert refusal(path).startswith(f'{path}: ')
