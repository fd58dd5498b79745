"""Nobody waits for a slow host but what lies there."""

import contextlib
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
