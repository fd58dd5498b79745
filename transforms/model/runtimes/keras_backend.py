"""On which backend Keras computes in this process: it is chosen once, at the first import."""

import os
import sys

from transforms.core.errors import ModelError

VARIABLE = 'KERAS_BACKEND'
"""What Keras reads when it is imported."""


def imported() -> str:
    """The backend of a Keras that is already imported; '' if it is not."""
    keras = sys.modules.get('keras')
    return '' if keras is None else str(keras.config.backend())


def set_backend(backend: str) -> None:
    """Has Keras take a backend when it is imported.

    Raises:
      ModelError: it is imported already, with another one.
    """
    found = imported()
    if found not in ('', backend):
        raise ModelError(
            f'Keras was imported in this process with the backend {found!r} already, and keeps it: '
            f'set {VARIABLE}={backend} before, or start another process for --backend {backend}'
        )
    os.environ[VARIABLE] = backend
