"""`lemmabeam` without network, decoder and store of images: many images in little time.

Run as `python -m tests.without_model label …`: every image can be read, and has the same labels.
"""

import hashlib
import logging
import sys

import numpy as np


def run() -> int:
    """Runs the command line of this process; its exit code."""
    # Beam logs what it misses while it is being imported.
    logging.basicConfig(level=logging.ERROR)
    from pipeline.main import main
    from transforms import load
    from transforms.model import handler
    from transforms.model.predictor import Prediction
    from transforms.rows import Fetched, Image

    class Predictor:
        def __init__(self, options):
            shape = (options.batch_size, options.max_labels)
            indices = np.broadcast_to(np.arange(options.max_labels, dtype=np.int32), shape)
            counts = np.full(options.batch_size, 3, np.int32)
            self._labels = Prediction(indices, np.full(shape, 0.1, np.float32), counts, None)
            self.computed = dict.fromkeys(('network', 'precision', 'device'), 'none')
            self.computed |= {'features': None, 'batch_size': options.batch_size}

        def __call__(self, pixels):
            return self._labels

    class Store:
        def fetch(self, uri, limits, admit):
            return Fetched(uri.encode(), '1-1', 0)

    def decode(loader, data, version, pixels):
        return Image(version, hashlib.sha256(data).hexdigest(), 500, 375, 'JPEG', len(data))

    handler.Predictor = Predictor
    load.Loader._decode = decode
    load.store_for = lambda *_: Store()
    return main()


if __name__ == '__main__':
    sys.exit(run())
