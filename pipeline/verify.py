"""Checks an output folder, and compares two: the oracle of the tests and of careful people."""

