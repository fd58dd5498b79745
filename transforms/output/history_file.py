"""A file of an output, as a later run reads it to know what is done."""

from typing import NamedTuple

from transforms.output import dead_letters
from transforms.storage.sealed import Checksum


class HistoryFile(NamedTuple):
    """A file that says what a run did with its images.

    Attributes:
      path: below the output folder.
      checksum: of its bytes.
      sequence: the place of its run, as in `latest.sql`; two reports may have the same.
      is_same_input: whether that run had the same inputs as the one that reads it.
      again: reasons that may no longer hold, because a limit differs, or that do not count.
      rows: of the file.
      has_members: whether images inside files may be among its rows.
    """

    path: str
    checksum: Checksum
    sequence: int
    is_same_input: bool
    again: tuple[str, ...]
    rows: int = 0
    has_members: bool = False

    @property
    def is_hint(self) -> bool:
        """Whether it only lists what is tried again, so that nothing is lost without it."""
        return self.path.startswith(f'{dead_letters.KIND}/')
