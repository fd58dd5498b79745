"""The metadata of the files of a relabelling, made from those of its sources."""

from collections.abc import Sequence

from transforms.dataset import newest
from transforms.dataset.relabel import Thresholds
from transforms.output import run_metadata
from transforms.runs.complete import CompleteRun

# Of an earlier relabelling, when that is the newest source.
_OWN = (
    'relabeled_from',
    'thresholds_sha256',
    'complete_from',
    run_metadata.SCORES_FLOOR,
    run_metadata.SCORES_MAX,
)


def relabelled_metadata(
    used: Sequence[CompleteRun], thresholds: Thresholds, max_labels: int
) -> dict[str, str]:
    """Of the scores of `used`, with other labels.

    Args:
      used: the runs that the rows come from; the last one decides everything else.
      thresholds: what makes a score a label.
      max_labels: how many labels a row has at most.
    """
    metadata = _source_metadata(used)
    for key in _OWN:
        metadata.pop(key, None)
    metadata |= {
        'threshold': str(thresholds.threshold),
        'stored_floor': str(thresholds.lowest),
        'max_labels': str(max_labels),
        'min_labels': '0',
        'relabeled_from': _ids(used),
    }
    if thresholds.file:
        metadata['thresholds_sha256'] = thresholds.sha256
        # Of some classes, scores up to this are missing.
        metadata['complete_from'] = str(float(thresholds.values.max()))
    return metadata


def copied_metadata(used: Sequence[CompleteRun], sources: Sequence[CompleteRun]) -> dict[str, str]:
    """Of the newest rows as they are, `used`, with the scores of `sources` beside them."""
    metadata = _source_metadata(used)
    metadata['relabeled_from'] = _ids(sources)
    for key in (run_metadata.SCORES_FLOOR, run_metadata.SCORES_MAX):
        metadata.pop(key, None)
    floor = max(newest.floor_of(run.report.metadata) for run in sources)
    limit = min(newest.limit_of(run.report.metadata) for run in sources)
    are_all = floor >= newest.floor_of(metadata) and limit <= newest.limit_of(metadata)
    if not are_all:  # the labels are not all that is known
        metadata |= {run_metadata.SCORES_FLOOR: str(floor), run_metadata.SCORES_MAX: str(limit)}
    return metadata


def lost_features(used: Sequence[CompleteRun]) -> list[str]:
    """The ids of runs whose features are not taken over, because other rows have none."""
    # A list of fixed size that may be null is read by few.
    featured = [run.id for run in _by_time(used) if run_metadata.FEATURES in run.report.metadata]
    return featured if len(featured) < len(used) else []


def _source_metadata(used: Sequence[CompleteRun]) -> dict[str, str]:
    """That of the last run; without features, where not all rows have them."""
    metadata = dict(used[-1].report.metadata)
    if lost_features(used):
        metadata.pop(run_metadata.FEATURES, None)
    return metadata


def _by_time(runs: Sequence[CompleteRun]) -> list[CompleteRun]:
    return sorted(runs, key=lambda run: run[:3])


def _ids(runs: Sequence[CompleteRun]) -> str:
    return ','.join(run.id for run in _by_time(runs))
