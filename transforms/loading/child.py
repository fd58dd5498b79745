"""What a loader process does: it fetches with a few threads, and decodes one picture at a time.

Messages to it: ('options', key, LoadOptions), ('load', key, [(ticket, start, slot, item, run)])
and ('granted', number).  Messages from it: ('ready',), ('done', [(ticket, Loaded)]), ('failed',
ticket, error), ('ask', number, key, which, size_bytes), ('give_back', key, which, size_bytes) and
('cannot', why), before it ends because the system refuses it a thread.  It ends when the other end
of its connection does.
"""

import collections
import contextlib
import ctypes
import itertools
import math
import os
import pickle
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np

from transforms.core.elements import Failure, Item, Stage
from transforms.core.errors import LemmabeamError, StoreError
from transforms.core.members import Run
from transforms.core.reasons import Reason
from transforms.core.uris import host_of
from transforms.loading.budget import SharedBudget
from transforms.loading.buffers import MappedMemory
from transforms.loading.fetches import Fetches, GivenUpError
from transforms.loading.hosts import Hosts
from transforms.loading.image import NO_MEMORY, ImageLoader, Loaded, overdue
from transforms.loading.options import LoadOptions

NOTHING = -1
"""In place of a ticket: nothing is decoded."""

STATUS = 3
"""What a process reports without a message, in int64: the ticket of the picture that it decodes, or
`NOTHING`; since when; and when it last gave a sign of life.  Times are nanoseconds of the monotonic
clock.
"""


GROUP = 8
"""The most results that travel together."""

_FLUSH_SEC = 0.05
_FEW_THREADS = 2
_KNOWN_RUNS = 8  # that were begun
_SLOW_SEC = 0.3
_LOOK_SEC = 0.05
_BYTES_PER_PX = 32
_SPARE_BYTES = 1 << 28
_OOM_SCORE = 800
_PR_SET_PDEATHSIG = 1


def status_cells(processes: int) -> int:
    """How many int64 the status of so many processes has, and of one more that loads pictures one
    by one; behind it lies what all know of hosts."""
    return (processes + 1) * STATUS


def share_bytes(options: LoadOptions, processes: int) -> int:
    """What one of this many loader processes may hold of either kind without asking.

    For either kind, a quarter of the budget is for the shares and another for what is asked for.
    """
    return max(1, options.memory_budget_bytes // 4 // processes)


def common_bytes(options: LoadOptions) -> int:
    """What all may hold of either kind in addition to the shares."""
    return options.memory_budget_bytes // 4


class _Job:
    """What a process needs to load with given options.

    Attributes:
      loader: loads an image.
      fetches: those in progress.
      shape: of a batch.
      pool: the threads.
      waiting: what no thread has started.
      running: threads at work.
      wanted: how many threads there should be, not counting those that wait for something slow.
    """

    def __init__(self, options: LoadOptions, loader: ImageLoader, fetches: Fetches):
        side = options.resize.size_px
        self.loader = loader
        self.fetches = fetches
        self.shape = (options.batch_size, side, side, 3)
        self.pool = ThreadPoolExecutor(options.threads + options.patience.most_stuck, 'load')
        self.waiting: collections.deque[_Task] = collections.deque()
        self.running = 0
        self._hosts = Hosts()
        self._busy: collections.Counter[str] = collections.Counter()
        self.wanted = min(_FEW_THREADS, options.threads)
        self._most = options.threads
        self._run = ''
        self._begun: collections.deque[str] = collections.deque(maxlen=_KNOWN_RUNS)
        self._means = [0.0, 0.0]
        self._has_threads = False

    def add(self, tasks: list['_Task']) -> None:
        """Adds work."""
        self.waiting.extend(tasks)
        for task in tasks:
            self._hosts.see(_host_of(task))

    def take(self) -> '_Task | None':
        """Work for one more thread; None if no more threads are wanted."""
        if self.running >= self._most:
            return None
        if self.running >= self.wanted + self.fetches.slow(_SLOW_SEC):
            return None
        task = self._hosts.take(self.waiting, _host_of, self._busy, self._most)
        if task is not None:
            self._busy[_host_of(task)] += 1
            if task[4] is not None:
                self._run = task[4].key
        return task

    def begin_next_run(self) -> None:
        """Begins to read the run behind the one in hand, before a thread has to wait for it."""
        for _, _, _, item, run in self.waiting:
            if run is not None and run.key != self._run:
                if run.key not in self._begun and self.loader.begin(item, run):
                    self._begun.append(run.key)
                return

    def end(self, task: '_Task') -> None:
        """Records that work is done."""
        host = _host_of(task)
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]

    def learn(self, loaded: Loaded) -> None:
        """Wants as many threads as keep the decoder busy: more would only be in the way."""
        for i, sec in enumerate((loaded.fetch_sec, loaded.decode_sec)):
            self._means[i] += (sec - self._means[i]) * (0.1 if self._means[i] else 1.0)
        fetch_sec, decode_sec = self._means
        times = fetch_sec / decode_sec if decode_sec else self._most
        self.wanted = max(min(_FEW_THREADS, self._most), min(self._most, 1 + math.ceil(times)))

    def work(self, what: Callable[['_Job', '_Task'], None], task: '_Task') -> None:
        """Has a new thread do something, or the next one that is free.

        Raises:
          RuntimeError: there is none, and the system refuses to start one.
        """
        self.running += 1
        try:
            self.pool.submit(what, self, task)
        except RuntimeError:
            if not self._has_threads:
                raise
            self._most = self.wanted = max(1, self.running - 1)
        self._has_threads = True


