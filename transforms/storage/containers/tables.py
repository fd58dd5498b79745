"""What the columns of a table are: pictures, their names, and what is carried along."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.core.reasons import Reason
from transforms.storage.containers.archive import BrokenError, name_problem
from transforms.storage.containers.arrow_text import text_of, values_of
from transforms.storage.containers.base import MOST_MEMBERS, Member, Source, Wanted

MAX_BATCH_ROWS = 10_000
MAX_BATCH_BYTES = 64 * 2**20
_BYTES, _PATH = '.bytes', '.path'  # as Hugging Face has a picture
_USUAL = ('image', 'image.bytes')
_MOST_NAMES = 20  # of columns, in messages
_SHOWN_CHARS = 100


class Leaf(NamedTuple):
    """A column of a table that holds values; one of a struct is named behind a dot.

    Attributes:
      number: among all of them.
      path: its names.
      is_binary: whether it holds bytes, and does not say that they are text.
      is_text: whether it holds bytes that are text.
      is_plain: whether a row has one value, no list.
    """

    number: int
    path: str
    is_binary: bool
    is_text: bool
    is_plain: bool


class Columns(NamedTuple):
    """What is read of a table.

    Attributes:
      image: the pictures.
      path: their names, None without.
      carried: in the order of `Wanted.carry`.
    """

    image: Leaf
    path: Leaf | None
    carried: Sequence[Leaf]


def find_columns(source: Source, leaves: Sequence[Leaf], wanted: Wanted) -> Columns:
    """The columns that are wanted.

    Raises:
      BrokenError: none holds pictures.
      UsageError: several may, or one that is named is not there.
    """
    image = _image_column(source, leaves, wanted.image_column)
    by_path = {leaf.path: leaf for leaf in reversed(leaves)}
    path = None
    if image.path.endswith(_BYTES):
        path = by_path.get(f'{image.path.removesuffix(_BYTES)}{_PATH}')
    carried = []
    for name in wanted.carry:
        leaf = by_path.get(name)
        if leaf is None or not leaf.is_plain:
            what = 'no such column, but' if leaf is None else 'a list or a dictionary there, of'
            raise UsageError(f'--carry {name!r}: {source.shown} has {what}: {_shown(leaves)}')
        carried.append(leaf)
    return Columns(image, path if path and path.is_plain and path.is_text else None, carried)


def _image_column(source: Source, leaves: Sequence[Leaf], name: str) -> Leaf:
    if name:
        for path in (name, f'{name}{_BYTES}'):
            for leaf in leaves:
                if leaf.path == path and leaf.is_plain and (leaf.is_binary or leaf.is_text):
                    return leaf
        raise UsageError(
            f'--image_column {uris.printable(name[:_SHOWN_CHARS])!r}: {source.shown} has no such '
            f'column of bytes, but: {_shown(leaves)}'
        )
    found = [leaf for leaf in leaves if leaf.is_plain and leaf.is_binary]
    structs = {leaf.path.removesuffix(_PATH) for leaf in leaves if leaf.path.endswith(_PATH)}
    # As Hugging Face has them, or by their usual name, they stand out among other bytes.
    for several in (
        found,
        [leaf for leaf in found if leaf.path.removesuffix(_BYTES) in structs],
        [leaf for leaf in found if leaf.path in _USUAL],
    ):
        if len(several) == 1:
            return several[0]
    if found:
        raise UsageError(
            f'{source.shown}: several columns may hold the pictures: name one with '
            f'--image_column: {_shown(found)}'
        )
    detail = f'no column of bytes, but: {_shown(leaves)}; name it with --image_column'
    raise BrokenError(Reason.NOT_AN_IMAGE, detail)


def _shown(leaves: Sequence[Leaf]) -> str:
    names = [uris.named(leaf.path[:_SHOWN_CHARS]) for leaf in leaves[:_MOST_NAMES]]
    return ', '.join(names)


def column_of(batch: pa.RecordBatch, path: str) -> pa.Array:
    """A column of a batch, or of structs in it; text as bytes, for it may be none.

    Raises:
      ValueError: there is no one such.
    """
    names = batch.schema.names
    name = path
    while name not in names:
        name, dot, _ = name.rpartition('.')
        if not dot:
            raise ValueError('a column is not there')
    array = batch.column(name)
    for field in path[len(name) + 1 :].split('.') if path != name else ():
        array = array.flatten()[array.type.get_field_index(field)]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_nested(array.type):
        raise ValueError('a column has others in it')
    if pa.types.is_string(array.type):
        return array.cast(pa.binary())
    return array.cast(pa.large_binary()) if pa.types.is_large_string(array.type) else array


class Group(NamedTuple):
    """Rows of a table that lie together.

    Attributes:
      number: of the group.
      rows: of it.
      batches: the values of the path, if it has one, and of what is carried, in slices.
    """

    number: int
    rows: int
    batches: Iterable[Sequence[pa.Array]]


def members_of(
    columns: Columns, groups: Iterable[Group], paths: Iterable[pa.Array]
) -> Iterator[Member]:
    """The members of a table.

    Args:
      columns: of `find_columns`.
      groups: all of them.
      paths: all values of the path before, to see whether each names one row only.
    """
    by_path = columns.path is not None and _are_unique(paths)
    number = 0
    for group in groups:
        if number + group.rows > MOST_MEMBERS:
            detail = f'more than {MOST_MEMBERS} rows: divide it'
            raise BrokenError(Reason.UNSUPPORTED_FORMAT, detail)
        row = 0
        has_path = columns.path is not None
        for names, carried in _rows(group, has_path):
            name = names if by_path and names is not None else str(number)
            yield _member(name, f'{group.number}:{row}:{columns.image.number}', carried)
            row, number = row + 1, number + 1
        if row != group.rows:
            raise BrokenError(
                Reason.DECODE_ERROR, f'group {group.number} has fewer rows than it says'
            )


def _rows(group: Group, has_path: bool) -> Iterator[tuple[str | None, tuple[str | None, ...]]]:
    is_read = False
    for arrays in group.batches:
        is_read = True
        texts = [[text_of(value) for value in _values(array)] for array in arrays]
        names: Iterable[str | None] = texts.pop(0) if has_path else itertools.repeat(None)
        carried = zip(*texts, strict=True) if texts else itertools.repeat(())
        length = len(arrays[0])
        yield from itertools.islice(zip(names, carried, strict=False), length)
    if not is_read:
        yield from itertools.repeat((None, ()), group.rows)


def _values(array: pa.Array) -> list[object]:
    try:
        return values_of(array)
    except LookupError as e:
        raise UsageError(str(e)) from e
    except ValueError as e:
        raise BrokenError(Reason.DECODE_ERROR, 'a carried value that has no text') from e


def _member(name: str, where: str, carried: tuple[str | None, ...]) -> Member:
    problem = name_problem(name)
    if problem:
        return Member(name, '', -1, (), Reason.BAD_NAME, problem)
    return Member(name, where, -1, carried)


def _are_unique(paths: Iterable[pa.Array]) -> bool:
    seen: set[int] = set()
    for array in paths:
        for name in array.to_pylist():
            key = hash(name)
            if not name or key in seen:
                return False
            seen.add(key)
    return True
