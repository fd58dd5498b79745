"""From the command line to an exit code; nothing is defined here that a worker would need.

Exit codes: 0 done and balanced; 1 failed or unbalanced; 2 wrong usage; 3 done, but more failed than
--max_failure_rate; 130 and 143 stopped by a person or by the system.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import NoReturn

from pipeline import streams
from pipeline.parser import Parser, describe_unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      argv: arguments without the program's name; by default those of the process.

    Returns:
      The exit code.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    # Beam logs what it misses while it is being imported.
    logging.basicConfig(level=logging.ERROR, format='%(levelname)s %(name)s: %(message)s')
    logging.getLogger('transforms').setLevel(logging.WARNING)
    parser, command, arguments = _parse_command(sys.argv[1:] if argv is None else list(argv))
    from pipeline.signals import stopping_on_signals
    from transforms.errors import LemmabeamError, UsageError
    from transforms.process import TEMPORARIES

    try:
        with stopping_on_signals(lambda: '', TEMPORARIES.remove_all):
            return command(parser, arguments)
    except UsageError as e:
        print(f'lemmabeam: {e}', file=sys.stderr)
        return 2
    except LemmabeamError as e:
        print(f'lemmabeam: {e}', file=sys.stderr)
        return 1


def console(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script; `argv` as in `main`."""
    streams.forgive()
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in _WITHOUT_PANDAS:
        sys.meta_path.insert(0, _WithoutPandas())
    code = main(argv)
    streams.flush()
    if code == 1:
        # Threads may hang in a decoder or wait for a store that is down; nobody waits for them.
        from pipeline.signals import exit_now

        exit_now(code)
    sys.exit(code)


# What reads and writes Arrow's tables alone.
_WITHOUT_PANDAS = frozenset('clean relabel latest report verify'.split())


class _WithoutPandas(MetaPathFinder):
    """Arrow imports pandas where it is for the first value it is given: 0.4 s."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == 'pandas':
            raise ModuleNotFoundError(f'{fullname} is not wanted here', name=fullname)


_Command = Callable[[Parser, Sequence[str]], int]


def _parse_command(argv: list[str]) -> tuple[Parser, _Command, list[str]]:
    commands: dict[str, tuple[str, _Command]] = {
        'label': ('label every image of an input', _label),
        'retry': ('label what failed in the last run and may succeed now', _retry),
        'clean': ('remove what interrupted runs have left, old runs, single images', _clean),
        'relabel': ('label anew from the stored scores, with other thresholds', _relabel),
        'latest': ('write the newest row of every image and model into one file', _latest),
        'report': ('write the report of a run for people, one HTML file', _report),
        'verify': ('check that an output is whole and consistent, or compare two', _verify),
        'models': ('list the models that are known by name, or check one', _models),
        'export-model': ('write a SavedModel from an official BiT checkpoint', _export_model),
    }
    listing = '\n'.join(f'  {name:12} {text}' for name, (text, _) in commands.items())
    top = Parser(
        prog='lemmabeam',
        description='Labels every image in a bucket.',
        epilog=f'commands:\n{listing}\n\nlemmabeam COMMAND --help tells more.',
    )
    top.add_argument('command', metavar='COMMAND')
    top.add_argument('--version', action='version', version=_version())
    # Only what stands before the command's own arguments is parsed here.
    args = top.parse_args(argv[:1])
    if args.command not in commands:
        top.error(describe_unknown('command', args.command, commands))
    text, command = commands[args.command]
    parser = Parser(prog=f'lemmabeam {args.command}', description=f'{text[0].upper()}{text[1:]}.')
    return parser, command, argv[1:]


def _version() -> str:
    from pipeline import __version__

    return f'lemmabeam {__version__}'


def _label(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import label

    return label.label(parser, argv)


def _retry(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import label

    return label.retry(parser, argv)


def _clean(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import clean

    clean.add_arguments(parser)
    return clean.run(parser.parse_args(argv))


def _verify(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline.options import add_store_arguments, number_not_negative, store_options

    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument(
        'other',
        metavar='OTHER',
        nargs='?',
        help='another one to compare it with: the newest row of each image and model, whatever '
        'the runs are called',
    )
    parser.add_argument(
        '--by_name',
        action='store_true',
        help='compare by object name below the common folder of each dataset, leaving out uri and '
        'object_version: for the same images in two places',
    )
    parser.add_argument(
        '--exact',
        action='store_true',
        help='compare run by run, by their ids, and the bytes of the files',
    )
    parser.add_argument(
        '--tolerance',
        type=number_not_negative,
        default=0.0,
        metavar='T',
        help='largest difference of two scores that still counts as equal (default: 0)',
    )
    add_store_arguments(parser)
    args = parser.parse_args(argv)
    from pipeline.verify import compare, notes, verify
    from transforms import uris
    from transforms.errors import UsageError

    compares = [name for name in ('by_name', 'exact', 'tolerance') if getattr(args, name)]
    if args.other is None and compares:
        raise UsageError(f'--{compares[0]} goes with OTHER, what DIR is compared with')
    stores = store_options(args)
    problems = verify(args.folder, stores)
    said = 'whole and consistent'
    if args.other is not None and not problems:
        problems = verify(args.other, stores)
    if args.other is not None and not problems:
        problems, totals = compare(
            args.folder,
            args.other,
            by_name=args.by_name,
            exact=args.exact,
            tolerance=args.tolerance,
            stores=stores,
        )
        said = f'the same: {totals}' if not problems else totals
    for problem in problems:
        print(uris.printable(problem))
    for note in notes(args.folder, stores):
        print(uris.printable(f'note: {note}'))
    if args.other is not None or not problems:
        print(said)
    return 1 if problems else 0


def _report(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline.options import add_store_arguments, add_thumbnail_argument, store_options

    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument('--run_id', metavar='ID', help='the run (default: the latest complete one)')
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='where to write it, local, gs:// or s3:// (default: DIR/runs/<run_id>/report.html)',
    )
    add_thumbnail_argument(parser)
    add_store_arguments(parser)
    args = parser.parse_args(argv)
    from pipeline.html_report import write_html_report
    from transforms import uris
    from transforms.errors import UsageError

    output = uris.absolute(args.folder).rstrip('/')
    destination = None if args.output is None else uris.absolute(args.output)
    if destination and not uris.scheme_of(destination) and Path(destination).is_dir():
        raise UsageError(f'--output {args.output}: expected the name of a file, such as page.html')
    written = write_html_report(
        output, args.run_id, store_options(args), args.report_thumbnails, destination
    )
    print(uris.printable(written))
    return 0


def _latest(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import latest

    latest.add_arguments(parser)
    return latest.run(parser.parse_args(argv))


def _relabel(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import relabel

    parser.stray_flag = '--output'
    relabel.add_arguments(parser)
    return relabel.run(parser.parse_args(argv))


def _models(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import models

    parser.stray_flag = '--check'
    models.add_arguments(parser)
    return models.run(parser.parse_args(argv))


def _export_model(parser: Parser, argv: Sequence[str]) -> int:
    from pipeline import export_model

    parser.stray_flag = '--weights'
    export_model.add_arguments(parser)
    return export_model.run(parser.parse_args(argv))


if __name__ == '__main__':
    console()
