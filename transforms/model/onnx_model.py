"""ONNX models: calls any that takes images, see `transforms.model.saved_model` for SavedModels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from transforms.core import uris
from transforms.core.errors import ModelError
from transforms.model.card import ModelCard
from transforms.model.onnx_file import Description, Input, describe
from transforms.model.outputs import pick
from transforms.model.runtimes.base import Fault, LoadedModel, first_words
from transforms.model.tensor_files import GRAPHS, Kind

_CHANNELS = 3
_INPUTS = ('float32', 'float16', 'float64', 'uint8')
_OUTPUTS = tuple(
    f'tensor({name})'
    for name in ('float', 'float16', 'double', 'bool', 'uint8', 'int8', 'int32', 'int64')
)


class Sessions(Protocol):
    """What opens ONNX files: `transforms.model.runtimes.on_onnxruntime.OnnxRuntime`."""

    def open(self, path: Path, axes: Mapping[str, int]) -> Any:
        """A session; of axes that have a name, it is told the lengths."""

    def fault(self, error: Exception) -> Fault | None:
        """What an error of it means."""


def load(
    folder: Path, card: ModelCard, shape: tuple[int, int, int, int], sessions: Sessions
) -> LoadedModel:
    """Loads an ONNX model and calls it once.

    Args:
      folder: that contains `model.onnx`.
      card: what it is.
      shape: of what it is called with, (N, S, S, 3).
      sessions: opens its file.

    Raises:
      ModelError: it cannot be loaded, takes something other than such images, returns something
        other than tensors of numbers, or has several outputs and the card names none.
    """
    path = folder / GRAPHS[Kind.ONNX]
    shown = uris.printable(str(folder))
    described = describe(path, shown)
    model = _Model(path, shown, card, shape, described, sessions)
    try:
        model.start(shape[0])
    except ModelError:
        raise
    except Exception as e:  # its errors share no class
        raise ModelError(f'{shown}: ONNX Runtime cannot load it: {_words_of(e)}') from e
    try:
        model(np.zeros(shape, np.float32))
    except Exception as e:  # as above
        fault = sessions.fault(e)
        raise ModelError(
            f'{shown}: the ONNX model fails on images of the shape {model.layout.of(shape)}: '
            f'{_words_of(e)}'
            + ('; a smaller --batch_size takes less memory' if fault and fault.is_memory else '')
        ) from e
    return LoadedModel(model, model, described.precision)


class _Layout:
    """The order of the axes that a model takes: NHWC or NCHW."""

    def __init__(self, axes: str):
        self._order = tuple('NHWC'.index(axis) for axis in axes)

    def of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of images whose channels come last, in this order."""
        return tuple(shape[axis] for axis in self._order)

    def arrange(self, images: np.ndarray) -> np.ndarray:
        """Images whose channels come last, in this order."""
        return np.ascontiguousarray(images.transpose(self._order))

    def hold(self, images: np.ndarray) -> np.ndarray:
        """The same images, in memory as `arrange` will have what is computed from each sample."""
        return self.arrange(images).transpose(np.argsort(self._order))


