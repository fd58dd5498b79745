"""What a pipeline that runs in this process gives, as lists; knows no step of ours."""

from collections import defaultdict
from typing import Any

import apache_beam as beam

_found: defaultdict[str, list[Any]] = defaultdict(list)


def _keep(element: Any, name: str) -> None:
    # A module is pickled by its name, and so there is one dict.
    _found[name].append(element)


def collect(elements: beam.PCollection[Any], name: str) -> None:
    """Has `taken` give these elements once the pipeline has ended."""
    _ = elements | f'Collect {name}' >> beam.Map(_keep, name)


def taken(name: str) -> list[Any]:
    """What was collected by a name, in any order; gone afterwards."""
    return _found.pop(name, [])
