"""Kills, as files see them: from a chosen step on, nothing that this process does reaches the disk.

Python itself tells of every file that is created, renamed or removed before it is done, and whoever
is told may raise; so nothing of the code is replaced.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Killed(BaseException):
    """In place of a kill; what is done on its way out is not done either."""


class Steps:
    """The steps below a folder.

    Attributes:
      left: how many may still be done.
      was_killed: whether there was one more.
    """

    def __init__(self, folder: Path, left: int):
        self._folder = f'{folder}/'
        self.left = left
        self.was_killed = False

    def see(self, path: str) -> None:
        """Counts a step."""
        if not path.startswith(self._folder):
            return
        self.left -= 1
        if self.left < 0:
            self.was_killed = True
            raise Killed(path)


_seen: list[Steps] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _seen:
        return
    match event, args:
        case 'open', (path, _, flags):
            if flags & _WRITING:
                _seen[0].see(_path(path))
        case (('os.rename' | 'os.link'), (_, path, _, folder)):
            _seen[0].see(_path(path, folder))
        case (('os.remove' | 'os.rmdir'), (path, folder)):
            _seen[0].see(_path(path, folder))
        case 'os.mkdir', (path, _, folder):
            _seen[0].see(_path(path, folder))


def _path(path: object, folder: int = -1) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        return ''
    name = os.fsdecode(path)
    return name if folder in (-1, None) else str(Path(f'/proc/self/fd/{folder}').readlink() / name)


sys.addaudithook(_audit)


@contextlib.contextmanager
def killed_behind(steps: int, folder: Path) -> Iterator[Steps]:
    """Lets so many steps below a folder be done within a with block, and kills then."""
    counted = Steps(folder, steps)
    _seen.append(counted)
    try:
        yield counted
    except Killed:
        pass
    finally:
        _seen.clear()
