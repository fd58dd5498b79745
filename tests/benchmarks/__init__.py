"""Benchmarks: `python -m tests.benchmarks`, or `make bench`.

Every figure that is compared with another one is measured beside it in the same run, in turns, so
that a noisy machine spoils both alike; medians and ratios are what to read.
"""
