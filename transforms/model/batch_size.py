"""The batch size with which a GPU computes fastest, measured once and remembered.

It is measured by a process of its own, with which all that it took of the device goes again. This
module is also what that process runs.
"""

import contextlib
import ctypes
import datetime
import json
import logging
import pickle
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from transforms.core.errors import LemmabeamError, ModelError
from transforms.model.choices import OFF
from transforms.model.download.cache import key_of
from transforms.model.predictor import InferenceOptions, Model, Predictor
from transforms.model.runtimes.choose import card_of

_LOGGER = logging.getLogger(__name__)

_SMALLEST, _LARGEST = 8, 512
_LEAST_GAIN = 1.03
_CALLS, _CALLS_SEC = 5, 1.0
_DEADLINE_SEC = 3600.0


class Tried(NamedTuple):
    """What was measured of a batch size, in images per call and images per second."""

    batch_size: int
    images_per_sec: float


Measure = Callable[[InferenceOptions, Sequence[int]], list[Tried]]
"""Measures some batch sizes, the smallest first, as long as it gains; raises ModelError."""


class Sized(Model, Protocol):
    """A model that can be told how many images go into a call, see `Predictor.images_a_call`."""

    images_a_call: int


def sizes_for(chunk_size: int) -> list[int]:
    """The powers of two that are tried; chunks are cut into whole batches of each."""
    sizes = (1 << power for power in range(_SMALLEST.bit_length() - 1, _LARGEST.bit_length()))
    return [size for size in sizes if chunk_size % size == 0]


def find(
    options: InferenceOptions,
    sizes: Sequence[int],
    cache: Path,
    measure: Measure | None,
    load_library: Callable[[str], object] = ctypes.CDLL,
) -> int:
    """The batch size for the GPU of this machine, measured now if nobody has done so.

    Args:
      options: how the model is called; `batch_size` is that of its card.
      sizes: what may be chosen.
      cache: the folder where it is remembered, that of the models.
      measure: None to measure nothing.
      load_library: as of `transforms.model.runtimes.choose.card_of`.

    Returns:
      What was measured or remembered; `options.batch_size` where there is no GPU, nothing to choose
      from, or nothing may be measured.

    Raises:
      ModelError: the model cannot be measured.
    """
    card = card_of(load_library)
    if card is None or not sizes:
        return options.batch_size
    what = {
        'card': card.name,
        'model': options.model.id,
        'weights_sha256': options.model.weights_sha256,
        'size_px': options.model.card.resize.size_px,
        'precision': options.precision,
        'backend': options.backend,
        'jit': options.jit,
        'features': options.features,
        'sizes': list(sizes),
    }
    path = cache / f'batch-size-{key_of(json.dumps(what))}.json'
    known = _remembered(path, sizes)
    if known is not None or measure is None:
        return known or options.batch_size
    _LOGGER.warning(
        '--batch_size auto: measuring which one of %d to %d is fastest on %s, once for this model, '
        'size and precision; it takes minutes',
        sizes[0],
        sizes[-1],
        card.name,
    )
    tried = measure(options, sizes)
    best = fastest(tried)
    for each in tried:
        mark = ', taken' if each.batch_size == best else ''
        _LOGGER.warning('%d images per call: %.0f images/s%s', *each, mark)
    _remember(path, {**what, 'batch_size': best, 'images_per_sec': dict(tried)})
    return best


def fastest(tried: Iterable[Tried]) -> int:
    """The smallest batch size to which none of the others gains as much as 3 %."""
    tried = list(tried)
    most = max(each.images_per_sec for each in tried)
    return min(each.batch_size for each in tried if each.images_per_sec * _LEAST_GAIN > most)


def measure_here(
    options: InferenceOptions,
    sizes: Sequence[int],
    make: Callable[[InferenceOptions], Sized] = Predictor,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Tried]:
    """Measures in this process, which has no other use for the device; see `Measure`.

    Args:
      options: how the model is called.
      sizes: images per call, from small to large.
      make: makes the model; its first call finds out how many images fit into the memory.
      clock: seconds.
    """
    largest = sizes[-1]
    model = make(options._replace(batch_size=largest, canary=OFF, precision_receipt=0))
    fits = model.images_a_call
    side = options.model.card.resize.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (largest, side, side, 3), np.uint8)
    tried: list[Tried] = []
    for size in (each for each in sizes if each <= fits):
        model.images_a_call = size
        model(pixels)  # compiled
        if model.images_a_call < size:
            break
        took: list[float] = []
        while len(took) < _CALLS or sum(took) < _CALLS_SEC:
            begun = clock()
            model(pixels)
            took.append(clock() - begun)
        tried.append(Tried(size, largest / median(took)))
        if len(tried) > 1 and tried[-1].images_per_sec < _LEAST_GAIN * tried[-2].images_per_sec:
            break
    if not tried:
        raise ModelError(
            f'--batch_size auto: the device has memory for {fits} images per call, and the '
            f'smallest that is tried is {sizes[0]}; give a number'
        )
    return tried


def measure_apart(options: InferenceOptions, sizes: Sequence[int]) -> list[Tried]:
    """Measures in a process of its own, see `Measure`."""
    given = pickle.dumps((options, list(sizes)))
    code = f'import sys; sys.path[:] = {sys.path!r}; from {__name__} import _answer; _answer()'
    command = [sys.executable, '-c', code]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=_DEADLINE_SEC, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f'--batch_size auto: measuring took longer than {_DEADLINE_SEC:g} s; give a number'
        ) from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
        why = words[0] if words else 'its process said nothing'
        raise ModelError(
            f'--batch_size auto: measuring ended with code {done.returncode}: {why}; give a number'
        )
    answer = json.loads(lines[-1])
    if 'error' in answer:
        raise ModelError(f'--batch_size auto: {answer["error"]}')
    return [Tried(*each) for each in answer['tried']]


def _answer() -> None:
    """What the process does: options on its standard input, the answer on its standard output."""
    options, sizes = pickle.load(sys.stdin.buffer)
    answer: dict[str, object]
    try:
        answer = {'tried': measure_here(options, sizes)}
    except LemmabeamError as e:
        answer = {'error': str(e)}
    sys.stdout.write(f'{json.dumps(answer)}\n')


def _remembered(path: Path, sizes: Sequence[int]) -> int | None:
    try:
        known = json.loads(path.read_bytes())['batch_size']
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nobody has measured it, or the file is damaged: then it is written anew
    return known if known in sizes else None


def _remember(path: Path, found: dict[str, object]) -> None:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**found, 'measured_at': at}, indent=2))
        temporary.replace(path)
    except OSError as e:
        _LOGGER.warning('%s: cannot be written (%s): it is measured again', path, e.strerror)
        with contextlib.suppress(OSError):
            temporary.unlink()
