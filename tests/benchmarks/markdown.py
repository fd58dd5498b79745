"""Figures as Markdown, and the pages that keep them."""

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path

from transforms.process import cpu_count


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
        f'{datetime.date.today()}, {cpu_count()} CPU cores, {gpu}, '
        f'Python {platform.python_version()} on {platform.system()} {platform.machine()}'
    )


def page(title: str, origin: str, method: str, parts: Sequence[str]) -> str:
    """A page of results.

    Args:
      title: its heading.
      origin: the command that wrote it.
      method: how it was measured.
      parts: the rest.
    """
    return '\n\n'.join([f'# {title}', origin, method, *parts]) + '\n'
