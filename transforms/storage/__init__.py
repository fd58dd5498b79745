"""Stores by scheme, and how to read and write them."""
