"""Builds the network of a SavedModel from its weights, if it computes the same.

Which variable of a SavedModel is which tensor is guessed, see `bit.recognition`, and then proven:
the network must give what the SavedModel gives for noise, in exact float32 on the CPU.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from transforms.core.errors import ModelError
from transforms.model import saved_model
from transforms.model.card import ModelCard
from transforms.model.families.base import Built, NotRebuiltError
from transforms.model.families.bit import recognition, resnet
from transforms.model.families.bit.checkpoint import (
    HEAD_KERNEL,
    Architecture,
    check,
    identify,
    layout,
)
from transforms.model.families.bit.ranges import EXPORTED, RANGES, Range, normalization, range_of
from transforms.model.resolve import ModelSource
from transforms.model.saved_model import Tensors, Variables
from transforms.model.vocabulary import check_head

_NO_NAME = 'it is a BiT, but its card names no architecture: add "architecture": "{}"'
_SIDE_PX = 64
# The authors' own two implementations differ by a fifth of this on the largest networks.
_TOLERANCE = 1e-3


class Rebuilt(NamedTuple):
    """A network with the weights of a SavedModel.

    Attributes:
      network: what `transforms.model.families.bit.resnet.build` made.
      mean, std: of samples in [0, 255], for the [-1, 1] that it takes.
      range: what the SavedModel takes for black and white.
    """

    network: keras.Model
    mean: Any
    std: Any
    range: Range


class _Proof(NamedTuple):
    """What was found out of a SavedModel.

    Attributes:
      keys: of the variables by the official name of the tensor that each is.
      range: what it takes for black and white.
    """

    keys: Mapping[str, str]
    range: Range


_PROVEN: dict[tuple[str, str, int | None], _Proof] = {}
"""By what a proof depends on.

