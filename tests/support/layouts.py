"""The weights of one network in every layout in which they are published; numpy alone."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Weights = Mapping[str, np.ndarray]


def write_npz(weights: Weights, path: Path) -> None:
    """As the authors."""
    with path.open('wb') as file:  # which np.savez would give another name
        np.savez(file, **weights)  # type: ignore[arg-type]  # none has the name of an option


def write_h5(weights: Weights, path: Path) -> None:
    """As `save_weights` of Keras 2: each layer has a folder, and in it its tensors by full name."""
    import h5py

    with h5py.File(path, 'w') as file:
        layers: dict[str, list[str]] = {}
        for name, value in weights.items():
            tail = name.removeprefix('resnet/')
            layer = tail.partition('/')[0].replace('group_norm', 'sequential')
            full = name.replace('head/conv2d', 'head/dense') + ':0'
            is_head = name.startswith('resnet/head/') and value.ndim == 4
            folder = file.require_group(layer)
            folder.create_dataset(full, data=value[0, 0] if is_head else value)
            layers.setdefault(layer, []).append(full)
        file.attrs['layer_names'] = [name.encode() for name in layers]
        file.attrs['backend'] = b'tensorflow'
        for layer, names in layers.items():
            file[layer].attrs['weight_names'] = [name.encode() for name in names]


def timm(weights: Weights) -> dict[str, np.ndarray]:
    """By timm's names, with the axes of PyTorch."""
    return {
        timm_name(name): np.ascontiguousarray(
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
        for name, value in weights.items()
    }


def timm_name(name: str) -> str:
    parts = name.removeprefix('resnet/').split('/')
    norms = {'gamma': 'weight', 'beta': 'bias'}
    if parts[0] == 'root_block':
        return 'stem.conv.weight'
    if parts[0] == 'group_norm':
        return f'norm.{norms[parts[1]]}'
    if parts[0] == 'head':
        return f'head.fc.{parts[2].replace("kernel", "weight")}'
    block, unit = int(parts[0].removeprefix('block')), int(parts[1].removeprefix('unit'))
    start = f'stages.{block - 1}.blocks.{unit - 1}'
    number = 'abc'.index(parts[2]) + 1
    if parts[3] == 'group_norm':
        return f'{start}.norm{number}.{norms[parts[4]]}'
    layer = 'downsample.conv' if parts[3] == 'proj' else f'conv{number}'
    return f'{start}.{layer}.weight'


def write_safetensors(weights: Weights, path: Path) -> None:
    """As timm, in the format that its documentation describes, without its library."""
    path.write_bytes(safetensors(timm(weights)))


TYPES = {'float32': 'F32', 'float16': 'F16', 'float64': 'F64', 'int64': 'I64'}


def safetensors(tensors: Weights) -> bytes:
    """A file of these tensors."""
    header, start = {}, 0
    for name, value in tensors.items():
        end = start + value.nbytes
        header[name] = {
            'dtype': TYPES[value.dtype.name],
            'shape': value.shape,
            'data_offsets': [start, end],
        }
        start = end
    return with_header(header, b''.join(value.tobytes() for value in tensors.values()))


def with_header(header: object, data: bytes = b'', length: int | None = None) -> bytes:
    """A file with any header at all, and with any length of it."""
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


WRITERS = {'.npz': write_npz, '.h5': write_h5, '.safetensors': write_safetensors}
