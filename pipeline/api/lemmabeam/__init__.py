"""Labels every image in a bucket: `import lemmabeam as lb`.

What `__all__` names is public, and nothing else. Each name is imported when it is first used, so
that `import lemmabeam` alone loads neither Beam nor TensorFlow nor Arrow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline import __version__
    from pipeline.api import errors

__all__ = [
    '__version__',
    'errors',
]

# The module that defines a name, or that a name stands for.
_MODULES = {
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
