"""TFRecord files of `tf.train.Example`: a picture is the bytes of one feature of a record.

A record is its length, a checksum of that, its data and a checksum of them:
https://www.tensorflow.org/tutorials/load_data/tfrecord.  An Example is a message of Protocol
Buffers, read as it is on the wire, as its class would be TensorFlow's:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/example.proto
"""

import json
import re
import struct
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c

from transforms.core import protobuf
from transforms.core.reasons import Reason
from transforms.storage.containers.archive import BrokenError, own_error
from transforms.storage.containers.base import (
    MOST_MEMBERS,
    Format,
    Found,
    Member,
    Source,
    Wanted,
)

_HEAD = struct.Struct('<QL')
_DATA_CRC_BYTES = 4
_MASK = 0xA282EAD8
_FEATURE = 'image/encoded'
_GZIP_MAGIC = b'\x1f\x8b'
_MAX_CARRIED_BYTES = 64 * 2**20  # of a record that is read to carry something along
_OVERHEAD_BYTES = 2**20  # of a record, beside its picture
_MAX_KEY_BYTES = 4096
_MOST_CARRIED = 10_000  # values of a feature
_WHERE = re.compile(r'([0-9]{1,19})\+([0-9]{1,19})(?::(.+))?')

# Fields on the wire.
_FEATURES, _ENTRY, _KEY, _VALUE = 1, 1, 1, 2
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def _members(source: Source, wanted: Wanted) -> Iterator[Found]:
    try:
        yield from _records(source, wanted)
    except BrokenError as e:
        yield e.problem


def _records(source: Source, wanted: Wanted) -> Iterator[Member]:
    if not source.size_bytes:
        raise BrokenError(Reason.EMPTY, '0 bytes')
    behind = ''
    if wanted.image_column not in ('', _FEATURE):
        behind = f':{urllib.parse.quote(wanted.image_column, safe="/")}'
    place = number = 0
    while place < source.size_bytes:
        size = _read_head(source, place, number)
        place += _HEAD.size
        there = source.size_bytes - place - _DATA_CRC_BYTES
        if size > there:
            detail = f'it ends within record {number}'
            raise BrokenError(Reason.TRUNCATED, detail)
        if number >= MOST_MEMBERS:
            detail = f'more than {MOST_MEMBERS} records: divide it'
            raise BrokenError(Reason.UNSUPPORTED_FORMAT, detail)
        member = Member(str(number), f'{place}+{size}{behind}', -1)
        yield _with_carried(source, member, place, size, wanted) if wanted.carry else member
        place += size + _DATA_CRC_BYTES
        number += 1


def _read_head(source: Source, place: int, number: int) -> int:
    """The length of the record that begins at a place."""
    head = source.range(place, _HEAD.size)
    if not place and head.startswith(_GZIP_MAGIC):
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'compressed as a whole with gzip')
    if len(head) < _HEAD.size:
        if place:
            raise BrokenError(Reason.TRUNCATED, f'it ends within record {number}')
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'no TFRecord file')
    size, crc = _HEAD.unpack(head)
    if _masked_crc(head[:8]) != crc:
        if place:
            detail = f'the head of record {number} is damaged; what follows is not read'
            raise BrokenError(Reason.DECODE_ERROR, detail)
        raise BrokenError(Reason.UNSUPPORTED_FORMAT, 'no TFRecord file')
    return int(size)


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _with_carried(source: Source, member: Member, place: int, size: int, wanted: Wanted) -> Member:
    problem = ''
    values: dict[str, str | None] = {}
    if size > _MAX_CARRIED_BYTES:
        problem = f'a record of {size} bytes to carry from, limit {_MAX_CARRIED_BYTES}'
    else:
        try:
            found = _features(source.range(place, size), wanted.carry)
            values = {name: _text(feature) for name, feature in found.items()}
        except (ValueError, IndexError):
            problem = 'no tf.train.Example'
    if problem:
        return member._replace(where='', reason=Reason.DECODE_ERROR, detail=problem)
    return member._replace(carried=tuple(values.get(name) for name in wanted.carry))


