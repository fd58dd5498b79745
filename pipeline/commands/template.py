"""What the parameters of a Flex Template mean on the command line of `lemmabeam label`."""

import re
from collections.abc import Mapping, Sequence

from pipeline.beam_options import make_beam_parser, switches_of
from pipeline.options import OPTIONS
from transforms.core import uris
from transforms.core.errors import UsageError

# What the image calls itself, so that the workers run the very image that has launched them.
IMAGE_VARIABLE = 'LEMMABEAM_IMAGE'

_PARAMETER = re.compile(r'(--[^=\s]+)=(.*)', re.DOTALL)


def command_line(parameters: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The arguments of `lemmabeam label` that the parameters mean.

    A parameter without a value counts as not given. Options that take no value arrive as `true` or
    `false`. `input` may hold several, a line each. What is no `--name=value` passes as it is.

    Args:
      parameters: as the launcher gives them.
      environment: of the process; LEMMABEAM_IMAGE is the image of the workers unless a parameter
        names one.

    Raises:
      UsageError: an option without a value got one that is neither true nor false, or an option is
        not for templates.
    """
    switches = _switches()
    not_in_template = {option.name for option in OPTIONS if not option.in_template}
    argv: list[str] = []
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        flag, value = match.groups() if match else (parameter, None)
        if flag.removeprefix('--') in not_in_template:
            raise UsageError(
                f'{flag}: no parameter of the template, which always submits; leave it out'
            )
        if value is None:
            argv.append(parameter)
        elif not value.strip():
            continue
        elif flag == '--input':
            lines = (line.strip() for line in value.split('\n'))
            argv += [f'{flag}={line}' for line in lines if line]
        elif flag in switches:
            argv += _switch(flag, value, switches)
        else:
            argv.append(parameter)
    given = {argument.partition('=')[0] for argument in argv}
    if '--runner' not in given:
        argv.append('--runner=DataflowRunner')  # else all images would be labelled right here
    image = environment.get(IMAGE_VARIABLE)
    if image and '--sdk_container_image' not in given:
        argv.append(f'--sdk_container_image={image}')
    return [*argv, '--no_wait']


def _switches() -> dict[str, str | None]:
    """Each flag without a value, ours and Beam's, with the flag that says the opposite, if any."""
    ours: dict[str, str | None] = {
        f'--{option.name}': None for option in OPTIONS if option.is_switch
    }
    return ours | switches_of(make_beam_parser())


def _switch(flag: str, value: str, switches: Mapping[str, str | None]) -> list[str]:
    match value.strip().lower():
        case 'true':
            return [flag]
        case 'false':
            opposite = switches[flag]
            return [opposite] if opposite else []
    raise UsageError(f'{flag} {uris.printable(value)!r}: expected true or false')
