"""`lemmabeam retry`: from arguments to an exit code."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline import flags
from pipeline.commands.label import describe, split_arguments
from pipeline.flags import add_options, declared, option
from pipeline.messages import StandardStreams
from pipeline.options import LabelOptions, add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.reasons import Reason
from transforms.core.stores import StoreOptions

if TYPE_CHECKING:
    from transforms.runs.complete import CompleteRun


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


_NOT_IN_RETRY = ('input', 'sample', 'since', 'force')


def main(parser: Parser, argv: Sequence[str]) -> int:
    """Labels what the last run could not, with the options of that run."""
    finder = Parser(prog=parser.prog, add_help=False)
    finder.config = parser.config
    finder.add_argument('--output')
    add_store_arguments(finder)
    found, _ = finder.parse_known_args(argv)
    options = declared(RetryOptions)
    describe(parser, '--output DIR', options)
    add_options(parser, options, hidden=_NOT_IN_RETRY)
    parser.set_defaults(input=[])
    run = None
    if found.output is not None:
        run = _last_run(uris.absolute(found.output).rstrip('/'), store_options(found))
        parser.set_defaults(**_taken_over(run))
    args, beam_options = split_arguments(parser, argv)
    for name in _NOT_IN_RETRY:
        if getattr(args, name):
            raise UsageError(f'--{name}: a retry takes what failed in the last run, all of it')
    assert run is not None  # --output is missing otherwise
    wanted = dataclasses.replace(RetryOptions.of(args), retry_dead=True)
    reasons = _reasons(wanted.reasons)
    counts = run.report.counts.dead_lettered_by_reason
    if not sum(counts.get(reason, 0) for reason in reasons):
        failed = ', '.join(f'{name} {n}' for name, n in counts.items()) or 'none'
        print(f'nothing to retry in run {run.id}; its dead letters: {failed}')
        return 0
    from pipeline.job import labelling

    told = StandardStreams()
    return labelling.run(wanted, beam_options, parser.made_at, told, run, reasons)


def _last_run(output: str, stores: StoreOptions) -> 'CompleteRun':
    # Not for `--help`: what reads tables takes its time.
    from transforms.runs.complete import complete_runs
    from transforms.storage.registry import store_for

    runs = complete_runs(output, store_for(output, stores))
    found = [run for run in runs if not run.report.is_relabelling]
    if not found:
        raise UsageError(f'--output {output}: there is no complete run to retry')
    return found[-1]


def _taken_over(run: 'CompleteRun') -> dict[str, Any]:
    known = {each.name for each in declared(RetryOptions) if not each.per_run}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run.report.options.items()
        if name in known
    }


def _reasons(text: str | None) -> list[str]:
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
