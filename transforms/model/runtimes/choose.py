"""Which runtime a process takes, by what was asked for and by what can be seen of its machine.

Does not start any of them: what TensorFlow's wheel was built for stands in a file of it, and the
driver tells what the card is.
"""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transforms.core.errors import ModelError
from transforms.model.choices import AUTO, BACKEND_NAMES, JAX, ONNX_RUNTIME, TENSORFLOW
from transforms.model.resolve import ModelSource
from transforms.model.runtimes import keras_backend
from transforms.model.runtimes.base import Place, Runtime
from transforms.model.tensor_files import Kind

_LOGGER = logging.getLogger(__name__)

Capability = tuple[int, int]
"""Compute capability of an NVIDIA GPU, major and minor."""

_FIRST = Place()
_AS_SAVED = {Kind.SAVED_MODEL: TENSORFLOW, Kind.ONNX: ONNX_RUNTIME}
"""What alone computes a model of this format as it was saved."""
_MAJOR, _MINOR = 75, 76  # of CUdevice_attribute
_MOST_NAME = 256


class Card(NamedTuple):
    """A GPU: its name, such as 'NVIDIA L4', and its compute capability."""

    name: str
    capability: Capability


class Machine(NamedTuple):
    """What decides on the runtime.

    Attributes:
      card: compute capability of the first GPU that this process sees; None without one.
      built_for: the newest one that the installed TensorFlow was built for; None if it was built
        for none, or does not say.
      has_jax: whether JAX is installed with what it needs for NVIDIA GPUs.
    """

    card: Capability | None
    built_for: Capability | None
    has_jax: bool


def probe() -> Machine:
    """Looks at this machine."""
    card = card_of(ctypes.CDLL)
    if card is None:
        return Machine(None, None, False)
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    return Machine(card.capability, _built_for(), any('cuda' in plugin.name for plugin in plugins))


def card_of(load_library: Callable[[str], Any]) -> Card | None:
    """The first GPU that this process sees, as the driver has it; None without a GPU.

    Args:
      load_library: loads a library by its name, or raises OSError.
    """
    try:
        driver = load_library('libcuda.so.1')
    except OSError:
        return None
    device, found = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    name = ctypes.create_string_buffer(_MOST_NAME)
    calls = [
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(found[0]), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(found[1]), _MINOR, device),
        lambda: driver.cuDeviceGetName(name, _MOST_NAME, device),
    ]
    if any(call() for call in calls):  # each gives 0 if it went well
        return None
    return Card(name.value.decode(errors='replace'), (found[0].value, found[1].value))


def _built_for() -> Capability | None:
    spec = importlib.util.find_spec('tensorflow')
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / 'python' / 'platform' / 'build_info.py'
    return newest(path.read_text()) if path.is_file() else None


def newest(build_info: str) -> Capability | None:
    """The newest compute capability in the text of TensorFlow's `build_info.py`; None without."""
    found = re.findall(r"'(?:sm|compute)_(\d+)(\d)[a-z]?'", build_info)
    return max(((int(major), int(minor)) for major, minor in found), default=None)


def choose(backend: str, source: ModelSource, look: Callable[[], Machine] = probe) -> str:
    """The backend to take in this process.

    'auto' is ONNX Runtime for an ONNX model; for all others what Keras has or is told by
    KERAS_BACKEND, else TensorFlow, but JAX on a card that is newer than what TensorFlow was built
    for.

    Args:
      backend: of `transforms.model.choices.BACKENDS`.
      source: the model.
      look: looks at the machine; called only where it matters.

    Raises:
      ModelError: it cannot compute the model, or Keras is told to use yet another one.
    """
    if backend == AUTO and only_backend(source) == ONNX_RUNTIME:
        return ONNX_RUNTIME  # it asks nothing of Keras
    if backend == AUTO:
        backend = keras_backend.imported() or os.environ.get(keras_backend.VARIABLE, '')
    if backend not in ('', TENSORFLOW, JAX, ONNX_RUNTIME):
        raise ModelError(
            f'Keras is set to the backend {backend!r} here ({keras_backend.VARIABLE}); expected '
            f'{TENSORFLOW} or {JAX}, or name one by --backend'
        )
    if backend:
        check_backend(backend, source)
        return backend
    return _by_card(look()) if source.can_be_rebuilt else TENSORFLOW


def _by_card(machine: Machine) -> str:
    card, built_for, has_jax = machine
    if card is None or built_for is None or card[0] <= built_for[0]:
        return TENSORFLOW
    newer = (
        f'the GPU has compute capability {_shown(card)}, and the installed TensorFlow was built '
        f'for {_shown(built_for)} at most'
    )
    if has_jax:
        _LOGGER.warning('%s: JAX computes instead (--backend)', newer)
        return JAX
    _LOGGER.warning("%s: it may not start; install 'lemmabeam[jax-cuda]'", newer)
    return TENSORFLOW


def _shown(capability: Capability) -> str:
    return '.'.join(map(str, capability))


def only_backend(source: ModelSource) -> str:
    """The one backend that computes a model; '' for one that Keras builds, on any of its own."""
    return '' if source.can_be_rebuilt else _AS_SAVED[source.kind]


def check_backend(backend: str, source: ModelSource, jit: bool = False) -> None:
    """Refuses a backend that cannot compute a model, before it is loaded.

    Args:
      backend: of `transforms.model.choices.BACKENDS`.
      source: the model.
      jit: whether XLA is to compile it.

    Raises:
      ModelError: it is refused.
    """
    only = only_backend(source)
    if backend not in (AUTO, only or TENSORFLOW, only or JAX):
        raise ModelError(not_by(backend, source))
    if jit and only == ONNX_RUNTIME:
        raise ModelError(
            f'--jit: XLA does not compile the {source.kind.value} {source.card.name}, whose graph '
            'ONNX Runtime optimizes in any case; leave it out'
        )


def not_by(backend: str, source: ModelSource, why: str = '') -> str:
    """What is said of a model that a backend does not compute, as one line for people.

    Args:
      backend: that one.
      source: the model.
      why: its network could not be built from its weights; '' if it is of no family.
    """
    if backend == ONNX_RUNTIME:
        return (
            f'--backend {backend}: it computes ONNX models, and {source.card.name} is none; leave '
            'it out'
        )
    only = _AS_SAVED[source.kind]
    return (
        f'--backend {backend}: the {source.kind.value} {source.card.name} is used as it was saved'
        + (f' ({why})' if why else '')
        + f', which only {BACKEND_NAMES[only]} can do; use --backend {only}'
    )


def start(
    backend: str,
    source: ModelSource,
    intra_op_threads: int,
    require_gpu: bool,
    place: Place = _FIRST,
) -> Runtime:
    """Starts the runtime for a model in this process, for good.

    Args:
      backend: of `transforms.model.choices.BACKENDS`.
      source: the model.
      intra_op_threads: threads within one operation.
      require_gpu: refuse to work without an accelerator.
      place: the device.

    Raises:
      ModelError: it cannot be had, or cannot compute the model.
    """
    chosen = choose(backend, source)
    if chosen == ONNX_RUNTIME:
        from transforms.model.runtimes.on_onnxruntime import OnnxRuntime

        return OnnxRuntime(intra_op_threads, require_gpu, place)
    if chosen == JAX:
        from transforms.model.runtimes.on_jax import Jax

        return Jax(intra_op_threads, require_gpu, place)
    from transforms.model.runtimes.on_tensorflow import TensorFlow

    return TensorFlow(intra_op_threads, require_gpu, place)
