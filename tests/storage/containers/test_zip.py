"""Zip archives, whole, odd and hostile."""

import io
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib

import pytest

from tests.support.containers import CountedSource, damaged, id_of, listed, outcomes, wanted
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.storage.containers.base import Member
from transforms.storage.containers.zip import ZIP

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def archive(files, method=STORED, head=b'', comment=b''):
    sink = io.BytesIO()
    sink.write(head)
    with zipfile.ZipFile(sink, 'a' if head else 'w', method) as file:
        for name, data in files.items():
            file.writestr(name, data)
        file.comment = comment
    return sink.getvalue()


class Unseekable(io.BytesIO):
    """What makes `zipfile` write data descriptors."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError

    def tell(self):
        raise OSError


def changed(data, entry=None, local=None):
    """An archive of one file with other bytes in its headers, by their places."""
    copy = bytearray(data)
    for start, changes in ((data.index(b'PK\1\2'), entry), (data.index(b'PK\3\4'), local)):
        for place, value in (changes or {}).items():
            copy[start + place : start + place + len(value)] = value
    return bytes(copy)


PICTURES = {
    'a.jpg': b'a' * 1000,
    'd/größe.PNG': b'b' * 2000,
    '日本/c.webp': bytes(range(256)) * 30,
    '../d.gif': b'd',
    '/etc/e.bmp': b'e',
}


@pytest.mark.parametrize('method', [STORED, DEFLATED])
@pytest.mark.parametrize('head', [b'', b'#!/bin/sh\n' * 9])
@pytest.mark.parametrize('comment', [b'', b'PK\5\6' * 1000])
def test_pictures_are_found_and_read(method, head, comment):
    data = archive({**PICTURES, 'x.txt': b'x', 'in.zip': b'', 'd.jpg/': b''}, method, head, comment)
    assert outcomes(ZIP, data) == PICTURES
    assert [each for each in listed(ZIP, data) if isinstance(each, str)] == [
        'skipped_not_image/.txt',
        'skipped_not_image/.zip',
    ]


@pytest.mark.parametrize('method', [STORED, DEFLATED])
def test_data_descriptors_are_read(method):
    sink = Unseekable()
    with zipfile.ZipFile(sink, 'w', method) as file:
        for name, data in PICTURES.items():
            file.writestr(name, data)
    assert sink.getvalue()[6] & 8
    assert outcomes(ZIP, sink.getvalue()) == PICTURES


def test_zip64_is_read():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, 'w') as file, file.open('a.jpg', 'w', force_zip64=True) as member:
        member.write(b'data')
    assert outcomes(ZIP, sink.getvalue()) == {'a.jpg': b'data'}
    data = archive({'a.jpg': b'data', 'b.jpg': b''})
    # All that zip64 may say of an entry, and its own end.
    start = data.index(b'PK\1\2')
    entry = bytearray(data[start : start + 46 + 5])
    entry[20:28] = b'\xff' * 8
    entry[30:32] = struct.pack('<H', 28)
    entry[42:46] = b'\xff' * 4
    entry += struct.pack('<HHQQQ', 1, 24, 4, 4, 0)
    end = struct.pack('<4sQHHLLQQQQ', b'PK\6\6', 44, 45, 45, 0, 0, 1, 1, len(entry), start)
    locator = struct.pack('<4sLQL', b'PK\6\7', 0, start + len(entry), 1)
    last = struct.pack('<4sHHHHLLH', b'PK\5\6', 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    whole = data[:start] + entry + end + locator + last
    assert outcomes(ZIP, whole) == {'a.jpg': b'data'}
    assert outcomes(ZIP, b'#!/bin/sh' + whole) == {'a.jpg': b'data'}
    assert outcomes(ZIP, data[:start] + entry + locator + last) == {'': 'decode_error'}


@pytest.mark.skipif(not shutil.which('zip'), reason='there is no zip')
def test_what_the_program_writes_is_read(tmp_path):
    (tmp_path / 'in/d').mkdir(parents=True)
    (tmp_path / 'in/d/a.jpg').write_bytes(b'a' * 1000)
    (tmp_path / 'in/größe.png').write_bytes(b'b')
    (tmp_path / 'in/c.gif').symlink_to('größe.png')
    for level in ('-0', '-9', '-fz'):
        subprocess.run(['zip', '-qry', level, '../x.zip', '.'], cwd=tmp_path / 'in', check=True)
        data = (tmp_path / 'x.zip').read_bytes()
        (tmp_path / 'x.zip').unlink()
        expected = {'d/a.jpg': b'a' * 1000, 'größe.png': b'b', 'c.gif': 'not_a_file'}
        assert outcomes(ZIP, data) == expected
    command = ['zip', '-qP', 'secret', '-', 'd/a.jpg']
    data = subprocess.run(command, cwd=tmp_path / 'in', stdout=subprocess.PIPE, check=True).stdout
    assert outcomes(ZIP, data) == {'d/a.jpg': 'unsupported_format'}


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_named(method):
    (member,) = listed(ZIP, archive({'a.jpg': b'data'}, method))
    assert member.reason is Reason.UNSUPPORTED_FORMAT
    assert member.detail.startswith(f'packed with {"bzip2" if method == 12 else "LZMA"}')


@pytest.mark.parametrize(
    ('raw', 'flags', 'name'),
    [
        ('ä.jpg'.encode(), 0, 'ä.jpg'),
        (b'\x84.jpg', 0, 'ä.jpg'),  # as DOS has it
        ('ä.jpg'.encode(), 0x800, 'ä.jpg'),
    ],
)
def test_names_are_told_by_what_they_are(raw, flags, name):
    data = archive({'a' * len(raw.removesuffix(b'.jpg')) + '.jpg': b'x'})
    data = changed(data, {8: struct.pack('<H', flags), 46: raw})
    assert outcomes(ZIP, data) == {name: b'x'}


def u32(number):
    return struct.pack('<L', number)


ONE = archive({'a.jpg': b'data'})
PACKED = archive({'a.jpg': b'data' * 1000}, DEFLATED)
DAMAGED_PACKED = PACKED.replace(zlib.compress(b'data' * 1000, wbits=-15)[:6], b'\xff' * 6)


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        (b'', {'': 'empty'}),
        (b'x' * 5000, {'': 'unsupported_format'}),
        (b'PK\5\6' + bytes(18), {}),
        (ONE[:-1], {'': 'truncated'}),
        (ONE[:30], {'': 'truncated'}),
        (ONE[:-22] + b'PK\5\6' + b'\xff' * 16 + b'\0\0', {'': 'unsupported_format'}),
        (changed(ONE, {0: b'XX'}), {'': 'decode_error'}),
        (changed(ONE, {28: b'\xff\xff'}), {'': 'decode_error'}),
        (ONE[:-12] + b'\2\0' + ONE[-10:], {'a.jpg': b'data', '': 'decode_error'}),
        (ONE[:-10] + u32(9999) + ONE[-6:], {'': 'decode_error'}),
        (ONE[:-6] + u32(9999) + ONE[-2:], {'': 'decode_error'}),
        (changed(ONE, {42: u32(9999)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {42: u32(3)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {20: u32(9999)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {24: u32(9999)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {20: u32(2**32 - 1)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {16: u32(7)}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {16: u32(7)}, {14: u32(7)}), {'a.jpg': 'checksum'}),
        (ONE.replace(b'data', b'dxta'), {'a.jpg': 'checksum'}),
        (changed(ONE, {8: b'\1\0'}), {'a.jpg': 'unsupported_format'}),
        (changed(ONE, {}, {6: b'\1\0'}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {}, {8: b'\10\0'}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {}, {0: b'XX'}), {'a.jpg': 'decode_error'}),
        (changed(ONE, {}, {28: b'\xff\xff'}), {'a.jpg': 'truncated'}),
        (changed(ONE, {34: b'\1\0'}), {'a.jpg': 'unsupported_format'}),
        (changed(ONE, {5: b'\3', 38: u32(stat.S_IFBLK << 16)}), {'a.jpg': 'not_a_file'}),
        (changed(ONE, {8: struct.pack('<H', 0x800), 46: b'\xff'}), {'\udcff.jpg': 'bad_name'}),
        (archive({'a.jpg': b''}), {'a.jpg': 'empty'}),
        (changed(PACKED, {24: u32(3999)}), {'a.jpg': 'decode_error'}),
        (changed(PACKED, {24: u32(4001)}), {'a.jpg': 'decode_error'}),
        (changed(PACKED, {20: u32(9)}, {18: u32(9)}), {'a.jpg': 'decode_error'}),
        (DAMAGED_PACKED, {'a.jpg': 'decode_error'}),
        (archive({'a.jpg': bytes(2**21)}, DEFLATED), {'a.jpg': 'too_many_bytes'}),
    ],
    ids=id_of,
)
def test_archives_that_lie(data, found):
    assert outcomes(ZIP, data) == found


def test_a_bomb_unpacks_no_further_than_it_says():
    data = archive({'a.jpg': bytes(2**26)}, DEFLATED)
    data = changed(data, {24: u32(1000)})
    (member,) = listed(ZIP, data)
    admitted = []
    with pytest.raises(ImageError, match='unpacks to more than 1000 bytes, and says 1000'):
        ZIP.open(CountedSource(data)).read(member.where, 2**20, admitted.append)
    assert max(admitted) < 100_000


def test_members_that_overlap_are_refused():
    data = archive({'a.jpg': b'x' * 10_000}, STORED)
    start = data.index(b'PK\1\2')
    entry = data[start : start + 51]
    many = b''.join(
        entry[:28] + struct.pack('<H', 8) + entry[30:46] + b'%04d.jpg' % i for i in range(50)
    )
    end = struct.pack('<4sHHHHLLH', b'PK\5\6', 0, 0, 50, 50, len(many), start, 0)
    found = list(outcomes(ZIP, data[:start] + many + end).values())
    assert found == [b'x' * 10_000] + ['decode_error'] * 49


def test_of_two_files_of_one_name_the_second_has_a_reason():
    data = archive({'a.jpg': b'1', 'b.jpg': b'2'}).replace(b'b.jpg', b'a.jpg')
    first, second = listed(ZIP, data)
    assert (first.name, first.reason, second.reason) == ('a.jpg', None, Reason.BAD_NAME)


def test_a_directory_is_read_in_blocks_and_a_member_by_two_ranges():
    data = archive({f'{i:05d}/{"n" * 200}.jpg': b'x' for i in range(9000)})
    source = CountedSource(data)
    found = list(ZIP.members(source, wanted()))
    assert len(found) == 9000
    assert source.requests < 10
    source = CountedSource(data)
    assert ZIP.open(source).read(found[-1].where, 10, lambda _: None) == b'x'
    assert source.requests == 2


@pytest.mark.parametrize('method', [STORED, DEFLATED])
def test_sidecars_are_carried(method):
    files = {'1.jpg': b'1', '1.txt': b'one', '1.json': b'{"x": 1}', '2.jpg': b'2', '2.txt': b'two'}
    found = listed(ZIP, archive(files, method), wanted(carry=('txt', 'json.x')))
    members = [each for each in found if isinstance(each, Member)]
    assert [each.carried for each in members] == [('one', '1'), ('two', None)]


def test_what_another_format_wrote_is_no_place():
    with pytest.raises(ImageError) as caught:
        ZIP.open(CountedSource(ONE)).read('3:17:5', 1000, lambda _: None)
    assert caught.value.reason is Reason.CHANGED_WHILE_READING


@pytest.mark.parametrize('method', [STORED, DEFLATED])
def test_damage_ends_in_reasons(method):
    data = archive({**PICTURES, 'a.json': b'{"x": 1}'}, method)
    for each in damaged(data, 500):
        outcomes(ZIP, each, wanted(carry=('json.x',)))
