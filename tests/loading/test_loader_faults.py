"""Loader processes under limits, at their ends, and with one another: nothing hangs or is lost."""

import contextlib
import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL.Image
import pytest

from tests.support import samples
from tests.support.loadings import (
    ANY_FAILURE,
    OPTIONS,
    begin,
    failed,
    load,
    processes,
    within,
    write,
)
from tests.support.misbehaving_server import Server, stall, stored
from transforms.core.elements import Chunk, Image, Item, Stage
from transforms.core.errors import LemmabeamError, StoreError, UsageError
from transforms.core.limits import PixelLimits
from transforms.core.reasons import Reason
from transforms.core.resources import shared
from transforms.core.stores import HttpOptions, StoreOptions
from transforms.loading.child import _portable
from transforms.loading.loader import Loader
from transforms.loading.processes import Pool

# Loads files within limits; says how each ended.
CODE = """
import os, resource, sys
from pathlib import Path
answer = os.dup(int(sys.argv[1]))  # the lowest, whatever others have open
os.close(int(sys.argv[1]))
{before}
from tests.support.loadings import OPTIONS, load
from transforms.core.errors import LemmabeamError
from transforms.core.elements import Image
{then}
def say(text):
    os.write(answer, text.encode())
try:
    found = load([Path(path) for path in sys.argv[2:]], OPTIONS._replace(decode_deadline_sec=5.0))
    for name, outcome in found.items():
        say(name + (' ok' if isinstance(outcome, Image) else ' ' + outcome.reason.value) + chr(10))
except LemmabeamError as e:
    say('stopped: ' + str(e))
os._exit(0)
"""


def load_within(paths, before='', then='', prefix=(), timeout_sec=60.0) -> str:
    """What a process within limits says."""
    answered, answer = os.pipe()
    code = CODE.format(before=before, then=then)
    command = [*prefix, sys.executable, '-c', code, str(answer), *map(str, paths)]
    try:
        subprocess.run(
            command,
            cwd=samples.SAMPLE.parents[1],
            pass_fds=[answer],
            timeout=timeout_sec,
            check=False,
        )
    finally:
        os.close(answer)
    with os.fdopen(answered) as said:
        return said.read()


def with_a_crash(folder) -> tuple[list[Path], str]:
    """Pictures one of which ends its process, and what is to be said of them."""
    paths = write(folder / 'in', ['', '', 'segv', *[''] * 9])
    ends = ('decoder_crashed' if 'segv' in path.stem else 'ok' for path in paths)
    return paths, ''.join(f'{path.stem} {end}\n' for path, end in zip(paths, ends, strict=True))


# Somebody who has no other process, also of a test beside this one, and whom such a limit concerns;
# may read the files of others.
NOBODY_ELSE = 20_000 + os.getpid() % 40_000
SOMEBODY = (
    *('setpriv', f'--reuid={NOBODY_ELSE}', f'--regid={NOBODY_ELSE}', '--clear-groups'),
    *('--inh-caps=-all,+dac_override', '--ambient-caps=-all,+dac_override'),
)
# So many on top of those that the process has by itself.
FEW_PROCESSES = """
most = len(os.listdir('/proc/self/task')) + {}
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
"""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which('setpriv'), reason='needs root, setpriv')
@pytest.mark.parametrize('more', [3, 4, 7])
def test_a_limit_of_processes(more, tmp_path):
    """One for who deals out, one from which they are forked, and a process with a thread."""
    paths, expected = with_a_crash(tmp_path)
    said = load_within(paths, then=FEW_PROCESSES.format(more), prefix=SOMEBODY)
    if more < 4:
        assert said.startswith('stopped: cannot start a loader process: ')
        assert 'a limit on processes and threads (ulimit -u)' in said
    else:
        assert said == expected


# There are as many descriptors as somebody opens, and standard streams may be any of them.
@pytest.mark.parametrize(
    ('before', 'then'),
    [
        ('os.closerange(0, 3)', ''),
        ('', 'os.closerange(0, 3)'),
        (
            'resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))',
            '[os.dup(answer) for _ in range(1100)]',
        ),
        ('del os.memfd_create', ''),
        (
            'def refused(name): raise OSError(1, "not permitted")\nos.memfd_create = refused',
            'resource.setrlimit(resource.RLIMIT_CORE, (0, 0))',
        ),
    ],
    ids=['closed', 'closed later', 'many files', 'no memfd', 'memfd refused'],
)
def test_whatever_descriptors_there_are(before, then, tmp_path):
    paths, expected = with_a_crash(tmp_path)
    assert load_within(paths, before, then) == expected


