"""The settings of one machine side by side: what the defaults reach of the best of them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.images import write_jpegs
from tests.benchmarks.measure import Row, run_python
from transforms.process import cpu_count

_MIN_SHARE = 0.95


def _grid() -> dict[str, tuple[str, ...]]:
    settings: dict[str, tuple[str, ...]] = {'default': ()}
    cores = cpu_count()
    half = max(1, cores // 2)
    for loader, intra in ((4, half), (4, cores), (16, half), (16, 2 * cores), (48, cores)):
        name = f'{loader} loader threads, {intra} within an operation'
        settings[name] = ('--loader_threads', str(loader), '--intra_op_threads', str(intra))
    processes = max(2, cores)
    settings[f'{processes} processes, 1 thread within an operation'] = (
        *('--direct_running_mode', 'multi_processing', '--direct_num_workers', str(processes)),
        *('--intra_op_threads', '1'),
    )
    return settings


def _sec(images: Path, output: Path, flags: Sequence[str]) -> float:
    return run_python(
        *('-m', 'pipeline', 'label', '--input', images, '--output', output, *flags)
    ).wall_sec


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    few, many, rounds = (8, 32, 1) if is_quick else (64, 800, 2)
    paths = write_jpegs(folder / 'many', many)
    (folder / 'few').mkdir()
    for path in paths[:few]:
        (folder / 'few' / path.name).hardlink_to(path)
    grid = _grid() if not is_quick else dict(list(_grid().items())[:2])
    start_sec: dict[str, list[float]] = {name: [] for name in grid}
    whole_sec: dict[str, list[float]] = {name: [] for name in grid}
    for i in range(rounds):
        for n, (name, flags) in enumerate(list(grid.items())[:: -1 if i % 2 else 1]):
            output = folder / f'output-{i}-{n}'
            start_sec[name].append(_sec(folder / 'few', output / 'few', flags))
            whole_sec[name].append(_sec(folder / 'many', output / 'many', flags))
    # What starting takes is the same a million images later, and left out.
    rates = {
        name: (many - few) / (median(whole_sec[name]) - median(start_sec[name])) for name in grid
    }
    best = max(rates, key=rates.__getitem__)
    return [
        *(Row(name, rate, 'images/s') for name, rate in rates.items()),
        *(
            Row(f'{name}: from start to end', median(whole_sec[name]), 's')
            for name in ('default', list(grid)[-1])
        ),
        Row(f'default / best ({best})', rates['default'] / rates[best], at_least=_MIN_SHARE),
    ]
