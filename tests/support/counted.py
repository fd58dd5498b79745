"""`lemmabeam` with a model that counts in a file how many images it is given.

Run as `python -m tests.support.counted FILE label …`; with `without_model` as second word it is the
one of `tests.support.without_model`, which takes no time; with `without_network` it fetches the
images all the same.
"""

import os
import sys
from collections.abc import Sequence

WITHOUT_MODEL = 'without_model'
WITHOUT_NETWORK = 'without_network'

_BATCH = 32


def at_risk(chunk: int) -> int:
    """Images that a kill has paid for again, at most, for each bundle in flight.

    A chunk that was on its way to the store, one that was worked on, and what the device had of the
    next one.
    """
    return 2 * chunk + 2 * _BATCH


def install(file: str, kind: str = '') -> None:
    """Counts in this process, before a pipeline is made or a bundle processed."""
    import numpy as np

    from transforms import label as label_step
    from transforms.model.predictor import Prediction
    from transforms.model.rescue import Predict

    # The name that the step looks up.
    predict = label_step.predict_or_rescue  # type: ignore[attr-defined]
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counted(
        predictor: Predict, pixels: np.ndarray, slots: Sequence[int]
    ) -> tuple[Prediction, dict[int, str]]:
        # Before the call: who is killed in it has paid.
        os.write(descriptor, b'%d\n' % len(slots))
        return predict(predictor, pixels, slots)

    label_step.predict_or_rescue = counted  # type: ignore[attr-defined,assignment]
    if kind:
        from tests.support import without_model

        without_model.install(real_fetch=kind == WITHOUT_NETWORK)


def run(file: str, argv: list[str]) -> int:
    """Runs a command line; its exit code."""
    kind = argv.pop(0) if argv[0] in (WITHOUT_MODEL, WITHOUT_NETWORK) else ''
    install(file, kind)
    from pipeline.main import main

    if not kind:
        return main(argv)
    from tests.support.without_model import in_threads

    return main(in_threads(argv))


if __name__ == '__main__':
    sys.exit(run(sys.argv[1], sys.argv[2:]))