_Task = tuple[int, int, int, Item, Run | None]


def _host_of(task: _Task) -> str:
    return host_of(task[3].uri)


class LoaderProcess:
    """The inside of a loader process.

    Args:
      connection: to the process that started it.
      memory: where the pixels go.
      status: (`STATUS`,) int64, shared.
      processes: how many there are of it.
    """

    def __init__(
        self, connection: Connection, memory: MappedMemory, status: np.ndarray, processes: int
    ):
        self._connection = connection
        self._memory = memory
        self._status = status
        self._processes = processes
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count()
        self._granted: dict[int, threading.Event] = {}
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._done: list[tuple[int, Loaded]] = []
        self._flushed = 0.0
        self._in_hand = 0
        self._most_bytes = 0
        self._tickets = threading.local()
        self._decoding = threading.Lock()  # one for all options: the status tells of one picture
        self._looked_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing in hand, no thread is stuck, and none holds memory."""
        jobs = self._jobs.values()
        return not self._in_hand and not any(
            job.running or job.fetches.stuck or job.loader.held_bytes for job in jobs
        )

    def run(self) -> None:
        """Works until the connection ends."""
        self._send('ready')
        while True:
            self._status[2] = time.monotonic_ns()
            self._help_out()
            if self._in_hand and not self._connection.poll(_FLUSH_SEC):
                self._flush()
                continue
            try:
                kind, *rest = self._connection.recv()
            except (EOFError, OSError):  # the latter if it had not read all
                return
            getattr(self, f'_take_{kind}')(*rest)

    def _take_options(self, key: int, options: LoadOptions) -> None:
        share = share_bytes(options, self._processes)

        def budget(which: str) -> SharedBudget:
            return SharedBudget(
                share,
                options.fetch.max_bytes,
                lambda size_bytes: self._ask(key, which, size_bytes),
                lambda size_bytes: self._send('give_back', key, which, size_bytes),
            )

        encoded, decoded = budget('encoded'), budget('decoded')
        self._limit_memory(options)
        fetches = Fetches(options.fetch.deadline_sec, options.patience)
        loader = ImageLoader(options, encoded, decoded, self._decoding, self._watched, fetches)
        self._jobs[key] = _Job(options, loader, fetches)

    def _limit_memory(self, options: LoadOptions) -> None:
        """Limits memory to what a picture within the limits may take, whatever its header says."""
        with contextlib.suppress(OSError, ValueError, LookupError):
            pages = int(Path('/proc/self/statm').read_text().split()[5])
            most = pages * os.sysconf('SC_PAGE_SIZE') + options.pixels.max_px * _BYTES_PER_PX
            most += 2 * options.fetch.max_bytes + options.memory_budget_bytes + _SPARE_BYTES
            self._most_bytes = most = max(most, self._most_bytes)  # other options may allow more
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if hard != resource.RLIM_INFINITY:
                most = min(most, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))

    def _take_load(self, key: int, tasks: list[_Task]) -> None:
        job = self._jobs[key]
        with self._lock:
            self._in_hand += len(tasks)
            job.add(tasks)
            self._put_first_to_work(job)

    def _help_out(self) -> None:
        """Starts threads in place of those that wait, and gives up what takes too long."""
        if time.monotonic() - self._looked_at < _LOOK_SEC:
            return
        self._looked_at = time.monotonic()
        refused: list[tuple[int, StoreError]] = []
        with self._lock:
            for job in self._jobs.values():
                for task in job.fetches.overdue():
                    self._give_up(job, cast(_Task, task))
                self._put_first_to_work(job)
                refused += self._without_thread(job)
            is_over = not self._in_hand
        if is_over:  # then nobody else tells of it
            self._flush()
        for ticket, error in refused:
            self._send('failed', ticket, error)

    def _without_thread(self, job: _Job) -> list[tuple[int, StoreError]]:
        """Tickets of what cannot start because too much is stuck, and why."""
        if not job.waiting:
            return []
        try:
            job.fetches.check_stuck(job.waiting[0][3].uri)
        except StoreError as e:
            refused = [(ticket, e) for ticket, *_ in job.waiting]
            self._in_hand -= len(refused)
            job.waiting.clear()
            return refused
        return []

    def _give_up(self, job: _Job, task: _Task) -> None:
        ticket, _, _, item, _ = task
        self._done.append((ticket, overdue(item, job.fetches.deadline_sec)))
        self._in_hand -= 1
        job.end(task)
        job.running -= 1

    def _put_first_to_work(self, job: _Job) -> None:
        try:
            self._put_to_work(job)
        except RuntimeError as e:
            self._send('cannot', str(e))
            os._exit(1)

    def _put_to_work(self, job: _Job) -> None:
        """Starts threads if more are wanted; the lock is held."""
        while (task := job.take()) is not None:
            job.work(self._work, task)
        if job.waiting and job.waiting[-1][4] is not None:
            job.begin_next_run()

    def _work(self, job: _Job, task: _Task | None) -> None:
        try:
            while task is not None:
                if not self._has_loaded(job, *task):
                    return
                with self._lock:
                    job.end(task)
                    job.running -= 1
                    task = job.take()
                    job.running += task is not None
        except BaseException:  # noqa: BLE001 (nobody would be told: no memory to tell it, say)
            traceback.print_exc()
            os._exit(1)

    def _take_granted(self, number: int) -> None:
        self._granted.pop(number).set()

    def _ask(self, key: int, which: str, size_bytes: int) -> None:
        number = next(self._numbers)
        granted = self._granted[number] = threading.Event()
        self._send('ask', number, key, which, size_bytes)
        granted.wait()

    def _has_loaded(
        self, job: _Job, ticket: int, start: int, slot: int, item: Item, run: Run | None
    ) -> bool:
        """Loads an image and reports the result; False if it was given up meanwhile."""
        self._tickets.now = ticket
        try:
            size = int(np.prod(job.shape))
            pixels = self._memory.room(start, size).reshape(job.shape)[slot]
            task = ticket, start, slot, item, run
            loaded = job.loader.load(item, pixels, task, run)
        except GivenUpError:
            return False
        except MemoryError:
            known = item.size_bytes if item.size_bytes >= 0 else None
            failure = Failure(Stage.DECODE, Reason.DECODER_CRASHED, NO_MEMORY, known, item.version)
            loaded = Loaded(failure, 0.0, 0.0, 0)
        except BaseException as e:  # noqa: BLE001
            with self._lock:
                self._in_hand -= 1
            self._flush()
            self._send('failed', ticket, _portable(e))
            return True
        with self._lock:
            self._done.append((ticket, loaded))
            self._in_hand -= 1
            job.learn(loaded)
            self._put_to_work(job)
            is_due = (
                len(self._done) >= GROUP
                or self._in_hand < job.wanted
                or time.monotonic() - self._flushed > _FLUSH_SEC
            )
        if is_due:
            self._flush()
        return True

    def _flush(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            self._flushed = time.monotonic()
        if done:
            self._send('done', done)

    @contextlib.contextmanager
    def _watched(self, _: Item) -> Iterator[None]:
        self._status[1] = time.monotonic_ns()
        self._status[0] = self._tickets.now
        try:
            yield
        finally:
            self._status[0] = NOTHING

    def _send(self, *message: Any) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:  # nobody is there any more
                os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """An error that another process can raise."""
    if isinstance(error, LemmabeamError):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    text = ''.join(traceback.format_exception(error))
    return RuntimeError(f'a loader process failed, which is a bug in Lemmabeam:\n{text}')


def end_with(parent: int) -> None:
    """Has the kernel end this process with its parent, and kill it first when memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path('/proc/self/oom_score_adj').write_text(str(_OOM_SCORE))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
