"""`lemmabeam label` and `lemmabeam retry`: from arguments to an exit code."""

import argparse
import contextlib
import datetime
import logging
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from rich.console import Console

from pipeline import dataflow, engine, options
from pipeline.attempt import Attempt
from pipeline.explain import describe, print_settings
from pipeline.flink import check_flink
from pipeline.html_report import write_html_report
from pipeline.options import Retried, RunConfig
from pipeline.progress import DownloadReporter, tell_waiting
from pipeline.resume import settle
from pipeline.signals import stopping_on_signals
from pipeline.summary import print_summary
from transforms import dead_letters, lease, preflight, uris
from transforms.errors import LemmabeamError, StoreError, UsageError
from transforms.layout import Layout
from transforms.listing import DEAD_LETTERS, Input
from transforms.model import canary
from transforms.model.sources import printable_location
from transforms.process import shared
from transforms.rows import Reason
from transforms.runs import CompleteRun, complete_runs, read_run
from transforms.storage import StoreOptions, store_for

_EPILOG = """\
Every option of Apache Beam and its runners is accepted, too; --runner defaults to FnApiRunner,
Beam's local engine.  No option may be abbreviated.
"""

# What a retry takes over from the run it retries is everything but these.
_OF_ONE_RUN = frozenset(
    'accelerator accelerators_per_worker break_lease explain force images_per_worker input '
    'max_images no_wait output reasons relist retry_dead right_fitting run_id sample since verbose '
    'wait_for_lease_sec'.split()
)
_NOT_IN_RETRY = ('input', 'sample', 'since', 'force')
_FROM_LISTING = (Reason.BAD_URI, Reason.BAD_NAME)


