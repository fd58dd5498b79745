"""The model card: everything the pipeline must know of a model besides its weights."""

import dataclasses
import difflib
import enum
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from transforms.core.errors import UsageError
from transforms.images.resize import FILTERS, MAX_SIZE_PX, MIN_SIZE_PX, Resize

CARD_FILE = 'model_card.json'

RGB, BGR = 'RGB', 'BGR'

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')
_PICTURE = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._-]{0,99}')
_SHA256 = re.compile(r'([0-9a-f]{64})?')
_SURROGATE = re.compile('[\ud800-\udfff]')
_MOST = 1e12
_WHITE = 255.0


class Activation(enum.Enum):
    """What turns logits into scores; NONE takes the outputs of the network as they are."""

    SIGMOID = 'sigmoid'
    SOFTMAX = 'softmax'
    NONE = 'none'


@dataclasses.dataclass(frozen=True)
class Canary:
    """A picture, and what a model must see in it.

    Attributes:
      image: 'cat.jpg' or 'coffee.jpg', which come with the package, or a file beside the card.
      expected: a WordNet id: one of the best labels must be it or lie below it; or the name of a
        class.
      min_score: what the scores of all such labels must add up to.
    """

    image: str
    expected: str
    min_score: float = 0.0


CAT = Canary('cat.jpg', 'n02120997')  # feline
"""Every list of classes from WordNet has felines."""

_Values = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What a model is.

    Attributes:
      name: short name, the first part of the model id.
      resize: how its input is made.
      mean, std: the network takes (x - mean) / std of samples x in [0, 255]; one number, or one per
        channel in the order of the network.
      channels: 'RGB' or 'BGR', the order the network takes.
      activation: from logits to scores.
      vocabulary: name of a class list of this package, '' if `labels` names one.
      labels: file of the class list beside the card, '' if `vocabulary` names one.  With neither,
        the model has no classes and gives features only.
      threshold: a class whose score reaches it is a label.
      max_labels: at most this many labels per image.
      batch_size, gpu_batch_size: images per call, on a CPU and on a GPU.
      architecture: for a BiT network, such as 'R101x3': it is then rebuilt from its weights, and
        faster than the SavedModel; '' for others.
      output: name of the output with the logits, if a model as it was saved has several.
      canary: what it must see in known pictures.
      weights_sha256, saved_model_sha256: of an export, hashes of the checkpoint it was made from
        and of the result.  So the model stays the same when it is exported again with other library
        versions, and a card that was copied to another model does not apply to it.
      source, licence: for people.
    """

    name: str
    resize: Resize
    mean: _Values
    std: _Values
    activation: Activation
    vocabulary: str = ''
    labels: str = ''
    channels: str = RGB
    threshold: float = 0.05
    max_labels: int = 5
    batch_size: int = 32
    gpu_batch_size: int = 128
    architecture: str = ''
    output: str = ''
    canary: tuple[Canary, ...] = ()
    weights_sha256: str = ''
    saved_model_sha256: str = ''
    source: str = ''
    licence: str = ''

    @property
    def has_classes(self) -> bool:
        """Whether it gives labels, not features only."""
        return bool(self.vocabulary or self.labels)

    def with_changes(self, **values: Any) -> 'ModelCard':
        """The card with other values."""
        return dataclasses.replace(self, **values)

    def to_size(self, size_px: int) -> 'ModelCard':
        """The same model at another input size, for which no exact scores are known."""
        if size_px == self.resize.size_px:
            return self
        canary = tuple(dataclasses.replace(each, min_score=0.0) for each in self.canary)
        return dataclasses.replace(self, resize=self.resize.to_size(size_px), canary=canary)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain JSON values; `parse_card` reads it."""
        card = dataclasses.asdict(self)
        card['activation'] = self.activation.value
        return card

    def fingerprint(self, weights_sha256: str, vocabulary_sha256: str) -> str:
        """Hex SHA-256 over the weights and what turns an image into scores.

        Defaults a run can override (threshold, number of labels, batch size) and library versions
        are left out: neither makes it another model.
        """
        is_export = weights_sha256 == self.saved_model_sha256
        identity = {
            'weights': self.weights_sha256 if is_export else weights_sha256,
            'resize': dataclasses.asdict(self.resize),
            'mean': self.mean,
            'std': self.std,
            'channels': self.channels,
            'activation': self.activation.value,
            'vocabulary': vocabulary_sha256,
            'output': self.output,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def parse_card(text: bytes, where: str) -> ModelCard:
    """Reads a `model_card.json`.

    Its keys are the attributes of `ModelCard`; `range: [low, high]`, what the network takes for
    black and white, may replace `mean` and `std`.

    Args:
      text: the file.
      where: its name, for messages.

    Raises:
      UsageError: it is not a JSON object, lacks a key, or has an unknown key or a value that cannot
        be used; names everything that is wrong.
    """
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UsageError(f'{where}: not valid JSON') from e
    if not isinstance(card, dict):
        raise UsageError(f'{where}: expected a JSON object with the keys {_listed(_CHECKS)}')
    wrong = [f'unknown key {key!r}{_meant(key)}' for key in card if key not in _CHECKS]
    wrong += [
        f'{key!r} is {json.dumps(value)}, expected {_CHECKS[key].expected}'
        for key, value in card.items()
        if key in _CHECKS and not _CHECKS[key].accepts(value)
    ]
    wrong += [
        f'lacks the key {key!r}' for key in ('name', 'resize', 'activation') if key not in card
    ]
    scales = sorted(card.keys() & {'range', 'mean', 'std'})
    if scales not in (['range'], ['mean', 'std']):
        has = _listed(scales) if scales else 'neither'
        wrong.append(f"expected either 'range' or both 'mean' and 'std', but it has {has}")
    if card.get('vocabulary') and card.get('labels'):
        wrong.append("'vocabulary' and 'labels' are mutually exclusive: keep one")
    if wrong:
        raise UsageError(f'{where}: {"; ".join(wrong)}')
    return _make_card(card)


def card_template() -> str:
    """A card to start from, for messages to people who have none."""
    card = {
        'name': 'my-model',
        'resize': {'size_px': 224, 'short_side_px': None, 'filter': 'bilinear'},
        'range': [0, 1],
        'activation': 'softmax',
        'labels': 'labels.txt',
    }
    return json.dumps(card)


def _make_card(card: Mapping[str, Any]) -> ModelCard:
    values = {key: value for key, value in card.items() if key != 'range'}
    if 'range' in card:
        low, high = card['range']
        values['std'] = _WHITE / (high - low)
        values['mean'] = 0.0 - low * values['std']
    for key in ('mean', 'std'):
        value = values[key]
        values[key] = tuple(map(float, value)) if isinstance(value, list) else float(value)
    values['resize'] = Resize(**{'short_side_px': None, 'filter': 'bilinear'} | card['resize'])
    values['activation'] = Activation(card['activation'])
    values['canary'] = tuple(Canary(**each) for each in card.get('canary', ()))
    return ModelCard(**values)


@dataclasses.dataclass(frozen=True)
class _Check:
    expected: str
    accepts: Any


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MOST and low <= value <= high  # nor NaN


def _is_count(value: object, high: float = math.inf) -> bool:
    return _is_number(value, 1, high) and isinstance(value, int)


def _is_text(value: object) -> bool:
    # JSON can hold halves of surrogate pairs, which no file can.
    return isinstance(value, str) and not _SURROGATE.search(value)


def _is_file(value: object) -> bool:
    return value == '' or (isinstance(value, str) and _PICTURE.fullmatch(value) is not None)


def _is_resize(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {'size_px', 'short_side_px', 'filter'}
        and _is_number(value.get('size_px'), MIN_SIZE_PX, MAX_SIZE_PX)
        and _is_count(value['size_px'])
        and (
            value.get('short_side_px') is None
            or (
                _is_count(value['short_side_px'], 2 * MAX_SIZE_PX)
                and value['short_side_px'] >= value['size_px']
            )
        )
        and value.get('filter', 'bilinear') in FILTERS
    )


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_number, value))
        and value[0] < value[1]
    )


