"""Runs the peers and prints how they compare; `--write` keeps it in PEERS.md."""

import argparse
import contextlib
import dataclasses
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from tests.benchmarks.images import link_jpegs, write_jpegs
from tests.benchmarks.markdown import aligned, figure, kept, machine, page
from tests.benchmarks.measure import run_python
from tests.benchmarks.peers import jobs
from tests.benchmarks.peers.jobs import EMBEDDED, LABELLING, LOADING, OURS, R50X1, ROOT, Job, Model
from tests.benchmarks.tree import Tree, run_tree

_RESULTS = Path(__file__).parents[1] / 'PEERS.md'
_VERSIONS = {
    'peers-engines': ('daft', 'ray', 'tensorflow', 'tensorflow-hub', 'torch'),
    'peers-img2dataset': ('img2dataset',),
}
_ENVIRONMENT = {
    'TF_CPP_MIN_LOG_LEVEL': '2',
    # Nobody is told.
    'RAY_USAGE_STATS_ENABLED': '0',
    'DO_NOT_TRACK': 'true',
    'NO_ALBUMENTATIONS_UPDATE': '1',
    'WANDB_MODE': 'disabled',
}
_LOADING = 'loading'
_TITLES = {
    EMBEDDED.name: EMBEDDED.title,
    R50X1.name: R50X1.title,
    _LOADING: 'Fetch, decode and resize',
}
_LEAST_SAME_TOP = 0.99
_SCORE_TOLERANCE = 1e-3
_MS, _GB = 1e-3, 1e9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Images of the small and the large run, between which the rate is measured."""

    small: int
    large: int


@dataclasses.dataclass
class Found:
    """What was measured of one job, a value a round."""

    sizes: Sizes
    small: list[Tree] = dataclasses.field(default_factory=list)
    large: list[Tree] = dataclasses.field(default_factory=list)

    @property
    def wall_sec(self) -> list[float]:
        """Seconds an image, without start and end; below 0 where noise was longer."""
        return self._grown('wall_sec')

    @property
    def cpu_sec(self) -> list[float]:
        """CPU seconds an image, without start and end."""
        return self._grown('cpu_sec')

    def _grown(self, name: str) -> list[float]:
        images = self.sizes.large - self.sizes.small
        pairs = zip(self.small, self.large, strict=True)
        return [(getattr(many, name) - getattr(few, name)) / images for few, many in pairs]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How the labels of a peer compare with ours.

    Attributes:
      same_top: share of the images with the same best label.
      difference: largest difference of the scores that both have.
    """

    same_top: float
    difference: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    names = list(dict.fromkeys([*LABELLING, *LOADING]))
    parser = argparse.ArgumentParser(
        prog='python -m tests.benchmarks.peers', allow_abbrev=False, description=__doc__
    )
    parser.add_argument(
        'parts',
        nargs='*',
        choices=[[], *_TITLES],
        metavar='PART',
        help=f'what to compare: {", ".join(_TITLES)} (default: all; embedded takes half an hour on '
        'two slow cores)',
    )
    parser.add_argument('--quick', action='store_true', help='small sizes: does it run at all')
    parser.add_argument('--write', action='store_true', help=f'write them into {_RESULTS.name}')
    parser.add_argument(
        '--only', action='append', choices=names, help='only this peer and ours; may be repeated'
    )
    args = parser.parse_args(argv)
    if args.write and (args.quick or args.only):
        parser.error('--write takes all peers at full sizes, without --only and --quick')
    wanted = {OURS, *(args.only or names)}
    origin = f'Machine: {machine()}, with {_versions()}.'
    print(origin, flush=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix='peers-') as temporary:
        for name in args.parts or _TITLES:
            table = _run(name, args.quick, wanted, Path(temporary) / name)
            if table:
                found[_TITLES[name]] = f'{origin}\n\n{table}'
                print(f'\n## {_TITLES[name]}\n\n{table}', flush=True)
    if args.write:
        _RESULTS.write_text(_page(kept(_RESULTS) | found))
    return 0


