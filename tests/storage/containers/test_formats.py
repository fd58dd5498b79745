"""What every format of containers keeps to."""

import gzip

import pyarrow as pa
import pytest

from tests.storage.containers.test_arrow import arrow_of
from tests.storage.containers.test_tables import parquet_of
from tests.storage.containers.test_tar import END, entry
from tests.storage.containers.test_tfrecord import pictures
from tests.storage.containers.test_zip import archive
from tests.support.containers import CountedSource, listed, outcomes, wanted
from transforms.core import members
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.storage.containers.base import MOST_MEMBERS, Member
from transforms.storage.containers.registry import format_of

BODIES = [bytes([65 + i]) * (i * 3000 + 1) for i in range(40)]
NAMED = {f'{i}.jpg': data for i, data in enumerate(BODIES)}
TAR = b''.join(entry(name, data) for name, data in NAMED.items()) + END
ROWS = [{'bytes': data, 'path': name} for name, data in NAMED.items()]
STRUCTS = pa.table({'image': ROWS})
FILES = {
    'x.tar': TAR,
    'x.tar.gz': gzip.compress(TAR),
    'x.tgz': gzip.compress(TAR),
    'x.zip': archive(NAMED),
    'deflated.zip': archive(NAMED, 8),
    'x.parquet': parquet_of(STRUCTS, row_group_size=9),
    'x.arrow': arrow_of(STRUCTS, is_file=False, rows=9),
    'x.feather': arrow_of(STRUCTS, codec='zstd', rows=9),
    'x.tfrecord': pictures(*BODIES),
    'x.tfrecords-00000-of-00001': pictures(*BODIES),
}
every_file = pytest.mark.parametrize('file', FILES)


@every_file
def test_the_same_pictures_come_out_of_every_file(file):
    assert list(outcomes(format_of(file), FILES[file]).values()) == BODIES


def test_each_suffix_has_a_format():
    assert {members.suffix_of(file) for file in FILES} | {'.tfrecords'} == set(members.SUFFIXES)
    with pytest.raises(KeyError):
        format_of('x.jpg')


@every_file
def test_members_lie_in_the_order_of_their_places(file):
    found = listed(format_of(file), FILES[file])
    places = [members.place_of(member.where) for member in found]
    assert places == sorted(places)
    assert len({member.where for member in found}) == len(found)
    for member in found:
        version = members.join_version('etag!"x"', member.where)
        assert members.split_version(version) == ('etag!"x"', member.where)


@every_file
def test_listing_twice_tells_the_same(file):
    what = wanted(carry=() if 'record' not in file else ('image/other',))
    assert listed(format_of(file), FILES[file], what) == listed(format_of(file), FILES[file], what)


@every_file
def test_what_the_source_raises_leaves_the_reader_whole(file):
    class Flaky(CountedSource):
        def range(self, offset, size):
            self.requests += 1
            if self.requests in failing:
                raise ImageError(Reason.DEADLINE, 'too slow')
            return super().range(offset, size)

    failing = {2**i - 1 for i in range(1, 20)}
    kind = format_of(file)
    reader = kind.open(Flaky(FILES[file]))
    for member, body in zip(listed(kind, FILES[file]), BODIES, strict=True):
        for _ in range(200):
            try:
                data = reader.read(member.where, 10**6, lambda _: None)
            except ImageError as e:
                if e.reason is not Reason.DEADLINE:
                    raise
            else:
                break
        assert data == body


@every_file
def test_a_limit_is_kept_to(file):
    kind = format_of(file)
    *_, last = listed(kind, FILES[file])
    with pytest.raises(ImageError) as caught:
        kind.open(CountedSource(FILES[file])).read(last.where, 1000, lambda _: None)
    assert caught.value.reason is Reason.TOO_MANY_BYTES
    assert caught.value.is_its_own


@pytest.mark.parametrize('file', ['x.tar', 'x.zip', 'x.parquet', 'x.arrow', 'x.tfrecord'])
def test_too_many_members_are_told(file, monkeypatch):
    for module in ('archive', 'tables', 'tfrecord'):
        monkeypatch.setattr(f'transforms.storage.containers.{module}.MOST_MEMBERS', 20)
    *found, problem = listed(format_of(file), FILES[file])
    assert 9 < len(found) <= 20
    assert all(isinstance(each, Member) for each in found)
    assert problem.reason is Reason.UNSUPPORTED_FORMAT
    assert problem.detail.startswith('more than 20 ')
    assert MOST_MEMBERS == 10_000_000
