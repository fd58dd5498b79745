"""Values of Arrow as text, the same whatever else is installed.

If pandas is installed, Arrow returns times as its objects, which print differently; if not, it
refuses nanoseconds.  So they are formatted here, as Python's `datetime` would: with nanoseconds if
there are any, and also for years that it does not have.
"""

import datetime
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_NANOSECONDS = {'s': 10**9, 'ms': 10**6, 'us': 10**3, 'ns': 1}
_DAY = 86_400 * 10**9
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
# Outside, a time of another zone may be in a year that Python has not.
_FIRST, _LAST = (
    int((datetime.datetime(*day, tzinfo=datetime.UTC) - _EPOCH).total_seconds())
    for day in ((1, 1, 3), (9999, 12, 29))
)


def text_of(value: Any) -> str | None:
    """A value as text: strings as they are, numbers, lists and structs as in JSON.

    Bytes that are not UTF-8 become lone surrogates.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):  # text of writers that do not say so
        return value.decode('utf-8', 'surrogateescape')
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def values_of(array: pa.Array) -> list[Any]:
    """The values of an array, with times, dates and durations as text, also in lists and structs.

    Raises:
      LookupError: its time zone is not known here.
      ValueError: a date that Arrow has no text for.
    """
    kind = array.type
    if (as_text := _text_of_times(kind)) is not None:
        # A view has the same bits, which are as many as the type has.
        numbers = array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        return [None if number is None else as_text(number) for number in numbers]
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        rows = zip(*map(values_of, array.flatten()), strict=True)
        return [
            dict(zip(names, row, strict=True)) if is_valid else None
            for is_valid, row in zip(array.is_valid().to_pylist(), rows, strict=True)
        ]
    if pa.types.is_nested(kind):
        lists = [values_of(each.values) if each.is_valid else None for each in array]
        if pa.types.is_map(kind):
            return [pairs and [list(pair.values()) for pair in pairs] for pairs in lists]
        return lists
    values: list[Any] = array.to_pylist()
    return values


def least_chars(array: pa.Array, limit: int) -> int:
    """How many characters the values of an array have as text, at least; counts up to a limit.

    A dictionary's values count at every use, however little memory the array takes.
    """
    kind = array.type
    found = len(array)
    if found > limit:
        return found
    if pa.types.is_struct(kind):
        for field in array.flatten():
            found += least_chars(field, limit - found)
    elif pa.types.is_nested(kind):
        for each in array:
            if found > limit:
                break
            if each.is_valid:
                found += least_chars(each.values, limit - found)
    elif pa.types.is_dictionary(kind):
        lengths = _lengths(array.dictionary)
        found += 0 if lengths is None else pc.sum(pc.take(lengths, array.indices)).as_py() or 0
    else:
        lengths = _lengths(array)
        found += 0 if lengths is None else pc.sum(lengths).as_py() or 0
    return found


def _lengths(array: pa.Array) -> pa.Array | None:
    """Bytes of each text; None if there is none, so values are short."""
    types, kind = pa.types, array.type
    has_length = (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )
    return pc.cast(pc.binary_length(array), pa.int64()) if has_length else None


def check_type(kind: pa.DataType, max_depth: int) -> None:
    """Refuses types that `values_of` cannot make text of, whatever the values.

    Raises:
      ValueError: two fields of one name, or lists and structs nested deeper than `max_depth`.
    """
    if max_depth < 0:
        raise ValueError('lists and structs that are nested too deeply')
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            raise ValueError(f'two fields of one name among {", ".join(names)}')
    if pa.types.is_nested(kind):
        for i in range(kind.num_fields):
            check_type(kind.field(i).type, max_depth - 1)


def is_time(kind: pa.DataType) -> bool:
    """Whether `values_of` turns values of this type into text."""
    types = pa.types
    return any(
        is_one(kind)
        for is_one in (types.is_timestamp, types.is_duration, types.is_date, types.is_time)
    )


def _text_of_times(kind: pa.DataType) -> Callable[[int], str] | None:
    """What turns the numbers that a type stores into text; None if it is not a time type."""
    if not is_time(kind):
        return None
    if pa.types.is_date32(kind):
        return _date
    if pa.types.is_date64(kind):
        return lambda number: _date(number // 86_400_000)
    unit = _NANOSECONDS[kind.unit]
    if pa.types.is_duration(kind):
        return lambda number: _duration(number * unit)
    if pa.types.is_time(kind):
        return lambda number: _clock(number * unit, 2)
    if kind.tz is None:
        return lambda number: _timestamp(number * unit)
    zone = _zone(kind.tz)
    return lambda number: _in_zone(number * unit, zone)


def _zone(name: str) -> datetime.tzinfo:
    try:
        moment: datetime.datetime = pa.scalar(0, pa.timestamp('us', name)).as_py()
    except (LookupError, ValueError, OSError) as e:
        raise LookupError(
            f'the time zone {name!r} is not known on this machine: install the Python package '
            'tzdata, or write the times in UTC'
        ) from e
    assert moment.tzinfo is not None
    return moment.tzinfo


def _in_zone(nanoseconds: int, zone: datetime.tzinfo) -> str:
    seconds = min(max(nanoseconds // 10**9, _FIRST), _LAST)
    moment = (_EPOCH + datetime.timedelta(seconds=seconds)).astimezone(zone)
    ahead = moment.utcoffset() or datetime.timedelta()
    microseconds = ahead // datetime.timedelta(microseconds=1)
    return _timestamp(nanoseconds + microseconds * 1000) + moment.isoformat()[19:]


def _timestamp(nanoseconds: int) -> str:
    days, rest = divmod(nanoseconds, _DAY)
    return f'{_date(days)} {_clock(rest, 2)}'


def _duration(nanoseconds: int) -> str:
    days, rest = divmod(nanoseconds, _DAY)
    clock = _clock(rest, 1)
    return f'{days} day{"s" if abs(days) != 1 else ""}, {clock}' if days else clock


def _clock(nanoseconds: int, hour_digits: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    minutes, seconds = divmod(seconds, 60)
    text = f'{minutes // 60:0{hour_digits}}:{minutes % 60:02}:{seconds:02}'
    if rest:
        microseconds, rest = divmod(rest, 1000)
        text += f'.{microseconds:06}'
    return f'{text}{rest:03}' if rest else text


def _date(days: int) -> str:
    try:
        return str(datetime.date.fromordinal(_EPOCH_ORDINAL + days))
    except (ValueError, OverflowError):
        text: str = pa.scalar(days, pa.int32()).cast(pa.date32()).cast(pa.string()).as_py()
    if text.startswith('<'):
        raise ValueError(f'a date {days} days from 1970 has no text')
    return text
