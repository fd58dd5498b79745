"""From the value of --model to a model that a worker can load: weights, card and class list."""

import dataclasses
import functools
import hashlib
import importlib.resources
import re
from pathlib import Path

from transforms import uris
from transforms.errors import ModelError, UsageError
from transforms.model import hub, registry
from transforms.model.card import (
    CARD_FILE,
    MAX_SIZE_PX,
    MIN_SIZE_PX,
    ModelCard,
    card_template,
    parse_card,
)
from transforms.model.checkpoint import Architecture
from transforms.model.vocabulary import NONE, Vocabulary, load_vocabulary, parse_labels

_DATA = importlib.resources.files('transforms.model') / 'data'
_SHA256 = re.compile(r'[0-9a-f]{64}')
_MAX_SMALL_FILE_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model that a worker can load.

    Attributes:
      card: what the model is.
      vocabulary: its classes.
      location: where its weights are, as given; may hold a secret.
      weights_sha256: hex hash over the weights, see `transforms.model.hub.tree_sha256`.
      cache: folder on each machine that holds what was downloaded.
    """

    card: ModelCard
    vocabulary: Vocabulary
    location: str
    weights_sha256: str
    cache: str

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
        folder = hub.fetch_model(self.location, self.cache)
        found = hub.tree_sha256(folder)
        if found != self.weights_sha256:
            raise ModelError(
                f'the model at {printable_location(self.location)} has the SHA-256 {found} here, '
                f'{self.weights_sha256} was expected; it was changed, or {folder} is damaged: '
                'delete that folder to fetch it again'
            )
        return folder

    def picture(self, name: str) -> bytes:
        """A canary's picture: a file beside the card, or one that comes with the package.

        Raises:
          ModelError: there is none of this name.
        """
        if not self.is_embedded and self.card.canary:
            path = hub.fetch_model(self.location, self.cache) / name
            if path.is_file():
                return path.read_bytes()
        packaged = _DATA / 'canary' / name
        if not packaged.is_file():
            raise ModelError(f'the canary picture {name!r} of the model card is not there')
        return packaged.read_bytes()


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
    folder_of_cache = str(cache or hub.default_cache())
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f'--model_sha256 {sha256!r}: expected 64 hex digits, in lower case')
    known = registry.find_model(name)
    if known is not None and known.location == registry.EMBEDDED:
        if card is not None:
            raise UsageError(f'--model_card {card!r}: the model {name!r} has a card of its own')
        model_card, vocabulary = known.card, load_vocabulary(known.card.vocabulary)
        location, weights_sha256 = known.location, _embedded_sha256()
    else:
        location = name if known is None else known.location
        folder = hub.fetch_model(location, folder_of_cache, on_progress)
        weights_sha256 = hub.tree_sha256(folder)
        model_card = _find_card(folder, location, card)
        vocabulary = _find_vocabulary(folder, model_card)
    if sha256 is not None and weights_sha256 != sha256:
        raise ModelError(
            f'--model {printable_location(name)!r} has the SHA-256 {weights_sha256}, '
            f'--model_sha256 wants {sha256}'
        )
    if size_px is not None:
        if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
            raise UsageError(
                f'--model_size {size_px}: expected {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels'
            )
        model_card = model_card.to_size(size_px)
    return ModelSource(model_card, vocabulary, location, weights_sha256, folder_of_cache)


def printable_location(location: str) -> str:
    """A location fit for messages and reports: without userinfo and signing parameters."""
    return uris.printable(location)


def embedded_weights() -> bytes:
    """The .npz file of the embedded model."""
    return (_DATA / 'efficientnet_lite0_ilsvrc2012_fp16.npz').read_bytes()


@functools.cache
def _embedded_sha256() -> str:
    return hashlib.sha256(embedded_weights()).hexdigest()


def _find_card(folder: Path, location: str, given: str | None) -> ModelCard:
    where = printable_location(location)
    own = folder / CARD_FILE
    if given is not None:
        known = registry.find_model(given)
        if known is not None:
            return known.card
        if not Path(given).is_file():
            raise UsageError(f'--model_card {given!r}: neither a known model nor a file')
        card = parse_card(_small_file(Path(given)), given)
    elif own.is_file():
        card = parse_card(_small_file(own), f'{where}: {CARD_FILE}')
    else:
        published = registry.find_by_location(location)
        if published is None:
            raise UsageError(
                f'--model {where!r} brings no {CARD_FILE}: write one into its folder, such as '
                f'{card_template()}, or pass --model_card with a file or, for a copy of a '
                'published model, its name'
            )
        return published.card
    if card.architecture:
        try:
            Architecture.parse(card.architecture)
        except ModelError as e:
            raise UsageError(f'{where}: {CARD_FILE}: {e}') from e
    return card


def _find_vocabulary(folder: Path, card: ModelCard) -> Vocabulary:
    if card.labels:
        path = folder / card.labels
        if not path.is_file():
            raise UsageError(f'the file {card.labels!r} that {CARD_FILE} names is not beside it')
        return parse_labels(card.name, _small_file(path), card.labels)
    return load_vocabulary(card.vocabulary or NONE)


def _small_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_SMALL_FILE_BYTES:
        raise UsageError(f'{path}: {size} bytes, expected {_MAX_SMALL_FILE_BYTES} at most')
    return path.read_bytes()
