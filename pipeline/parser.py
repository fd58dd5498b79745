"""The parser of a command line, whose errors are one line."""

import argparse
import datetime
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """As argparse has it, but without abbreviations, and without the usage before each error.

    Attributes:
      made_at: when the command began, UTC.
    """

    def __init__(self, **options: object):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]
        )
        self.made_at = datetime.datetime.now(datetime.UTC)

    def error(self, message: str) -> NoReturn:
        """Ends the process with 2 and what is wrong."""
        said = message.removeprefix('argument ')
        self.exit(2, f'lemmabeam: {said}; {self.prog} --help tells more\n')
