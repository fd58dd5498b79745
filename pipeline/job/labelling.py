"""A run of `lemmabeam label` or `lemmabeam retry`, from its options to its summary."""

import contextlib
import datetime
from collections.abc import Sequence

import apache_beam as beam

from pipeline import logs
from pipeline.config import Retried, RunConfig, make_config
from pipeline.job.amount import AmountOf
from pipeline.job.attempt import Attempt
from pipeline.job.errors import TooManyFailed
from pipeline.job.progress import DownloadReporter, reporting, tell_waiting
from pipeline.job.resume import settle
from pipeline.job.signals import Stopping, stopping_on_signals
from pipeline.messages import SILENT, Messages
from pipeline.options import LabelOptions, store_options
from pipeline.report.html.report import write_html_report
from pipeline.report.summary import describe_nothing, print_summary
from pipeline.runners.base import Runner
from pipeline.runners.choose import runner_for
from pipeline.runners.dataflow.status import JOBS
from pipeline.runners.explain import Setting, describe, not_looked_at, print_settings
from transforms.core import uris
from transforms.core.errors import LemmabeamError, ModelError, StoreError, UsageError
from transforms.core.resources import LIVE, shared
from transforms.model.choices import FINITE, OFF, STRICT
from transforms.model.resolve import is_on_this_machine, printable_location
from transforms.output import dead_letters
from transforms.runs import in_progress, lease
from transforms.runs.complete import CompleteRun, read_run
from transforms.runs.report import RunReport
from transforms.sources import preflight
from transforms.sources.inputs import Input, Kind


def run(
    args: LabelOptions,
    beam_options: beam.pipeline.PipelineOptions,
    started_at: datetime.datetime,
    messages: Messages,
    retried: CompleteRun | None = None,
    reasons: Sequence[str] = (),
) -> int:
    """Labels as a command does, or says with --explain what it would do; see `label`.

    Returns:
      The exit code.
    """
    logs.show_engine(args.verbose)
    if args.explain:
        _explain(args, beam_options, started_at, messages, retried, reasons)
    else:
        label(args, beam_options, started_at, messages, retried, reasons)
    return 0


def label(
    args: LabelOptions,
    beam_options: beam.pipeline.PipelineOptions,
    started_at: datetime.datetime,
    messages: Messages = SILENT,
    retried: CompleteRun | None = None,
    reasons: Sequence[str] = (),
    stopping: Stopping = stopping_on_signals,
) -> RunReport | None:
    """Labels.

    Args:
      args: of the command.
      beam_options: of Beam.
      started_at: when it began, UTC: what is imported for it takes seconds.
      messages: takes what people are told.
      retried: label what failed in this run, instead of --input.
      reasons: of the dead letters that are tried again.
      stopping: what a signal is answered with.

    Returns:
      The report, or None of a job that was submitted and is not waited for.

    Raises:
      LemmabeamError: what stopped it.
      TooManyFailed: it is complete, but with more dead letters than --max_failure_rate allows.
    """
    LIVE.begin()
    runner = runner_for(beam_options, messages)
    runner.check(args)
    args, _ = runner.defaults(args)
    failed = retried and _dead_letters(args, retried, reasons)
    config = make_config(args, started_at, DownloadReporter(messages), failed)
    if retried and config.layout.model_id != retried.model_id:
        raise UsageError(
            f'--model {args.model}: it is {config.layout.model_id} now, but run {retried.id} '
            f'had {retried.model_id}; name that one with --model'
        )
    _tell(config, messages)
    config, _ = runner.fit(args, config, AmountOf(config))
    config = _attempt(args, config, runner, messages, stopping)
    if args.no_wait:
        report = config.layout.uri(config.layout.report_path)
        messages.say(f'Run {config.layout.run_id} is complete once there is {report}')
        messages.result({'run_id': config.layout.run_id, 'is_submitted': True, 'report': report})
        return None
    return _conclude(config, args.report_thumbnails, messages)


def _attempt(
    args: LabelOptions, config: RunConfig, runner: Runner, messages: Messages, stopping: Stopping
) -> RunConfig:
    """Does the run while nobody else writes into its output.

    Returns:
      The config as the run has it, which may be another attempt at an earlier one.
    """
    root = runner.make_pipeline()
    told = tell_waiting(messages)
    lease.acquire(config.layout, args.break_lease, args.wait_for_lease_sec, told, JOBS)

    attempt = Attempt(root, config, runner, messages)
    is_begun = False

    def give_back() -> None:
        if attempt.is_submitted:  # it is the job's
            return
        try:
            if is_begun:
                in_progress.leave_nothing(config.layout)
        finally:
            lease.release(config.layout)

    with stopping(lambda: attempt.advice(), give_back):
        try:
            settled = settle(config, args, messages)
            lease.rename(config.layout, settled.layout.run_id)
            config, is_begun = settled, True
            attempt = Attempt(root, config, runner, messages)
            with reporting(messages.progress):
                shared(preflight.check, config.preflight)
            for folder in runner.prepare(config):
                preflight.check_writable(folder, config.load.stores)
            attempt.run(not args.no_wait, args.verbose)
        finally:
            # A store that is gone has been reported already.
            with contextlib.suppress(StoreError):
                give_back()
    return config


