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
CONTAINERS = ('container', 'containers')
"""Kinds of inputs whose images lie inside files: one, or what a glob matches."""


class Note(enum.Enum):
    """What a run notes of rows of earlier runs: kept beside its dead letters, and counted as none.

    From a `GONE` to the next `LISTED`, or to a newer row, the inputs no longer list a row.  `SAME`
    has another version of the object: its bytes are those that were labelled.
    """

    GONE = 'gone'
    LISTED = 'listed'
    SAME = 'same'


class Stage(enum.Enum):
    """Where an image failed."""

    LIST = 'list'
    FETCH = 'fetch'
    DECODE = 'decode'
    INFER = 'infer'


def _repr_without_access(row: 'Ref | Item') -> str:
    """Runners put elements into their messages."""
    fields = [f'{name}={value!r}' for name, value in row._asdict().items() if name != 'access']
    return f'{type(row).__name__}({", ".join(fields)})'


class Ref(NamedTuple):
    """One listed line or object.

    `carried` is a JSON array of text or null, one entry a carried column: a plain string keeps the
    coder small and the row comparable.  What is not UTF-8 is kept as escaped surrogates.  Between
    the listing and the files, a long one is replaced by what `transforms.core.long_texts` has for
    it.  A ref that is known to be bad has its `reason`; otherwise that is ''.

    `access` is the URL to fetch if it differs from `uri` because it carries secrets: userinfo or
    signing parameters.  It is never written anywhere, and nothing is named after it.

    `checksum` as in `transforms.storage.base.Entry`.
    """

    uri: str
    version: str
    size_bytes: int
    carried: str
    reason: str
    detail: str
    access: str = ''
    checksum: str = ''

    def __repr__(self) -> str:
        return _repr_without_access(self)


class Twin(NamedTuple):
    """An image of the same bytes as another one, which is labelled as that is; as in `Item`."""

    uri: str
    version: str
    carried: Sequence[str]


class Item(NamedTuple):
    """One image to label: a distinct URI with every distinct set of carried values.

    `access` as in `Ref`.  `known` is the version that an earlier run has dealt with, if the listing
    does not say whether it is still current: the image is read only if its version differs.
    `failed` is why it had no labels last time, if that may pass.  `digest` is the SHA-256, in hex,
    of the bytes that an earlier run has labelled, which another version may still have.

    `checksum` is there until `same` is known: the images of the same bytes, which are not read.
    """

    uri: str
    version: str
    size_bytes: int
    carried: Sequence[str]
    access: str = ''
    known: str = ''
    failed: str = ''
    checksum: str = ''
    same: Sequence[Twin] = ()
    digest: str = ''

    def __repr__(self) -> str:
        return _repr_without_access(self)


def images_of(item: Item) -> int:
    """How many images an item stands for.

    No method of it: what has crossed a shuffle has the fields of its class, and nothing else.
    """
    return 1 + len(item.same)


class Known(NamedTuple):
    """What an earlier run made of an image.

    Attributes:
      sequence: the place of that run among the runs of the output.
      version: of the object that was read.
      carried: as in `Ref`.
      reason: '' if it was labelled; otherwise why it will never be, as long as it is this version,
        or why it was not last time; or a `Note`.
      is_same_input: whether that run had the same inputs as this one.
      digest: of what was labelled, as in `Item`; '' if it is not known.
    """

    sequence: int
    version: str
    carried: str
    reason: str
    is_same_input: bool
    digest: str = ''


class Chunk(NamedTuple):
    """The unit of work and of progress: a slice of the listing with an id from its content.

    `done` is how many of its images, the first ones, an earlier attempt has finished.
    """

    id: str
    items: Sequence[Item]
    done: int = 0


class DeadLetter(NamedTuple):
    """One row of the dead-letter files; `carried` as in `Ref`, `size_bytes` -1 when unknown.

    `version` is that of the object, '' if it is not known; it goes to a file of its own.  So does a
    `Note`, which has the shape of a dead letter with only URI, reason and `carried`.
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

    `write_sec` is how long it took to assemble and write it.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    write_sec: float


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """What is known of an image once it is decoded; its pixels are in the batch.

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

    `is_its_own`: the store itself said so of this object, whatever happens to others.
    """

    stage: Stage
    reason: Reason
    detail: str
    size_bytes: int | None
    object_version: str = ''
    is_its_own: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Unchanged:
    """An image that an earlier run has dealt with, as reading it showed: nothing to do.

    `content_sha256` is there if its bytes showed that, and not its version.
    """

    object_version: str
    content_sha256: str | None = None
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
      stats: further statistics, by name.
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
    stats: tuple[tuple[str, float], ...] = ()

    @property
    def items(self) -> Sequence[Item]:
        """What the slots hold, or would hold, one per outcome."""
        return self.chunk.items[self.start : self.start + len(self.outcomes)]


class LateBatch:
    """A batch that was handed to the device: its labels are still to come.

    It stays in its process.  If a runner pickles it anyway, it is waited for first.
    """

    def __init__(self, future: Future[Any], finish: Callable[[Any], LabeledBatch]):
        self._future = future
        self._finish = finish

    @property
    def is_done(self) -> bool:
        """Whether `result` would not wait."""
        return self._future.done()

    def result(self) -> LabeledBatch:
        """Waits for the device; call it once.

        Raises:
          ModelError: the model fails, and no image is to blame, or it fails on nearly all of them.
        """
        return self._finish(self._future.result())

    def cancel(self) -> None:
        """It is no longer wanted; what has started is still finished."""
        self._future.cancel()

    def __reduce__(self) -> tuple[Callable[..., 'LateBatch'], tuple[LabeledBatch]]:
        return _on_time, (self.result(),)


def _on_time(labeled: LabeledBatch) -> LateBatch:
    future: Future[LabeledBatch] = Future()
    future.set_result(labeled)
    return LateBatch(future, lambda result: result)
