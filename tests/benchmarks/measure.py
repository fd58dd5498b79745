"""What benchmarks measure with, and the rows they give."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]

# The peak of a process counts what the process it was forked from held; this one holds little.
_LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(code)
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
      name: what was measured.
      value: the figure.
      unit: its unit; '' for a ratio.
      at_most, at_least: the target, if there is one.
    """

    name: str
    value: float
    unit: str = ''
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least


@dataclasses.dataclass
class Stopwatch:
    """Seconds of a with block: of the clock, and of this thread on a core."""

    wall_sec: float = 0.0
    cpu_sec: float = 0.0


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measures a with block."""
    watch = Stopwatch()
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield watch
    finally:
        watch.wall_sec = time.perf_counter() - wall
        watch.cpu_sec = time.thread_time() - cpu


@dataclasses.dataclass(frozen=True)
class Process:
    """What a finished process took."""

    wall_sec: float
    cpu_sec: float
    peak_bytes: int
    errors: str


def run_python(*arguments: str | Path) -> Process:
    """Runs a fresh Python with these arguments.

    Raises:
      RuntimeError: it failed.
    """
    command: Sequence[str | Path] = (sys.executable, '-c', _LAUNCHER, sys.executable, *arguments)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    wall_sec = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f'{arguments} exited with {done.returncode}:\n{done.stderr[-2000:]}')
    peak_kib, cpu_sec = done.stdout.split()
    return Process(wall_sec, float(cpu_sec), 1024 * int(peak_kib), done.stderr)
