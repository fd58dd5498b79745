"""Loads a model: rebuilt by our code if its weights allow it, else as the graph it was saved as."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transforms.core.errors import InferenceError, ModelError
from transforms.model import registry
from transforms.model.card import BGR, ModelCard
from transforms.model.families.base import FEATURES, LOGITS, Built, Family, NotRebuiltError
from transforms.model.resolve import ModelSource, printable_location
from transforms.model.runtimes.base import Runtime
from transforms.model.tensor_files import Kind
from transforms.model.vocabulary import check_head

BUILT, SAVED = 'built from its weights', 'as it was saved'
"""How a network was made: built by our code, or as the graph of a SavedModel or of ONNX."""


class Output(NamedTuple):
    """What a network must return from every call, whatever is in the images.

    Attributes:
      name: as in the model.
      length: numbers per image.
    """

    name: str
    length: int

    def check(self, found: Any, images: int) -> None:
        """Checks the result of a call against its input.

        A row more or less would shift the labels of all images after it.

        Raises:
          InferenceError: it is not (images, length).
        """
        shape = tuple(found.shape)
        if shape != (images, self.length):
            what = _misfit(self.name, shape, images, str(self.length))
            raise InferenceError(f'{what}; {_ONE_ROW}', what)


_ONE_ROW = (
    'a model must give one row per image and one number per class, whatever the images show: '
    'export it without layers that drop or add some'
)


def _misfit(name: str, shape: tuple[int, ...], images: int, length: str) -> str:
    return f'{name!r} of the shape {shape} for {images} images, expected ({images}, {length})'


class Network(NamedTuple):
    """What a loaded model computes.

    Attributes:
      call: (N, S, S, 3) float32, normalized, to logits (N, classes) float32 and features (N,
        length) float32; each is None if the model has none or none was asked for.
      logits, features: what `call` must return, or None likewise.  A model as it was saved may
        return something else.
      mean, std: of the normalization (x - mean) / std of samples x in [0, 255].
      is_bgr: whether blue comes first.
      precision: type of most of its computations, 'float32', 'bfloat16' or 'float16'; of an ONNX
        model also 'int8' or 'float64'.
      route: `BUILT` or `SAVED`.
      why_saved: why a BiT network is used as it was saved; '' for all others.
      owner: must be kept as long as `call`, which holds its variables weakly; of a network that was
        built, the Keras model.
    """

    call: Callable[[Any], tuple[Any, Any]]
    logits: Output | None
    features: Output | None
    mean: Any
    std: Any
    is_bgr: bool
    precision: str
    route: str
    why_saved: str
    owner: Any


def load_network(
    source: ModelSource,
    precision: str,
    batch_size: int,
    with_features: bool,
    runtime: Runtime,
    may_be_float32: bool = False,
    must_be_rebuilt: bool = False,
) -> Network:
    """Loads a model.

    Args:
      source: the model.
      precision: type to compute in.
      batch_size: images per call.
      with_features: whether features are wanted.
      runtime: what it will be computed with.
      may_be_float32: whether to fall back to float32 if the precision is not available.
      must_be_rebuilt: whether a BiT network that can only be used as it was saved is an error.

    Raises:
      ModelError: it cannot be loaded, not in this precision or with this runtime, or not rebuilt,
        or has no features.
    """
    card = source.card
    path = source.path()
    why = ''
    if source.kind is Kind.SAVED_MODEL:
        runtime.prepare_to_read_saved_models()
    for family in _families(source, path):
        try:
            built = family.build(source, path, precision, batch_size)
        except NotRebuiltError as e:
            why = why or str(e)
        else:
            return _of_keras(built, card, precision, with_features)
    if why and must_be_rebuilt:
        raise ModelError(f'--require_rebuilt: {card.name} is used as it was saved: {why}')
    loaded = runtime.load_as_saved(source, path, batch_size, why)
    if precision != loaded.precision and not may_be_float32:
        raise ModelError(
            f'--precision {precision}: {card.name} is used as it was saved, in {loaded.precision}'
            + (f': {why}' if why else '')
        )
    size = card.resize.size_px
    seen = loaded.call(np.zeros((batch_size, size, size, 3), np.float32))
    logits, features = _outputs(*seen, source, batch_size, with_features)

    def call(images: Any) -> tuple[Any, Any]:
        found = loaded.call(images)
        return found[0], found[1] if with_features else None

    is_bgr = card.channels == BGR
    return Network(
        *(call, logits, features, card.mean, card.std, is_bgr),
        *(loaded.precision, SAVED, why, loaded.model),
    )


def _families(source: ModelSource, path: Path) -> Iterable[Family]:
    """Those that may build its network."""
    if source.kind is Kind.ONNX:
        return []  # exporters fold weights into each other
    if source.kind is not Kind.SAVED_MODEL:
        return [registry.recognize(path, printable_location(source.location))[0]]
    if source.card.architecture:
        return [registry.family_of(source.card.architecture)]
    return registry.FAMILIES.values()


def _of_keras(built: Built, card: ModelCard, precision: str, with_features: bool) -> Network:
    import keras

    model, mean, std = built
    outputs = {}
    if card.has_classes:
        outputs[LOGITS] = model.output
    if with_features:
        outputs[FEATURES] = model.get_layer(FEATURES).output
    whole = keras.Model(model.input, outputs)
    logits, features = (
        Output(name, outputs[name].shape[-1]) if name in outputs else None
        for name in (LOGITS, FEATURES)
    )

    def call(images: Any) -> tuple[Any, Any]:
        found = whole(images, training=False)
        return found.get(LOGITS), found.get(FEATURES)

    is_bgr = card.channels == BGR
    return Network(call, logits, features, mean, std, is_bgr, precision, BUILT, '', whole)


def _outputs(
    logits: Any, features: Any, source: ModelSource, batch_size: int, with_features: bool
) -> tuple[Output | None, Output | None]:
    """What a model as it was saved must give from now on, by what it gave once."""
    name = source.card.output
    outputs = (
        _output(name or LOGITS, logits, source, batch_size),
        # Named by the card only where there are no logits.
        _output(name if name and logits is None else FEATURES, features, source, batch_size)
        if with_features
        else None,
    )
    if outputs[0]:
        check_head(source.vocabulary, outputs[0].length, source.card.name)
    if with_features and features is None:
        raise ModelError(
            f'--features: the {source.kind.value} {source.card.name} has no output named '
            f'{FEATURES!r}'
        )
    return outputs


def _output(name: str, found: Any, source: ModelSource, images: int) -> Output | None:
    if found is None:
        return None
    shape = tuple(found.shape)
    if len(shape) != 2 or shape[0] != images or shape[1] == 0:
        what = _misfit(name, shape, images, 'number')
        raise ModelError(f'the {source.kind.value} gives {what}; {_ONE_ROW}')
    return Output(name, shape[1])
