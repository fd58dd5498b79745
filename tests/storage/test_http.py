"""Images on the web: against servers on loopback that behave, misbehave and lie.

Not checked here: public hosts, real name servers, and certificates of real authorities.
"""

import base64
import contextlib
import datetime
import email.utils
import errno
import gzip
import hashlib
import ipaddress
import json
import logging
import math
import random
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import main
from tests.contracts.stores import FetchContract
from tests.support import app, samples
from tests.support.fault_proxy import HINT
from tests.support.loopback import Handler, LoopbackServer
from transforms.core.elements import Chunk, Item
from transforms.core.errors import ImageError, StoreError, UsageError
from transforms.core.fail_fast import FailFast, FaultPolicy
from transforms.core.reasons import Reason
from transforms.core.stores import HttpOptions, StoreOptions
from transforms.storage import http
from transforms.storage.base import FetchLimits, Part
from transforms.storage.courtesy import Clock, Courtesy
from transforms.storage.http import HttpStore, refusal
from transforms.storage.http_fetch import Tries
from transforms.storage.registry import store_for

BODY = random.Random(0).randbytes(5000)
LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=5.0)
SHORT = FetchLimits(max_bytes=10_000, deadline_sec=0.25)
SECRET = 's3cr3t'


class Site(LoopbackServer):
    """A web server; `answers` maps paths to functions of the request's handler."""

    def __init__(self, context=None):
        self.answers = {}
        self.requests = []
        self.connections = 0
        self._scheme = 'http' if context is None else 'https'
        outer = self

        class Answering(Handler):
            def setup(self):
                outer.connections += 1
                if context is not None:
                    self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def finish(self):
                super().finish()
                self.request.close()

            def respond(self):
                outer.requests.append((self.path, dict(self.headers)))
                answer = outer.answers.get(self.path.partition('?')[0], missing)
                answer(self, outer.stopping)

        super().__init__(Answering)

    @property
    def url(self):
        return f'{self._scheme}://127.0.0.1:{self.port}'


def answer(code=200, data=BODY, **headers):
    def send(handler, stopping):
        handler.send_response(code)
        for name, value in {'Content-Length': str(len(data)), **headers}.items():
            handler.send_header(name.replace('_', '-'), value)
        handler.end_headers()
        handler.wfile.write(data)

    return send