def _run(name: str, is_quick: bool, wanted: set[str], folder: Path) -> str:
    """A part; '' where only others were asked for."""
    rounds = 1 if is_quick else None
    if len(wanted & (LOADING if name == _LOADING else LABELLING).keys()) < 2:
        return ''
    if name == _LOADING:
        return load(Sizes(200, 600) if is_quick else Sizes(1000, 10_000), rounds, wanted, folder)
    if name == EMBEDDED.name:
        sizes = Sizes(64, 192) if is_quick else Sizes(100, 3000)
        return label(EMBEDDED, sizes, rounds, wanted, folder)
    return label(R50X1, Sizes(8, 24) if is_quick else Sizes(32, 320), rounds, wanted, folder)


def label(model: Model, sizes: Sizes, rounds: int | None, wanted: set[str], folder: Path) -> str:
    """Labels the same photographs with every tool, in its own number of rounds if None."""
    run_python('-m', 'tests.benchmarks.peers.models', model.name, folder)
    paths = write_jpegs(folder / 'large', sizes.large)
    link_jpegs(folder / 'small', sizes.small, paths)
    some = {name: job for name, job in LABELLING.items() if name in wanted}

    def command(name: str, size: str, output: Path) -> jobs.Command:
        return some[name].command(folder / size, output, model, folder)

    found = _measure(some, sizes, rounds, command, folder)
    ours = _read_labels(folder / OURS)
    agreements = {name: _agreement(_read_labels(folder / name), ours) for name in some}
    for name, each in agreements.items():
        if some[name].decodes_as_ours and not (
            each.same_top >= _LEAST_SAME_TOP and each.difference <= _SCORE_TOLERANCE
        ):
            raise RuntimeError(f'{name} labels other than ours, although it decodes alike: {each}')
    return _part(
        f'{sizes.large} JPEGs of 500 x 375 px from disk to labels in Parquet; a batch has '
        f'{model.batch_size} images.',
        some,
        found,
        {name: f'{each.same_top:.1%}' for name, each in agreements.items()},
    )


def load(sizes: Sizes, rounds: int | None, wanted: set[str], folder: Path) -> str:
    """Fetches, decodes and resizes, without a model."""
    # More names than pictures, as links: each is fetched and decoded all the same.
    paths = write_jpegs(folder / 'pictures', min(sizes.small, 500))
    link_jpegs(folder / 'served', sizes.large, paths)
    some = {name: job for name, job in LOADING.items() if name in wanted}
    with _served(folder / 'served') as root:
        for size in ('small', 'large'):
            names = [path.name for path in sorted((folder / 'served').iterdir())]
            names = names[: getattr(sizes, size)]
            _write_lines(folder / f'{size}.txt', [f'{root}/{name}' for name in names])

        def command(name: str, size: str, output: Path) -> jobs.Command:
            return some[name].command(folder / f'{size}.txt', output)

        found = _measure(some, sizes, rounds, command, folder)
    for name in some:
        loaded = _count_loaded(name, folder / name)
        if loaded != sizes.large:
            raise RuntimeError(f'{name} loaded {loaded} of {sizes.large} images')
    return _part(
        f'{sizes.large} JPEGs of 500 x 375 px from an HTTP server on this machine to 224 x 224 px.',
        some,
        found,
    )


def _measure(
    some: Mapping[str, Job],
    sizes: Sizes,
    rounds: int | None,
    command: Callable[[str, str, Path], jobs.Command],
    folder: Path,
) -> dict[str, Found]:
    """All jobs in turns, there and back; the output of the last large run is left in the folder."""
    found = {name: Found(sizes) for name in some}
    last = {name: (rounds or job.rounds) - 1 for name, job in some.items()}
    for i in range(max(last.values()) + 1):
        turn = [name for name in some if i <= last[name]]
        for name in turn[:: -1 if i % 2 else 1]:
            for size in ('small', 'large'):
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    output = Path(temporary) / 'output'
                    words = [str(word) for word in command(name, size, output)]
                    getattr(found[name], size).append(run_tree(words, ROOT, _ENVIRONMENT))
                    if size == 'large' and i == last[name]:
                        output.rename(folder / name)
    return found


