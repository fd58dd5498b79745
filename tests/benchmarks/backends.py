"""What computes the network: TensorFlow beside JAX, and bfloat16 beside float32."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks.measure import Row
from tests.data.bit_reference import synthetic_weights
from transforms.model.choices import BACKEND_NAMES, EMBEDDED, FLOAT32, JAX, OFF, TENSORFLOW
from transforms.model.predictor import InferenceOptions, Prediction, Predictor
from transforms.model.receipt import Receipt
from transforms.model.resolve import resolve_model
from transforms.model.witness import compare

_ROOT = Path(__file__).parents[2]
_WAYS = tuple(itertools.product((TENSORFLOW, JAX), (FLOAT32, 'bfloat16')))


def measure(model: str, size_px: int, batch_size: int, rounds: int, backend: str, way: str) -> None:
    """Measures one way of computing in this process, and prints it.

    Args:
      model: the value of --model.
      size_px: side of the square.
      batch_size: images a call.
      rounds: calls that are measured, behind one that is not.
      backend: of `transforms.model.choices.BACKENDS`.
      way: the precision, and behind a space the file for the prediction.
    """
    precision, _, target = way.partition(' ')
    source = resolve_model(model, size_px=size_px)
    card = source.card
    options = InferenceOptions(
        *(source, batch_size, card.threshold, card.max_labels, 0, _cores()),
        precision=precision,
        backend=backend,
        canary=OFF,
    )
    started = time.perf_counter()
    predictor = Predictor(options)
    start_sec = time.perf_counter() - started
    pixels = _pictures(batch_size, size_px)
    found = predictor(pixels)
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        predictor(pixels)
        walls.append((time.perf_counter() - wall) / batch_size)
        cpus.append((time.process_time() - cpu) / batch_size)
    np.savez(target, indices=found.indices, scores=found.scores, counts=found.counts)
    print(json.dumps([start_sec, median(walls), median(cpus), predictor.computed['device']]))


def _cores() -> int:
    from transforms.core.resources import cpu_count

    return cpu_count()


def _pictures(count: int, size_px: int) -> np.ndarray:
    """The photographs of the sample again and again, none of them twice the same way."""
    from pipeline import options
    from transforms.images.decode import decode
    from transforms.images.resize import Resize

    paths = [
        path
        for path in sorted(Path(options.__file__).with_name('sample').glob('*.jpg'))
        if path.stem not in ('empty', 'half', 'notes')
    ]
    resize = Resize(size_px=size_px, short_side_px=size_px, filter='bicubic')
    pictures = [decode(path.read_bytes(), resize) for path in paths]
    turned = (
        np.roll(pictures[i % len(pictures)], 7 * (i // len(pictures)), axis=1) for i in range(count)
    )
    return np.stack([*turned])


def _in_process(target: Path, *arguments: str | int) -> list[float | str]:
    """Runs `measure` in a fresh process, as Keras has one backend a process."""
    code = f'from tests.benchmarks.backends import measure; measure(*{arguments!r})'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f'{arguments} exited with {done.returncode}:\n{done.stderr[-2000:]}')
    assert target.exists()
    found: list[float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _prediction(path: Path) -> Prediction:
    with np.load(path) as file:
        return Prediction(file['indices'], file['scores'], file['counts'], None)


def compared(folder: Path, title: str, *model: str | int) -> list[Row]:
    """A model in all ways; each is held against TensorFlow in float32."""
    rows, seconds, seen = [], {}, {}
    for backend, precision in _WAYS:
        target = folder / f'{backend}-{precision}.npz'
        start_sec, wall_sec, cpu_sec, device = _in_process(
            target, *model, backend, f'{precision} {target}'
        )
        way = f'{title}, {BACKEND_NAMES[backend]}, {precision} on {device}'
        rows += [
            Row(f'{way}: start', float(start_sec), 's'),
            Row(f'{way}: rate', 1 / float(wall_sec), 'images/s'),
            Row(f'{way}: CPU', 1000 * float(cpu_sec), 'ms an image'),
        ]
        seconds[backend, precision] = float(cpu_sec)
        seen[backend, precision] = _prediction(target)
    exact = seen[TENSORFLOW, FLOAT32]
    for way, found in seen.items():
        if way != (TENSORFLOW, FLOAT32):
            receipt: Receipt = compare(found, exact, range(len(found.counts)))
            name = f'{title}, {BACKEND_NAMES[way[0]]}, {way[1]} beside TensorFlow, float32'
            most = 1e-4 if way[1] == FLOAT32 else None
            rows += [
                Row(f'{name}: same best class', receipt.agreement),
                Row(f'{name}: overlap of labels', receipt.jaccard),
                Row(f'{name}: largest difference of scores', receipt.largest, at_most=most),
            ]
    for backend in (TENSORFLOW, JAX):
        ratio = seconds[backend, 'bfloat16'] / seconds[backend, FLOAT32]
        rows.append(Row(f'{title}, {BACKEND_NAMES[backend]}: CPU, bfloat16 / float32', ratio))
    return rows


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    name = 'R14x1' if is_quick else 'R50x1'
    weights = folder / f'BiT-M-{name}.npz'
    np.savez(weights, **synthetic_weights.make_weights(name, 0))
    size_px, rounds = (64, 1) if is_quick else (224, 7)
    batch_sizes = (4, 2) if is_quick else (32, 8)
    return [
        *compared(folder, 'embedded', EMBEDDED, size_px, batch_sizes[0], rounds),
        *compared(folder, name, str(weights), size_px, batch_sizes[1], rounds),
    ]