def answered(code, headers):
    """The same with these headers alone, and no body."""

    def send(handler, stopping):
        handler.send_response_only(code)
        for name, value in {'Content-Length': '0', **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return send


def raw(data):
    """Sends bytes that may be no HTTP at all, and hangs up."""

    def send(handler, stopping):
        handler.wfile.write(data)
        handler.close_connection = True

    return send


def in_turn(*answers):
    left = list(answers)

    def send(handler, stopping):
        (left.pop(0) if len(left) > 1 else left[0])(handler, stopping)

    return send


missing = answer(404, b'no such page')


AT_ONCE = Tries(pause_sec=0.0, most_pause_sec=0.0)
SOON = Tries(pause_sec=0.01, most_pause_sec=0.05)


@pytest.fixture
def site():
    with contextlib.closing(Site()) as made:
        yield made


@pytest.fixture(scope='module')
def stores():
    """By whether private hosts are allowed; to read all authorities takes a while."""
    return {allowed: HttpStore(allowed, tries=SOON) for allowed in (False, True)}


@pytest.fixture
def store(stores):
    yield stores[True]
    stores[True].tries = SOON
    stores[True].close()


@pytest.fixture
def public_store(stores):
    yield stores[False]
    stores[False].close()


def fetch(store, uri, limits=LIMITS):
    return store.fetch(uri, limits, lambda size_bytes: None)


def failure(store, uri, limits=LIMITS):
    with pytest.raises(ImageError) as caught:
        fetch(store, uri, limits)
    assert SECRET not in str(caught.value)
    return str(caught.value)


class Pages(NamedTuple):
    """Pages of a site, by name."""

    site: Site

    def uri(self, name=''):
        return f'{self.site.url}/{urllib.parse.quote(name, safe="")}'

    def put(self, name, data):
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.site.answers[f'/{urllib.parse.quote(name, safe="")}'] = answer(data=data, ETag=etag)
        return self.uri(name)


class TestLikeEveryStore(FetchContract):
    @pytest.fixture
    def place(self, site):
        return Pages(site)

    @pytest.fixture
    def store(self, stores):
        yield stores[True]
        stores[True].close()

    def test_a_part_is_of_one_version_and_whole(self, store, place):
        uri = place.put('a', b'0123456789')
        part = Part(2, 3, self.version(store, uri))
        with pytest.raises(ImageError, match='store_error: the server sends no parts of objects'):
            store.fetch(uri, LIMITS, lambda _: None, part=part)

        def put(data, status=206, said='bytes 2-4/10', etag=part.version):
            headers = {'ETag': etag, 'Content-Range': said}
            place.site.answers['/a'] = answer(status, data=data, **headers)

        put(b'234')
        assert store.fetch(uri, LIMITS, lambda _: None, part=part).data == b'234'
        assert place.site.requests[-1][1]['Range'] == 'bytes=2-4'
        put(b'234', etag='"other"')
        with pytest.raises(ImageError, match='changed_while_reading: it is no longer version'):
            store.fetch(uri, LIMITS, lambda _: None, part=part)
        put(b'', 416)
        with pytest.raises(ImageError, match='changed_while_reading: it is no longer version'):
            store.fetch(uri, LIMITS, lambda _: None, part=part)
        put(b'345', said='bytes 3-5/10')
        with pytest.raises(ImageError, match=r'store_error: 3 bytes as .bytes 3-5'):
            store.fetch(uri, LIMITS._replace(deadline_sec=0.5), lambda _: None, part=part)


# --- what is asked, and how


def test_an_image_is_fetched_over_one_connection(site, store):
    site.answers['/a.jpg'] = answer(ETag='W/"7"')
    for _ in range(5):
        assert fetch(store, f'{site.url}/a.jpg') == (BODY, 'W/"7"', len(BODY), 0)
    assert site.connections == 1
    headers = site.requests[0][1]
    assert headers['User-Agent'].startswith('lemmabeam/')
    assert headers['Accept-Encoding'] == 'identity'
    assert headers['Host'] == site.url.removeprefix('http://')
    assert set(headers) == {'Host', 'User-Agent', 'Accept', 'Accept-Encoding'}


@pytest.mark.parametrize(
    ('target', 'sent'),
    [
        ('/a b é%2F%zz', '/a%20b%20%C3%A9%2F%25zz'),
        ("/a'()*!$,;=:@[]~", None),
        ('/{}|^`"<>\\', '/%7B%7D%7C%5E%60%22%3C%3E%5C'),
        ('/a/../b/./c//', None),
        ('/?q=é&&x=%20+/?', '/?q=%C3%A9&&x=%20+/?'),
        ('', '/'),
    ],
)
def test_paths_are_sent_as_they_stand(site, store, target, sent):
    failure(store, f'{site.url}{target}')
    path = site.requests[0][0]
    assert path.replace('%5B', '[').replace('%5D', ']') == (target if sent is None else sent)


@pytest.mark.parametrize(
    ('headers', 'version'),
    [
        ({'ETag': '"a"', 'Last_Modified': 'x'}, '"a"'),
        ({'Last_Modified': 'Tue, 01 Jan 2026 00:00:00 GMT'}, 'Tue, 01 Jan 2026 00:00:00 GMT'),
        ({}, ''),
        ({'ETag': '\x01é\x7f' + 'x' * 300}, 'é' + 'x' * 199),
    ],
)
def test_the_version_is_what_the_server_calls_it(site, store, headers, version):
    site.answers['/a'] = answer(**headers)
    assert fetch(store, f'{site.url}/a').version == version


def test_no_proxy_and_no_netrc_of_the_environment_is_used(site, monkeypatch, tmp_path):
    (tmp_path / 'netrc').write_text(f'machine 127.0.0.1 login me password {SECRET}')
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    site.answers['/a'] = answer(Set_Cookie='a=b')
    store = HttpStore(allow_private_hosts=True)
    for _ in range(2):
        assert fetch(store, f'{site.url}/a').data == BODY
    store.close()
    assert not {'Cookie', 'Authorization'} & {name for _, h in site.requests for name in h}


def test_only_images_of_manifests_are_read():
    store = store_for('https://me:pw@host/a')
    for call in (store.stat, store.is_folder, store.list, store.open, store.read, store.delete):
        with pytest.raises(UsageError, match='put the URL into a manifest') as caught:
            call('https://me:pw@host/a')
        assert 'pw' not in str(caught.value)
    for call in (store.write, store.create):
        with pytest.raises(UsageError, match='put the URL into a manifest'):
            call('https://host/a', b'')
    assert store_for('http://host/a') is store


def test_web_addresses_on_the_command_line_are_wrong_usage(tmp_path, capsys):
    good = f'--input={samples.SAMPLE}'
    for arguments, words in (
        (('--input=https://me:pw@h/a.jpg', f'--output={tmp_path}'), 'into a manifest'),
        ((good, '--output=HTTPS://me:pw@h/out'), '--output HTTPS://h/out: http(s) is not written'),
    ):
        assert main.main(['label', *arguments]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert 'pw' not in said


# --- redirects


def redirect(location, code=302):
    return answer(code, b'', Location=location)


@pytest.mark.parametrize('code', [301, 302, 303, 307, 308])
@pytest.mark.parametrize('location', ['/b/c', 'c', '//{host}/b/c', '{url}/b/c#f', './x/../c'])
def test_redirects_are_followed(site, store, code, location):
    location = location.format(host=site.url.removeprefix('http://'), url=site.url)
    site.answers |= {'/b/a': redirect(location, code), '/b/c': answer()}
    assert fetch(store, f'{site.url}/b/a').data == BODY
    assert site.connections == 1


def test_redirects_end(site, store):
    for i in range(6):
        site.answers[f'/{i}'] = redirect(f'/{i + 1}')
    site.answers |= {'/6': answer(), '/loop': redirect('/loop')}
    assert fetch(store, f'{site.url}/1').data == BODY
    assert failure(store, f'{site.url}/0') == 'store_error: more than 5 redirects'
    assert failure(store, f'{site.url}/loop') == 'store_error: more than 5 redirects'
    assert len(site.requests) == 6 + 6 + 6


@pytest.mark.parametrize(
    ('location', 'detail'),
    [
        *((f'{scheme}x', 'another scheme') for scheme in ('file:///', 'ftp://', 'gs://', 'data:')),
        *(('http:/x', 'another scheme'), ('https:x', 'another scheme'), ('', 'nowhere')),
        *((f'http://{host}/', 'nowhere') for host in ('', 'a b', 'g\\@e', '[::1%25lo]', 'a:0')),
        *(('http://[', 'nowhere'), ('//[', 'nowhere'), ('/\x01', 'nowhere'), ('/\tx', 'nowhere')),
        *(('/\xff', 'nowhere'), ('/' + 'x' * 9000, 'nowhere')),
    ],
)
def test_redirects_to_what_is_no_web_address(site, store, location, detail):
    site.answers['/a'] = redirect(location)
    assert failure(store, f'{site.url}/a') == f'store_error: a redirect to {detail}'
    assert len(site.requests) == 1


def test_userinfo_goes_to_its_origin_only(site, store):
    with contextlib.closing(Site()) as other:
        host = site.url.removeprefix('http://')
        site.answers |= {
            '/a': redirect('/b'),
            '/b': redirect(f'http://x:y@{host}/c'),
            '/c': redirect(f'http://u:v@{other.url.removeprefix("http://")}/d'),
            '/e': answer(),
        }
        other.answers['/d'] = redirect(f'{site.url}/e')
        assert fetch(store, f'http://m%C3%A9:{SECRET}%40@{host}/a').data == BODY
        sent = {path: headers.get('Authorization') for path, headers in site.requests}
        basic = f'Basic {base64.b64encode(f"mé:{SECRET}@".encode()).decode()}'
        assert sent == {'/a': basic, '/b': basic, '/c': basic, '/e': None}
        assert [headers.get('Authorization') for _, headers in other.requests] == [None]


# --- which addresses


PUBLIC = ['8.8.8.8', '2606:4700::1111', '::ffff:8.8.8.8', '64:ff9b::808:808', '2002:808:808::1']
PRIVATE = """
    127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1
    240.0.0.1 192.0.2.1 198.18.0.1 192.0.0.9 192.88.99.1 ::1 :: fc00::1 fd12::1 ff0e::1 fec0::1
    2001:db8::1 3fff::1 5f00::1 100::1 ::ffff:127.0.0.1 ::127.0.0.1 ::8.8.8.8 ::ffff:0:127.0.0.1
    64:ff9b::127.0.0.1 64:ff9b:1::8.8.8.8 2002:7f00:1::1 2002:a00:1:: 2001:0:808:808::f7f7:f7f7
    ::1%lo ff02::1%eth0
""".split()
METADATA = """
    169.254.169.254 169.254.170.2 169.254.0.1 fe80::1 fe80::1%eth0 fd00:ec2::254 fd20:ce::254
    100.100.100.200 168.63.129.16 192.0.0.192 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe
    64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe::1 ::a9fe:a9fe ::ffff:0:a9fe:a9fe
    2001:0:a9fe:a9fe:: 2001:0:808:808::5601:5601
""".split()


def test_public_private_and_metadata_addresses():
    for address in PUBLIC:
        assert refusal(address, False) == refusal(address, True) == '', address
    for address in PRIVATE:
        assert refusal(address, False) == 'a private address', address
        assert refusal(address, True) == '', address
    for address in METADATA:
        assert refusal(address, False) == refusal(address, True) == 'a metadata address', address
    assert refusal('/tmp/socket', True) == 'an address of an unknown kind'


def test_every_way_to_write_loopback_is_refused(site, public_store, store):
    ways = '127.0.0.1 localhost 127.1 2130706433 0x7f.1 0x7f000001 017700000001 0'
    for host in ways.split():
        url = f'http://{host}:{site.port}/a'
        assert failure(public_store, url) == 'forbidden: a private address', host
    assert failure(public_store, f'http://[::1]:{site.port}/') == 'forbidden: a private address'
    assert site.connections == 0
    site.answers['/a'] = answer()
    assert fetch(store, f'http://localhost:{site.port}/a').data == BODY
    assert fetch(store, f'http://2130706433:{site.port}/a').data == BODY


def test_metadata_is_refused_whatever_is_allowed(store, public_store):
    hosts = ['169.254.169.254', '2852039166', '0xa9fea9fe', '[fd00:ec2::254]', '[::ffff:a9fe:a9fe]']
    for host in hosts:
        for each in (store, public_store):
            assert failure(each, f'http://{host}/latest/') == 'forbidden: a metadata address'


def resolving(monkeypatch, *answers):
    """Makes every look-up give the next of these lists of addresses, the last one for ever."""
    asked = []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            (families[ipaddress.ip_address(each).version], socket.SOCK_STREAM, 6, '', (each, port))
            for each in found
        ]

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    return asked


def connecting(monkeypatch, site):
    """Records where connections go, and leads all of them to the site."""
    went = []
    connect = socket.socket.connect

    def record(self, where):
        went.append(where[0])
        return connect(self, ('127.0.0.1', site.port))

    monkeypatch.setattr(socket.socket, 'connect', record)
    return went


def test_redirects_are_checked_anew(site, monkeypatch, public_store):
    resolving(monkeypatch, ['8.8.8.8'], ['10.0.0.1'])
    went = connecting(monkeypatch, site)
    site.answers['/a'] = redirect('http://inside.example/')
    assert failure(public_store, 'http://outside.example/a') == 'forbidden: a private address'
    assert went == ['8.8.8.8']
    assert len(site.requests) == 1


def test_a_redirect_from_the_local_network_to_metadata_is_refused(site, store):
    site.answers['/a'] = redirect('http://169.254.169.254/latest/meta-data/')
    assert failure(store, f'{site.url}/a') == 'forbidden: a metadata address'


def test_a_name_that_is_bound_anew_is_connected_where_it_was_checked(
    site, monkeypatch, public_store
):
    asked = resolving(monkeypatch, ['8.8.8.8'], ['127.0.0.1'])
    went = connecting(monkeypatch, site)
    site.answers['/a'] = answer(Connection='close')
    assert fetch(public_store, 'http://rebind.example/a').data == BODY
    assert (asked, went) == (['rebind.example'], ['8.8.8.8'])
    assert failure(public_store, 'http://rebind.example/a') == 'forbidden: a private address'
    assert went == ['8.8.8.8']


def test_one_private_address_among_public_ones_is_refused(site, monkeypatch, public_store):
    resolving(monkeypatch, ['8.8.8.8', '127.0.0.1'])
    went = connecting(monkeypatch, site)
    assert failure(public_store, 'http://mixed.example/a') == 'forbidden: a private address'
    assert went == []


# --- hosts that are not there


def test_a_name_that_does_not_exist_is_not_asked_again(monkeypatch, store):
    asked = resolving(monkeypatch, socket.gaierror(socket.EAI_NONAME, 'unknown'))
    assert failure(store, 'http://gone.example/') == 'not_found: no such host'
    assert len(asked) == 1


def test_a_name_that_cannot_be_looked_up_is_tried_three_times(monkeypatch, site, store):
    asked = resolving(monkeypatch, socket.gaierror(socket.EAI_AGAIN, 'later'))
    assert failure(store, 'http://later.example/') == (
        'store_error: the name of the host cannot be looked up, 3 times'
    )
    assert len(asked) == 3
    site.answers['/a'] = answer()
    resolving(monkeypatch, socket.gaierror(socket.EAI_AGAIN, 'later'), ['127.0.0.1'])
    assert fetch(store, f'http://later.example:{site.port}/a')[0] == BODY


def test_refused_connections_are_tried_three_times(site, store):
    site.close()
    started = time.monotonic()
    assert failure(store, f'{site.url}/a') == 'store_error: no connection, 3 times'
    assert time.monotonic() - started < 4


def test_connecting_has_a_time_of_its_own_shared_by_the_addresses(monkeypatch, store):
    timeouts = []

    def hang(self, where):
        timeouts.append(self.gettimeout())
        raise TimeoutError(errno.ETIMEDOUT, 'timed out')

    monkeypatch.setattr(socket.socket, 'connect', hang)
    resolving(monkeypatch, [f'8.8.8.{i}' for i in range(9)])
    assert failure(store, 'http://slow.example/', FetchLimits(10, 60)).endswith(', 3 times')
    assert len(timeouts) == 3 * 6
    assert all(0 < each <= 6.0 for each in timeouts)
    assert 0.9 < timeouts[0] <= 1.0


def test_the_next_address_is_tried(site, monkeypatch, store):
    resolving(monkeypatch, ['127.0.0.2', '127.0.0.1'])
    site.answers['/a'] = answer()
    assert fetch(store, f'http://two.example:{site.port}/a').data == BODY


# --- what answers mean


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        *((code, 'not_found') for code in (404, 410)),
        *((code, 'forbidden') for code in (401, 403, 451)),
        *((code, 'store_error') for code in (204, 206, 300, 304, 400, 402, 418, 600, 999)),
    ],
)
def test_lasting_answers_are_not_asked_again(site, store, code, reason):
    site.answers['/a'] = answer(code, b'' if code in (204, 304) else SECRET.encode())
    assert failure(store, f'{site.url}/a') == f'{reason}: HTTP {code}'
    assert len(site.requests) == 1


