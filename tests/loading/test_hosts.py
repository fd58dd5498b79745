"""Nobody waits for a slow host but what lies there."""

import contextlib
import threading
import time
from collections import Counter, deque

import pytest

from tests.support.loadings import ANY_FAILURE, OPTIONS, good, within, write
from tests.support.loopback import Handler, LoopbackServer
from transforms.core.elements import Chunk, Image, Item
from transforms.core.stores import HttpOptions, StoreOptions
from transforms.core.uris import LOCAL, host_of
from transforms.loading.hosts import Hosts
from transforms.loading.loader import Loader


@pytest.mark.parametrize(
    ('uri', 'host'),
    [
        ('/a/b.jpg', LOCAL),
        ('gs://b/a', 'gs'),
        ('s3://b/a', 's3'),
        ('http://H:80/a', 'h:80'),
        ('HTTPS://u:p@h/a@b', 'h'),
        ('https://h', 'h'),
    ],
)
def test_the_host_of_a_uri(uri, host):
    assert host_of(uri) == host


def begun(hosts, waiting, places, busy=None):
    """Which begin, in turn, as long as there are places and none is done."""
    busy = Counter() if busy is None else busy
    found = []
    while busy.total() < places:
        each = hosts.take(waiting, str, busy, places)
        if each is None:
            break
        found.append(each)
        busy[each] += 1
    return found


def hosts_of(waiting):
    hosts = Hosts()
    for each in waiting:
        hosts.see(each)
    return hosts


@pytest.mark.parametrize('places', [1, 2, 3, 8, 16])
def test_one_alone_has_all_places(places):
    waiting = deque(['gs'] * 20)
    assert begun(hosts_of(waiting), waiting, places) == ['gs'] * places


def test_one_of_several_leaves_an_eighth_to_others_and_all_one_to_what_is_local():
    waiting = deque(['a'] * 20 + ['b'] * 20 + [LOCAL] * 9)
    hosts = hosts_of(waiting)
    busy = Counter()
    assert begun(hosts, waiting, 16, busy) == ['a'] * 13 + ['b'] + [LOCAL] * 2
    # What is done makes room for its like, in the order in which they are wanted.
    busy['a'] -= 1
    assert begun(hosts, waiting, 16, busy) == ['a']
    busy[LOCAL] -= 1
    assert begun(hosts, waiting, 16, busy) == [LOCAL]
    waiting = deque(['a'] * 20 + ['b'] * 20)
    assert begun(hosts_of(waiting), waiting, 16) == ['a'] * 14 + ['b'] * 2
    waiting = deque([LOCAL] * 20 + ['b'] * 20)
    assert begun(hosts_of(waiting), waiting, 16) == [LOCAL] * 14 + ['b'] * 2


def test_one_that_was_there_long_ago_costs_the_others_nothing():
    hosts = hosts_of([LOCAL] + ['gs'] * 2000)
    assert begun(hosts, deque(['gs'] * 20), 16) == ['gs'] * 16


@pytest.mark.parametrize('places', [1, 2, 3])
def test_somebody_begins_however_few_the_places_are(places):
    waiting = deque(['a', 'b', LOCAL])
    assert begun(hosts_of(waiting), waiting, places)[:1] == ['a']


class Stalling(LoopbackServer):
    """Answers when it is closed."""

    def __init__(self):
        outer = self

        class Answering(Handler):
            def respond(self):
                outer.stopping.wait(60)
                self.send_response(200)
                self.send_header('Content-Length', str(len(good(1))))
                self.end_headers()
                self.wfile.write(good(1))

        super().__init__(Answering)


