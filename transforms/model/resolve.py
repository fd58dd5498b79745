"""From the value of --model to a model that a worker can load: weights, card and class list."""

import dataclasses
import functools
import importlib.resources
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from transforms.core import uris
from transforms.core.errors import InvalidOption, ModelError, UsageError
from transforms.model import registry
from transforms.model.card import CARD_FILE, ModelCard, card_template, parse_card
from transforms.model.download.cache import default_cache
from transforms.model.download.fetch import fetch_model, is_fetched, sha256_of
from transforms.model.download.http import Progress, shown
from transforms.model.families.base import KnownModel, Recognized
from transforms.model.tensor_files import GRAPHS, Kind, kind_of
from transforms.model.vocabulary import (
    NONE,
    Vocabulary,
    load_vocabulary,
    names_by_length,
    parse_labels,
)

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
      weights_sha256: hex hash over the weights, see `transforms.model.download.fetch.sha256_of`.
      cache: folder on each machine that holds what was downloaded; None for the default there.
      pictures: those of its canary that are beside its card, by name.
      kind: the format of its weights.
      passed_over: why the places that were tried before this one failed, in order.
    """

    card: ModelCard
    vocabulary: Vocabulary
    location: str
    weights_sha256: str
    cache: str | None
    pictures: tuple[tuple[str, bytes], ...] = ()
    kind: Kind = Kind.SAVED_MODEL
    passed_over: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over weights and card, see `ModelCard.fingerprint`."""
        return self.card.fingerprint(self.weights_sha256, self.vocabulary.sha256)

    @property
    def id(self) -> str:
        """The name that its predictions have in paths."""
        return f'{self.card.name}-{self.fingerprint[:8]}'

    @property
    def is_packaged(self) -> bool:
        """Whether it is inside the package: there is nothing to fetch."""
        return _packaged(self.location) is not None

    @property
    def can_be_rebuilt(self) -> bool:
        """Whether its network is one of ours, which can be computed in any precision."""
        if self.kind is Kind.SAVED_MODEL:
            return bool(self.card.architecture)
        return self.kind not in GRAPHS

    def path(self) -> Path:
        """The folder of the model or the file of weights on this machine; fetches it if needed.

        Raises:
          ModelError: it cannot be fetched, or is not what the launcher saw.
          UsageError: there is nothing at its location.
        """
        packaged = _packaged(self.location)
        path = packaged or fetch_model(self.location, self.cache or default_cache())
        found = sha256_of(path)
        if found != self.weights_sha256:
            raise ModelError(
                f'the model at {printable_location(self.location)} has the SHA-256 {found} '
                f'here, but {self.weights_sha256} was expected; it was changed, or {path} is '
                'damaged: delete it to fetch it again'
            )
        return path

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
    on_progress: Progress | None = None,
) -> ModelSource:
    """Finds a model, and fetches it if it is not on this machine.

    A model that is known by name may be available in several places.  A copy on this machine is
    preferred, so that it stays the same model from run to run; else the first place that has it.

    Args:
      name: the value of --model: a name, a handle, a URL or a path.
      card: for a model without a card: the name of a known model whose card applies, or a file.
      size_px: side of the input square, instead of the card's.
      cache: folder for downloads; None for `default_cache`.
      sha256: the hash that the weights must have.
      on_progress: called with the progress of a download.

    Raises:
      UsageError: there is no such model, its card or class list cannot be used, or it does not take
        squares of this size.
      ModelError: it cannot be fetched, or its hash differs.
    """
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise InvalidOption('model_sha256', repr(sha256), 'expected 64 hex digits, in lower case')
    local = _local(name)
    known = None if local else registry.find_model(name)
    if known is not None and size_px is not None:
        _check_size(known.card, size_px)  # before it is fetched
    if known is not None and known.file is not None:
        if card is not None:
            why = f'the model {name!r} has a card of its own'
            raise InvalidOption('model_card', repr(card), why)
        vocabulary = load_vocabulary(known.card.vocabulary or NONE)
        weights = _sha256_once(known.file)
        source = ModelSource(
            known.card, vocabulary, known.location, weights, cache, kind=kind_of(known.file)
        )
        _check_sha256(source, name, sha256)
    else:
        if local:
            locations: tuple[str, ...] = (local,)
        else:
            locations = known.locations if known else registry.locations_of(name)

        def resolve(location: str) -> ModelSource:
            found = _resolve(location, known, card, cache, on_progress)
            _check_sha256(found, name, sha256)
            return found

        source = _first(locations, cache, resolve, name)
    if size_px is not None:
        _check_size(source.card, size_px)
        source = dataclasses.replace(source, card=source.card.to_size(size_px))
    return source