@pytest.mark.parametrize('code', [408, 429, 500, 502, 503, 504, 520])
def test_passing_answers_are_asked_again(site, store, code):
    site.answers['/a'] = in_turn(answer(code), answer(code), answer())
    assert fetch(store, f'{site.url}/a') == (BODY, '', len(BODY), 2)
    assert site.connections == 1


class Skipped(NamedTuple):
    """A clock that goes on by itself, and whose sleepers wake at once."""

    slept: list

    def clock(self):
        return Clock(lambda: time.monotonic_ns() + int(1e9 * sum(self.slept)), self.slept.append)


@pytest.fixture
def slept():
    return []


@pytest.fixture
def patient(slept):
    """A store that waits for nothing but what hosts ask for, which `slept` is told."""
    store = HttpStore(True, tries=AT_ONCE, shared=Courtesy.of_one(Skipped(slept).clock()))
    yield store
    store.close()


AFTER_THE_DEADLINE = 'store_error: HTTP 503, with a request to come back after the deadline'


def test_retry_after_is_honoured_as_far_as_the_deadline_allows(site, patient, slept):
    site.answers['/a'] = in_turn(answer(429, Retry_After='1'), answer())
    assert fetch(patient, f'{site.url}/a').retries == 1
    assert slept == [pytest.approx(1.0, abs=0.5)]
    for odd in ('-1', '1e9', 'Fri, 31 Dec 1999 23:59:59 GMT', 'Fri, 99 Dec 2999', '9' * 100):
        site.answers['/a'] = in_turn(answer(503, Retry_After=odd), answer())
        assert fetch(patient, f'{site.url}/a').retries == 1
    assert len(slept) == 1
    site.answers['/a'] = answer(503, Retry_After='3600')
    assert failure(patient, f'{site.url}/a') == AFTER_THE_DEADLINE
    assert len(slept) == 1


