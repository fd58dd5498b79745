"""Members read through stores: what is kept for the next one, and who waits for whom."""

import dataclasses
import gzip
import io
import random
import tarfile
import threading
import time
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.containers import listed, wanted
from transforms.core import members
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.storage.base import Entry, Fetched, FetchLimits
from transforms.storage.containers import fetch
from transforms.storage.containers.arrow import ARROW
from transforms.storage.containers.base import Member
from transforms.storage.containers.fetch import MemberFetcher
from transforms.storage.containers.parquet import PARQUET
from transforms.storage.containers.tar import TAR_GZ

LIMITS = FetchLimits(2**20, 20.0)
SOON = FetchLimits(2**20, 0.2)
PICTURE = bytes(range(256)) * 4


class Store:
    """One object; `stuck` holds up whoever reads it."""

    def __init__(self, data):
        self.data = data
        self.stuck = threading.Event()
        self.stuck.set()
        self.is_read = threading.Event()

    def stat(self, uri):
        return Entry(uri, '1', len(self.data))

    def fetch(self, uri, limits, admit, unless='', part=None):
        self.is_read.set()
        assert self.stuck.wait(60)
        data = self.data[part.offset : part.offset + part.size_bytes]
        return Fetched(data, part.version, len(data))


class Room:
    """Room for so many bytes."""

    def __init__(self, limit=2**30):
        self.limit = limit
        self.used = 0

    def has_taken(self, size):
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def release(self, taken):
        self.used -= taken


def archive(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as made:
        for number, data in enumerate(contents):
            info = tarfile.TarInfo(f'{number}.jpg')
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def found_in(kind, data):
    return [
        (each.name, members.join_version('1', each.where))
        for each in listed(kind, data)
        if isinstance(each, Member)
    ]


def test_a_bad_member_does_not_cost_the_stream_from_its_beginning(monkeypatch):
    opened = []

    def open_counted(source):
        opened.append(source)
        return TAR_GZ.open(source)

    counted = dataclasses.replace(TAR_GZ, open=open_counted)
    monkeypatch.setattr(fetch, 'format_of', lambda _: counted)
    data = gzip.compress(archive([PICTURE, b'', PICTURE]))
    store, fetcher = Store(data), MemberFetcher(wanted(), Room())
    outcomes = []
    for name, version in found_in(TAR_GZ, data):
        try:
            read = fetcher.fetch(store, f'gs://b/a.tgz!/{name}', version, LIMITS, lambda _: None)
            outcomes.append(read.data)
        except ImageError as e:
            outcomes.append(e.reason)
    assert outcomes == [PICTURE, Reason.EMPTY, PICTURE]
    assert len(opened) == 1


def test_who_waits_for_a_stuck_stream_is_late_and_the_next_one_reads_it_anew(in_thread):
    data = gzip.compress(archive([PICTURE] * 3))
    store, fetcher = Store(data), MemberFetcher(wanted(), Room())
    stuck = Store(data)
    stuck.stuck.clear()
    (first, one), (second, two), (third, three) = found_in(TAR_GZ, data)

    def read(store, name, version, limits):
        return fetcher.fetch(store, f'gs://b/a.tgz!/{name}', version, limits, lambda _: None)

    in_thread(read, stuck, first, one, LIMITS)
    assert stuck.is_read.wait(20)
    try:
        with pytest.raises(ImageError) as late:
            read(store, second, two, SOON)
        assert late.value.reason is Reason.DEADLINE
        # Its block is that of the one that is stuck; the next has all to itself.
        with pytest.raises(ImageError):
            read(store, third, three, SOON)
        assert read(store, third, three, LIMITS).data == PICTURE
    finally:
        stuck.stuck.set()


def test_who_waits_for_a_stuck_index_is_late_and_the_next_one_reads_it_anew(in_thread):
    data = archive([PICTURE] * 2)
    store, fetcher = Store(data), MemberFetcher(wanted(), Room())
    stuck = Store(data)
    stuck.stuck.clear()

    def read(store, name, limits):
        return fetcher.fetch(store, name, '', limits, lambda _: None)

    in_thread(read, stuck, 'gs://b/a.tar!/0.jpg', LIMITS)
    assert stuck.is_read.wait(20)
    try:
        with pytest.raises(ImageError) as late:
            read(store, 'gs://b/other.tar!/0.jpg', SOON)
        assert late.value.reason is Reason.DEADLINE
        assert read(store, 'gs://b/other.tar!/1.jpg', LIMITS).data == PICTURE
    finally:
        stuck.stuck.set()


class Slow(Store):
    """Each read takes a while, and some fail."""

    def __init__(self, data, sec=0.0, error=None):
        super().__init__(data)
        self.sec = sec
        self.error = error
        self.reads = 0

    def fetch(self, uri, limits, admit, unless='', part=None):
        self.reads += 1
        time.sleep(self.sec)
        if self.error is not None:
            raise self.error
        return super().fetch(uri, limits, admit, unless, part)


def test_an_index_may_take_longer_than_a_picture_as_long_as_it_comes(in_thread):
    """Also for those who wait for it."""
    large = PICTURE * 100
    store, fetcher = Slow(archive([large] * 20), 0.05), MemberFetcher(wanted(), Room())
    renewed = []
    found = []

    def read(number):
        name = f'/data/a.tar!/{number}.jpg'  # on a disk each header is read alone
        renew = lambda: renewed.append(threading.get_ident())  # noqa: E731
        found.append(fetcher.fetch(store, name, '', SOON, lambda _: None, renew=renew).data)

    begun = time.monotonic()
    threads = [in_thread(read, number) for number in range(3)]
    for thread in threads:
        thread.join(20)
    assert found == [large] * 3
    assert time.monotonic() - begun > 3 * SOON.deadline_sec
    assert set(renewed) == {thread.ident for thread in threads}
    assert len(renewed) > 20


@pytest.mark.parametrize('reason', [Reason.STORE_ERROR, Reason.FORBIDDEN])
def test_an_index_that_cannot_be_read_is_not_tried_for_each_of_its_members(reason):
    store, fetcher = (
        Slow(b'', 0.05, ImageError(reason, 'so it is')),
        MemberFetcher(wanted(), Room()),
    )
    store.data = archive([PICTURE] * 3)

    def read(number):
        return fetcher.fetch(store, f'gs://b/a.tar!/{number}.jpg', '', LIMITS, lambda _: None)

    for number in range(3):
        with pytest.raises(ImageError) as caught:
            read(number)
        assert (caught.value.reason, caught.value.detail) == (reason, 'so it is')
    assert store.reads == 1
    store.error = None
    time.sleep(0.1)  # longer than it took
    if reason is Reason.STORE_ERROR:
        assert read(1).data == PICTURE
    else:
        with pytest.raises(ImageError):
            read(1)


def parquet(pictures, **options):
    file = io.BytesIO()
    table = pa.table({'image': pa.array(pictures, pa.binary())})
    pq.write_table(table, file, compression='none', **options)
    return file.getvalue()


def arrow(pictures, rows):
    """Batches of so many rows, as Hugging Face has pictures."""
    texts = [None if i % 5 else f'{i}.jpg' for i in range(len(pictures))]
    kind = pa.struct({'bytes': pa.binary(), 'path': pa.string()})
    values = [{'bytes': data, 'path': text} for data, text in zip(pictures, texts, strict=True)]
    values.append(None)  # so that it is told which structs are null
    table = pa.table({'image': pa.array(values, kind)})
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)
    return file.getvalue()


