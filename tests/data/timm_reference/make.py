"""Makes what lies here: a graph as timm and PyTorch export it, and what they see in pictures.

Run from the root of the project, with the versions that `reference.json` names:

    pip install torch timm onnx onnxscript
    python tests/data/timm_reference/make.py

The weights are made up (`made_up.py`) and not kept.  Batch normalization is set to add a bias only,
so that the exporter, which folds it, leaves the weights as they were made.
"""

import json
import tempfile
from pathlib import Path

import onnx
import timm
import torch
from made_up import weights
from PIL import Image
from torch import nn

NAME = 'mobilenetv3_small_100'
HERE = Path(__file__).parent
SAMPLE = HERE.parents[2] / 'pipeline' / 'sample'
PHOTOGRAPHS = (
    'admiral astronaut cameraman cat coffee dahlia galaxies rocket scooter temple'.split()
)


def fill(model):
    """Sets all weights by the names that they have in the exported graph."""
    convolution = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            convolution = name
            for part, value in module.named_parameters():
                value.data = torch.from_numpy(weights(f'{name}.{part}', tuple(value.shape)))
        elif isinstance(module, nn.BatchNorm2d):
            shape = tuple(module.bias.shape)
            module.bias.data = torch.from_numpy(weights(f'{convolution}.weight_bias', shape))
            module.weight.data.fill_(1.0)
            module.running_mean.fill_(0.0)
            module.running_var.fill_(1.0 - module.eps)


def export(model, size_px, path):
    """The graph without its weights, which it says are in `model.onnx.data`."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / 'model.onnx'
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, size_px, size_px),),
            str(whole),
            input_names=['images'],
            output_names=['logits'],
            dynamo=True,
            dynamic_shapes=({0: 'batch'},),
            external_data=True,
        )
        exported = onnx.load(whole)  # with the weights
        graph = onnx.load(whole, load_external_data=False)
    for tensor in exported.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == 'f' and values.size > 10:
            assert abs(values - weights(tensor.name, values.shape)).max() < 1e-6, tensor.name
    # What only people read.
    for message in (graph, graph.graph, *graph.graph.node, *graph.graph.output, *graph.graph.input):
        message.ClearField('metadata_props')
        message.ClearField('doc_string')
    graph.graph.ClearField('value_info')
    for tensor in graph.graph.initializer:
        tensor.ClearField('metadata_props')
    path.write_bytes(graph.SerializeToString())


def square(picture):
    """The middle of a photograph: of what is no square, torchvision rounds the longer side."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.convert('RGB').crop((left, top, left + side, top + side))


def main():
    model = timm.create_model(NAME, pretrained=False).eval()
    fill(model)
    data = timm.data.resolve_model_data_config(model)
    export(model, data['input_size'][1], HERE / f'{NAME}.onnx')
    transform = timm.data.create_transform(**data, is_training=False)
    seen = {}
    for name in PHOTOGRAPHS:
        with Image.open(SAMPLE / f'{name}.jpg') as picture, torch.no_grad():
            scores = model(transform(square(picture))[None]).softmax(-1)[0]
        best = scores.topk(5)
        seen[name] = [
            [index, round(score, 6)]
            for index, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
    reference = {
        'versions': {'timm': timm.__version__, 'torch': torch.__version__},
        'data': data,
        'seen': seen,
    }
    (HERE / 'reference.json').write_text(json.dumps(reference, indent=1) + '\n')


if __name__ == '__main__':
    main()
