"""Runs as jobs of Dataflow."""
