"""The BiT models that are known by name, and the cards of others."""

import functools
import re
from collections.abc import Iterator

from transforms.images.resize import Resize
from transforms.model.card import CAT, Activation, ModelCard
from transforms.model.families.base import (
    HANDLE_END,
    MULTI_LABEL_MAX,
    MULTI_LABEL_THRESHOLD,
    KnownModel,
    gpu_batch_size,
    path_of,
)
from transforms.model.families.bit.checkpoint import Architecture, multiply_adds, parameters
from transforms.model.vocabulary import ILSVRC2012, IMAGENET21K, load_vocabulary, names_by_length

PUBLISHED = 'https://tfhub.dev/google/bit/'
"""How the locations of the modules start."""

NAMES = 'bit-{s,m}-{r50x1,r50x3,r101x1,r101x3,r152x4}[-ilsvrc2012|-features]'
"""The form of their names, for messages."""

_ARCHITECTURES = ('R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x4')
_ACTIVATIONS = {'': Activation.NONE, IMAGENET21K: Activation.SIGMOID}
_SUFFIXES = {IMAGENET21K: '', ILSVRC2012: '-ilsvrc2012', '': '-features'}

# The last parts of what the published modules are called, wherever they are mirrored:
# bit/m-r101x3/imagenet21k_classification/1 on TF-Hub and
# bit/tensorFlow2/m-r101x3-imagenet21k-classification/1 on Kaggle, and with other separators what
# these sites call the archives.
_HANDLE = re.compile(
    r'(?:^|/)bit(?:[/_]|-(?=tensorflow2-))(?:(?:frameworks/)?tensorflow2[/_-](?:variations/)?)?'
    r'(?P<data>[sm])-(?P<network>r\d+x\d+)'
    r'(?:[/_-](?P<head>imagenet21k|ilsvrc2012)[_-]classification)?'
    rf'(?:[/_](?:versions/)?\d+|-v\d+)?{HANDLE_END}',
    re.IGNORECASE,
)
# Official checkpoints, BiT-M-R101x3-ILSVRC2012.npz.
_CHECKPOINT = re.compile(
    r'(?:^|/)BiT-(?P<data>[SM])-(?P<network>R\d+x\d+)(?:-(?P<head>ILSVRC2012))?\.(?:npz|h5)$',
    re.IGNORECASE,
)
# The students of "Knowledge distillation: A good teacher is patient and consistent", by their size.
_DISTILLED = re.compile(r'(?:^|/)R50x1_(?P<size>160|224)\.(?:npz|h5)$', re.IGNORECASE)
# And timm's, whatever their folder is called by whom.
_TIMM = re.compile(
    r'(?:^|[/-])resnetv2_(?P<network>\d+x\d+)_bit\.goog_in21k(?P<head>_ft_in1k)?'
    r'(?:\.safetensors|[@/].*)?$',
    re.IGNORECASE,
)
# How BiT was evaluated on the data that it was trained on.
_CROPPED = Resize(224, short_side_px=256, filter='bilinear')


def _bit_resize(architecture: Architecture, vocabulary: str, is_fine_tuned: bool) -> Resize:
    if not is_fine_tuned:
        return _CROPPED
    if vocabulary != ILSVRC2012:
        return Resize(224, short_side_px=None, filter='bilinear')
    size_px = 480 if str(architecture) == 'R152x4' else 384
    return Resize(size_px, short_side_px=None, filter='bilinear')


def bit_card(
    name: str,
    architecture: Architecture,
    vocabulary: str,
    *,
    value_range: tuple[float, float],
    is_fine_tuned: bool = False,
    source: str = '',
    licence: str = '',
) -> ModelCard:
    """The card of a BiT network.

    Args:
      name: short name.
      architecture: depth and width.
      vocabulary: name of its class list, or '' for a network that ends with its features.
      value_range: what it takes for black and white.
      is_fine_tuned: whether its head was trained after the network, on whole, squashed pictures, as
        the ILSVRC-2012 heads of BiT-M were; else it takes a centre crop.
      source, licence: for people.
    """
    low, high = value_range
    std = 255.0 / (high - low)
    is_multi_label = vocabulary == IMAGENET21K
    resize = _bit_resize(architecture, vocabulary, is_fine_tuned)
    return ModelCard(
        name=name,
        resize=resize,
        mean=0.0 - low * std,
        std=std,
        activation=_ACTIVATIONS.get(vocabulary, Activation.SOFTMAX),
        vocabulary=vocabulary,
        threshold=MULTI_LABEL_THRESHOLD if is_multi_label else 0.05,
        max_labels=MULTI_LABEL_MAX if is_multi_label else 5,
        batch_size=8,
        gpu_batch_size=gpu_batch_size(resize.size_px),
        architecture=str(architecture),
        canary=(CAT,) if vocabulary else (),
        source=source,
        licence=licence,
    )


