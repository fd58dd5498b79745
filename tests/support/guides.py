"""The guides of the project, read as Markdown."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
# Written by programs, or one entry a change: as long as they get.
UNBOUNDED = {'API.md', 'CHANGELOG.md', 'OPTIONS.md', 'PEERS.md', 'RESULTS.md'}


class CodeBlock(NamedTuple):
    """What stands apart as code; `language` is '' where none is named."""

    language: str
    text: str


@functools.cache
def documents() -> tuple[Path, ...]:
    """Every Markdown file of the project."""
    folders = [ROOT / name for name in ('.github', 'pipeline', 'templates', 'tests', 'transforms')]
    found = [path for folder in folders for path in folder.rglob('*.md')]
    return (*sorted(ROOT.glob('*.md')), *sorted(found))


def guides() -> list[Path]:
    """Those that people write."""
    return [path for path in documents() if path.name not in UNBOUNDED]


def name_of(path: Path) -> str:
    """Of a document, for messages and test ids: 'transforms/README.md'."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tokens(path: Path) -> tuple[Token, ...]:
    """A document as Markdown has it, tables too."""
    return tuple(MarkdownIt('commonmark').enable('table').parse(path.read_text()))


def code_blocks(path: Path) -> Iterator[CodeBlock]:
    """What stands apart as code, in order."""
    for token in tokens(path):
        if token.type in ('fence', 'code_block'):
            yield CodeBlock(token.info, token.content)


def inline(path: Path, kind: str) -> Iterator[Token]:
    """The parts of a kind within lines: 'link_open', 'code_inline'."""
    for token in tokens(path):
        yield from (child for child in token.children or () if child.type == kind)


def commands(path: Path, program: str = 'lemmabeam') -> list[list[str]]:
    """The words of the commands that stand apart, without the program, in order."""
    found = []
    for block in code_blocks(path):
        for line in block.text.replace('\\\n', ' ').splitlines():
            if line.startswith(f'{program} '):
                found.append(shlex.split(line, comments=True)[1:])
    return found


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """What links may name behind '#', as GitHub makes it of headings."""
    found: list[str] = []
    headings = (i for i, token in enumerate(tokens(path)) if token.type == 'heading_open')
    for i in headings:
        children = tokens(path)[i + 1].children or []
        plain = ''.join(child.content for child in children).lower()
        slug = re.sub(r'[^\w\- ]', '', plain).replace(' ', '-')
        times = sum(each == slug or each.startswith(f'{slug}-') for each in found)
        found.append(f'{slug}-{times}' if slug in found else slug)
    return frozenset(found)
