"""Which id and place among the runs of its output a new run may have.

Called by whoever holds the lease of the output, so that nothing changes meanwhile.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

from transforms.core.errors import LemmabeamError, UsageError
from transforms.output.layout import Layout, check_dataset
from transforms.runs import in_progress
from transforms.runs.complete import CompleteRun
from transforms.runs.in_progress import Unfinished


def next_sequence(layout: Layout, runs: Sequence[CompleteRun], found: Sequence[Unfinished]) -> int:
    """The place of a run that begins now: behind every other one that has begun.

    Args:
      layout: the output, and the run.
      runs: the complete ones.
      found: the work of the others.
    """
    places = [run.sequence for run in runs]
    for each in found:
        if each.has_begun and each.run_id != layout.run_id:
            with contextlib.suppress(LemmabeamError):  # of another version, or damaged
                begun = in_progress.begun(dataclasses.replace(layout, run_id=each.run_id))
                places.append(begun.sequence if begun else 0)
    return 1 + max(places, default=0)


def check_new_run(layout: Layout, runs: Sequence[CompleteRun], command: str) -> None:
    """Refuses the id of a run that is there already, unless as an incomplete one of this command.

    Raises:
      UsageError: it is; or the run does not fit the dataset.
    """
    check_dataset(layout)
    refuse_complete(layout, layout.run_id, runs)
    begun = in_progress.begun(layout)
    if begun is not None and begun.options.get('command') != command:
        raise UsageError(
            f'--run_id {layout.run_id}: a run of this id is incomplete in {layout.output}; choose '
            'another id'
        )


def refuse_complete(layout: Layout, given: str | None, runs: Sequence[CompleteRun]) -> None:
    """Refuses the id of a complete run.

    Args:
      layout: the output.
      given: the id, or None where none was asked for.
      runs: the complete ones.

    Raises:
      UsageError: that, or the file system takes the id for that of one.
    """
    if given is not None and any(run.id == given for run in runs):
        raise UsageError(
            f'--run_id {given}: this run is complete in {layout.output}; choose another id'
        )
    if given is not None and layout.store.stat(layout.uri(layout.report_path)) is not None:
        raise taken_for_another(layout, given)


def taken_for_another(layout: Layout, run_id: str) -> UsageError:
    """What to raise where the id of a run leads to the files of another one."""
    return UsageError(
        f'--run_id {run_id}: the file system of {layout.output} takes it for the id of another run '
        'there, as it does not tell upper from lower case; choose another id'
    )
