"""Files that a listing leaves out: how they are counted and reported."""

from collections.abc import Collection, Mapping

from transforms.core import members, uris

NOT_IMAGE = 'skipped_not_image'
"""Key of the count of files that a listing passes over, and the head of those by suffix."""

BEFORE_SINCE = 'skipped_before_since'
"""Key of the count of files that were last written before --since."""

_MOST_SUFFIXES = 10  # in messages


def suffixes_of(left_out: Mapping[str, int]) -> dict[str, int]:
    """How many files have each of the commonest suffixes that images do not have."""
    found = {
        key.removeprefix(f'{NOT_IMAGE}/'): n
        for key, n in left_out.items()
        if key.startswith(f'{NOT_IMAGE}/')
    }
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_SUFFIXES])


def advise_containers(folder: str, suffixes: Collection[str], then: str) -> str:
    """How the images inside files of a folder are labelled; '' if there are no such files.

    Args:
      folder: its name for messages.
      suffixes: of its files; tables are left out, as they may be manifests.
      then: what is to follow.
    """
    found = [each for each in suffixes if members.is_container(each) and each != '.parquet']
    if not found:
        return ''
    globs = ' and '.join(f"'{folder}/**/*{suffix}'" for suffix in found)
    return f'{globs} {"label" if len(found) > 1 else "labels"} the images inside them{then}'


def describe_suffixes(suffixes: Mapping[str, int], files: int) -> str:
    """Which files were passed over, as '5 .txt, 3 without a suffix, 2 others'.

    Args:
      suffixes: of `suffixes_of`.
      files: how many there are in all.
    """
    texts = [f'{n:,} {uris.printable(name) or "without a suffix"}' for name, n in suffixes.items()]
    others = files - sum(suffixes.values())
    return ', '.join([*texts, f'{others:,} others'] if others else texts)
