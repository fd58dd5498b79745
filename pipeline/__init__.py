"""Lemmabeam: labels every image in a bucket."""

__version__ = '0.1.0'
