"""Tar archives, whole, odd and hostile."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile

import pytest

from tests.support.containers import (
    CountedSource,
    damaged,
    id_of,
    listed,
    outcomes,
    wanted,
)
from transforms.core.errors import ImageError
from transforms.core.members import place_of
from transforms.core.reasons import Reason
from transforms.storage.containers.base import Member, Problem
from transforms.storage.containers.tar import TAR, TAR_GZ

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
END = bytes(1024)


def entry(name, data=b'', tar_format=tarfile.PAX_FORMAT, **fields):
    """The blocks of one entry."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tar_format, errors='surrogateescape') + data + bytes(-len(data) % 512)


def header(name=b'a.jpg', size=b'%011o\0' % 5, kind=b'0', magic=b'ustar\x0000', tail=b''):
    """A header made byte by byte, with its checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[148:156] = b' ' * 8
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(tail)] = tail
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


def pax(*records, size=None):
    data = b''.join(records)
    return header(b'x', b'%011o\0' % (size or len(data)), b'x') + data + bytes(-len(data) % 512)


def record(key, value):
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b'%d %b=%b\n' % (total, key, value)


BODY = b'12345' + bytes(507)


@pytest.mark.parametrize('tar_format', FORMATS)
@pytest.mark.parametrize('kind', [TAR, TAR_GZ])
def test_pictures_are_found_and_read(tar_format, kind):
    pictures = {f'train/{"n" * 30 * (i % 4)}/{i}.JPG': bytes([i]) * (i * 700) for i in range(1, 9)}
    pictures['größe/日本.png'] = b'x'
    if tar_format != tarfile.USTAR_FORMAT:
        pictures[f'{"d" * 150}/{"f" * 300}.webp'] = b'long'
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode='w', format=tar_format) as archive:
        for name, data in pictures.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    data = sink.getvalue()
    if kind is TAR_GZ:
        data = gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + b'\0\0behind'
    assert outcomes(kind, data) == pictures
    places = [place_of(member.where) for member in listed(kind, data)]
    assert places == sorted(places)


@pytest.mark.skipif(not shutil.which('tar'), reason='there is no tar')
@pytest.mark.parametrize('tar_format', ['v7', 'oldgnu', 'gnu', 'ustar', 'posix'])
def test_what_the_program_writes_is_read(tmp_path, tar_format):
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd/a.jpg').write_bytes(b'a' * 1000)
    (tmp_path / 'd/b.txt').write_bytes(b'b')
    (tmp_path / 'd/c.png').symlink_to('a.jpg')
    (tmp_path / 'd/e.gif').hardlink_to(tmp_path / 'd/a.jpg')
    name = f'd/{"long" * (50 if "gnu" in tar_format or tar_format == "posix" else 15)}.bmp'
    (tmp_path / name).write_bytes(b'long')
    order = ['d', 'd/a.jpg', 'd/b.txt', 'd/c.png', 'd/e.gif', name]
    command = ['tar', f'--format={tar_format}', '--no-recursion', '-cf', '-', *order]
    data = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    assert outcomes(TAR, data) == {
        'd/a.jpg': b'a' * 1000,
        'd/c.png': 'not_a_file',
        'd/e.gif': 'not_a_file',
        name: b'long',
    }
    assert 'skipped_not_image/.txt' in listed(TAR, data)


@pytest.mark.skipif(not shutil.which('tar'), reason='there is no tar')
@pytest.mark.parametrize('option', ['--format=gnu', '--sparse-version=0.1', '--sparse-version=1.0'])
def test_a_sparse_file_is_no_picture_and_what_follows_is(tmp_path, option):
    with (tmp_path / 'a.jpg').open('wb') as file:
        for place in range(40):  # more than a header has room for
            file.seek(place * 2**18)
            file.write(b'x' * 4096)
        file.truncate(2**24)
    (tmp_path / 'b.jpg').write_bytes(b'b')
    command = ['tar', '-S', option, '-cf', '-', 'a.jpg', 'b.jpg']
    data = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    assert outcomes(TAR, data) == {'a.jpg': 'unsupported_format', 'b.jpg': b'b'}


def test_members_are_read_by_one_range_each():
    data = b''.join(entry(f'{i}.jpg', b'x' * 5000) for i in range(100)) + END
    source = CountedSource(data)
    found = list(TAR.members(source, wanted()))
    assert source.read_bytes <= 101 * 512
    source = CountedSource(data)
    reader = TAR.open(source)
    for member in found:
        reader.read(member.where, 10**6, lambda _: None)
    assert (source.requests, source.read_bytes) == (100, 100 * 5000)


def test_a_stream_is_unpacked_once_where_members_are_read_in_order():
    data = b''.join(entry(f'{i}.jpg', bytes([i]) * 50_000) for i in range(100)) + END
    packed = gzip.compress(data, 0)
    found = listed(TAR_GZ, packed)
    source = CountedSource(packed)
    reader = TAR_GZ.open(source)
    for i, member in enumerate(found):
        assert reader.read(member.where, 10**6, lambda _: None) == bytes([i]) * 50_000
    assert source.read_bytes <= len(packed)
    assert reader.read(found[3].where, 10**6, lambda _: None) == bytes([3]) * 50_000


@pytest.mark.parametrize(
    ('name', 'fields', 'reason'),
    [
        ('a.jpg', {'type': tarfile.LNKTYPE, 'linkname': 'b.jpg'}, 'not_a_file'),
        ('a.jpg', {'type': tarfile.SYMTYPE, 'linkname': '/etc/passwd'}, 'not_a_file'),
        ('a.jpg', {'type': tarfile.CHRTYPE, 'devmajor': 1}, 'not_a_file'),
        ('a.jpg', {'type': tarfile.BLKTYPE}, 'not_a_file'),
        ('a.jpg', {'type': tarfile.FIFOTYPE}, 'not_a_file'),
        ('a.jpg', {'type': b'V'}, 'not_a_file'),
        ('a.jpg', {'type': b'\xff'}, 'not_a_file'),
        ('\udcff.jpg', {}, 'bad_name'),
        ('n' * 3000 + '.jpg', {}, 'bad_name'),
        ('n' * 2_000_000 + '.jpg', {}, 'bad_name'),
        ('empty.jpg', {}, 'empty'),
    ],
)
def test_what_is_no_picture_has_a_reason(name, fields, reason):
    data = entry(name, **fields) + entry('b.jpg', b'b') + END
    found = outcomes(TAR, data)
    assert list(found.values()) == [reason, b'b']


def test_names_are_only_names():
    names = ['/etc/a.jpg', '../../b.jpg', 'C:\\c.jpg', './d.jpg', 'a b\n.jpg', '~/e.jpg', '!/f.jpg']
    data = b''.join(entry(name, b'x') for name in names) + END
    assert list(outcomes(TAR, data)) == names


def test_of_two_files_of_one_name_the_second_has_a_reason():
    data = entry('a.jpg', b'1') + entry('a.jpg', b'2') + entry('b.jpg', b'3') + END
    first, second, third = listed(TAR, data)
    assert (first.name, first.reason) == ('a.jpg', None)
    assert (second.name, second.reason) == ('a.jpg', Reason.BAD_NAME)
    assert 'a second file of this name, at 1536+1' in second.detail
    assert third.reason is None


def test_folders_archives_and_companions_are_left_out():
    data = entry('d.jpg/', type=tarfile.DIRTYPE) + entry('d.jpg', type=tarfile.DIRTYPE)
    data += header(b'old.jpg/', b'%011o\0' % 0, b'\0', b'')
    data += entry('in.tar', b'x') + entry('in.zip', b'x') + entry('noext', b'') + entry('._a.jpg')
    data += entry('a.jpg', b'a') + entry(f'x.{"y" * 90}', b'') + END
    assert [each if isinstance(each, str) else each.name for each in listed(TAR, data)] == [
        'skipped_not_image/.tar',
        'skipped_not_image/.zip',
        'skipped_not_image/',
        'skipped_not_image/._*',
        'a.jpg',
        'skipped_not_image/',
    ]


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        (b'', {'': 'empty'}),
        (b'x', {'': 'unsupported_format'}),
        (b'x' * 5000, {'': 'unsupported_format'}),
        (END, {}),
        (bytes(512), {}),
        (header() + BODY, {'a.jpg': b'12345', '': 'truncated'}),
        (header() + BODY[:3], {'a.jpg': 'truncated', '': 'truncated'}),
        (header() + BODY + header()[:100], {'a.jpg': b'12345', '': 'truncated'}),
        (header() + BODY + b'x' * 512 + END, {'a.jpg': b'12345', '': 'decode_error'}),
        (header(size=b'\x80' + b'\xff' * 11) + BODY + END, {'': 'unsupported_format'}),
        (header(size=b'\xff' * 12) + BODY + END, {'': 'unsupported_format'}),
        (header(size=b'-0000000005\0') + BODY + END, {'': 'unsupported_format'}),
        (header(size=b'0_0005\0') + BODY + END, {'': 'unsupported_format'}),
        (header(size=b'\x80' + bytes(10) + b'\5') + BODY + END, {'a.jpg': b'12345'}),
        (
            header(size=b'\x80\0\0\0\x7f' + b'\xff' * 7) + BODY,
            {'a.jpg': 'truncated', '': 'truncated'},
        ),
        (header(size=b'    5 \0') + BODY + END, {'a.jpg': b'12345'}),
        (header(b'd/', kind=b'D') + BODY + header() + BODY + END, {'a.jpg': b'12345'}),
        (header(tail=b'd/e') + BODY + END, {'d/e/a.jpg': b'12345'}),
        (header(tail=b'12345670123', magic=b'ustar  \0') + BODY + END, {'a.jpg': b'12345'}),
        (header(b'x', b'%011o\0' % 5, b'L') + b'b.gif' + bytes(507) + END, {'': 'decode_error'}),
        (
            header(b'x', b'%011o\0' % (2**33 - 1), b'L') + header() + BODY,
            {'': 'truncated'},
        ),
        (
            header(b'x', b'%011o\0' % 5, b'L') + b'b.gif' + bytes(507) + header() + BODY + END,
            {'b.gif': b'12345'},
        ),
        (
            header(b'x', b'%011o\0' % 5, b'K') + b'b.gif' + bytes(507) + header() + BODY + END,
            {'a.jpg': b'12345'},
        ),
        (pax(record(b'path', b'p.png')) + header() + BODY + END, {'p.png': b'12345'}),
        (pax(record(b'size', b'3')) + header() + BODY + END, {'a.jpg': b'123'}),
        (pax(record(b'size', b'-3')) + header() + BODY + END, {'a.jpg': 'bad_name'}),
        (pax(record(b'size', b'9' * 30)) + header() + BODY + END, {'a.jpg': 'bad_name'}),
        (pax(b'99 path=p.png\n') + header() + BODY + END, {'a.jpg': 'bad_name'}),
        (pax(b'0 path=p.png\n') + header() + BODY + END, {'a.jpg': 'bad_name'}),
        (pax(b'path=p.png\n') + header() + BODY + END, {'a.jpg': 'bad_name'}),
        (
            pax(record(b'GNU.sparse.major', b'1'), record(b'GNU.sparse.name', b's.jpg'))
            + header()
            + BODY
            + END,
            {'s.jpg': 'unsupported_format'},
        ),
        (
            header(b'g', b'%011o\0' % 14, b'g') + record(b'path', b'g.jpg') + bytes(498) + header()
            + BODY + END,
            {'a.jpg': b'12345'},
        ),
        (header(kind=b'S', magic=b'ustar  \0', tail=bytes(137) + b'\1'), {
            'a.jpg': 'unsupported_format', '': 'truncated'}),
    ],
)  # fmt: skip
def test_archives_made_by_hand(data, found):
    assert outcomes(TAR, data) == found
    if data:
        gunzipped = outcomes(TAR_GZ, gzip.compress(data))
        assert gunzipped == found


def test_a_checksum_of_signed_bytes_is_known():
    block = bytearray(header(b'\xc3\xa4.jpg'))
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(each - 256 if each > 127 else each for each in block)
    assert outcomes(TAR, bytes(block) + BODY + END) == {'ä.jpg': b'12345'}


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        (b'', {'': 'empty'}),
        (b'x' * 100, {'': 'unsupported_format'}),
        (header() + BODY + END, {'': 'unsupported_format'}),
        (gzip.compress(b''), {'': 'empty'}),
    ],
    ids=id_of,
)
def test_what_is_no_gzip(data, found):
    assert outcomes(TAR_GZ, data) == found


def test_a_gzip_file_that_breaks_off_loses_only_what_is_behind():
    bodies = {f'{i}.jpg': bytes([i]) * 3000 for i in range(50)}
    whole = b''.join(entry(name, data) for name, data in bodies.items()) + END
    packed = gzip.compress(whole, 0)
    found = outcomes(TAR_GZ, packed[: len(packed) // 2])
    assert found.pop('') == 'truncated'
    whole_ones = {name: data for name, data in found.items() if data != 'truncated'}
    assert len(whole_ones) > 20
    assert len(found) - len(whole_ones) <= 1
    assert whole_ones.items() <= bodies.items()
    flipped = bytearray(packed)
    flipped[-6] ^= 1  # of the checksum
    found = outcomes(TAR_GZ, bytes(flipped))
    assert found == {'': 'decode_error'}  # what was unpacked together with the damage


def test_a_bomb_is_not_unpacked():
    zeros = gzip.compress(bytes(2**27))
    data = gzip.compress(header(size=b'%011o\0' % 2**32)) + zeros * 40
    source = CountedSource(data)
    *_, last = TAR_GZ.members(source, wanted())
    assert last == Problem(Reason.TOO_MANY_BYTES, last.detail)
    assert source.read_bytes < len(data) / 2


def test_too_large_a_picture_is_refused_before_it_is_read():
    data = header(size=b'%011o\0' % 2**30)
    source = CountedSource(data)
    with pytest.raises(ImageError, match='1073741824 bytes, limit 1000') as caught:
        TAR.open(source).read(f'512+{2**30}', 1000, lambda _: None)
    assert caught.value.reason is Reason.TOO_MANY_BYTES
    assert source.requests == 0


@pytest.mark.parametrize('kind', [TAR, TAR_GZ])
def test_sidecars_are_carried(kind):
    def sample(key, label):
        meta = json.dumps({'caption': f'größe {label}', 'n': {'x': [label]}}).encode()
        return [
            entry(f'{key}.cls', b'%d' % label),
            entry(f'{key}.jpg', b'picture'),
            entry(f'{key}.json', meta),
            entry(f'{key}.seg.png', b'mask'),
            entry(f'{key}.txt', b'a text\r\n'),
        ]

    parts = [*sample('d.x/0001', 7), *sample('d.x/0002', 8), entry('e/0001.jpg', b'alone')]
    data = b''.join(parts) + END
    if kind is TAR_GZ:
        data = gzip.compress(data)
    carry = ('json.caption', 'cls', 'txt', 'json.n.x', 'json.none', 'none')
    found = listed(kind, data, wanted(carry=carry))  # and sidecars are not left out
    assert [(each.name, each.carried) for each in found] == [
        ('d.x/0001.jpg', ('größe 7', '7', 'a text', '[7]', None, None)),
        ('d.x/0001.seg.png', ('größe 7', '7', 'a text', '[7]', None, None)),
        ('d.x/0002.jpg', ('größe 8', '8', 'a text', '[8]', None, None)),
        ('d.x/0002.seg.png', ('größe 8', '8', 'a text', '[8]', None, None)),
        ('e/0001.jpg', (None,) * 6),
    ]


@pytest.mark.parametrize(
    'sidecar',
    [
        entry('a.json', b'{'),
        entry('a.json', b'[' * 100_000),
        entry('a.json', b'\xff'),
        entry('a.json', b' ' * (2**20 + 1)),
        entry('a.json', type=tarfile.SYMTYPE, linkname='b'),
        header(b'a.json', b'%011o\0' % 2**32),
    ],
)
def test_a_bad_sidecar_costs_its_picture_only(sidecar):
    data = entry('0.jpg', b'0') + entry('a.jpg', b'a') + sidecar + END
    first, second, *_ = (
        each for each in listed(TAR, data, wanted(carry=('json.x',))) if isinstance(each, Member)
    )
    assert (first.reason, first.carried) == (None, (None,))
    assert second.reason is not None
    assert second.detail.startswith('its .json: ')


def test_samples_without_an_end_are_cut():
    data = b''.join(entry(f'img.{i}.jpg', b'x') for i in range(1000)) + END
    found = listed(TAR, data, wanted(carry=('txt',)))
    assert [each.name for each in found] == [f'img.{i}.jpg' for i in range(1000)]


@pytest.mark.parametrize('kind', [TAR, TAR_GZ])
def test_damage_ends_in_reasons(kind):
    whole = b''.join(
        [
            entry('a.jpg', b'x' * 700, mtime=1.5),
            entry('a.json', b'{"x": 1}'),
            entry('n' * 300 + '.png', b'y', tarfile.GNU_FORMAT),
            entry('c.gif', type=tarfile.LNKTYPE, linkname='a.jpg'),
            entry('d.bmp', b'z' * 100),
            END,
        ]
    )
    data = gzip.compress(whole) if kind is TAR_GZ else whole
    for each in damaged(data, 500):
        outcomes(kind, each, wanted(carry=('json.x',)))
