"""The options of Beam, as Python people have them."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.beam_options import make_beam_parser, parse
from pipeline.options import add_label_arguments
from pipeline.parser import Parser
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from pipeline.api.jobs import BeamOptions


def beam_options_of(given: 'BeamOptions') -> PipelineOptions:
    """Checks and completes options of Beam as the command line does.

    Args:
      given: PipelineOptions, a dict, or flags.

    Raises:
      UsageError: one is none of Beam's.
    """
    if isinstance(given, PipelineOptions):
        given = given.get_all_options(drop_default=True)
    if isinstance(given, str):
        raise UsageError(f'pipeline_options {given!r}: expected a list of flags, or a dict')
    flags = [*_flags(given)] if isinstance(given, Mapping) else list(given or ())
    parser = Parser(prog='lemmabeam label')
    add_label_arguments(parser)
    return parse(flags, parser)


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """Options by their names in PipelineOptions, or by their flags, as flags."""
    actions = make_beam_parser()._actions
    flags = {action.dest: action.option_strings[0] for action in actions if action.nargs != 0}
    switches = {
        (action.dest, action.const): action.option_strings[0]
        for action in actions
        if action.nargs == 0
    }
    for name, value in options.items():
        flag = flags.get(name, f'--{name}')
        if isinstance(value, bool):
            if value or (name, value) in switches:  # others are false unless they are given
                yield switches.get((name, value), flag)
        elif isinstance(value, Mapping):
            yield f'{flag}={json.dumps(value)}'
        elif isinstance(value, list | tuple):
            yield from (f'{flag}={each}' for each in value)
        elif value is not None:
            yield f'{flag}={value}'
