"""`lemmabeam models --check`: what a model sees in a picture."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import named_file, options
from pipeline.job.progress import DownloadReporter
from pipeline.messages import Messages
from transforms.core import uris
from transforms.core.errors import ImageError, ModelError, UsageError
from transforms.core.resources import cpu_count, shared
from transforms.model import canary
from transforms.model.choices import OFF, REDUCED, slower
from transforms.model.predictor import (
    InferenceOptions,
    Prediction,
    Predictor,
    check_precision,
)
from transforms.model.receipt import Receipt, merge
from transforms.model.rescue import predict_or_rescue
from transforms.model.resolve import ModelSource, printable_location
from transforms.model.runtimes.choose import check_backend
from transforms.model.witness import compare, in_float32
from transforms.runs.report import Computed

_SAMPLE = Path(options.__file__).with_name('sample')
_PHOTOGRAPHS = (
    'admiral astronaut cameraman cat coffee dahlia galaxies rocket scooter temple'.split()
)


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Loads a model, asks its canary, and shows what it sees.

    Args:
      args: of `pipeline.commands.models.add_arguments`, with `model`.

    Raises:
      UsageError, ModelError, StoreError: the model cannot be used, as its message says.
    """
    source = options.find_model(args, DownloadReporter(messages))
    card = source.card
    console = messages.console()
    for name, value in _facts(source).items():
        _say(console, name, value)
    mode = args.canary or canary.default_mode(card)
    canary.check_mode(mode, source)
    check_backend(args.backend, source)
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
        backend=args.backend,
    )
    pixels = _picture(args.image, source)
    predictor = shared(Predictor, inference)
    computed = predictor.computed
    _say(console, 'computed', str(Computed(computed)))
    if why := computed.get('why_saved'):
        _say(console, 'slower', slower(card.name, why))
    _say(console, 'canary', mode if mode == OFF else f'{mode}, passed')
    receipt = _receipt(predictor, inference)
    if receipt is not None:
        _say(console, 'precision', str(receipt))
    batch = np.zeros((inference.batch_size, *pixels.shape), np.uint8)
    batch[0] = pixels
    found, guilty = predict_or_rescue(predictor, batch, [0])
    _say(console, 'picture', args.image or 'the cat of the sample')
    if guilty:
        raise ModelError(f'the model fails on this picture: {guilty[0]}')
    if found.features is not None:
        length = np.linalg.norm(found.features[0].astype(np.float64))
        _say(console, 'features', f'{found.features.shape[1]}, of length {length:.3f} as a vector')
    labels = _labels(source, found)
    if card.has_classes:
        count = sum(label['is_label'] for label in labels)
        _say(console, 'labels', f'{count}, marked *, and the classes next to them')
        console.print(_table(labels), highlight=False, markup=False)
    messages.result(
        {
            **_facts(source),
            'computed': computed,
            'canary': mode,
            'receipt': None if receipt is None else receipt._asdict(),
            'picture': args.image,
            'features': None if found.features is None else found.features.shape[1],
            'classes_seen': labels,
        }
    )
    return 0


def _receipt(predictor: Predictor, inference: InferenceOptions) -> Receipt | None:
    """How far a reduced precision agrees with float32 on the photographs of the sample."""
    source = inference.model
    if predictor.computed['precision'] not in REDUCED or not source.card.has_classes:
        return None
    if not source.can_be_rebuilt:  # it has no other precision
        return None
    exact = Predictor(in_float32(inference))
    pictures = [
        canary.pixels_of((_SAMPLE / f'{name}.jpg').read_bytes(), source) for name in _PHOTOGRAPHS
    ]
    receipts = []
    for start in range(0, len(pictures), inference.batch_size):
        part = pictures[start : start + inference.batch_size]
        batch = np.zeros((inference.batch_size, *part[0].shape), np.uint8)
        batch[: len(part)] = part
        receipts.append(compare(predictor(batch), exact(batch), range(len(part))))
    return merge(receipts)


def _labels(source: ModelSource, found: Prediction) -> list[dict[str, Any]]:
    """The classes of the first picture, the best first; none of a model without classes."""
    if not source.card.has_classes:
        return []
    count, names, wnids = found.counts[0], source.vocabulary.names, source.vocabulary.wnids
    return [
        {
            'index': index,
            'wnid': wnids[index],
            'name': names[index],
            'score': score,
            'is_label': bool(rank < count),
        }
        for rank, (index, score) in enumerate(
            zip(found.indices[0].tolist(), found.scores[0].tolist(), strict=True)
        )
    ]


def _table(labels: list[dict[str, Any]]) -> Table:
    table = Table()
    for column in ('', 'score', 'class', 'index', 'wnid'):
        table.add_column(column)
    for label in labels:
        table.add_row(
            '*' if label['is_label'] else '',
            f'{label["score"]:.3f}',
            uris.printable(label['name']),
            str(label['index']),
            label['wnid'] or '',
        )
    return table


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
        return canary.pixels_of(source.picture('cat.jpg'), source)
    data = named_file.read('--image', name)
    try:
        return canary.pixels_of(data, source)
    except ImageError as e:
        raise UsageError(f'--image {uris.printable(name)}: {e}') from e
