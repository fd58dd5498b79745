"""Local files."""

import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.contracts.stores import StoreContract
from tests.support import attempts
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.storage.base import FetchLimits
from transforms.storage.local import LocalStore
from transforms.storage.registry import store_for

LIMITS = FetchLimits(max_bytes=1000, deadline_sec=5.0)


@pytest.fixture
def store():
    return LocalStore()


@pytest.fixture
def unprivileged():
    """A folder of its own for a test that must not be root, who may read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in folder.rglob('*'):
            with contextlib.suppress(OSError):
                path.chmod(0o700)
        shutil.rmtree(folder)


def fetch(store, path, limits=LIMITS):
    return store.fetch(str(path), limits, lambda size_bytes: None)


def reason_of(store, path, limits=LIMITS):
    with pytest.raises(ImageError) as caught:
        fetch(store, path, limits)
    return caught.value.reason.value


def listed(store, folder, *args, **options):
    return sorted(entry.uri for entry in store.list(str(folder), *args, **options))


class Folder(NamedTuple):
    """A folder of this machine."""

    path: Path

    def uri(self, name=''):
        return f'{self.path}/{name}' if name else str(self.path)

    def put(self, name, data):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)


class TestLikeEveryStore(StoreContract):
    ODD_NAMES = (*StoreContract.ODD_NAMES, 'é日.jpg')

    @pytest.fixture
    def place(self, tmp_path):
        return Folder(tmp_path)


def test_the_version_is_size_and_time(tmp_path, store):
    path = tmp_path / 'a'
    path.write_bytes(b'abc')
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    assert fetch(store, path).version == '3-1234567890123456789'


@pytest.mark.parametrize('size', [0, 3, 5])
def test_a_file_that_changes_while_it_is_read_is_found_out(tmp_path, store, size):
    path = tmp_path / 'a'
    path.write_bytes(b'abcd')

    def change(size_bytes):
        path.write_bytes(bytes(size))

    with pytest.raises(ImageError, match=r'changed_while_reading: 4 bytes at first'):
        store.fetch(str(path), LIMITS, change)


def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one(tmp_path, store):
    path = tmp_path / 'a'
    path.write_bytes(b'old')
    (tmp_path / 'b').write_bytes(b'newer')
    fetched = store.fetch(str(path), LIMITS, lambda size: (tmp_path / 'b').rename(path))
    assert fetched.data == b'old'


def test_a_file_that_vanishes_after_it_was_listed_is_not_found(tmp_path, store):
    (tmp_path / 'a.jpg').write_bytes(b'x')
    (entry,) = store.list(str(tmp_path))
    (tmp_path / 'a.jpg').unlink()
    assert reason_of(store, entry.uri) == 'not_found'


def test_what_is_no_file_is_said_at_once(tmp_path, store):
    os.mkfifo(tmp_path / 'fifo.jpg')
    (tmp_path / 'folder.jpg').mkdir()
    (tmp_path / 'link.jpg').symlink_to('folder.jpg')
    with socket.socket(socket.AF_UNIX) as server:
        # Bound by a relative name: those of sockets are short.
        folder = os.open(tmp_path, os.O_RDONLY)
        server.bind(f'/proc/self/fd/{folder}/socket.jpg')
        os.close(folder)
        names = ['fifo.jpg', 'folder.jpg', 'link.jpg', 'socket.jpg']
        paths = [*(tmp_path / name for name in names), '/dev/zero', '/proc/self/maps', '/']
        assert {str(path): reason_of(store, path) for path in paths} == dict.fromkeys(
            map(str, paths), 'not_a_file'
        )


def test_a_link_to_a_file_of_the_system_is_none_either(tmp_path, store):
    (tmp_path / 'a.jpg').symlink_to('/proc/cpuinfo')
    assert reason_of(store, tmp_path / 'a.jpg') == 'not_a_file'


@pytest.mark.skipif(not Path('/dev/shm').is_dir(), reason='there is no /dev/shm')
def test_files_in_shared_memory_are_files(store):
    with tempfile.NamedTemporaryFile(dir='/dev/shm') as file:
        file.write(b'abc')
        file.flush()
        assert fetch(store, file.name).data == b'abc'


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('absent', 'not_found'),
        ('file/below', 'not_found'),
        ('dangling', 'not_found'),
        ('loop', 'not_found'),
        ('x' * 300, 'bad_name'),
        ('nul\x00', 'bad_uri'),
    ],
)
def test_what_cannot_be_opened_has_a_reason(tmp_path, store, name, reason):
    (tmp_path / 'file').touch()
    (tmp_path / 'dangling').symlink_to('absent')
    (tmp_path / 'loop').symlink_to('loop')
    assert reason_of(store, f'{tmp_path}/{name}') == reason
    assert store.stat(f'{tmp_path}/{name}') is None


def test_a_fault_of_this_machine_is_no_images(tmp_path, store, monkeypatch):
    (tmp_path / 'a').touch()

    def no_descriptors(*args):
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(os, 'open', no_descriptors)
    with pytest.raises(StoreError, match='Too many open files'):
        fetch(store, tmp_path / 'a')


def test_files_without_permission_are_forbidden(unprivileged, store):
    path = unprivileged / 'a.jpg'
    path.write_bytes(b'x')
    path.chmod(0)
    (unprivileged / 'closed').mkdir()
    (unprivileged / 'closed' / 'b.jpg').write_bytes(b'x')
    (unprivileged / 'closed').chmod(0)
    assert reason_of(store, path) == 'forbidden'
    assert reason_of(store, unprivileged / 'closed' / 'b.jpg') == 'forbidden'


def test_a_folder_that_cannot_be_listed_stops_the_run(unprivileged, store):
    (unprivileged / 'closed').mkdir(mode=0)
    with pytest.raises(StoreError, match=f'cannot list {unprivileged}/closed: Permission denied'):
        listed(store, unprivileged)


def test_what_may_not_be_read_or_written_is_the_stores_fault(unprivileged, store):
    (unprivileged / 'secret').write_bytes(b'x')
    (unprivileged / 'secret').chmod(0)
    (unprivileged / 'closed').mkdir(mode=0o500)
    with pytest.raises(StoreError, match=r'cannot read .*secret: Permission denied'):
        store.read(f'{unprivileged}/secret')
    with pytest.raises(UsageError, match=r'cannot read .*secret: Permission denied'):
        store.open(f'{unprivileged}/secret')
    for action in (store.write, store.create):
        with pytest.raises(StoreError, match=r'cannot write .*closed/a: Permission denied'):
            action(f'{unprivileged}/closed/a', b'x')


def test_bad_links_do_not_stop_the_listing(tmp_path, store):
    (tmp_path / 'a.jpg').write_bytes(b'x')
    (tmp_path / 'loop.jpg').symlink_to('loop.jpg')
    (tmp_path / 'one.jpg').symlink_to('other.jpg')
    (tmp_path / 'other.jpg').symlink_to('one.jpg')
    (tmp_path / 'dangling.jpg').symlink_to('absent')
    names = ['a.jpg', 'dangling.jpg', 'loop.jpg', 'one.jpg', 'other.jpg']
    assert listed(store, tmp_path) == [f'{tmp_path}/{name}' for name in names]
    sizes = {entry.uri: entry.size_bytes for entry in store.list(str(tmp_path))}
    assert sizes.pop(f'{tmp_path}/a.jpg') == 1
    assert set(sizes.values()) == {-1}


def test_folders_linked_in_a_circle_are_listed_once(tmp_path, store):
    (tmp_path / 'x' / 'y').mkdir(parents=True)
    (tmp_path / 'x' / 'y' / 'a.jpg').touch()
    (tmp_path / 'x' / 'y' / 'up').symlink_to(tmp_path)
    for by_every_name in (False, True):
        found = listed(store, tmp_path, by_every_name=by_every_name)
        assert found == [f'{tmp_path}/x/y/a.jpg']


def test_a_folder_goes_by_its_own_name_before_those_of_links(tmp_path, store):
    for name in ('b', 'b/c', 'z'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'i.jpg').touch()
    (tmp_path / 'a').symlink_to('b')
    (tmp_path / 'y').symlink_to('z')
    (tmp_path / 'b' / 'd').symlink_to('../z')
    once = [f'{tmp_path}/{name}/i.jpg' for name in ('b', 'b/c', 'z')]
    assert listed(store, tmp_path) == sorted(once)
    names = ('a', 'a/c', 'a/d', 'b', 'b/c', 'b/d', 'y', 'z')
    every = [f'{tmp_path}/{name}/i.jpg' for name in names]
    assert listed(store, tmp_path, by_every_name=True) == sorted(every)


def test_max_depth_leaves_out_deeper_folders(tmp_path, store):
    (tmp_path / 'x' / 'y').mkdir(parents=True)
    for name in ('1', 'x/2', 'x/y/3'):
        (tmp_path / name).touch()
    for depth, count in ((1, 1), (2, 2), (3, 3), (None, 3)):
        assert len(listed(store, tmp_path, depth)) == count


def test_names_that_are_no_text_are_marked(tmp_path, store):
    folder = os.fsencode(tmp_path) + b'/\xfe'
    os.mkdir(folder)  # noqa: PTH102 (the name is no text)
    for name in (b'/\xff.jpg', b'/ok.jpg'):
        with open(folder + name, 'wb'):  # noqa: PTH123
            pass
    found = sorted(store.list(str(tmp_path)))
    assert [entry.uri for entry in found] == [
        f'{tmp_path}/\\xfe/\\xff.jpg',
        f'{tmp_path}/\\xfe/ok.jpg',
    ]
    assert {entry.reason for entry in found} == {'bad_name'}


def test_the_listing_streams(tmp_path, store):
    for i in range(50):
        (tmp_path / f'{i:02}').touch()
    entries = store.list(str(tmp_path))
    next(entries)
    for path in tmp_path.iterdir():
        path.unlink()
    assert len(list(entries)) < 50


def test_write_replaces_as_a_whole_and_leaves_nothing_beside(tmp_path, store):
    path = tmp_path / 'x' / 'y' / 'a.json'
    store.write(str(path), b'1')
    store.write(str(path), b'2')
    assert path.read_bytes() == b'2'
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_failed_write_leaves_nothing(tmp_path, store):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'file').touch()
    for path in ('a', 'file/b', f'{"x" * 300}'):
        with pytest.raises(StoreError, match='cannot write'):
            store.write(f'{tmp_path}/{path}', b'x')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'file']


def test_create_works_without_hard_links(tmp_path, store, monkeypatch):
    def no_links(*args):
        raise OSError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', no_links)
    assert store.create(f'{tmp_path}/a', b'1')
    assert not store.create(f'{tmp_path}/a', b'2')
    assert store.read(f'{tmp_path}/a') == b'1'
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_read_and_delete_of_nothing(tmp_path, store):
    (tmp_path / 'file').touch()
    for name in ('absent', 'absent/x', 'file/x'):
        assert store.read(f'{tmp_path}/{name}') is None
        store.delete(f'{tmp_path}/{name}')
    with pytest.raises(StoreError, match='cannot read'):
        store.read(str(tmp_path))
    with pytest.raises(StoreError, match='cannot delete'):
        store.delete(str(tmp_path))
    store.delete(f'{tmp_path}/file')
    assert store.stat(f'{tmp_path}/file') is None


def test_one_store_a_process(tmp_path):
    assert store_for(str(tmp_path)) is store_for('/')
    with pytest.raises(UsageError, match='expected a local path or one of gs://'):
        store_for('ftp://host/x')


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system."""
    memory = Path('/dev/shm')
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip('no second file system')
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_file_is_placed_on_another_disk(tmp_path, store, other_disk):
    (tmp_path / 'a').write_bytes(b'1' * 3_000_000)
    target = other_disk / 'x' / 'b'
    assert store.place(str(tmp_path / 'a'), str(target))
    assert target.read_bytes() == b'1' * 3_000_000
    assert list(tmp_path.iterdir()) == []
    assert [path.name for path in target.parent.iterdir()] == ['b']
    assert not store.place(str(tmp_path / 'a'), str(target)), 'there is none any more'
    assert target.stat().st_size == 3_000_000


