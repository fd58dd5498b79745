"""SavedModels: calls any, and reads the weights of BiT networks from them."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from transforms.core.errors import ModelError
from transforms.model.card import ModelCard
from transforms.model.families.base import LOGITS
from transforms.model.outputs import pick
from transforms.model.runtimes.base import LoadedModel, first_words
from transforms.model.tensor_files import Shapes, Variable

WEIGHTS = 'lemmabeam_standardized_tensors'
"""Attribute of our exports with the tensors of `transforms.model.families.bit.resnet.tensors`."""

_OBJECT_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_VALUE = 'VARIABLE_VALUE'
_KEY_END = f'/.ATTRIBUTES/{_VALUE}'


def load(folder: Path, card: ModelCard, shape: tuple[int, int, int, int]) -> LoadedModel:
    """Loads a SavedModel and calls it once.

    Args:
      folder: that contains `saved_model.pb`.
      card: what it is.
      shape: of its input, (N, S, S, 3).

    Raises:
      ModelError: it cannot be loaded, has nothing to call, does not take such images, returns
        something other than tensors of numbers, or has several outputs and the card names none.
    """
    with warnings.catch_warnings():
        # It says that setuptools will drop what it imports.
        warnings.simplefilter('ignore', UserWarning)
        import tensorflow_hub as hub
    try:
        model = hub.load(str(folder))
    except Exception as e:  # of a damaged one, TensorFlow may raise anything
        raise ModelError(
            f'{folder}: not a SavedModel that TensorFlow can load: {first_words(e)}'
        ) from e
    problems = []
    for name, function in _functions(model):
        try:
            outputs = function(tf.zeros(shape, tf.float32))
        except (TypeError, ValueError, tf.errors.OpError) as e:
            problems.append(f'{name}: {first_words(e)}')
            continue
        _pick(outputs, card)  # what is wrong is said before the function is taken
        return LoadedModel(functools.partial(_call, function, card), model)
    raise ModelError(
        f'{folder}: the SavedModel has nothing that takes images of the shape {shape}, float32'
        + (f': {"; ".join(problems)}' if problems else '; it has no call and no signature')
        + _static_batch_hint(model, shape[0])
    )


def _call(function: Callable[[Any], Any], card: ModelCard, images: Any) -> tuple[Any, Any]:
    return _pick(function(images), card)


def _functions(model: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Ways to call a model, best first: as the published modules are, and by signature."""
    if callable(model):
        yield 'its call', model
        yield 'its call with training=False', lambda images: model(images, training=False)
    signatures = getattr(model, 'signatures', {})
    for name in dict.fromkeys(('serving_default', 'default', *sorted(signatures))):
        if name in signatures:
            yield f'the signature {name!r}', _by_signature(signatures[name])


def _by_signature(function: Any) -> Callable[[Any], Any]:
    inputs = function.structured_input_signature[1]

    def call(images: Any) -> Any:
        if len(inputs) != 1:
            raise ValueError(f'takes {len(inputs)} inputs: {", ".join(sorted(inputs))}')
        ((name, spec),) = inputs.items()
        if not spec.shape.is_compatible_with(images.shape):  # not looked at outside of graphs
            raise ValueError(f'takes {name!r} of the shape {spec.shape}')
        return function(**{name: tf.cast(images, spec.dtype)})

    return call


def _pick(outputs: Any, card: ModelCard) -> tuple[Any, Any]:
    """Logits and features of what a model returned."""
    if isinstance(outputs, Mapping):
        named = dict(outputs)
    elif isinstance(outputs, list | tuple):
        named = {str(i): value for i, value in enumerate(outputs)}
    else:
        named = {card.output or LOGITS: outputs}
    logits, features = (
        None if name is None else _numbers(named, name)
        for name in pick(named, _form, card, 'the SavedModel')
    )
    return logits, features


def _numbers(named: Mapping[str, Any], name: str) -> Any:
    output = named[name]
    if not isinstance(output, tf.Tensor) or not (
        output.dtype.is_floating or output.dtype.is_integer or output.dtype.is_bool
    ):
        raise ModelError(
            f'the SavedModel gives {name!r} as {_form(output)}, expected a tensor of numbers, '
            'one row per image'
        )
    return tf.cast(output, tf.float32)


