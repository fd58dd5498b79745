"""The model card: everything the pipeline must know of a model besides its weights."""

import dataclasses
import enum
import hashlib
import json


class Activation(enum.Enum):
    """What turns logits into scores."""

    SIGMOID = 'sigmoid'
    SOFTMAX = 'softmax'


@dataclasses.dataclass(frozen=True)
class Resize:
    """How an image becomes the square the network takes.

    Attributes:
      size_px: side of the square.
      short_side_px: the short side is scaled to this many pixels and the centre cropped; None
        squashes the whole image to the square, whatever its aspect.
      filter: 'bilinear' or 'bicubic', both antialiased when they shrink.
    """

    size_px: int
    short_side_px: int | None
    filter: str


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes:
      name: short name, the first part of the model id.
      resize: how its input is made.
      mean, std: the network takes (x - mean) / std of RGB samples x in [0, 255].
      activation: from logits to scores.
      classes: number of logits.
      vocabulary: name of the class list.
      threshold: a class whose score reaches it is a label.
      max_labels: at most this many labels an image.
      batch_size: images a call.
      source, licence: for people.
    """

    name: str
    resize: Resize
    mean: float
    std: float
    activation: Activation
    classes: int
    vocabulary: str
    threshold: float
    max_labels: int
    batch_size: int
    source: str
    licence: str

    def to_dict(self) -> dict[str, object]:
        """The card as plain JSON values."""
        card = dataclasses.asdict(self)
        card['activation'] = self.activation.value
        return card

    def fingerprint(self, weights_sha256: str) -> str:
        """Hex SHA-256 over the weights and what turns an image into scores.

        Defaults a run can override (threshold, number of labels, batch size) and library versions
        are left out: neither makes it another model.
        """
        identity = {
            'weights': weights_sha256,
            'resize': dataclasses.asdict(self.resize),
            'mean': self.mean,
            'std': self.std,
            'activation': self.activation.value,
            'vocabulary': self.vocabulary,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
