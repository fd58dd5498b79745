"""The BiT network against what the authors' own implementation computes for the same weights.

`tests/data/bit_reference` has synthetic weights in the official layout, pictures, and the logits
and features of the official PyTorch code for a network of one unit a block.
"""

import numpy as np
import pytest

from tests import support
from tests.data.bit_reference import synthetic_weights
from transforms.model.checkpoint import Architecture

CLASSES = 100


@pytest.fixture(scope='module')
def bit():
    support.start_tensorflow()
    from transforms.model import bit

    return bit


ARCHITECTURE = Architecture(14, 1)


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
    images = (reference[f'images_{name}'].astype(np.float32) - 127.5) / 127.5
    logits = bit.build(ARCHITECTURE, CLASSES, weights)(images)
    # A constant grey is ill-conditioned: its variance is a difference of nearly equal numbers.
    tolerance = 5e-3 if name == 'gray128' else 1e-3
    np.testing.assert_allclose(logits, reference[f'logits_{name}'], rtol=0, atol=tolerance)
    features = np.asarray(bit.build(ARCHITECTURE, None, weights)(images))
    expected = reference[f'features_{name}']
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()