# A full disk in place of a folder, which nobody else sees.
FULL = 'mount -t tmpfs -o size=8k tmpfs "$0" && head -c 8192 /dev/zero > "$0/filler" && exec "$@"'


@pytest.mark.parametrize('where', ['/dev/shm', 'TMPDIR', 'TMPDIR, no memfd'])
def test_a_full_disk(where, tmp_path):
    """Pixels are in no file, but where the system knows no other memory that can be shared."""
    disk = '/dev/shm' if where == '/dev/shm' else str(tmp_path / 'disk')
    Path(disk).mkdir(exist_ok=True)
    prefix = ('unshare', '-Urm', 'sh', '-c', FULL, disk)
    if subprocess.run([*prefix, 'true'], capture_output=True, check=False).returncode:
        pytest.skip('no disk can be mounted here')
    paths, expected = with_a_crash(tmp_path)
    before = '' if where == '/dev/shm' else f'import tempfile\ntempfile.tempdir = {disk!r}'
    if 'no memfd' in where:
        before += '\ndel os.memfd_create'
        full = f'No space left on device in {disk} (TMPDIR).'
        expected = f'stopped: cannot start a loader process: {full} Is a limit on '
    assert load_within(paths, before, prefix=prefix).startswith(expected)


# A number below those that are open may be free as well.
FEW_FILES = """
used = set(map(int, os.listdir('/proc/self/fd')))
most = [number for number in range(10_000) if number not in used][{} - 1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
"""


@pytest.mark.parametrize('more', [2, 40])
def test_a_limit_of_open_files(more, tmp_path):
    paths, expected = with_a_crash(tmp_path)
    said = load_within(paths, then=FEW_FILES.format(more))
    stopped = 'stopped: cannot start a loader process: Too many open files. Is'
    assert said.startswith(stopped) if more == 2 else said == expected


