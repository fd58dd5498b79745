"""One run at a time into an output folder.

The lease has no clock: it is a file created only if absent, and it is taken over only when the
process or job that holds it is provably gone.  No result depends on it; it keeps people from paying
twice.

Whoever takes it over, passes it on or gives it back replaces or deletes what it has read, and
nothing else: of two that find the same dead holder, one gets the lease and the other finds the
first one's.
"""

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from transforms.core import uris
from transforms.core.errors import StoreError, UsageError
from transforms.output.layout import RunPaths
from transforms.storage.base import Seen


class Jobs(Protocol):
    """What is known of the jobs that hold a lease, by the runner that submitted them."""

    def describe(self, job: object) -> str:
        """A job's name for people, '' if it is none; `job`, from a lease, may be anything."""

    def has_ended(self, job: object, may_be_none: bool) -> bool:
        """Whether a job is known to have ended.

        Args:
          job: from a lease; may be anything.
          may_be_none: it was about to be submitted, so there may be no job of its name.
        """


class _NoJobs:
    def describe(self, job: object) -> str:  # noqa: ARG002 (of no job)
        return ''

    def has_ended(self, job: object, may_be_none: bool) -> bool:  # noqa: ARG002 (of no job)
        return False


NO_JOBS: Jobs = _NoJobs()
"""For runners of whose jobs nobody can tell whether they have ended."""

_PATH = '_work/_lease.json'
# What stands for no lease in a store that cannot delete on a condition.
_GIVEN_BACK = b'{"given_back": true}'
_POLL_SEC = 2.0
# Each time somebody else was faster.
_TRIES = 10


def acquire(
    layout: RunPaths,
    break_lease: bool,
    wait_sec: float = 0.0,
    on_wait: Callable[[str], None] = lambda _: None,
    jobs: Jobs = NO_JOBS,
    poll_sec: float = _POLL_SEC,
) -> None:
    """Takes the lease of the output folder.

    Args:
      layout: the output, and the run that wants it.
      break_lease: take it, whoever holds it.
      wait_sec: how long to wait for its holder.
      on_wait: called once, with who that is.
      jobs: says whether the job that holds it has ended.
      poll_sec: interval between looks at it.

    Raises:
      UsageError: another run holds it and may be alive.
    """
    ends_at = time.monotonic() + wait_sec
    is_told = False
    while True:
        holder = _take(layout, break_lease, jobs)
        if holder is None:
            return
        run_id = uris.printable(str(holder.get('run_id', '?')))
        who = f'run {run_id} is writing there ({_name(holder, jobs)})'
        left_sec = ends_at - time.monotonic()
        if left_sec <= 0:
            raise UsageError(
                f'--output {layout.output}: {who}; wait for it with --wait_for_lease_sec, '
                'choose another --output, or pass --break_lease if you know that it has ended'
            )
        if not is_told:
            on_wait(who)
            is_told = True
        time.sleep(min(poll_sec, left_sec))


def _take(layout: RunPaths, break_lease: bool, jobs: Jobs) -> dict[str, Any] | None:
    """Takes the lease if it is free; otherwise returns who holds it."""
    uri = layout.uri(_PATH)
    store = layout.store
    ours = _content(layout)
    holder: dict[str, Any] = {}
    for _ in range(_TRIES):
        if store.create(uri, ours):
            return None
        seen = store.look(uri)
        if seen is None:  # given back meanwhile
            continue
        if seen.data == ours:  # the store did as it was told, and its first answer was lost
            return None
        holder = _parse(seen.data)
        is_free = break_lease or seen.data == _GIVEN_BACK or _is_gone(holder, jobs)
        if not is_free:
            return holder
        if store.replace(uri, ours, seen):
            return None
    return holder


def rename(layout: RunPaths, run_id: str) -> None:
    """Writes the run into a lease that is held, once the run is known.

    Raises:
      StoreError: it is no longer held: somebody has broken it.
    """
    if not _pass_on(layout, _content(dataclasses.replace(layout, run_id=run_id))):
        raise _lost(layout)