def _are_values(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 3 and all(map(_is_number, value))
    return _is_number(value)


def _are_positive(value: Any) -> bool:
    return _are_values(value) and all(
        x > 0 for x in (value if isinstance(value, list) else [value])
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_canary(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and {'image', 'expected'} <= each.keys() <= {'image', 'expected', 'min_score'}
        and _is_file(each['image'])
        and each['image'] != ''
        and _is_text(each['expected'])
        and _is_number(each.get('min_score', 0), 0, 1)
        for each in value
    )


_FILE_CHARACTERS = 'letters, digits, ".", "_" and "-"'
_NUMBERS = 'a number, or a list of one for each of the three channels'
_CHECKS = {
    'name': _Check(
        'letters, digits, ".", "_" and "-", at most 100',
        lambda v: isinstance(v, str) and _NAME.fullmatch(v) is not None,
    ),
    'resize': _Check(
        f'{{"size_px": {MIN_SIZE_PX} to {MAX_SIZE_PX}, "short_side_px": null or at least size_px, '
        f'"filter": one of {", ".join(FILTERS)}}}',
        _is_resize,
    ),
    'range': _Check('[low, high], such as [0, 1] or [-1, 1]', _is_range),
    'mean': _Check(f'{_NUMBERS}, for samples from 0 to 255', _are_values),
    'std': _Check(f'{_NUMBERS}, above 0, for samples from 0 to 255', _are_positive),
    'channels': _Check(f'"{RGB}" or "{BGR}"', lambda v: v in (RGB, BGR)),
    'activation': _Check(
        ', '.join(f'"{each.value}"' for each in Activation),
        lambda v: v in [each.value for each in Activation],
    ),
    'vocabulary': _Check('the name of a class list in this package', _is_text),
    'labels': _Check(f'the name of a file beside the card, of {_FILE_CHARACTERS}', _is_file),
    'threshold': _Check('a number', _is_number),
    'max_labels': _Check('a whole number, 1 or more', _is_count),
    'batch_size': _Check('a whole number, 1 or more', _is_count),
    'gpu_batch_size': _Check('a whole number, 1 or more', _is_count),
    'architecture': _Check('the name of a BiT architecture such as "R101x3"', _is_text),
    'output': _Check('the name of an output', _is_text),
    'canary': _Check(
        'a list of {"image": file, "expected": WordNet id or class name, "min_score": 0 to 1}; '
        f'files are named by {_FILE_CHARACTERS}',
        _is_canary,
    ),
    'weights_sha256': _Check('64 hex digits, or ""', _is_sha256),
    'saved_model_sha256': _Check('64 hex digits, or ""', _is_sha256),
    'source': _Check('text', _is_text),
    'licence': _Check('text', _is_text),
}


def _listed(keys: Any) -> str:
    return ', '.join(repr(key) for key in keys)


def _meant(key: str) -> str:
    near = difflib.get_close_matches(key, _CHECKS, 1)
    return f', did you mean {near[0]!r}?' if near else ''
