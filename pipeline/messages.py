"""What people are told while something works: all of it through one object, which is handed in."""

import json
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class Messages:
    """Takes what is to be told; this one keeps silent, as who calls a function expects it."""

    @property
    def progress(self) -> TextIO | None:
        """Where it is shown how far the work is, or None for nowhere."""
        return None

    def say(self, text: str) -> None:
        """Takes a line of the result."""

    def note(self, text: str) -> None:
        """Takes what is to be known beside the result."""

    def error(self, text: str) -> None:
        """Takes what has gone wrong."""

    def trace(self, text: str) -> None:
        """Takes where an error came from, for who is at home in the program."""

    def log(self, text: str) -> None:
        """Takes what only a log has."""

    def result(self, document: object) -> None:
        """Takes the result as a whole, for programs: what JSON can say."""

    def console(self) -> 'Console':
        """What draws tables and other lines of the result."""
        from rich.console import Console  # late: not for `--help`

        return Console(quiet=True)


class StandardStreams(Messages):
    """As a command tells it: the result to standard output, all else to standard error.

    They are looked up each time, because an engine's output may be filtered meanwhile.

    Args:
      is_quiet: tell errors only.
      is_json: the result is one JSON document; its lines for people go to standard error.
    """

    def __init__(self, is_quiet: bool = False, is_json: bool = False):
        self._is_quiet = is_quiet
        self._is_json = is_json

    @property
    def progress(self) -> TextIO | None:
        """Standard error."""
        return None if self._is_quiet else sys.stderr

    def say(self, text: str) -> None:
        """Prints it."""
        if not self._is_quiet:
            print(text, file=sys.stderr if self._is_json else sys.stdout)

    def note(self, text: str) -> None:
        """Prints it behind the name of the program."""
        if not self._is_quiet:
            print(f'lemmabeam: {text}', file=sys.stderr)

    def error(self, text: str) -> None:
        """Prints it behind the name of the program."""
        print(f'lemmabeam: {text}', file=sys.stderr)

    def trace(self, text: str) -> None:
        """Prints it as it is."""
        print(text, file=sys.stderr)

    def result(self, document: object) -> None:
        """Prints it where it is asked for, in ASCII, which every terminal's encoding has."""
        if self._is_json:
            print(json.dumps(document, indent=2))

    def console(self) -> 'Console':
        """One on standard output."""
        from rich.console import Console

        return Console(stderr=self._is_json, quiet=self._is_quiet, emoji=False)


SILENT = Messages()
