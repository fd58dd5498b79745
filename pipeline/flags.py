"""How an option is declared, and what values options take: numbers, sizes, shares, names."""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from transforms.model.choices import AUTO

MAX_THUMBNAILS = 200

_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9}
_UNITS |= {'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
_FIELD = 'option'
_HEADER = r'[!-~]([ -~]*[!-~])?'


class Type(NamedTuple):
    """What values an option takes.

    Attributes:
      parse: makes the value of its text, or raises `argparse.ArgumentTypeError`; None keeps it.
      parameter: the type of such a parameter of a Flex Template.
      regex: what Dataflow lets through, as `parse` has it or stricter; '' is anything.
      choices: all values, where there are few.
    """

    parse: Callable[[str], Any] | None = None
    parameter: str = 'TEXT'
    regex: str = ''
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option, and all that is to be known of it.

    Attributes:
      name: as in `--name`, in reports and as a parameter of a template.
      group: the heading of `--help` under which it stands; '' for none.
      type: what values it takes.
      default: the value where it is not given; None where that depends on something else.
      metavar: what `--help` calls its value; None for one without, or with choices.
      help: with unit and default.
      is_required: whether there is no run without it.
      is_repeated: whether it may be given several times.
      decides_rows: whether rows may be others with another value, so that a run is resumed with
        the same one only; not for what decides only whether images that failed fail again.
      per_run: whether it is meant for one run, so that a retry of the run does not take it over.
      in_template: whether a Flex Template has it as a parameter.
      is_common: whether `--help` shows it, which leaves the others to `--help-all`.
    """

    name: str
    group: str
    type: Type
    default: Any
    metavar: str | None
    help: str
    is_required: bool
    is_repeated: bool
    decides_rows: bool
    per_run: bool
    in_template: bool
    is_common: bool

    @property
    def is_switch(self) -> bool:
        """Whether it is given without a value."""
        return self.type == SWITCH

    @property
    def default_text(self) -> str:
        """The default as on a command line; '' where there is none."""
        if self.default in (None, ()):
            return ''
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f'{self.default:g}' if isinstance(self.default, float) else str(self.default)

    def add_to(self, parser: argparse._ActionsContainer, is_hidden: bool = False) -> None:
        """Lets a parser, or a group of one, know it.

        Args:
          parser: of argparse.
          is_hidden: leave it out of `--help`.
        """
        keywords: dict[str, Any] = {
            'default': self.default,
            'help': argparse.SUPPRESS if is_hidden else self.help.replace('%', '%%'),
        }
        if self.is_switch:
            keywords['action'] = 'store_true'
        else:
            keywords['action'] = 'append' if self.is_repeated else 'store'
            keywords |= {'type': self.type.parse, 'metavar': self.metavar}
            keywords['choices'] = self.type.choices or None
        parser.add_argument(f'--{self.name}', **keywords)


def option(
    group: str,
    type: Type,  # noqa: A002 (as argparse has it)
    *,
    help: str,  # noqa: A002
    default: Any = None,
    metavar: str | None = None,
    is_required: bool = False,
    is_repeated: bool = False,
    decides_rows: bool = True,
    per_run: bool = False,
    in_template: bool = True,
    is_common: bool = False,
) -> Any:
    """Declares an option as a field of a dataclass, whose name is its own; see `Option`."""
    facts = {
        'group': group,
        'type': type,
        'default': default,
        'metavar': metavar,
        'help': help,
        'is_required': is_required,
        'is_repeated': is_repeated,
        'decides_rows': decides_rows,
        'per_run': per_run,
        'in_template': in_template,
        'is_common': is_common,
    }
    value = dataclasses.MISSING if is_required else default
    return dataclasses.field(default=value, metadata={_FIELD: facts})


def declared(options: type) -> tuple[Option, ...]:
    """The options that a dataclass declares, in their order."""
    return tuple(
        Option(name=field.name, **field.metadata[_FIELD]) for field in dataclasses.fields(options)
    )


def add_options(
    parser: argparse.ArgumentParser, options: Iterable[Option], hidden: Sequence[str] = ()
) -> None:
    """Lets a parser know options, each in its group.

    Args:
      parser: of argparse.
      options: those of a group stand together.
      hidden: the names of those that `--help` leaves out.
    """
    groups: dict[str, argparse._ActionsContainer] = {'': parser}
    for each in options:
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(each.group)
        each.add_to(groups[each.group], each.name in hidden)


def one_of(choices: Iterable[str]) -> Type:
    """One of a few values."""
    found = tuple(choices)
    return Type(None, 'ENUM', '|'.join(found), found)


def names(text: str) -> tuple[str, ...]:
    """Names of columns, separated by commas."""
    found = tuple(text.split(','))
    if not all(found):
        raise argparse.ArgumentTypeError(f'{text!r}: expected column names separated by commas')
    return found


def natural(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r'\d{1,18}', text):
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number, 0 or more')
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r'\d{1,18}', text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number, 1 or more')
    return int(text)


def positive_or_auto(text: str) -> int | str:
    """A whole number above 0, or the word auto."""
    if text == AUTO:
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError as e:
        raise argparse.ArgumentTypeError(f'{e}, or {AUTO}') from None


def thumbnail_count(text: str) -> int:
    """A number of thumbnails."""
    if not text.isdecimal() or not text.isascii() or int(text[:9]) > MAX_THUMBNAILS:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected a whole number from 0 to {MAX_THUMBNAILS}'
        )
    return int(text)


def seconds(text: str) -> float:
    """Seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f'{text!r}: expected seconds, above 0')
    return value


