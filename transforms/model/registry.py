"""The families of models, and the models that are known by name."""

import re
from collections.abc import Container
from pathlib import Path

from transforms.core import uris
from transforms.core.errors import ModelError, UsageError
from transforms.model.families import bit, efficientnet_lite, efficientnet_v2
from transforms.model.families.base import Family, KnownModel, Recognized, path_of
from transforms.model.tensor_files import listed, open_tensors
from transforms.model.vocabulary import ILSVRC2012, IMAGENET21K

FAMILIES: dict[str, Family] = {
    'efficientnet-lite': efficientnet_lite,
    'bit': bit,
    'efficientnetv2': efficientnet_v2,
}
"""By the prefix of their models' names; in the order in which they are listed and asked."""


_SITE = r'(?:https?://tfhub\.dev/|https?://(?:www\.)?kaggle\.com/(?:api/v1/)?models/)?'


def known_models() -> dict[str, KnownModel]:
    """Every model that has a name, by name."""
    return {name: model for family in FAMILIES.values() for name, model in family.cards().items()}


def find_model(name: str) -> KnownModel | None:
    """The model of a name; None for what cannot be the name of a model.

    BiT-S was trained on ILSVRC-2012, so `bit-s-r50x1` means that head; `efficientnetv2-s` is the
    one with the classes of ImageNet-21k, as no other is known.

    Raises:
      UsageError: it looks like a name, but there is no such model.
    """
    models = known_models()
    names = (name, f'{name}-{ILSVRC2012}', f'{name}-{IMAGENET21K}')
    found = next((models[each] for each in names if each in models), None)
    if found is None and (meant := _meant(name, models)):
        raise UsageError(f'there is no model {name!r}; did you mean {meant}?')
    formed = {prefix: family.NAMES for prefix, family in FAMILIES.items() if family.NAMES}
    if found is None and re.fullmatch(rf'({"|".join(formed)})-[a-z0-9-]+', name, re.IGNORECASE):
        raise UsageError(
            f'there is no model {name!r}; the names are {" and ".join(formed.values())}; '
            '`lemmabeam models` lists them'
        )
    return found


def _meant(name: str, models: Container[str]) -> str:
    """The known name that this one is a misspelling of, or ''."""
    plain = name.lower().replace('_', '-')
    return plain if plain in models and plain != name else ''


def find_by_location(location: str) -> KnownModel | None:
    """The published model that a handle, URL, folder or file is a copy of, by its name."""
    path = path_of(location)
    found = (family.find_by_location(path) for family in FAMILIES.values())
    return next(filter(None, found), None)


def locations_of(location: str) -> tuple[str, ...]:
    """A location, and the site where the same module is available if it fails."""
    known = find_by_location(location)
    if known is None or not known.module:
        return (location,)
    publisher = '/'.join(known.module.split('/')[:2])
    # Where it is published, not mirrored.
    if not re.match(f'{_SITE}{re.escape(publisher)}/', location, re.IGNORECASE):
        return (location,)
    other = known.location if '/tensorflow2/' in location.lower() else known.module
    return location, other


def family_of(architecture: str) -> Family:
    """The family of the network that a card names.

    Raises:
      ModelError: no family has one of this name.
    """
    problems = []
    for family in FAMILIES.values():
        try:
            family.features(architecture)
        except ModelError as e:
            problems.append(str(e))
        else:
            return family
    raise ModelError('; '.join(filter(None, problems)))


def features_of(architecture: str) -> int:
    """Length of the features of the network that a card names.

    Raises:
      ModelError: no family has one of this name.
    """
    return family_of(architecture).features(architecture)


def recognize(path: Path, shown: str) -> tuple[Family, Recognized]:
    """Which network a file of weights belongs to, and its family, without reading its values.

    Raises:
      ModelError: the network is unknown, or the file is damaged.  Messages call it `shown`.
    """
    for family in FAMILIES.values():
        if found := family.recognize(path, shown):
            return family, found
    with open_tensors(path, shown) as tensors:
        names = sorted(tensors.shapes)
    raise ModelError(
        f'{shown}: weights of an unknown network (known are {", ".join(FAMILIES)}): it holds '
        f'{uris.printable(listed(names))}; export them as a SavedModel'
    )
