"""What the metadata in the files of a run says; does not import Arrow, which is slow."""

import math
from collections.abc import Mapping

FEATURES = 'features'
"""Column of the pooled features, a fixed-size list of float16, if they were asked for."""

SCORES_FLOOR = 'scores_floor'
"""Metadata of a run with `STORED_SCORES`: the score from which on they are complete."""

SCORES_MAX = 'scores_max_labels'
"""Metadata of a run with `STORED_SCORES`: the most that an image has."""


def least_score(metadata: Mapping[str, str]) -> float:
    """The score that the first label of a row must reach to count as one.

    With --keep_above, scores below the threshold are stored as well.  With --min_labels, the best
    classes are labels whatever their scores, and so are all where classes have thresholds of their
    own.

    Args:
      metadata: of the run.

    Raises:
      LookupError, ValueError: it was not written by a run.
    """
    if 'thresholds_sha256' in metadata or int(metadata.get('min_labels', '0')):
        return -math.inf
    return float(metadata['threshold'])