class _Model:
    """A model, with a session for calls of one size; a smaller one takes its place.

    Attributes:
      layout: of its input.
    """

    def __init__(
        self,
        path: Path,
        shown: str,
        card: ModelCard,
        shape: tuple[int, int, int, int],
        described: Description,
        sessions: Sessions,
    ):
        self._path, self._shown, self._card, self._sessions = path, shown, card, sessions
        self._shape = shape
        self._input = _only_input(described, card, shown)
        self.layout = _layout_of(self._input)
        self._axes(shape[0])
        self._session: Any = None
        self._size = 0
        self._names: tuple[str | None, str | None] = None, None

    def _axes(self, size: int) -> dict[str, int]:
        """The lengths of the axes that have a name instead of one, for so many images.

        Raises:
          ModelError: it does not take them.
        """
        wanted = self.layout.of((size, *self._shape[1:]))
        found = self._input.shape or (None,) * len(wanted)
        named: dict[str, int] = {}
        for axis, length in zip(found, wanted, strict=True):
            if isinstance(axis, str):
                fits = named.setdefault(axis, length) == length
            else:
                fits = axis in (None, length)
            if not fits:
                raise ModelError(
                    f'{self._shown}: the ONNX model takes {self._input.name!r} of the shape '
                    f'{_shown_shape(found)}, but it would be called with {wanted}'
                    + _batch_hint(found, wanted)
                )
        return named

    def start(self, size: int) -> None:
        """Opens it for calls of so many images.

        Raises:
          ModelError: see `load`.
          Exception: of ONNX Runtime.
        """
        axes = self._axes(size)
        self._session, self._size = None, 0  # its memory is needed
        self._session = self._sessions.open(self._path, axes)
        self._size = size
        outputs = {output.name: output for output in self._session.get_outputs()}
        self._names = pick(outputs, _form, self._card, f'{self._shown}: the ONNX model')
        for name in filter(None, self._names):
            if outputs[name].type not in _OUTPUTS:
                raise ModelError(
                    f'{self._shown}: the ONNX model gives {name!r} as {_form(outputs[name])}, '
                    'expected a tensor of numbers, one row per image'
                )

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """See `LoadedModel.call`.

        Raises:
          ValueError: it takes no other number of images.
          Exception: of ONNX Runtime.
        """
        if len(images) != self._size:
            try:
                self.start(len(images))
            except ModelError as e:  # what it has taken once, it takes
                raise ValueError(str(e)) from e
        given = self.layout.arrange(images).astype(self._input.dtype, copy=False)
        wanted = [name for name in self._names if name is not None]
        found = dict(zip(wanted, self._session.run(wanted, {self._input.name: given}), strict=True))
        logits, features = (
            None if name is None else np.asarray(found[name]).astype(np.float32, copy=False)
            for name in self._names
        )
        return logits, features


def _words_of(error: Exception) -> str:
    """Those of an error that shows names out of the file."""
    return uris.printable(first_words(error))


def _only_input(described: Description, card: ModelCard, shown: str) -> Input:
    inputs = described.inputs
    if len(inputs) != 1:
        names = ', '.join(sorted(repr(each.name) for each in inputs)) or 'none'
        raise ModelError(
            f'{shown}: the ONNX model takes {len(inputs)} inputs ({names}), expected one of images'
        )
    found = inputs[0]
    what = f'{shown}: the ONNX model takes {found.name!r}'
    if found.dtype not in _INPUTS:
        raise ModelError(
            f'{what} as {found.dtype or "something else than a tensor"}, expected one of '
            f'{", ".join(_INPUTS)}'
        )
    if found.shape is not None and len(found.shape) != 4:
        raise ModelError(
            f'{what} of the shape {_shown_shape(found.shape)}, expected 4 axes: images, rows and '
            'columns, and channels'
        )
    is_plain = np.all(np.asarray(card.mean) == 0) and np.all(np.asarray(card.std) == 1)
    if found.dtype == 'uint8' and not is_plain:
        raise ModelError(
            f'{what} as uint8, so nothing can be normalized before: its card must have "range": '
            '[0, 255]'
        )
    return found


def _layout_of(found: Input) -> _Layout:
    """By where there are three channels; NCHW, as most are exported, where it does not say."""
    axes = found.shape or (None,) * 4
    is_last = axes[3] == _CHANNELS and axes[1] != _CHANNELS
    return _Layout('NHWC' if is_last else 'NCHW')


def _form(output: Any) -> str:
    """Shape and type of an output, for people."""
    return f'{_shown_shape(output.shape)} {output.type}'


def _shown_shape(shape: Any) -> str:
    if shape is None:
        return '(any)'
    axes = ('?' if axis is None else uris.printable(str(axis)) for axis in shape)
    return f'({", ".join(axes)})'


def _batch_hint(found: tuple[int | str | None, ...], wanted: tuple[int, ...]) -> str:
    batch = found[0]
    if not isinstance(batch, int) or batch == wanted[0]:
        return ''
    return f'; it takes batches of {batch}: --batch_size {batch}, or export it with a dynamic batch'
