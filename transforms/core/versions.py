"""Which libraries made a result."""

import functools
import importlib.metadata
import platform

_LIBRARIES = (
    'apache-beam',
    'google-cloud-storage',
    'keras',
    'lemmabeam',
    'numpy',
    'pillow',
    'pyarrow',
    'tensorflow',
    'tensorflow-hub',
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on, by name."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {**versions, 'python': platform.python_version()}
