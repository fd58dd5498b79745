"""TFRecord files, whole and damaged."""

import struct

import google_crc32c
import pytest

from tests.support.containers import CountedSource, damaged, listed, outcomes, wanted
from transforms.core.errors import ImageError
from transforms.core.reasons import Reason
from transforms.storage.containers.base import Member
from transforms.storage.containers.tfrecord import TFRECORD

# Of `tf.io.TFRecordWriter`: two records, with all kinds of features.
WRITTEN = bytes.fromhex(
    '70000000000000009429adcd0a6e0a1a0a11696d6167652f636c6173732f6c6162656c12051a030a01070a1a0a'
    '0d696d6167652f656e636f64656412090a070a0566697273740a130a03626f78120c120a0a080000003f000080'
    'bf0a1f0a10696d6167652f636c6173732f74657874120b0a090a076772c3b6c39f6545b3183b71000000000000'
    '009c97e7730a6f0a240a11696d6167652f636c6173732f6c6162656c120f1a0d0a0bffffffffffffffffff0102'
    '0a1b0a0d696d6167652f656e636f646564120a0a080a067365636f6e640a120a056f7468657212090a070a0574'
    '686972640a160a10696d6167652f636c6173732f7465787412020a00a46a0f5a'
)


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack('<L', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data):
    head = struct.pack('<Q', len(data))
    return head + masked(head) + data + masked(data)


def varint(number):
    out = b''
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features):
    entries = [field(1, name.encode()) + field(2, value) for name, value in features.items()]
    return field(1, b''.join(field(1, entry) for entry in entries))


def of_bytes(*values):
    return field(1, b''.join(field(1, value) for value in values))


def pictures(*bodies):
    return b''.join(record(example({'image/encoded': of_bytes(each)})) for each in bodies)


def test_what_tensorflow_writes_is_read():
    assert outcomes(TFRECORD, WRITTEN) == {'0': b'first', '1': b'second'}
    carry = ('image/class/label', 'image/class/text', 'box', 'none')
    first, second = listed(TFRECORD, WRITTEN, wanted(carry=carry))
    assert first.carried == ('7', 'größe', '[0.5, -1.0]', None)
    assert second.carried == ('[-1, 2]', None, None, None)


@pytest.mark.slow  # it loads TensorFlow, in a process of its own
def test_what_tensorflow_of_today_writes_is_read(tmp_path):
    import subprocess
    import sys

    code = (
        'import sys, tensorflow as tf\n'
        'with tf.io.TFRecordWriter(sys.argv[1]) as writer:\n'
        '    for i in range(100):\n'
        '        value = tf.train.BytesList(value=[bytes([i]) * i * 99 + b"x"])\n'
        '        features = {"image/encoded": tf.train.Feature(bytes_list=value)}\n'
        '        features = tf.train.Features(feature=features)\n'
        '        writer.write(tf.train.Example(features=features).SerializeToString())\n'
    )
    path = tmp_path / 'x.tfrecord'
    subprocess.run([sys.executable, '-c', code, str(path)], check=True, capture_output=True)
    found = outcomes(TFRECORD, path.read_bytes())
    assert list(found.values()) == [bytes([i]) * i * 99 + b'x' for i in range(100)]


def test_another_feature_may_hold_the_picture():
    assert outcomes(TFRECORD, WRITTEN, wanted('other')) == {'0': 'empty', '1': b'third'}
    data = record(example({'a!/b c': of_bytes(b'x')}))
    (member,) = listed(TFRECORD, data, wanted('a!/b c'))
    assert '!' not in member.where
    assert outcomes(TFRECORD, data, wanted('a!/b c')) == {'0': b'x'}


def test_listing_reads_heads_only():
    source = CountedSource(pictures(*[b'x' * 10_000] * 50))
    assert len(list(TFRECORD.members(source, wanted()))) == 50
    assert source.read_bytes == 50 * 12


