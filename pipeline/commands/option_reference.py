"""pipeline/OPTIONS.md, made of the options of `lemmabeam label`.

python -m pipeline.commands.option_reference        writes it anew, in a clone
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.flags import Option
from pipeline.options import FOR_EVERY_COMMAND, OPTIONS

REFERENCE = Path(__file__).parents[1] / 'OPTIONS.md'

_HEAD = """\
# Options of `lemmabeam label`

Made of the declarations in [options.py](options.py), by
`python -m pipeline.commands.option_reference`.
Beam's own options, such as `--runner`, are accepted, too. Every command has {every}.
Names may be written with `-` instead of `_`.

- **same to resume**: rows depend on it, so that an interrupted run, looked for in `--output`, is
  resumed with the same value only. Of `--model` the id is compared, which covers weights and card.
- **kept by retry**: `lemmabeam retry` takes the value over from the run that it retries.
- **in template**: it is a parameter of the [Flex Template](../templates/dataflow).
"""
_TABLE = """\
| option | value | default | what for | same to resume | kept by retry | in template |
| --- | --- | --- | --- | --- | --- | --- |
"""


def as_markdown() -> str:
    """The text of the file."""
    every = ', '.join(f'`--{option.name}`' for option in FOR_EVERY_COMMAND)
    return _HEAD.format(every=every) + ''.join(_sections())


def _sections() -> Iterator[str]:
    all_options = (*OPTIONS, *FOR_EVERY_COMMAND)
    for group, options in itertools.groupby(all_options, lambda option: option.group):
        title = group or 'general'
        yield f'\n## {title[0].upper()}{title[1:]}\n\n{_TABLE}'
        yield from map(_row, options)


def _row(option: Option) -> str:
    cells = (
        f'`--{option.name}`',
        _value(option),
        f'`{option.default_text}`' if option.default_text else '',
        _escaped(f'{option.help[0].upper()}{option.help[1:]}.'),
        *(
            'yes' if fact else 'no'
            for fact in (option.decides_rows, not option.per_run, option.in_template)
        ),
    )
    return f'| {" | ".join(cells)} |\n'


def _value(option: Option) -> str:
    if option.type.choices:
        return ', '.join(f'`{choice}`' for choice in option.type.choices)
    return f'`{option.metavar}`' if option.metavar else ''


def _escaped(text: str) -> str:
    return re.sub(r'[|*<]', r'\\\g<0>', text)


if __name__ == '__main__':
    REFERENCE.write_text(as_markdown())
