"""One prefix listed by several requests at a time: the names, their order, and what is asked for.

Not checked here: how much faster it is, see `tests.benchmarks.listing`.
"""

import bisect
import contextlib
import itertools
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.listing_server import ListingServer
from transforms.core.errors import StoreError
from transforms.core.waiting import each_within
from transforms.storage import gcs
from transforms.storage.base import Entry
from transforms.storage.key_ranges import extrapolate
from transforms.storage.pages import Page, list_pages
from transforms.storage.s3 import S3Store

ROOT = 'gs://b/'


class Bucket:
    """Answers as a store does that is free to say behind which name it lists."""

    def __init__(self, names, page=10):
        self.uris = sorted(ROOT + name for name in names)
        self.page = page
        self.asked = []
        self.change = lambda: None
        self._lock = threading.Lock()

    def ask(self, after, until, token):
        with self._lock:
            self.asked.append((after, until, token))
            self.change()
            start = bisect.bisect_right(self.uris, token or after)
            some = self.uris[start : start + self.page]
            is_more = len(self.uris) > start + self.page
        entries = [Entry(uri, '1', 1) for uri in some]
        return Page(entries, some[-1] if some else '', some[-1] if is_more else '')


def listed(bucket, **options):
    return [entry.uri for entry in list_pages(bucket.ask, ROOT, **options)]


def counted_up(count):
    return [f'photos/2026/image-{i:08}.jpg' for i in range(count)]


def in_folders(count):
    return [f'a/very/long/way/to/camera-{i // 20:03}/img_{i % 20:05}.jpg' for i in range(count)]


def hashed(count):
    chance = random.Random(1)
    return [f'{chance.getrandbits(64):016x}/{i}.jpg' for i in range(count)]


def uneven(count):
    chance = random.Random(2)
    words = [
        ''.join(chance.choices('aaabceinorst zäéß', k=chance.randint(1, 8))) for _ in range(90)
    ]
    return [f'{chance.choice(words)}/{chance.choice(words)}{i}.jpg' for i in range(count)]


def one_among_many(count):
    small = [f'{letter}{i}/x.jpg' for letter in 'az' for i in range(30)]
    return small + [f'big/{i}.jpg' for i in range(count - 60)]


def in_other_scripts(count):
    return [
        f'写真/{chr(0x4E00 + i * 7919 % 5000)}{chr(0x1F600 + i % 64)}{i}.jpg' for i in range(count)
    ]


KINDS = [counted_up, in_folders, hashed, uneven, one_among_many, in_other_scripts]


@pytest.mark.parametrize('kind', KINDS)
def test_names_are_those_of_one_request_at_a_time(kind):
    bucket = Bucket(kind(3000))
    assert listed(bucket) == bucket.uris
    assert len(set(bucket.asked)) == len(bucket.asked) < 2 * 300
    assert len({after for after, _, _ in bucket.asked}) > 20, 'it was cut into ranges'


pure = settings(derandomize=True, max_examples=100, deadline=None)
NAMES = st.text(st.sampled_from('a/bB0129~ é日😀\n\x7f'), min_size=1, max_size=12)


@pure
@given(st.sets(NAMES, max_size=200), st.integers(1, 5))
def test_any_names_are_listed_in_their_order(names, page):
    bucket = Bucket(names, page)
    assert listed(bucket) == bucket.uris


@pytest.mark.parametrize('pages', [0, 1, 2, 3])
def test_a_few_pages_are_asked_for_one_after_the_other(pages):
    bucket = Bucket(counted_up(10 * pages))
    assert listed(bucket) == bucket.uris
    assert len(bucket.asked) == max(1, pages)


def test_whoever_wants_a_few_names_gets_one_page():
    bucket = Bucket(counted_up(3000))
    few = list(itertools.islice(list_pages(bucket.ask, ROOT), 10))
    assert [entry.uri for entry in few] == bucket.uris[:10]
    assert len(bucket.asked) == 1


def test_what_is_asked_for_in_advance_is_bounded():
    bucket = Bucket(counted_up(20_000))
    found = list_pages(bucket.ask, ROOT)
    for number, entry in enumerate(found):
        assert entry.uri == bucket.uris[number]
        assert len(bucket.asked) <= 1.5 * number / 10 + 64 + 2 * 16


def test_a_store_that_knows_no_names_to_begin_with_is_listed_page_by_page():
    bucket = Bucket(counted_up(300))
    found = [each.uri for each in list_pages(lambda *a: bucket.ask('', '', a[2]), ROOT)]
    assert found == bucket.uris
    assert len(bucket.asked) == 31


def test_a_store_that_has_no_order_is_listed_page_by_page():
    bucket = Bucket(counted_up(300))
    random.Random(1).shuffle(bucket.uris)

    def ask(after, until, token):
        start = int(token or 0)
        entries = [Entry(uri, '1', 1) for uri in bucket.uris[start : start + 10]]
        assert not after
        return Page(
            entries, max(entry.uri for entry in entries), str(start + 10)[: start < 290 and 9]
        )

    assert [entry.uri for entry in list_pages(ask, ROOT)] == bucket.uris


def test_a_store_that_loses_its_order_is_told():
    bucket = Bucket(counted_up(300))

    def ask(after, until, token):
        page = bucket.ask(after, until, token)
        return page._replace(entries=page.entries[::-1]) if len(bucket.asked) == 9 else page

    with pytest.raises(StoreError, match='names out of order, behind gs://b/photos/2026/image-0'):
        list(list_pages(ask, ROOT))