def _form(output: Any) -> str:
    """Shape and type of an output, whatever it is."""
    if isinstance(output, tf.Tensor):
        return f'{tuple(output.shape)} {output.dtype.name}'
    return type(output).__name__


def _static_batch_hint(model: Any, batch_size: int) -> str:
    for function in getattr(model, 'signatures', {}).values():
        for spec in function.structured_input_signature[1].values():
            if spec.shape.rank == 4 and spec.shape[0] not in (None, batch_size):
                return f'; it takes batches of {spec.shape[0]}: --batch_size {spec.shape[0]}'
    return ''


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a network by official name, each read when asked for.

    Args:
      read: returns the value of a key. keys: by official name.
      shapes: of the tensors; values are brought to them.
    """

    def __init__(self, read: Callable[[str], Any], keys: Mapping[str, str], shapes: Shapes):
        self._read = read
        self._keys = keys
        self.shapes = {name: shapes[name] for name in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            value = self._read(self._keys[name])
        except Exception as e:  # of a damaged file, TensorFlow may raise anything
            raise ModelError(f'the tensor {name!r} cannot be read: {first_words(e)}') from e
        return np.asarray(value).reshape(self.shapes[name])


class Variables(NamedTuple):
    """The variables of a SavedModel.

    Attributes:
      found: all of them, in the order of its object graph.
      exported: of an export of ours, whose kernels are standardized, those of `WEIGHTS` by
        official name; None for all others.
      read: gives the value of a key.
    """

    found: list[Variable]
    exported: dict[str, Variable] | None
    read: Callable[[str], Any]


def read_variables(folder: Path) -> Variables:
    """Lists the variables of a SavedModel, without loading its graph.

    Each has its name in the object graph, else that in the graph, else its key in the checkpoint,
    which is its name in modules of TensorFlow 1.

    Raises:
      ModelError: the variables cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(str(folder / 'variables' / 'variables'))
        graph = TrackableObjectGraph()
        with contextlib.suppress(tf.errors.NotFoundError):  # a module of TensorFlow 1
            graph.ParseFromString(reader.get_tensor(_OBJECT_GRAPH))
        shapes = reader.get_variable_to_shape_map()
        values = {
            number: attribute
            for number, node in enumerate(graph.nodes)
            for attribute in node.attributes
            if attribute.name == _VALUE
        }
        if all(attribute.full_name for attribute in values.values()):
            names = {}
        else:
            names = _graph_names(folder, graph)
    except Exception as e:  # of a damaged file, TensorFlow may raise anything
        raise ModelError(f'{folder}: its variables cannot be read: {first_words(e)}') from e
    found = {
        number: Variable(
            key := attribute.checkpoint_key,
            attribute.full_name or names.get(number) or key.removesuffix(_KEY_END),
            tuple(shapes.get(key, ())),
        )
        for number, attribute in values.items()
    }
    if not found:
        plain = sorted(shapes.items())
        found = {
            number: Variable(key, key, tuple(each)) for number, (key, each) in enumerate(plain)
        }
    return Variables(list(found.values()), _exported(graph, found), reader.get_tensor)


def _graph_names(folder: Path, graph: TrackableObjectGraph) -> dict[int, str]:
    """Names of variables in `saved_model.pb`, by their number in the object graph.

    The same objects have other numbers there, but the same way leads to them from the root.
    """
    saved = SavedModel.FromString((folder / 'saved_model.pb').read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    names, seen, pairs = {}, {0}, [(0, 0)]
    while pairs:
        number, theirs = pairs.pop()
        if name := nodes[theirs].variable.name:
            names[number] = name
        children = {child.local_name: child.node_id for child in nodes[theirs].children}
        for child in graph.nodes[number].children:
            if child.node_id not in seen and child.local_name in children:
                seen.add(child.node_id)
                pairs.append((child.node_id, children[child.local_name]))
    return names


def _exported(
    graph: TrackableObjectGraph, variables: Mapping[int, Variable]
) -> dict[str, Variable] | None:
    children = (
        {child.local_name: child.node_id for child in graph.nodes[0].children}
        if graph.nodes
        else {}
    )
    if WEIGHTS not in children:
        return None
    return {
        child.local_name: variables[child.node_id]
        for child in graph.nodes[children[WEIGHTS]].children
        if child.node_id in variables
    }