class _Reader:
    held_bytes = 0

    def __init__(self, source: Source):
        self._source = source

    def read(self, where: str, max_bytes: int, admit: Callable[[int], None]) -> bytes:
        found = _WHERE.fullmatch(where)
        if not found:
            raise own_error(Reason.CHANGED_WHILE_READING, 'no record of a TFRecord file lies there')
        place, size = int(found[1]), int(found[2])
        name = urllib.parse.unquote(found[3]) if found[3] else _FEATURE
        if size > max_bytes + _OVERHEAD_BYTES:
            detail = f'a record of {size} bytes, limit {max_bytes} for its picture'
            raise own_error(Reason.TOO_MANY_BYTES, detail, size)
        admit(2 * size)
        data = self._source.range(min(place, self._source.size_bytes), size + _DATA_CRC_BYTES)
        if len(data) < size + _DATA_CRC_BYTES:
            detail = f'the file ends behind {len(data)} of its {size} bytes'
            raise own_error(Reason.TRUNCATED, detail, len(data))
        record = data[:size]
        if _masked_crc(record) != int.from_bytes(data[size:], 'little'):
            raise own_error(Reason.CHECKSUM, 'not the CRC-32C that its record has', size)
        picture = _picture(record, name)
        if len(picture) > max_bytes:
            detail = f'{len(picture)} bytes, limit {max_bytes}'
            raise own_error(Reason.TOO_MANY_BYTES, detail, len(picture))
        return picture


def _picture(record: bytes, name: str) -> bytes:
    try:
        feature = _features(record, (name,)).get(name)
        values = _values(feature) if feature is not None else []
    except (ValueError, IndexError) as e:
        raise own_error(Reason.DECODE_ERROR, 'its record is no tf.train.Example') from e
    if not values or values == [b'']:
        why = 'has no value' if feature is not None else 'is not in its record'
        raise own_error(Reason.EMPTY, f'{name} {"is 0 bytes" if values else why}', 0)
    if len(values) > 1 or not isinstance(values[0], bytes):
        what = f'{len(values)} values' if len(values) > 1 else 'a number'
        raise own_error(Reason.UNSUPPORTED_FORMAT, f'{name} holds {what}, not one of bytes')
    return values[0]


def _features(record: bytes, names: tuple[str, ...]) -> dict[str, memoryview]:
    """The features of an Example that are wanted, as they are on the wire.

    Raises:
      ValueError, IndexError: it is none.
    """
    wanted = {name.encode('utf-8', 'surrogateescape'): name for name in names}
    found: dict[str, memoryview] = {}
    for features in protobuf.submessages(memoryview(record), _FEATURES):
        for entry in protobuf.submessages(features, _ENTRY):
            key, value = b'', memoryview(b'')
            for field, content in protobuf.fields(entry):
                if field == _KEY and isinstance(content, memoryview):
                    key = bytes(content[:_MAX_KEY_BYTES])
                elif field == _VALUE and isinstance(content, memoryview):
                    value = content
            if key in wanted:
                found[wanted[key]] = value
    return found


def _values(feature: memoryview, most: int = 2) -> list[Any]:
    """The first values of a feature: bytes, floats or integers.

    Raises:
      ValueError, IndexError: it is none.
    """
    values: list[Any] = []
    for kind, message in protobuf.fields(feature):
        if not isinstance(message, memoryview):
            raise ValueError('a number in the place of a list')
        for field, content in protobuf.fields(message):
            if field != 1:
                continue
            if kind == _BYTES_LIST and isinstance(content, memoryview):
                values.append(bytes(content))
            elif kind == _FLOAT_LIST and isinstance(content, memoryview):
                floats = content[: 4 * most]
                values += struct.unpack(f'<{len(floats) // 4}f', floats[: len(floats) // 4 * 4])
            elif kind == _INT64_LIST:
                values += map(_signed, _integers(content, most))
            if len(values) >= most:
                return values
    return values


def _integers(content: memoryview | int, most: int) -> Iterator[int]:
    if isinstance(content, int):
        yield content
        return
    place = 0
    while place < len(content) and most:
        value, place = protobuf.varint(content, place)
        most -= 1
        yield value


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _text(feature: memoryview) -> str | None:
    """A feature as text: one value as it is, several as in JSON; None where there is none."""
    values = [
        each.decode('utf-8', 'surrogateescape') if isinstance(each, bytes) else each
        for each in _values(feature, _MOST_CARRIED)
    ]
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    if not values:
        return None
    return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False)


TFRECORD = Format(members=_members, open=_Reader)
