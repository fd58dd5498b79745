"""`lemmabeam completion`: a script by which a shell completes the commands and their options."""

import importlib
from collections.abc import Sequence

from pipeline.commands.table import COMMANDS
from pipeline.messages import Messages
from pipeline.options import add_arguments_of_every_command
from pipeline.parser import Parser

SHELLS = ('bash', 'zsh', 'fish')
_FILES = ('FILE', 'DIR', 'PATH', 'OTHER', 'X')  # metavars of what may lie in the file system
_HOW = """\
bash: put `source <(lemmabeam completion bash)` into ~/.bashrc
zsh:  lemmabeam completion zsh > a folder of $fpath/_lemmabeam
fish: lemmabeam completion fish > ~/.config/fish/completions/lemmabeam.fish

The script is as of this version: make it anew after an upgrade.
"""


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    parser.epilog = _HOW
    args = parser.parse_args(argv)
    made = script(args.shell)
    messages.say(made)
    messages.result({'shell': args.shell, 'script': made})
    return 0


def add_arguments(parser: Parser) -> None:
    """Adds the options of `lemmabeam completion`."""
    parser.add_argument('shell', choices=SHELLS, help='the shell the script is for')


def script(shell: str) -> str:
    """The script for a shell of `SHELLS`, which starts no Python when it completes."""
    import shtab

    return str(shtab.complete(_whole_parser(), shell)).rstrip('\n')


def _whole_parser() -> Parser:
    """One parser with all commands, as they are only for this."""
    import shtab

    top = Parser(prog='lemmabeam')
    top.add_argument('--version', action='store_true', help='show the version and exit')
    subparsers = top.add_subparsers(dest='command', parser_class=Parser)
    for name, command in COMMANDS.items():
        parser = subparsers.add_parser(name, help=command.does, description=command.does)
        add_arguments_of_every_command(parser)
        parser.add_argument('--version', action='store_true', help='show the version and exit')
        if command.module in ('label', 'retry'):
            parser.shorten_help(())  # for --help-all
        importlib.import_module(f'pipeline.commands.{command.module}').add_arguments(parser)
        for action in parser._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab reads it
    return top
