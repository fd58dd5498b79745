"""Names and versions of pictures inside files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.core import members
from transforms.core.members import MemberUri, MemberVersion, Place

pure = settings(derandomize=True, max_examples=200, deadline=None)
CONTAINERS = [
    '/data/a.tar',
    'gs://b/train-00000.TAR',
    's3://b/x.tar.gz',
    '/x.tgz',
    '/x.zip',
    '/part-0.parquet',
    '/x.arrow',
    '/x.feather',
    '/x.tfrecord',
    '/x.tfrecords',
    '/train.tfrecord-00003-of-00010',
    'https://host/a b.tar',
    '/a!/b.tar',
]


@pytest.mark.parametrize('container', CONTAINERS)
@pytest.mark.parametrize('name', ['1.jpg', '/a/../b.png', '', '1234', 'in.tar!/x.jpg', 'a!/b', '!'])
def test_a_member_is_named_behind_its_container(container, name):
    assert members.is_container(container)
    assert members.split(members.join(container, name)) == MemberUri(container, name)


@pytest.mark.parametrize(
    'uri',
    [
        *CONTAINERS[:-1],
        '/a/b.jpg',
        '/a!/b.jpg',
        '/a.tar/b.jpg',
        '/a.tar!b.jpg',
        '/a.tarball!/b.jpg',
        '/a.tar-1!/b.jpg',
        '/a.gz!/b.jpg',
        '',
    ],
)
def test_other_uris_are_no_members(uri):
    assert members.split(uri) is None


@pytest.mark.parametrize(
    ('uri', 'suffix'),
    [
        ('/a.tar', '.tar'),
        ('/a.b.Tar.GZ', '.tar.gz'),
        ('/a.TGZ', '.tgz'),
        ('/a.tfrecords-00000-of-00001', '.tfrecords'),
        ('/a.tar.gz.jpg', ''),
        ('/a.gz', ''),
        ('/tar', ''),
    ],
)
def test_a_container_is_told_by_its_suffix(uri, suffix):
    assert members.suffix_of(uri) == suffix


@pytest.mark.parametrize('container', ['1700000000', '"abc!+/="', '', '1-2!3'])
@pytest.mark.parametrize('where', ['512+100', '~512+100', '3:17:5', '512+100z30'])
def test_a_version_is_that_of_the_container_and_the_place(container, where):
    version = members.join_version(container, where)
    assert members.split_version(version) == MemberVersion(container, where)


@pytest.mark.parametrize('version', ['', '123', 'a!b', '12!', '!', '1!~5'])
def test_a_version_without_a_place_is_none(version):
    assert members.split_version(version) is None


@pytest.mark.parametrize(
    ('where', 'place'),
    [
        ('512+100', Place(0, 512)),
        (f'{64 * 2**20}+1z5', Place(1, 64 * 2**20)),
        ('~900000000000+100', Place(0, 900_000_000_000)),
        ('3:17:5', Place(3, 17)),
    ],
)
def test_a_place_tells_what_is_read_in_one_go(where, place):
    assert members.place_of(where) == place


@pytest.mark.parametrize('where', ['', 'x', '-1+5', '5', '5-5', '٣+٣', f'{"9" * 5000}+1'])
def test_what_no_format_has_written_is_no_place(where):
    with pytest.raises(ValueError, match='no place in a container'):
        members.place_of(where)


@pure
@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_places_sort_as_members_lie(offsets):
    places = [members.place_of(f'{offset}+1') for offset in sorted(offsets)]
    assert places == sorted(places)


@pure
@given(st.text(), st.text())
def test_what_stands_before_is_kept_as_it_is(folder, name):
    uri = members.join(f'{folder}.tar', name)
    found = members.split(uri)
    assert found is not None
    assert members.join(*found) == uri


def version(where):
    return members.join_version('7', where)


def run_at(*places, uri='gs://b/a.tar'):
    """The runs of members, each given by where it lies."""
    return members.runs_of((f'{uri}!/{i}.jpg', version(where)) for i, where in enumerate(places))


def test_a_url_is_what_its_server_makes_of_it():
    for scheme in ('http', 'https'):
        assert not members.is_member(f'{scheme}://host/a.tar!/b.jpg', '')
    assert members.is_member('gs://host/a.tar!/b.jpg', '')


def test_what_lies_together_in_a_store_is_read_together():
    first, second, alone, far = run_at(
        '512+1000', '2048+1000', f'{members.READ_BYTES + 9000}+10', '99999999+5'
    )
    assert first == second == members.Run('gs://b/a.tar!512', 512, 2048 + 1000 + 1024)
    assert alone is far is None
    assert run_at('512+1000', '2048+1000', uri='/local/a.tar') == [None, None]
    assert run_at('512+1000') == [None]
    whole = run_at(*(f'{i * 100_512}+100000' for i in range(208)))
    assert None not in whole
    assert len({run.key for run in whole}) == 2
    assert all(run.end - run.start <= members.READ_BYTES for run in whole)
    backwards = run_at('4096+10', '512+10')
    assert backwards == [None, None]


def test_a_stream_and_a_group_of_rows_are_read_by_one_process():
    streamed = run_at('~0+5', '~9999999999+5', uri='/x.tar.gz')
    assert streamed == [members.Run('/x.tar.gz!', 0, 0)] * 2
    rows = run_at('0:1:image', '0:2:image', '1:0:image', uri='/x.parquet')
    assert [run.key for run in rows] == ['/x.parquet!0', '/x.parquet!0', '/x.parquet!1']


def test_loose_images_are_read_alone():
    loose = [('gs://b/1.jpg', '1'), ('gs://b/a.tar!/1.jpg', ''), ('gs://b/a.tar', '3')]
    assert members.runs_of(loose) == [None, None, None]
