"""Beam metrics of every stage, under one namespace, with units in their names."""

from typing import Any

from apache_beam.metrics import Metrics

NAMESPACE = 'lemmabeam'


def counter(name: str) -> Any:
    """How often something happened."""
    return Metrics.counter(NAMESPACE, name)


def distribution(name: str) -> Any:
    """Count, sum, least and most of whole numbers."""
    return Metrics.distribution(NAMESPACE, name)
