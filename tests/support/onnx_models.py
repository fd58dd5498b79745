"""Models in ONNX, as folders that `--model` takes: of a few operators, of the embedded weights, or
of a graph that timm and PyTorch have exported.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.data import timm_reference
from tests.data.timm_reference import made_up
from transforms.model import registry
from transforms.model.choices import EMBEDDED
from transforms.model.tensor_files import open_tensors

TIMM = Path(timm_reference.__file__).parent
_OPSET, _IR = 18, 10
FLOAT, FLOAT16, DOUBLE, UINT8 = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE),
    TensorProto.UINT8,
)

Shape = Sequence[int | str | None]
Tensor = tuple[str, int, Shape | None]
"""Name, type and shape of an input or output."""


class Graph:
    """A graph that grows; its names are those of its outputs."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, operator: str, *inputs: str, domain: str = '', **attributes: Any) -> str:
        """Adds an operator; returns its only output."""
        name = f'{operator.lower()}{len(self.nodes)}'
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        )
        return name

    def weight(self, name: str, value: npt.ArrayLike) -> str:
        """Adds a constant."""
        self.weights.append(numpy_helper.from_array(np.array(value, order='C'), name))
        return name

    def name(self, tensor: str, wanted: str) -> None:
        """Gives a tensor a name of its own, as of an output."""
        self.nodes.append(helper.make_node('Identity', [tensor], [wanted]))

    def model(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
        """The file."""
        graph = helper.make_graph(
            self.nodes,
            'graph',
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*each) for each in outputs],
            self.weights,
        )
        domains = {node.domain for node in self.nodes} - {''}
        opsets = [helper.make_opsetid('', _OPSET), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)


def save(
    model: Any,
    folder: Path,
    card: Mapping[str, Any],
    labels: int | None = None,
    external: str = '',
) -> Path:
    """Writes a model's folder.

    Args:
      model: the file.
      folder: to be made.
      card: the card's values.
      labels: how many classes have a name in a file beside it.
      external: name of the file for all weights; in the model itself by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if external:
        options = {'save_as_external_data': True, 'location': external, 'size_threshold': 0}
    onnx.save(model, str(folder / 'model.onnx'), **options)
    if labels is not None:
        (folder / 'labels.txt').write_text(''.join(f'thing {i}\n' for i in range(labels)))
        card = {**card, 'labels': 'labels.txt'}
    (folder / 'model_card.json').write_text(json.dumps(card))
    return folder


def embedded(folder: Path, **options: Any) -> Path:
    """The embedded network in ONNX, with its card: images come as it takes them, NHWC."""
    known = registry.known_models()[EMBEDDED]
    assert known.file is not None
    with open_tensors(known.file, EMBEDDED) as tensors:
        weights = {name: np.asarray(tensors[name], np.float32) for name in tensors.shapes}
    graph = Graph()
    x = graph.add('Transpose', 'images', perm=[0, 3, 1, 2])
    x = _convolve(graph, weights, x, 'stem', stride=2)
    for block, (stride, has_shortcut) in enumerate(_blocks()):
        name, before = f'block{block:02d}', x
        if f'{name}/expand/kernel' in weights:
            x = _convolve(graph, weights, x, f'{name}/expand')
        x = _convolve(graph, weights, x, f'{name}/depthwise', stride=stride)
        x = _convolve(graph, weights, x, f'{name}/project', is_linear=True)
        if has_shortcut:
            x = graph.add('Add', before, x)
    x = _convolve(graph, weights, x, 'head')
    features = graph.add('Flatten', graph.add('GlobalAveragePool', x))
    kernel = graph.weight('kernel', weights.pop('classifier/kernel'))
    bias = graph.weight('bias', weights.pop('classifier/bias'))
    assert not weights
    graph.name(graph.add('Gemm', features, kernel, bias), 'logits')
    graph.name(features, 'features')
    size_px = known.card.resize.size_px
    model = graph.model(
        [('images', FLOAT, ('batch', size_px, size_px, 3))],
        [('logits', FLOAT, ('batch', 1000)), ('features', FLOAT, ('batch', 1280))],
    )
    return save(model, folder, known.card.with_changes(name='lite0-onnx').to_dict(), **options)


def _blocks() -> list[tuple[int, bool]]:
    """Stride of each block of EfficientNet-Lite0, and whether its input is added."""
    stages = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
    return [(1 if i else stride, i > 0) for repeats, stride in stages for i in range(repeats)]


def _convolve(
    graph: Graph,
    weights: dict[str, np.ndarray],
    x: str,
    name: str,
    stride: int = 1,
    is_linear: bool = False,
) -> str:
    kernel = weights.pop(f'{name}/kernel')  # HWIO; depthwise HWC1
    is_depthwise = name.endswith('depthwise')
    kernel = kernel.transpose(2, 3, 0, 1) if is_depthwise else kernel.transpose(3, 2, 0, 1)
    x = graph.add(
        'Conv',
        x,
        graph.weight(f'{name}/kernel', kernel),
        graph.weight(f'{name}/bias', weights.pop(f'{name}/bias')),
        auto_pad='SAME_UPPER',
        strides=[stride, stride],
        group=len(kernel) if is_depthwise else 1,
    )
    if is_linear:
        return x
    if not any(each.name == 'six' for each in graph.weights):
        graph.weight('zero', np.float32(0))
        graph.weight('six', np.float32(6))
    return graph.add('Clip', x, 'zero', 'six')


def mobilenet(folder: Path) -> Path:
    """timm's MobileNetV3, as PyTorch exports it, with made-up weights in a file beside it."""
    graph = onnx.load(TIMM / 'mobilenetv3_small_100.onnx', load_external_data=False)
    folder.mkdir(parents=True)
    parts: dict[int, bytes] = {}
    for tensor in graph.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            assert where['location'] == 'model.onnx.data'
            values = made_up.weights(tensor.name, tuple(tensor.dims)).tobytes()
            assert len(values) == int(where['length'])
            parts[int(where.get('offset', 0))] = values
    with (folder / 'model.onnx.data').open('wb') as file:
        for offset, values in parts.items():
            file.seek(offset)
            file.write(values)
    data = json.loads((TIMM / 'reference.json').read_text())['data']
    size_px = data['input_size'][1]
    card = {
        'name': 'mobilenetv3-small-100',
        'resize': {
            'size_px': size_px,
            'short_side_px': int(size_px / data['crop_pct']),
            'filter': data['interpolation'],
        },
        'mean': [255 * value for value in data['mean']],
        'std': [255 * value for value in data['std']],
        'activation': 'softmax',
        'vocabulary': 'ilsvrc2012',
    }
    return save(graph, folder, card)