def test_retry_after_may_be_a_date_by_the_clock_of_the_server(site, patient, slept):
    date = {'Date': 'Thu, 01 Jan 2026 00:00:00 GMT', 'Retry-After': 'Thu, 01 Jan 2026 00:00:03 GMT'}
    site.answers['/a'] = in_turn(answered(429, date), answer())
    assert fetch(patient, f'{site.url}/a').retries == 1
    assert slept == [pytest.approx(3.0, abs=0.5)]
    # Without one, by ours.
    soon = email.utils.formatdate(time.time() + 2, usegmt=True)
    site.answers['/a'] = in_turn(answered(503, {'Retry-After': soon}), answer())
    assert fetch(patient, f'{site.url}/a').retries == 1
    assert 0 < slept.pop() <= 2.0
    site.answers['/a'] = answered(503, {**date, 'Retry-After': 'Fri, 31 Dec 9999 01:00:00 GMT'})
    assert failure(patient, f'{site.url}/a') == AFTER_THE_DEADLINE


def test_what_a_host_asks_of_one_holds_for_all_that_lies_there(site, patient, slept):
    site.answers |= {'/a': answer(503, Retry_After='3600'), '/b': answer()}
    assert failure(patient, f'{site.url}/a') == AFTER_THE_DEADLINE
    assert failure(patient, f'{site.url}/b') == (
        'store_error: not asked for: its host wants no request (Retry-After) before the deadline'
    )
    assert [path for path, _ in site.requests] == ['/a']
    with contextlib.closing(Site()) as other:
        other.answers |= {'/c': answer(), '/d': redirect(f'{site.url}/b')}
        assert fetch(patient, f'{other.url}/c').data == BODY
        # It is the host that is really asked that counts.
        assert 'not asked for' in failure(patient, f'{other.url}/d')
    assert len(site.requests) == 1
    slept.append(3600)
    assert fetch(patient, f'{site.url}/b').data == BODY


def test_a_host_that_refuses_without_a_time_is_left_alone_for_a_while(site, patient, slept):
    patient.tries = Tries(pause_sec=1e-6, most_pause_sec=0.05)
    site.answers['/a'] = in_turn(
        answer(429), answer(503), *[answer(429)] * 14, answer(500), answer()
    )
    assert fetch(patient, f'{site.url}/a').retries == 17
    assert all(0 < each <= 0.05 for each in slept)
    # The picture's own pauses have no more to do with it than a 500 has.
    assert len(slept) <= 16


def test_no_more_requests_are_in_flight_at_a_host_than_it_may_have(site):
    """Also those that come by way of another one."""
    store = HttpStore(True, requests_per_host=2, tries=SOON, shared=Courtesy.of_one())
    now, most, lock = set(), [], threading.Lock()

    def count(handler, stopping):
        with lock:
            now.add(threading.get_ident())
            most.append(len(now))
        stopping.wait(0.02)
        with lock:
            now.discard(threading.get_ident())
        answer()(handler, stopping)

    with contextlib.closing(Site()) as other, ThreadPoolExecutor(8) as threads:
        site.answers['/a'] = count
        other.answers['/b'] = redirect(f'{site.url}/a')
        uris = [f'{site.url}/a', f'{other.url}/b'] * 8
        assert all(found.data == BODY for found in threads.map(lambda uri: fetch(store, uri), uris))
        assert max(most) == 2
        most.clear()
        store = HttpStore(True, requests_per_host=0, tries=SOON, shared=Courtesy.of_one())
        list(threads.map(lambda uri: fetch(store, uri), uris))
    assert max(most) > 2
    store.close()


def test_who_waits_for_a_turn_until_the_deadline_fails_with_it(site):
    known = Courtesy.of_one()
    store = HttpStore(True, requests_per_host=1, tries=SOON, shared=known)
    turn = known.begin(site.url.removeprefix('http://'), 1, math.inf)
    assert failure(store, f'{site.url}/a', SHORT) == (
        'deadline: no answer, until 0.25 s had passed'
    )
    known.end(turn)
    site.answers['/a'] = answer()
    assert fetch(store, f'{site.url}/a').data == BODY
    assert len(site.requests) == 1
    store.close()


# --- who asks, and what sites forbid


