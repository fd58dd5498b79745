"""What the metadata of the files of a run say; knows no Arrow, which takes its time."""

import math
from collections.abc import Mapping

FEATURES = 'features'
"""Column of the pooled features, a fixed-size list of float16, where they were asked for."""

SCORES_FLOOR = 'scores_floor'
"""Metadata of a run with `STORED_SCORES`: from where on they are complete."""

SCORES_MAX = 'scores_max_labels'
"""Metadata of a run with `STORED_SCORES`: how many an image has at most."""


def least_score(metadata: Mapping[str, str]) -> float:
    """What the first label of a row of predictions must reach to count as one.

    With --keep_above, scores below the threshold are stored as well.  With --min_labels, the best
    classes are labels whatever their scores, and so are all where classes have thresholds of their
    own.

    Args:
      metadata: of the run.

    Raises:
      LookupError, ValueError: it is not metadata of ours.
    """
    if 'thresholds_sha256' in metadata or int(metadata.get('min_labels', '0')):
        return -math.inf
    return float(metadata['threshold'])