def label(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Labels what the inputs list."""
    add_arguments(parser)
    args, beam_options = options.parse_label_arguments(parser, argv)
    return _label(args, beam_options, None)


def retry(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Labels what the last run could not, with the options of that run."""
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.add_argument('--output')
    options.add_store_arguments(finder)
    found, _ = finder.parse_known_args(argv)
    add_arguments(parser)
    for name in _NOT_IN_RETRY:
        parser._option_string_actions[f'--{name}'].help = argparse.SUPPRESS
    parser.add_argument(
        '--reasons',
        metavar='A,B',
        help='reasons of the dead letters to try again; permanent ones only by name (default: '
        f'{",".join(reason.value for reason in Reason if reason.retryable)})',
    )
    parser.set_defaults(input=[])
    run = None
    if found.output is not None:
        run = _last_run(uris.absolute(found.output).rstrip('/'), options.store_options(found))
        parser.set_defaults(**_taken_over(run, parser))
    args, beam_options = options.parse_label_arguments(parser, argv)
    for name in _NOT_IN_RETRY:
        if getattr(args, name):
            raise UsageError(f'--{name}: a retry takes what failed in the last run, all of it')
    assert run is not None  # --output is missing otherwise
    args.retry_dead = True
    reasons = _reasons(args.reasons)
    counts = run.report['counts']['dead_lettered_by_reason']
    if not sum(counts.get(reason, 0) for reason in reasons):
        failed = ', '.join(f'{name} {n}' for name, n in counts.items()) or 'none'
        print(f'nothing to retry in run {run.id}; its dead letters: {failed}')
        return 0
    folder = f'{dead_letters.KIND}/model={run.model_id}/run={run.id}'
    stores = options.store_options(args)
    output = uris.absolute(args.output).rstrip('/')
    source = Input(DEAD_LETTERS, uris.join(output, folder), ','.join(reasons), stores)
    return _label(args, beam_options, (run, Retried(source, tuple(run.report['inputs']))))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam label`."""
    parser.epilog = _EPILOG
    options.add_label_arguments(parser)
    dataflow.add_dataflow_arguments(parser)
    parser.add_argument(
        '--verbose',
        action='store_true',
        help="show the engine's own messages, and where an error came from",
    )


def _last_run(output: str, stores: StoreOptions) -> CompleteRun:
    runs = complete_runs(output, store_for(output, stores))
    labelling = [run for run in runs if run.report.get('command') != 'relabel']
    if not labelling:
        raise UsageError(f'--output {output}: there is no complete run to retry')
    return labelling[-1]


def _taken_over(run: CompleteRun, parser: argparse.ArgumentParser) -> dict[str, Any]:
    known = {action.dest for action in parser._actions} - _OF_ONE_RUN
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run.report['options'].items()
        if name in known
    }


def _reasons(text: str | None) -> list[str]:
    if text is None:
        return [reason.value for reason in Reason if reason.retryable]
    for name in text.split(','):
        if name not in {reason.value for reason in Reason}:
            known = ', '.join(reason.value for reason in Reason)
            raise UsageError(f'--reasons {name!r}: no such reason; there are {known}')
        if Reason(name) in _FROM_LISTING:
            raise UsageError(
                f'--reasons {name}: such a line or name must be corrected, and labelled then'
            )
    return text.split(',')


def _label(
    args: argparse.Namespace,
    beam_options: beam.pipeline.PipelineOptions,
    retried: tuple[CompleteRun, Retried] | None,
) -> int:
    if args.verbose:
        logging.getLogger().setLevel(logging.INFO)
    else:
        # What matters of it is told by us; --verbose brings it back.
        for name in ('apache_beam', 'PrismRunner'):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    engine.check_prism(beam_options)
    check_flink(beam_options)
    dataflow.check(args, beam_options)
    is_dataflow = engine.is_dataflow(beam_options)
    settings = dataflow.complete(args, beam_options) if is_dataflow else []
    now = datetime.datetime.now(datetime.UTC)
    config = options.make_config(args, now, DownloadReporter(), retried and retried[1])
    if retried and config.layout.model_id != retried[0].model_id:
        raise UsageError(
            f'--model {args.model}: it is {config.layout.model_id} now, but run {retried[0].id} '
            f'had {retried[0].model_id}; name that one with --model'
        )
    _tell_model(config)
    if is_dataflow:
        config, found = dataflow.fit(args, beam_options, config)
        settings += found
    if args.explain:
        print_settings(beam_options, [*settings, *describe(config)])
        return 0
    try:
        root = beam.Pipeline(options=beam_options)
    except (ValueError, ImportError) as e:
        raise UsageError(f'--runner: {e}') from e
    lease.acquire(config.layout, args.break_lease, args.wait_for_lease_sec, tell_waiting)

    attempt = Attempt(root, config)

    def give_back() -> None:
        if not attempt.is_submitted:  # else it is the job's
            lease.release(config.layout)

    with stopping_on_signals(lambda: attempt.advice(), give_back):
        try:
            settled = settle(config, args)
            lease.rename(config.layout, settled.layout.run_id)
            config = settled
            attempt = Attempt(root, config)
            shared(preflight.check, config.preflight)
            if is_dataflow:
                dataflow.prepare_submission(root.options, config)
            code = attempt.run(not args.no_wait, args.verbose)
        finally:
            # A store that is gone has been reported already.
            with contextlib.suppress(StoreError):
                give_back()
    if args.no_wait and not code:
        report = config.layout.uri(config.layout.report_path)
        print(f'Run {config.layout.run_id} is complete once there is {report}')
        return 0
    return code or _conclude(config, args.report_thumbnails)


def _conclude(config: RunConfig, thumbnails: int) -> int:
    """Shows what came out; the exit code."""
    layout = config.layout
    run = read_run(layout.output, layout.run_id, layout.store)
    if run is None:
        raise StoreError(f'{layout.uri(layout.report_path)} was written, but is not there')
    print_summary(run.report, layout, Console())
    if layout.is_local:
        _write_html_report(layout, thumbnails)
    counts = run.report['counts']
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


def _write_html_report(layout: Layout, thumbnails: int) -> None:
    """Writes it beside a report that is complete without: whatever goes wrong is only said."""
    try:
        written = write_html_report(layout.output, layout.run_id, layout.stores, thumbnails)
    except Exception as e:  # noqa: BLE001 (the run is done, and its results are kept)
        reason = str(e) if isinstance(e, LemmabeamError) else f'{type(e).__name__}: {e}'
        print(
            f'lemmabeam: no report for people was written: {uris.printable(reason)}; the run is '
            'complete',
            file=sys.stderr,
        )
    else:
        print(f'For people: {uris.printable(written)}')


def _tell_model(config: RunConfig) -> None:
    """Says what is not as everybody expects it: another model, and a canary that proves less."""
    model = config.inference.model
    if not model.is_embedded:
        print(f'lemmabeam: model {model.id}', file=sys.stderr)
        for why in model.passed_over:
            print(f'lemmabeam: passed over: {why}', file=sys.stderr)
        where = printable_location(model.location)
        print(f'lemmabeam: its weights are the {model.kind.value} of {where}', file=sys.stderr)
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
