"""The BiT network against what the authors' own implementation computes for the same weights.

`tests/data/bit_reference` has synthetic weights in the official layout, pictures, and the logits
and features of the official PyTorch code for a network of one unit a block.
"""

import numpy as np
import pytest

from tests import support
from tests.data.bit_reference import synthetic_weights
from transforms.errors import ModelError

CLASSES = 100


@pytest.fixture(scope='module')
def bit():
    support.start_tensorflow()
    from transforms.model import bit

    return bit


@pytest.fixture(scope='module')
def weights(reference):
    weights = synthetic_weights.make_weights('R14x1', 0, CLASSES)
    assert synthetic_weights.digest(weights) == reference['weights_sha256'].item()
    return weights


@pytest.fixture(scope='module')
def reference():
    with np.load(synthetic_weights.__file__.replace('synthetic_weights.py', 'r14x1.npz')) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize('name', ['noise64', 'noise193x161', 'noise224', 'photos224', 'gray128'])
def test_logits_and_features_equal_the_authors(bit, weights, reference, name):
    architecture = bit.Architecture.parse('R14x1')
    images = (reference[f'images_{name}'].astype(np.float32) - 127.5) / 127.5
    logits = bit.build(architecture, CLASSES, weights)(images)
    # A constant grey is ill-conditioned: its variance is a difference of nearly equal numbers.
    tolerance = 5e-3 if name == 'gray128' else 1e-3
    np.testing.assert_allclose(logits, reference[f'logits_{name}'], rtol=0, atol=tolerance)
    features = np.asarray(bit.build(architecture, None, weights)(images))
    expected = reference[f'features_{name}']
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('name', ['R14x1', 'R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x4'])
def test_the_layout_is_that_of_the_official_checkpoints(bit, name):
    layout = bit.layout(bit.Architecture.parse(name), synthetic_weights.CLASSES_21K)
    assert list(layout.items()) == list(synthetic_weights.layout(name).items())


def test_the_largest_network_has_the_published_size(bit):
    layout = bit.layout(bit.Architecture.parse('R101x3'), 21843)
    assert len(layout) == 306
    assert sum(int(np.prod(shape)) for shape in layout.values()) == 516_015_123


def test_wrong_weights_are_named_tensor_by_tensor(bit, weights):
    architecture = bit.Architecture.parse('R14x1')
    name = 'resnet/block1/unit01/a/group_norm/beta'
    for wrong, message in (
        (
            {key: value for key, value in weights.items() if key != name},
            f"lack the tensor '{name}'",
        ),
        (weights | {name: np.zeros(3)}, rf"'{name}' has shape \(3,\), expected \(64,\)"),
        (weights | {'resnet/moon': np.zeros(3)}, 'unknown tensors: resnet/moon'),
    ):
        with pytest.raises(ModelError, match=message):
            bit.build(architecture, CLASSES, wrong)
    with pytest.raises(ModelError, match="no BiT architecture 'R20x1'"):
        bit.Architecture.parse('R20x1')
