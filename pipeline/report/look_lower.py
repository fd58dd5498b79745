"""What to do where most images have no label: a threshold is a guess."""

import shlex
from collections.abc import Mapping


def look_lower(
    without: int | None, labeled: int, metadata: Mapping[str, str], output: str = 'DIR'
) -> str:
    """How to see lower scores, and whether that needs the model again.

    Args:
      without: rows without a label, or None where nobody counted them.
      labeled: all rows.
      metadata: of the run.
      output: its folder.

    Returns:
      A line for people; '' where no more than half of the rows have no label.

    Raises:
      LookupError, ValueError: it is not metadata of ours.
    """
    if without is None or 2 * without <= labeled:
        return ''
    said = 'More than half of the images have no label: '
    relabel = f'`lemmabeam relabel --output {shlex.quote(output)} --threshold'
    if 'relabeled_from' in metadata:
        return (
            f'{said}{relabel} SCORE` with a lower score needs no model, down to what the '
            'relabelled runs have stored; below that it says so.'
        )
    threshold, floor = float(metadata['threshold']), float(metadata['stored_floor'])
    if floor < threshold:
        return (
            f'{said}scores from {floor:g} on are stored, so {relabel} {floor:g}` can use them '
            'without the model.'
        )
    if threshold <= 0:  # --keep_above takes no lower one
        return ''
    lower = f'{threshold / 10:g}'
    return (
        f'{said}no scores below {threshold:g} are stored, so looking lower needs the model '
        f'again.  First run `lemmabeam label --sample 1000 --keep_above {lower}` into another '
        f'`--output`; there `lemmabeam relabel --threshold` can try any score from {lower} on '
        'without the model.  Then label everything with `--force` and the threshold you chose.'
    )
