"""Weights of a BiT network in a file, whoever wrote it: .npz, .h5 or .safetensors.

All become tensors by their official names, in the layout of the official checkpoints.  Does not
import TensorFlow.
"""

import contextlib
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from transforms.core import uris
from transforms.core.errors import ModelError
from transforms.model.families.bit.checkpoint import (
    HEAD_KERNEL,
    Architecture,
    identify,
    kernel_name,
)
from transforms.model.families.bit.recognition import official_name, official_shapes
from transforms.model.tensor_files import Hdf5File, open_tensors

_TIMM = re.compile(
    r'(?:(?P<root>stem\.conv)\.weight|'
    r'stages\.(?P<stage>\d{1,3})\.blocks\.(?P<block>\d{1,3})\.'
    r'(?:(?P<conv>conv[123]|downsample\.conv)\.weight|norm(?P<norm>[123])\.(?P<part>weight|bias))|'
    r'norm\.(?P<last>weight|bias)|'
    r'head\.fc\.(?P<head>weight|bias))',
    re.ASCII,
)
_TIMM_ROOT = 'stem.conv.weight'
_TIMM_CONVS = {'conv1': 'a', 'conv2': 'b', 'conv3': 'c', 'downsample.conv': 'a/proj'}
_TIMM_NORMS = {'weight': 'gamma', 'bias': 'beta'}


class NoBitError(ModelError):
    """A file has no tensor named as in a BiT network."""


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a BiT network by official name, each read when it is asked for.

    Anything else in the file is ignored.  Use it as a context manager.

    Args:
      path: a file; its content says of which kind it is.
      shown: what messages call it, by default its path.

    Attributes:
      shapes: shape of each tensor, in the layout of the official checkpoints.
      architecture: of the network.
      classes: of its head; None without one.
      digests: hex SHA-256 over type, shape and values of each tensor that was read; the same
        whatever file it came from.

    Raises:
      NoBitError: the file holds something else.
      ModelError: it does not exist, is of another kind, is truncated, or holds no whole BiT
        network; or, when a tensor is read, it is damaged or has values that are not numbers.
    """

    def __init__(self, path: Path, shown: str = ''):
        self._shown = shown or str(path)
        self._stack = contextlib.ExitStack()
        self.digests: dict[str, str] = {}
        with contextlib.ExitStack() as opening:
            self._file = opening.enter_context(open_tensors(path, self._shown))
            self._is_timm = _TIMM_ROOT in self._file.shapes
            self._names = self._official()
            self.shapes = self._official_shapes()
            try:
                self.architecture, self.classes = identify(self.shapes or self._file.shapes)
            except ModelError as e:
                kind = ModelError if self.shapes else NoBitError
                raise kind(f'{self._shown}: {uris.printable(str(e))}') from e
            self._stack = opening.pop_all()

    def __enter__(self) -> 'Weights':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self.shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._file[self._names[name]]
        if self._is_timm:
            value = value.transpose(_hwio(value.ndim))
        value = np.ascontiguousarray(value.reshape(self.shapes[name]))
        if not np.isfinite(value).all():
            raise ModelError(
                f'{self._shown}: the tensor {name!r} holds NaN or infinity: the file is damaged, '
                'or was written by a training that failed'
            )
        digest = hashlib.sha256(f'{value.dtype.str} {value.shape} '.encode())
        digest.update(value.data)
        self.digests[name] = digest.hexdigest()
        return value

    def check(self, architecture: Architecture, classes: int | None, name: str) -> None:
        """Checks the network against its model card.

        Args:
          architecture, classes: of the card; a network without classes may come with a head.
          name: of the card.

        Raises:
          ModelError: it is another network.  Some published files are.
        """
        if self.architecture != architecture:
            raise ModelError(
                f'{self._shown}: holds a BiT-{self.architecture}, but {name} is a '
                f'BiT-{architecture}; some published files are mixed up (BiT-S-R50x3.h5, '
                'BiT-S-R101x1.h5)'
            )
        if classes is not None and self.classes != classes:
            raise ModelError(
                f'{self._shown}: has a head of {self.classes or "no"} classes, but {name} has '
                f'{classes}'
            )

    def _official(self) -> dict[str, str]:
        """Names in the file by official name, of the scope that holds most of a network."""
        found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in (*self._file.shapes, *self._file.others):
            if self._is_timm:
                scope, official = '', _timm_name(name)
            else:
                scope, official = official_name(name) or ('', '')
            if official:
                # In HDF5 each layer has a folder of its own.
                found['' if isinstance(self._file, Hdf5File) else scope][official].append(name)
        names: Mapping[str, list[str]] = max(found.values(), key=len, default={})
        for official, each in names.items():
            if len(each) > 1:
                raise ModelError(f'{self._shown}: {official!r} appears {len(each)} times')
            if dtype := self._file.others.get(each[0]):
                raise ModelError(
                    f'{self._shown}: {each[0]!r} has the type {dtype}, expected float16, 32 or 64'
                )
        return {official: each[0] for official, each in names.items()}

    def _official_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {official: self._file.shapes[name] for official, name in self._names.items()}
        if self._is_timm:
            shapes = {
                name: tuple(shape[i] for i in _hwio(len(shape))) for name, shape in shapes.items()
            }
        return official_shapes(shapes)


def _timm_name(name: str) -> str:
    """The official name of a tensor of timm's ResNetV2; '' for what is outside the network."""
    found = _TIMM.fullmatch(name)
    if found is None:
        return ''
    if found['root']:
        return kernel_name('root_block')
    if found['last']:
        return f'resnet/group_norm/{_TIMM_NORMS[found["last"]]}'
    if found['head']:
        return HEAD_KERNEL if found['head'] == 'weight' else 'resnet/head/conv2d/bias'
    unit = f'block{int(found["stage"]) + 1}/unit{int(found["block"]) + 1:02d}'
    if found['conv']:
        return kernel_name(f'{unit}/{_TIMM_CONVS[found["conv"]]}')
    letter = 'abc'[int(found['norm']) - 1]
    return f'resnet/{unit}/{letter}/group_norm/{_TIMM_NORMS[found["part"]]}'


def _hwio(rank: int) -> tuple[int, ...]:
    """Axes of a tensor of PyTorch, OIHW or (out, in), in the order of TensorFlow."""
    return {4: (2, 3, 1, 0), 2: (1, 0)}.get(rank, tuple(range(rank)))
