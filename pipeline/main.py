"""From the command line to an exit code; nothing is defined here that a worker would need.

Exit codes: 0 done and balanced; 1 failed or unbalanced; 2 wrong usage; 3 done, but more failed than
--max_failure_rate; 130 and 143 stopped by a person or by the system.
"""

import argparse
import contextlib
import datetime
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import apache_beam as beam

    from pipeline.options import RunConfig

_EPILOG = """\
Every option of Apache Beam and its runners is accepted, too; --runner defaults to FnApiRunner,
Beam's local engine.  No option may be abbreviated.
"""
_ERROR = re.compile(r'transforms\.errors\.(\w+): (.*)$', re.MULTILINE)
_LAST_WORDS_SEC = 3.0
_STEP = re.compile(r' \[while running .*', re.DOTALL)


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
    parser, command, arguments = _parse_command(sys.argv[1:] if argv is None else list(argv))
    from transforms.errors import LemmabeamError, UsageError
    from transforms.process import TEMPORARIES

    try:
        with _stopping_on_signals('', TEMPORARIES.remove_all):
            return command(parser, arguments)
    except UsageError as e:
        print(f'lemmabeam: {e}', file=sys.stderr)
        return 2
    except LemmabeamError as e:
        print(f'lemmabeam: {e}', file=sys.stderr)
        return 1


def console() -> NoReturn:
    """The console script."""
    code = main()
    if code == 1:
        # Threads may hang in a decoder or wait for a store that is down; nobody waits for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


_Command = Callable[[argparse.ArgumentParser, Sequence[str]], int]


