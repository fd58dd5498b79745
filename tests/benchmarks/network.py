"""BiT networks of ours beside the published way of computing them, and what R101x3 takes."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from pipeline import options
from tests.benchmarks.measure import Row, run_python
from tests.data.bit_reference import synthetic_weights
from transforms.core.resources import cpu_count
from transforms.model.families.bit.checkpoint import Architecture

_MB = 1e6
_SIZE_PX = 224
# (architecture, batch size, rounds, how many times as fast ours must be)
_CASES = (
    ('R50x1', 1, 9, 1.5),
    ('R50x1', 8, 7, 1.2),
    ('R101x3', 1, 5, 1.8),
    ('R101x3', 8, 3, 1.15),
)
_QUICK_CASES = (('R14x1', 1, 1, None), ('R14x1', 2, 1, None))


def compare(cases: Sequence[tuple[str, int, int, float | None]]) -> list[Row]:
    """Ours and the published way in turns: the same weights, the same batch, one process."""
    from transforms.model.runtimes.on_tensorflow import import_tensorflow

    tf = import_tensorflow(cpu_count())
    from tests.support.published import PublishedModule
    from transforms.model.families.bit import resnet

    rows = []
    for name in dict.fromkeys(case[0] for case in cases):
        architecture = Architecture.parse(name)
        weights = synthetic_weights.make_weights(name, 0)
        published = PublishedModule(weights, architecture.depth)
        network = resnet.build(architecture, synthetic_weights.CLASSES_21K, weights)
        del weights
        for _, batch_size, rounds, factor in (case for case in cases if case[0] == name):
            shape = (batch_size, _SIZE_PX, _SIZE_PX, 3)
            specification = [tf.TensorSpec(shape, tf.float32)]
            ours = tf.function(
                lambda x, network=network: network(x * 2.0 - 1.0, training=False),
                input_signature=specification,
                autograph=False,
            )
            theirs = tf.function(published.__call__, input_signature=specification)
            images = tf.constant(np.random.default_rng(0).random(shape, np.float32))
            difference = np.abs(ours(images).numpy() - theirs(images).numpy()).max()
            pairs = [(_time(ours, images), _time(theirs, images)) for _ in range(rounds)]
            title = f'{name}, batch {batch_size}'
            rows += [
                Row(f'{title}: ours', median(a for a, _ in pairs) / batch_size, 's an image'),
                Row(f'{title}: published', median(b for _, b in pairs) / batch_size, 's an image'),
                Row(
                    f'{title}: speed, ours / published',
                    median(b / a for a, b in pairs),
                    at_least=factor,
                ),
                Row(f'{title}: largest difference of logits', float(difference), at_most=1e-3),
            ]
        del published, network
    return rows


def _time(call: Callable[[object], object], images: object) -> float:
    started = time.perf_counter()
    call(images).numpy()
    return time.perf_counter() - started


def export_and_load(folder: Path, name: str) -> list[Row]:
    """What it takes to export a checkpoint, and to label ten photographs with it."""
    npz, model, output = folder / f'BiT-M-{name}.npz', folder / 'model', folder / 'output'
    np.savez(npz, **synthetic_weights.make_weights(name, 0))
    checkpoint_bytes = npz.stat().st_size
    exported = run_python('-m', 'pipeline', 'export-model', '--weights', npz, '--output', model)
    npz.unlink()
    sample = Path(options.__file__).parent / 'sample'
    labeled = run_python(
        *('-m', 'pipeline', 'label', '--input', sample, '--output', output, '--model', model),
        *('--canary', 'finite', '--max_failure_rate', '0.25'),
    )
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    size_bytes = sum(path.stat().st_size for path in model.rglob('*') if path.is_file())
    most_mb = round((3 * checkpoint_bytes + 1e9) / _MB)
    return [
        Row(f'{name}: checkpoint', checkpoint_bytes / _MB, 'MB'),
        Row(f'{name}: SavedModel', size_bytes / _MB, 'MB'),
        Row(f'{name}: export', exported.wall_sec, 's'),
        Row(f'{name}: export, peak', exported.largest_bytes / _MB, 'MB', at_most=most_mb),
        Row(f'{name}: 10 photographs in a fresh process', labeled.wall_sec, 's'),
        Row(
            f'{name}: 10 photographs in a fresh process, without inference',
            labeled.wall_sec - report['stage_thread_sec']['infer'],
            's',
        ),
        Row(f'{name}: 10 photographs in a fresh process, peak', labeled.peak_bytes / _MB, 'MB'),
    ]


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    if is_quick:
        return [*compare(_QUICK_CASES), *export_and_load(folder, 'R14x1')]
    return [*compare(_CASES), *export_and_load(folder, 'R101x3')]
