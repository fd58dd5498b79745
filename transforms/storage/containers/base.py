"""What a container is: a file that holds pictures, its index, and how one of them is read.

Nothing here knows a store, Beam or a decoder: a format sees a file as a source of ranges.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from transforms.core.reasons import Reason

MOST_MEMBERS = 10_000_000
"""Of one container; what lies behind them is not listed, and a `Problem` says so."""


class Source(Protocol):
    """A container as its bytes are had.

    Attributes:
      shown: its name for messages, printable.
    """

    shown: str

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""

    def range(self, offset: int, size: int) -> bytes:
        """Bytes of the file.

        Formats ask for what they need and no more, mostly forward; reading ahead is the source's.

        Args:
          offset: 0 to `size_bytes`.
          size: of the bytes wanted, 0 or more.

        Returns:
          `size` bytes, fewer only where the file ends.

        Raises:
          ImageError: as `Store.fetch`; changed_while_reading where it is another file by now.
          StoreError: as `Store.fetch`.
        """

    def expect(self, start: int, end: int) -> None:
        """Tells that what lies there will be asked for, all or most of it, so that it may be read
        in one go.  It replaces what was expected before.
        """


class StreamSource:
    """A source whose bytes come from a stream that can be sought in."""

    def __init__(self, stream: BinaryIO, size_bytes: int, shown: str):
        self._stream = stream
        self.size_bytes = size_bytes
        self.shown = shown

    def range(self, offset: int, size: int) -> bytes:
        """See `Source`."""
        self._stream.seek(offset)
        data = self._stream.read(size)
        while len(data) < size and (more := self._stream.read(size - len(data))):
            data += more
        return data

    def expect(self, start: int, end: int) -> None:
        """See `Source`: the stream reads ahead by itself."""


class Wanted(NamedTuple):
    """What is wanted of containers.

    Attributes:
      suffixes: in lower case, of the members of an archive that are pictures.
      image_column: of tables, and the feature of records, that holds the pictures; '' is found.
      carry: what is carried along as text: columns of a table, sidecars of an archive as
        WebDataset has them ('txt', 'cls', 'json.caption'), features of records.
    """

    suffixes: Collection[str]
    image_column: str = ''
    carry: tuple[str, ...] = ()


class Member(NamedTuple):
    """One picture of a container, as its index tells.

    Attributes:
      name: raw, with surrogates where it is not UTF-8; no two members without a reason have the
        same.
      where: where it lies, see `transforms.core.members`; '' where there is a reason.
      size_bytes: of the picture as it is read, -1 where only reading it tells.
      carried: text or None for each of `Wanted.carry`; () where there is a reason.
      reason: why it cannot be read, None where nothing is known to be wrong.
      detail: of the reason, as of `ImageError`.
    """

    name: str
    where: str
    size_bytes: int
    carried: tuple[str | None, ...] = ()
    reason: Reason | None = None
    detail: str = ''


class Problem(NamedTuple):
    """What is wrong with a container as a whole.

    It is no such file, or the rest of it cannot be listed; the members before it are whole.
    Comes once, and last.
    """

    reason: Reason
    detail: str


Found = Member | Problem | str
"""Of an index; a text is the key by which what is left out is counted, see `core.left_out`."""


class Reader(Protocol):
    """Reads the pictures of one container, in any order; in the order of their places it pays.

    It is for one thread at a time, and holds nothing that would have to be closed.
    """

    @property
    def held_bytes(self) -> int:
        """What it keeps of its file now, until the next read."""

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        """The bytes of one picture.

        Args:
          where: of a `Member` of this version of the container.
          max_bytes: refuse larger ones, before or while they are unpacked.
          admit: as of `Store.fetch`; what a reader keeps is not told, see `Format.held_bytes`.

        Raises:
          ImageError: empty, truncated, too_many_bytes, checksum, decode_error or
            unsupported_format, with `is_its_own`; changed_while_reading where nothing of this
            kind lies there; and what the source raises.
          StoreError: the source raises it.
        """


@runtime_checkable
class TableReader(Reader, Protocol):
    """A reader of a table, which alone knows where its groups of rows lie."""

    def together(self, where: str) -> tuple[int, int]:
        """What is read in one go with a picture, as its beginning and end in the file.

        Any thread may ask, at any time after something was read; (0, 0) is not known.
        """


@dataclass(frozen=True)
class Format:
    """A kind of container.

    Attributes:
      members: yields what its index tells, as it is read; the memory it takes does not grow with
        what a file says, only with what is there: 100 bytes a member at most.  It may read the
        index twice, never the pictures.
        Raises UsageError where a column that is wanted is not there or not clear, and what the
        source raises; whatever else is wrong with a file is a `Problem`, or the `reason` of a
        member.
      open: makes a reader; nothing is read yet.
      held_bytes: what a reader keeps between two reads, at most.
      is_streamed: whether a member can only be read by reading all that lies before it.
    """

    members: Callable[[Source, Wanted], Iterator[Found]]
    open: Callable[[Source], Reader]
    held_bytes: int = 0
    is_streamed: bool = False
