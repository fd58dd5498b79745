"""Files that a listing leaves out: how they are counted and reported."""

from collections.abc import Mapping

from transforms.core import uris

NOT_IMAGE = 'skipped_not_image'
"""Key of the count of files that a listing passes over, and the head of those by suffix."""

_MOST_SUFFIXES = 10  # in messages


def suffixes_of(left_out: Mapping[str, int]) -> dict[str, int]:
    """How many files have each of the commonest suffixes that images do not have."""
    found = {
        key.removeprefix(f'{NOT_IMAGE}/'): n
        for key, n in left_out.items()
        if key.startswith(f'{NOT_IMAGE}/')
    }
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_SUFFIXES])


def describe_suffixes(suffixes: Mapping[str, int], files: int) -> str:
    """Which files were passed over, as '5 .txt, 3 without a suffix, 2 others'.

    Args:
      suffixes: of `suffixes_of`.
      files: how many there are in all.
    """
    texts = [f'{n:,} {uris.printable(name) or "without a suffix"}' for name, n in suffixes.items()]
    others = files - sum(suffixes.values())
    return ', '.join([*texts, f'{others:,} others'] if others else texts)