def is_on_this_machine(name: str, cache: str | None) -> bool:
    """Whether `resolve_model` would have nothing to fetch for a value of --model.

    Raises:
      UsageError: there is no such model.
      StoreError: it is in a bucket that cannot be read.
    """
    if _local(name):
        return True
    known = registry.find_model(name)
    if known is not None and known.file is not None:
        return True
    locations = known.locations if known else registry.locations_of(name)
    return any(is_fetched(location, cache or default_cache()) for location in locations)


def _check_size(card: ModelCard, size_px: int) -> None:
    """Refuses what the graph of a published model would only refuse on the workers.

    Raises:
      UsageError: the card is that of a model that takes squares of one other size.
    """
    own_px = card.resize.size_px
    known = registry.known_models().get(card.name)
    if known and known.card == card and not known.takes_any_size and size_px != own_px:
        why = f'{card.name} takes only squares of {own_px} px'
        raise InvalidOption('model_size', str(size_px), why)


def _first(
    locations: Sequence[str],
    cache: str | None,
    resolve: Callable[[str], ModelSource],
    name: str,
) -> ModelSource:
    """Of the places of one model what is here already, else the first that does."""
    if len(locations) == 1:
        try:
            return resolve(locations[0])
        except ModelError as e:
            if is_fetched(locations[0], cache or default_cache()):
                raise  # it is here, and not as it should be
            raise ModelError(f'{e}. {_by_hand(name)}') from e
    folder = cache or default_cache()
    problems: list[str] = []
    for location in sorted(locations, key=lambda each: not is_fetched(each, folder)):
        try:
            return dataclasses.replace(resolve(location), passed_over=tuple(problems))
        except ModelError as e:
            problems.append(str(e))
    raise ModelError(
        f'the model {printable_location(name)} could not be fetched from any of its '
        f'{len(locations)} sources: {"; ".join(problems)}. {_by_hand(name)}'
    )


def _by_hand(name: str) -> str:
    shown_name = printable_location(name)
    return (
        'Download it by hand and pass its folder, archive or file to --model; or run '
        f'`lemmabeam models --check {shown_name} --model_cache DIR` on a machine that can '
        'download it, copy that folder here, and pass --model_cache DIR'
    )


def _check_sha256(source: ModelSource, name: str, wanted: str | None) -> None:
    if wanted not in (None, source.weights_sha256):
        raise ModelError(
            f'the model {printable_location(name)!r} has the SHA-256 {source.weights_sha256}, '
            f'but --model_sha256 is {wanted}'
        )


def _resolve(
    location: str,
    known: KnownModel | None,
    given: str | None,
    cache: str | None,
    on_progress: Progress | None,
) -> ModelSource:
    """The model at one place.

    Args:
      location: of it.
      known: whose card it has where it brings none; None for what its location says.
      given: the value of --model_card.
      cache, on_progress: see `resolve_model`.
    """
    path = fetch_model(location, cache or default_cache(), on_progress)
    kind = kind_of(path)
    if kind in GRAPHS:
        card, beside = _find_card(path, location, known, given)
        vocabulary = _find_vocabulary(beside, card)
    else:
        _, weights = registry.recognize(path, printable_location(location))
        beside = path.parent
        if found := _written_card(beside, location, known, given):
            card, beside = found
        else:
            card = _card_of(weights, location)
        vocabulary = _find_vocabulary(beside, card)
        card = weights.check(card, len(vocabulary) or None)
    pictures = _find_pictures(beside, card, vocabulary)
    return ModelSource(card, vocabulary, location, sha256_of(path), cache, pictures, kind)