def _explain(
    args: LabelOptions,
    beam_options: beam.pipeline.PipelineOptions,
    started_at: datetime.datetime,
    messages: Messages,
    retried: CompleteRun | None,
    reasons: Sequence[str],
) -> None:
    """Says what the run would be given, and starts nothing."""
    runner = runner_for(beam_options, messages)
    runner.check(args)
    args, settings = runner.defaults(args)
    failed = retried and _dead_letters(args, retried, reasons)
    found = _look_at(args, runner, started_at, failed, messages)
    print_settings(runner.title, [*settings, *found], messages)


def _look_at(
    args: LabelOptions,
    runner: Runner,
    started_at: datetime.datetime,
    failed: Retried | None,
    messages: Messages,
) -> list[Setting]:
    """What follows from model and inputs; fetches no model, and tells what it cannot look at."""
    model = f'--model={printable_location(args.model)}'
    try:
        if not is_on_this_machine(args.model, args.model_cache):
            why = 'it is not on this machine, and fetched when a run begins'
            return not_looked_at(args, model, why)
        config = make_config(args, started_at, None, failed, measure=None)
    except ModelError as e:
        return not_looked_at(args, model, str(e))
    except StoreError as e:
        return not_looked_at(args, '--input, --output', str(e))
    _tell(config, messages)
    try:
        config, found = runner.fit(args, config, AmountOf(config))
    except StoreError as e:
        found = [Setting('--num_workers', f'not looked at: {e}')]
    return [*found, *describe(config, runner.cores)]


def _dead_letters(args: LabelOptions, run: CompleteRun, reasons: Sequence[str]) -> Retried:
    output = uris.absolute(args.output).rstrip('/')
    folder = f'{dead_letters.KIND}/model={run.model_id}/run={run.id}'
    stores = store_options(args).for_output()
    source = Input(Kind.DEAD_LETTERS, uris.join(output, folder), ','.join(reasons), stores)
    return Retried(source, run.report.inputs)


def _conclude(config: RunConfig, thumbnails: int, messages: Messages) -> RunReport:
    """Shows what came out."""
    layout = config.layout
    run = read_run(layout.output, layout.run_id, layout.store)
    if run is None:
        raise StoreError(f'{layout.uri(layout.report_path)} was written, but is not there')
    console = messages.console()
    if not console.quiet:  # rows are read for it
        print_summary(run.report, layout, console)
    messages.result(run.report.to_json())
    if layout.is_local:
        _write_html_report(config, thumbnails, messages)
    counts = run.report.counts
    if not counts.listed:
        why = describe_nothing(counts, config.options['since'])
        messages.note(why)
    failed = counts.dead_lettered
    if failed and failed / counts.listed > config.max_failure_rate:
        rate = config.max_failure_rate
        raise TooManyFailed(
            f'{failed} of {counts.listed} images failed, more than --max_failure_rate {rate:g} '
            'allows; the results are kept',
            run.report,
            rate,
        )
    return run.report


def _write_html_report(config: RunConfig, thumbnails: int, messages: Messages) -> None:
    """Writes it beside a report that is complete without: whatever goes wrong is only said."""
    layout = config.layout
    try:
        written = write_html_report(layout.output, layout.run_id, config.load.stores, thumbnails)
    except Exception as e:  # noqa: BLE001 (the run is done, and its results are kept)
        reason = str(e) if isinstance(e, LemmabeamError) else f'{type(e).__name__}: {e}'
        messages.note(
            f'no report for people was written: {uris.printable(reason)}; the run is complete'
        )
    else:
        messages.say(f'For people: {uris.printable(written)}')


def _tell(config: RunConfig, messages: Messages) -> None:
    """Says what is not as everybody expects it: no account, another model, less of a canary."""
    for note in config.notes:
        messages.note(note)
    model = config.inference.model
    if not model.is_packaged:
        messages.note(f'model {model.id}')
        for why in model.passed_over:
            messages.note(f'passed over: {why}')
        where = printable_location(model.location)
        messages.note(f'its weights are the {model.kind.value} of {where}')
        messages.note(f'--model_sha256 {model.weights_sha256} pins its weights')
    if not model.card.has_classes:
        messages.note('this model has no classes: features only, no labels')
    mode = config.inference.canary
    if mode != STRICT:
        said = {
            FINITE: 'it is not checked that the model sees in a picture what is there',
            OFF: 'nothing is asked of the model before it labels',
        }
        messages.note(f'--canary {mode}: {said[mode]}')
