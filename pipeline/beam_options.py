"""The options of Beam and its runners, which `lemmabeam label` takes beside its own."""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline.parser import FromFile, describe_unknown, with_help
from transforms.core.errors import UsageError

_PRISM_JOB_SEC = 366 * 86400

T = TypeVar('T', bound=PipelineOptions)


def parse(rest: Sequence[str], parser: argparse.ArgumentParser) -> PipelineOptions:
    """The options that Beam is given.

    Args:
      rest: what is left of the command line.
      parser: the one that has left it, for what may have been meant.

    Raises:
      UsageError: Beam does not know an option either, or it is one for S3.
    """
    beam_parser = make_beam_parser()
    switches = switches_of(beam_parser)
    rest = [*itertools.chain(*(_as_given(each, switches) for each in rest))]
    try:
        beam_args, unknown = beam_parser.parse_known_args(rest)
    except argparse.ArgumentError as e:
        raise UsageError(str(e)) from e
    if unknown:
        flags = [
            flag
            for each in (parser, beam_parser)
            for flag in each._option_string_actions
            if flag.startswith('--')
        ]
        said = describe_unknown('option', unknown[0], flags)
        raise UsageError(with_help(said, parser.prog))
    for name, value in vars(beam_args).items():
        if name.startswith('s3_') and value:
            # Beam would put the keys into the description of the job, for all to read.
            raise UsageError(
                f'--{name} is not read: keys come from the environment (AWS_ACCESS_KEY_ID, '
                'AWS_PROFILE) or the role of the machine, other settings from ~/.aws/config; '
                '--s3_endpoint_url and --s3_region_name say where S3 is'
            )
    given = {flag.partition('=')[0] for flag in rest}
    runner = _runner_name(beam_args.runner)
    rest = [*rest, f'--runner={runner}']  # the last one counts
    # DirectRunner takes Prism where it can.  Beam's help says that the limit is not one for jobs,
    # but it waits for the end of a job on Prism by a call that has it, 300 s if nothing is said.
    is_prism = runner in ('PrismRunner', 'DirectRunner')
    if is_prism and not given & {'--job_server_timeout', '--job-server-timeout'}:
        rest = [*rest, f'--job_server_timeout={_PRISM_JOB_SEC}']
    return _Options(rest)


class _Options(PipelineOptions):
    """Options whose views are made once each, not by a parser of arguments for each question.

    Beam asks some 800 times while a graph is built.  All views share their values.
    """

    def view_as(self, cls: type[T]) -> T:
        """The view as options of a class."""
        views = self.__dict__.setdefault('_views', {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: T = views[cls]
        return view

    def __getstate__(self) -> dict[str, Any]:
        """The options without their views."""
        state = dict(super().__getstate__())
        state.pop('_views', None)
        return state


def _as_given(argument: str, switches: Mapping[str, str | None]) -> list[str]:
    """An argument as Beam takes it; a file says true or false of an option without a value."""
    flag, _, value = argument.partition('=')
    if not isinstance(argument, FromFile) or flag not in switches:
        return [argument]
    if value not in ('true', 'false'):
        raise UsageError(f'--config {argument.file}: {argument.key}: expected true or false')
    opposite = switches[flag]
    if value == 'true':
        return [flag]
    return [opposite] if opposite else []


def switches_of(beam_parser: argparse.ArgumentParser) -> dict[str, str | None]:
    """Each flag without a value, with the flag that says the opposite, if any."""
    actions = [action for action in beam_parser._actions if action.nargs == 0]
    opposites = {(action.dest, action.const): action.option_strings[0] for action in actions}
    return {
        flag: opposites.get((action.dest, not action.const))
        for action in actions
        for flag in action.option_strings
    }


def _runner_name(given: str | None) -> str:
    """The name of a runner as its class has it; Beam takes it in any case, 'Runner' left out."""
    if given is None:
        # Plain DirectRunner picks another engine depending on whether a download works.
        return 'FnApiRunner'
    module, _, name = given.rpartition('.')
    known = {each.lower(): each for each in StandardOptions.KNOWN_RUNNER_NAMES}
    if module and not module.startswith('apache_beam'):
        return given
    return known.get(name.lower()) or known.get(f'{name.lower()}runner') or given


def make_beam_parser() -> argparse.ArgumentParser:
    """Knows the options of Beam and its runners, and no others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for group in _option_classes(PipelineOptions):
        group._add_argparse_args(parser)
    return parser


def _option_classes(base: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    return [each for child in base.__subclasses__() for each in (child, *_option_classes(child))]