@pytest.mark.parametrize('processes', [0, 1])
def test_what_is_local_does_not_wait_for_what_is_slow(tmp_path, processes):
    paths = write(tmp_path / 'in', [''] * 24)
    stores = StoreOptions(http=HttpOptions(allow_private_hosts=True))
    options = OPTIONS._replace(batch_size=64, processes=processes, threads=8, stores=stores)
    with contextlib.closing(Stalling()) as server, within(30) as tick:
        uris = [f'{server.url}/{i}.jpg' for i in range(24)] + [str(path) for path in paths]
        loader = Loader(options)
        chunk = Chunk('c', [Item(uri, '', -1, ['[]']) for uri in uris])
        batch = loader.begin(chunk, 0, ANY_FAILURE)
        while len(batch.loaded_slots) < len(paths):
            tick()
        assert sorted(batch.loaded_slots) == list(range(24, 48))
        server.stopping.set()
        outcomes = [loaded.outcome for loaded in loader.result(batch)]
    assert all(isinstance(outcome, Image) for outcome in outcomes)


def test_who_has_no_turn_is_passed_over():
    waiting = deque(['a', 'a', 'b', 'a', 'b'])
    asked = []

    def has_turn(each):
        asked.append(each)
        return each == 'b'

    hosts = hosts_of(waiting)
    for left in (['a', 'a', 'a', 'b'], ['a', 'a', 'a']):
        assert hosts.take(waiting, str, Counter(), 8, has_turn=has_turn) == 'b'
        assert list(waiting) == left
    assert hosts.take(waiting, str, Counter(), 8, has_turn=has_turn) is None
    assert asked == ['a', 'b', 'a', 'b', 'a']


class Busy(LoopbackServer):
    """Notes how many requests are in flight, and when they came; the first may be refused.

    Attributes:
      most: in flight at a time.
      came: when each came, by the monotonic clock.
    """

    def __init__(self, refusal=None):
        self.most = 0
        self.came = []
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Answering(Handler):
            def respond(self):
                with outer._lock:
                    outer.came.append(time.monotonic())
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                    is_refused = refusal is not None and len(outer.came) == 1
                outer.stopping.wait(0.02)
                with outer._lock:
                    outer._now -= 1
                self.send_response(429 if is_refused else 200)
                if is_refused:
                    self.send_header('Retry-After', refusal)
                data = b'' if is_refused else good(1)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        super().__init__(Answering)


def options_with(processes, most):
    stores = StoreOptions(http=HttpOptions(allow_private_hosts=True, requests_per_host=most))
    return OPTIONS._replace(batch_size=64, processes=processes, threads=8, stores=stores)


@pytest.mark.parametrize('processes', [0, 2])
def test_a_host_has_no_more_requests_than_it_may_from_all_processes(processes):
    with contextlib.closing(Busy()) as one, contextlib.closing(Busy()) as other:
        uris = [f'{one.url}/{i}.jpg' for i in range(40)] + [f'{other.url}/{i}' for i in range(20)]
        loader = Loader(options_with(processes, 3))
        chunk = Chunk('c', [Item(uri, '', -1, ['[]']) for uri in uris])
        found = loader.result(loader.begin(chunk, 0, ANY_FAILURE))
    assert all(isinstance(loaded.outcome, Image) for loaded in found)
    assert (len(one.came), len(other.came)) == (40, 20)
    assert 1 < one.most <= 3
    assert 1 < other.most <= 3
    # What waits for its turn at the one has no place that the other could have.
    assert other.came[-1] < one.came[-1]


@pytest.mark.parametrize('processes', [0, 2])
def test_what_a_host_asks_of_one_process_all_do(processes):
    with contextlib.closing(Busy('1')) as server:
        loader = Loader(options_with(processes, 2))
        chunk = Chunk('c', [Item(f'{server.url}/{i}', '', -1, ['[]']) for i in range(12)])
        found = loader.result(loader.begin(chunk, 0, ANY_FAILURE))
    assert all(isinstance(loaded.outcome, Image) for loaded in found)
    assert len(server.came) == 13
    # What was under way until the refusal was heard is there at once, and all else a second later.
    assert sum(at > min(server.came) + 0.9 for at in server.came) >= 7
