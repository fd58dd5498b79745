"""The models that are known by name, and what their cards say."""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from transforms.errors import UsageError
from transforms.model.card import CAT, Activation, Canary, ModelCard, Resize
from transforms.model.checkpoint import Architecture, multiply_adds, parameters
from transforms.model.vocabulary import load_vocabulary

EMBEDDED = 'embedded'

_ARCHITECTURES = ('R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x4')
_IMAGENET21K, _ILSVRC2012 = 'imagenet21k', 'ilsvrc2012'
_SUFFIXES = {_IMAGENET21K: '', _ILSVRC2012: '-ilsvrc2012', '': '-features'}

# The last parts of what the published modules are called, wherever they are mirrored:
# bit/m-r101x3/imagenet21k_classification/1 on TF-Hub and
# bit/tensorFlow2/m-r101x3-imagenet21k-classification/1 on Kaggle, and with other separators what
# these sites call the archives.
_HANDLE = re.compile(
    r'(?:^|/)bit(?:[/_]|-(?=tensorflow2-))(?:(?:frameworks/)?tensorflow2[/_-](?:variations/)?)?'
    r'(?P<data>[sm])-(?P<network>r\d+x\d+)'
    r'(?:[/_-](?P<head>imagenet21k|ilsvrc2012)[_-]classification)?'
    r'(?:[/_](?:versions/)?\d+|-v\d+)?(?:/download)?(?:\.tar\.gz|\.tgz|\.tar|\.zip)?$',
    re.IGNORECASE,
)
# Official checkpoints, BiT-M-R101x3-ILSVRC2012.npz.
_CHECKPOINT = re.compile(
    r'(?:^|/)BiT-(?P<data>[SM])-(?P<network>R\d+x\d+)(?:-(?P<head>ILSVRC2012))?\.(?:npz|h5)$',
    re.IGNORECASE,
)
# And timm's, whatever their folder is called by whom.
_TIMM = re.compile(
    r'(?:^|[/-])resnetv2_(?P<network>\d+x\d+)_bit\.goog_in21k(?P<head>_ft_in1k)?'
    r'(?:\.safetensors|[@/].*)?$',
    re.IGNORECASE,
)
# Where the modules are published, not mirrored.
_SITE = re.compile(
    r'(?:https?://tfhub\.dev/|https?://(?:www\.)?kaggle\.com/(?:api/v1/)?models/)?google/bit/',
    re.IGNORECASE,
)


class KnownModel(NamedTuple):
    """A model that is known by name.

    Attributes:
      card: what it is.
      location: where it is published; `EMBEDDED` for the one inside the package.
      parameters: number of trained values.
      multiply_adds: operations for one image of 224 x 224 px.
      module: the same module on another site, '' without.
      checkpoints: files of the same weights, the best first.
    """

    card: ModelCard
    location: str
    parameters: int
    multiply_adds: int
    module: str = ''
    checkpoints: tuple[str, ...] = ()

    @property
    def locations(self) -> tuple[str, ...]:
        """All places that it can be had from, in the order in which they are tried."""
        return tuple(filter(None, (self.location, self.module, *self.checkpoints)))


EMBEDDED_CARD = ModelCard(
    name='efficientnet-lite0',
    resize=Resize(size_px=224, short_side_px=256, filter='bicubic'),
    mean=127.0,
    std=128.0,
    activation=Activation.SOFTMAX,
    vocabulary=_ILSVRC2012,
    threshold=0.05,
    max_labels=5,
    batch_size=32,
    # 0.95 with the right colours in the right range, 0.81 with red and blue exchanged, 0.74 with
    # samples from 0 to 1; the cat is one to this network in any colours.
    canary=(CAT, Canary('coffee.jpg', 'espresso', min_score=0.88)),
    source='EfficientNet-Lite0 trained on ILSVRC-2012',
    licence='Apache-2.0',
)


def bit_card(
    name: str,
    architecture: Architecture,
    vocabulary: str,
    *,
    value_range: tuple[float, float],
    source: str = '',
    licence: str = '',
) -> ModelCard:
    """The card of a BiT network.

    Args:
      name: short name.
      architecture: depth and width.
      vocabulary: 'imagenet21k', 'ilsvrc2012', or '' for a network that ends with its features.
      value_range: what it takes for black and white.
      source, licence: for people.
    """
    low, high = value_range
    std = 255.0 / (high - low)
    is_softmax = vocabulary == _ILSVRC2012
    activations = {_IMAGENET21K: Activation.SIGMOID, _ILSVRC2012: Activation.SOFTMAX}
    return ModelCard(
        name=name,
        # The authors fine-tuned and evaluated the ILSVRC-2012 heads at 480 px; for the ImageNet-21k
        # heads no recipe was published, and 224 px is what they were trained at.
        resize=Resize(480 if is_softmax else 224, short_side_px=None, filter='bilinear'),
        mean=0.0 - low * std,
        std=std,
        activation=activations.get(vocabulary, Activation.NONE),
        vocabulary=vocabulary,
        threshold=0.05 if is_softmax else 0.3,
        max_labels=5 if is_softmax else 20,
        batch_size=8,
        gpu_batch_size=32 if is_softmax else 128,
        architecture=str(architecture),
        canary=(CAT,) if vocabulary else (),
        source=source,
        licence=licence,
    )