def _part(
    task: str,
    some: Mapping[str, Job],
    found: Mapping[str, Found],
    same_best: Mapping[str, str] | None = None,
) -> str:
    heads = ('', 'images/s', 'ours / its', 'CPU, ms an image', 'ours / its')
    ours = found[OURS]
    last = ('same best label',) if same_best else ()
    lines = [(*heads, 'whole run, s', 'peak, GB', 'rounds', 'lines', *last)]
    for name, job in some.items():
        each = found[name]
        lines.append(
            (
                job.title,
                figure(1 / median(each.wall_sec)),
                _ratio(each.wall_sec, ours.wall_sec),
                figure(median(each.cpu_sec) / _MS),
                _ratio(ours.cpu_sec, each.cpu_sec),
                figure(median(tree.wall_sec for tree in each.large)),
                figure(median(tree.peak_bytes for tree in each.large) / _GB),
                str(len(each.large)),
                str(job.lines),
                *((same_best[name],) if same_best else ()),
            )
        )
    notes = '; '.join(f'{job.title} {job.note}' for job in some.values() if job.note)
    return '\n\n'.join([task, aligned(lines), *([f'{notes}.'] if notes else [])])


def _ratio(some: Sequence[float], others: Sequence[float]) -> str:
    # A ratio a round, so that what slows a whole round down cancels out; some have fewer rounds.
    # Where noise was longer than the images, a round lies at an end of the others.
    pairs = zip(some, others, strict=False)
    return figure(median(a / b if b > 0 else math.inf for a, b in pairs))


def _read_labels(output: Path) -> dict[str, dict[int, float]]:
    """Scores by class, the best first, by the name of the image."""
    predictions = output / 'predictions'
    files = sorted((predictions if predictions.exists() else output).rglob('*.parquet'))
    rows = (row for path in files for row in pq.ParquetFile(path).read().to_pylist())
    return {
        Path(row['uri']).name: {each['index']: each['score'] for each in row['labels']}
        for row in rows
    }


def _agreement(
    its: Mapping[str, Mapping[int, float]], ours: Mapping[str, Mapping[int, float]]
) -> Agreement:
    if its.keys() != ours.keys():
        raise RuntimeError(f'{len(its)} images have labels, of ours {len(ours)}')
    same = sum(next(iter(its[name]), None) == next(iter(ours[name]), None) for name in ours)
    both = ((its[name], ours[name]) for name in ours)
    differences = (abs(a[i] - b[i]) for a, b in both for i in a.keys() & b.keys())
    return Agreement(same / len(ours), max(differences, default=0.0))


def _count_loaded(name: str, output: Path) -> int:
    if name == OURS:
        (file,) = output.glob('count*')
        return int(file.read_text())
    return sum(
        pq.ParquetFile(path).read(['status']).column(0).to_pylist().count('success')
        for path in output.glob('*.parquet')
    )


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text('\n'.join(lines) + '\n')


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The URL under which the files of a folder are there for the length of a with block."""
    command = (sys.executable, '-m', 'tests.benchmarks.peers.server', str(folder))
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            yield f'http://127.0.0.1:{int(server.stdout.readline())}'
        finally:
            server.kill()


def _versions() -> str:
    """The versions of the peers, from their environments."""
    code = 'import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))'
    found: list[str] = []
    for environment, names in _VERSIONS.items():
        python = ROOT / '.venvs' / environment / 'bin' / 'python'
        command = (python, '-c', code, *names)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found += map(' '.join, zip(names, done.stdout.split(), strict=True))
    return ', '.join(found)


def _page(parts: Mapping[str, str]) -> str:
    return page(
        'Other tools at the same job',
        'Written by `python -m tests.benchmarks.peers --write [PART …]`; `make bench-peers` prints '
        'it anew. What each tool is told is in [peers/scripts](peers/scripts).',
        'The tools of a part ran in turns within one run; figures are '
        'medians. Rates and CPU time are those of the images between a small and a large run, each '
        'in a fresh process, so that starting counts for nobody; a whole run includes it. CPU time '
        'and peak are of all processes of a tool; the peak adds up proportional set sizes, looked '
        'at each second and whenever they grow. Lines are those a user writes, without imports, '
        'blanks and comments.',
        [f'## {title}\n\n{parts[title]}' for title in _TITLES.values() if title in parts],
    )


if __name__ == '__main__':
    sys.exit(main())