LITTLE_MEMORY = """
most = int(Path('/proc/self/statm').read_text().split()[0]) * 4096 + ({} << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""


@pytest.mark.parametrize('mib', [10, 60])
def test_a_limit_of_the_address_space(mib, tmp_path):
    """What is too large for it may succeed elsewhere; it is never said to be damaged."""
    paths = write(tmp_path / 'in', [''] * 12)
    PIL.Image.new('RGB', (1000, 1000)).save(paths[3], 'PNG')
    said = load_within(paths, then=LITTLE_MEMORY.format(mib))
    assert said.startswith('stopped: cannot start a loader process: ') or {
        line.split()[1] for line in said.splitlines()
    } <= {'ok', 'decoder_crashed'}


ONE = OPTIONS._replace(processes=1, decode_deadline_sec=0.5)


def test_one_that_is_stopped_while_it_decodes_is_ended_by_the_deadline(tmp_path):
    found = load(write(tmp_path / 'in', ['', 'stop', '', '']), ONE)
    assert {name: reason for name, (reason, _) in failed(found).items()} == {
        '01-stop': Reason.DECODE_DEADLINE
    }


def kill_all(pool) -> None:
    for pid in processes(pool):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def fetching():
    """A loader and a batch of eight pictures, of which four are asked for and do not come."""
    options = OPTIONS._replace(stores=StoreOptions(http=HttpOptions(allow_private_hosts=True)))
    data = samples.picture(1, (40, 30))
    with contextlib.closing(Server([stall] * 4 + [stored(data)])) as server:
        items = [Item(f'{server.url}/{i}.jpg', '', -1, ['[]']) for i in range(8)]
        loader = Loader(options)
        batch = loader.begin(Chunk('c', items), 0, ANY_FAILURE)
        with within(30) as tick:
            while server.requests < 4:
                tick()
        yield loader, batch


def test_those_that_are_killed_while_they_fetch_cost_nothing():
    with fetching() as (loader, batch):
        kill_all(shared(Pool, 2))
        assert all(isinstance(each.outcome, Image) for each in loader.result(batch))


def test_those_that_are_stopped_while_they_fetch_are_replaced():
    pool = shared(Pool, 2)
    with fetching() as (loader, batch):
        for pid in processes(pool):
            os.kill(pid, signal.SIGSTOP)
        pool.silent_sec = 0.3
        try:
            assert all(isinstance(each.outcome, Image) for each in loader.result(batch))
        finally:
            pool.silent_sec = 60.0


def test_one_whose_fetch_ends_its_process_each_time_is_a_dead_letter(tmp_path):
    """A library of a store that crashes, say; here the server kills whoever asks."""
    options = OPTIONS._replace(stores=StoreOptions(http=HttpOptions(allow_private_hosts=True)))
    pool = shared(Pool, 2)
    with contextlib.closing(Server([lambda *_: kill_all(pool)])) as server:
        paths = write(tmp_path / 'in', [''] * 7)
        items = [Item(str(path), '', -1, ['[]']) for path in [f'{server.url}/a.jpg', *paths]]
        loader = Loader(options)
        results = loader.result(loader.begin(Chunk('c', items), 0, ANY_FAILURE))
    guilty, *others = (each.outcome for each in results)
    assert (guilty.stage, guilty.reason) == (Stage.FETCH, Reason.DECODER_CRASHED)
    assert guilty.detail.startswith('the process that fetched it was killed by SIGKILL')
    assert all(isinstance(each, Image) for each in others)


def test_those_that_are_killed_while_they_wait_for_room_give_theirs_back(tmp_path):
    """Slow pictures each of which wants all the room that there is."""
    options = OPTIONS._replace(memory_budget_bytes=64)
    loader, batches = begin(write(tmp_path / 'in', ['slow'] * 16), options)
    pool = shared(Pool, 2)
    grants = pool.job(options).grants
    for _ in range(3):
        with within(30) as tick:
            while not any(each.is_waited_for for each in grants.values()):
                tick()
        kill_all(pool)
    for batch in batches:
        assert all(isinstance(each.outcome, Image) for each in loader.result(batch))
    assert not any(each.is_used for each in pool.job(options).grants.values())


def test_pictures_of_two_jobs_are_not_decoded_at_once(tmp_path):
    """Nobody would see which of them does not come back."""
    others = ONE._replace(pixels=PixelLimits(900_000, 4_000_000))
    hanging = write(tmp_path / 'hanging', ['sleep'])
    slow = write(tmp_path / 'slow', ['slow'] * 24)
    loader, [*first] = begin(slow, ONE)
    other, [second] = begin(hanging, others)
    [loaded] = other.result(second)
    assert loaded.outcome.reason is Reason.DECODE_DEADLINE
    for batch in first:
        assert all(isinstance(each.outcome, Image) for each in loader.result(batch))


def test_who_does_not_listen_holds_nobody_up(tmp_path):
    """The pictures for a process that is in an endless decoder, with long names and rows."""
    options = ONE._replace(threads=256)
    paths = write(tmp_path / 'in', ['loop', *[''] * 119])
    items = [Item(str(path), '', -1, ['x' * 5000], access='/' * 3500 + str(path)) for path in paths]
    chunk, loader = Chunk('c', items), Loader(options)
    batches = [loader.begin(chunk, at, ANY_FAILURE) for at in range(0, len(items), 8)]
    outcomes = [each.outcome for batch in batches for each in loader.result(batch)]
    assert outcomes[0].reason is Reason.DECODE_DEADLINE
    assert all(isinstance(each, Image) for each in outcomes[1:])


def test_a_change_of_the_environment_does_not_wait_for_a_pause(tmp_path, monkeypatch):
    slow = write(tmp_path / 'slow', ['slow'] * 24)
    paths = write(tmp_path / 'in', ['environment'] * 8)
    load(slow[:1])
    loader, batches = begin(slow)
    monkeypatch.setenv('LEMMABEAM_TEST', 'set')
    assert failed(load(paths)) == {}
    for batch in batches:
        loader.result(batch)


def test_those_that_died_unannounced_may_be_replaced(tmp_path, monkeypatch):
    """Their server is slow to say so, and then a run with another environment begins."""
    paths = write(tmp_path / 'in', [''] * 8)
    load(paths)
    pool = shared(Pool, 2)
    died = processes(pool)
    pool.server.process.send_signal(signal.SIGSTOP)
    try:
        for pid in died:
            os.kill(pid, signal.SIGKILL)
        with within(30) as tick:
            while len(pool._selector.get_map()) > 2:  # who wakes it, and the server
                tick()
        monkeypatch.setenv('LEMMABEAM_TEST', 'another')
        loader, [batch] = begin(paths)
        with within(30) as tick:
            while not pool.is_working:
                tick()
    finally:
        pool.server.process.send_signal(signal.SIGCONT)
    assert all(isinstance(each.outcome, Image) for each in loader.result(batch))


@pytest.mark.parametrize('is_killed', [False, True])
def test_pixels_are_nobody_elses_while_somebody_may_write_them(is_killed, tmp_path):
    _, [batch] = begin(write(tmp_path / 'in', ['slow'] * 8))
    pool, mine, size = shared(Pool, 2), batch.offset, batch.pixels.nbytes
    with within(30) as tick:
        while not pool.is_working:
            tick()
    batch.cancel()
    gone = weakref.ref(batch)
    del batch
    if is_killed:
        pool.server.process.kill()
    held = []
    with within(30) as tick:
        while gone():
            held.append(pool.memory.take(size))
            if gone():
                assert held[-1][0] != mine
            tick()
    assert not pool.is_working
    with within(30) as tick:
        while mine not in [start for start, _ in held]:
            held.append(pool.memory.take(size))
            tick()


def test_a_failed_bundle_leaves_the_next_one_its_room(tmp_path):
    """An error that is no image's, and others of the same bundle on their way."""
    paths = write(tmp_path / 'in', ['slow'] * 16)
    loader, batches = begin(paths)
    broken = loader.begin(Chunk('c', [Item('nowhere://x', '', -1, [])]), 0, ANY_FAILURE)
    with pytest.raises(LemmabeamError, match='nowhere://x'):
        loader.result(broken)
    for batch in batches:
        batch.cancel()
    del batch, batches, broken
    assert failed(load(paths)) == {}
    gc.collect()
    with within(10) as tick:
        while loader._batch_bytes:
            tick()


