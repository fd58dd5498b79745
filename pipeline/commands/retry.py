"""`lemmabeam retry`: from arguments to an exit code."""

import dataclasses
from collections.abc import Sequence

from pipeline.commands.label import describe, split_arguments
from pipeline.flags import add_options, declared
from pipeline.job import retry
from pipeline.job.retry import RetryOptions
from pipeline.messages import Messages
from pipeline.options import add_store_arguments, store_options
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.garbage import GARBAGE


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Labels what the last run could not, with the options of that run."""
    finder = Parser(prog=parser.prog, add_help=False)
    finder.add_argument('--output')
    add_store_arguments(finder)
    if parser.config is not None:
        finder.config = parser.config.only(action.dest for action in finder._actions)
    found, _ = finder.parse_known_args(argv)
    describe(parser, '--output DIR', declared(RetryOptions))
    add_arguments(parser)
    parser.set_defaults(input=[])
    run = None
    if found.output is not None:
        run = retry.last_run(
            uris.absolute(found.output).rstrip('/'), store_options(found).for_output()
        )
        parser.set_defaults(**retry.taken_over(run))
    args, beam_options = split_arguments(parser, argv)
    wanted = dataclasses.replace(RetryOptions.of(args), retry_dead=True)
    retry.check_given(wanted)
    assert run is not None  # --output is missing otherwise
    reasons = retry.reasons_of(wanted.reasons)
    if not retry.count_failed(run, reasons):
        counts = run.report.counts.dead_lettered_by_reason
        failed = ', '.join(f'{name} {n}' for name, n in counts.items()) or 'none'
        messages.say(f'nothing to retry in run {run.id}; its dead letters: {failed}')
        messages.result({'run_id': run.id, 'is_retried': False, 'dead_lettered_by_reason': counts})
        return 0
    with GARBAGE.uncollected():
        from pipeline.job import labelling

    return labelling.run(wanted, beam_options, parser.made_at, messages, run, reasons)


def add_arguments(parser: Parser) -> None:
    """Adds the options of `lemmabeam retry`."""
    add_options(parser, declared(RetryOptions), hidden=retry.NOT_IN_RETRY)
