"""Whole jobs: what the commands of the same names do, as functions.

They print nothing, install no handler of signals, and may be called from any thread.
"""

import dataclasses
import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from pipeline.api.keywords import as_stores, options_of, stores_of, takes, value_of, wrong
from pipeline.api.quiet import called, without_signals
from pipeline.api.results import Comparison, LatestFile, Verified
from pipeline.flags import declared
from pipeline.job.retry import NOT_IN_RETRY, RetryOptions
from pipeline.options import (
    DEFAULT_THUMBNAILS,
    OPTIONS,
    STORE_OPTIONS,
    LabelOptions,
    option_of,
    store_options,
)
from transforms.core import uris

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from transforms.runs.report import RunReport

    BeamOptions: TypeAlias = PipelineOptions | Mapping[str, Any] | Sequence[str] | None

Path = str | os.PathLike[str]


@overload
def label(
    input: Path | Iterable[Path],
    output: Path,
    *,
    no_wait: Literal[True],
    progress: bool = ...,
    pipeline_options: 'BeamOptions' = ...,
    **options: Any,
) -> None: ...
@overload
def label(
    input: Path | Iterable[Path],
    output: Path,
    *,
    no_wait: Literal[False] = ...,
    progress: bool = ...,
    pipeline_options: 'BeamOptions' = ...,
    **options: Any,
) -> 'RunReport': ...
@takes(OPTIONS)
def label(
    input: Path | Iterable[Path],  # noqa: A002 (as its flag is called)
    output: Path,
    *,
    progress: bool = False,
    pipeline_options: 'BeamOptions' = None,
    **options: Any,
) -> 'RunReport | None':
    """Labels every image of an input, as `lemmabeam label` does.

    Calling it again with the same arguments resumes what was interrupted, and otherwise labels only
    what is new or has changed.

    Args:
      input: what to label: a folder or prefix, a glob, a manifest, an image or a file with images
        inside, local, gs://, s3:// or az://; or several of them.
      output: the folder to write to, local, gs://, s3:// or az://.
      progress: show on standard error how far it is, and what is to be known beside the report;
        else that is logged, as INFO of the logger `lemmabeam`.
      pipeline_options: of Beam: PipelineOptions, a dict, or flags as ['--runner=DataflowRunner'];
        by default its local FnApiRunner.
      **options: every option of the command by its name, as pipeline/OPTIONS.md has them: numbers,
        texts, paths and lists of names, sizes in bytes or as '64MiB', shares from 0 to 1; `since`
        as a datetime (UTC where it has no zone) or a timedelta as well. None is the default.

    Returns:
      The report of the run, which `output`/runs/<run_id>/report.json holds as well; None with
      no_wait=True, of a job that was submitted and goes on.

    Raises:
      TypeError: there is no such option.
      errors.UsageError: a value cannot be used.
      errors.TooManyFailed: the run is complete and its results are kept, but more images than
        max_failure_rate allows have failed; its `report` says which.
      errors.ModelError, errors.StoreError, errors.ManifestError: model, store or manifest cannot
        be used; what is finished is kept.
      errors.LemmabeamError: all else that stops a run.
      KeyboardInterrupt: Ctrl-C; what is finished is kept.

    Example:
      >>> report = lb.label('photos', 'labels', threshold=0.2)
      >>> report.counts.labeled, report.counts.dead_lettered
      (3, 0)
      >>> report.top_labels[0].name
      'espresso'
    """
    started_at = datetime.datetime.now(datetime.UTC)
    with called(progress) as messages:
        given = {'input': input, 'output': output, **options}
        args = options_of(LabelOptions, given, 'label')
        from pipeline.api.beam_options import beam_options_of
        from pipeline.job import labelling

        beam_options = beam_options_of(pipeline_options)
        return labelling.label(args, beam_options, started_at, messages, stopping=without_signals)


