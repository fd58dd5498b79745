"""Listing the members of tar archives, beside a loop that goes from header to header.

As a program it is that loop, and fails if there are not so many members.
"""

import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measure import Row, run_python

_MOST_USEC = 15
_MOST_MB = 1000
_BLOCK = tarfile.BLOCKSIZE
_FORMATS = {'GNU': tarfile.GNU_FORMAT, 'PAX': tarfile.PAX_FORMAT}
_WAYS = {'list': 'tests.benchmarks.listing', 'headers': 'tests.benchmarks.members'}


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    count = 20_000 if is_quick else 1_000_000
    return [row for name in _FORMATS for row in _compare(folder, name, count)]


def _compare(folder: Path, name: str, count: int) -> list[Row]:
    """An archive of all members and one of a tenth of them, so that starting does not count."""
    few, many = count // 10, count
    measured = {}
    for members in (few, many):
        path = folder / f'{name}-{members}.tar'
        _write(path, _FORMATS[name], members)
        for way, program in _WAYS.items():
            measured[way, members] = run_python('-m', program, path, str(members))
        path.unlink()
    usec = {
        way: 1e6 * (measured[way, many].cpu_sec - measured[way, few].cpu_sec) / (many - few)
        for way in _WAYS
    }
    title = f'{name}, {few:,} to {many:,} members'
    beyond = usec['list'] - usec['headers']
    peak_mb = measured['list', many].peak_bytes / 1e6
    return [
        Row(f'{title}: listing, CPU', usec['list'], 'µs a member'),
        Row(f'{title}: reading headers, CPU', usec['headers'], 'µs a member'),
        Row(f'{title}: listing beyond reading headers, CPU', beyond, 'µs a member', _MOST_USEC),
        Row(f'{name}, {many:,} members: peak', peak_mb, 'MB', _MOST_MB),
    ]


def _write(path: Path, tar_format: int, count: int) -> None:
    """Small members; in PAX each has a header more, as its time has a fraction."""
    data = bytes(_BLOCK)
    seconds = 1_700_000_000.123456 if tar_format == tarfile.PAX_FORMAT else 1_700_000_000
    with path.open('wb') as file:
        for i in range(count):
            member = tarfile.TarInfo(f'photos/2026/image-{i:08d}.jpg')
            member.size = len(data)
            member.mtime = seconds
            file.write(member.tobuf(tar_format) + data)
        file.write(bytes(2 * _BLOCK))


def _read_headers(path: Path, count: int) -> None:
    """Asks of each header only how far the next one is, and whether it is a file's."""
    headers = place = 0
    with path.open('rb') as file:
        while any(block := file.read(_BLOCK)):
            headers += block[156:157] == tarfile.REGTYPE
            place += _BLOCK + -(-int(block[124:135], 8) // _BLOCK) * _BLOCK
            file.seek(place)
    if headers != count:
        raise RuntimeError(f'{headers} files instead of {count}')


if __name__ == '__main__':
    _read_headers(Path(sys.argv[1]), int(sys.argv[2]))
