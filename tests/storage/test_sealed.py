"""Checksums of what is read back: every flipped bit is noticed, before anything is parsed."""

import hashlib
import json

import pytest

from transforms.core.errors import DamagedError
from transforms.storage.registry import store_for
from transforms.storage.sealed import (
    Checksum,
    open_json,
    open_listed,
    seal,
    seal_json,
    to_json,
    unseal,
)

VALUE = {'a': [1, 'ä', None, 1e-05, 0.1], 'b': {'z': True, 'y': 2}, 'sha': 'x', '10': 0, '9': 0}


def flips(data):
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def test_bytes_come_back_or_are_damaged():
    for content in (b'', b'x', bytes(range(256))):
        data = seal(content)
        assert unseal(data) == content
        for damaged in (*flips(data), data[:-1], data + b'x', data[1:], content):
            with pytest.raises(DamagedError):
                unseal(damaged)


def test_the_tools_of_a_shell_can_check_it():
    data = seal(b'content')
    line, _, content = data.partition(b'\n')
    assert line.decode() == f'lemmabeam sha256 {hashlib.sha256(content).hexdigest()}'


def test_values_come_back_or_are_damaged():
    data = seal_json(VALUE)
    assert open_json(data) == (VALUE, True)
    for damaged in flips(data):
        try:
            found = open_json(damaged)
        except DamagedError:
            continue
        assert found == (VALUE, True)  # as with 1E-05 in place of 1e-05


@pytest.mark.parametrize('damaged', [b'', b'{', b'[]', b'null', b'\xff', b'[' * 100_000])
def test_what_is_no_object_is_damaged(damaged):
    with pytest.raises(DamagedError):
        open_json(damaged)


def test_keys_may_be_numbers_and_lists_tuples():
    value = {'by_class': {10: 0.5, 9: 0.25}, 'carry': ('a', 'b')}
    assert open_json(seal_json(value)).value == json.loads(json.dumps(value))


def test_another_layout_of_the_same_values_is_no_damage():
    data = json.dumps(json.loads(seal_json(VALUE)), sort_keys=True).encode()
    assert open_json(data) == (VALUE, True)


def test_files_of_earlier_versions_have_no_checksum():
    assert open_json(to_json(VALUE)) == (VALUE, False)


@pytest.mark.parametrize('in_memory_bytes', [10, 2**20])
def test_a_file_is_opened_only_if_it_is_the_listed_one(tmp_path, in_memory_bytes):
    path = tmp_path / 'file'
    data = bytes(range(200))
    path.write_bytes(data)
    store = store_for(str(path))
    checksum = Checksum(len(data), hashlib.sha256(data).hexdigest())
    with open_listed(store, str(path), checksum, in_memory_bytes) as stream:
        assert stream.seek(0, 2) == len(data)
        stream.seek(0)
        assert stream.read() == data
    for damaged in (data[:-1], data + b'x', b'', data[:9] + b'\0' + data[10:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError), open_listed(store, str(path), checksum, in_memory_bytes):
            pass
    # Of a file that is being replaced, both are right.
    replaced = checksum._replace(replacement=hashlib.sha256(b'new').hexdigest())
    for content in (data, b'new'):
        path.write_bytes(content)
        with open_listed(store, str(path), replaced, in_memory_bytes) as stream:
            assert stream.read() == content