@pytest.mark.parametrize(
    ('lines', 'directive'),
    [
        (['noai'], 'noai'),
        (['NoImageAI'], 'noimageai'),
        (['nofollow, NOINDEX'], 'noindex'),
        (['noarchive', 'noimageindex'], 'noimageindex'),
        (['none'], 'none'),
        (['lemmabeam: noai'], 'noai'),
        (['googlebot: nofollow, LemmaBeam : noai'], 'noai'),
        (['example-bot: noindex'], 'noindex'),
        (['*: noai'], 'noai'),
        (['unavailable_after: Saturday, 25-Jun-2050 15:00:00 PST, noai'], 'noai'),
        (['max-snippet: 20, noai'], 'noai'),
        (['googlebot: noindex'], ''),
        (['otherbot: nofollow, noai'], ''),
        (['otherbot: noai', 'all'], ''),
        (['max-image-preview: none'], ''),
        (['otherbot: noai', 'noindex'], 'noindex'),
        (['noair, index, follow, '], ''),
        ([''], ''),
    ],
)
def test_what_a_site_forbids_machines_is_not_used(site, lines, directive):
    store = HttpStore(True, user_agent='Example-Bot/2.0 (+https://example.org)')

    def send(handler, stopping):
        handler.send_response(200)
        for line in lines:
            handler.send_header('x-robots-tag', line)
        handler.send_header('Content-Length', str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY)

    site.answers |= {'/a': send, '/b': redirect('/a')}
    for name in ('a', 'b'):
        if not directive:
            assert fetch(store, f'{site.url}/{name}').data == BODY
            continue
        with pytest.raises(ImageError) as caught:
            fetch(store, f'{site.url}/{name}')
        assert (caught.value.reason, caught.value.detail) == (
            Reason.FORBIDDEN, f'X-Robots-Tag: {directive}'
        )  # fmt: skip
        assert caught.value.is_its_own
        assert '--ignore_robots_tag' in Reason.FORBIDDEN.advice_for(caught.value.detail)
    assert {headers['User-Agent'] for _, headers in site.requests} == {
        'Example-Bot/2.0 (+https://example.org)'
    }
    store.close()
    willing = HttpStore(True, ignore_robots_tag=True)
    assert fetch(willing, f'{site.url}/a').data == BODY
    willing.close()


@pytest.mark.parametrize('agent', ['', ' ', 'a\r\nb', 'a\nb', '名/1', 'é'])
def test_no_header_is_made_of_what_is_none(agent, tmp_path, capsys):
    arguments = ['--input', samples.SAMPLE, '--output', str(tmp_path / 'out')]
    assert main.main(['label', *map(str, arguments), f'--user_agent={agent}']) == 2
    assert 'printable ASCII' in capsys.readouterr().err


def test_packed_answers_are_unpacked_and_other_encodings_refused(site, store):
    packed = gzip.compress(BODY)
    for name in ('gzip', 'GZIP', 'x-gzip', 'identity, gzip'):
        site.answers['/a'] = answer(data=packed, Content_Encoding=name)
        assert fetch(store, f'{site.url}/a').data == BODY
    for name in ('br', 'zstd', 'gzip, gzip', 'br, gzip'):
        site.answers['/a'] = answer(data=packed, Content_Encoding=name, ETag='"1"')
        assert failure(store, f'{site.url}/a') == (
            f'unsupported_format: stored with Content-Encoding {name}, which is not unpacked: '
            'store it without'
        )
    assert len(site.requests) == 8
    site.answers['/a'] = answer(data=gzip.compress(bytes(10**6)), Content_Encoding='gzip')
    assert failure(store, f'{site.url}/a').startswith('too_many_bytes: 10001 bytes')


def test_a_packed_body_may_have_several_members(site, store):
    first, second = gzip.compress(BODY[:3000]), gzip.compress(BODY[3000:])
    for data in (
        first + second,
        gzip.compress(b'') * 1000 + first + gzip.compress(b'') + second,
        first + second + bytes(500),  # padded, as tapes are
        first + second + b'not a member',
    ):
        site.answers['/a'] = answer(data=data, Content_Encoding='gzip')
        fetched = fetch(store, f'{site.url}/a', FetchLimits(50_000, 5.0))
        assert (fetched.data, fetched.size_bytes) == (BODY, len(data))
    for data in (first + second[:-1], first + second[:1]):
        site.answers['/a'] = answer(data=data, Content_Encoding='gzip')
        assert failure(store, f'{site.url}/a') == 'truncated: stored as gzip, but it ends early'
    site.answers['/a'] = answer(data=first + b'\x1f\x8b bad', Content_Encoding='gzip')
    assert failure(store, f'{site.url}/a') == 'decode_error: stored as gzip, but it is not'
    site.answers['/a'] = answer(data=gzip.compress(bytes(6000)) * 2, Content_Encoding='gzip')
    assert failure(store, f'{site.url}/a') == 'too_many_bytes: 10001 bytes, limit 10000'


def test_content_md5_is_checked_where_it_is_one(site, store):
    md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    other = base64.b64encode(hashlib.md5(b'').digest()).decode()
    for good in (md5, '', 'é', 'AAAA', f'{md5}, {md5}', '*' * 24):
        site.answers['/a'] = answer(Content_MD5=good)
        assert fetch(store, f'{site.url}/a').data == BODY
    site.answers['/a'] = in_turn(answer(Content_MD5=other), answer(Content_MD5=md5))
    assert fetch(store, f'{site.url}/a').retries == 1
    site.answers['/a'] = answer(Content_MD5=other)
    assert failure(store, f'{site.url}/a', SHORT).startswith('checksum: the MD5 does not match')


def test_the_limit_holds_for_what_is_claimed_and_for_what_comes(site, store):
    for claimed in ('10001', '9' * 30, '9' * 4000):
        site.answers['/a'] = raw(f'HTTP/1.1 200 OK\r\nContent-Length: {claimed}\r\n\r\n'.encode())
        with pytest.raises(ImageError, match='too_many_bytes') as caught:
            fetch(store, f'{site.url}/a')
        assert 10_000 < caught.value.size_bytes < 2**63
    site.answers['/a'] = raw(b'HTTP/1.1 200 OK\r\n\r\n' + bytes(20_000))
    assert failure(store, f'{site.url}/a').startswith('too_many_bytes')


# --- what one answer may leave behind for the next


OTHER = BODY[::-1]


def sent(*pieces):
    """Sends bytes as they stand, piece by piece, and keeps the connection."""

    def send(handler, stopping):
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()

    return send


def whole(data, *headers):
    lines = ['HTTP/1.1 200 OK', f'Content-Length: {len(data)}', *headers, '', '']
    return '\r\n'.join(lines).encode() + data


@pytest.mark.parametrize(
    'interim',
    [
        HINT,
        HINT * 50,
        b'HTTP/1.1 102 Processing\r\n\r\n' + HINT + b'HTTP/1.1 100 Continue\r\n\r\n',
        b'HTTP/1.1 199 \r\nContent-Length: 5\r\n\r\n',
    ],
)
def test_interim_answers_are_passed_over(site, store, interim):
    site.answers['/a'] = sent(interim, whole(BODY))
    site.answers['/b'] = sent(interim + whole(OTHER))
    for path, data in (('/a', BODY), ('/b', OTHER), ('/a', BODY)):
        assert fetch(store, f'{site.url}{path}') == (data, '', len(data), 0)
    assert site.connections == 1


