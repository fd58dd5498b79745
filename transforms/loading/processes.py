"""Loader processes, seen from the process that has the model.

One of its threads, the dispatcher, hands out what is to be loaded and takes the results; it alone
touches the state of the processes.  One that dies, or decodes a picture for too long and is killed,
is replaced.  The picture that it was decoding is tried once more, alone in a process; if that fails
the same way, it is a dead letter.  Whatever else it had in hand is tried again.
"""

import collections
import contextlib
import itertools
import logging
import os
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from transforms.core.elements import Failure, Item, Stage
from transforms.core.errors import LoaderError
from transforms.core.fail_fast import FaultPolicy
from transforms.core.members import Run
from transforms.core.reasons import Reason
from transforms.core.resources import open_standard_streams, shared
from transforms.core.uris import host_of
from transforms.loading.batch import LoadingBatch
from transforms.loading.budget import Grants
from transforms.loading.buffers import SharedMemory
from transforms.loading.child import GROUP, NOTHING, STATUS, common_bytes, status_cells
from transforms.loading.fork_server import ForkServer, how_ended
from transforms.loading.hosts import Hosts
from transforms.loading.image import Loaded
from transforms.loading.options import LoadOptions
from transforms.storage import courtesy
from transforms.storage.courtesy import Courtesy
from transforms.storage.registry import modules_of

_LOGGER = logging.getLogger(__name__)

_TICK_SEC = 0.25
_AHEAD_SEC, _MOST_AHEAD = 0.1, 2 * GROUP
# What is read in one go is begun as soon as a process has it in hand, and may come as late.
_RUNS_AHEAD_SEC, _MOST_OF_RUNS_AHEAD = 0.4, 8 * GROUP
_TRIES = 2
# Who sends SIGKILL is not known: where memory runs out the system may take an innocent one.
_TRIES_ALONE = {-int(signal.SIGKILL): 3}
_DEATHS_A_PROCESS = 10
_READERS = 64
# Of new ones, by the system, while there is none at all.
_REFUSALS = 8
_REFUSED_SEC = 0.5


class _Task:
    """An image in progress.

    Attributes:
      tries: how often a process ended that had it in hand and did not decode it.
      tries_alone: how often one ended that had nothing but it.
    """

    __slots__ = (
        'batch',
        'host',
        'item',
        'job',
        'policy',
        'run',
        'slot',
        'ticket',
        'tries',
        'tries_alone',
    )

    def __init__(self, job: '_Job', batch: LoadingBatch, slot: int, policy: FaultPolicy):
        self.job = job
        self.batch = batch
        self.slot = slot
        self.item: Item = batch.items[slot]
        self.host = host_of(self.item.uri)
        self.run = batch.run(slot)
        self.policy = policy
        self.ticket = NOTHING
        self.tries = 0
        self.tries_alone = 0

    def end(self, loaded: Loaded) -> None:
        failure = loaded.outcome if isinstance(loaded.outcome, Failure) else None
        try:
            self.policy.record(self.item.uri, failure, self.item.failed)
        except BaseException as e:  # noqa: BLE001 (it belongs to who waits for the batch)
            self.batch.fail(e)
        else:
            self.batch.put(self.slot, loaded)


class _Job(NamedTuple):
    """What all images with the same options share."""

    key: int
    options: LoadOptions
    grants: dict[str, Grants]


class _Process:
    """A loader process.

    Attributes:
      number: its own.
      row: its row of the status.
      is_for_one: whether it has but one image in hand at a time.
      connection: to it.
      in_hand: what it was given, by ticket.
      jobs: keys of the options it knows.
      is_ready: whether it has begun to work.
      overdue: the ticket for which it was killed.
      is_retiring: whether it is given nothing any more, and ends when it has nothing in hand.
      refused: what the system did not let it do, so that it cannot work.
    """

    def __init__(self, number: int, row: int, is_for_one: bool, end: socket.socket):
        self.number = number
        self.row = row
        self.is_for_one = is_for_one
        self.connection = Connection(os.dup(end.fileno()))
        self.in_hand: dict[int, _Task] = {}
        self.jobs: set[int] = set()
        self.is_ready = False
        self.overdue = NOTHING
        self.is_retiring = False
        self.refused = ''
        self._end = end
        self._unsent = bytearray()

    def say(self, *message: Any) -> None:
        """Tells it something, as soon as it listens."""
        pickled = pickle.dumps(message)
        self._unsent += struct.pack('!i', len(pickled)) + pickled
        self.send()

    def send(self) -> None:
        """Sends what there is to tell, as far as that goes without waiting.

        It may be in a decoder that lets nobody listen, and who waits for it sees no deadline.
        """
        with contextlib.suppress(OSError):  # it does not listen, or its end will be seen
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent, socket.MSG_DONTWAIT)]

    def close(self) -> None:
        """Hangs up, which ends it."""
        self.connection.close()
        self._end.close()


