"""Labels every image in a bucket: `import lemmabeam as lb`.

What `__all__` names is public, and nothing else. Each name is imported when it is first used, so
that `import lemmabeam` alone loads neither Beam nor TensorFlow nor Arrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import __version__
    from pipeline.api import errors
    from pipeline.api.composite import LabelImages
    from pipeline.api.handler import ModelHandler, Prediction
    from pipeline.api.pixels import ReadImages
    from pipeline.api.rows import DeadLetter, Label, LabeledImage
    from pipeline.api.writing import WriteLabels

__all__ = [
    'DeadLetter',
    'Label',
    'LabelImages',
    'LabeledImage',
    'ModelHandler',
    'Prediction',
    'ReadImages',
    'WriteLabels',
    '__version__',
    'errors',
]

# The module that defines a name, or that a name stands for.
_MODULES = {
    'DeadLetter': 'pipeline.api.rows',
    'Label': 'pipeline.api.rows',
    'LabelImages': 'pipeline.api.composite',
    'LabeledImage': 'pipeline.api.rows',
    'ModelHandler': 'pipeline.api.handler',
    'Prediction': 'pipeline.api.handler',
    'ReadImages': 'pipeline.api.pixels',
    'WriteLabels': 'pipeline.api.writing',
    '__version__': 'pipeline',
    'errors': 'pipeline.api.errors',
}

if not TYPE_CHECKING:  # a type checker is to know no name but those above

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        module = importlib.import_module(_MODULES[name])
        found = module if module.__name__.endswith(f'.{name}') else getattr(module, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
