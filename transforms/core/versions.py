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


_OF_BACKENDS = {'jax': ('jax', 'jaxlib'), 'onnxruntime': ('onnxruntime',)}


@functools.cache
def library_versions(backend: str = '') -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on, by name.

    Args:
      backend: what computed them; by default, those that are installed in any case.
    """
    names = (*_LIBRARIES, *_OF_BACKENDS.get(backend, ()))
    versions = {name: _version(name) for name in names}
    return {**versions, 'python': platform.python_version()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(f'{name}-gpu')  # of ONNX Runtime: the same, and CUDA