def hand_over(
    layout: RunPaths, job: Mapping[str, str] | None, *, is_submitted: bool = True
) -> None:
    """Hands a lease that is held to a job that outlives this process.

    Args:
      layout: the output, and the run.
      job: what the `Jobs` of its runner take; None for a runner whose end nobody can prove.
      is_submitted: False while this process is about to submit it: if it is killed then, the job
        may exist or not.

    Raises:
      StoreError: it is no longer held, and nothing is submitted yet: somebody has broken it.
    """
    holder: dict[str, Any] = {} if is_submitted else identity(os.getpid())
    holder |= {'run_id': layout.run_id, 'job': None if job is None else dict(job)}
    if not _pass_on(layout, json.dumps(holder).encode()) and not is_submitted:
        raise _lost(layout)


def _pass_on(layout: RunPaths, content: bytes) -> bool:
    """Writes something else into the lease, if this process holds it; whether it does."""
    uri = layout.uri(_PATH)
    store = layout.store
    us = identity(os.getpid()).items()
    for _ in range(_TRIES):
        seen = store.look(uri)
        if seen is None or not us <= _parse(seen.data).items():
            break
        if store.replace(uri, content, seen):
            return True
    return seen is not None and seen.data == content


def _lost(layout: RunPaths) -> StoreError:
    return StoreError(
        f'{layout.uri(_PATH)}: run {layout.run_id} no longer holds the lease: it was broken '
        'with --break_lease; start this run again once the other one is done'
    )


def release_handed_over(layout: RunPaths, job: Mapping[str, str] | None = None) -> None:
    """Releases the lease of a run that was handed over, once the run is done.

    Args:
      layout: the output, and the run.
      job: release it only if it is this job's: another one may work on the same run by now.
    """
    seen = layout.store.look(layout.uri(_PATH))
    holder = {} if seen is None else _parse(seen.data)
    is_ours = job is None or holder.get('job') == job
    if seen and 'job' in holder and holder.get('run_id') == layout.run_id and is_ours:
        _give_back(layout, seen)


def _name(holder: dict[str, Any], jobs: Jobs) -> str:
    if 'job' in holder:
        job = holder['job']
        unknown = 'on a cluster' if job is None else 'a job that cannot be looked up'
        return jobs.describe(job) or unknown
    return uris.printable(f'process {holder.get("pid", "?")} on {holder.get("host", "?")}')


def _content(layout: RunPaths) -> bytes:
    return json.dumps({'run_id': layout.run_id, **identity(os.getpid())}).encode()


def release(layout: RunPaths) -> None:
    """Releases the lease, if it is ours."""
    seen = layout.store.look(layout.uri(_PATH))
    if seen and _parse(seen.data) == {'run_id': layout.run_id, **identity(os.getpid())}:
        _give_back(layout, seen)
        if layout.is_local:
            with contextlib.suppress(OSError):  # there may be the work of other runs
                folder = Path(layout.uri(_PATH)).parent
                layout.store.within('deleting', str(folder), folder.rmdir)


def _give_back(layout: RunPaths, seen: Seen) -> None:
    uri = layout.uri(_PATH)
    if not layout.store.delete(uri, seen):
        layout.store.replace(uri, _GIVEN_BACK, seen)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def identity(pid: int) -> dict[str, Any]:
    """What a lease stores of a process, to recognize it even if its number is reused."""
    return {
        'pid': pid,
        'started': _started(pid),
        'host': socket.gethostname(),
        'boot': _text('/proc/sys/kernel/random/boot_id'),
        'namespace': _link('/proc/self/ns/pid'),
    }


def _is_gone(holder: dict[str, Any], jobs: Jobs) -> bool:
    """Whether the holder has ended for sure: a job, or a process of this machine and boot."""
    if 'job' not in holder:
        return _is_process_gone(holder)
    is_submitting = 'pid' in holder
    if is_submitting and not _is_process_gone(holder):
        return False
    return jobs.has_ended(holder['job'], may_be_none=is_submitting)


def _is_process_gone(holder: dict[str, Any]) -> bool:
    """Whether it was a process of this machine, boot and namespace, and has ended."""
    pid = holder.get('pid')
    if not isinstance(pid, int) or not holder.get('boot'):
        return False
    now = identity(pid)
    here = all(holder.get(key) == now[key] for key in ('host', 'boot', 'namespace'))
    return here and (now['started'] == '' or now['started'] != holder.get('started'))


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; '' if there is none."""
    fields = _text(f'/proc/{pid}/stat').rpartition(')')[2].split()
    return fields[19] if len(fields) > 19 else ''


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ''


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ''
