"""What a process holds once, however many DoFn instances and threads run in it."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar('K', bound=Hashable)
T = TypeVar('T')


class _Once:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[Any] = []


_lock = threading.Lock()
_shared: dict[tuple[Any, ...], _Once] = {}


def shared(make: Callable[[K], T], key: K) -> T:
    """The one `make(key)` of this process; whoever asks first makes it, others wait for it."""
    with _lock:
        once = _shared.setdefault((make, key), _Once())
    # A lock each: a model takes seconds to load, and stores are asked for meanwhile.
    with once.lock:
        if not once.values:
            once.values.append(make(key))
        value: T = once.values[0]
        return value


def cpu_count() -> int:
    """Cores this process may use: its affinity, capped by the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text().split()
        cores = min(cores or 1, max(1, round(int(quota) / int(period))))
    return cores or 1


def open_standard_streams() -> None:
    """Opens closed standard streams on the null device, lest another file takes their number."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


class Temporaries:
    """Files and folders removed at the end of a with block, or when a signal ends the process."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()

    @contextlib.contextmanager
    def hold(self, path: Path) -> Iterator[Path]:
        """Removes what is at a path afterwards, if anything is left there."""
        self._paths.add(path)
        try:
            yield path
        finally:
            _remove(path)
            self._paths.discard(path)

    def remove_all(self) -> None:
        """Removes all of them; for a process that is about to end."""
        for path in list(self._paths):
            _remove(path)


TEMPORARIES = Temporaries()

_REMOVAL_SEC = 30.0


def _remove(path: Path) -> None:
    """Removes what is there, and waits for that, but not for a file system that has gone."""
    failed: list[BaseException] = []

    def remove() -> None:
        try:
            _remove_now(path)
        except BaseException as e:  # noqa: BLE001 (raised again by who waits)
            failed.append(e)

    thread = threading.Thread(target=remove, name='removal', daemon=True)
    thread.start()
    thread.join(_REMOVAL_SEC)
    if failed:
        raise failed[0]


def _remove_now(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class LiveCounts:
    """Running totals of this process, for a progress line; the books never use them.

    Attributes:
      listed, total, labeled, failed: of refs, and of images.
      has_model: whether the model is loaded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.listed = 0
        self.total = 0
        self.labeled = 0
        self.failed = 0
        self.has_model = False
        self.waiting_for = ''
        self.waiting_since = 0.0

    def begin(self) -> None:
        """Begins anew, for another run of this process, which has the model of the last one."""
        with self._lock:
            self.listed = self.total = self.labeled = self.failed = 0
            self.waiting_for = ''

    def wait_for(self, what: str) -> None:
        """Records what is being waited for; '' for nothing."""
        with self._lock:
            if what != self.waiting_for:
                self.waiting_for, self.waiting_since = what, time.monotonic()

    def waits(self) -> tuple[str, float]:
        """What is being waited for, and since how many seconds; ('', 0.0) for nothing."""
        with self._lock:
            if not self.waiting_for:
                return '', 0.0
            return self.waiting_for, time.monotonic() - self.waiting_since

    def add(self, *, listed: int = 0, total: int = 0, labeled: int = 0, failed: int = 0) -> None:
        """Adds to each total."""
        with self._lock:
            self.listed += listed
            self.total += total
            self.labeled += labeled
            self.failed += failed


LIVE = LiveCounts()