class Pool:
    """A number of loader processes, started when there is something to load.

    Make it with `transforms.core.resources.shared`: runs with other options share it.

    Args:
      count: how many.

    Attributes:
      silent_sec: one that has images in hand, decodes none and gives no sign of life for this long
        is killed.
      server: what they are forked from, once there is something to load.
    """

    def __init__(self, count: int):
        self.silent_sec = 60.0
        self._count = count
        open_standard_streams()
        self.memory = SharedMemory()
        self._status_file, self._status, self._courtesy = _status(count)
        courtesy.share(self._courtesy)
        self._submitted: collections.deque[tuple[list[_Task], dict[str, str]]] = collections.deque()
        self._queue: collections.deque[_Task] = collections.deque()
        self._alone: collections.deque[_Task] = collections.deque()
        self._hosts = Hosts()
        # Which process reads what lies together, so that no other reads it again.
        self._readers: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self.server: ForkServer | None = None
        try:
            self._errors = os.dup(2)  # while TensorFlow is imported, it leads elsewhere
        except OSError:  # it is closed
            self._errors = subprocess.DEVNULL
        self._environment: dict[str, str] = {}
        self._looked_at = 0.0
        self._refusals = 0
        self._starts_at = 0.0
        self._processes: dict[int, _Process] = {}
        self._jobs: dict[LoadOptions, _Job] = {}
        self._job_keys = itertools.count()
        self._numbers = 0
        self._tickets = 0
        self._deaths = 0
        self._mean_sec = 0.0
        self._has_told = False
        threading.Thread(target=self._run, name='loaders', daemon=True).start()

    @property
    def is_working(self) -> bool:
        """Whether any of them has images in hand."""
        return any(process.in_hand for process in list(self._processes.values()))

    def job(self, options: LoadOptions) -> _Job:
        """What images with these options have in common."""
        limit_bytes = common_bytes(options)
        grants = {which: Grants(limit_bytes) for which in ('encoded', 'decoded')}
        return self._jobs.setdefault(options, _Job(next(self._job_keys), options, grants))

    def submit(self, tasks: list[_Task]) -> None:
        """Has images loaded; the results go to their batch.

        Loader processes have the environment of the submitter, with its credentials and addresses:
          those with another one get no more work, and are replaced.
        """
        self._submitted.append((tasks, dict(os.environ)))
        with contextlib.suppress(BlockingIOError):  # it will see them as well
            os.write(self._wake, b'.')

    def _run(self) -> None:
        while True:
            is_busy = self.is_working
            is_waiting = bool(self._queue or self._alone)
            try:
                for key, _ in self._selector.select(_TICK_SEC if is_busy or is_waiting else None):
                    self._see(key)
                self._take_submitted()
                for process in self._processes.values():
                    process.send()
                self._kill_overdue()
                self._deal()
            except LoaderError as e:
                self._give_up(e)
            except BaseException as e:
                _LOGGER.exception('loading images failed')
                self._give_up(LoaderError(f'loading images failed: {e!r}'))

    def _take_submitted(self) -> None:
        while self._submitted:
            tasks, environment = self._submitted.popleft()
            self._queue.extend(tasks)
            for task in tasks:
                self._hosts.see(task.host)
            if environment != self._environment:
                self._environment = environment
                for process in self._processes.values():
                    process.is_retiring = True

    def _see(self, key: selectors.SelectorKey) -> None:
        """Handles what one of the other processes said."""
        if key.fd == self._woken:
            os.read(self._woken, 65536)
        elif key.data is None:
            self._hear_server()
        elif key.data.number in self._processes:
            self._hear(key.data)

    def _hear(self, process: _Process) -> bool:
        """Takes one message of a process; False at its end."""
        try:
            kind, *rest = process.connection.recv()
        except (EOFError, OSError):
            # That it has exited, and how, the server will say.
            self._hear_no_more(process)
            return False
        match kind:
            case 'done':
                for ticket, loaded in rest[0]:
                    self._take(process, ticket, loaded)
            case 'failed':
                ticket, error = rest
                process.in_hand.pop(ticket).batch.fail(error)
            case 'ask':
                number, job, which, size_bytes = rest
                self._grants(job, which).ask(
                    process, size_bytes, lambda: process.say('granted', number)
                )
            case 'give_back':
                job, which, size_bytes = rest
                self._grants(job, which).give_back(process, size_bytes)
            case 'ready':
                process.is_ready = True
            case 'cannot':
                [process.refused] = rest
        return True

    def _hear_no_more(self, process: _Process) -> None:
        with contextlib.suppress(KeyError):  # its end was heard before
            self._selector.unregister(process.connection)

    def _grants(self, key: int, which: str) -> Grants:
        return next(job.grants[which] for job in list(self._jobs.values()) if job.key == key)

    def _take(self, process: _Process, ticket: int, loaded: Loaded) -> None:
        """An image is loaded, or cannot be."""
        task = process.in_hand.pop(ticket)
        self._deaths = self._refusals = 0
        outcome = loaded.outcome
        has_no_memory = isinstance(outcome, Failure) and outcome.reason is Reason.DECODER_CRASHED
        if has_no_memory and not process.is_for_one:
            self._alone.append(task)  # others may have had it
            return
        self._mean_sec += 0.1 * (loaded.decode_sec - self._mean_sec)
        task.end(loaded)

    def _hear_server(self) -> None:
        assert self.server is not None
        said = self.server.hear()
        if said is None:
            self._lose_server()
            return
        kind, number, what = said
        process = self._processes.pop(number, None)
        if process is None:
            return
        if kind == 'cannot':
            process.refused = what
            self._bury(process, None, what)
        else:
            self._bury(process, what, f'it {how_ended(what)}')

    def _lose_server(self) -> None:
        code = self._close_server()
        processes, self._processes = self._processes, {}
        for process in processes.values():
            self._bury(process, None, f'the process that starts them {how_ended(code)}')
        if code > 0:
            raise LoaderError(
                f'the process that starts loader processes {how_ended(code)}; its own output is '
                'above. --loader_processes 0 loads in threads instead'
            )

    def _close_server(self) -> int:
        assert self.server is not None
        server, self.server = self.server, None
        self._selector.unregister(server.connection)
        return server.close()

    def _bury(self, process: _Process, code: int | None, why: str) -> None:
        """A process has ended: what it had in hand is tried again, or has had its tries."""
        while self._hear(process):
            pass
        self._hear_no_more(process)
        process.close()
        self._courtesy.forget(process.row)
        for job in list(self._jobs.values()):
            for grants in job.grants.values():
                grants.forget(process)
        if process.refused:
            (self._alone if process.is_for_one else self._queue).extendleft(
                reversed(process.in_hand.values())
            )
            self._make_room(process)
            return
        stage = Stage.DECODE
        guilty = process.in_hand.pop(int(self._status[process.row, 0]), None)
        if guilty is None and process.is_for_one and process.is_ready and process.in_hand:
            stage = Stage.FETCH
            _, guilty = process.in_hand.popitem()
        self._status[process.row] = NOTHING
        if guilty is None:
            self._deaths += 1
        else:
            is_overdue = process.overdue == guilty.ticket
            guilty.tries_alone += process.is_for_one
            if guilty.tries_alone < (1 if is_overdue else _TRIES_ALONE.get(code or 0, 1)):
                self._alone.append(guilty)
            else:
                guilty.end(_crashed(guilty, stage, code, is_overdue))
        for task in reversed(process.in_hand.values()):
            task.tries += 1
            (self._queue if task.tries < _TRIES else self._alone).appendleft(task)
        if self._deaths > _DEATHS_A_PROCESS * (self._count + 1):
            raise LoaderError(
                f'{self._deaths} loader processes ended one after the other, none of them while '
                f'decoding: {why}. Is there enough memory? --loader_processes 0 loads in '
                'threads instead'
            )

    def _make_room(self, refused: _Process) -> None:
        """The system refuses a new process: the others continue, and make room for its kind."""
        self._starts_at = time.monotonic() + _REFUSED_SEC
        if not self._has_told:
            self._has_told = True
            _LOGGER.warning(
                'the system did not let all loader processes start (%s); the others load '
                'everything',
                refused.refused,
            )
        if not self._processes:
            self._refusals += 1
            if self._refusals >= _REFUSALS:
                raise _too_few(refused.refused)
            return
        kinds = {process.is_for_one for process in self._processes.values()}
        if refused.is_for_one not in kinds:
            next(iter(self._processes.values())).is_retiring = True

    def _kill_overdue(self) -> None:
        if time.monotonic() - self._looked_at < _TICK_SEC:
            return
        self._looked_at = time.monotonic()
        if self.server is None:
            return
        for process in self._processes.values():
            if self._is_overdue(process):
                self.server.kill(process.number)

    def _is_overdue(self, process: _Process) -> bool:
        """Whether a process must be killed and was not yet."""
        now = time.monotonic_ns()
        ticket, since, alive_at = map(int, self._status[process.row])
        task = process.in_hand.get(ticket)
        if task is None:
            return bool(process.in_hand) and now - alive_at > 1e9 * self.silent_sec
        limit_ns = 1e9 * task.job.options.decode_deadline_sec
        if process.overdue == ticket or now - since <= limit_ns:
            return False
        process.overdue = ticket
        return True

    def _deal(self) -> None:
        """Gives every process enough to do."""
        if not (self._queue or self._alone):
            return
        for process in list(self._processes.values()):
            if process.is_retiring and not process.in_hand:
                self._hear_no_more(process)
                process.close()
                del self._processes[process.number]
        self._start_missing()
        tasks = (task for each in self._processes.values() for task in each.in_hand.values())
        asked = collections.Counter(task.host for task in tasks)
        # Those with least in hand first, for what comes one by one.
        for process in sorted(self._processes.values(), key=lambda each: len(each.in_hand)):
            queue = self._alone if process.is_for_one else self._queue
            if not queue or process.is_retiring:
                continue
            most = 1
            if not process.is_for_one:
                most = queue[0].job.options.threads + self._ahead(queue[0])
            share = -(-len(queue) // (1 if process.is_for_one else self._count))
            self._give(process, queue, min(most - len(process.in_hand), share), most, asked)

    def _ahead(self, task: _Task) -> int:
        """How many a process has in hand beside those that its threads fetch."""
        of_run = task.run is not None
        sec, most = (_RUNS_AHEAD_SEC, _MOST_OF_RUNS_AHEAD) if of_run else (_AHEAD_SEC, _MOST_AHEAD)
        return min(most, int(sec / (self._mean_sec or 1e-3)))

    def _give(
        self,
        process: _Process,
        queue: 'collections.deque[_Task]',
        count: int,
        most: int,
        asked: collections.Counter[str],
    ) -> None:
        def has_turn(task: _Task) -> bool:
            return task.job.options.may_ask(task.item.uri, asked[task.host])

        def is_its(task: _Task) -> bool:
            if process.is_for_one or task.run is None:
                return True
            reader = self._processes.get(self._readers.get(task.run.key, process.number))
            return reader is None or reader is process or reader.is_retiring

        given: dict[int, list[tuple[int, int, int, Item, Run | None]]] = {}
        busy = collections.Counter(task.host for task in process.in_hand.values())
        if not process.in_hand:
            self._status[process.row, 2] = time.monotonic_ns()
        while count > 0:
            task = self._hosts.take(queue, lambda each: each.host, busy, most, is_its, has_turn)
            if task is None:
                break
            # One for single images is given none of the others, which would wait for it for ever.
            if task.run is not None and not process.is_for_one:
                self._readers[task.run.key] = process.number
                self._readers.move_to_end(task.run.key)
            if task.batch.is_cancelled:
                continue
            count -= 1
            busy[task.host] += 1
            asked[task.host] += 1
            self._tickets += 1
            task.ticket = self._tickets
            process.in_hand[task.ticket] = task
            if task.job.key not in process.jobs:
                process.jobs.add(task.job.key)
                process.say('options', task.job.key, task.job.options)
            item = task.item._replace(carried=())  # which may be long
            where = (task.ticket, task.batch.offset, task.slot, item, task.run)
            given.setdefault(task.job.key, []).append(where)
        while len(self._readers) > _READERS:
            self._readers.popitem(last=False)
        for key, tasks in given.items():
            process.say('load', key, tasks)

    def _start_missing(self) -> None:
        if len(self._processes) == self._count + bool(self._alone):
            return
        if time.monotonic() < self._starts_at:
            return
        rows = {process.row for process in self._processes.values()}
        for row in range(self._count + 1):
            is_for_one = row == self._count
            if row not in rows and (self._alone if is_for_one else self._queue):
                self._start(row, is_for_one)
                if self._has_told:  # one after the other, as two would take each other's room
                    self._starts_at = time.monotonic() + _REFUSED_SEC
                    return

    def _start(self, row: int, is_for_one: bool) -> None:
        with _naming_limits():
            if self.server is None:
                files = (self.memory.descriptor, self._status_file)
                self.server = ForkServer(*files, self._count, self._errors)
                self._selector.register(self.server.connection, selectors.EVENT_READ)
            ours, theirs = socket.socketpair()
            process = _Process(self._numbers + 1, row, is_for_one, ours)
        self._numbers += 1
        self._status[row] = NOTHING
        self._courtesy.forget(row)
        self._processes[process.number] = process
        self._selector.register(process.connection, selectors.EVENT_READ, process)
        tasks = self._alone if is_for_one else self._queue
        modules = modules_of(task.item.uri for task in tasks)
        with theirs:
            self.server.fork(process.number, row, self._environment, modules, theirs)

    def _give_up(self, error: LoaderError) -> None:
        """Tells whoever waits; later requests start from scratch."""
        if self.server is not None:
            self.server.process.kill()  # and the kernel ends what it has forked
            self._close_server()
        left = [*self._queue, *self._alone]
        for process in self._processes.values():
            self._hear_no_more(process)
            process.close()
            left += process.in_hand.values()
        self._processes = {}
        self._queue.clear()
        self._alone.clear()
        self._deaths = self._refusals = 0
        for job in list(self._jobs.values()):
            for name in job.grants:
                job.grants[name] = Grants(common_bytes(job.options))
        for task in left:
            task.batch.fail(error)


class ProcessLoader:
    """Loads with the loader processes of this process.

    Args:
      options: how images are loaded.
    """

    def __init__(self, options: LoadOptions):
        self.decoding = options.process_count
        self.fetching = options.threads * options.process_count
        with _naming_limits():
            self._pool = shared(Pool, options.process_count)
        self._job = self._pool.job(options)

    def room(self, size_bytes: int) -> tuple[int, np.ndarray]:
        """Where pixels go: offset in the shared memory, and a (size_bytes,) uint8 array of
        anything."""
        with _naming_limits():
            return self._pool.memory.take(size_bytes)

    def start(self, batch: LoadingBatch, policy: FaultPolicy) -> None:
        """Starts to load a batch."""
        self._pool.submit(
            [_Task(self._job, batch, slot, policy) for slot in range(len(batch.items))]
        )

    def check(self) -> None:
        """Does nothing: the dispatcher watches what is decoded."""


def _too_few(what: str) -> LoaderError:
    return LoaderError(
        f'cannot start a loader process: {what}. Is a limit on processes and threads (ulimit '
        '-u), open files (ulimit -n) or memory (ulimit -v) too low? --loader_processes 0 loads '
        'in threads instead'
    )


@contextlib.contextmanager
def _naming_limits() -> Iterator[None]:
    """Adds which limits may be too low to what the system refused."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # the latter for threads
        raise _too_few(getattr(e, 'strerror', None) or str(e)) from e


def _status(count: int) -> tuple[int, np.ndarray, Courtesy]:
    """What loader processes share without a message, after the descriptor of the file: what each
    tells of itself, and what all know of hosts."""
    memory = SharedMemory()
    cells = status_cells(count)
    _, room = memory.take(8 * (cells + courtesy.size_of(count + 2)))
    status, hosts = np.split(room.view(np.int64), [cells])
    status[:] = NOTHING
    status = status.reshape(-1, STATUS)
    return memory.descriptor, status, Courtesy(hosts, count + 1, memory.descriptor)


def _crashed(task: _Task, stage: Stage, code: int | None, is_overdue: bool) -> Loaded:
    if is_overdue:
        limit_sec = task.job.options.decode_deadline_sec
        reason, detail = Reason.DECODE_DEADLINE, f'decoding took longer than {limit_sec:g} s'
    else:
        what = 'fetched' if stage is Stage.FETCH else 'decoded'
        reason, detail = Reason.DECODER_CRASHED, f'the process that {what} it {how_ended(code)}'
    size_bytes = task.item.size_bytes if task.item.size_bytes >= 0 else None
    failure = Failure(stage, reason, detail, size_bytes, task.item.version)
    return Loaded(failure, 0.0, 0.0, 0)