@pytest.mark.parametrize(
    ('message', 'reason'),
    [
        (b'', 'empty'),
        (example({}), 'empty'),
        (example({'image/encoded': b''}), 'empty'),
        (example({'image/encoded': of_bytes()}), 'empty'),
        (example({'image/encoded': of_bytes(b'')}), 'empty'),
        (example({'image/encoded': of_bytes(b'a', b'b')}), 'unsupported_format'),
        (example({'image/encoded': field(3, field(1, b'\5'))}), 'unsupported_format'),
        (example({'image/encoded': field(3, b'\x08\5')}), 'unsupported_format'),
        (example({'image/encoded': field(2, field(1, b'\0' * 4))}), 'unsupported_format'),
        (example({'image/encoded': of_bytes(b'x' * (2**20 + 1))}), 'too_many_bytes'),
        (example({'image/encoded': of_bytes(b'x' * 2**22)}), 'too_many_bytes'),
        (b'\xff' * 30, 'decode_error'),
        (b'\x0a\xff\xff\xff\xff\x0f', 'decode_error'),
        (b'\x0a\x05abc', 'decode_error'),
        (b'\x08\x05', 'decode_error'),
        (b'\x0b', 'decode_error'),
        (b'\x0a', 'decode_error'),
        (field(1, b'\x08\x05'), 'decode_error'),
        (field(1, field(1, field(1, b'image/encoded') + field(2, b'\x08\x01'))), 'decode_error'),
    ],
)
def test_a_record_without_one_picture_has_a_reason(message, reason):
    data = record(message) + pictures(b'next')
    assert outcomes(TFRECORD, data) == {'0': reason, '1': b'next'}


def test_other_fields_are_passed_over():
    message = b'\x55abcd\x51abcdefgh\x98\x06\x05' + field(99, b'x')
    message += example({'image/encoded': of_bytes(b'x')})
    assert outcomes(TFRECORD, record(message)) == {'0': b'x'}


TWO = pictures(b'first', b'second')
LENGTH = len(TWO) // 2


@pytest.mark.parametrize(
    ('data', 'found'),
    [
        (b'', {'': 'empty'}),
        (b'x', {'': 'unsupported_format'}),
        (b'x' * 1000, {'': 'unsupported_format'}),
        (b'\x1f\x8b' + bytes(100), {'': 'unsupported_format'}),
        (TWO[:-1], {'0': b'first', '': 'truncated'}),
        (TWO[: LENGTH + 5], {'0': b'first', '': 'truncated'}),
        (TWO[:20], {'': 'truncated'}),
        (TWO.replace(b'first', b'fxrst'), {'0': 'checksum', '1': b'second'}),
        (TWO + b'x' * 50, {'0': b'first', '1': b'second', '': 'decode_error'}),
        (struct.pack('<Q', 2**64 - 1) + masked(b'\xff' * 8), {'': 'truncated'}),
    ],
)
def test_files_that_are_damaged(data, found):
    assert outcomes(TFRECORD, data) == found


def test_what_cannot_be_carried_has_a_reason():
    data = record(b'\xff' * 30) + pictures(b'next')
    first, second = listed(TFRECORD, data, wanted(carry=('x',)))
    assert (first.reason, first.where) == (Reason.DECODE_ERROR, '')
    assert second.carried == (None,)


def test_what_another_format_wrote_is_no_place():
    with pytest.raises(ImageError) as caught:
        TFRECORD.open(CountedSource(TWO)).read('3:17:5', 1000, lambda _: None)
    assert caught.value.reason is Reason.CHANGED_WHILE_READING


def test_damage_ends_in_reasons():
    data = WRITTEN + pictures(b'x' * 100)
    for each in damaged(data, 500):
        outcomes(TFRECORD, each, wanted(carry=('image/class/label', 'box')))
    for each in damaged(example({'image/encoded': of_bytes(b'x'), 'n': of_bytes(b'y')}), 500):
        outcomes(TFRECORD, record(each), wanted(carry=('n',)))


def test_members_are_named_by_their_number():
    found = listed(TFRECORD, TWO)
    assert [(each.name, each.size_bytes) for each in found] == [('0', -1), ('1', -1)]
    assert all(isinstance(each, Member) for each in found)
