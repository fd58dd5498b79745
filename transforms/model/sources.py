"""From the value of --model to a model that a worker can load: weights, card and class list."""

import dataclasses
import functools
import hashlib
import importlib.resources
import os
import re
from pathlib import Path

from transforms import uris
from transforms.errors import ModelError, UsageError
from transforms.model import hub, registry
from transforms.model.card import (
    CARD_FILE,
    ModelCard,
    card_template,
    parse_card,
)
from transforms.model.checkpoint import Architecture
from transforms.model.vocabulary import NONE, Vocabulary, load_vocabulary, parse_labels

_DATA = importlib.resources.files('transforms.model') / 'data'
_SHA256 = re.compile(r'[0-9a-f]{64}')
_MAX_SMALL_FILE_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model that a worker can load.

    Attributes:
      card: what the model is.
      vocabulary: its classes.
      location: where its weights are, as given; may hold a secret.
      weights_sha256: hex hash over the weights, see `transforms.model.hub.tree_sha256`.
      cache: folder on each machine that holds what was downloaded; None for the default there.
      pictures: those of its canary that lie beside its card, by name.
    """

    card: ModelCard
    vocabulary: Vocabulary
    location: str
    weights_sha256: str
    cache: str | None
    pictures: tuple[tuple[str, bytes], ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over weights and card, see `ModelCard.fingerprint`."""
        return self.card.fingerprint(self.weights_sha256, self.vocabulary.sha256)

    @property
    def id(self) -> str:
        """The name under which its predictions stand."""
        return f'{self.card.name}-{self.fingerprint[:8]}'

    @property
    def is_embedded(self) -> bool:
        """Whether it lies inside the package."""
        return self.location == registry.EMBEDDED

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether its network is one of ours, which can be computed in any precision."""
        return self.is_embedded or bool(self.card.architecture)

    def folder(self) -> Path:
        """The SavedModel on this machine, fetched if need be.

        Raises:
          ModelError: it cannot be fetched, or is not what the launcher saw.
          UsageError: there is nothing at its location.
        """
        folder = hub.fetch_model(self.location, self.cache or hub.default_cache())
        found = hub.tree_sha256(folder)
        if found != self.weights_sha256:
            raise ModelError(
                f'the model at {printable_location(self.location)} has the SHA-256 {found} here, '
                f'{self.weights_sha256} was expected; it was changed, or {folder} is damaged: '
                'delete that folder to fetch it again'
            )
        return folder

    def picture(self, name: str) -> bytes:
        """A canary's picture: one from beside the card, or one that comes with the package."""
        own = dict(self.pictures)
        return own[name] if name in own else (_DATA / 'canary' / name).read_bytes()