@pytest.mark.parametrize('kind', KINDS)
def test_what_stays_is_listed_once_whatever_else_changes(kind):
    names = kind(2000)
    stays, goes = names[::2], names[1::2]
    bucket = Bucket(stays)
    chance = random.Random(3)

    def change():
        for name in chance.sample(goes, 20):
            uri = ROOT + name
            if uri in bucket.uris:
                bucket.uris.remove(uri)
            else:
                bisect.insort(bucket.uris, uri)

    bucket.change = change
    found = listed(bucket)
    assert found == sorted(set(found))
    assert set(found) >= {ROOT + name for name in stays}


def test_an_error_in_advance_ends_the_listing():
    bucket = Bucket(counted_up(3000))

    def ask(after, until, token):
        page = bucket.ask(after, until, token)
        if len(bucket.asked) > 30:
            raise StoreError('no more')
        return page

    with pytest.raises(StoreError, match='no more'):
        list(list_pages(ask, ROOT))


def test_a_page_that_does_not_come_ends_the_listing():
    bucket = Bucket(counted_up(20_000))
    released = threading.Event()

    def ask(after, until, token):
        page = bucket.ask(after, until, token)
        if len(bucket.asked) == 50:
            released.wait(60)
        return page

    try:
        with pytest.raises(StoreError, match=r'gs://b: no answer within 0\.3 s'):
            list(each_within(0.3, 'gs://b', list_pages(ask, ROOT)))
        assert len(bucket.asked) < 50 + 64 + 2 * 16, 'others are not asked for without an end'
    finally:
        released.set()


@pure
@given(st.lists(NAMES, min_size=2, unique=True), st.booleans(), st.integers(1, 20))
def test_names_to_begin_with_are_in_order_and_can_be_sent(names, has_end, wanted):
    names.sort()
    *marks, until = names if has_end and len(names) > 2 else [*names, '']
    found = extrapolate(marks, names, 3, until, 0, wanted)
    assert found == sorted(set(found))
    assert len(found) <= wanted
    assert all(each > marks[-1] and (not until or each < until) for each in found)
    ''.join(found).encode()


@pytest.mark.parametrize(
    ('marks', 'until', 'found'),
    [
        (['a/0000.jpg', 'a/0100.jpg'], '', ['a/0200.jpg', 'a/0300.jpg', 'a/0400.jpg']),
        (['a/0000.jpg', 'a/0900.jpg'], '', ['a/1800.jpg', 'a/2700.jpg', 'a/3600.jpg']),
        (['a/0000.jpg', 'a/0100.jpg'], 'a/0350.jpg', ['a/0200.jpg', 'a/0300.jpg']),
        (['a/0000.jpg', 'a/9900.jpg'], '', []),
    ],
)
def test_names_that_count_up_are_counted_on(marks, until, found):
    assert extrapolate(marks, [], 1, until, len('a/'), 3) == found


# --- through the stores, from a server that only lists


ODD = [f'odd/{char * 2}/{i:04} +%&<ü.jpg' for char in 'aé日😀#?' for i in range(40)]
NAMES_SERVED = sorted(
    [*(f'in/{name}' for name in in_folders(700)), *(f'in/{name}' for name in ODD)]
)


@pytest.fixture(params=['gs', 's3'])
def served(request, monkeypatch):
    with contextlib.closing(ListingServer(NAMES_SERVED, page=10)) as server:
        if request.param == 'gs':
            monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
            store = gcs.GcsStore(page_objects=10)
        else:
            store = S3Store(server.url, anonymous=True, at_a_time=16)
        with contextlib.closing(store):
            yield server, store, f'{request.param}://bucket/in'


def test_a_prefix_is_listed_by_several_requests(served):
    server, store, folder = served
    found = [entry.uri for entry in store.list(folder)]
    assert found == [f'{folder}/{name[3:]}' for name in NAMES_SERVED]
    assert len(server.asked) < 2 * len(found) / 10
    begun = {query.get('startOffset') or query.get('start-after') for query in server.asked}
    assert len(begun) > 10


def test_only_amazon_is_known_to_list_in_the_order_of_names():
    with (
        contextlib.closing(ListingServer(NAMES_SERVED, page=10)) as server,
        contextlib.closing(S3Store(server.url, anonymous=True)) as store,
    ):
        found = [each.uri for each in store.list('s3://bucket/in')]
        assert found == [f's3://bucket/{name}' for name in NAMES_SERVED]
        assert len(server.asked) == -(-len(found) // 10)
        assert not any('start-after' in query for query in server.asked)


def test_what_a_listing_of_another_form_has_is_the_same():
    def found(is_encoding):
        with (
            contextlib.closing(ListingServer(NAMES_SERVED, is_encoding=is_encoding)) as server,
            contextlib.closing(S3Store(server.url, anonymous=True)) as store,
        ):
            return list(store.list('s3://bucket/in'))

    assert found(is_encoding=True) == found(is_encoding=False)
    assert len(found(is_encoding=True)) == len(NAMES_SERVED)


def test_a_folder_alone_is_listed_without_those_in_it(served):
    server, store, folder = served
    names = [name for name in NAMES_SERVED if name.startswith('in/odd/aa/')]
    assert [each.uri for each in store.list(f'{folder}/odd/aa', 1)] == [
        f'{folder}/{name[3:]}' for name in names
    ]
    assert len(server.asked) <= 6
    assert list(store.list(folder, 1)) == []
    assert list(store.list(f'{folder}/a/very/long/way/to', 1, starts_with='camera-03')) == []


def test_a_store_that_has_too_much_to_do_is_asked_again(served):
    server, store, folder = served
    found = store.list(folder)
    first = list(itertools.islice(found, 300))
    server.refusals.extend([503, 429, 503])
    rest = list(found)
    assert [entry.uri for entry in first + rest] == [
        f'{folder}/{name[3:]}' for name in NAMES_SERVED
    ]
    assert not server.refusals
