"""`lemmabeam export-model`: weights of a BiT in a file become a SavedModel to label with."""

import argparse
import contextlib
import re
import secrets
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import flags, named_file
from pipeline.job.progress import DownloadReporter
from pipeline.messages import SILENT, Messages
from pipeline.parser import Parser
from transforms.core import uris
from transforms.core.errors import ModelError, UsageError
from transforms.core.resources import TEMPORARIES
from transforms.model import registry
from transforms.model.card import Activation, ModelCard
from transforms.model.download import huggingface
from transforms.model.download.cache import default_cache
from transforms.model.download.fetch import fetch_model
from transforms.model.download.http import download
from transforms.model.families.bit.checkpoint import Architecture
from transforms.model.families.bit.known import checkpoint_card, distilled_size_px
from transforms.model.families.bit.weights import Weights
from transforms.model.resolve import printable_location, resolve_model
from transforms.model.tensor_files import SUFFIXES
from transforms.model.vocabulary import parse_labels

_OFFICIAL = re.compile(r'bit-([sm])-(r\d+x\d+)(-ilsvrc2012)?', re.IGNORECASE)
_SLUG = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')


def main(parser: Parser, argv: Sequence[str], messages: Messages) -> int:
    """Runs the command; the exit code."""
    add_arguments(parser)
    return run(parser.parse_args(argv), messages)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `lemmabeam export-model`."""
    parser.add_argument(
        '--weights',
        required=True,
        metavar='FILE',
        help='an official BiT checkpoint, such as BiT-M-R101x3.npz or .h5, one in its layout, or '
        "the .safetensors of timm's copy; local, gs://, https:// or hf://owner/name",
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
        'wnid, lemmas and definition (default: imagenet21k for 21,843, imagenet22k for 21,841 and '
        'ilsvrc2012 for 1,000 classes)',
    )
    parser.add_argument(
        '--activation',
        choices=[each.value for each in Activation],
        help='what makes scores of the logits (default: sigmoid for ImageNet-21k, else softmax)',
    )
    parser.add_argument(
        '--model_size',
        type=flags.positive,
        metavar='PX',
        help='side of the square images are resized to, in pixels (default: 384 for fine-tuned '
        'heads of ILSVRC-2012, 480 with R152x4; 160 for R50x1_160.npz; else 224)',
    )


def run(args: argparse.Namespace, messages: Messages) -> int:
    """Writes a SavedModel from a checkpoint.

    Raises:
      UsageError: the options do not fit the checkpoint, or the folder is taken.
      ModelError: the file holds no such weights, or the folder cannot be written.
    """
    folder = _target(args.output)
    where = printable_location(args.weights)
    with _local_weights(args.weights, folder, messages) as path, Weights(path, where) as weights:
        architecture, classes = weights.architecture, weights.classes
        card, labels = _describe(args, architecture, classes, messages)
        from transforms.model.runtimes.on_tensorflow import import_tensorflow

        import_tensorflow()
        from transforms.model.families.bit.export import export

        export(weights, card, classes, labels, folder)
    source = resolve_model(str(folder))
    messages.say(f'BiT-{architecture} with {classes or 0:,} classes: {folder}')
    messages.say(f'model {source.id}, weights SHA-256 {source.weights_sha256}')
    messages.say(
        f'label with it: lemmabeam label --model {shlex.quote(str(folder))} --input X --output DIR'
    )
    messages.result(
        {
            'folder': str(folder),
            'model_id': source.id,
            'architecture': str(architecture),
            'classes': classes or 0,
            'weights_sha256': source.weights_sha256,
        }
    )
    return 0


def _target(output: str) -> Path:
    uri = uris.absolute(output)
    if uris.scheme_of(uri):
        raise UsageError(
            f'--output {output}: expected a local folder; copy it to a bucket afterwards'
        )
    folder = Path(uri)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(folder.lstat().st_mode) or any(folder.iterdir()):
                raise UsageError(f'--output {output}: is there already, and not an empty folder')
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f'--output {output}: cannot be written: {e.strerror}') from e
    return folder


@contextlib.contextmanager
def _local_weights(location: str, folder: Path, messages: Messages) -> Iterator[Path]:
    """The checkpoint as a local file; fetched ones lie beside the output and are removed."""
    scheme = uris.scheme_of(location)
    if scheme in ('', 'file'):
        path = Path(uris.absolute(location))
        if not path.is_file():
            raise UsageError(f'--weights {printable_location(location)}: no such file')
        yield path
        return
    if huggingface.parse(location):  # its pages, too
        yield fetch_model(location, default_cache(), DownloadReporter(messages))
        return
    if scheme not in ('gs', 'http', 'https'):
        raise UsageError(
            f'--weights {printable_location(location)}: local, gs://, https:// or hf:// only'
        )
    suffix = uris.suffix_of(printable_location(location))
    name = f'.{folder.name}.{secrets.token_hex(4)}{suffix if suffix in SUFFIXES else ""}'
    with TEMPORARIES.hold(folder.with_name(name)) as temporary:
        if scheme == 'gs':
            uri = uris.absolute(location)
            try:
                named_file.copy(uri, temporary)
            except OSError as e:
                why = e.strerror or 'the store cannot be reached'  # requests' errors have none
                raise ModelError(f'{uris.printable(uri)}: cannot be copied: {why}') from e
        else:
            download(location, temporary, DownloadReporter(messages))
        yield temporary


def _describe(
    args: argparse.Namespace,
    architecture: Architecture,
    classes: int | None,
    messages: Messages = SILENT,
) -> tuple[ModelCard, bytes]:
    """The card of a checkpoint, and the content of the class list it names."""
    stem, name = _names(args.weights, architecture, messages)
    official, distilled = _OFFICIAL.fullmatch(name), distilled_size_px(args.weights)
    known = official or distilled
    name = args.name or name
    if not _SLUG.fullmatch(name):
        if args.name:
            raise UsageError(f'--name {name!r}: letters, digits, ".", "_" and "-", 100 at most')
        name = f'bit-{architecture}'.lower()
    # Other names for the classes of a known head do not make it another head.
    card = checkpoint_card(
        name,
        architecture,
        classes,
        is_trained_whole=bool(distilled or (official and official[1].lower() == 's')),
        source=stem,
        licence='Apache-2.0' if known else '',
    )
    if distilled:
        card = card.to_size(distilled)
    changes: dict[str, Any] = {}
    labels = b''
    if classes is None:
        if args.labels:
            where = printable_location(args.labels)
            raise UsageError(f'--labels {where}: this checkpoint has no head')
    elif args.labels or not card.vocabulary:
        labels, file_name = _labels(args, name, classes, messages)
        changes |= {'labels': file_name, 'vocabulary': '', 'canary': ()}
        if not card.vocabulary:
            changes |= {'activation': Activation.SOFTMAX, 'max_labels': min(5, classes)}
    if args.activation is not None:
        changes['activation'] = Activation(args.activation)
    if args.model_size is not None:
        changes['resize'] = card.resize.to_size(args.model_size)
    return card.with_changes(**changes), labels


def _names(location: str, architecture: Architecture, messages: Messages) -> tuple[str, str]:
    """What a file is called, and what its model is: as its name says, if the weights agree."""
    stem = printable_location(location).rstrip('/').rpartition('/')[2]
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    official = _OFFICIAL.fullmatch(stem)
    known = None if official else registry.find_by_location(location)
    name = official[0].lower() if official else known.card.name if known else stem
    found = _OFFICIAL.match(name)
    if found and found[2].lower() != str(architecture).lower():
        messages.note(
            f'{uris.printable(stem)} holds a BiT-{architecture}, whatever its name says; some '
            'published files are mixed up (BiT-S-R50x3.h5, BiT-S-R101x1.h5)'
        )
        name = name.replace(found[2], str(architecture).lower())
    return stem, name


def _labels(
    args: argparse.Namespace, name: str, classes: int, messages: Messages
) -> tuple[bytes, str]:
    """Content and name of the file of class names; the content is kept as it is."""
    if args.labels is None:
        messages.note(
            f'no known class list has {classes} classes: they are named class 0 to class '
            f'{classes - 1}; --labels names them'
        )
        return ''.join(f'class {i}\n' for i in range(classes)).encode(), 'labels.txt'
    where = printable_location(args.labels)
    data = named_file.read('--labels', args.labels)
    vocabulary = parse_labels(name, data, where)
    if len(vocabulary) != classes:
        raise UsageError(f'--labels {where}: {len(vocabulary)} classes, but the head has {classes}')
    return data, 'labels.tsv' if where.endswith('.tsv') else 'labels.txt'
