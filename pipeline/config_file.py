"""`--config FILE`: options in a file, which become arguments in front of those that are given."""

import argparse
import datetime
import difflib
import json
import reprlib
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.flags import names
from pipeline.parser import FromFile, is_switch, underscored
from transforms.core import uris
from transforms.core.errors import UsageError

_SUFFIXES = ('.toml', '.json')
_MAX_BYTES = 2**20
_REPR = reprlib.Repr()  # of any length and depth
_REPR.maxstring = _REPR.maxother = 200


class Entry(NamedTuple):
    """A key as it is written, and its value."""

    key: str
    value: Any


class ConfigFile(NamedTuple):
    """What a file says for one command.

    Attributes:
      name: of the file, fit for messages.
      entries: by the names of options.
    """

    name: str
    entries: Mapping[str, Entry]

    def only(self, options: Iterable[str]) -> 'ConfigFile':
        """What it says of some options."""
        wanted = set(options)
        return self._replace(entries={k: v for k, v in self.entries.items() if k in wanted})

    def arguments(
        self, flags: Mapping[str, argparse.Action], given: Collection[str]
    ) -> list[FromFile]:
        """What stands in the file, as on a command line.

        Args:
          flags: the options of a parser by how they are written; what is none of them is passed on.
          given: options that the command line has, which wins.

        Raises:
          UsageError: a value is of another kind than its option takes.
        """
        by_name = {underscored(flag): (flag, action) for flag, action in flags.items()}
        taken = {underscored(flag) for flag in given}
        found = []
        for name, entry in self.entries.items():
            flag, action = by_name.get(f'__{name}', (f'--{name}', None))
            texts = [*self._values(entry, action)]
            if underscored(flag) not in taken:
                found += [
                    FromFile(flag if text is None else f'{flag}={text}', entry.key, self.name)
                    for text in texts
                ]
        return found

    def _values(self, entry: Entry, action: argparse.Action | None) -> Iterator[str | None]:
        """Each value that is to be given, None for an option without one."""
        values = entry.value if isinstance(entry.value, list) else [entry.value]
        if action is None:  # one of Beam's, or of nobody
            for value in values:
                text = str(value).lower() if isinstance(value, bool) else _text(value)
                if text is None:
                    raise self._wrong(entry, f'{_shown(value)}: expected a number or a text')
                yield text
        elif is_switch(action):
            if not isinstance(entry.value, bool):
                raise self._wrong(entry, f'{_shown(entry.value)}: expected true or false')
            yield None if entry.value else 'false'
        elif action.nargs == 0:
            raise self._wrong(entry, 'it is nothing for a file')
        elif action.type is names and isinstance(entry.value, list):
            yield self._checked(entry, ','.join(map(str, values)), action)
        elif len(values) > 1 and not isinstance(action, argparse._AppendAction):
            raise self._wrong(entry, f'{_shown(entry.value)}: expected one value, not a list')
        else:
            for value in values:
                yield self._checked(entry, value, action)

    def _checked(self, entry: Entry, value: Any, action: argparse.Action) -> str:
        text = _text(value)
        if text is None or (action.type is None and isinstance(value, int | float)):
            kind = 'a text in quotes' if action.type is None else 'a number or a text'
            raise self._wrong(entry, f'{_shown(value)}: expected {kind}')
        if action.choices is not None and text not in action.choices:
            choices = ', '.join(map(str, action.choices))
            raise self._wrong(entry, f'{_shown(value)}: expected one of {choices}')
        if callable(action.type):
            try:
                action.type(text)
            except argparse.ArgumentTypeError as e:
                raise self._wrong(entry, str(e)) from e
            except ValueError as e:
                raise self._wrong(entry, f'{_shown(value)}: expected a number') from e
        return text

    def _wrong(self, entry: Entry, what: str) -> UsageError:
        return UsageError(f'--config {self.name}: {entry.key} = {what}')


def read(path: str, command: str, commands: Sequence[str]) -> ConfigFile:
    """What a file says for a command: its top level, and what the table of the command changes.

    Args:
      path: of a local .toml or .json.
      command: its name.
      commands: the names of all, of which others may have tables, too.

    Raises:
      UsageError: the file cannot be read, or has a table of no command.
    """
    name = uris.printable(path)
    tables = {underscored(each): each for each in commands}
    common: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, value in _parsed(path, name).items():
        if not isinstance(value, dict):
            common[key] = value
        elif underscored(key) not in tables:
            near = difflib.get_close_matches(underscored(key), tables, 1)
            hint = f'did you mean [{tables[near[0]]}]?' if near else f'there is [{command}]'
            raise UsageError(f'--config {name}: no command has the table [{key}]; {hint}')
        elif tables[underscored(key)] == command:
            special = value
    return ConfigFile(name, {**_entries(common, name), **_entries(special, name)})


def _entries(values: Mapping[str, Any], file: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, value in values.items():
        name = underscored(key)
        if name in found:
            raise UsageError(f'--config {file}: {found[name].key} and {key} are the same option')
        if name == 'config':
            raise UsageError(f'--config {file}: {key}: a file cannot name another one')
        found[name] = Entry(key, value)
    return found


def _parsed(path: str, name: str) -> dict[str, Any]:
    suffix = uris.suffix_of(path)
    if suffix not in _SUFFIXES or uris.scheme_of(path):
        raise UsageError(f'--config {name}: expected a local {" or ".join(_SUFFIXES)}')
    try:
        with Path(path).open('rb') as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UsageError(f'--config {name}: more than {_MAX_BYTES} bytes')
        text = data.decode('utf-8-sig')
    except OSError as e:
        raise UsageError(f'--config {name}: cannot be read: {e.strerror}') from e
    except UnicodeDecodeError as e:
        raise UsageError(f'--config {name}: not in UTF-8') from e
    try:
        if suffix == '.toml':
            return tomllib.loads(text)
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise UsageError(f'--config {name}: no {suffix[1:].upper()}: {e}') from e
    if not isinstance(value, dict):
        raise UsageError(f'--config {name}: expected an object, as {{"model": "bit-m-r50x1"}}')
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'{twice!r} is there twice')
    return found


def _text(value: Any) -> str | None:
    """A value as on a command line; None for what cannot stand there."""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(value) if is_number else None


def _shown(value: Any) -> str:
    is_plain = value is None or isinstance(value, bool)
    return uris.printable(json.dumps(value) if is_plain else _REPR.repr(value))
