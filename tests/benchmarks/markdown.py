"""Figures as Markdown, and the pages that keep them."""

import contextlib
import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

from transforms.core.resources import cpu_count


def figure(value: float) -> str:
    """Three digits."""
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table with its header, that is aligned for a terminal, too."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rows.insert(1, ['-' * width for width in widths])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def machine() -> str:
    """When and where, in a line."""
    gpu = 'a GPU' if Path('/proc/driver/nvidia').exists() else 'no GPU'
    return (
        f'{datetime.date.today()}, {cpu_count()} CPU cores{_vectors()}, {gpu}, '
        f'Python {platform.python_version()} on {platform.system()} {platform.machine()}'
    )


def _vectors() -> str:
    """The widest vectors of the cores, on which a network takes up to three times as long."""
    with contextlib.suppress(OSError):
        flags = set(Path('/proc/cpuinfo').read_text().split())
        for flag in ('amx_tile', 'avx512_bf16', 'avx512f', 'avx2'):
            if flag in flags:
                return f' with {flag}'
    return ''


def kept(path: Path) -> dict[str, str]:
    """The sections of a page as it is, by their headings."""
    _, *sections = path.read_text().split('\n## ')
    return {name: text.strip() for name, _, text in (x.partition('\n') for x in sections)}


def page(title: str, origin: str, method: str, parts: Sequence[str]) -> str:
    """A page of results.

    Args:
      title: its heading.
      origin: the command that wrote it.
      method: how it was measured.
      parts: the rest.
    """
    return '\n\n'.join([f'# {title}', origin, method, *parts]) + '\n'
