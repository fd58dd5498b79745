"""pipeline/API.md, made of what `import lemmabeam` offers.

python -m pipeline.api.reference        writes it anew, in a clone
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.api import errors

REFERENCE = Path(__file__).parents[1] / 'API.md'
FACE = 'pipeline.api.lemmabeam'

_HEAD = """\
# `import lemmabeam as lb`

Made of docstrings, by `python -m pipeline.api.reference`; their examples run as tests, in a folder
with three of the sample's photographs in `photos` and their labels in `labels`. What stands here is
public, and nothing else: names, arguments, columns and errors change with a line in
[CHANGELOG.md](../CHANGELOG.md). Errors name keywords. Nothing is printed unless a function is asked
to show its progress.
"""
# Modules by what they are for; what stands in no list is a step.
_GROUPS = {
    'Whole jobs': (
        'What the commands do, with the same options, checks and results; see '
        '[OPTIONS.md](OPTIONS.md) for the options.',
        ('pipeline.api.jobs',),
    ),
    'Reading': ('What was labelled, for other libraries.', ('pipeline.api.reading',)),
    'Labelling in a pipeline of your own': (
        'All that a run does to its images, between two steps of somebody else and without an '
        'output folder.',
        ('pipeline.api.composite',),
    ),
    'Single steps': ('They take part in other pipelines, one by one.', ()),
    'What they return': (
        'Values that do not change.',
        ('pipeline.api.results', 'pipeline.api.rows', 'transforms.runs.report'),
    ),
}
_STEPS = 'Single steps'
# Of the others, methods are what Beam calls.
_WITH_METHODS = ('pipeline.api.reading', 'pipeline.api.results')
_SECTION = re.compile(r'^(Args|Attributes|Returns|Raises|Example|Examples):(?: (.*))?$')
_ENTRY = re.compile(r'^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): (.*)$')


def as_markdown() -> str:
    """The text of the file."""
    return '\n'.join([_HEAD, *_sections()])


def public() -> dict[str, Any]:
    """What is documented, by its name."""
    face = importlib.import_module(FACE)
    return {
        name: getattr(face, name)
        for name in sorted(face.__all__, key=str.lower)
        if name not in ('__version__', 'errors')
    }


def _sections() -> Iterator[str]:
    found = public()
    for title, (about, _) in _GROUPS.items():
        names = [name for name, value in found.items() if _group(value.__module__) == title]
        if names:
            yield f'## {title}\n\n{about}\n'
            for name in names:
                yield from _described(name, found[name])
    yield f'## Errors\n\n`lb.errors` has them; all are a `LemmabeamError`.\n\n{_errors()}'


def _group(module: str) -> str:
    return next((title for title, (_, modules) in _GROUPS.items() if module in modules), _STEPS)


def _errors() -> str:
    lines = []
    for name in errors.__all__:
        kind = getattr(errors, name)
        (base,) = kind.__bases__
        of = '' if base.__name__ in ('Exception', 'LemmabeamError') else f' (a `{base.__name__}`)'
        lines.append(f'- `{name}`{of}: {_first_line(kind)}\n')
    return ''.join(lines)


def _described(name: str, value: Any) -> Iterator[str]:
    yield f'### lb.{name}\n'
    is_made = not inspect.isclass(value) or value.__module__ not in _GROUPS['What they return'][1]
    if is_made and name != 'Labels':
        yield f'```python\n{name}{_signature(value)}\n```\n'
    yield _formatted(inspect.getdoc(value) or '')
    if inspect.isclass(value) and value.__module__ in _WITH_METHODS:
        for method, member in _members(value):
            shown = method if isinstance(member, property) else f'{method}{_signature(member)}'
            yield f'#### `.{shown}`\n\n{_formatted(inspect.getdoc(member) or "")}'


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(kind).items():
        is_member = inspect.isfunction(member) or isinstance(member, property)
        if is_member and not name.startswith('_'):
            yield name, member


def _signature(value: Any) -> str:
    """Names and defaults; kinds stand in the text."""
    signature = getattr(value, 'own_signature', None) or inspect.signature(value)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for name, each in signature.parameters.items()
        if name != 'self'
    ]
    return str(inspect.Signature(parameters))


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or '').partition('\n')[0]


def _formatted(text: str) -> str:
    """A docstring in Markdown."""
    made: list[str] = []
    for title, lines in _parts(text):
        body = inspect.cleandoc('\n'.join(lines))
        if title in ('Example', 'Examples'):
            made.append(f'```python\n{body}\n```\n')
        elif title in ('', 'Returns'):
            made.append(f'{"Returns: " if title else ""}{body}\n')
        else:
            made.append(f'{title}:\n\n{_entries(body)}')
    return '\n'.join(made)


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    title, lines = '', list[str]()
    for line in text.splitlines():
        match = _SECTION.match(line)
        if match:
            yield title, lines
            title, lines = match[1], [match[2]] if match[2] else []
        else:
            lines.append(line)
    yield title, lines


def _entries(body: str) -> str:
    """A bullet for each; what follows it further right belongs to it."""
    made = ''
    for line in body.splitlines():
        match = _ENTRY.match(line)
        if match:
            names = ', '.join(f'`{name}`' for name in match[1].split(', '))
            made += f'- {names}: {match[2]}\n'
        elif line:
            made += f'  {line.strip()}\n'
    return made


if __name__ == '__main__':
    REFERENCE.write_text(as_markdown())
