"""Globs over absolute URIs, with braces as in a shell, ranges of numbers in them among others."""

import os
import re

from transforms.core import uris
from transforms.core.errors import UsageError

_RANGE = r'\{[0-9]{1,18}\.\.[0-9]{1,18}\}'
_TOKEN = re.compile(rf'(/(?:\*\*/)+|\*\*|\*|\?|\[!?\]?[^\]/]*\]|{_RANGE})')
_MEMBER = re.compile(r'(.)-(.)|(.)', re.DOTALL)
_MOST_PATTERNS, _MOST_BRACES = 1000, 50


def expand_braces(pattern: str) -> list[str]:
    """The patterns that '{a,b}' stands for, as in a shell; braces without a comma are themselves.

    Raises:
      UsageError: there are too many.
    """
    if pattern.count('{') > _MOST_BRACES:
        raise UsageError(f'{uris.printable(pattern)}: more than {_MOST_BRACES} braces')
    for start in (i for i, char in enumerate(pattern) if char == '{'):
        pieces, end = _pieces(pattern, start)
        if len(pieces) > 1:
            heads = [pattern[:start] + each for piece in pieces for each in expand_braces(piece)]
            tails = expand_braces(pattern[end:])
            if len(heads) * len(tails) > _MOST_PATTERNS:
                shown = uris.printable(pattern)
                raise UsageError(f'{shown}: braces for more than {_MOST_PATTERNS} patterns')
            return [head + tail for head in heads for tail in tails]
    return [pattern]


def _pieces(pattern: str, start: int) -> tuple[list[str], int]:
    """What stands between the commas of a brace, and where it ends; none if it does not end."""
    pieces: list[str] = []
    depth, begun = 0, start + 1
    for i in range(start, len(pattern)):
        char = pattern[i]
        depth += (char == '{') - (char == '}')
        if (char == ',' and depth == 1) or not depth:
            pieces.append(pattern[begun:i])
            begun = i + 1
        if not depth:
            return pieces, begun
    return [], start


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The pattern over absolute URIs.

    `*` and `?` stay within a folder, `**` crosses folders and may match none, `[a-z]` and `[!a-z]`
    are character classes, `{a,b}` is either and `{000..127}` each number of three digits from one
    to the other; a leading dot is matched like any other character.
    """
    return re.compile('|'.join(map(_regex_of, expand_braces(pattern))), re.DOTALL)


def _regex_of(pattern: str) -> str:
    parts = []
    for i, token in enumerate(_TOKEN.split(pattern)):
        is_text = i % 2 == 0  # as re.split has it
        if token.startswith('/**/'):
            parts.append('/(?:.*/)?')
        elif token == '**':
            parts.append('.*')
        elif token == '*':
            parts.append('[^/]*')
        elif token == '?':
            parts.append('[^/]')
        elif not is_text and token.startswith('{'):
            parts.append(_numbers(*token[1:-1].split('..')))
        elif is_text or token in ('[]', '[!]'):
            parts.append(re.escape(token))
        else:
            parts.append(_char_class(token[1:-1]))
    return ''.join(parts)


def _numbers(first: str, last: str) -> str:
    """The numbers from one to another, in as many digits if one of them begins with a zero.

    Not one by one, as of some datasets there are 100,000 shards.
    """
    low, high = sorted((int(first), int(last)))
    if any(len(each) > 1 and each.startswith('0') for each in (first, last)):
        width = max(len(first), len(last))
        return _between(f'{low:0{width}}', f'{high:0{width}}')
    lengths = range(len(str(low)), len(str(high)) + 1)
    lowest = (str(max(low, 10 ** (n - 1) if n > 1 else 0)) for n in lengths)
    highest = (str(min(high, 10**n - 1)) for n in lengths)
    return f'(?:{"|".join(map(_between, lowest, highest))})'


def _between(low: str, high: str) -> str:
    """The numbers between two of the same number of digits."""
    if low == high:
        return low
    if not low.strip('0') and not high.strip('9'):
        return f'[0-9]{{{len(low)}}}'
    if low[0] == high[0]:
        return low[0] + _between(low[1:], high[1:])
    rest = len(low) - 1
    parts = [low[0] + _between(low[1:], '9' * rest)]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f'[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{rest}}}')
    parts.append(high[0] + _between('0' * rest, high[1:]))
    return f'(?:{"|".join(parts)})'


def _char_class(inner: str) -> str:
    negated = inner.startswith('!')
    members = ''
    for first, last, single in _MEMBER.findall(inner.removeprefix('!')):
        if single:
            members += re.escape(single)
        elif first <= last:  # a range that runs backwards is empty, as in a shell
            members += f'{re.escape(first)}-{re.escape(last)}'
    if not members:
        return '[^/]' if negated else '(?!)'
    return f'(?!/)[{"^" if negated else ""}{members}]'


WILDCARD = re.compile(rf'[*?\[]|{_RANGE}')


def literal_head(pattern: str) -> str:
    """The text before the first wildcard."""
    literals = [WILDCARD.split(each, maxsplit=1)[0] for each in expand_braces(pattern)]
    return os.path.commonprefix(literals)  # noqa: RUF071 (of characters, not of folders)