@takes([each for each in declared(RetryOptions) if each.name not in (*NOT_IN_RETRY, 'no_wait')])
def retry(
    output: Path,
    *,
    reasons: str | Iterable[str] | None = None,
    progress: bool = False,
    pipeline_options: 'BeamOptions' = None,
    **options: Any,
) -> 'RunReport | None':
    """Labels what failed in the last run and may succeed now, as `lemmabeam retry` does.

    Args:
      output: the folder of that run, whose options hold unless they are given here.
      reasons: of the dead letters to try again; by default those that may be others the next time.
      progress: as of `label`.
      pipeline_options: of Beam, as of `label`; those of the last run do not hold.
      **options: as of `label`, but for input, sample, since and force.

    Returns:
      The report of the run that was made, or None where there was nothing to retry (or a job was
      submitted with no_wait=True).

    Raises:
      TypeError: there is no such option.
      errors.UsageError: there is no run to retry, or a value cannot be used.
      errors.LemmabeamError: what else stops a run, as of `label`.

    Example:
      >>> lb.retry('labels') is None  # nothing has failed
      True
    """
    started_at = datetime.datetime.now(datetime.UTC)
    with called(progress) as messages:
        from pipeline.job import retry as job

        if reasons is not None and not isinstance(reasons, str):
            reasons = ','.join(reasons)
        folder = uris.absolute(os.fspath(output)).rstrip('/')
        given = {'input': (), 'output': output, 'reasons': reasons, **options}
        wanted = options_of(RetryOptions, given, 'retry')
        job.check_given(wanted)
        run = job.last_run(folder, store_options(wanted).for_output())
        theirs = {k: v for k, v in job.taken_over(run).items() if given.get(k) is None}
        wanted = dataclasses.replace(wanted, **theirs, retry_dead=True)
        chosen = job.reasons_of(wanted.reasons)
        if not job.count_failed(run, chosen):
            return None
        from pipeline.api.beam_options import beam_options_of
        from pipeline.job import labelling

        beam_options = beam_options_of(pipeline_options)
        return labelling.label(
            wanted, beam_options, started_at, messages, run, chosen, without_signals
        )


@takes(STORE_OPTIONS)
def relabel(
    output: Path,
    *,
    threshold: float | None = None,
    thresholds: Path | None = None,
    max_labels: int | None = None,
    model_id: str | None = None,
    run_id: str | None = None,
    wait_for_lease_sec: float = 0.0,
    break_lease: bool = False,
    progress: bool = False,
    **stores: Any,
) -> 'RunReport':
    """Labels anew from the stored scores, as `lemmabeam relabel` does: without model and images.

    Without `threshold`, `thresholds` and `max_labels` it makes one run of the newest rows as they
    are.

    Args:
      output: the folder, in which a run of its own is written.
      threshold: a class whose score reaches it is a label, from the stored floor up.
      thresholds: CSV file with the header class,threshold for single classes.
      max_labels: at most so many labels an image; each of these three by default as in the newest
        run.
      model_id: the model whose scores are meant; may be left out where there is one.
      run_id: name of the run; by default the time and four random hex digits.
      wait_for_lease_sec: seconds to wait for another run that is writing there.
      break_lease: start although another run seems to be writing there.
      progress: tell on standard error for whom it waits.
      **stores: how stores are reached: user_project, anonymous, s3_endpoint_url, s3_region_name,
        s3_request_payer, allow_private_hosts, requests_per_host, user_agent, ignore_robots_tag, as
        of `label`.

    Returns:
      The report of the run; `cut_rows` counts rows that may lack labels.

    Raises:
      errors.UsageError: there is no such output, or a value cannot be used.
      errors.StoreError: a file is damaged, or a store fails; nothing is published then.

    Example:
      >>> report = lb.relabel('labels', threshold=0.5)
      >>> report.counts.labeled, report.counts.without_label
      (3, 2)
    """
    with called(progress) as messages:
        from pipeline.job import relabel as job

        limit = None if max_labels is None else value_of(option_of('max_labels'), max_labels)
        wait_sec = value_of(option_of('wait_for_lease_sec'), wait_for_lease_sec)
        options = {
            'output': os.fspath(output),
            'threshold': None if threshold is None else value_of(option_of('threshold'), threshold),
            'thresholds': None if thresholds is None else os.fspath(thresholds),
            'max_labels': limit,
            'model_id': model_id,
            'run_id': run_id,
            'wait_for_lease_sec': wait_sec,
            'break_lease': value_of(option_of('break_lease'), break_lease),
            **stores_of(stores, 'relabel'),
        }
        folder = _folder(output)
        done = job.relabel_output(folder, options, as_stores(options), messages, without_signals)
        return done.report


