"""A retry: which run it is of, what it takes over from it, and which failures it tries again."""

import dataclasses
from typing import TYPE_CHECKING, Any

from pipeline import flags
from pipeline.flags import declared, option
from pipeline.options import LabelOptions
from transforms.core.errors import UsageError
from transforms.core.reasons import Reason
from transforms.core.stores import StoreOptions

if TYPE_CHECKING:
    from transforms.runs.complete import CompleteRun

NOT_IN_RETRY = ('input', 'sample', 'since', 'force')
"""Options of a labelling that a retry has not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryOptions(LabelOptions):
    """The options of `lemmabeam retry`."""

    reasons: str | None = option(
        '',
        flags.TEXT,
        metavar='A,B',
        help='reasons of the dead letters to try again; permanent ones only by name (default: '
        f'{", ".join(reason.value for reason in Reason if reason.retryable)})',
        per_run=True,
        is_common=True,
    )


def last_run(output: str, stores: StoreOptions) -> 'CompleteRun':
    """The run to retry: the latest that has labelled.

    Args:
      output: absolute URI of the folder.
      stores: how it is reached.

    Raises:
      UsageError: there is none.
      StoreError: a report is damaged, or the store does not answer.
    """
    # Not for `--help`: what reads tables takes its time.
    from transforms.output.layout import Output
    from transforms.runs.complete import complete_runs

    runs = complete_runs(output, Output(output, stores=stores).store)
    found = [run for run in runs if not run.report.is_relabelling]
    if not found:
        raise UsageError(f'--output {output}: there is no complete run to retry')
    return found[-1]


def taken_over(run: 'CompleteRun') -> dict[str, Any]:
    """The options of a run that hold for its retry unless other ones are given."""
    known = {each.name for each in declared(RetryOptions) if not each.per_run}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run.report.options.items()
        if name in known
    }


def check_given(options: RetryOptions) -> None:
    """Refuses what is for a labelling only.

    Raises:
      UsageError: that is given.
    """
    for name in NOT_IN_RETRY:
        if getattr(options, name):
            raise UsageError(f'--{name}: a retry takes what failed in the last run, all of it')


def reasons_of(text: str | None) -> list[str]:
    """The reasons that are tried again, of the value of --reasons.

    Raises:
      UsageError: one is none, or may not be tried again.
    """
    if text is None:
        return [reason.value for reason in Reason if reason.retryable]
    for name in text.split(','):
        if name not in {reason.value for reason in Reason}:
            known = ', '.join(reason.value for reason in Reason)
            raise UsageError(f'--reasons {name!r}: no such reason; there are {known}')
        if Reason(name).about.of_listing:
            raise UsageError(
                f'--reasons {name}: such a line or name must be corrected, and labelled then'
            )
    return text.split(',')


def count_failed(run: 'CompleteRun', reasons: list[str]) -> int:
    """How many dead letters of a run have one of these reasons."""
    counts = run.report.counts.dead_lettered_by_reason
    return sum(counts.get(reason, 0) for reason in reasons)
