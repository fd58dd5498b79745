"""Beam metrics of every stage, under one namespace, with units in their names."""

from typing import Any

from apache_beam.metrics import Metrics

from transforms.core.elements import WrittenFile

NAMESPACE = 'lemmabeam'


def counter(name: str) -> Any:
    """Counts how often something happened."""
    return Metrics.counter(NAMESPACE, name)


def distribution(name: str) -> Any:
    """Count, sum, minimum and maximum of whole numbers."""
    return Metrics.distribution(NAMESPACE, name)


_WRITE_MSEC = distribution('write_msec')
_FILE_BYTES = distribution('file_bytes')
_FILE_ROWS = distribution('file_rows')


def count_file(file: WrittenFile) -> WrittenFile:
    """Counts a file that a step has written, and returns it."""
    _WRITE_MSEC.update(round(1000 * file.write_sec))
    _FILE_BYTES.update(file.size_bytes)
    _FILE_ROWS.update(file.rows)
    return file