@pytest.mark.parametrize(('limit', 'opened'), [(2**30, 2), (1_400_000, 4), (0, 4)])
def test_of_large_readers_those_are_kept_for_which_there_is_room(monkeypatch, limit, opened):
    made, left = [], []

    def open_counted(source):
        left.append(sum(each() is not None for each in made))
        reader = PARQUET.open(source)
        made.append(weakref.ref(reader))
        return reader

    monkeypatch.setattr(
        fetch, 'format_of', lambda _: dataclasses.replace(PARQUET, open=open_counted)
    )
    pictures = [random.Random(i).randbytes(100_000) for i in range(3)]
    store, room = Store(parquet(pictures)), Room(limit)
    fetcher = MemberFetcher(wanted(), room)
    found = found_in(PARQUET, store.data)
    for turn in range(2):  # to and fro between two files
        for file in 'ab':
            for number in range(turn, turn + 2):
                name, version = found[number]
                uri = f'gs://b/{file}.parquet!/{name}'
                read = fetcher.fetch(store, uri, version, LIMITS, lambda _: None)
                assert read.data == pictures[number]
    assert len(made) == opened
    if not limit:
        assert left == [0] * opened, 'the one before is gone before the next one takes memory'
    assert room.used <= limit
    assert bool(room.used) == bool(limit)


def test_of_indexes_the_last_one_is_kept_also_without_room():
    data = archive([PICTURE] * 100)
    for limit, reads in ((2**20, 2), (40_000, 4), (10, 4)):
        store, room = Slow(data), Room(limit)
        fetcher = MemberFetcher(wanted(), room)
        for _ in range(2):
            for file in 'ab':
                before = store.reads
                for number in range(3):
                    uri = f'/data/{file}.tar!/{number}.jpg'  # each header is read alone
                    assert fetcher.fetch(store, uri, '', LIMITS, lambda _: None).data == PICTURE
                reads -= store.reads - before > 3
        assert reads == 0, limit
        assert room.used <= limit