def test_a_grant_larger_than_all_waits_its_turn(tmp_path):
    """Every picture wants more than there is, in both kinds, of several bundles at once."""
    options = OPTIONS._replace(memory_budget_bytes=64, threads=16)
    paths = write(tmp_path / 'in', [''] * 24)
    with ThreadPoolExecutor(3) as bundles:
        found = [bundles.submit(load, paths, options) for _ in range(3)]
        assert [failed(each.result(60)) for each in found] == [{}] * 3


class OddError(LemmabeamError):
    def __init__(self, number: int, *, where: str):
        super().__init__(f'{number} at {where}')


def test_errors_that_cross_over_keep_their_words():
    for error in (StoreError('s3://x: denied'), UsageError('--input \udcff')):
        again = _portable(error)
        assert (type(again), str(again)) == (type(error), str(error))
    for odd in (OddError(3, where='x'), ValueError('y')):
        again = pickle.loads(pickle.dumps(_portable(odd)))
        assert type(again) is RuntimeError
        assert str(odd) in str(again)


def test_a_name_that_is_no_text(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b'/\xff.jpg')
    shutil.copy(write(tmp_path / 'in', [''])[0], path)
    chunk, loader = Chunk('c', [Item(path, '', -1, [])]), Loader(OPTIONS)
    [loaded] = loader.result(loader.begin(chunk, 0, ANY_FAILURE))
    assert isinstance(loaded.outcome, Image)


def test_descriptors_threads_and_processes_do_not_grow(tmp_path):
    def count() -> tuple[int, int]:
        gc.collect()  # what others have left
        return len(list(Path('/proc/self/fd').iterdir())), threading.active_count()

    paths = write(tmp_path / 'in', ['', 'exit', '', 'kill'])
    load(paths)
    before = count()
    for _ in range(3):
        load(paths)
    now = count()
    assert now[0] <= before[0] + 2  # of the process for one
    assert now[1] <= before[1]
    assert len(processes(shared(Pool, 2))) <= 3