def test_a_disk_that_is_full_leaves_what_was_to_be_placed(tmp_path, store, other_disk, monkeypatch):
    (tmp_path / 'a').write_bytes(b'1')

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(StoreError, match=r'cannot write .*b: No space left'):
        store.place(str(tmp_path / 'a'), str(other_disk / 'b'))
    assert (tmp_path / 'a').read_bytes() == b'1'
    assert list(other_disk.iterdir()) == []


@pytest.mark.parametrize('name', ['predictions', 'dead_letters', '_work', 'runs'])
def test_a_part_of_an_output_may_lie_on_another_disk(tmp_path, other_disk, name):
    (tmp_path / name).symlink_to(other_disk)
    layout = attempts.layout_of(str(tmp_path), 'a')
    uris = [f'/a/{i}.jpg' for i in range(5)]
    report = attempts.attempt(layout, uris)
    assert report.balanced
    assert attempts.faults(str(tmp_path), [uris]) == []


@contextlib.contextmanager
def meanwhile(act):
    """Does something again and again in another thread."""
    is_over = threading.Event()

    def run():
        while not is_over.wait(0.001):
            with contextlib.suppress(OSError):
                act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def sweep(folder):
    for path in folder.glob('.*.tmp'):
        path.unlink()


@pytest.mark.parametrize('act', [Path.rmdir, sweep])
def test_who_cleans_up_meanwhile_is_in_nobodys_way(act, store, tmp_path):
    """As who holds the lease does while others ask for it."""
    folder = tmp_path / '_work'
    uri, moved = str(folder / '_lease.json'), str(tmp_path / 'moved')
    with meanwhile(lambda: act(folder)):
        for _ in range(300):
            assert store.create(uri, b'1')
            assert not store.create(uri, b'2')
            assert store.replace(uri, b'3', store.look(uri))
            store.write(uri, b'4')
            assert store.place(uri, moved)
            assert store.place(moved, uri)
            assert store.delete(uri, store.look(uri))