def _published(data: str, network: str, vocabulary: str) -> KnownModel:
    """A module as Google published it; its weights are those of the official checkpoints."""
    architecture = Architecture.parse(network)
    head = f'/{vocabulary}_classification' if vocabulary else ''
    location = f'https://tfhub.dev/google/bit/{data}-{network}{head}/1'
    card = bit_card(
        f'bit-{data}-{network}{_SUFFIXES[vocabulary]}',
        architecture,
        vocabulary,
        value_range=(0.0, 1.0),
        source=location,
        licence='Apache-2.0',
    )
    classes = len(load_vocabulary(vocabulary)) if vocabulary else None
    slug = f'-{vocabulary}-classification' if vocabulary else ''
    return KnownModel(
        card,
        location,
        parameters(architecture, classes),
        multiply_adds(architecture, classes, 224),
        f'google/bit/tensorFlow2/{data}-{network}{slug}/1',
        tuple(_checkpoints(data, architecture, vocabulary)),
    )


def _checkpoints(data: str, architecture: Architecture, vocabulary: str) -> Iterator[str]:
    """Features are those of the network that was trained first, whatever its head."""
    is_tuned = data == 'm' and vocabulary == _ILSVRC2012
    end = '-ILSVRC2012' if is_tuned else ''
    yield f'https://storage.googleapis.com/bit_models/BiT-{data.upper()}-{architecture}{end}.npz'
    if data == 'm':
        end = '_ft_in1k' if is_tuned else ''
        name = str(architecture).removeprefix('R')
        yield f'hf://timm/resnetv2_{name}_bit.goog_in21k{end}'


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """Every model with a name, by it."""
    models = {EMBEDDED: KnownModel(EMBEDDED_CARD, EMBEDDED, 4_631_000, 385_187_552)}
    for data in 'ms':
        for architecture in _ARCHITECTURES:
            for vocabulary in _SUFFIXES:
                # BiT-S was trained on ILSVRC-2012, and has its head only.
                if (data, vocabulary) != ('s', _IMAGENET21K):
                    model = _published(data, architecture.lower(), vocabulary)
                    models[model.card.name] = model
    return models


def find_model(name: str) -> KnownModel | None:
    """The model of a name; None for what is no name of a model.

    BiT-S was trained on ILSVRC-2012, so that `bit-s-r50x1` means that head.

    Raises:
      UsageError: it looks like a name, but there is no such model.
    """
    models = known_models()
    found = models.get(name) or models.get(f'{name}-ilsvrc2012')
    if found is None and re.fullmatch(r'bit-[a-z0-9-]+', name, re.IGNORECASE):
        raise UsageError(
            f'there is no model {name!r}; the names are bit-{{s,m}}-{{r50x1,r50x3,r101x1,r101x3,'
            'r152x4}[-ilsvrc2012|-features]; `lemmabeam models` lists them'
        )
    return found


def find_by_location(location: str) -> KnownModel | None:
    """The published model that a handle, URL, folder or file is a copy of, by its name."""
    path = location.partition('?')[0].rstrip('/')
    if match := _HANDLE.search(path):
        vocabulary = (match['head'] or '').lower()
        name = f'bit-{match["data"]}-{match["network"]}'
    elif match := _CHECKPOINT.search(path):
        is_large = match['data'].lower() == 'm' and not match['head']
        vocabulary = _IMAGENET21K if is_large else _ILSVRC2012
        name = f'bit-{match["data"]}-{match["network"]}'
    elif match := _TIMM.search(path):
        vocabulary = _ILSVRC2012 if match['head'] else _IMAGENET21K
        name = f'bit-m-r{match["network"]}'
    else:
        return None
    return known_models().get(name.lower() + _SUFFIXES[vocabulary])


def locations_of(location: str) -> tuple[str, ...]:
    """A location, and the site where the same module can be had if it fails."""
    known = find_by_location(location) if _SITE.match(location) else None
    if known is None or not known.module:
        return (location,)
    other = known.location if '/tensorflow2/' in location.lower() else known.module
    return location, other
