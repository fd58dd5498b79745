"""What stands in an ONNX file besides its numbers: its inputs, its types, and the files beside it.

It is read as it is on the wire (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): who starts
a job needs no library of ONNX, and a file of gigabytes is not read into memory.
"""

import collections
import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from transforms.core import protobuf, uris
from transforms.core.errors import ModelError
from transforms.model.choices import FLOAT32
from transforms.model.tensor_files import GRAPHS, Kind

# Messages that hold tensors, and by which fields what is inside them.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    'model': {7: 'graph', 20: 'training', 25: 'function'},
    'training': {1: 'graph', 2: 'graph'},
    'function': {7: 'node', 11: 'attribute'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse'},
    'node': {5: 'attribute'},
    'attribute': {5: 'tensor', 10: 'tensor', 6: 'graph', 11: 'graph', 22: 'sparse', 23: 'sparse'},
    'sparse': {1: 'tensor', 2: 'tensor'},
}
_GRAPH, _INITIALIZER, _INPUT = 7, 5, 11  # of the model, of its graph
_DIMS, _DATA_TYPE, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 13, 14
_IN_A_FILE = 1  # of data locations
_LOCATION = b'location'

TYPES = {
    1: FLOAT32, 2: 'uint8', 3: 'int8', 4: 'uint16', 5: 'int16', 6: 'int32', 7: 'int64', 8: 'string',
    9: 'bool', 10: 'float16', 11: 'float64', 16: 'bfloat16',
}  # fmt: skip
"""Names of the types of elements, by their numbers."""

# Types that weights are computed in; others are of shapes and indices.
_COMPUTED = {1: FLOAT32, 2: 'int8', 3: 'int8', 10: 'float16', 11: 'float64', 16: 'bfloat16'}


