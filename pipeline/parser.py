"""The parser of a command line, whose errors are one line."""

import argparse
import datetime
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_FOLDER = 'DIR'  # what commands call an output that they take without an option


class Parser(argparse.ArgumentParser):
    """As argparse has it, but without abbreviations, and without the usage before each error.

    Attributes:
      made_at: when the command began, UTC.
      stray_flag: the option that is meant by a value without one, or ''.
    """

    def __init__(self, **options: object):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]
        )
        self.made_at = datetime.datetime.now(datetime.UTC)
        self.stray_flag = ''
        self._first = ''

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse has it."""
        self._first = args[0] if args else ''
        return super().parse_known_args(args, namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse has it, but what is unknown is told as in all commands."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(self._describe_unknown(rest[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Ends the process with 2 and what is wrong."""
        said = message.removeprefix('argument ')
        is_missing = said.startswith('the following arguments are required')
        if is_missing and self.stray_flag and self._first[:1] not in ('', '-'):
            said = describe_stray(self._first, self.stray_flag)
        self.exit(2, f'lemmabeam: {with_help(said, self.prog)}\n')

    def _describe_unknown(self, given: str) -> str:
        if not given.startswith('-'):
            return describe_stray(given, self.stray_flag)
        takes_folder = any(
            action.metavar == _FOLDER and not action.option_strings for action in self._actions
        )
        if takes_folder and given.partition('=')[0] == '--output':
            return f'unknown option {given!r}; {_FOLDER} is given without one'
        flags = [flag for flag in self._option_string_actions if flag.startswith('--')]
        return describe_unknown('option', given, flags)


def with_help(said: str, prog: str) -> str:
    """What is wrong, and where to look if it does not say what may have been meant."""
    return said if said.endswith('?') else f'{said}; {prog} --help tells more'


def describe_stray(value: str, flag: str) -> str:
    """What is said of a value without an option, of which `flag` is most likely meant, or ''."""
    from transforms.core import uris  # late, as in all of this file: it takes longer than `--help`

    shown = uris.printable(value)
    if not flag:
        return f'{shown!r}: no option, and one value too many'
    return f'{shown!r}: no option; did you mean {flag} {shown}?'


def describe_unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """What is said of an option or a command that is none of those known."""
    from transforms.core import uris

    plain = {_plain(name): name for name in known}
    near = difflib.get_close_matches(_plain(given.partition('=')[0]), plain, 1)
    hint = f'; did you mean {plain[near[0]]}?' if near else ''
    return f'unknown {kind} {uris.printable(given)!r}{hint}'


def _plain(flag: str) -> str:
    # Dashes that all of them begin with would make any two short ones alike.
    return flag.removeprefix('--').replace('-', '_').lower()
