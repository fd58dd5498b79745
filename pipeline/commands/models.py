"""`lemmabeam models`: what there is to label with, and what a model sees in a picture."""

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import options
from pipeline.messages import Messages
from pipeline.parser import Parser
from transforms.core.errors import InvalidOption, UsageError
from transforms.model import registry
from transforms.model.choices import AUTO, BACKENDS, PRECISIONS
from transforms.model.families.base import KnownModel
from transforms.model.vocabulary import class_count


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam models`."""
    parser.add_argument(
        '--check',
        metavar='PATH',
        help='load this model (whatever --model of `lemmabeam label` takes), ask its canary, and '
        'show what it sees in a picture',
    )
    parser.add_argument(
        '--image',
        metavar='FILE',
        help='with --check: the picture, local or gs:// (default: the cat of the sample)',
    )
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default=AUTO,
        help='with --check: as in `lemmabeam label` (default: auto)',
    )
    parser.add_argument(
        '--backend',
        choices=BACKENDS,
        default=AUTO,
        help='with --check: as in `lemmabeam label` (default: auto)',
    )
    options.add_model_arguments(parser)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Lists the known models, or checks one.

    Raises:
      UsageError, ModelError, StoreError: the model cannot be used, as its message says.
    """
    if args.check is not None:
        args.model = args.check
        from pipeline.commands import check_model  # needs much that the list does not

        try:
            return check_model.run(args, messages)
        except InvalidOption as e:
            if e.name != 'model':
                raise
            raise e.named('check') from e
    if args.image is not None:
        raise UsageError('--image goes with --check')
    _print_known(messages.console())
    messages.result({'models': [*map(_facts, registry.known_models().values())]})
    return 0


def _facts(model: KnownModel) -> dict[str, Any]:
    card = model.card
    return {
        'name': card.name,
        'parameters': model.parameters,
        'size_px': card.resize.size_px,
        'multiply_adds': model.multiply_adds,
        'classes': class_count(card.vocabulary) if card.has_classes else 0,
        'scores': card.activation.value,
        'licence': card.licence,
        'source': card.source,
    }


def _print_known(console: Console) -> None:
    models = registry.known_models()
    # Without lines between its columns it fits into 80 of a terminal.
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column('model', no_wrap=True)
    for column in ('parameters', 'px', 'GMAC', 'classes'):
        table.add_column(column, justify='right')
    for column in ('scores', 'licence'):
        table.add_column(column)
    for name, model in models.items():
        card = model.card
        classes = class_count(card.vocabulary) if card.has_classes else 0
        table.add_row(
            name,
            f'{model.parameters / 1e6:,.1f} M',
            str(card.resize.size_px),
            f'{model.multiply_adds / 1e9:,.1f}',
            f'{classes:,}' if classes else 'features',
            card.activation.value,
            card.licence,
        )
    console.print(table, highlight=False)
    console.print(
        '\npx: side of the square that it takes; --model_size sets another one, except for '
        'efficientnetv2-*.  GMAC: billions of multiply-adds for an image of this size.  '
        'bit-s-r50x1 is short for bit-s-r50x1-ilsvrc2012, as BiT-S knows no other classes, and '
        'efficientnetv2-s for efficientnetv2-s-imagenet21k.\n',
        highlight=False,
    )
    sources = {
        name: f'{model.card.source}, inside this package'
        for name, model in models.items()
        if model.file
    }
    for prefix, family in registry.FAMILIES.items():
        if family.PUBLISHED:
            sources[f'{prefix}-*'] = f'{family.PUBLISHED}…'
    for name, source in sources.items():
        line = f'{name}:\n  {source}'
        console.print(line, highlight=False, markup=False, soft_wrap=True)
