"""The settings of one machine side by side: what the defaults reach of the best of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.images import write_jpegs
from tests.benchmarks.measure import Row, run_python
from transforms.core.resources import cpu_count

_MIN_SHARE = 0.95
_AT_WORK = ('infer', 'fetch_wait', 'decode_wait')


def _grid() -> dict[str, tuple[str, ...]]:
    settings: dict[str, tuple[str, ...]] = {'default': ()}
    cores = cpu_count()
    half = max(1, cores // 2)
    for loader, intra in ((4, half), (4, cores), (16, half), (16, 2 * cores), (48, cores)):
        name = f'{loader} loader threads, {intra} within an operation'
        settings[name] = ('--loader_threads', str(loader), '--intra_op_threads', str(intra))
    settings[f'{_processes()} processes, 1 thread within an operation'] = (
        *('--direct_running_mode', 'multi_processing', '--direct_num_workers', str(_processes())),
        *('--intra_op_threads', '1'),
    )
    return settings


def _processes() -> int:
    return max(2, cpu_count())


def _label(images: Path, count: int, output: Path, flags: Sequence[str]) -> tuple[float, float]:
    """Seconds from start to end, and images a second while models were at work."""
    # One chunk a process, so that each has its share of so few images, in full batches.
    chunk_size = 32 * (1 + round(1.1 * count / _processes() / 32))
    process = run_python(
        *('-m', 'pipeline', 'label', '--input', images, '--output', output, *flags),
        *('--chunk_size', str(chunk_size)),
    )
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    at_work_sec = sum(report['stage_thread_sec'][stage] for stage in _AT_WORK)
    workers = _processes() if '--direct_num_workers' in flags else 1
    return process.wall_sec, workers * report['counts']['labeled'] / at_work_sec


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    images, rounds = (16, 1) if is_quick else (1_200, 2)
    write_jpegs(folder / 'images', images)
    grid = _grid()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in grid}
    for i in range(rounds):
        for n, (name, flags) in enumerate(list(grid.items())[:: -1 if i % 2 else 1]):
            found[name].append(_label(folder / 'images', images, folder / f'output-{i}-{n}', flags))
    rates = {name: median(rate for _, rate in each) for name, each in found.items()}
    best = max(rates, key=rates.__getitem__)
    # A ratio a round, so that what slows a whole round down cancels out.
    share = median(a / b for (_, a), (_, b) in zip(found['default'], found[best], strict=True))
    return [
        *(Row(f'{name}: while models work', rate, 'images/s') for name, rate in rates.items()),
        *(
            Row(f'{name}: from start to end', median(sec for sec, _ in found[name]), 's')
            for name in ('default', list(grid)[-1])
        ),
        Row(f'default / best ({best})', share, at_least=_MIN_SHARE),
    ]
