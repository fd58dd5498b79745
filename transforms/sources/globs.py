"""Globs over absolute URIs, with braces as in a shell."""

import os
import re

from transforms.core import uris
from transforms.core.errors import UsageError

_TOKEN = re.compile(r'(/(?:\*\*/)+|\*\*|\*|\?|\[!?\]?[^\]/]*\])')
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
    are character classes, `{a,b}` is either; a leading dot is matched like any other character.
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
        elif is_text or token in ('[]', '[!]'):
            parts.append(re.escape(token))
        else:
            parts.append(_char_class(token[1:-1]))
    return ''.join(parts)


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


WILDCARD = re.compile(r'[*?\[]')


def literal_head(pattern: str) -> str:
    """The text before the first wildcard."""
    literals = [WILDCARD.split(each, maxsplit=1)[0] for each in expand_braces(pattern)]
    return os.path.commonprefix(literals)  # noqa: RUF071 (of characters, not of folders)
