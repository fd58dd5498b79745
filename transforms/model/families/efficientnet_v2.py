"""EfficientNetV2 (Tan and Le, 2021), as Google published it: SavedModels, used as they are."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transforms.core.errors import ModelError
from transforms.images.resize import Resize
from transforms.model.card import CAT, Activation, ModelCard
from transforms.model.families.base import (
    HANDLE_END,
    MULTI_LABEL_MAX,
    MULTI_LABEL_THRESHOLD,
    Built,
    KnownModel,
    NotRebuiltError,
    Recognized,
    gpu_batch_size,
)
from transforms.model.vocabulary import IMAGENET21K

if TYPE_CHECKING:
    from transforms.model.resolve import ModelSource

PUBLISHED = 'https://tfhub.dev/google/imagenet/efficientnet_v2_imagenet21k_'
NAMES = 'efficientnetv2-{b0,b1,b2,b3,s,m,l,xl}-imagenet21k'

# Wherever they are mirrored: efficientnet_v2_imagenet21k_b0/classification/2 of TF-Hub and
# efficientnet-v2/tensorFlow2/imagenet21k-b0-classification/1 of Kaggle, and the archives of both.
_HANDLE = re.compile(
    r'(?:^|/)(?:(?:imagenet_)?efficientnet_v2_imagenet21k_'
    r'|efficientnet-v2[/-](?:frameworks/)?(?:tensorflow2[/-])?(?:variations/)?imagenet21k-)'
    r'(?P<variant>b[0-3]|s|m|l|xl)[/_-]classification(?:(?:/versions)?[/_]\d+|-v\d+)?'
    rf'{HANDLE_END}',
    re.IGNORECASE,
)


class _Network(NamedTuple):
    """What its tests count, layer by layer, of an EfficientNetV2 with 21,843 classes."""

    size_px: int
    parameters: int
    multiply_adds: int


_NETWORKS = {
    'b0': _Network(224, 33_839_587, 744_765_216),
    'b1': _Network(240, 34_840_935, 1_223_498_400),
    'b2': _Network(260, 39_463_873, 1_726_889_776),
    'b3': _Network(300, 46_394_097, 3_043_473_664),
    's': _Network(384, 48_158_371, 8_392_296_192),
    'm': _Network(480, 80_839_239, 24_609_139_424),
    'l': _Network(480, 145_215_155, 56_106_378_048),
    'xl': _Network(512, 234_819_691, 93_380_130_560),
}


def _published(variant: str, network: _Network) -> KnownModel:
    """A module as Google published it, which takes squares of one size."""
    location = f'{PUBLISHED}{variant}/classification/2'
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
        threshold=MULTI_LABEL_THRESHOLD,
        max_labels=MULTI_LABEL_MAX,
        batch_size=8,
        gpu_batch_size=gpu_batch_size(resize.size_px),
        canary=(CAT,),
        source=location,
        licence='Apache-2.0',
    )
    return KnownModel(
        card, location, network.parameters, network.multiply_adds, takes_any_size=False
    )


@functools.cache
def cards() -> Mapping[str, KnownModel]:
    """The published models, by name."""
    models = (_published(variant, network) for variant, network in _NETWORKS.items())
    return {model.card.name: model for model in models}


def find_by_location(path: str) -> KnownModel | None:
    """See `transforms.model.families.base.Family`."""
    match = _HANDLE.search(path)
    return cards()[f'efficientnetv2-{match["variant"].lower()}-imagenet21k'] if match else None


def features(architecture: str) -> int:  # noqa: ARG001
    """Has none: its networks are not built here."""
    raise ModelError('')


def recognize(path: Path, shown: str) -> Recognized | None:  # noqa: ARG001
    """Likewise."""
    return None


def build(source: 'ModelSource', path: Path, precision: str, batch_size: int) -> Built:  # noqa: ARG001
    """Likewise."""
    raise NotRebuiltError
