"""The graph alone, up to a million refs: time and peak memory, and what a row takes on disk."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measure import Process, Row, run_python

_MOST_USEC = 250
_MOST_TIMES = 11
_MOST_MB = 2500
_CLASSES = 21_843


def label_nothing(folder: Path, refs: int, *flags: str) -> tuple[Process, dict]:
    """Labels so many refs of a manifest with two columns to carry; returns its report, too."""
    manifest, output = folder / f'{refs}.csv', folder / f'output-{refs}{"".join(flags)}'
    with manifest.open('w') as file:
        file.write('uri,split,customer_id\n')
        for i in range(refs):
            split = 'train' if i % 10 else 'test'
            uri = f'/photos/2026/11/camera-{i % 97:02d}/image-{i:08d}.jpg'
            file.write(f'{uri},{split},c{i % 5000:05d}\n')
    process = run_python(
        *('-m', 'tests.support.without_model', *flags, 'label', '--input', manifest),
        *('--output', output, '--carry', 'split,customer_id', '--max_labels', '20'),
    )
    (report,) = (json.loads(path.read_text()) for path in output.glob('runs/*/report.json'))
    if report['counts']['labeled'] != refs:
        raise RuntimeError(f'{refs} refs, but {report["counts"]}')
    return process, report


def _row_bytes(report: dict) -> float:
    files = [file for file in report['files'] if file['path'].startswith('predictions/')]
    return sum(file['size_bytes'] for file in files) / sum(file['rows'] for file in files)


def run(is_quick: bool, folder: Path) -> Sequence[Row]:
    """The benchmark."""
    few, many = (1_000, 4_000) if is_quick else (100_000, 1_000_000)
    small, _ = label_nothing(folder, few)
    large, report = label_nothing(folder, many)
    _, full = label_nothing(folder, few, '--labels', '20')
    usec = 1e6 * large.wall_sec / many
    times = large.wall_sec / small.wall_sec
    dense_bytes = 4 * _CLASSES
    return [
        Row(f'{many:,} refs, store and model do nothing: time', usec, 'µs an image', _MOST_USEC),
        Row(f'{many:,} refs: CPU', 1e6 * large.cpu_sec / many, 'µs an image'),
        Row(f'time of {many:,} refs / time of {few:,}', times, '', _MOST_TIMES),
        Row(f'{few:,} refs: peak', small.peak_bytes / 1e6, 'MB'),
        Row(f'{many:,} refs: peak', large.peak_bytes / 1e6, 'MB', _MOST_MB),
        Row(
            f'peak, {few:,} to {many:,} refs',
            (large.peak_bytes - small.peak_bytes) / (many - few),
            'bytes an image',
        ),
        Row('Parquet, 3 labels with random scores', _row_bytes(report), 'bytes an image'),
        Row('Parquet, 20 labels with random scores', _row_bytes(full), 'bytes an image'),
        Row(f'dense float32 scores of {_CLASSES:,} classes', dense_bytes, 'bytes an image'),
        Row('dense / Parquet with 20 labels', dense_bytes / _row_bytes(full)),
    ]