def resolve_model(
    name: str,
    *,
    card: str | None = None,
    size_px: int | None = None,
    cache: str | None = None,
    sha256: str | None = None,
    on_progress: hub.Progress | None = None,
) -> ModelSource:
    """Finds a model, and fetches it if it is not on this machine.

    Args:
      name: the value of --model: a name, a handle, a URL or a path.
      card: for a model that brings no card: the name of a known model whose card it has, or a
        file.
      size_px: side of the square it is to take, instead of the card's.
      cache: folder for downloads; None for `transforms.model.hub.default_cache`.
      sha256: what the hash of the weights must be.
      on_progress: told how far a download is.

    Raises:
      UsageError: there is no such model, or its card or class list cannot be used.
      ModelError: it cannot be fetched, or has another hash.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f'--model_sha256 {sha256!r}: expected 64 hex digits, in lower case')
    pictures: tuple[tuple[str, bytes], ...] = ()
    local = _local(name)
    known = None if local else registry.find_model(name)
    if known is not None and known.location == registry.EMBEDDED:
        if card is not None:
            raise UsageError(f'--model_card {card!r}: the model {name!r} has a card of its own')
        model_card, vocabulary = known.card, load_vocabulary(known.card.vocabulary)
        location, weights_sha256 = known.location, _embedded_sha256()
    else:
        location = local or (name if known is None else known.location)
        folder = hub.fetch_model(location, cache or hub.default_cache(), on_progress)
        weights_sha256 = hub.tree_sha256(folder)
        model_card, beside = _find_card(folder, location, card)
        vocabulary = _find_vocabulary(beside, model_card)
        pictures = _find_pictures(beside, model_card, vocabulary)
    if sha256 is not None and weights_sha256 != sha256:
        raise ModelError(
            f'--model {printable_location(name)!r} has the SHA-256 {weights_sha256}, '
            f'--model_sha256 wants {sha256}'
        )
    if size_px is not None:
        model_card = model_card.to_size(size_px)
    return ModelSource(model_card, vocabulary, location, weights_sha256, cache, pictures)


def _local(name: str) -> str | None:
    """The absolute path of a local model, which wins over a name or handle that looks alike."""
    if uris.scheme_of(name) or name in ('', registry.EMBEDDED):
        return None
    return uris.absolute(name) if os.path.exists(name) else None  # noqa: PTH110 (never an error)


def printable_location(location: str) -> str:
    """A location fit for messages and reports.

    Of a URL without userinfo and query: nobody can tell which parameters are secret.
    """
    text = uris.printable(location)
    return text.partition('?')[0] if uris.scheme_of(location) in ('http', 'https') else text


def embedded_weights() -> bytes:
    """The .npz file of the embedded model."""
    return (_DATA / 'efficientnet_lite0_ilsvrc2012_fp16.npz').read_bytes()


@functools.cache
def _embedded_sha256() -> str:
    return hashlib.sha256(embedded_weights()).hexdigest()


def _find_card(folder: Path, location: str, given: str | None) -> tuple[ModelCard, Path]:
    """The card of a model, and the folder in which its class list and pictures lie."""
    if given is not None:
        if os.path.isfile(given):  # noqa: PTH113 (false, not an error, for impossible names)
            return _parse_card(Path(given), given), Path(given).parent
        known = registry.find_model(given)
        if known is None:
            raise UsageError(
                f'--model_card {printable_location(given)!r}: neither a known model nor a file'
            )
        return known.card, folder
    where = printable_location(location)
    own = folder / CARD_FILE
    if own.is_file():
        return _parse_card(own, f'{where}: {CARD_FILE}'), folder
    published = registry.find_by_location(location)
    if published is None:
        raise UsageError(
            f'--model {where!r} brings no {CARD_FILE}: write one into its folder, such as '
            f'{card_template()}, or pass --model_card with a file or, for a copy of a published '
            'model, its name'
        )
    return published.card, folder


def _parse_card(path: Path, where: str) -> ModelCard:
    card = parse_card(_small_file(path), where)
    if card.architecture:
        try:
            Architecture.parse(card.architecture)
        except ModelError as e:
            raise UsageError(f'{where}: {e}') from e
    return card


def _find_vocabulary(beside: Path, card: ModelCard) -> Vocabulary:
    if card.labels:
        path = beside / card.labels
        if not path.is_file():
            raise UsageError(f'the file {card.labels!r} that the model card names is not beside it')
        return parse_labels(card.name, _small_file(path), card.labels)
    return load_vocabulary(card.vocabulary or NONE)


def _find_pictures(
    beside: Path, card: ModelCard, vocabulary: Vocabulary
) -> tuple[tuple[str, bytes], ...]:
    """The pictures of a canary that are no packaged ones.

    Raises:
      UsageError: one is missing, or must show what no class of the model is.
    """
    pictures = {}
    for canary in card.canary:
        path = beside / canary.image
        if path.is_file():
            pictures[canary.image] = _small_file(path)
        elif not (_DATA / 'canary' / canary.image).is_file():
            raise UsageError(
                f'the canary picture {canary.image!r} that the model card names is not beside it'
            )
        if not vocabulary.has(canary.expected):
            raise UsageError(
                f'the canary of the model card expects {canary.expected!r} in {canary.image!r}, '
                'but no class of the model has this name or lies below this WordNet id'
            )
    return tuple(sorted(pictures.items()))


def _small_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_SMALL_FILE_BYTES:
        raise UsageError(f'{path}: {size} bytes, expected {_MAX_SMALL_FILE_BYTES} at most')
    return path.read_bytes()
