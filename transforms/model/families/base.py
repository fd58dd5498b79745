"""What a family of models is: networks that are built from their weights, and models by name.

`transforms.model.registry.FAMILIES` lists them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from transforms.core import uris
from transforms.model.card import ModelCard

if TYPE_CHECKING:
    import keras

    from transforms.model.resolve import ModelSource

LOGITS, FEATURES = 'logits', 'features'
"""Outputs of networks, (N, classes) and (N, length) float32; the layer that gives the pooled
features has that name in every network here, and SavedModels are looked through for both.
"""

MULTI_LABEL_THRESHOLD, MULTI_LABEL_MAX = 0.1, 20
"""A guess, as nobody has published thresholds for the heads of ImageNet-21k.

They were trained on 1.1 labels per image, so 0.3 would leave most pictures without any.
"""


# Of what Kaggle's API is asked for, or of an archive.
HANDLE_END = r'(?:/download)?(?:\.tar\.gz|\.tgz|\.tar|\.zip)?$'
"""Pattern of the end of a handle or URL."""

_QUERY = re.compile('[?#]')


def path_of(location: str) -> str:
    """A location without its query and trailing slash."""
    is_url = bool(uris.scheme_of(location))
    return (_QUERY.split(location, maxsplit=1)[0] if is_url else location).rstrip('/')


def gpu_batch_size(size_px: int) -> int:
    """Images per call on a GPU, by the side of the square that a network takes."""
    return 128 if size_px <= 300 else 32


class KnownModel(NamedTuple):
    """A model that is known by name.

    Attributes:
      card: what it is.
      location: where it is published; its name if it is inside the package.
      parameters: number of trained values.
      multiply_adds: operations for one image of the size that the card says.
      module: the same module on another site, '' if there is none.
      checkpoints: files with the same weights, the best first.
      takes_any_size: whether it also works on squares of other sizes than its card says.
      file: its weights inside the package; None for models that are fetched.
    """

    card: ModelCard
    location: str
    parameters: int
    multiply_adds: int
    module: str = ''
    checkpoints: tuple[str, ...] = ()
    takes_any_size: bool = True
    file: Path | None = None

    @property
    def locations(self) -> tuple[str, ...]:
        """All places where it is available, in the order in which they are tried."""
        return tuple(filter(None, (self.location, self.module, *self.checkpoints)))


class Recognized(Protocol):
    """A file of weights whose network a family has recognized."""

    @property
    def classes(self) -> int | None:
        """The number of classes of its head; None without one."""

    def describe(self, source: str) -> ModelCard:
        """The card of weights that nobody has described, by the classes of their head.

        Args:
          source: for people.
        """

    def check(self, card: ModelCard, classes: int | None) -> ModelCard:
        """Checks the network against its card.

        Args:
          card: that comes with the weights, or belongs to a published model.
          classes: of the card; a network without classes may come with a head.

        Returns:
          The card, with its architecture.

        Raises:
          ModelError: it is another network.
        """


class Built(NamedTuple):
    """A network with its weights.

    Attributes:
      network: (N, S, S, 3) float32 to logits (N, classes) float32, or to its features if it has no
        classes; its layer `FEATURES` gives those in any case.
      mean, std: of samples in [0, 255], for what the network takes.
    """

    network: 'keras.Model'
    mean: Any
    std: Any


class NotRebuiltError(Exception):
    """A SavedModel must be used as it is; the message says why, '' if it is of another family."""


class Family(Protocol):
    """The interface of a family's module or package; only `build` may import Keras or TensorFlow.

    Attributes:
      PUBLISHED: how the locations of its models start; '' if they are inside the package.
      NAMES: the form of its models' names, for messages; '' if there is none.
    """

    PUBLISHED: str
    NAMES: str

    def cards(self) -> Mapping[str, KnownModel]:
        """Its models that are known by name."""

    def find_by_location(self, path: str) -> KnownModel | None:
        """The published model that a handle, URL, folder or file is a copy of, by its name.

        Args:
          path: without query and trailing slash.
        """

    def features(self, architecture: str) -> int:
        """Length of the features of the network that a card names.

        Raises:
          ModelError: it has none of this name; the message says which it has, '' if none has a
            name.
        """

    def recognize(self, path: Path, shown: str) -> Recognized | None:
        """Which network a file of weights is of, without reading its values; None if not this
        family.

        Args:
          path: of the file.
          shown: what messages call it.

        Raises:
          ModelError: the file is damaged, or the network is incomplete.
        """

    def build(self, source: 'ModelSource', path: Path, precision: str, batch_size: int) -> Built:
        """The network of a model, with its weights.

        Args:
          source: the model.
          path: its file of weights, which `recognize` has recognized, or the folder of a
            SavedModel.
          precision: type in which the convolutions are stored and computed, 'float32', 'bfloat16'
            or 'float16'.
          batch_size: images per call, for a SavedModel that takes nothing else.

        Raises:
          NotRebuiltError: the SavedModel is of another family, or its network cannot be built.
          ModelError: the weights are damaged, or not what the card says.
        """
