"""`lemmabeam export-model`: an official checkpoint becomes a SavedModel to label with."""

import argparse
import contextlib
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import options
from pipeline.progress import DownloadReporter
from transforms import uris
from transforms.errors import UsageError
from transforms.model import hub, registry
from transforms.model.card import MAX_SIZE_PX, MIN_SIZE_PX, Activation, ModelCard
from transforms.model.checkpoint import Architecture, NpzCheckpoint, check, identify
from transforms.model.sources import resolve_model
from transforms.model.vocabulary import (
    NONE,
    Vocabulary,
    load_vocabulary,
    parse_labels,
    unnamed_classes,
    vocabulary_names,
)
from transforms.storage import store_for

_OFFICIAL = re.compile(r'bit-([sm])-(r\d+x\d+)(-ilsvrc2012)?', re.IGNORECASE)
_SLUG = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')
_LABELS = 'labels.tsv'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam export-model`."""
    parser.add_argument(
        '--weights',
        required=True,
        metavar='X.npz',
        help='an official BiT checkpoint, such as BiT-M-R101x3.npz, or one in its layout; local, '
        'gs:// or https://',
    )
    parser.add_argument(
        '--output',
        required=True,
        metavar='DIR',
        help='a local folder for the SavedModel; must be absent or empty',
    )
    parser.add_argument(
        '--name',
        help='short name of the model, the first part of its id (default: from the file)',
    )
    parser.add_argument(
        '--labels',
        metavar='FILE',
        help='the classes of a head of your own: one name a line, or a .tsv table with the columns '
        'wnid, lemmas and definition (default: ImageNet-21k for 21,843 and ILSVRC-2012 for 1,000 '
        'classes)',
    )
    parser.add_argument(
        '--activation',
        choices=[each.value for each in Activation],
        help='what makes scores of the logits (default: sigmoid for ImageNet-21k, else softmax)',
    )
    parser.add_argument(
        '--model_size',
        type=options.positive,
        metavar='PX',
        help='side of the square images are resized to, in pixels (default: 480 for ILSVRC-2012, '
        'else 224)',
    )


def run(args: argparse.Namespace) -> int:
    """Writes a SavedModel from a checkpoint.

    Raises:
      UsageError: the options do not fit the checkpoint, or the folder is taken.
      ModelError: the file is no such checkpoint, or the folder cannot be written.
    """
    folder = _target(args.output)
    with _local_weights(args.weights, folder) as path, NpzCheckpoint(path) as checkpoint:
        architecture, classes = identify(checkpoint.shapes)
        card, vocabulary = _describe(args, architecture, classes)
        check(checkpoint.shapes, architecture, len(vocabulary) or None)
        from transforms.model.runtime import import_tensorflow

        import_tensorflow()
        from transforms.model.export import export

        export(checkpoint, card, vocabulary, folder)
    source = resolve_model(str(folder), cache=str(folder))
    print(f'BiT-{architecture} with {len(vocabulary):,} classes: {folder}')
    print(f'model {source.id}, weights SHA-256 {source.weights_sha256}')
    print(f'label with it: lemmabeam label --model {folder} --input X --output DIR')
    return 0


def _target(output: str) -> Path:
    uri = uris.absolute(output)
    if uris.scheme_of(uri):
        raise UsageError(
            f'--output {output}: expected a local folder; copy it to a bucket afterwards'
        )
    folder = Path(uri)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f'--output {output}: is there already, and not empty')
    return folder


@contextlib.contextmanager
def _local_weights(location: str, folder: Path) -> Iterator[Path]:
    """The checkpoint as a local file; fetched ones lie beside the output and are removed."""
    scheme = uris.scheme_of(location)
    if scheme in ('', 'file'):
        yield Path(uris.absolute(location))
        return
    if scheme not in ('gs', 'http', 'https'):
        raise UsageError(f'--weights {uris.printable(location)}: local, gs:// or https:// only')
    temporary = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}.npz')
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        if scheme == 'gs':
            uri = uris.absolute(location)
            with store_for(uri).open(uri) as source, temporary.open('xb') as target:
                shutil.copyfileobj(source, target, 2**23)
        else:
            hub.download(location, temporary, DownloadReporter())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _describe(
    args: argparse.Namespace, architecture: Architecture, classes: int | None
) -> tuple[ModelCard, Vocabulary]:
    """Card and class list of a checkpoint."""
    stem = uris.without_secrets(args.weights) if '://' in args.weights else args.weights
    stem = stem.partition('?')[0].rpartition('/')[2].removesuffix('.npz')
    official = _OFFICIAL.fullmatch(stem)
    name = args.name or (stem.lower() if official else stem)
    if not _SLUG.fullmatch(name):
        if args.name:
            raise UsageError(f'--name {name!r}: letters, digits, ".", "_" and "-", 100 at most')
        name = f'bit-{architecture}'.lower()
    vocabulary = _classes(args, name, classes)
    card = registry.bit_card(
        name,
        architecture,
        vocabulary.name if vocabulary.is_packaged and classes else '',
        value_range=(0.0, 1.0),
        source=stem,
        licence='Apache-2.0' if official else '',
    )
    changes: dict[str, Any] = {}
    if classes and not vocabulary.is_packaged:
        changes |= {'labels': _LABELS, 'activation': Activation.SOFTMAX, 'threshold': 0.05}
        changes['max_labels'] = min(5, classes)
    if args.activation is not None:
        changes['activation'] = Activation(args.activation)
    if args.model_size is not None:
        if not MIN_SIZE_PX <= args.model_size <= MAX_SIZE_PX:
            raise UsageError(
                f'--model_size {args.model_size}: expected {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels'
            )
        changes['resize'] = card.resize.to_size(args.model_size)
    return card.with_changes(**changes), vocabulary


def _classes(args: argparse.Namespace, name: str, classes: int | None) -> Vocabulary:
    if args.labels is not None:
        if classes is None:
            raise UsageError(f'--labels {args.labels}: this checkpoint has no head')
        uri = uris.absolute(args.labels)
        with store_for(uri).open(uri) as file:
            vocabulary = parse_labels(name, file.read(), args.labels)
        if len(vocabulary) != classes:
            raise UsageError(
                f'--labels {args.labels}: {len(vocabulary)} classes, but the head has {classes}'
            )
        return vocabulary
    if classes is None:
        return load_vocabulary(NONE)
    for known in vocabulary_names():
        if len(load_vocabulary(known)) == classes:
            return load_vocabulary(known)
    print(
        f'lemmabeam: no known class list has {classes} classes: they are named class 0 to class '
        f'{classes - 1}; --labels names them',
        file=sys.stderr,
    )
    return unnamed_classes(name, classes)
