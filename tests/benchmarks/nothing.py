"""`lemmabeam` with a store and a model that do nothing: what the graph alone takes.

`--labels N` before the command gives every image N labels with random scores; default 3.
`--real_fetch` fetches what the store has, and decodes none of it.
"""

import sys

import numpy as np

from pipeline.main import main
from transforms.load import Loader
from transforms.model import handler
from transforms.model.predictor import Prediction
from transforms.rows import Fetched, Image
from transforms.storage_local import LocalStore

LABELS = 3
_SHA256 = np.random.default_rng(0).bytes(1024 * 32)


class _Predictor:
    def __init__(self, options):
        shape = (options.batch_size, options.max_labels)
        chance = np.random.default_rng(0)
        classes = len(options.model.vocabulary)
        self._labels = Prediction(
            chance.integers(0, classes, shape, np.int32),
            -np.sort(-chance.random(shape, np.float32)),
            np.full(options.batch_size, LABELS, np.int32),
            None,
        )
        self.computed = {
            'network': 'none',
            'precision': 'none',
            'device': 'none',
            'features': None,
            'batch_size': options.batch_size,
        }

    def __call__(self, pixels):
        return self._labels


def _fetch(store, uri, limits, admit):
    admit(1)
    return Fetched(b'x', '1767225600-1')


def _decode(loader, data, version, pixels):
    start = 32 * np.random.default_rng(len(data)).integers(0, 1024)
    sha256 = _SHA256[start : start + 32].hex()
    return Image(version, sha256, 500, 375, 'JPEG', len(data))


if __name__ == '__main__':
    arguments = sys.argv[1:]
    if arguments[0] == '--labels':
        LABELS = int(arguments[1])
        arguments = arguments[2:]
    if arguments[0] == '--real_fetch':
        arguments = arguments[1:]
    else:
        LocalStore.fetch = _fetch
    handler.Predictor = _Predictor
    Loader._decode = _decode
    sys.exit(main(arguments))
