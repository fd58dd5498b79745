"""Runs a command and measures it with all processes it starts, daemons among them (Linux)."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_PERIOD_SEC = 0.2
# Adding up the proportional sets of a gigabyte takes 10 ms of a core that others want.
_MEMORY_PERIOD_SEC = 1.0
_GROWTH = 1.01
_GRACE_SEC = 10.0
_TICKS_PER_SEC = os.sysconf('SC_CLK_TCK')
_KIB = 1024

_Id = tuple[int, int]
"""Process id and start time: ids come back."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """What a command and its processes took.

    Attributes:
      wall_sec: until the command ended.
      cpu_sec: user and system time of all processes.
      peak_bytes: largest sum of their proportional set sizes, which count shared memory once.
    """

    wall_sec: float
    cpu_sec: float
    peak_bytes: int


class Watch:
    """The processes below one, also those that were handed to another parent later.

    Args:
      root_pid: the one.
      is_root_counted: whether its own memory counts.

    Attributes:
      peak_bytes: as of a `Tree`.
    """

    def __init__(self, root_pid: int, *, is_root_counted: bool = True):
        self._root_pid = root_pid
        self._uncounted = set() if is_root_counted else {root_pid}
        self._cpu_ticks: dict[_Id, int] = {}
        self._resident_pages = 0
        self._looked_at = 0.0
        self.peak_bytes = 0

    @property
    def cpu_sec(self) -> float:
        """As it was seen last of each process."""
        return sum(self._cpu_ticks.values()) / _TICKS_PER_SEC

    def look(self) -> list[_Id]:
        """Takes a sample; the processes that are there."""
        seen = dict(_processes())
        members = {pid for pid, each in seen.items() if (pid, each.started) in self._cpu_ticks}
        members |= {self._root_pid} & seen.keys()
        before = 0
        while len(members) > before:  # children of children
            before = len(members)
            members |= {pid for pid, each in seen.items() if each.parent in members}
        for pid in members:
            self._cpu_ticks[pid, seen[pid].started] = seen[pid].cpu_ticks
        counted = members - self._uncounted
        self._look_at_memory(counted, sum(seen[pid].resident_pages for pid in counted))
        return [(pid, seen[pid].started) for pid in members]

    def _look_at_memory(self, members: set[int], resident_pages: int) -> None:
        now = time.monotonic()
        has_grown = resident_pages > _GROWTH * self._resident_pages
        if has_grown or now > self._looked_at + _MEMORY_PERIOD_SEC:
            self._looked_at = now
            self._resident_pages = max(resident_pages, self._resident_pages)
            self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, members)))


class _Process(NamedTuple):
    parent: int
    started: int
    cpu_ticks: int
    resident_pages: int


def _processes() -> Iterator[tuple[int, _Process]]:
    """Every process that is alive, by its id."""
    for folder in os.listdir('/proc'):  # noqa: PTH208 (twice as fast, and this runs all the time)
        if folder.isdecimal():
            with contextlib.suppress(OSError), open(f'/proc/{folder}/stat', 'rb') as file:  # noqa: PTH123
                state, *fields = file.read().rpartition(b')')[2].split()
                if state != b'Z':
                    # fields[0] is the fourth of proc(5).
                    parent, user, system, started, resident = (
                        int(fields[i]) for i in (0, 10, 11, 18, 20)
                    )
                    yield int(folder), _Process(parent, started, user + system, resident)


def children(pid: int) -> list[int]:
    """The processes that one has started, by their ids."""
    return [child for child, each in _processes() if each.parent == pid]


def resident_bytes(pid: int) -> int:
    """What a process has in memory, all of what it shares included."""
    resident_pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return resident_pages * os.sysconf('SC_PAGE_SIZE')


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                return _KIB * int(line.split()[1])
    return 0


def run_tree(command: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> Tree:
    """Runs a command and ends whatever it leaves behind.

    Raises:
      RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        watch = Watch(process.pid)
        try:
            wall_sec, status, waited_cpu_sec = _wait(process.pid, watch, started)
        finally:
            _end(watch)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors='replace')[-4000:]
            raise RuntimeError(f'{command} exited with {process.returncode}:\n{text}')
    # Samples miss the end of a process, and what was waited for misses daemons.
    return Tree(wall_sec, max(watch.cpu_sec, waited_cpu_sec), watch.peak_bytes)


def _wait(pid: int, watch: Watch, started: float) -> tuple[float, int, float]:
    """Seconds, exit status, and CPU seconds of the command and all it waited for."""
    while True:
        watch.look()
        end = time.perf_counter() + _PERIOD_SEC
        while time.perf_counter() < end:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                wall_sec = time.perf_counter() - started
                return wall_sec, status, usage.ru_utime + usage.ru_stime
            time.sleep(0.01)


def _end(watch: Watch) -> None:
    """Lets what is left end by itself, then kills it."""
    deadline = time.perf_counter() + _GRACE_SEC
    while left := watch.look():
        if time.perf_counter() > deadline:
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