@takes(STORE_OPTIONS)
def verify(folder: Path, **stores: Any) -> Verified:
    """Checks that an output is whole and consistent, as `lemmabeam verify` does.

    Every file is read, and held against the reports and their checksums.

    Args:
      folder: the output of `label`.
      **stores: as of `relabel`.

    Raises:
      errors.UsageError: there is no such output, or it is one of another version.
      errors.StoreError: the store does not answer.

    Example:
      >>> lb.verify('labels').is_whole
      True
    """
    with called(False):
        from transforms.dataset.verify import notes
        from transforms.dataset.verify import verify as job

        reached = as_stores(stores_of(stores, 'verify'))
        name = os.fspath(folder)
        return Verified(tuple(job(name, reached)), tuple(notes(name, reached)))


@takes(STORE_OPTIONS)
def compare(
    folder: Path,
    other: Path,
    *,
    by_name: bool = False,
    exact: bool = False,
    tolerance: float = 0.0,
    **stores: Any,
) -> Comparison:
    """Compares two outputs, as `lemmabeam verify DIR OTHER` does: the newest row of each image.

    Args:
      folder: the output of `label`.
      other: another one.
      by_name: pair images by name below the common folder of each, whatever their uri and
        object_version: for the same images in two places.
      exact: compare run by run, by their ids, and the bytes of the files.
      tolerance: largest difference of two scores that counts as equal.
      **stores: as of `relabel`.

    Raises:
      errors.UsageError: there is no such output, or it is one of another version.
      errors.StoreError: the store does not answer.

    Example:
      >>> found = lb.compare('labels', 'labels')
      >>> found.is_same, found.totals
      (True, '3 predictions; 0 dead letters')
    """
    with called(False):
        from transforms.dataset.verify import verify_and_compare

        found = verify_and_compare(
            os.fspath(folder),
            os.fspath(other),
            by_name=by_name,
            exact=exact,
            tolerance=tolerance,
            stores=as_stores(stores_of(stores, 'compare')),
        )
        return Comparison(tuple(found.differences), found.totals)


@takes(STORE_OPTIONS)
def latest(
    folder: Path,
    output: Path,
    *,
    model_id: str | None = None,
    drop_gone: bool = False,
    **stores: Any,
) -> LatestFile:
    """Writes the newest row of every image and model into one file, as `lemmabeam latest` does.

    Args:
      folder: the output of `label`.
      output: the Parquet file to write or replace, local, gs://, s3:// or az://, outside of it.
      model_id: only the rows of this model.
      drop_gone: leave out rows whose image the inputs of their run do not list any more.
      **stores: as of `relabel`.

    Raises:
      errors.UsageError: there is no such output or model, or the file cannot lie there.
      errors.StoreError: a file is damaged, or a store fails.

    Example:
      >>> lb.latest('labels', 'latest.parquet').rows
      {'efficientnet-lite0-30581518': 3}
    """
    with called(False):
        from transforms.dataset.latest_file import write_latest_to
        from transforms.dataset.reader import dataset_at

        reached = as_stores(stores_of(stores, 'latest'))
        dataset = dataset_at(_folder(folder), reached)
        uri, counts = write_latest_to(os.fspath(output), dataset, model_id, reached, drop_gone)
        return LatestFile(
            uri,
            {model: each.rows for model, each in counts.items()},
            {model: each.superseded for model, each in counts.items()},
            {model: each.gone for model, each in counts.items()},
        )


