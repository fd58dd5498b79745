"""What computes a network, as the predictor sees it."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from transforms.core.errors import ModelError
from transforms.model.choices import FLOAT32

if TYPE_CHECKING:
    from transforms.model.load import Network
    from transforms.model.resolve import ModelSource

Label = Callable[[Any], tuple[Any, Any, Any]]
"""Logits (N, classes) float32 to indices (N, k), scores (N, k) and counts (N,), of what
`Runtime.sparse_labels` gives.
"""

Compiled = Callable[[np.ndarray], Sequence[Any]]
"""Pixels (N, S, S, 3) uint8 RGB to indices (N, k) int32, scores (N, k) float32, counts (N,) int32,
and features (N, length) float32 where the network has some; k is 0 without classes.  It returns
when the device is done.
"""


# Where in the source of ONNX Runtime an error comes from: the file, and a function with its types.
_FROM_SOURCE = re.compile(r'/onnxruntime_src/.*?\)(?: const)? (?=[A-Z])')


class LoadedModel(NamedTuple):
    """A model that is used as it was saved.

    Attributes:
      call: (N, S, S, 3) float32 as the card has it, to logits (N, classes) float32 and features (N,
        length) float32, each None if the model has none; in arrays of the runtime.
      model: what was loaded, to be kept as long as `call`.
      precision: the type of most of its computations.
    """

    call: Callable[[Any], tuple[Any, Any]]
    model: Any
    precision: str = FLOAT32


class Fault(NamedTuple):
    """What an error of a call says of it.

    Attributes:
      name: of the kind of error, the same for all runtimes, such as 'InternalError'.
      is_memory: whether the device has too little memory for so many images.
    """

    name: str
    is_memory: bool


class Place(NamedTuple):
    """Which of the devices of a process computes.

    Attributes:
      number: of the device, from 0.
      of: how many are wanted.
    """

    number: int = 0
    of: int = 1

    def check(self, there: int, who: str, kind: str) -> None:
        """Makes sure that there are so many.

        Args:
          there: how many there are.
          who: sees them.
          kind: of what.

        Raises:
          ModelError: there are fewer.
        """
        if self.of > there:
            raise ModelError(
                f'--accelerators_per_worker {self.of}: {who} sees {there} {kind} on this '
                'machine; give as many at most'
            )


class Runtime(Protocol):
    """A runtime that has been started in this process.

    Attributes:
      backend: its name, of `transforms.model.choices.BACKENDS`.
      device: the name of its accelerator, or 'CPU'.
      always_compiles: whether XLA compiles networks whatever `jit` says.
    """

    backend: str
    device: str
    always_compiles: bool

    def placed(self) -> AbstractContextManager[Any]:
        """For the length of a with block, what is made lies on this device."""

    def compile(
        self, network: 'Network', shape: tuple[int, int, int, int], label: Label, jit: bool
    ) -> Compiled:
        """The whole way from pixels to labels for calls of one shape, (N, S, S, 3).

        Args:
          network: what `transforms.model.load.load_network` made in this process.
          shape: of the pixels.
          label: what makes labels of its logits.
          jit: whether XLA compiles it.

        Raises:
          Exception: that `fault` understands; also from what it returns.
          InferenceError: the network does not return one row per image; also from what it returns.
        """

    def fault(self, error: Exception) -> Fault | None:
        """What an error of the runtime means; None for one that is not its own."""

    def sparse_labels(self) -> Callable[..., tuple[Any, Any, Any]]:
        """`transforms.model.sparse.sparse_labels`, for the arrays of this runtime."""

    def prepare_to_read_saved_models(self) -> None:
        """Imports what `transforms.model.saved_model` needs.

        Raises:
          ModelError: it cannot be loaded.
        """

    def load_as_saved(
        self, source: 'ModelSource', path: Path, batch_size: int, why: str
    ) -> LoadedModel:
        """Loads a model to be used as it was saved, and calls it once.

        Args:
          source: the model, of one of the formats that this runtime takes.
          path: of its folder on this machine.
          batch_size: images per call.
          why: its network could not be built from its weights, for messages; '' if it is of no
            family.

        Raises:
          ModelError: it cannot be loaded, has nothing to call, does not take such images, returns
            something other than tensors of numbers, or has several outputs and the card names none.
        """


def first_words(error: Exception) -> str:
    """The beginning of an error of a runtime, which may be pages long."""
    words = _FROM_SOURCE.sub('', ' '.join(str(error).split()))
    return words if len(words) <= 400 else f'{words[:400]}…'