def _parse_command(argv: list[str]) -> tuple[argparse.ArgumentParser, _Command, list[str]]:
    commands: dict[str, tuple[str, _Command]] = {
        'label': ('label every image of an input', _label),
        'verify': ('check that an output is whole and consistent, or compare two', _verify),
        'models': ('list the models that are known by name, or check one', _models),
        'export-model': ('write a SavedModel from an official BiT checkpoint', _export_model),
    }
    listing = '\n'.join(f'  {name:12} {text}' for name, (text, _) in commands.items())
    top = argparse.ArgumentParser(
        prog='lemmabeam',
        description='Labels every image in a bucket.',
        epilog=f'commands:\n{listing}\n\nlemmabeam COMMAND --help tells more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument('command', choices=commands, metavar='COMMAND')
    top.add_argument('--version', action='version', version=_version())
    # Only what stands before the command's own arguments is parsed here.
    args = top.parse_args(argv[:1])
    text, command = commands[args.command]
    parser = argparse.ArgumentParser(
        prog=f'lemmabeam {args.command}',
        description=f'{text[0].upper()}{text[1:]}.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser, command, argv[1:]


def _version() -> str:
    from pipeline import __version__

    return f'lemmabeam {__version__}'


def _label(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    import apache_beam as beam
    from rich.console import Console

    from pipeline import options
    from pipeline.progress import DownloadReporter
    from pipeline.summary import print_summary
    from transforms import lease, preflight
    from transforms.errors import StoreError, UsageError
    from transforms.process import shared
    from transforms.publish import clean_up

    parser.epilog = _EPILOG
    options.add_label_arguments(parser)
    parser.add_argument(
        '--verbose',
        action='store_true',
        help="show the engine's own messages, and where an error came from",
    )
    args, beam_options = options.parse_label_arguments(parser, argv)
    if args.verbose:
        logging.getLogger().setLevel(logging.INFO)
    else:
        # What matters of it is told by us; --verbose brings it back.
        logging.getLogger('apache_beam').setLevel(logging.CRITICAL)
    config = options.make_config(args, datetime.datetime.now(datetime.UTC), DownloadReporter())
    _tell_model(config)
    layout = config.layout
    try:
        root = beam.Pipeline(options=beam_options)
    except (ValueError, ImportError) as e:
        raise UsageError(f'--runner: {e}') from e
    lease.acquire(layout, args.break_lease)
    advice = f'; run {layout.run_id} is incomplete, start it again with --run_id {layout.run_id}'
    with _stopping_on_signals(advice, lambda: lease.release(layout)):
        try:
            options.check_output(layout)
            clean_up(layout)  # of an attempt that was killed
            shared(preflight.check, config.preflight)
            code = _run(root, config, args.verbose)
        finally:
            # A store that is gone has been reported already.
            with contextlib.suppress(StoreError):
                lease.release(layout)
    if code:
        return code
    report = json.loads(layout.store.read(layout.uri(layout.report_path)) or b'null')
    if report is None:
        raise StoreError(f'{layout.uri(layout.report_path)} was written, but is not there')
    print_summary(report, layout, Console())
    counts = report['counts']
    if not counts['listed']:
        print('lemmabeam: the inputs list no image at all', file=sys.stderr)
    failed = counts['dead_lettered']
    if failed and failed / counts['listed'] > config.max_failure_rate:
        print(
            f'lemmabeam: {failed} of {counts["listed"]} images failed, more than '
            f'--max_failure_rate {config.max_failure_rate:g} allows; the results are kept',
            file=sys.stderr,
        )
        return 3
    return 0


def _tell_model(config: 'RunConfig') -> None:
    """Says what is not as everybody expects it: another model, and a canary that proves less."""
    from transforms.model import canary

    model = config.inference.model
    if not model.is_embedded:
        print(f'lemmabeam: model {model.id}', file=sys.stderr)
        print(f'lemmabeam: --model_sha256 {model.weights_sha256} pins its weights', file=sys.stderr)
    if not model.card.has_classes:
        print('lemmabeam: this model has no classes: features only, no labels', file=sys.stderr)
    mode = config.inference.canary
    if mode != canary.STRICT:
        said = {
            canary.FINITE: 'it is not checked that the model sees in a picture what is there',
            canary.OFF: 'nothing is asked of the model before it labels',
        }
        print(f'lemmabeam: --canary {mode}: {said[mode]}', file=sys.stderr)


def _run(root: 'beam.Pipeline', config: 'RunConfig', is_verbose: bool) -> int:
    """Builds and runs the graph; 0, or the exit code of what stopped it."""
    from pipeline.build import build
    from pipeline.progress import reporting
    from transforms.errors import StoreError
    from transforms.publish import discard

    try:
        with reporting():
            build(root, config)
            root.run().wait_until_finish()
    except Exception as e:  # noqa: BLE001 (whatever an engine raises ends here)
        # Of a store that is gone nothing can be removed; the error itself is what matters.
        with contextlib.suppress(StoreError):
            discard(config.layout)
        return _explain(e, config.layout.run_id, is_verbose)
    return 0


def _verify(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    from pipeline.options import add_store_arguments, store_options
    from pipeline.verify import compare, verify
    from transforms import uris

    parser.add_argument('folder', metavar='DIR', help='the output of `lemmabeam label`')
    parser.add_argument('other', metavar='OTHER', nargs='?', help='another one to compare it with')
    parser.add_argument(
        '--by_name',
        action='store_true',
        help='compare by object name below the common folder of each dataset, leaving out uri and '
        'object_version: for the same images in two places',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.0,
        metavar='T',
        help='largest difference of two scores that still counts as equal (default: 0)',
    )
    add_store_arguments(parser)
    args = parser.parse_args(argv)
    stores = store_options(args)
    problems = verify(args.folder, stores)
    if args.other is not None and not problems:
        problems = verify(args.other, stores) or compare(
            args.folder,
            args.other,
            by_name=args.by_name,
            tolerance=args.tolerance,
            stores=stores,
        )
    for problem in problems:
        print(uris.printable(problem))
    if not problems:
        print('the same' if args.other else 'whole and consistent')
    return 1 if problems else 0


def _models(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    from pipeline import models

    models.add_arguments(parser)
    return models.run(parser.parse_args(argv))


def _export_model(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    from pipeline import export_model

    export_model.add_arguments(parser)
    return export_model.run(parser.parse_args(argv))


def _explain(error: BaseException, run_id: str, is_verbose: bool) -> int:
    """Says in one line what stopped a run; engines wrap what a step raised in their own errors."""
    from transforms.errors import BooksError, LemmabeamError, UsageError

    text = ''.join(traceback.format_exception(error))
    if is_verbose:
        print(text, file=sys.stderr)
    found = _ERROR.findall(text)
    if isinstance(error, LemmabeamError):
        kind, message = type(error).__name__, str(error)
    elif found:
        kind, message = found[-1]
    else:
        kind, message = '', text.strip().rpartition('\n')[2]
    print(f'lemmabeam: {_STEP.sub("", message)}', file=sys.stderr)
    if kind == UsageError.__name__:
        return 2
    if kind == '':
        print('lemmabeam: this error was not expected; --verbose tells more', file=sys.stderr)
    if kind != BooksError.__name__:
        print(f'lemmabeam: run {run_id} is incomplete; nothing of it counts', file=sys.stderr)
    return 1


@contextlib.contextmanager
def _stopping_on_signals(advice: str, at_exit: Callable[[], None]) -> Iterator[None]:
    """Stops at once on Ctrl-C and SIGTERM: threads of engine and model cannot be interrupted.

    An exception would not do: raised within somebody's callback, it is ignored.  A local run is
    published by renaming, so that an exit at any moment leaves no partial file among the
    predictions; in an object store the next attempt of the same run removes what is there.

    Args:
      advice: what to say behind the name of the signal.
      at_exit: called before the end, for a few seconds at most.
    """
    # Standard error may be held back while TensorFlow is imported.
    errors = os.dup(2)

    def stop(number: int, _: FrameType | None) -> NoReturn:
        os.write(
            errors, f'\nlemmabeam: stopped by {signal.Signals(number).name}{advice}\n'.encode()
        )
        # Beside the signal handler: a store may be slow, or its locks held by this very thread.
        last = threading.Thread(target=at_exit, daemon=True)
        last.start()
        last.join(_LAST_WORDS_SEC)
        os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(errors)


if __name__ == '__main__':
    console()
