"""Rows that travel between steps, and the closed list of stages.

Nothing here imports Beam, so that the pure modules need not either; `transforms.coders`
registers a deterministic coder for every row that crosses a shuffle.
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from transforms.core.reasons import Reason

MANIFESTS = ('manifest', 'manifests')
"""Kinds of inputs that are read as such: one, or what a glob matches."""


class Note(enum.Enum):
    """What a run finds of rows of earlier ones: kept beside its dead letters, and counted as none.

    From a `GONE` to the next `LISTED`, or to a newer row, inputs that listed a row do so no more.
    """

    GONE = 'gone'
    LISTED = 'listed'


class Stage(enum.Enum):
    """Where an image failed."""

    LIST = 'list'
    FETCH = 'fetch'
    DECODE = 'decode'
    INFER = 'infer'


def _repr_without_access(row: 'Ref | Item') -> str:
    """Engines put elements into their messages."""
    fields = [f'{name}={value!r}' for name, value in row._asdict().items() if name != 'access']
    return f'{type(row).__name__}({", ".join(fields)})'


class Ref(NamedTuple):
    """One listed line or object.

    `carried` is a JSON array of text or null, one entry a carried column: a plain string keeps
    the coder small and the row comparable.  What is not UTF-8 stands there as escaped surrogates.
    In the place of a long one stands, between the listing and the files, what
    `transforms.core.long_texts` has for it.
    A ref that can already be seen to be bad names its `reason`; otherwise that is ''.

    `access` is the URL to fetch where it is not `uri` because it carries secrets: userinfo or
    signing parameters.  It is written nowhere, and nothing is named by it.
    """

    uri: str
    version: str
    size_bytes: int
    carried: str
    reason: str
    detail: str
    access: str = ''

    def __repr__(self) -> str:
        return _repr_without_access(self)


class Item(NamedTuple):
    """One image to label: a distinct URI with every distinct set of carried values.

    `access` as in `Ref`.  `known` is the version that an earlier run has dealt with, where the
    listing does not tell whether it is still the one: the image is read only if it is another.
    `failed` is the reason for which it had no labels the last time, if that may pass.
    """

    uri: str
    version: str
    size_bytes: int
    carried: Sequence[str]
    access: str = ''
    known: str = ''
    failed: str = ''

    def __repr__(self) -> str:
        return _repr_without_access(self)


class Known(NamedTuple):
    """What an earlier run made of an image.

    Attributes:
      sequence: the place of that run among the runs of the output.
      version: of the object that was read.
      carried: as in `Ref`.
      reason: '' if it was labelled; otherwise why it will never be, as long as it is this version,
        or why it was not the last time; or a `Note`.
      is_same_input: whether that run had the same inputs as this one.
    """

    sequence: int
    version: str
    carried: str
    reason: str
    is_same_input: bool


class Chunk(NamedTuple):
    """The unit of work and of progress: a slice of the listing with an id from its content.

    `done` is how many of its images, the first ones, an earlier attempt has finished.
    """

    id: str
    items: Sequence[Item]
    done: int = 0


class DeadLetter(NamedTuple):
    """One row of the dead-letter files; `carried` as in `Ref`, `size_bytes` -1 when unknown.

    `version` is that of the object, '' where it is not known; it stands in a file of its own.  So
    does a `Note`, which has the shape of a dead letter, and nothing but URI, reason and `carried`.
    """

    uri: str
    stage: str
    reason: str
    detail: str
    size_bytes: int
    carried: str
    version: str = ''


class WrittenFile(NamedTuple):
    """One published file: its path below the output folder, `/`-separated.

    `write_sec` is what it took to put it together and to write it.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    write_sec: float


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """What is known of an image once it is decoded; its pixels lie in the batch.

    `width` and `height` are in pixels as stored, before the EXIF orientation.
    """

    object_version: str
    content_sha256: str
    width: int
    height: int
    format: str
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An image that stops here: its slot in the batch stays empty.

    `is_its_own` says that the store itself told that it is so with this one, whatever the others.
    """

    stage: Stage
    reason: Reason
    detail: str
    size_bytes: int | None
    object_version: str = ''
    is_its_own: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Unchanged:
    """An image that an earlier run has dealt with, as reading it has shown: nothing to do."""

    object_version: str
    size_bytes: None = None


Outcome = Image | Failure | Unchanged


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A whole batch of one chunk, ready for the model.

    Attributes:
      chunk: the chunk it belongs to.
      start: index in the chunk of the image in slot 0.
      outcomes: one a slot; fewer than the batch size in the last batch of a chunk.
      pixels: (batch_size, S, S, 3) uint8 RGB in [0, 255]; slots without an image are zero.
      timings: seconds of thread time spent, by activity.
    """

    chunk: Chunk
    start: int
    outcomes: Sequence[Outcome]
    pixels: np.ndarray
    timings: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class LabeledBatch:
    """A batch after inference.

    Attributes:
      chunk, start, outcomes: as in `Batch`, with the failures of the model added.
      indices: (batch_size, k) int32 class indices by falling score, ties by index.
      scores: (batch_size, k) float32.
      counts: (batch_size,) int32, how many of the k are labels.
      features: (batch_size, length) float16, or None.
      timings: as in `Batch`, with the inference added.
      computed: how the model computed, as JSON.
    """

    chunk: Chunk
    start: int
    outcomes: Sequence[Outcome]
    indices: np.ndarray
    scores: np.ndarray
    counts: np.ndarray
    features: np.ndarray | None
    timings: dict[str, float]
    computed: str

    @property
    def items(self) -> Sequence[Item]:
        """What the slots hold, or would hold, one for each outcome."""
        return self.chunk.items[self.start : self.start + len(self.outcomes)]


class LateBatch:
    """A batch after it was handed to the device: its labels are still to come.

    It stays in its process.  Where a runner takes it out nonetheless, it is waited for.
    """

    def __init__(self, future: Future[Any], finish: Callable[[Any], LabeledBatch]):
        self._future = future
        self._finish = finish

    @property
    def is_done(self) -> bool:
        """Whether `result` would not wait."""
        return self._future.done()

    def result(self) -> LabeledBatch:
        """Waits for the device; to be called once.

        Raises:
          ModelError: the model fails, and no image is to blame, or it fails on nearly all of them.
        """
        return self._finish(self._future.result())

    def cancel(self) -> None:
        """Nobody wants it any more; what has begun is done to its end."""
        self._future.cancel()

    def __reduce__(self) -> tuple[Callable[..., 'LateBatch'], tuple[LabeledBatch]]:
        return _on_time, (self.result(),)


def _on_time(labeled: LabeledBatch) -> LateBatch:
    future: Future[LabeledBatch] = Future()
    future.set_result(labeled)
    return LateBatch(future, lambda result: result)
