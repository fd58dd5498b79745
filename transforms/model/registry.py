"""The models that are known by name, and what their cards say."""

import functools
import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from transforms.core import uris
from transforms.core.errors import UsageError
from transforms.images.resize import Resize
from transforms.model.card import CAT, Activation, Canary, ModelCard
from transforms.model.checkpoint import Architecture, multiply_adds, parameters
from transforms.model.vocabulary import IMAGENET21K, load_vocabulary, names_by_length

EMBEDDED = 'embedded'
PUBLISHED = {
    'bit': 'https://tfhub.dev/google/bit/',
    'efficientnetv2': 'https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet21k_',
}
"""How the locations of a family of models start."""

_ARCHITECTURES = ('R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x4')
_ILSVRC2012 = 'ilsvrc2012'
_ACTIVATIONS = {'': Activation.NONE, IMAGENET21K: Activation.SIGMOID}
_SUFFIXES = {IMAGENET21K: '', _ILSVRC2012: '-ilsvrc2012', '': '-features'}

# Of what Kaggle's API is asked for, or of an archive.
_END = r'(?:/download)?(?:\.tar\.gz|\.tgz|\.tar|\.zip)?$'
# The last parts of what the published modules are called, wherever they are mirrored:
# bit/m-r101x3/imagenet21k_classification/1 on TF-Hub and
# bit/tensorFlow2/m-r101x3-imagenet21k-classification/1 on Kaggle, and with other separators what
# these sites call the archives.
_HANDLE = re.compile(
    r'(?:^|/)bit(?:[/_]|-(?=tensorflow2-))(?:(?:frameworks/)?tensorflow2[/_-](?:variations/)?)?'
    r'(?P<data>[sm])-(?P<network>r\d+x\d+)'
    r'(?:[/_-](?P<head>imagenet21k|ilsvrc2012)[_-]classification)?'
    rf'(?:[/_](?:versions/)?\d+|-v\d+)?{_END}',
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
_QUERY = re.compile('[?#]')
# Where the modules are published, not mirrored.
_SITE = re.compile(
    r'(?:https?://tfhub\.dev/|https?://(?:www\.)?kaggle\.com/(?:api/v1/)?models/)?google/bit/',
    re.IGNORECASE,
)


# Likewise efficientnet_v2_imagenet21k_b0/classification/2 of TF-Hub and
# efficientnet-v2/tensorFlow2/imagenet21k-b0-classification/1 of Kaggle, and the archives of both.
_EFFICIENTNET_HANDLE = re.compile(
    r'(?:^|/)(?:(?:imagenet_)?efficientnet_v2_imagenet21k_'
    r'|efficientnet-v2[/-](?:frameworks/)?(?:tensorflow2[/-])?(?:variations/)?imagenet21k-)'
    r'(?P<variant>b[0-3]|s|m|l|xl)[/_-]classification(?:(?:/versions)?[/_]\d+|-v\d+)?'
    rf'{_END}',
    re.IGNORECASE,
)


class KnownModel(NamedTuple):
    """A model that is known by name.

    Attributes:
      card: what it is.
      location: where it is published; `EMBEDDED` for the one inside the package.
      parameters: number of trained values.
      multiply_adds: operations for one image of the size that the card says.
      module: the same module on another site, '' without.
      checkpoints: files of the same weights, the best first.
      takes_any_size: whether it also works on other squares than its card says.
    """

    card: ModelCard
    location: str
    parameters: int
    multiply_adds: int
    module: str = ''
    checkpoints: tuple[str, ...] = ()
    takes_any_size: bool = True

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


# How BiT was evaluated on the data that it was trained on.
_CROPPED = Resize(224, short_side_px=256, filter='bilinear')


def _bit_resize(architecture: Architecture, vocabulary: str, is_fine_tuned: bool) -> Resize:
    if not is_fine_tuned:
        return _CROPPED
    if vocabulary != _ILSVRC2012:
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
      is_fine_tuned: whether its head was trained later than the network, on whole pictures that
        were squashed, as the ILSVRC-2012 heads of BiT-M were; else it takes a centre crop.
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
        threshold=_MULTI_LABEL_THRESHOLD if is_multi_label else 0.05,
        max_labels=_MULTI_LABEL_MAX if is_multi_label else 5,
        batch_size=8,
        gpu_batch_size=_gpu_batch_size(resize),
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
      classes: of its head, None where it has none; no class list is named where none is known.
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


# A guess, as nobody has published thresholds for these heads.  They were trained on 1.1 labels an
# image, so that 0.3 would leave most pictures without any.
_MULTI_LABEL_THRESHOLD, _MULTI_LABEL_MAX = 0.1, 20


def _gpu_batch_size(resize: Resize) -> int:
    return 128 if resize.size_px <= 300 else 32


def _published(data: str, network: str, vocabulary: str) -> KnownModel:
    """A module as Google published it; its weights are those of the official checkpoints."""
    architecture = Architecture.parse(network)
    head = f'/{vocabulary}_classification' if vocabulary else ''
    location = f'{PUBLISHED["bit"]}{data}-{network}{head}/1'
    card = bit_card(
        f'bit-{data}-{network}{_SUFFIXES[vocabulary]}',
        architecture,
        vocabulary,
        value_range=(0.0, 1.0),
        is_fine_tuned=vocabulary == _ILSVRC2012,
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
    if (data, vocabulary) == ('s', _ILSVRC2012):
        return
    is_tuned = vocabulary == _ILSVRC2012
    end = '-ILSVRC2012' if is_tuned else ''
    yield f'https://storage.googleapis.com/bit_models/BiT-{data.upper()}-{architecture}{end}.npz'
    if data == 'm':
        end = '_ft_in1k' if is_tuned else ''
        name = str(architecture).removeprefix('R')
        yield f'hf://timm/resnetv2_{name}_bit.goog_in21k{end}'


class _EfficientNet(NamedTuple):
    """What its tests count, layer by layer, of an EfficientNetV2 with 21,843 classes."""

    size_px: int
    parameters: int
    multiply_adds: int


_EFFICIENTNETS = {
    'b0': _EfficientNet(224, 33_839_587, 744_765_216),
    'b1': _EfficientNet(240, 34_840_935, 1_223_498_400),
    'b2': _EfficientNet(260, 39_463_873, 1_726_889_776),
    'b3': _EfficientNet(300, 46_394_097, 3_043_473_664),
    's': _EfficientNet(384, 48_158_371, 8_392_296_192),
    'm': _EfficientNet(480, 80_839_239, 24_609_139_424),
    'l': _EfficientNet(480, 145_215_155, 56_106_378_048),
    'xl': _EfficientNet(512, 234_819_691, 93_380_130_560),
}


def _efficientnet(variant: str, network: _EfficientNet) -> KnownModel:
    """A module as Google published it, which takes squares of one size."""
    location = f'{PUBLISHED["efficientnetv2"]}{variant}/classification/2'
    # Its authors crop for squares below 320 px, and squash for larger ones.
    short_side_px = network.size_px + 32 if network.size_px < 320 else None
    resize = Resize(network.size_px, short_side_px, filter='bilinear')
    card = ModelCard(
        name=f'efficientnetv2-{variant}-imagenet21k',
        resize=resize,
        mean=0.0,
        std=255.0,
        activation=Activation.SIGMOID,
        vocabulary=IMAGENET21K,
        threshold=_MULTI_LABEL_THRESHOLD,
        max_labels=_MULTI_LABEL_MAX,
        batch_size=8,
        gpu_batch_size=_gpu_batch_size(resize),
        canary=(CAT,),
        source=location,
        licence='Apache-2.0',
    )
    return KnownModel(
        card, location, network.parameters, network.multiply_adds, takes_any_size=False
    )


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """Every model with a name, by it."""
    models = {EMBEDDED: KnownModel(EMBEDDED_CARD, EMBEDDED, 4_631_000, 385_187_552)}
    for data in 'ms':
        for architecture in _ARCHITECTURES:
            for vocabulary in _SUFFIXES:
                # BiT-S was trained on ILSVRC-2012, and has its head only.
                if (data, vocabulary) != ('s', IMAGENET21K):
                    model = _published(data, architecture.lower(), vocabulary)
                    models[model.card.name] = model
    for variant, network in _EFFICIENTNETS.items():
        model = _efficientnet(variant, network)
        models[model.card.name] = model
    return models


def find_model(name: str) -> KnownModel | None:
    """The model of a name; None for what is no name of a model.

    BiT-S was trained on ILSVRC-2012, so that `bit-s-r50x1` means that head; `efficientnetv2-s` is
    the one with the classes of ImageNet-21k, as no other is known.

    Raises:
      UsageError: it looks like a name, but there is no such model.
    """
    models = known_models()
    names = (name, f'{name}-{_ILSVRC2012}', f'{name}-{IMAGENET21K}')
    found = next((models[each] for each in names if each in models), None)
    if found is None and (meant := _meant(name, models)):
        raise UsageError(f'there is no model {name!r}; did you mean {meant}?')
    if found is None and re.fullmatch(r'(bit|efficientnetv2)-[a-z0-9-]+', name, re.IGNORECASE):
        raise UsageError(
            f'there is no model {name!r}; the names are bit-{{s,m}}-{{r50x1,r50x3,r101x1,r101x3,'
            'r152x4}[-ilsvrc2012|-features] and efficientnetv2-{b0,b1,b2,b3,s,m,l,xl}-imagenet21k; '
            '`lemmabeam models` lists them'
        )
    return found


def _meant(name: str, models: Container[str]) -> str:
    """The known name that this one is another spelling of, or ''."""
    plain = name.lower().replace('_', '-')
    return plain if plain in models and plain != name else ''


def distilled_size_px(location: str) -> int | None:
    """The side of the square that a distilled R50x1 takes, by the name of its file."""
    match = _DISTILLED.search(_path_of(location))
    return int(match['size']) if match else None


def _path_of(location: str) -> str:
    is_url = bool(uris.scheme_of(location))
    return (_QUERY.split(location, maxsplit=1)[0] if is_url else location).rstrip('/')


def _trained_whole(card: ModelCard, name: str, path: str) -> ModelCard:
    """The card of a file with a head that was trained with its network."""
    return card.with_changes(
        name=name,
        resize=_CROPPED,
        gpu_batch_size=_gpu_batch_size(_CROPPED),
        source=path.rpartition('/')[2],
    )


def find_by_location(location: str) -> KnownModel | None:
    """The published model that a handle, URL, folder or file is a copy of, by its name."""
    path = _path_of(location)
    if match := _EFFICIENTNET_HANDLE.search(path):
        return known_models()[f'efficientnetv2-{match["variant"].lower()}-imagenet21k']
    if match := _HANDLE.search(path):
        vocabulary = (match['head'] or '').lower()
        name = f'bit-{match["data"]}-{match["network"]}'
    elif match := _CHECKPOINT.search(path):
        is_large = match['data'].lower() == 'm' and not match['head']
        vocabulary = IMAGENET21K if is_large else _ILSVRC2012
        name = f'bit-{match["data"]}-{match["network"]}'
        known = known_models().get(name.lower() + _SUFFIXES[vocabulary])
        if known and match['data'].lower() == 's':
            # The head was trained with the network, not later and on larger pictures.
            return known._replace(card=_trained_whole(known.card, known.card.name, path))
        return known
    elif size_px := distilled_size_px(path):
        known = known_models()['bit-m-r50x1-ilsvrc2012']
        card = _trained_whole(known.card, f'bit-r50x1-distilled-{size_px}', path)
        return known._replace(card=card.to_size(size_px))
    elif match := _TIMM.search(path):
        vocabulary = _ILSVRC2012 if match['head'] else IMAGENET21K
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
