"""What benchmarks measure with, and the rows they give."""

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.tree import Watch

_ROOT = Path(__file__).parents[2]

_PERIOD_SEC = 0.1

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
    """What a finished process took, with all that it started.

    Attributes:
      wall_sec: of the clock, from its start to its end.
      cpu_sec: user and system time of all processes.
      peak_bytes: the largest sum of the proportional set sizes (PSS) of all processes at a time,
        which count shared memory once.  It is sampled ten times a second, and added up when the
        resident memory has grown, or a second has passed: a shorter peak may be missed.
      largest_bytes: the peak of resident memory of the largest single process, which misses
        nothing; only of those that were waited for.
      errors: what was written to standard error.
    """

    wall_sec: float
    cpu_sec: float
    peak_bytes: int
    largest_bytes: int
    errors: str


def run_python(*arguments: str | Path) -> Process:
    """Runs a fresh Python with these arguments; see `Process` for what is measured.

    Raises:
      RuntimeError: it failed.
    """
    command: Sequence[str | Path] = (sys.executable, '-c', _LAUNCHER, sys.executable, *arguments)
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = Watch(process.pid, is_root_counted=False)
        while True:
            watch.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, errors = process.communicate(timeout=_PERIOD_SEC)
                break
    wall_sec = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f'{arguments} exited with {process.returncode}:\n{errors[-2000:]}')
    largest_kib, waited_cpu_sec = output.split()
    # Samples miss the end of a process, and what was waited for misses others.
    cpu_sec = max(watch.cpu_sec, float(waited_cpu_sec))
    return Process(wall_sec, cpu_sec, watch.peak_bytes, 1024 * int(largest_kib), errors)
