"""Files of tensors, whoever wrote them: .npz, .h5 or .safetensors.

Knows no network, and does not import TensorFlow.
"""

import contextlib
import enum
import lzma
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.zips import open_zip

_SHOWN = 8  # of what a message lists

# What zip files and the headers of arrays raise, which numpy reads as Python literals.
_DAMAGES = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)

Shapes = Mapping[str, tuple[int, ...]]


def listed(texts: list[str]) -> str:
    """The first few of them, for a message."""
    more = f' and {len(texts) - _SHOWN} more' if len(texts) > _SHOWN else ''
    return ('; '.join(texts[:_SHOWN]) or 'nothing') + more


class NpzCheckpoint(Mapping[str, np.ndarray]):
    """The tensors of a .npz file, each read when it is asked for; nothing is ever unpickled.

    Use it as a context manager.  Messages call it `shown`, by default its path.

    Attributes:
      shapes: shape of each tensor of floats, from the headers.
      others: what the other tensors hold, such as the 'int64' of a global step.

    Raises:
      ModelError: the file does not exist, is not an .npz, is truncated, or holds Python objects.
    """

    def __init__(self, path: str | Path, shown: str = ''):
        path = Path(path)
        self._path = shown or str(path)
        self.others: dict[str, str] = {}
        with contextlib.ExitStack() as opening:
            try:
                if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
                    raise ModelError(f'{self._path}: not a file')
                file = opening.enter_context(path.open('rb'))
                self._file = opening.enter_context(open_zip(file))
            except OSError as e:
                raise ModelError(f'{self._path}: cannot be read: {e.strerror}') from e
            except _DAMAGES as e:
                raise ModelError(
                    f'{self._path}: not an .npz file, or a truncated one, at '
                    f'{path.stat().st_size} bytes'
                ) from e
            shapes = {name: self._shape(name) for name in self._names()}
            self._stack = opening.pop_all()
        self.shapes = {name: shape for name, shape in shapes.items() if name not in self.others}

    def __enter__(self) -> 'NpzCheckpoint':
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
        if name not in self.shapes:
            raise KeyError(name)
        try:
            with self._file.open(f'{name}.npy') as member:
                value: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        except _DAMAGES as e:
            raise ModelError(f'{self._path}: the tensor {name!r} is damaged') from e
        return value

    def _names(self) -> list[str]:
        names = self._file.namelist()
        others = [name for name in names if not name.endswith('.npy')]
        if others or not names:
            raise ModelError(f'{self._path}: not an .npz file; it holds {listed(others)}')
        return [name.removesuffix('.npy') for name in names]

    def _shape(self, name: str) -> tuple[int, ...]:
        try:
            with self._file.open(f'{name}.npy') as member:
                version = np.lib.format.read_magic(member)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(member)
        except _DAMAGES as e:
            raise ModelError(f'{self._path}: the tensor {name!r} is damaged') from e
        if dtype.hasobject:
            raise ModelError(f'{self._path}: {name!r} holds Python objects, which are never loaded')
        if dtype.kind != 'f':
            self.others[name] = str(dtype)
        return tuple(shape)


class Variable(NamedTuple):
    """A variable of a SavedModel, or a tensor of a file.

    Attributes:
      key: by which it is read.
      name: what it is called; may be the key.
      shape: of its value.
    """

    key: str
    name: str
    shape: tuple[int, ...]


class Kind(enum.Enum):
    """The format of a model's weights; the value is for people."""

    SAVED_MODEL = 'SavedModel'
    ONNX = 'ONNX model'
    NPZ = '.npz'
    HDF5 = '.h5'
    SAFETENSORS = '.safetensors'


GRAPHS = {Kind.SAVED_MODEL: 'saved_model.pb', Kind.ONNX: 'model.onnx'}
"""The formats that are a folder with a graph, by the file of it; where both are, the first."""

SUFFIXES = tuple(kind.value for kind in Kind if kind not in GRAPHS)
"""Suffixes of files of weights; the content of a file counts more, see `kind_of`."""

_HDF5_START = b'\x89HDF\r\n\x1a\n'
_HEADER_BYTES = 8 * 2**20  # of safetensors; that of a network with 500 tensors has 50 KB
# Of HDF5.  Keras nests a handful; the library takes minutes for a path of thousands.
_MOST_OBJECTS, _MOST_LEVELS = 100_000, 100
_FLOATS = ('F16', 'F32', 'F64')


def graph_in(folder: Path) -> Kind | None:
    """The format of the model whose graph is at the top of a folder; None without one.

    Raises:
      OSError: the folder cannot be read.
    """
    return next((kind for kind, name in GRAPHS.items() if (folder / name).is_file()), None)


def kind_of(path: Path) -> Kind:
    """The format of a model on this machine, by its first bytes rather than its name.

    Raises:
      ModelError: it cannot be read.
    """
    try:
        if path.is_dir():
            return graph_in(path) or Kind.SAVED_MODEL  # which has words for it
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


class TensorFile(Protocol):
    """Tensors as a file has them, each read when it is asked for.  Use it as a context manager.

    Attributes:
      shapes: shape of each tensor of floats.
      others: what the others hold, such as the 'int64' of a global step.
    """

    shapes: dict[str, tuple[int, ...]]
    others: dict[str, str]

    def __enter__(self) -> 'TensorFile': ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of a tensor.

        Raises:
          ModelError: they are damaged.
        """


class _SafetensorsFile:
    """Read by the library, which checks whether the header fits the file."""

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
                    f'{shown}: not a .safetensors file, or a truncated one: a header of '
                    f'{header_bytes} bytes in a file of {size_bytes}; expected at most '
                    f'{_HEADER_BYTES}'
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
                f'{shown}: not a .safetensors file, or a truncated one, at '
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


class Hdf5File:
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

    def __enter__(self) -> 'Hdf5File':
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
            f'{self._shown}: not an .h5 file, or a truncated one, at {path.stat().st_size} bytes'
        )


_READERS: Mapping[Kind, Callable[[Path, str], TensorFile]] = {
    Kind.NPZ: NpzCheckpoint,
    Kind.HDF5: Hdf5File,
    Kind.SAFETENSORS: _SafetensorsFile,
}


def open_tensors(path: Path, shown: str) -> TensorFile:
    """Opens a file of tensors; its content says of which kind it is.

    Args:
      path: the file.
      shown: what messages call it.

    Raises:
      ModelError: it does not exist, is of another kind, or is truncated.
    """
    reader = _READERS.get(kind_of(path), NpzCheckpoint)  # which has words for a folder
    return reader(path, shown)
