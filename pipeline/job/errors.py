"""What stops a job, or becomes of it, beside what `transforms.core.errors` has."""

from typing import TYPE_CHECKING

from transforms.core.errors import LemmabeamError

if TYPE_CHECKING:
    from transforms.runs.report import RunReport


class RunnerError(LemmabeamError):
    """The runner refuses a job, loses it, or does not answer; `__cause__` is what it raised."""


class UnexpectedError(RunnerError):
    """Something that nobody here expects ended a run; `__cause__` is what was raised."""


class TooManyFailed(LemmabeamError):  # noqa: N818 (the run itself is no error)
    """A run is complete and its results are kept, but more images failed than were to.

    Args:
      message: what people are told.
      report: of the run.
      max_failure_rate: the largest share of the listed images that may fail, from 0 to 1.
    """

    def __init__(self, message: str, report: 'RunReport', max_failure_rate: float):
        super().__init__(message, report, max_failure_rate)
        self.report = report
        self.max_failure_rate = max_failure_rate

    def __str__(self) -> str:
        return str(self.args[0])