class Input(NamedTuple):
    """An input of a graph.

    Attributes:
      name: of it.
      dtype: type of its elements, of `TYPES`; '' if it is another one, or no tensor.
      shape: of each axis its length, the name of one that may differ, or None if it has no name;
        None if even the number of axes may differ.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class Description(NamedTuple):
    """What an ONNX file says of itself.

    Attributes:
      inputs: that a caller must give.
      precision: the type that most of its weights have, such as 'float32'.
      external: names of the files that hold weights, relative to its folder.
    """

    inputs: tuple[Input, ...]
    precision: str
    external: tuple[str, ...]


def describe(path: Path, shown: str = '') -> Description:
    """Reads an ONNX file, but not its weights.

    Args:
      path: of the file.
      shown: what messages call it, by default its path.

    Raises:
      ModelError: it cannot be read, or is none.
    """
    shown = shown or uris.printable(str(path))
    try:
        with path.open('rb') as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as e:
        raise ModelError(f'{shown}: cannot be read: {e.strerror}') from e
    except ValueError as e:
        raise ModelError(f'{shown}: 0 bytes, expected an ONNX file') from e
    try:
        sizes: dict[str, int] = collections.Counter()
        external: dict[str, None] = {}  # a set that keeps its order
        for tensor in _tensors(data):
            precision, elements, locations = _of_tensor(tensor)
            sizes[precision] += elements
            external |= dict.fromkeys(locations)
        sizes.pop('', None)
        graphs = list(protobuf.submessages(data, _GRAPH))
        inputs = _inputs(graphs)
    except (ValueError, IndexError) as e:
        raise _no_onnx_file(shown, len(data)) from e
    if not graphs:
        raise _no_onnx_file(shown, len(data))
    return Description(inputs, max(sizes, key=sizes.__getitem__, default=FLOAT32), tuple(external))


def files_in(folder: Path) -> dict[str, Path]:
    """The files of the ONNX model in a folder, by their relative names: its graph, and its weights.

    Raises:
      ModelError: the graph cannot be read, or one of the others is not in the folder.
    """
    name = GRAPHS[Kind.ONNX]
    graph = folder / name
    found = {name: graph}
    # Or beside the file that a link leads to, as in the cache of the Hugging Face hub.
    roots = folder.resolve(), graph.resolve().parent
    for location in describe(graph).external:
        path = folder / location
        where = f'{uris.printable(str(graph))}: its weights are in {uris.printable(location)!r}'
        try:
            real = path.resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as e:  # what no file can be called, and circles
            raise ModelError(f'{where}, which is no name of a file') from e
        if '..' in Path(location).parts or not any(map(real.is_relative_to, roots)):
            raise ModelError(f'{where}, outside its folder: export it with its weights beside it')
        if not is_file:
            raise ModelError(f'{where}, which is not there: copy it, too')
        found[location] = path
    return found


def _no_onnx_file(shown: str, size_bytes: int) -> ModelError:
    return ModelError(f'{shown}: not an ONNX file, or a truncated one, at {size_bytes} bytes')


def _tensors(model: memoryview) -> Iterator[memoryview]:
    """All tensors, those in nodes and in graphs inside of nodes as well."""
    left = [('model', model)]
    while left:
        kind, message = left.pop()
        if kind == 'tensor':
            yield message
            continue
        for field, content in protobuf.fields(message):
            if inner := _INSIDE[kind].get(field):
                if isinstance(content, int):
                    raise ValueError('a number in the place of a message')
                left.append((inner, content))


def _of_tensor(tensor: memoryview) -> tuple[str, int, list[str]]:
    """The type that it is computed in, '' for none, its number of elements, and its files."""
    dims: list[int] = []
    data_type, is_external, locations = 0, False, []
    for field, content in protobuf.fields(tensor):
        if field == _DIMS:
            dims += _numbers(content)
        elif field == _DATA_TYPE and isinstance(content, int):
            data_type = content
        elif field == _DATA_LOCATION:
            is_external |= content == _IN_A_FILE
        elif field == _EXTERNAL_DATA and isinstance(content, memoryview):
            entry = dict(protobuf.fields(content))
            if entry.get(1, b'') == _LOCATION:
                locations.append(_text(entry.get(2, b'')))
    return _COMPUTED.get(data_type, ''), math.prod(dims), locations if is_external else []


def _numbers(content: memoryview | int) -> Iterator[int]:
    """One, or several in a row."""
    if isinstance(content, int):
        yield content
        return
    place = 0
    while place < len(content):
        value, place = protobuf.varint(content, place)
        yield value


def _text(content: memoryview | bytes | int) -> str:
    if isinstance(content, int):
        raise ValueError('a number in the place of a text')
    return bytes(content).decode()


def _inputs(graphs: list[memoryview]) -> tuple[Input, ...]:
    # Weights are listed as inputs by older exporters: they may be given, but need not.
    given = {
        _text(name)
        for graph in graphs
        for tensor in protobuf.submessages(graph, _INITIALIZER)
        for name in protobuf.submessages(tensor, _TENSOR_NAME)
    }
    found = [_input(each) for graph in graphs for each in protobuf.submessages(graph, _INPUT)]
    return tuple(each for each in found if each.name not in given)


def _input(value: memoryview) -> Input:
    names = [_text(name) for name in protobuf.submessages(value, 1)]
    dtype, shape = '', None
    for kind in protobuf.submessages(value, 2):
        for tensor in protobuf.submessages(kind, 1):
            for field, content in protobuf.fields(tensor):
                if field == 1 and isinstance(content, int):
                    dtype = TYPES.get(content, '')
                elif field == 2 and isinstance(content, memoryview):
                    shape = tuple(_axis(each) for each in protobuf.submessages(content, 1))
    return Input(names[-1] if names else '', dtype, shape)


def _axis(dimension: memoryview) -> int | str | None:
    found: int | str | None = None
    for field, content in protobuf.fields(dimension):
        if field == 1 and isinstance(content, int):
            found = content
        elif field == 2:
            found = _text(content) or None
    return found