def seconds_or_0(text: str) -> float:
    """Seconds from 0 on."""
    return 0.0 if re.fullmatch(r'0+(\.0*)?', text) else seconds(text)


def number_not_negative(text: str) -> float:
    """A number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, 0 or more')
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number from 0 to 1')
    return value


def header(text: str) -> str:
    """The value of an HTTP header."""
    value = text.strip()
    if not re.fullmatch(_HEADER, value):
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected one line of printable ASCII, as a header of HTTP takes it'
        )
    return value


def size(text: str) -> int:
    """Bytes above 0."""
    match = re.fullmatch(r'(\d{1,15})\s*([A-Za-z]*)', text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected bytes above 0, or a number with KB, MB, GB, KiB, MiB or GiB'
        )
    return int(match[1]) * unit


TEXT = Type()
SWITCH = Type(None, 'BOOLEAN', 'true|false')
NAMES = Type(names, 'TEXT', r'[^,\s][^,]*(,[^,]+)*')
POSITIVE = Type(positive, 'NUMBER', r'[1-9][0-9]{0,17}')
POSITIVE_OR_AUTO = Type(positive_or_auto, 'TEXT', r'auto|[1-9][0-9]{0,17}')
NATURAL = Type(natural, 'NUMBER', r'[0-9]{1,18}')
THUMBNAILS = Type(thumbnail_count, 'NUMBER', r'1?[0-9]{1,2}|200')
SHARE = Type(share, 'NUMBER', r'0|1|0?\.[0-9]+|0\.[0-9]+|1\.0+|[0-9](\.[0-9]+)?e-[0-9]{1,2}')
SECONDS = Type(seconds, 'NUMBER', r'[1-9][0-9]{0,4}(\.[0-9]+)?|0?\.0*[1-9][0-9]*')
SECONDS_OR_0 = Type(seconds_or_0, 'NUMBER', r'0|[1-9][0-9]{0,4}(\.[0-9]+)?|0?\.0*[1-9][0-9]*')
HEADER = Type(header, 'TEXT', _HEADER)
SIZE = Type(size, 'TEXT', r'[1-9][0-9]{0,14} *([bB]|[kKmMgG][iI]?[bB])?')
