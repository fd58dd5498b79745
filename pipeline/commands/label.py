"""`lemmabeam label`: from arguments to an exit code."""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.flags import Option
from pipeline.messages import Messages
from pipeline.options import OPTIONS, LabelOptions, add_label_arguments
from pipeline.parser import Parser, describe_stray
from transforms.core.errors import UsageError
from transforms.core.garbage import GARBAGE

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


_RUNNERS = """\
Every option of Apache Beam and its runners is accepted, too: --runner says where it runs, such as
DataflowRunner, FlinkRunner or PrismRunner (default: FnApiRunner, Beam's local one).  The names of
options above may be written with - instead of _; none may be abbreviated.
"""


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Labels what the inputs list."""
    describe(parser, '--input X --output DIR', OPTIONS)
    add_arguments(parser)
    options, beam_options = parse_label_arguments(parser, argv)
    # As in all commands: what runs is imported when nothing is wrong with the command line.
    with GARBAGE.uncollected():
        from pipeline.job import labelling

    return labelling.run(options, beam_options, parser.made_at, messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam label`."""
    add_label_arguments(parser)


def describe(parser: Parser, usage: str, options: Iterable[Option]) -> None:
    """Has a parser of labelling show in its help what matters most.

    Args:
      parser: of the command.
      usage: what it cannot do without, as on a command line.
      options: its own.
    """
    parser.usage = f'%(prog)s {usage} [option ...]'
    parser.epilog = _RUNNERS
    parser.shorten_help(each.name for each in options if not each.is_common)


def parse_label_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[LabelOptions, 'PipelineOptions']:
    """Splits the command line of `lemmabeam label`, see `split_arguments`."""
    args, beam_options = split_arguments(parser, argv)
    return LabelOptions.of(args), beam_options


def split_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, 'PipelineOptions']:
    """Splits a command line into our options, the required ones among them, and Beam's.

    Raises:
      UsageError: an option is neither ours nor Beam's, or one of Beam's for S3.
    """
    args, rest = parser.parse_known_args(argv)
    if args.verbose and getattr(args, 'quiet', False):
        raise UsageError('--quiet tells less, and --verbose more than usual: leave out one')
    if not rest:
        _check_complete(args, parser)
    elif not rest[0].startswith('-'):
        # A retry has no --input.
        raise UsageError(describe_stray(rest[0], '--output' if args.input == [] else '--input'))
    # Takes seconds: not before it is known that Beam has to say anything.
    with GARBAGE.uncollected():
        from pipeline import beam_options

    parsed = beam_options.parse(rest, parser)
    _check_complete(args, parser)  # after the unknown ones: one of those may be meant for it
    return args, parsed


def _check_complete(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for flag, value in (('--input', args.input), ('--output', args.output)):
        if value is None:
            raise UsageError(f'{flag} is missing; {parser.prog} --help tells more')
