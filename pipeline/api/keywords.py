"""Options as keywords: declared and checked as those of the command line, in Python's words."""

import argparse
import contextlib
import datetime
import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pipeline.flags import NAMES, Option, declared
from pipeline.options import (
    OPTIONS,
    STORE_OPTIONS,
    LabelOptions,
    store_options,
)
from transforms.core import uris
from transforms.core.errors import InvalidOption, LemmabeamError, UsageError
from transforms.core.stores import StoreOptions

Called = TypeVar('Called', bound=Callable[..., Any])
Options = TypeVar('Options', bound=LabelOptions)

FOR_COMMANDS = frozenset(['explain', 'verbose'])
"""Options that say what a command prints."""

# Of functions that take no options of `label`, too.
_KEYWORDS = {option.name for option in OPTIONS} | {
    *('by_name', 'drop', 'drop_gone', 'dry_run', 'exact', 'forget', 'model_id', 'prune_before'),
    *('reasons', 'thresholds', 'tolerance'),
}
_FOR_BEAM = '; what is for Beam goes into pipeline_options'
_COMMAND = re.compile(r'(`[^`]*`)')
_FLAG = re.compile(r'--([a-z][a-z0-9_]*)')
_AGES = (('w', 7 * 86400), ('d', 86400), ('h', 3600), ('m', 60))


def options_of(kind: type[Options], given: Mapping[str, Any], caller: str) -> Options:
    """Options that were given as keywords; None stands for the default.

    Args:
      kind: what declares them.
      given: by name.
      caller: the function, for messages.

    Raises:
      TypeError: there is no such option.
      UsageError: a value cannot be used.
    """
    known = {option.name: option for option in declared(kind)}
    check_known(given, known.keys() - FOR_COMMANDS, caller, _FOR_BEAM)
    for name, option in known.items():
        if option.is_required and name in given and given[name] is None:
            raise wrong(name, None, 'expected a value')
        # A retry has none.
        if option.is_required and given.get(name) == [] and option.is_repeated:
            raise wrong(name, [], 'expected at least one')
    found = {
        name: value_of(known[name], value) for name, value in given.items() if value is not None
    }
    return kind(**found)


def stores_of(given: Mapping[str, Any], caller: str) -> dict[str, Any]:
    """All options that say how stores are reached, as `store_options` takes them.

    Raises:
      TypeError: there is no such option.
      UsageError: a value cannot be used.
    """
    known = {option.name: option for option in STORE_OPTIONS}
    check_known(given, known, caller)
    return {
        name: option.default if given.get(name) is None else value_of(option, given[name])
        for name, option in known.items()
    }


def as_stores(options: Mapping[str, Any]) -> StoreOptions:
    """How stores are reached, by what `stores_of` returns."""
    return store_options(argparse.Namespace(**options))


def check_known(
    given: Iterable[str], known: Iterable[str], caller: str, otherwise: str = ''
) -> None:
    """Refuses keywords that mean nothing, as Python does, with what may have been meant.

    Args:
      given: the keywords.
      known: those that there are.
      caller: the function, for messages.
      otherwise: what else may have been meant, of one that resembles none.

    Raises:
      TypeError: there is one.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f'; did you mean {near[0]!r}?' if near else otherwise
            raise TypeError(f'{caller}() got an unexpected keyword argument {name!r}{hint}')


def value_of(option: Option, value: Any) -> Any:
    """A value as Python has it, checked as the command line checks its text.

    Raises:
      UsageError: it cannot be used.
    """
    if option.is_switch or isinstance(value, bool):
        if option.is_switch and isinstance(value, bool):
            return value
        raise wrong(
            option.name, value, f'expected {"True or False" if option.is_switch else "a value"}'
        )
    if option.is_repeated:
        return tuple(_text(option, each) for each in _listed(option, value))
    if option.type is NAMES:
        text = ','.join(_text(option, each) for each in _listed(option, value))
        return _parsed(option, value, text) if value else ()
    age = _age(value) if option.name == 'since' else None
    return _parsed(option, value, age or _text(option, value))


def _parsed(option: Option, value: Any, text: str) -> Any:
    if option.type.choices and text not in option.type.choices:
        raise wrong(option.name, value, f'expected one of {", ".join(option.type.choices)}')
    if option.type.parse is None:
        return text
    try:
        return option.type.parse(text)
    except argparse.ArgumentTypeError as e:
        raise wrong(option.name, value, str(e).removeprefix(f'{text!r}: ')) from e


def _text(option: Option, value: Any) -> str:
    is_number = hasattr(value, '__float__')  # numpy's are numbers, too
    if option.type.parse is None and is_number:
        raise wrong(option.name, value, 'expected a text')
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if not is_number:
        raise wrong(option.name, value, 'expected a text or a number')
    return str(value)


def _listed(option: Option, value: Any) -> list[Any]:
    if isinstance(value, str | os.PathLike):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise wrong(option.name, value, 'expected a text, or a list of them')
    return list(value)


def _age(value: Any) -> str | None:
    """A time or an age as the command line has them; None for a text."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if not isinstance(value, datetime.timedelta):
        return None
    seconds = value.total_seconds()
    for unit, length in _AGES:
        if seconds > 0 and seconds % length == 0:
            return f'{seconds / length:.0f}{unit}'
    raise wrong('since', value, 'expected an age in whole minutes')


def wrong(name: str, value: Any, why: str) -> UsageError:
    """What to raise of a value that cannot be used."""
    error = InvalidOption(name, uris.printable(repr(value)), why)
    error.prefix = ''
    return error


@contextlib.contextmanager
def by_keyword() -> Iterator[None]:
    """Has errors name keywords, not flags."""
    try:
        yield
    except LemmabeamError as e:
        if isinstance(e, InvalidOption):
            e.prefix = ''
            e.why = reword(e.why)
        elif e.args and isinstance(e.args[0], str):
            e.args = (reword(e.args[0]), *e.args[1:])
        raise


def reword(text: str) -> str:
    """A message in which keywords stand for flags, but within commands."""
    parts = _COMMAND.split(text)
    parts[::2] = [_FLAG.sub(_keyword, part) for part in parts[::2]]
    return ''.join(parts)


def _keyword(flag: re.Match[str]) -> str:
    return flag[1] if flag[1] in _KEYWORDS else flag[0]


def takes(options: Iterable[Option]) -> Callable[[Called], Called]:
    """Has `help` and editors show options that a function takes as keywords."""

    def decorate(function: Called) -> Called:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
        names = {each.name for each in own} | FOR_COMMANDS
        more = [
            inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
            for option in options
            if option.name not in names
        ]
        function.own_signature = signature  # type: ignore[attr-defined]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return decorate
