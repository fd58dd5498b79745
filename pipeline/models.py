"""`lemmabeam models`: what there is to label with, and what a model sees in a picture."""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import options
from pipeline.progress import DownloadReporter
from transforms import uris
from transforms.decode import decode
from transforms.errors import ImageError, ModelError, UsageError
from transforms.model import canary, registry
from transforms.model.choices import AUTO, OFF, PRECISIONS
from transforms.model.predictor import InferenceOptions, Predictor, check_precision, slower
from transforms.model.rescue import predict_or_rescue
from transforms.model.sources import ModelSource, printable_location
from transforms.model.vocabulary import load_vocabulary
from transforms.process import cpu_count, shared
from transforms.storage import store_for


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
    options.add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Lists the known models, or checks one.

    Raises:
      UsageError, ModelError, StoreError: the model cannot be used, as its message says.
    """
    if args.check is not None:
        args.model = args.check
        return _check(args)
    if args.image is not None:
        raise UsageError('--image goes with --check')
    _print_known(Console())
    return 0


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
        classes = len(load_vocabulary(card.vocabulary)) if card.has_classes else 0
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
    embedded = models[registry.EMBEDDED].card
    sources = {registry.EMBEDDED: f'{embedded.source}, inside this package'}
    sources |= {f'{family}-*': f'{start}…' for family, start in registry.PUBLISHED.items()}
    for name, source in sources.items():
        console.print(f'{name}: {source}', highlight=False, markup=False, soft_wrap=True)


def _check(args: argparse.Namespace) -> int:
    source = options.find_model(args, DownloadReporter())
    card = source.card
    console = Console(emoji=False)
    for name, value in _facts(source).items():
        _say(console, name, value)
    mode = args.canary or canary.default_mode(card)
    canary.check_mode(mode, source)
    check_precision(args.precision, source)
    inference = InferenceOptions(
        model=source,
        batch_size=card.batch_size,
        threshold=card.threshold,
        max_labels=min(card.max_labels, len(source.vocabulary)),
        min_labels=0,
        intra_op_threads=cpu_count(),
        precision=args.precision,
        canary=mode,
        features=not card.has_classes,
    )
    pixels = _picture(args.image, source)
    predictor = shared(Predictor, inference)
    computed = predictor.computed
    said = f'{computed["precision"]} on {computed["device"]}, network {computed["network"]}'
    _say(console, 'computed', said)
    if why := computed.get('why_saved'):
        _say(console, 'slower', slower(card.name, why))
    _say(console, 'canary', mode if mode == OFF else f'{mode}, passed')
    batch = np.zeros((inference.batch_size, *pixels.shape), np.uint8)
    batch[0] = pixels
    found, guilty = predict_or_rescue(predictor, batch, [0])
    _say(console, 'picture', args.image or 'the cat of the sample')
    if guilty:
        raise ModelError(f'the model fails on this picture: {guilty[0]}')
    if found.features is not None:
        length = np.linalg.norm(found.features[0].astype(np.float64))
        _say(console, 'features', f'{found.features.shape[1]}, of length {length:.3f} as a vector')
    if card.has_classes:
        count = max(0, int(found.counts[0]))
        _say(console, 'labels', f'{count}, marked *, and the classes next to them')
        table = Table()
        for column in ('', 'score', 'class', 'index', 'wnid'):
            table.add_column(column)
        for rank, (index, score) in enumerate(
            zip(found.indices[0].tolist(), found.scores[0].tolist(), strict=True)
        ):
            table.add_row(
                '*' if rank < count else '',
                f'{score:.3f}',
                uris.printable(source.vocabulary.names[index]),
                str(index),
                source.vocabulary.wnids[index] or '',
            )
        console.print(table, highlight=False, markup=False)
    return 0


def _say(console: Console, name: str, value: str) -> None:
    text = f'{name + ":":10} {uris.printable(value)}'
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _facts(source: ModelSource) -> dict[str, str]:
    card = source.card
    classes = f'{len(source.vocabulary):,} of {source.vocabulary.name}'
    return {
        'model': source.id,
        **{f'not from {i}': why for i, why in enumerate(source.passed_over, 1)},
        'location': printable_location(source.location),
        'weights': f'{source.kind.value}, SHA-256 {source.weights_sha256}',
        'input': options.describe_preprocessing(card),
        'classes': classes if card.has_classes else 'none, features only',
        'scores': f'{card.activation.value}, labels from {card.threshold:g}, {card.max_labels} '
        'at most',
        'source': card.source or '-',
        'licence': card.licence or '-',
    }


def _picture(name: str | None, source: ModelSource) -> np.ndarray:
    if name is None:
        return decode(source.picture('cat.jpg'), source.card.resize)
    uri = uris.absolute(name)
    with store_for(uri).open(uri) as file:
        data = file.read()
    try:
        return decode(data, source.card.resize)
    except ImageError as e:
        raise UsageError(f'--image {uris.printable(name)}: {e}') from e
