"""What the functions of `lemmabeam` return, where that is no report of a run."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Verified:
    """Whether an output is whole and consistent.

    Attributes:
      problems: what is wrong, a line each; empty where nothing is.
      notes: what is worth knowing and no fault, such as a run that is under way.

    Example:
      >>> lb.verify('labels')
      Verified(problems=(), notes=())
    """

    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two outputs differ.

    Attributes:
      differences: the first ones, a line each; or what is wrong with an output that is not whole.
      totals: rows of both and how many of them differ, in one line; '' where one is not whole.

    Example:
      >>> lb.compare('labels', 'labels').differences
      ()
    """

    differences: tuple[str, ...]
    totals: str

    @property
    def is_same(self) -> bool:
        """Whether both are whole and hold the same."""
        return not self.differences


@dataclasses.dataclass(frozen=True)
class LatestFile:
    """The newest rows, in one file.

    Attributes:
      uri: the file, absolute.
      rows: how many it has, by the id of their model.
      superseded: rows of earlier runs that were left out, likewise.
      gone: newest rows of images that the inputs do not list any more, likewise; they are among
        `rows` unless `drop_gone` has left them out.

    Example:
      >>> found = lb.latest('labels', 'latest.parquet')
      >>> sum(found.rows.values()), sum(found.superseded.values())
      (3, 0)
    """

    uri: str
    rows: Mapping[str, int]
    superseded: Mapping[str, int]
    gone: Mapping[str, int]
