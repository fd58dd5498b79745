"""Weights of a BiT network in a file, whoever wrote it: .npz, .h5 or .safetensors.

All become tensors by their official names, in the layout of the official checkpoints.  Knows
nothing of TensorFlow.
"""

import contextlib
import enum
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from transforms.core import uris
from transforms.core.errors import ModelError
from transforms.model.checkpoint import (
    HEAD_KERNEL,
    Architecture,
    NpzCheckpoint,
    identify,
    kernel_name,
)
from transforms.model.recognition import official_name, official_shapes


class Kind(enum.Enum):
    """How the weights of a model are kept; the value is for people."""

    SAVED_MODEL = 'SavedModel'
    NPZ = '.npz'
    HDF5 = '.h5'
    SAFETENSORS = '.safetensors'


SUFFIXES = tuple(kind.value for kind in Kind if kind is not Kind.SAVED_MODEL)
"""Of files of weights; what is in a file counts more, see `kind_of`."""

_HDF5_START = b'\x89HDF\r\n\x1a\n'
_HEADER_BYTES = 8 * 2**20  # of safetensors; that of a network with 500 tensors has 50 KB
# Of HDF5.  Keras nests a handful; the library takes minutes for a path of thousands.
_MOST_OBJECTS, _MOST_LEVELS = 100_000, 100
_FLOATS = ('F16', 'F32', 'F64')
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


def kind_of(path: Path) -> Kind:
    """What a model on this machine is kept as, by its first bytes rather than by its name.

    Raises:
      ModelError: it cannot be read.
    """
    try:
        if path.is_dir():
            return Kind.SAVED_MODEL
        if not path.is_file():  # opening a FIFO would wait for ever
            return Kind.NPZ  # which has words for it
        with path.open('rb') as file:
            start = file.read(9)
    except OSError as e:
        raise ModelError(f'{path}: cannot be read: {e.strerror}') from e
    if start.startswith(_HDF5_START):
        return Kind.HDF5
    if start.startswith(b'PK'):
        return Kind.NPZ
    if start[8:] == b'{':
        return Kind.SAFETENSORS
    return Kind(path.suffix) if path.suffix in SUFFIXES else Kind.NPZ


def check_weights(path: Path, shown: str) -> None:
    """Looks whether a file holds a whole BiT network, without reading its values.

    Raises:
      ModelError: it does not; messages call it `shown`.
    """
    with Weights(path, shown):
        pass


class _File(Protocol):
    """Tensors as a file has them: shapes of the floats, and the types of all others."""

    shapes: dict[str, tuple[int, ...]]
    others: dict[str, str]

    def __getitem__(self, name: str) -> np.ndarray: ...


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a BiT network by official name, each read when it is asked for.

    What the file holds beside them is passed over.  Use it as a context manager.

    Args:
      path: a file; what is in it says of which kind it is.
      shown: what messages call it, by default its path.

    Attributes:
      shapes: shape of each tensor, in the layout of the official checkpoints.
      architecture: of the network.
      classes: of its head; None without one.
      digests: hex SHA-256 over type, shape and values of each tensor that was read; the same
        whatever file it came from.

    Raises:
      ModelError: the file is not there, is of no such kind, breaks off, or holds no BiT network;
        or, when a tensor is read, it is damaged or has values that are no numbers.
    """

    def __init__(self, path: Path, shown: str = ''):
        self._shown = shown or str(path)
        self._stack = contextlib.ExitStack()
        self.digests: dict[str, str] = {}
        with contextlib.ExitStack() as opening:
            kind = kind_of(path)
            reader = _READERS.get(kind, NpzCheckpoint)  # which has words for a folder
            self._file: _File = opening.enter_context(reader(path, self._shown))
            self._is_timm = _TIMM_ROOT in self._file.shapes
            self._names = self._official()
            self.shapes = self._official_shapes()
            try:
                self.architecture, self.classes = identify(self.shapes or self._file.shapes)
            except ModelError as e:
                raise ModelError(f'{self._shown}: {uris.printable(str(e))}') from e
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
        """Holds the network against what a model card says of it.

        Args:
          architecture, classes: of the card; a network without classes may come with a head.
          name: of the card.

        Raises:
          ModelError: it is another one.  Some published files are.
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
                found['' if isinstance(self._file, _Hdf5File) else scope][official].append(name)
        names: Mapping[str, list[str]] = max(found.values(), key=len, default={})
        for official, each in names.items():
            if len(each) > 1:
                raise ModelError(f'{self._shown}: {official!r} is there {len(each)} times')
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


