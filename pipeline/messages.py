"""What people are told while something works: all of it through one object, which is handed in."""

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

    def console(self) -> 'Console':
        """What draws tables and other lines of the result."""
        from rich.console import Console  # late: not for `--help`

        return Console(quiet=True)


class StandardStreams(Messages):
    """As a command tells it: the result to standard output, all else to standard error.

    They are looked up each time, because an engine's output may be filtered meanwhile.
    """

    @property
    def progress(self) -> TextIO | None:
        """Standard error."""
        return sys.stderr

    def say(self, text: str) -> None:
        """Prints it."""
        print(text)

    def note(self, text: str) -> None:
        """Prints it behind the name of the program."""
        print(f'lemmabeam: {text}', file=sys.stderr)

    def error(self, text: str) -> None:
        """Prints it behind the name of the program."""
        print(f'lemmabeam: {text}', file=sys.stderr)

    def trace(self, text: str) -> None:
        """Prints it as it is."""
        print(text, file=sys.stderr)

    def console(self) -> 'Console':
        """One on standard output."""
        from rich.console import Console

        return Console()


SILENT = Messages()
