"""Runs benchmarks and prints their figures; `--write` keeps them in RESULTS.md."""

import argparse
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.markdown import aligned, figure, kept, machine, page
from tests.benchmarks.measure import Row

_BENCHMARKS = (
    'decoding',
    'fetching',
    'listing',
    'network',
    'backends',
    'feed',
    'throughput',
    'loading',
    'containers',
    'members',
    'parallelism',
    'scale',
    'shape',
    'scheduled',
    'relabel',
    'memory',
)
_RESULTS = Path(__file__).with_name('RESULTS.md')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(prog='python -m tests.benchmarks', allow_abbrev=False)
    parser.add_argument(
        'names',
        nargs='*',
        metavar='NAME',
        help=f'what to run: {", ".join(_BENCHMARKS)} (default: all)',
    )
    parser.add_argument('--quick', action='store_true', help='small sizes: does it run at all')
    parser.add_argument('--write', action='store_true', help=f'write them into {_RESULTS.name}')
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in _BENCHMARKS:
            parser.error(f'no benchmark {name!r}, but: {", ".join(_BENCHMARKS)}')
    if args.write and args.quick:
        parser.error('--write takes full sizes, without --quick')

    # TensorFlow and Beam speak while they are imported, which happens with the benchmarks.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    logging.basicConfig(level=logging.ERROR)
    print(machine(), flush=True)
    parts: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix='lemmabeam-bench-') as temporary:
        for name in args.names or _BENCHMARKS:
            folder = Path(temporary) / name
            folder.mkdir()
            benchmark = importlib.import_module(f'tests.benchmarks.{name}')
            rows = table(benchmark.run(args.quick, folder))
            parts[name] = f'Machine: {machine()}.\n\n{rows}\n'
            print(f'\n## {name}\n\n{rows}', flush=True)
    if args.write:
        _RESULTS.write_text(_page(kept(_RESULTS) | parts))
        # The document on scale quotes these figures.
        importlib.import_module('tests.benchmarks.scale_model').main(['--write'])
    return 0


def table(rows: Sequence[Row]) -> str:
    """Figures as a Markdown table."""
    return aligned([('figure', 'value', 'unit', 'target', 'met'), *(_cells(row) for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    target = ''
    if row.at_most is not None:
        target = f'at most {row.at_most:g}'
    elif row.at_least is not None:
        target = f'at least {row.at_least:g}'
    met = {None: '', True: 'yes', False: 'NO'}[row.is_met]
    return row.name, figure(row.value), row.unit, target, met


def _page(parts: Mapping[str, str]) -> str:
    return page(
        'Benchmark results',
        'Written by `python -m tests.benchmarks --write [NAME …]`; `make bench` prints them anew.',
        'What is compared was measured in turns within one run; figures are medians. '
        'A noisy machine moves absolute figures by ten per cent and more, ratios less. '
        'All are of CPUs: no GPU was to be had.',
        [f'## {name}\n\n{parts[name].strip()}' for name in _BENCHMARKS if name in parts],
    )


if __name__ == '__main__':
    sys.exit(main())
