"""The parser of a command line, whose errors are one line.

An option may be written with `-` wherever its name has `_`; help and messages have the name.
"""

import argparse
import datetime
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pipeline.config_file import ConfigFile

_FOLDER = 'DIR'  # what commands call an output that they take without an option


class FromFile(str):
    """An argument that a file of `--config` gives.

    Attributes:
      key: what stands in the file for its option.
      file: the name of the file.
    """

    key: str
    file: str

    def __new__(cls, argument: str, key: str, file: str) -> 'FromFile':
        made = super().__new__(cls, argument)
        made.key, made.file = key, file
        return made


class Parser(argparse.ArgumentParser):
    """As argparse has it, but without abbreviations, and without the usage before each error.

    Attributes:
      made_at: when the command began, UTC.
      stray_flag: the option that is meant by a value without one, or ''.
      config: gives arguments that the command line has not.
    """

    def __init__(self, **options: object):
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]
        self.formatter_class = self._formatter
        self.made_at = datetime.datetime.now(datetime.UTC)
        self.stray_flag = ''
        self.config: ConfigFile | None = None
        self._first = ''
        self._rare: frozenset[str] = frozenset()

    def shorten_help(self, rare: Iterable[str]) -> None:
        """Has `--help` leave out options, which `--help-all` shows.

        Args:
          rare: their names.
        """
        self.add_argument('--help-all', action=_HelpAll, help='show every option and exit')
        self._rare = frozenset(rare)

    def show_all(self) -> None:
        """Has the help show every option again."""
        self._rare = frozenset()

    def _formatter(self, prog: str) -> argparse.HelpFormatter:
        return _Formatter(prog, self._rare)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse has it."""
        given = sys.argv[1:] if args is None else list(args)
        self._first = given[0] if given else ''
        return super().parse_known_args(self._spelled(self._from_file(given) + given), namespace)

    def _from_file(self, given: list[str]) -> list[str]:
        if self.config is None:
            return []
        flags = {flag: self._option_string_actions[flag] for flag in self._flags()}
        ours = given[: given.index('--')] if '--' in given else given
        return [*self.config.arguments(flags, {argument.partition('=')[0] for argument in ours})]

    def _spelled(self, given: list[str]) -> list[str]:
        """Arguments in which our options are written as they are declared."""
        flags = {underscored(flag): flag for flag in self._flags()}
        found: list[str] = []
        for i, argument in enumerate(given):
            if argument == '--':
                return found + given[i:]
            name, equals, value = argument.partition('=')
            flag = flags.get(underscored(name)) if name.startswith('--') else None
            if flag is None:
                found.append(argument)
            elif equals and is_switch(self._option_string_actions[flag]):
                found.append(self._switched(flag, value))
            else:
                found.append(f'{flag}{equals}{value}')
        return found

    def _switched(self, flag: str, value: str) -> str:
        """What sets an option without a value to true or false."""
        if value == 'true':
            return flag
        if value != 'false':
            self.error(f'{flag}={value}: expected true or false, or {flag} alone')
        off = f'{flag}=false'
        if off not in self._option_string_actions:
            dest = self._option_string_actions[flag].dest
            self.add_argument(
                off,
                action='store_false',
                dest=dest,
                default=self.get_default(dest),
                help=argparse.SUPPRESS,
            )
        return off

    def _flags(self) -> list[str]:
        return [
            flag
            for flag, action in self._option_string_actions.items()
            if flag.startswith('--') and '=' not in flag
        ]

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse has it, but what is unknown is told as in all commands."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(self._describe_unknown(rest[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong.

        Raises:
          UsageError: always.
        """
        from transforms.core.errors import UsageError  # late, as in all of this file

        said = message.removeprefix('argument ')
        is_missing = said.startswith('the following arguments are required')
        if is_missing and self.stray_flag and self._first[:1] not in ('', '-'):
            said = describe_stray(self._first, self.stray_flag)
        raise UsageError(with_help(said, self.prog))

    def _describe_unknown(self, given: str) -> str:
        if not given.startswith('-'):
            return describe_stray(given, self.stray_flag)
        takes_folder = any(
            action.metavar == _FOLDER and not action.option_strings for action in self._actions
        )
        if takes_folder and given.partition('=')[0] == '--output':
            return f'unknown option {given!r}; {_FOLDER} is given without one'
        return describe_unknown('option', given, self._flags())


def is_switch(action: argparse.Action) -> bool:
    """Whether an option is given without a value, and not given otherwise."""
    return isinstance(action, argparse._StoreTrueAction)


class _HelpAll(argparse.Action):
    """`--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        assert isinstance(parser, Parser)
        parser.show_all()
        parser.print_help()
        parser.exit()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves out of a help what it is to leave out."""

    def __init__(self, prog: str, rare: frozenset[str]):
        super().__init__(prog)
        self._rare = rare

    def add_argument(self, action: argparse.Action) -> None:
        if action.dest not in self._rare:
            super().add_argument(action)


def with_help(said: str, prog: str) -> str:
    """What is wrong, and where to look if it does not say what may have been meant."""
    return said if said.endswith('?') else f'{said}; {prog} --help tells more'


def describe_stray(value: str, flag: str) -> str:
    """What is said of a value without an option, of which `flag` is most likely meant, or ''."""
    from transforms.core import uris  # late: it takes longer than `--help`

    shown = uris.printable(value)
    if not flag:
        return f'{shown!r}: no option, and one value too many'
    return f'{shown!r}: no option; did you mean {flag} {shown}?'


def describe_unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """What is said of an option or a command that is none of those known."""
    from transforms.core import uris

    if isinstance(given, FromFile):
        names = (name.removeprefix('--') for name in known)
        said = describe_unknown('key', given.key, names)
        return f'--config {given.file}: {said}'
    plain = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(given.partition('=')[0]), plain, 1)
    hint = f'; did you mean {plain[near[0]]}?' if near else ''
    return f'unknown {kind} {uris.printable(given)!r}{hint}'


def _plain(flag: str) -> str:
    # Dashes that all of them begin with would make any two short ones alike.
    return underscored(flag.removeprefix('--')).lower()


def underscored(name: str) -> str:
    """How an option is declared that may be written with `-`."""
    return name.replace('-', '_')