class _SafetensorsFile:
    """By the library, which looks whether the header fits the file."""

    def __init__(self, path: Path, shown: str):
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as e:
            raise ModelError(
                f"{shown}: needs the package safetensors: pip install 'lemmabeam[hf]'"
            ) from e
        self._shown = shown
        self._errors = (SafetensorError, OSError, ValueError, TypeError, MemoryError)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.others: dict[str, str] = {}
        try:
            with path.open('rb') as file:
                header_bytes = int.from_bytes(file.read(8), 'little')
            size_bytes = path.stat().st_size
            if header_bytes > min(_HEADER_BYTES, size_bytes):
                raise ModelError(
                    f'{shown}: no .safetensors file, or one that breaks off: a header of '
                    f'{header_bytes} bytes in a file of {size_bytes}; expected {_HEADER_BYTES} '
                    'at most'
                )
            self._file = safe_open(path, framework='numpy')
            for name in self._file.keys():  # noqa: SIM118 (it is no mapping)
                header = self._file.get_slice(name)
                dtype = str(header.get_dtype())
                if dtype in _FLOATS:
                    self.shapes[name] = tuple(header.get_shape())
                else:
                    self.others[name] = dtype
        except self._errors as e:
            raise ModelError(
                f'{shown}: no .safetensors file, or one that breaks off, at '
                f'{path.stat().st_size} bytes'
            ) from e

    def __enter__(self) -> '_SafetensorsFile':
        return self

    def __exit__(self, *_: object) -> None:
        del self._file  # which is mapped into memory

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            value: np.ndarray = self._file.get_tensor(name)
        except self._errors as e:
            raise ModelError(f'{self._shown}: the tensor {name!r} is damaged') from e
        return value


class _Hdf5File:
    """The weights of a Keras model, or anything else in HDF5, without what lies in other files."""

    def __init__(self, path: Path, shown: str):
        import h5py

        self._shown = shown
        self._errors = (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.others: dict[str, str] = {}
        try:
            self._file = h5py.File(path, 'r')
        except self._errors as e:
            raise self._no_file(path) from e
        count = 0

        def visit(name: str | bytes, item: Any) -> None:
            nonlocal count
            count += 1
            if count > _MOST_OBJECTS:
                raise ModelError(f'{shown}: more than {_MOST_OBJECTS} objects')
            if os.fsencode(name).count(b'/') >= _MOST_LEVELS:
                raise ModelError(f'{shown}: more than {_MOST_LEVELS} levels of groups')
            # Of bytes are names that are no text.
            if not isinstance(item, h5py.Dataset) or isinstance(name, bytes):
                return
            if item.is_virtual or item.external:
                self.others[name] = 'external'
            elif item.dtype.kind != 'f' or item.shape is None:
                self.others[name] = str(item.dtype)
            else:
                self.shapes[name] = tuple(item.shape)

        try:
            self._file.visititems(visit)  # passes over links, which may lead out of the file
        except self._errors as e:
            self._file.close()
            raise self._no_file(path) from e
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> '_Hdf5File':
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._file[name][()])
        except self._errors as e:
            raise ModelError(f'{self._shown}: the tensor {name!r} is damaged') from e

    def _no_file(self, path: Path) -> ModelError:
        return ModelError(
            f'{self._shown}: no .h5 file, or one that breaks off, at {path.stat().st_size} bytes'
        )


_READERS: Mapping[Kind, Any] = {
    Kind.NPZ: NpzCheckpoint,
    Kind.HDF5: _Hdf5File,
    Kind.SAFETENSORS: _SafetensorsFile,
}
