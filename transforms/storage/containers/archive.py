"""What the files of an archive are, whatever its format: pictures, sidecars, or left out."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from transforms.core import uris
from transforms.core.errors import ImageError
from transforms.core.left_out import NOT_IMAGE
from transforms.core.reasons import Reason
from transforms.storage.containers.base import MOST_MEMBERS, Found, Member, Problem, Wanted

MAX_SIDECAR_BYTES = 2**20
MAX_NAME_CHARS = 2048
_COMPANION = f'{NOT_IMAGE}/._*'
_MAX_SUFFIX_CHARS = 32  # of what is left out: each has a count of its own
_MOST_OF_KEY = 64  # files side by side, of one sample


class Part(NamedTuple):
    """A file of an archive, as its header tells; the fields are those of a `Member`."""

    name: str
    where: str
    size_bytes: int
    reason: Reason | None = None
    detail: str = ''


class BrokenError(Exception):
    """The rest of a container cannot be listed.

    Args:
      reason, detail: as of `Problem`.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.problem = Problem(reason, detail)


def own_error(reason: Reason, detail: str, size_bytes: int | None = None) -> ImageError:
    """An error of this picture, whatever becomes of others in its container."""
    error = ImageError(reason, detail, size_bytes)
    error.is_its_own = True
    return error


def index_of(
    parts: Iterator[Part], wanted: Wanted, read: Callable[[Part, int], bytes]
) -> Iterator[Found]:
    """Makes the index of an archive of its files, which come in the order in which they lie.

    Of several files of one name the first is the one; the others have a reason.

    Args:
      parts: may raise `BrokenError`.
      wanted: of `Format.members`.
      read: bytes of a part, which is the last one seen, up to so many.
    """
    names: set[int] = set()
    samples = _Samples(wanted, read) if wanted.carry else None
    count = 0
    try:
        for part in parts:
            count += 1
            if count > MOST_MEMBERS:
                detail = f'more than {MOST_MEMBERS} files: divide it'
                raise BrokenError(Reason.UNSUPPORTED_FORMAT, detail)
            suffix = uris.suffix_of(part.name)
            # Whose name is not known may be a picture.
            is_picture = suffix in wanted.suffixes or part.reason is Reason.BAD_NAME
            if is_picture and '._' in part.name and _is_companion(part.name):
                yield _COMPANION
                continue
            if samples is not None:
                yield from samples.before(part)
            if not is_picture:
                if samples is not None and samples.add_sidecar(part):
                    continue
                yield f'{NOT_IMAGE}/{suffix if len(suffix) <= _MAX_SUFFIX_CHARS else ""}'
                continue
            member = _member(part, names)
            if samples is None:
                yield member
            else:
                samples.add_picture(member)
    except BrokenError as e:
        if samples is not None:
            yield from samples.flush()
        yield e.problem
    else:
        if samples is not None:
            yield from samples.flush()


def _is_companion(name: str) -> bool:
    """Whether a Mac keeps there what it knows of the file beside it."""
    return name.rpartition('/')[2].startswith('._')


def _member(part: Part, names: set[int]) -> Member:
    name = part.name
    if part.reason is not None:
        return Member(name, '', part.size_bytes, (), part.reason, part.detail)
    problem = name_problem(name)
    if not problem:
        key = hash(name)
        if key not in names:
            names.add(key)
            return Member(name, part.where, part.size_bytes)
        problem = f'a second file of this name, at {part.where}'
    return Member(name, '', part.size_bytes, (), Reason.BAD_NAME, problem)


def name_problem(name: str) -> str:
    """What is wrong with a name; '' if nothing is."""
    if len(name) > MAX_NAME_CHARS:
        return f'a name of {len(name)} characters, limit {MAX_NAME_CHARS}'
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            return 'the name is not valid UTF-8'
    return ''


class _Samples:
    """Files side by side that differ in what follows the first dot of their name, as WebDataset.

    What is a sidecar of a picture may lie before or behind it.
    """

    def __init__(self, wanted: Wanted, read: Callable[[Part, int], bytes]):
        self._carry = wanted.carry
        self._read = read
        self._key = ''
        self._extensions: set[str] = set()
        self._pictures: list[Member] = []
        self._values: dict[str, str | None] = {}
        self._problem: tuple[Reason, str] | None = None

    def before(self, part: Part) -> Iterator[Member]:
        """The pictures of the sample before, if this file begins another one."""
        key, extension = _split_key(part.name)
        is_another = key != self._key or extension in self._extensions
        if is_another or len(self._extensions) >= _MOST_OF_KEY:
            yield from self.flush()
            self._key = key
        self._extensions.add(extension)

    def flush(self) -> Iterator[Member]:
        """The pictures that wait for sidecars to come."""
        carried = tuple(self._values.get(column) for column in self._carry)
        for member in self._pictures:
            if member.reason is None and self._problem is not None:
                reason, detail = self._problem
                yield member._replace(where='', reason=reason, detail=detail)
            else:
                yield member if member.reason else member._replace(carried=carried)
        self._extensions, self._pictures, self._values = set(), [], {}
        self._problem = None

    def add_picture(self, member: Member) -> None:
        self._pictures.append(member)

    def add_sidecar(self, part: Part) -> bool:
        """Whether something of it is carried."""
        _, extension = _split_key(part.name)
        columns = [each for each in self._carry if _path_in(each, extension) is not None]
        if not columns:
            return False
        shown = uris.printable(extension)
        try:
            if part.reason is not None:
                raise ImageError(part.reason, part.detail)
            if part.size_bytes > MAX_SIDECAR_BYTES:
                detail = f'{part.size_bytes} bytes, limit {MAX_SIDECAR_BYTES}'
                raise ImageError(Reason.BAD_NAME, detail)
            data = self._read(part, MAX_SIDECAR_BYTES)
            is_text = [not _path_in(column, extension) for column in columns]
            value = None if all(is_text) else _from_json(data)
        except ImageError as e:
            self._problem = (e.reason, f'its .{shown}: {e.detail}')
            return True
        for column in columns:
            path = _path_in(column, extension)
            self._values[column] = _text_at(value, path) if path else _text(data)
        return True


def _split_key(name: str) -> tuple[str, str]:
    """What WebDataset takes for the sample of a file, and for its part in it."""
    folder, slash, last = name.rpartition('/')
    key, _, extension = last.partition('.')
    return f'{folder}{slash}{key}', extension


def _path_in(column: str, extension: str) -> list[str] | None:
    """Where in a sidecar a column is: [] is all of it; None if it is in another one."""
    if column == extension:
        return []
    if extension.rpartition('.')[2] == 'json' and column.startswith(f'{extension}.'):
        return column[len(extension) + 1 :].split('.')
    return None


def _text(data: bytes) -> str:
    return data.decode('utf-8', 'surrogateescape').removesuffix('\n').removesuffix('\r')


def _from_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ImageError(Reason.BAD_NAME, 'not JSON') from e


def _text_at(value: Any, path: list[str]) -> str | None:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return None