def test_interim_answers_have_no_time_of_their_own(site, store):
    def hint_for_ever(handler, stopping):
        while not stopping.wait(0.01):
            handler.wfile.write(HINT)
            handler.wfile.flush()

    site.answers['/a'] = hint_for_ever
    assert failure(store, f'{site.url}/a', SHORT).startswith('deadline: no answer')


def test_another_protocol_is_not_spoken(site, store):
    site.answers['/a'] = in_turn(
        raw(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n' + BODY), answer()
    )
    assert fetch(store, f'{site.url}/a')[0] == BODY


CHUNKS = b'1388\r\n' + BODY + b'\r\n0\r\n'


@pytest.mark.parametrize(
    ('left', 'said'),
    [
        (whole(BODY) + whole(BODY), None),
        (whole(BODY) + b'x', None),
        (whole(BODY, 'Transfer-Encoding: chunked').replace(BODY, CHUNKS + b'\r\n'), None),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + CHUNKS + b'\r\nx', None),
        (b'HTTP/1.1 204 No Content\r\n\r\n' + whole(BODY), 'store_error: HTTP 204'),
        (b'HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n' + whole(BODY), 'not_found: HTTP 404'),
        (b'HTTP/1.1 304 Same\r\nContent-Length: 5000\r\n\r\n', 'store_error: HTTP 304'),
        (b'HTTP/1.1 204 None\r\nTransfer-Encoding: chunked\r\n\r\n', 'store_error: HTTP 204'),
    ],
)
def test_a_connection_on_which_more_may_come_is_not_used_again(site, store, left, said):
    site.answers['/a'] = sent(left)
    site.answers['/b'] = sent(whole(OTHER))
    if said is None:
        assert fetch(store, f'{site.url}/a').data == BODY
    else:
        assert failure(store, f'{site.url}/a') == said
    assert fetch(store, f'{site.url}/b')[0] == OTHER
    assert site.connections == 2


@pytest.mark.parametrize('late', [BODY, b'x', b'\r\n' + BODY, b'HTTP/1.1 200', HINT])
def test_what_comes_too_late_is_nobodys_answer(site, store, late):
    site.answers['/a'] = answer()
    # It came after the next request had gone out.
    site.answers['/b'] = in_turn(sent(late + whole(OTHER)), sent(whole(OTHER)))
    assert fetch(store, f'{site.url}/a').data == BODY
    assert fetch(store, f'{site.url}/b').data == OTHER


def test_trailers_belong_to_their_answer(site, store):
    head = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: ETag\r\n\r\n'
    site.answers['/a'] = sent(head + CHUNKS, b'ETag: "1"\r\nX-More: 2\r\n', b'\r\n')
    site.answers['/b'] = sent(whole(OTHER))
    for path, data in (('/a', BODY), ('/b', OTHER), ('/a', BODY)):
        assert fetch(store, f'{site.url}{path}').data == data
    assert site.connections == 1


