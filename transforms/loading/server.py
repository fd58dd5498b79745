"""The process from which loader processes are forked: it has imported what they need.

It is started by exec, has one thread and never decodes, so that forking it is safe, takes
milliseconds, and notices at once when the process that started it is gone.

Messages to it: ('fork', number, row, environment, modules), followed by a descriptor of the
connection of the new process; ('kill', number).  Messages from it: ('cannot', number, why) and
('exited', number, exit code, negative for a signal).
"""

import contextlib
import importlib
import mmap
import os
import selectors
import signal
import socket
import traceback
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import numpy as np

from transforms.loading.buffers import MappedMemory
from transforms.loading.child import STATUS, LoaderProcess, end_with, status_cells
from transforms.storage import courtesy
from transforms.storage.courtesy import Courtesy


def main(control: int, memory: int, status: int, processes: int) -> None:
    """Serves until the other end of the control connection is closed.

    Args:
      control: descriptor of a stream socket.
      memory: descriptor of the memory for pixels.
      status: descriptor of the memory for what each process decodes, and what all know of hosts.
      processes: how many will be forked, which they are told.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the one that started this
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = os.pipe()
    for descriptor in (woken, wake):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    connection = Connection(control)
    running: dict[int, int] = {}  # number by pid
    selector = selectors.DefaultSelector()
    for descriptor in (control, woken):
        selector.register(descriptor, selectors.EVENT_READ)
    me = os.getpid()
    while True:
        selector.select()
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        _reap(connection, running)
        if not connection.poll():
            continue
        try:
            kind, number, *rest = connection.recv()
        except (EOFError, OSError):
            break
        if kind == 'kill':
            for child in [pid for pid, each in running.items() if each == number]:
                os.kill(child, signal.SIGKILL)
            continue
        row, environment, modules = rest
        end = _descriptor(control)
        for module in modules:
            importlib.import_module(module)
        try:
            child = os.fork()
        except OSError as e:
            _say(connection, 'cannot', number, e.strerror)
        else:
            if child == 0:
                selector.close()
                for descriptor in (control, woken, wake):
                    os.close(descriptor)
                _be_loader(me, Connection(end), memory, status, row, environment, processes)
            running[child] = number
        os.close(end)
    for child in running:
        os.kill(child, signal.SIGKILL)


def _descriptor(control: int) -> int:
    with socket.socket(fileno=os.dup(control)) as through:
        _, [descriptor], _, _ = socket.recv_fds(through, 1, 1)
    return descriptor


def _cells(status: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(status, os.fstat(status).st_size), np.int64)


def _know_hosts(cells: np.ndarray, row: int, status: int, processes: int) -> None:
    """Has this process treat hosts together with the others."""
    first = status_cells(processes)
    hosts = cells[first : first + courtesy.size_of(processes + 2)]
    courtesy.share(Courtesy(hosts, row, status))


def _reap(connection: Connection, running: dict[int, int]) -> None:
    while running:
        pid, ended = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _say(connection, 'exited', running.pop(pid), os.waitstatus_to_exitcode(ended))


def _say(connection: Connection, *message: Any) -> None:
    with contextlib.suppress(OSError):  # that nobody is there any more, it will read
        connection.send(message)


def _be_loader(
    parent: int,
    connection: Connection,
    memory: int,
    status: int,
    row: int,
    environment: dict[str, str],
    processes: int,
) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with(parent)
        os.environ.clear()
        os.environ.update(environment)
        cells = _cells(status)
        _know_hosts(cells, row, status, processes)
        mine = cells[row * STATUS : (row + 1) * STATUS]
        LoaderProcess(connection, MappedMemory(memory), mine, processes).run()
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(code)