def _local(name: str) -> str | None:
    """The absolute path of a local model, which wins over a name or handle that looks alike."""
    if uris.scheme_of(name) or name == '' or _packaged(name):
        return None
    return uris.absolute(name) if os.path.exists(name) else None  # noqa: PTH110 (never an error)


def printable_location(location: str) -> str:
    """A location for messages and reports.

    A URL loses its userinfo and query: nobody can tell which parameters are secret.
    """
    is_url = uris.scheme_of(location) in ('http', 'https', 'hf')
    return shown(location) if is_url else uris.printable(location)


def _packaged(location: str) -> Path | None:
    """The weights of a model that lies inside the package; None for all others."""
    known = registry.known_models().get(location)
    return known.file if known else None


_sha256_once = functools.cache(sha256_of)


def _find_card(
    folder: Path, location: str, known: KnownModel | None, given: str | None
) -> tuple[ModelCard, Path]:
    """The card of a model in a folder, and the folder in which its class list and pictures lie."""
    if found := _written_card(folder, location, known, given):
        return found
    raise InvalidOption(
        'model',
        repr(printable_location(location)),
        f'it has no {CARD_FILE}: write one into its folder, such as {card_template()}, or pass '
        '--model_card with a file or, for a copy of a published model, its name',
    )


def _written_card(
    folder: Path, location: str, known: KnownModel | None, given: str | None
) -> tuple[ModelCard, Path] | None:
    """The card that was given, lies beside a model, or is that of a published one."""
    if given is not None:
        if os.path.isfile(given):  # noqa: PTH113 (false, not an error, for impossible names)
            where = f'--model_card {uris.named(given)}'
            return _parse_card(Path(given), where), Path(given).parent
        named = registry.find_model(given)
        if named is None:
            shown_card = repr(printable_location(given))
            raise InvalidOption('model_card', shown_card, 'neither a known model nor a file')
        return named.card, folder
    own = folder / CARD_FILE
    if own.is_file():
        return _parse_card(own, f'{printable_location(location)}: {CARD_FILE}'), folder
    published = known or registry.find_by_location(location)
    return (published.card, folder) if published else None


def _card_of(weights: Recognized, location: str) -> ModelCard:
    """The card of weights that nobody has described, by the classes of their head."""
    where = printable_location(location)
    if weights.classes is not None and not names_by_length(weights.classes):
        raise InvalidOption(
            'model',
            where,
            f'no known class list has {weights.classes} classes: pass --model_card with a file '
            f'such as {card_template()}, or make a SavedModel of it with `lemmabeam export-model '
            '--labels`',
        )
    return weights.describe(where.rpartition('/')[2])


def _parse_card(path: Path, where: str) -> ModelCard:
    card = parse_card(_small_file(path), where)
    if card.architecture:
        try:
            registry.family_of(card.architecture)
        except ModelError as e:
            raise UsageError(f'{where}: {e}') from e
    return card


def _find_vocabulary(beside: Path, card: ModelCard) -> Vocabulary:
    if card.labels:
        path = beside / card.labels
        if not path.is_file():
            raise UsageError(
                f'the model card names the file {card.labels!r}, which is not beside it'
            )
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
                f'the model card names the canary image {canary.image!r}, which is not beside it'
            )
        if not vocabulary.has(canary.expected):
            raise UsageError(
                f'the canary of the model card expects {canary.expected!r} in {canary.image!r}, '
                'but no class of the model has this name or is below this WordNet id'
            )
    return tuple(sorted(pictures.items()))


def _small_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_SMALL_FILE_BYTES:
        raise UsageError(f'{path}: {size} bytes, expected at most {_MAX_SMALL_FILE_BYTES}')
    return path.read_bytes()
