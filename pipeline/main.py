"""From the command line to an exit code; nothing is defined here that a worker would need.

Exit codes: 0 done and balanced; 1 failed or unbalanced; 2 wrong usage; 3 done, but more failed than
--max_failure_rate; 130 and 143 stopped by a person or by the system.
"""

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import NoReturn

from pipeline import __version__
from pipeline.commands.table import COMMANDS, Command
from pipeline.job import streams
from pipeline.messages import Messages, StandardStreams
from pipeline.parser import Parser, describe_unknown
from transforms.core.garbage import GARBAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: arguments without the program's name; by default those of the process.

    Returns:
      The exit code.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    given = sys.argv[1:] if argv is None else list(argv)
    from transforms.core.errors import UsageError

    with contextlib.ExitStack() as until_end:
        try:
            parser, command = _parse_command(given)
            common = _read_common(parser, given)
            from pipeline import logs  # not for what ends above

            messages: Messages = StandardStreams(common.quiet, common.json)
            logs.start(common.quiet)
            if common.log_file is not None:
                messages = until_end.enter_context(logs.logged(messages, common.log_file))
        except UsageError as e:
            StandardStreams().error(str(e))
            return 2
        messages.log(f'{parser.prog} begins, version {__version__}')
        code = _run(command, parser, given[1:], messages)
        messages.log(f'{parser.prog} ends with exit code {code}')
        return code


def _run(command: Command, parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    from pipeline.job.errors import TooManyFailed, UnexpectedError
    from pipeline.job.signals import stopping_on_signals
    from transforms.core.errors import LemmabeamError, UsageError
    from transforms.core.resources import TEMPORARIES

    try:
        with stopping_on_signals(lambda: '', TEMPORARIES.remove_all):
            # Each brings much that the others do not need.
            module = importlib.import_module(f'pipeline.commands.{command.module}')
            return int(module.main(parser, argv, messages))
    except LemmabeamError as e:
        said = [str(e)]
        if isinstance(e, UnexpectedError):
            messages.log(''.join(traceback.format_exception(e)))
            said.append('this error was not expected; --verbose tells more')
        for line in [*said, *getattr(e, '__notes__', ())]:
            messages.error(line)
        if isinstance(e, UsageError):
            return 2
        return 3 if isinstance(e, TooManyFailed) else 1
    except Exception as e:
        messages.log(''.join(traceback.format_exception(e)))
        raise


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script; `argv` as in `main`."""
    streams.forgive()
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in COMMANDS:
        sys.meta_path.insert(0, _WithoutUnwanted())
        GARBAGE.keep_what_is_made()
    code = main(argv)
    streams.flush()
    if code == 1 or (given and given[0] in ('label', 'retry')):
        # Threads may hang in a decoder or wait for a store that is down; nobody waits for them, nor
        # for Python taking apart what Beam and TensorFlow have made, a second and more.
        from pipeline.job.signals import exit_now

        exit_now(code)
    sys.exit(code)


class _WithoutUnwanted(MetaPathFinder):
    """Hides what no command needs, but others import wherever it is.

    Arrow, Beam and Keras import pandas, 0.4 s; TensorFlow imports JAX, 0.7 s, which is wanted only
    where Keras is to compute with it.
    """

    def find_spec(self, fullname: str, *_: object) -> None:
        is_wanted = fullname == 'jax' and os.environ.get('KERAS_BACKEND') == 'jax'
        if fullname in ('jax', 'pandas') and not is_wanted:
            raise ModuleNotFoundError(f'{fullname} is not wanted here', name=fullname)


def _parse_command(argv: list[str]) -> tuple[Parser, Command]:
    listing = '\n'.join(f'  {name:12} {command.does}' for name, command in COMMANDS.items())
    top = Parser(
        prog='lemmabeam',
        description='Labels every image in a bucket.',
        epilog=f'commands:\n{listing}\n\nlemmabeam COMMAND --help tells more.',
    )
    top.add_argument('command', metavar='COMMAND')
    _add_version(top)
    # Only what stands before the command's own arguments is parsed here.
    name = top.parse_args(argv[:1]).command
    if name not in COMMANDS:
        top.error(describe_unknown('command', name, COMMANDS))
    command = COMMANDS[name]
    from pipeline.options import add_arguments_of_every_command  # not for what stands above

    parser = Parser(
        prog=f'lemmabeam {name}', description=f'{command.does[0].upper()}{command.does[1:]}.'
    )
    _add_version(parser)
    add_arguments_of_every_command(parser)
    parser.stray_flag = command.stray_flag
    return parser, command


def _read_common(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """What every command is told; its parser takes what the file of --config says."""
    from pipeline.options import add_arguments_of_every_command
    from transforms.core.errors import UsageError

    finder = Parser(prog=parser.prog, add_help=False)
    add_arguments_of_every_command(finder)
    found: argparse.Namespace = finder.parse_known_args(argv[1:])[0]
    if sum(each.partition('=')[0] == '--config' for each in argv) > 1:
        raise UsageError('--config: given twice; put all options into one file')
    if found.config is not None:
        from pipeline import config_file

        parser.config = config_file.read(found.config, argv[0], tuple(COMMANDS))
        finder.config = parser.config.only(vars(found))
        found = finder.parse_known_args(argv[1:])[0]
    return found


def _add_version(parser: Parser) -> None:
    said = 'show the version and exit'
    parser.add_argument(
        '--version', action='version', version=f'lemmabeam {__version__}', help=said
    )


if __name__ == '__main__':
    console()