def checkpoint_card(
    name: str,
    architecture: Architecture,
    classes: int | None,
    *,
    is_trained_whole: bool = False,
    source: str = '',
    licence: str = '',
) -> ModelCard:
    """The card of a checkpoint, by the classes of its head.

    Args:
      name: short name.
      architecture: depth and width.
      classes: of its head, None if it has none; if no class list is known, none is named.
      is_trained_whole: whether a head of other classes than ImageNet-21k's was trained with its
        network.
      source, licence: for people.
    """
    vocabulary = next(iter(names_by_length(classes or 0)), '')
    is_whole = classes is None or vocabulary == IMAGENET21K or is_trained_whole
    return bit_card(
        name,
        architecture,
        vocabulary,
        value_range=(0.0, 1.0),
        is_fine_tuned=not is_whole,
        source=source,
        licence=licence,
    )


def _published(data: str, network: str, vocabulary: str) -> KnownModel:
    """A module as Google published it; its weights are those of the official checkpoints."""
    architecture = Architecture.parse(network)
    head = f'/{vocabulary}_classification' if vocabulary else ''
    location = f'{PUBLISHED}{data}-{network}{head}/1'
    card = bit_card(
        f'bit-{data}-{network}{_SUFFIXES[vocabulary]}',
        architecture,
        vocabulary,
        value_range=(0.0, 1.0),
        is_fine_tuned=vocabulary == ILSVRC2012,
        source=location,
        licence='Apache-2.0',
    )
    classes = len(load_vocabulary(vocabulary)) if vocabulary else None
    slug = f'-{vocabulary}-classification' if vocabulary else ''
    return KnownModel(
        card,
        location,
        parameters(architecture, classes),
        multiply_adds(architecture, classes, card.resize.size_px),
        f'google/bit/tensorFlow2/{data}-{network}{slug}/1',
        tuple(_checkpoints(data, architecture, vocabulary)),
    )


def _checkpoints(data: str, architecture: Architecture, vocabulary: str) -> Iterator[str]:
    """Features are those of the network that was trained first, whatever its head.

    Nobody has said that the heads of BiT-S are the same in its modules and its checkpoints, which
    their makers evaluate on other pixels.
    """
    if (data, vocabulary) == ('s', ILSVRC2012):
        return
    is_tuned = vocabulary == ILSVRC2012
    end = '-ILSVRC2012' if is_tuned else ''
    yield f'https://storage.googleapis.com/bit_models/BiT-{data.upper()}-{architecture}{end}.npz'
    if data == 'm':
        end = '_ft_in1k' if is_tuned else ''
        name = str(architecture).removeprefix('R')
        yield f'hf://timm/resnetv2_{name}_bit.goog_in21k{end}'


@functools.cache
def cards() -> dict[str, KnownModel]:
    """The published ones, by name."""
    models = {}
    for data in 'ms':
        for architecture in _ARCHITECTURES:
            for vocabulary in _SUFFIXES:
                # BiT-S was trained on ILSVRC-2012, and has its head only.
                if (data, vocabulary) != ('s', IMAGENET21K):
                    model = _published(data, architecture.lower(), vocabulary)
                    models[model.card.name] = model
    return models


def distilled_size_px(location: str) -> int | None:
    """The side of the square that a distilled R50x1 takes, by the name of its file."""
    match = _DISTILLED.search(path_of(location))
    return int(match['size']) if match else None


def _trained_whole(card: ModelCard, name: str, path: str) -> ModelCard:
    """The card of a file with a head that was trained with its network."""
    return card.with_changes(
        name=name,
        resize=_CROPPED,
        gpu_batch_size=gpu_batch_size(_CROPPED.size_px),
        source=path.rpartition('/')[2],
    )


def find_by_location(path: str) -> KnownModel | None:
    """See `transforms.model.families.base.Family`."""
    if match := _HANDLE.search(path):
        vocabulary = (match['head'] or '').lower()
        name = f'bit-{match["data"]}-{match["network"]}'
    elif match := _CHECKPOINT.search(path):
        is_large = match['data'].lower() == 'm' and not match['head']
        vocabulary = IMAGENET21K if is_large else ILSVRC2012
        name = f'bit-{match["data"]}-{match["network"]}'
        known = cards().get(name.lower() + _SUFFIXES[vocabulary])
        if known and match['data'].lower() == 's':
            # The head was trained with the network, not later and on larger pictures.
            return known._replace(card=_trained_whole(known.card, known.card.name, path))
        return known
    elif size_px := distilled_size_px(path):
        known = cards()['bit-m-r50x1-ilsvrc2012']
        card = _trained_whole(known.card, f'bit-r50x1-distilled-{size_px}', path)
        return known._replace(card=card.to_size(size_px))
    elif match := _TIMM.search(path):
        vocabulary = ILSVRC2012 if match['head'] else IMAGENET21K
        name = f'bit-m-r{match["network"]}'
    else:
        return None
    return cards().get(name.lower() + _SUFFIXES[vocabulary])
