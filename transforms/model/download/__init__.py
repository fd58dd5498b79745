"""Brings models from where they are published to this machine."""