A process that needs the same network in another precision as well loads the SavedModel once.
"""


def _proof_key(source: ModelSource) -> tuple[str, str, int | None]:
    return source.weights_sha256, source.card.architecture, _classes(source)


def build(source: ModelSource, path: Path, precision: str, batch_size: int) -> Built:
    """The network of a SavedModel, see `transforms.model.families.base.Family`."""
    if not source.card.architecture:
        found = check_range(source, path, batch_size)
        raise NotRebuiltError(_NO_NAME.format(found) if found else '')
    rebuilt = rebuild(source, path, precision, batch_size)
    return Built(rebuilt.network, rebuilt.mean, rebuilt.std)


def rebuild(source: ModelSource, folder: Path, precision: str, batch_size: int) -> Rebuilt:
    """The BiT network of the weights in a SavedModel.

    Args:
      source: the model, whose card names an architecture.
      folder: of the SavedModel.
      precision: type to compute in.
      batch_size: images per call, for a graph that takes nothing else.

    Raises:
      NotRebuiltError: its tensors are not recognized, or their network gives other outputs.
      ModelError: it cannot be read, or is one of our exports with the card of another model.
    """
    architecture = Architecture.parse(source.card.architecture)
    variables = saved_model.read_variables(folder)
    known = _PROVEN.get(_proof_key(source))
    if variables.exported is None and known is not None:
        tensors = Tensors(variables.read, known.keys, layout(architecture, _classes(source)))
        network = resnet.build(architecture, _classes(source), tensors, precision=precision)
        found = known.range
    elif variables.exported is None:
        network, found = _proven(source, folder, architecture, variables, batch_size)
        if precision != 'float32' or _has_accelerator():
            network = _copied(network, architecture, _classes(source), precision)
    else:
        found = EXPORTED
        network = _exported(source, architecture, variables, precision)
    return Rebuilt(network, *normalization(source.card, found), found)


def check_range(source: ModelSource, folder: Path, batch_size: int) -> str:
    """Checks the card of a BiT network that is used as it was saved against its outputs.

    Returns:
      Its architecture, which the card does not name; '' for a model of another kind.

    Raises:
      ModelError: the network takes another range than its card says.
    """
    try:
        variables = saved_model.read_variables(folder)
        scope = max(recognition.named(variables.found).values(), key=len)
        shapes = {name: found[0].shape for name, found in scope.items()}
        architecture, _ = identify(recognition.official_shapes(shapes))
        _, found = _proven(source, folder, architecture, variables, batch_size)
    except (ValueError, ModelError, NotRebuiltError):
        return ''
    said = range_of(source.card)
    if said not in (None, found):
        raise ModelError(
            f'the card of {source.card.name} says that it takes samples from {_shown(said)}, but '
            f'its graph takes {_shown(found)}: correct "range" in the card'
        )
    return str(architecture)


def _has_accelerator() -> bool:
    return any(not name.lower().startswith('cpu') for name in keras.distribution.list_devices())


def _classes(source: ModelSource) -> int | None:
    return len(source.vocabulary) or None


def _exported(
    source: ModelSource, architecture: Architecture, variables: Variables, precision: str
) -> keras.Model:
    exported = variables.exported or {}
    shapes = recognition.official_shapes({name: each.shape for name, each in exported.items()})
    if source.card.has_classes and HEAD_KERNEL in shapes:
        check_head(source.vocabulary, shapes[HEAD_KERNEL][-1], source.card.name)
    check(shapes, architecture, _classes(source))
    keys = {name: each.key for name, each in exported.items()}
    tensors = Tensors(variables.read, keys, shapes)
    return resnet.build(
        architecture, _classes(source), tensors, precision=precision, is_standardized=True
    )


def _proven(
    source: ModelSource,
    folder: Path,
    architecture: Architecture,
    variables: Variables,
    batch_size: int,
) -> tuple[keras.Model, Range]:
    """The network in float32 on the CPU, and the range that the SavedModel takes."""
    classes = _classes(source)
    candidates = list(recognition.candidates(variables.found, architecture, classes))
    if not candidates:
        raise NotRebuiltError(recognition.why_not(variables.found, architecture, classes))
    # The SavedModel is TensorFlow's, the network Keras's, which may have another backend.
    with tf.device('CPU:0'), keras.device('cpu:0'):
        noise, answers = _answers(folder, source.card, batch_size)
        gc.collect()  # the SavedModel, before the network comes into memory
        nearest = np.inf
        networks = _networks(candidates, variables, architecture, classes)
        for keys, network in zip(candidates, networks, strict=True):
            found = np.asarray(network(noise * 2 - 1))
            apart = {each: _difference(found, answer) for each, answer in answers.items()}
            best = min(apart, key=apart.__getitem__)
            if apart[best] <= _TOLERANCE:
                _PROVEN[_proof_key(source)] = _Proof(keys, best)
                return network, best
            nearest = min(nearest, apart[best])
    if np.isinf(nearest):
        raise NotRebuiltError('its outputs are not numbers, or do not match its tensors')
    raise NotRebuiltError(
        'the network built from its tensors gives other outputs: on noise they differ by '
        f'{nearest:.2g} of the largest, expected at most {_TOLERANCE:g}'
    )


def _answers(
    folder: Path, card: ModelCard, batch_size: int
) -> tuple[np.ndarray, dict[Range, np.ndarray]]:
    """Noise in [0, 1], and what the SavedModel gives for it in each range."""
    size = card.resize.size_px
    # The second is for a graph that takes nothing else; it is called so later on.
    shapes = [(1, _SIDE_PX, _SIDE_PX, 3), (batch_size, size, size, 3)]
    while True:
        shape = shapes.pop(0)
        try:
            loaded = saved_model.load(folder, card, shape)
            break
        except ModelError:
            if not shapes:
                raise
    chance = np.random.Generator(np.random.PCG64(0))
    samples = chance.integers(0, 256, shape).astype(np.float32)
    answers = {}
    for low, high in RANGES:
        logits, features = loaded.call(samples / 255 * (high - low) + low)
        answers[low, high] = np.asarray(features if logits is None else logits)
    return samples / 255, answers


def _networks(
    candidates: Iterable[Mapping[str, str]],
    variables: Variables,
    architecture: Architecture,
    classes: int | None,
) -> Iterator[keras.Model]:
    """The network of each candidate in turn: one, of which only what differs is set anew."""
    shapes = layout(architecture, classes)
    network: keras.Model | None = None
    before: Mapping[str, str] = {}
    for keys in candidates:
        weights = Tensors(variables.read, keys, shapes)
        if network is None:
            network = resnet.build(architecture, classes, weights)
        else:
            resnet.assign(network, weights, {name for name in keys if keys[name] != before[name]})
        before = keys
        yield network


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest one, of the largest output; infinite where there is none."""
    if found.shape != expected.shape:
        return np.inf
    apart = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    return float(apart) if np.isfinite(apart) else np.inf


def _copied(
    network: keras.Model, architecture: Architecture, classes: int | None, precision: str
) -> keras.Model:
    """The same network where Keras puts it, in another precision."""
    variables = resnet.tensors(network)
    weights = Tensors(
        lambda name: np.asarray(variables[name]),
        {name: name for name in variables},
        layout(architecture, classes),
    )
    return resnet.build(architecture, classes, weights, precision=precision, is_standardized=True)


def _shown(taken: Range) -> str:
    return f'[{taken[0]:g}, {taken[1]:g}]'