class Counting(Store):
    """Knows which ranges were asked for."""

    def __init__(self, data):
        super().__init__(data)
        self.parts = []

    def fetch(self, uri, limits, admit, unless='', part=None):
        self.parts.append((part.offset, part.size_bytes))
        return super().fetch(uri, limits, admit, unless, part)

    @property
    def read_bytes(self):
        return sum(size for _, size in self.parts)


LARGE = [random.Random(i).randbytes(500_000) for i in range(50)]
BLOCKS = 3  # of 10 MiB, of all of them


@pytest.mark.parametrize(
    ('kind', 'data', 'requests'),
    [
        pytest.param(PARQUET, parquet(LARGE), 1 + BLOCKS, id='parquet, one row group'),
        pytest.param(PARQUET, parquet(LARGE, row_group_size=10), 1 + 5, id='parquet, five'),
        pytest.param(PARQUET, parquet([PICTURE] * 3), 1, id='parquet, all of it in its tail'),
        # Its schema, the message before a batch, and the buffers of a picture before it is seen
        # that the next one is wanted, too.
        pytest.param(ARROW, arrow(LARGE, 100), 2 + 4 + BLOCKS, id='arrow, one batch'),
        pytest.param(ARROW, arrow(LARGE, 10), 1 + 6 + 4 + 5, id='arrow, five batches'),
    ],
)
def test_what_lies_together_in_a_table_is_read_by_few_requests(kind, data, requests):
    store, fetcher = Counting(data), MemberFetcher(wanted(), Room())
    suffix = 'parquet' if kind is PARQUET else 'arrow'
    read = [
        fetcher.fetch(store, f'gs://b/a.{suffix}!/{name}', version, LIMITS, lambda _: None).data
        for name, version in found_in(kind, data)
        if name != '50'
    ]
    assert read == (LARGE if len(data) > 10**6 else [PICTURE] * 3)
    assert len(store.parts) <= requests, store.parts
    assert store.read_bytes < 1.05 * len(data) + 100_000


def test_one_picture_of_an_arrow_file_is_read_alone():
    data = arrow(LARGE, 100)
    store, fetcher = Counting(data), MemberFetcher(wanted(), Room())
    for row in (7, 40, 21):
        name, version = found_in(ARROW, data)[row]
        read = fetcher.fetch(store, f'gs://b/a.arrow!/{name}', version, LIMITS, lambda _: None)
        assert read.data == LARGE[row]
    assert store.read_bytes < 1.1 * 3 * len(LARGE[0])


def test_a_row_group_is_gone_through_before_the_next_one_is_read(in_thread):
    pictures = [random.Random(i).randbytes(10_000) for i in range(40)]
    data = parquet(pictures, row_group_size=10)
    store, fetcher = Counting(data), MemberFetcher(wanted(), Room())
    found = found_in(PARQUET, data)
    done = []

    def read(number):
        name, version = found[number]
        uri = f'gs://b/a.parquet!/{name}'
        done.append(fetcher.fetch(store, uri, version, LIMITS, lambda _: None).data)

    read(0)
    store.stuck.clear()
    store.is_read.clear()
    waiting = [in_thread(read, 10)]  # of the second row group, which does not come yet
    assert store.is_read.wait(20)
    for number in (20, 30, 12, 11):
        waiting.append(in_thread(read, number))
        time.sleep(0.05)
    store.stuck.set()
    for thread in waiting:
        thread.join(60)
    assert done == [pictures[i] for i in (0, 10, 11, 12, 20, 30)]
    assert len(set(store.parts)) == len(store.parts)


def test_the_next_row_group_can_be_begun():
    pictures = [random.Random(i).randbytes(10_000) for i in range(40)]
    data = parquet(pictures, row_group_size=10)
    store, fetcher = Counting(data), MemberFetcher(wanted(), Room())
    found = found_in(PARQUET, data)
    run = members.Run('a', 0, 0)

    def begin(number):
        return fetcher.begin(f'gs://b/a.parquet!/{found[number][0]}', found[number][1], run, 20.0)

    def read(number):
        name, version = found[number]
        uri = f'gs://b/a.parquet!/{name}'
        return fetcher.fetch(store, uri, version, LIMITS, lambda _: None, run=run).data

    assert not begin(10), 'it is not known where that lies'
    assert read(0) == pictures[0]
    store.is_read.clear()
    assert begin(10)
    assert store.is_read.wait(20)
    store.data = b''  # it is there
    assert read(10) == pictures[10]
