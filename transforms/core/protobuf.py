"""Messages of Protocol Buffers as they are on the wire, where their classes are not at hand.

https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def submessages(message: memoryview, number: int) -> Iterator[memoryview]:
    """The messages, texts or bytes in the fields of a number.

    Raises:
      ValueError, IndexError: the message is none, or holds numbers there.
    """
    for field, content in fields(message):
        if field == number:
            if not isinstance(content, memoryview):
                raise ValueError('a number in the place of a message')
            yield content


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Numbers and contents of the fields of a message: bytes, or a number.

    Raises:
      ValueError, IndexError: it is none, or breaks off.
    """
    place = 0
    while place < len(message):
        tag, place = varint(message, place)
        kind = tag & 7
        if kind == _VARINT:
            number, place = varint(message, place)
            yield tag >> 3, number
            continue
        if kind == _LENGTH:
            size, place = varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f'a field of type {kind}')
        if size > len(message) - place:
            raise ValueError('a field behind the end')
        yield tag >> 3, message[place : place + size]
        place += size


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at a place, at least 0, and the place behind it.

    Raises:
      ValueError, IndexError: it has no end.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError('a number without an end')
