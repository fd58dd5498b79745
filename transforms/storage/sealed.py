"""What is read back decides rows, so its bytes are checked by checksum before they are parsed.

Files that only we read have it in front of their content, and JSON files have it as a field.
Parquet, which other programs read, cannot have it: the report of the run lists it.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from transforms.core.errors import DamagedError
from transforms.storage.base import Store

IN_MEMORY_BYTES = 64 * 2**20
"""Larger published files are read twice: for their checksum, and then for what is wanted."""

_MAGIC = b'lemmabeam sha256 '
_HEADER_BYTES = len(_MAGIC) + 65  # the hex digits and a line feed
_BLOCK_BYTES = 2**22
# Two fields say that a JSON file has a checksum, for one could be damaged itself.
_MARK, _CHECKSUM = 'sealed', 'sha256'


def seal(content: bytes) -> bytes:
    """Puts the checksum of some content, which covers its length, in front of it."""
    return _MAGIC + hashlib.sha256(content).hexdigest().encode() + b'\n' + content


def unseal(data: bytes) -> bytes:
    """What was sealed.

    Raises:
      DamagedError: it is not what `seal` made.
    """
    content = data[_HEADER_BYTES:]
    if data != seal(content):
        raise DamagedError('not the bytes that were written')
    return content


def to_json(value: object) -> bytes:
    """JSON as it is written in all our files."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode()


def seal_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object with a checksum of its values as its last field."""
    marked = {_MARK: True, **value}
    return to_json({**marked, _CHECKSUM: _checksum_of(marked)})


class Opened(NamedTuple):
    """The content of a JSON file.

    Attributes:
      value: without the field that `seal_json` added.
      is_sealed: whether it has a checksum, which was right; files of earlier versions have none.
    """

    value: dict[str, Any]
    is_sealed: bool


def open_json(data: bytes) -> Opened:
    """Reads a JSON object of ours.

    Raises:
      DamagedError: it is not one, or its values are not those that were written.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise DamagedError('not JSON') from e
    if not isinstance(value, dict):
        raise DamagedError('not a JSON object')
    if _MARK not in value and _CHECKSUM not in value:
        return Opened(value, is_sealed=False)
    if value.pop(_CHECKSUM, None) != _checksum_of(value):
        raise DamagedError('its values are not those that were written: the checksum differs')
    value.pop(_MARK, None)
    return Opened(value, is_sealed=True)


def _checksum_of(value: Mapping[str, Any]) -> str:
    # As it is after it was written and read: keys are texts then.
    read = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


class Checksum(NamedTuple):
    """What a report says about the bytes of a file.

    Attributes:
      size_bytes: of the file.
      sha256: hex hash of the file.
      replacement: hex hash of what replaces it while an image is being forgotten, or ''.
    """

    size_bytes: int
    sha256: str
    replacement: str = ''

    def check(self, sha256: str) -> None:
        """Compares a hash with this one.

        Raises:
          DamagedError: they differ.
        """
        if sha256 not in (self.sha256, self.replacement):
            raise DamagedError('its bytes do not match the checksum in its report')


@contextlib.contextmanager
def open_listed(
    store: Store, uri: str, checksum: Checksum, in_memory_bytes: int = IN_MEMORY_BYTES
) -> Iterator[BinaryIO]:
    """Opens a file of a complete run, after checking its bytes against the report.

    Args:
      store: how it is reached.
      uri: the file.
      checksum: what its report says.
      in_memory_bytes: up to this size it is read once and kept in memory.

    Yields:
      A seekable stream, at its start.

    Raises:
      DamagedError: the bytes are not those of the report.
      UsageError: the file does not exist.
    """
    with store.open(uri) as stream:
        if checksum.size_bytes <= in_memory_bytes:
            # One byte more, for a file that is longer than it should be.
            data = stream.read(in_memory_bytes + 1)
            checksum.check(hashlib.sha256(data).hexdigest())
            yield io.BytesIO(data)
            return
        found = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            found.update(block)
        checksum.check(found.hexdigest())
        stream.seek(0)
        yield stream
