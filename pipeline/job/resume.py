"""Which run this is: a new one, or another attempt of one that was interrupted.

Called by whoever holds the lease of the output, so that nothing changes meanwhile.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import RunConfig
from pipeline.job.new_run import next_sequence, refuse_complete, taken_for_another
from pipeline.messages import SILENT, Messages
from pipeline.options import OPTIONS, LabelOptions
from transforms.core.errors import DamagedError, StoreError, UsageError
from transforms.core.reasons import Reason
from transforms.dataset.latest_sql import write_latest_sql
from transforms.output import run_metadata
from transforms.output.layout import Layout, check_dataset
from transforms.runs import checkpoints, in_progress
from transforms.runs.complete import CompleteRun, complete_runs
from transforms.runs.history import failed_files, has_listed, history_files
from transforms.runs.in_progress import Begun, Unfinished
from transforms.runs.publish import find_commit, remove_tree
from transforms.sources import snapshot
from transforms.sources.resolve import check_not_empty

# What the rows of one dataset must have in common, as the metadata of the files has it.
_COMMON = {
    'stored_floor': '--keep_above or --threshold',
    'max_labels': '--max_labels',
    'min_labels': '--min_labels',
    'activation': 'the activation of the model card',
    'features': '--features',
}


def settle(config: RunConfig, args: LabelOptions, messages: Messages = SILENT) -> RunConfig:
    """Finds out which run this is, and what earlier runs have done already.

    An interrupted run with the same options and model is resumed under its id, unless one that
    began later has done all of it: what it has left would be paid for, and superseded at once.

    Returns:
      The config of that run; how it was begun is written down.

    Raises:
      UsageError: the run is complete, or was begun with other options; it does not fit the dataset
        or what the dataset holds.
      StoreError: a file of an earlier run is damaged.
    """
    layout = config.layout
    check_dataset(layout)
    runs = complete_runs(layout.output, layout.store)
    found = in_progress.unfinished(layout.output, layout.store)
    _finish_complete(layout, found, runs)
    refuse_complete(layout, args.run_id, runs)
    if not args.force:
        _check_common(config, runs)
    options = _deciding_options(config)
    run_id, begun = _interrupted(
        layout, args.run_id, found, runs, options, _last_of_all(config, runs), messages
    )
    layout = dataclasses.replace(layout, run_id=run_id)
    inputs = len(config.listing.inputs)
    if begun is None or args.relist or _is_listing_damaged(layout, inputs, messages):
        _check_undecided(layout)
        if config.command == 'label' and not args.allow_empty:
            for source in config.listing.inputs:
                check_not_empty(source, config.listing)
        remove_tree(layout, snapshot.folder(layout))
        if begun is None:
            # Of a run whose `run.json` is gone, nobody knows with what options they were made.
            remove_tree(layout, checkpoints.folder(layout))
        sequence = next_sequence(layout, runs, found)
        begun = Begun(config.started_at.isoformat(), sequence, [run.id for run in runs], options)
        in_progress.begin(layout, begun)
    else:
        left = next(each for each in found if each.run_id == run_id)
        if snapshot.is_listed(layout, left.paths):
            messages.note(
                f'resuming run {run_id}, started {_age(begun, config.started_at)} ({left}), with '
                'its original listing (--relist lists the inputs again)'
            )
    earlier = [run for run in runs if run.id in begun.earlier]
    limits = {name: config.options[name] for name in ('max_bytes', 'max_pixels')}
    same = (earlier, layout.model_id, config.inputs, config.listing.columns.uri)
    history = []
    if not args.force:
        # A retry has nothing but what failed: a store that is still down must stop it.
        of_stores = tuple(reason for reason in Reason if reason.about.of_store)
        again = of_stores if config.command == 'retry' else ()
        history = history_files(*same, limits, args.retry_dead) + failed_files(*same, again)
    return config.as_run(run_id, begun.sequence, history)


def _check_undecided(layout: Layout) -> None:
    """Refuses to begin anew what an attempt has committed already."""
    if find_commit(layout) is not None:
        raise UsageError(
            f'--run_id {layout.run_id}: the files of this run are decided on, and only its report '
            f'is missing: leave out --relist to finish it, or remove its work with '
            f'`lemmabeam clean {layout.output}`'
        )


def _is_listing_damaged(layout: Layout, inputs: int, messages: Messages) -> bool:
    try:
        snapshot.check(layout, inputs)
    except DamagedError as e:
        messages.note(
            f'{e}, of the listing this run was started with, is missing or damaged: the inputs are '
            'listed again, and completed chunks are kept where they are still the same'
        )
        return True
    return False


def _check_common(config: RunConfig, runs: Sequence[CompleteRun]) -> None:
    """Refuses rows that mean something else than those of the latest run of the model."""
    of_model = [run for run in runs if run.model_id == config.layout.model_id]
    if not of_model:
        return
    # What was relabelled has a floor of its own, and counts where the scores themselves are gone.
    labelling = [run for run in of_model if not run.report.is_relabelling]
    latest = (labelling or of_model)[-1]
    ours = {**config.metadata, 'features': str(config.inference.features).lower()}
    stored = latest.report.metadata
    theirs = {**stored, **_of_scores(stored), 'features': _has_features(latest)}
    for name, flag in _COMMON.items():
        if name in theirs and theirs[name] != ours[name]:
            raise UsageError(
                f'{flag}: {name} is {ours[name]}, but {theirs[name]} in run {latest.id}, the '
                f'latest of this model in {config.layout.output}: rows that are left unchanged '
                'would mean something else than new ones; give what that run had, choose another '
                '--output, or label everything again with --force'
            )


def _of_scores(metadata: Mapping[str, str]) -> dict[str, str]:
    """How the scores of a snapshot were stored, which its labels are only a part of."""
    names = {'stored_floor': run_metadata.SCORES_FLOOR, 'max_labels': run_metadata.SCORES_MAX}
    return {name: metadata[key] for name, key in names.items() if key in metadata}


def _has_features(run: CompleteRun) -> str:
    report = run.report
    return str(bool(report.options.get('features') or 'features' in report.metadata)).lower()


def _deciding_options(config: RunConfig) -> dict[str, Any]:
    free = {option.name for option in OPTIONS if not option.decides_rows}
    options = {name: value for name, value in config.options.items() if name not in free}
    del options['input']
    options |= {
        'command': config.command,
        'model': config.layout.model_id,
        'inputs': sorted(
            f'{source.kind} {source.uri} {source.pattern}'.rstrip()
            for source in config.listing.inputs
        ),
    }
    decided: dict[str, Any] = json.loads(json.dumps(options))
    return decided


def _finish_complete(
    layout: Layout, found: Sequence[Unfinished], runs: Sequence[CompleteRun]
) -> None:
    """Does what runs that were killed behind their report could not do any more."""
    in_progress.remove_temporaries(layout)
    done = {run.id for run in runs}
    left = [each.run_id for each in found if each.run_id in done]
    if left:
        write_latest_sql(layout.output, layout.store)
    for run_id in left:
        remove_tree(layout, f'_work/{run_id}')


def _interrupted(
    layout: Layout,
    given: str | None,
    found: Sequence[Unfinished],
    runs: Sequence[CompleteRun],
    options: Mapping[str, Any],
    last: CompleteRun | None,
    messages: Messages,
) -> tuple[str, Begun | None]:
    """The id of the run to do, and how it was begun if it is not a new one.

    `last` is the latest complete run over all that this one lists.
    """
    if given is not None:
        begun = in_progress.begun(layout)
        if begun is not None and given not in {each.run_id for each in found}:
            raise taken_for_another(layout, given)
        if begun is not None and begun.options != options:
            raise UsageError(
                f'--run_id {given}: this run was started with other options '
                f'({_differences(begun.options, options)}): give those, choose another id, or '
                f'remove its work with `lemmabeam clean {layout.output}`'
            )
        if begun is not None and last is not None and begun.sequence < last.sequence:
            messages.note(
                f'--run_id {given}: run {last.id} began later and is complete, so its rows are the '
                'newer ones; another id, or none, labels only what that one has not'
            )
        return given, begun
    done = {run.id for run in runs}
    candidates = []
    for each in found:
        if each.run_id in done or not each.has_begun:
            continue
        try:
            begun = in_progress.begun(dataclasses.replace(layout, run_id=each.run_id))
        except (UsageError, StoreError) as e:
            messages.note(f'{e}; it is left alone ({each})')
            continue
        if begun is None:
            continue
        now = datetime.datetime.now(datetime.UTC)
        if begun.options != options and not each.has_results:
            continue  # nothing is lost with it
        if begun.options == options and last is not None and begun.sequence < last.sequence:
            messages.note(
                f'run {each.run_id}, started {_age(begun, now)} ({each}), is not resumed: run '
                f'{last.id} started later and has labelled the same inputs; '
                f'`lemmabeam clean {layout.output}` removes it'
            )
        elif begun.options == options:
            candidates.append((begun.sequence, each.run_id, begun))
        else:
            messages.note(
                f'run {each.run_id}, started {_age(begun, now)} ({each}), was started with other '
                f'options ({_differences(begun.options, options)}) and is left alone; '
                f'`lemmabeam clean {layout.output}` removes it'
            )
    if not candidates:
        return layout.run_id, None
    _, run_id, begun = max(candidates, key=lambda candidate: candidate[:2])
    return run_id, begun


def _last_of_all(config: RunConfig, runs: Sequence[CompleteRun]) -> CompleteRun | None:
    """The latest run that has dealt with all that a run lists."""
    found = [
        run
        for run in runs
        if run.model_id == config.layout.model_id
        and has_listed(run, config.inputs, config.listing.columns.uri, config.listing.sample)
    ]
    return found[-1] if found and config.command == 'label' else None


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What differs, as 'threshold 0.3, now 0.5'."""
    names = sorted(theirs.keys() | ours.keys())
    if theirs.get('command') != ours.get('command'):
        names = ['command']
    return '; '.join(
        f'{name} {theirs.get(name)}, now {ours.get(name)}'
        for name in names
        if theirs.get(name) != ours.get(name)
    )


def _age(begun: Begun, now: datetime.datetime) -> str:
    try:
        then = datetime.datetime.fromisoformat(begun.started_at)
        seconds = (now - then).total_seconds()
    except (ValueError, TypeError):
        return f'at {begun.started_at!r}'
    if seconds < 0:  # a clock has been put back
        return f'at {begun.started_at}'
    for unit, length in (('days', 86400), ('hours', 3600), ('minutes', 60)):
        if seconds >= 2 * length:
            return f'{seconds / length:.0f} {unit} ago'
    return f'{seconds:.0f} seconds ago'
