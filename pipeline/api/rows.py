"""Rows that leave our steps for pipelines of others: with schemas, so that Beam can name fields."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import coders

from transforms.core import elements
from transforms.core.reasons import Reason
from transforms.output import results
from transforms.output.predictions import Classes, labels_of, prediction_schema
from transforms.output.run_metadata import FEATURES

if TYPE_CHECKING:
    # As Python has them; a schema knows how many bits they have.
    Int32: TypeAlias = int
    Float32: TypeAlias = float
else:
    Int32, Float32 = np.int32, np.float32

Carried = Mapping[str, str | None]


class Label(NamedTuple):
    """One class that a model sees in an image.

    Attributes:
      index: place of the class among the outputs of the model, from 0.
      wnid: WordNet 3.0 id of the class such as 'n02123045'; None for classes outside WordNet.
      name: first lemma of the synset, or the line of the model's label file.
      score: float32; from 0 to 1, where the model card names an activation.

    Example:
      >>> import lemmabeam as lb
      >>> lb.Label(281, 'n02123045', 'tabby', 0.75).name
      'tabby'
    """

    index: Int32  # type: ignore[assignment]  # no method of tuples here
    wnid: str | None
    name: str
    score: Float32


class LabeledImage(NamedTuple):
    """One image and its labels; the fields are those of the files that `label` writes.

    Attributes:
      uri: absolute; userinfo and signing parameters of URLs are dropped.
      labels: by falling score, ties by index; an image may have none.
      object_version: generation, ETag, or size and time of the object that was read.
      content_sha256: 64 hex digits over the encoded bytes.
      width, height: pixels as stored, before the EXIF orientation is applied.
      format: such as 'JPEG'.
      features: the pooled feature vector, where it was asked for.
      carried: what came along with the URI, as text by name.

    Example:
      >>> import lemmabeam as lb
      >>> image = lb.LabeledImage('/photos/1.jpg', [lb.Label(281, 'n02123045', 'tabby', 0.75)])
      >>> [label.name for label in image.labels]
      ['tabby']
    """

    uri: str
    labels: Sequence[Label] = ()
    object_version: str | None = None
    content_sha256: str | None = None
    width: Int32 | None = None
    height: Int32 | None = None
    format: str | None = None
    features: Sequence[Float32] | None = None
    carried: Mapping[str, str | None] = {}


class DeadLetter(NamedTuple):
    """One image that could not be labelled, and why.

    Attributes:
      uri: as in `LabeledImage`; of what is no URI, a form that can be printed.
      stage: 'list', 'fetch', 'decode' or 'infer'.
      reason: of the list in transforms/README.md, such as 'not_found' or 'truncated'.
      detail: one line with value and limit; holds no secret.
      retryable: whether the same image may succeed when nothing but time has passed.
      size_bytes: of the encoded image; None where it is not known.
      carried: as in `LabeledImage`.

    Example:
      >>> import lemmabeam as lb
      >>> lb.DeadLetter('/photos/2.jpg', 'fetch', 'not_found', 'no such file').retryable
      False
    """

    uri: str
    stage: str
    reason: str
    detail: str
    retryable: bool = False
    size_bytes: int | None = None
    carried: Mapping[str, str | None] = {}


for _row in (Label, LabeledImage, DeadLetter):
    coders.registry.register_coder(_row, coders.RowCoder)


class Labeled(NamedTuple):
    """What `LabelImages` gives.

    Attributes:
      labels: PCollection[LabeledImage].
      dead_letters: PCollection[DeadLetter].
    """

    labels: beam.PCollection[LabeledImage]
    dead_letters: beam.PCollection[DeadLetter]


class Read(NamedTuple):
    """What `ReadImages` gives.

    Attributes:
      images: PCollection of (URI, pixels), or of ((URI, carried), pixels).
      dead_letters: PCollection[DeadLetter].
    """

    images: beam.PCollection[tuple[object, np.ndarray]]
    dead_letters: beam.PCollection[DeadLetter]


def carried_text(carried: Carried) -> str:
    """Carried values as they travel through our steps: the same text for the same values."""
    return json.dumps(dict(carried), sort_keys=True, ensure_ascii=False)


def carried_values(text: str) -> dict[str, str | None]:
    """What `carried_text` wrote."""
    values: dict[str, str | None] = json.loads(text)
    return values


def dead_letter(letter: elements.DeadLetter) -> DeadLetter:
    """A dead letter of our steps, for others."""
    return DeadLetter(
        letter.uri,
        letter.stage,
        letter.reason,
        letter.detail,
        Reason(letter.reason).retryable,
        None if letter.size_bytes < 0 else letter.size_bytes,
        carried_values(letter.carried),
    )


def labeled_images(table: pa.Table, classes: Classes) -> Iterator[LabeledImage]:
    """The labelled images of a finished chunk, one row for each set of carried values.

    Args:
      table: of `transforms.output.results.outcome_table`.
      classes: names of the labels.
    """
    found = results.labeled(table)
    labels = labels_of(found, classes, prediction_schema((), {})).to_pylist()
    rows = found.drop_columns(['indices', 'scores']).to_pylist()
    for row, its_labels in zip(rows, labels, strict=True):
        features = row.get(FEATURES)
        image = LabeledImage(
            row['uri'],
            [Label(**label) for label in its_labels],
            row['object_version'],
            row['content_sha256'],
            row['width'],
            row['height'],
            row['format'],
            None if features is None else [float(value) for value in features],
        )
        for text in row['carried']:
            yield image._replace(carried=carried_values(text))