@takes(STORE_OPTIONS)
def clean(
    folder: Path,
    *,
    run_id: str | Iterable[str] | None = None,
    prune_before: str | None = None,
    drop: str | Iterable[str] = (),
    forget: str | Iterable[str] = (),
    dry_run: bool = False,
    wait_for_lease_sec: float = 0.0,
    break_lease: bool = False,
    progress: bool = False,
    **stores: Any,
) -> tuple[str, ...]:
    """Removes what interrupted runs have left, old runs and single images: `lemmabeam clean`.

    Args:
      folder: the output of `label`.
      run_id: incomplete runs to remove, by default all of them.
      prune_before: also remove every complete run before this one, unless a row of theirs is the
        newest of its image.
      drop: 'scores' and 'features' may go though no later run has them.
      forget: also remove these images from every run, as the column uri has them.
      dry_run: only say what would be removed.
      wait_for_lease_sec, break_lease, progress: as of `relabel`.
      **stores: as of `relabel`.

    Returns:
      What was removed, or would be, a line each.

    Raises:
      errors.UsageError: there is no such folder, something cannot be removed, or an image to
        forget is in no run (all else is done then).
      errors.StoreError: a file is damaged, or a store fails.

    Example:
      >>> lb.clean('labels', dry_run=True)  # nothing was interrupted
      ()
    """
    with called(progress) as messages:
        from pipeline.job import clean as job

        dropped = _listed(drop)
        for each in dropped:
            if each not in job.DROPPABLE:
                raise wrong('drop', each, f'expected one of {", ".join(job.DROPPABLE)}')
        wanted = job.Wanted(
            None if run_id is None else _listed(run_id),
            prune_before,
            dropped,
            _listed(forget),
            dry_run,
        )
        done = job.clean(
            os.fspath(folder),
            wanted,
            as_stores(stores_of(stores, 'clean')),
            break_lease,
            value_of(option_of('wait_for_lease_sec'), wait_for_lease_sec),
            messages,
            without_signals,
        )
        done.check_found()
        return tuple(done.lines)


@takes(STORE_OPTIONS)
def report(
    folder: Path,
    output: Path | None = None,
    *,
    run_id: str | None = None,
    report_thumbnails: int = DEFAULT_THUMBNAILS,
    **stores: Any,
) -> str:
    """Writes the report of a run for people, one HTML file, as `lemmabeam report` does.

    Args:
      folder: the output of `label`.
      output: the file, local, gs://, s3:// or az://; by default runs/<run_id>/report.html in the
        folder.
      run_id: the run, by default the latest complete one.
      report_thumbnails: pictures in each section, read again from where they lie; 0 reads none.
      **stores: as of `relabel`.

    Returns:
      The absolute URI of the file.

    Raises:
      errors.UsageError: there is no such output or run, or the file cannot be written there.
      errors.StoreError: a file is damaged, or the store does not answer.

    Example:
      >>> lb.report('labels', 'report.html').rpartition('/')[2]
      'report.html'
    """
    with called(False):
        from pipeline.report.html.report import write_html_report

        return write_html_report(
            uris.absolute(os.fspath(folder)).rstrip('/'),
            run_id,
            as_stores(stores_of(stores, 'report')),
            value_of(option_of('report_thumbnails'), report_thumbnails),
            None if output is None else os.fspath(output),
        )


def _folder(path: Path) -> str:
    return uris.absolute(os.fspath(path)).rstrip('/') or '/'


def _listed(values: str | Iterable[str]) -> list[str]:
    return [values] if isinstance(values, str) else list(values)