def test_an_answer_that_was_given_up_is_given_to_nobody(site, store):
    site.answers['/a'] = drip(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n')
    site.answers['/large'] = sent(whole(bytes(20_000)))
    site.answers['/moved'] = sent(
        b'HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 5000\r\n\r\n' + BODY
    )
    site.answers['/b'] = sent(whole(OTHER))
    for path, said in (('/a', 'deadline'), ('/large', 'too_many_bytes')):
        assert failure(store, f'{site.url}{path}', SHORT).startswith(said)
        assert fetch(store, f'{site.url}/b').data == OTHER
    assert fetch(store, f'{site.url}/moved').data == OTHER
    assert fetch(store, f'{site.url}/b').data == OTHER


# --- servers that misbehave


def drip(head, data=b'', pause=0.05):
    def send(handler, stopping):
        handler.wfile.write(head)
        while not stopping.wait(pause):
            handler.wfile.write(data)
            handler.wfile.flush()

    return send


OK = b'HTTP/1.1 200 OK\r\n'


@pytest.mark.parametrize(
    ('fault', 'reason'),
    [
        (drip(b'', b'H'), 'deadline'),
        (drip(OK, b'X: y\r\n'), 'deadline'),
        (drip(OK, b'x'), 'deadline'),
        (drip(OK + b'Content-Length: 5000\r\n\r\n', b'x'), 'deadline'),
        (drip(OK + b'Transfer-Encoding: chunked\r\n\r\n', b'1\r\nx\r\n'), 'deadline'),
        (drip(OK + b'Transfer-Encoding: chunked\r\n\r\n0\r\n', b'X: y\r\n'), 'deadline'),
        (drip(OK + b'Transfer-Encoding: chunked\r\n\r\n', b'0'), 'deadline'),
        (drip(b'', b'HTTP/1.1 100 Continue\r\n\r\n', 0.0001), 'deadline'),
        (drip(b'HTTP/1.1 404 x\r\nContent-Length: 5000\r\n\r\n', b'x'), 'not_found'),
        (drip(b'HTTP/1.1 302 x\r\nLocation: /a\r\n\r\n', b'x'), 'deadline'),
        (lambda handler, stopping: stopping.wait(5), 'deadline'),
    ],
)
def test_the_deadline_holds_whatever_drips(site, store, fault, reason):
    site.answers['/a'] = fault
    started = time.monotonic()
    assert failure(store, f'{site.url}/a', SHORT).startswith(reason)
    assert time.monotonic() - started < 4


def reset(handler, stopping):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    handler.close_connection = True


TRUNCATED = [
    OK + b'Content-Length: 5000\r\n\r\n' + BODY[:-1],
    OK + b'Transfer-Encoding: chunked\r\n\r\n5\r\nabc',
    OK + b'Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n',
]


@pytest.mark.parametrize('fault', [reset, *map(raw, TRUNCATED[1:]), raw(b'')])
def test_connections_that_break_off_are_tried_again(site, store, fault):
    site.answers['/a'] = in_turn(fault, fault, answer())
    assert fetch(store, f'{site.url}/a') == (BODY, '', len(BODY), 2)
    site.answers['/a'] = fault
    assert failure(store, f'{site.url}/a', SHORT).startswith('store_error')


def stalling(data):
    def send(handler, stopping):
        handler.wfile.write(data)
        stopping.wait(5)

    return send


@pytest.mark.parametrize('fault', [raw, stalling])
def test_a_length_that_is_too_long_is_believed_once(site, store, monkeypatch, fault):
    store.tries = SOON._replace(silence_sec=0.1)
    head = OK + b'Content-Length: 5007\r\nETag: "1"\r\n\r\n'
    site.answers['/a'] = fault(head + BODY)
    with pytest.raises(ImageError) as caught:
        fetch(store, f'{site.url}/a')
    assert str(caught.value) == 'truncated: 5000 bytes, twice, but Content-Length is 5007'
    assert caught.value.version == '', 'the next run tries it again'
    assert len(site.requests) == 2
    # Of one that breaks off elsewhere, or brings nothing at all, nobody knows.
    site.answers['/a'] = in_turn(*map(raw, [head + BODY, head + BODY[1:], head, head]), answer())
    assert fetch(store, f'{site.url}/a') == (BODY, '', len(BODY), 4)


def test_room_is_taken_as_bytes_come(site, store, monkeypatch):
    """Not for what is announced, nor all that may be where nothing is announced."""
    limits = FetchLimits(10_000_000, 5.0)
    data = bytes(300_000)
    for head in (b'Content-Length: 9000000', b'Transfer-Encoding: chunked'):
        chunk = b'' if b'Length' in head else b'%x\r\n' % (2 * len(data))
        site.answers['/a'] = drip(OK + head + b'\r\n\r\n' + chunk + data, b'x')
        asked = []
        with pytest.raises(ImageError):
            store.fetch(f'{site.url}/a', SHORT._replace(max_bytes=10_000_000), asked.append)
        assert asked[:4] == [65_536, 131_072, 262_144, 524_288]
        assert set(asked[4:]) == {0}
    site.answers['/a'] = sent(OK + b'Transfer-Encoding: chunked\r\n\r\n' + CHUNKS + b'\r\n')
    asked = []
    assert store.fetch(f'{site.url}/a', limits, asked.append).data == BODY
    assert asked == [65_536]


def test_an_answer_that_a_proxy_has_changed_is_one(site, store):
    site.answers['/a'] = answer(203)
    assert fetch(store, f'{site.url}/a').data == BODY


HOSTILE = [
    b'rubbish\r\n\r\n',
    b'\x16\x03\x01\x00\x00',
    b'HTTP/0.9 200 OK\r\n\r\nx',
    b'HTTP/9.9 200 OK\r\n\r\nx',
    b'HTTP/1.1 \xff\xfe\r\n\r\n',
    b'HTTP/1.1 99999 x\r\n\r\n',
    b'HTTP/1.1 -200 x\r\n\r\n',
    b'HTTP/1.1 ' + '２００'.encode() + b' x\r\n\r\n',
    b'HTTP/1.1 101 Switching Protocols\r\n\r\n',
    b'HTTP/1.1 103 Early Hints\r\n\r\n' + OK + b'\r\n',
    OK + b'X: ' + b'x' * 70_000 + b'\r\n\r\n',
    OK + b'X: y\r\n' * 1000 + b'\r\n',
    OK + b'no colon\r\n\r\nx',
    OK + b': empty\r\n\r\nx',
    OK + b'\x00: \x00\r\n\r\nx',
    OK + b'\xff\xfe: \xff\xfe\r\n\r\nx',
    OK + b' folded: first\r\n\r\nx',
    OK + b'Content-Length: 1, 2\r\n\r\nxx',
    OK + b'Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx',
    OK + b'Content-Length: -5\r\n\r\nxx',
    OK + b'Content-Length: ' + b'9' * 5000 + b'\r\n\r\nxx',
    OK + b'Content-Length: +1\r\n\r\nxx',
    OK + b'Content-Length: 1_0\r\n\r\n0123456789',
    OK + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nabcde',
    OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n',
    OK + b'Transfer-Encoding: chunked, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n',
    OK + b'Transfer-Encoding: \xff\r\n\r\nx',
    OK + b'Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n',
    OK + b'Transfer-Encoding: chunked\r\n\r\nzz\r\nabcde\r\n0\r\n\r\n',
    OK + b'Transfer-Encoding: chunked\r\n\r\n' + b'f' * 5000 + b'\r\nabcde\r\n0\r\n\r\n',
    OK + b'Transfer-Encoding: chunked\r\n\r\n' + b'0' * 70_000,
    OK + b'Transfer-Encoding: chunked\r\n\r\n1;' + b'x' * 70_000,
    OK + b'Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 rubbish\r\n\r\n',
    OK
    + b'Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n'
    + b'T: '
    + b'x' * 70_000
    + b'\r\n\r\n',
    OK + b'Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde',
    OK + b'Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n',
    OK + b'Content-Encoding: \xff\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: \xff\xfe\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: /a\r\nLocation: /b\r\n\r\n',
    b'HTTP/1.1 302 x\r\nContent-Length: 5, 6\r\nLocation: /b\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: ' + b'/' * 8000 + b'\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: http://' + b'a' * 70 + b'/\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: http://xn--a/\r\n\r\n',
    b'HTTP/1.1 302 x\r\nLocation: http://' + '\u0130.é'.encode() * 100 + b'/\r\n\r\n',
    b'HTTP/1.1 404 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    b'HTTP/1.1 503 x\r\nRetry-After: ' + '１'.encode() + b'\r\n\r\n',
]


def test_only_image_errors_come_of_what_a_server_says(site, store, caplog, monkeypatch):
    resolving(monkeypatch, ['127.0.0.1'])
    limits = FetchLimits(10_000, 0.05)
    for data in HOSTILE:
        site.answers['/a'] = raw(data)
        with contextlib.suppress(ImageError):
            assert len(fetch(store, f'http://h:{site.port}/a?sig={SECRET}', limits).data) <= 10_000
    rng = random.Random(1)
    for _ in range(60):
        data = bytearray(rng.choice(HOSTILE + TRUNCATED)[:2000])
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.choice(b'\r\n\x00\xff: ,;0-9fHx')
        site.answers['/a'] = raw(bytes(data))
        with contextlib.suppress(ImageError):
            fetch(store, f'http://h:{site.port}/a?sig={SECRET}', FetchLimits(10_000, 0.03))
    assert SECRET not in caplog.text


def test_urls_are_not_logged(site, store, caplog):
    caplog.set_level(logging.DEBUG)
    site.answers['/a'] = raw(OK + b'no colon\r\nContent-Length: 1\r\n\r\nx')
    fetch(store, f'{site.url}/a?sig={SECRET}')
    assert SECRET not in caplog.text


# --- TLS


def certificate(folder, *names, days=1):
    """A certificate of its own authority, as a context for a server and a file for its clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'test')])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        .sign(key, hashes.SHA256())
    )
    public = folder / 'cert.pem'
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    both = folder / 'key.pem'
    both.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + public.read_bytes()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, public


@contextlib.contextmanager
def tls_site(folder, monkeypatch, *names, trusted=True, days=1):
    """A site for these names, a store that may trust it, and the names that clients asked for."""
    context, public = certificate(folder, *names, days=days)
    asked = []
    context.sni_callback = lambda sock, name, _: asked.append(name)
    if trusted:
        monkeypatch.setenv('SSL_CERT_FILE', str(public))
    store = HttpStore(True, tries=SOON)
    with contextlib.closing(Site(context)) as site:
        site.answers |= {'/a': answer(), '/plain': redirect('http://h.example/')}
        yield site, store, asked
        store.close()


def test_tls_goes_by_the_name_of_the_host(tmp_path, monkeypatch):
    with tls_site(tmp_path, monkeypatch, 'h.example') as (site, store, asked):
        resolving(monkeypatch, ['127.0.0.1'])
        for _ in range(2):
            assert fetch(store, f'https://h.example:{site.port}/a').data == BODY
        assert fetch(store, f'https://H.Example.:{site.port}/a').data == BODY
        assert asked == ['h.example', 'h.example']
        assert site.requests[0][1]['Host'] == f'h.example:{site.port}'
        bad = 'store_error: the TLS certificate is not valid'
        assert failure(store, f'https://other.example:{site.port}/a') == bad
        assert failure(store, f'https://127.0.0.1:{site.port}/a') == bad
        assert failure(store, f'http://h.example:{site.port}/a') == (
            'store_error: no connection, 3 times'
        )


@pytest.mark.parametrize(('trusted', 'days'), [(False, 1), (True, -1)])
def test_certificates_that_are_not_trusted_or_over_are_refused(
    tmp_path, monkeypatch, trusted, days
):
    with tls_site(tmp_path, monkeypatch, 'h.example', trusted=trusted, days=days) as made:
        site, store, _ = made
        resolving(monkeypatch, ['127.0.0.1'])
        assert failure(store, f'https://h.example:{site.port}/a') == (
            'store_error: the TLS certificate is not valid'
        )
        assert site.connections == 1


def test_tls_with_a_server_that_has_none(site, store):
    url = site.url.replace('http://', 'https://')
    assert failure(store, f'{url}/a') == 'store_error: no TLS connection, 3 times'


def test_a_redirect_from_https_to_http_is_followed(tmp_path, monkeypatch, site):
    with tls_site(tmp_path, monkeypatch, 'h.example') as (secure, store, _):
        resolving(monkeypatch, ['127.0.0.1'])
        secure.answers['/plain'] = redirect(f'{site.url}/a')
        site.answers['/a'] = answer()
        url = f'https://me:{SECRET}@h.example:{secure.port}/plain'
        assert fetch(store, url).data == BODY
        assert 'Authorization' in secure.requests[0][1]
        assert 'Authorization' not in site.requests[0][1]


def test_a_handshake_that_never_ends(store):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        started = time.monotonic()
        url = f'https://127.0.0.1:{silent.getsockname()[1]}/'
        assert failure(store, url, SHORT).startswith(('deadline', 'store_error'))
        assert time.monotonic() - started < 4


# --- a whole run


def test_a_signed_manifest_is_labelled_and_its_secrets_are_nowhere(
    site, stand_in_model, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    host = site.url.removeprefix('http://')
    for i in range(3):
        site.answers[f'/{i}.jpg'] = answer(data=samples.picture(i), ETag=f'"{i}"')
    lines = [
        f'{site.url}/0.jpg?v=1&sig={SECRET}&se=2027',
        f'{site.url}/0.jpg?v=1&sig=a{SECRET}',
        f'http://me:{SECRET}@{host}/1.jpg',
        f'{site.url}/2.jpg',
        f'{site.url}/missing.jpg?X-Amz-Signature={SECRET}',
        f'http://me:{SECRET}@{host}:x/bad.jpg?sig={SECRET}',
        f'http://me:{SECRET}/x@{host}/bad.jpg',
        f'http://me:{SECRET}@169.254.169.254/latest?Signature={SECRET}',
    ]
    manifest = tmp_path / 'list.txt'
    manifest.write_text('\n'.join(lines))
    output = tmp_path / 'out'
    report = app.label(
        '--input', manifest, '--output', output, '--allow_private_hosts', '--run_id', 'r'
    )
    assert report['balanced']
    assert report['counts']['labeled'] == 3
    assert report['counts']['duplicates'] == 1
    labelled = {row['uri']: row['object_version'] for row in app.rows(output, 'predictions')}
    assert labelled == {
        f'{site.url}/0.jpg?v=1': '"0"',
        f'{site.url}/1.jpg': '"1"',
        f'{site.url}/2.jpg': '"2"',
    }
    dead = {row['uri']: row['reason'] for row in app.rows(output, 'dead_letters')}
    assert dead[f'{site.url}/missing.jpg'] == 'not_found'
    assert dead['http://169.254.169.254/latest'] == 'forbidden'
    assert sorted(dead.values()) == ['bad_uri', 'bad_uri', 'forbidden', 'not_found']
    # The larger of two URLs of one image fetched it.
    assert f'/0.jpg?v=1&sig={SECRET}&se=2027' in [path for path, _ in site.requests]
    files = [path for path in output.rglob('*') if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert SECRET not in str(path)
    assert SECRET not in json.dumps(report) + caplog.text


def test_private_hosts_are_refused_unless_allowed(site, tmp_path):
    """By the options of a run; that a dead letter comes of it, is in the one above."""
    arguments = ('--input', samples.SAMPLE, '--output', tmp_path)
    items = [Item(uri, '', -1, ['[]']) for uri in (f'{site.url}/a.jpg', 'http://127.1/b.jpg')]

    def load(*more):
        config = app.make_config(*arguments, *more)[0]
        policy = FaultPolicy(FailFast(0, ''), StoreError)
        (batch,) = app.load_chunk(Chunk('0' * 16, items), config, policy)
        return batch.outcomes

    assert {(each.reason, each.detail) for each in load()} == {
        (Reason.FORBIDDEN, 'a private address')
    }
    assert site.connections == 0
    assert load('--allow_private_hosts')[0].detail != 'a private address'
    assert site.connections > 0


def test_a_store_is_made_once_for_its_options():
    private = StoreOptions(http=HttpOptions(allow_private_hosts=True))
    assert store_for('http://h/', private) is store_for('https://h/', private)
    assert store_for('http://h/', private) is not store_for('http://h/')
    assert store_for('http://h/')._pool.pools._maxsize == http._HOSTS
