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
    from pipeline.api.jobs import clean, compare, label, latest, relabel, report, retry, verify
    from pipeline.api.pixels import ReadImages
    from pipeline.api.reading import Labels, open
    from pipeline.api.results import Comparison, LatestFile, Verified
    from pipeline.api.rows import DeadLetter, Label, LabeledImage
    from pipeline.api.writing import WriteLabels
    from transforms.runs.report import RunReport

__all__ = [
    'Comparison',
    'DeadLetter',
    'Label',
    'LabelImages',
    'LabeledImage',
    'Labels',
    'LatestFile',
    'ModelHandler',
    'Prediction',
    'ReadImages',
    'RunReport',
    'Verified',
    'WriteLabels',
    '__version__',
    'clean',
    'compare',
    'errors',
    'label',
    'latest',
    'open',
    'relabel',
    'report',
    'retry',
    'verify',
]

# The module that defines a name, or that a name stands for.
_MODULES = {
    'Comparison': 'pipeline.api.results',
    'DeadLetter': 'pipeline.api.rows',
    'Label': 'pipeline.api.rows',
    'LabelImages': 'pipeline.api.composite',
    'LabeledImage': 'pipeline.api.rows',
    'Labels': 'pipeline.api.reading',
    'LatestFile': 'pipeline.api.results',
    'ModelHandler': 'pipeline.api.handler',
    'Prediction': 'pipeline.api.handler',
    'ReadImages': 'pipeline.api.pixels',
    'RunReport': 'transforms.runs.report',
    'Verified': 'pipeline.api.results',
    'WriteLabels': 'pipeline.api.writing',
    '__version__': 'pipeline',
    'clean': 'pipeline.api.jobs',
    'compare': 'pipeline.api.jobs',
    'errors': 'pipeline.api.errors',
    'label': 'pipeline.api.jobs',
    'latest': 'pipeline.api.jobs',
    'open': 'pipeline.api.reading',
    'relabel': 'pipeline.api.jobs',
    'report': 'pipeline.api.jobs',
    'retry': 'pipeline.api.jobs',
    'verify': 'pipeline.api.jobs',
}

if not TYPE_CHECKING:  # a type checker is to know no name but those above

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        module = importlib.import_module(_MODULES[name])
        found = getattr(module, name, module)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
