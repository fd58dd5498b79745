"""Where pages of a listing that nobody has asked for yet probably begin.

Names are taken for numbers: each position is a digit, of the characters that names have there.  So
what a few pages span tells how far the next ones reach, whether names count up, are hashes or lie
in many small folders.  A wrong guess costs requests, and never a name.
"""

import bisect
import os
import string
from collections.abc import Iterable, Sequence

_CARRIED = 8  # positions before the first difference that may change, too
_EXACT = 8  # positions from it on that are looked at
_CLASSES = (
    frozenset(string.digits),
    *map(frozenset, ('abcdef', string.ascii_lowercase)),
    *map(frozenset, ('ABCDEF', string.ascii_uppercase)),
)
_ASCII = 128
_BLOCK = 64  # characters beyond ASCII that share all bytes but the last
_SCRIPT = 4096  # characters beyond ASCII that may follow: of a large script a fifth
_SURROGATES = 0xD800  # are no characters


def extrapolate(
    marks: Sequence[str],
    names: Iterable[str],
    pages: int,
    until: str,
    begins: int,
    wanted: int,
) -> list[str]:
    """Names behind the last mark, each some pages behind the one before, in their order.

    Args:
      marks: where pages began or ended, in order; at least two, or there is nothing to go by.
      names: others near there, which tell what characters names have.
      pages: between one name and the next.
      until: all are before it, the last one by about as many pages, too; '' if there is no end.
      begins: so many characters are the same in all names there may be.
      wanted: how many at most.
    """
    first, last = marks[0], marks[-1]
    differs = len(os.path.commonprefix((first, last)))  # noqa: RUF071 (of characters)
    start = max(begins, differs - _CARRIED)
    digits = _digits([*marks, *names], range(start, differs + _EXACT), differs)
    low, high = (_number(each[start:], digits) for each in (first, last))
    step = pages * (high - low) / (len(marks) - 1)
    if step < 1:
        return []
    top = _number(until[start:], digits) if until else None
    if until and not until.startswith(last[:start]):
        top = None
    found: list[str] = []
    for count in range(1, wanted + 1):
        number = high + int(count * step)
        if top is not None and number + step / 2 > top:
            break
        rest = _text(number, digits)
        name = last[:start] + rest
        if not rest or name <= (found[-1] if found else last) or (until and name >= until):
            break
        found.append(name)
    return found


def _digits(names: Sequence[str], positions: Iterable[int], differs: int) -> list[str]:
    """Of each position the characters that are likely there, in their order."""
    found = []
    for position in positions:
        seen = {name[position] for name in names if position < len(name)}
        likely = seen.union(*map(_neighbours, seen))
        if position == differs and (top := ord(max(likely, default=' '))) >= _ASCII:
            likely.update(map(chr, range(top + 1, min(top + _SCRIPT, _SURROGATES))))
        found.append(''.join(sorted(likely)))
    while found and not found[-1]:
        found.pop()
    return found


def _neighbours(char: str) -> Iterable[str]:
    for each in _CLASSES:
        if char in each:
            return each
    if ord(char) < _ASCII:
        return char
    start = ord(char) // _BLOCK * _BLOCK
    return map(chr, range(start, start + _BLOCK))


def _number(name: str, digits: Sequence[str]) -> int:
    number = 0
    for i, alphabet in enumerate(digits):
        number *= len(alphabet)
        if i < len(name):
            number += min(bisect.bisect_left(alphabet, name[i]), len(alphabet) - 1)
    return number


def _text(number: int, digits: Sequence[str]) -> str:
    """The opposite; '' if there is no such name."""
    chars = []
    for alphabet in reversed(digits):
        number, digit = divmod(number, len(alphabet))
        chars.append(alphabet[digit])
    return '' if number else ''.join(reversed(chars))
